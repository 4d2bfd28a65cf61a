"""Improve a policy on its own answers: one loop for PPO, GRPO, RLOO, REINFORCE++, online DPO and XPO.

One iteration, read from top to bottom in `Online.iterate`:

    sample k answers per prompt -> score them, and read the reference's log-probs (rollouts.py)
    -> credit (methods.py) -> several epochs of updates by the method's loss -> steer the KL coefficient

A method is a way to give credit and a loss; the table in methods.py has them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console
from torch import Tensor

from accord.config import GrpoConfig, KlControl, OnlineConfig, PpoConfig, XpoConfig
from accord.data.batches import GroupBatch, in_batches
from accord.data.datasets import load_demonstrations, load_prompts
from accord.data.render import Encoded
from accord.errors import ConfigError, NumericsError
from accord.models.device import on_its_device
from accord.models.heads import ValueHead, head_dtype
from accord.objectives.ppo import explained_variance, ramped_target, update_kl_coef
from accord.objectives.ptx import ptx_loss
from accord.objectives.safe import update_multiplier
from accord.records import Group, Prompt, Sampling, Terms
from accord.rollout.local import LocalSampler
from accord.stages.common import (
    Bench,
    announce,
    data_hash,
    fingerprint,
    mix_seed,
    open_bench,
    order,
    precision,
    save_policy,
    write_json,
)
from accord.stages.critic import Critic
from accord.stages.methods import METHODS, Advantages, Comparisons, Method, Step, check, useful_groups, watch
from accord.stages.reference import open_reference, start_tolerance
from accord.stages.rollouts import POLICY, REFERENCE, Part, Passes, Rollouts, join, selected, summarise
from accord.stages.samplers import PolicySampler, open_sampler, refresh, sample_shared
from accord.stages.scorers import code_hashes, open_cost, open_reward
from accord.training.engine import Engine, ParameterGroup, merge_means
from accord.training.lanes import lanes
from accord.training.run import Metrics, Run, run_steps


@dataclass(frozen=True)
class Mix:
    """A micro-batch of demonstrations in an update; `tokens` are those of the whole step."""

    batch: GroupBatch
    tokens: int


@dataclass
class Online:
    """What stays between iterations. The policy's and the critic's engines hold all that is learned."""

    config: OnlineConfig
    method: Method
    bench: Bench
    prompts: Sequence[Prompt]
    sampler: PolicySampler
    explorer: LocalSampler | None  # the reference, where a method samples from it too
    passes: Passes
    engine: Engine
    ptx: Sequence[Encoded] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def kl(self) -> KlControl | None:
        return getattr(self.config, "kl", None)

    def iterate(self, number: int) -> Metrics:
        rollouts, kl_coef = self.roll_out(number), self.extra["kl_coef"]
        metrics = {**summarise(rollouts, kl_coef), "kl_coef": kl_coef}  # of all, before any is left out
        if isinstance(self.config, GrpoConfig) and self.config.resample_rounds:
            rollouts, counted = self.resample(self.config, rollouts, number)
            metrics |= counted
        if isinstance(self.config, PpoConfig) and rollouts.costs_C is not None:
            rollouts, counted = self.price(self.config, rollouts, rollouts.costs_C.tolist())
            metrics |= counted
        credit = self.method.credit(self.config, rollouts, kl_coef)
        metrics |= credit.metrics
        metrics |= self.update(rollouts, credit, number)
        if self.kl is not None and self.kl.mode == "adaptive":
            self.extra["kl_coef"] = self.steer(
                self.kl, metrics["objective/kl"], len(rollouts.mask_CT), number
            )
        return metrics

    def roll_out(self, number: int, again: int = 0, missing: int | None = None) -> Rollouts:
        weighs = getattr(self.config, "importance_sampling_cap", None) is not None
        recompute = weighs or self.config.mismatched
        groups = self.sample(number, again, missing)
        return self.passes.roll_out(groups, recompute=recompute, first=number == 0 and again == 0)

    def resample(self, config: GrpoConfig, first: Rollouts, number: int) -> tuple[Rollouts, Metrics]:
        """DAPO's dynamic sampling: other prompts in place of groups that teach nothing, for some rounds.

        What still lacks then is done without; where no group at all is of use, the first ones are returned.
        """
        kl_coef, wanted, sampled, rounds = self.extra["kl_coef"], len(first.groups), len(first.groups), 0
        parts = [(first, useful_groups(config, first, kl_coef))]
        while (missing := wanted - sum(len(kept) for _, kept in parts)) and rounds < config.resample_rounds:
            rounds += 1
            more = self.roll_out(number, rounds, missing)
            parts.append((more, useful_groups(config, more, kl_coef)))
            sampled += missing
        found = [(r, kept) for r, kept in parts if kept]
        counted = {
            "completions/resample_rounds": float(rounds),
            "completions/resample_groups": float(sampled),
            "completions/resample_kept": sum(len(kept) for _, kept in found) / sampled,
        }
        return (join(found) if found else first), counted

    def price(
        self, config: PpoConfig, rollouts: Rollouts, costs: Sequence[float]
    ) -> tuple[Rollouts, Metrics]:
        """Lagrange's multiplier after this iteration's costs (Safe RLHF), which the credit then uses."""
        window = [*self.extra.get("costs", []), *costs][-max(config.cost_window, len(costs)) :]
        mean = sum(window) / len(window)
        multiplier = update_multiplier(
            self.extra.get("multiplier", config.cost_multiplier),
            mean,
            limit=config.cost_limit,
            learning_rate=config.cost_multiplier_rate,
            maximum=config.cost_multiplier_max,
        )
        self.extra |= {"costs": window, "multiplier": multiplier}
        counted = {
            "objective/costs": sum(costs) / len(costs),
            "objective/cost_excess": mean - config.cost_limit,
            "objective/cost_multiplier": multiplier,
        }
        return replace(rollouts, multiplier=multiplier), counted

    def steer(self, kl: KlControl, observed: float, n_episodes: int, number: int) -> float:
        """The next KL coefficient."""
        coef: float = self.extra["kl_coef"]
        target = ramped_target(kl.target, number / self.config.iterations, kl.ramp_share)
        if target == 0:  # the start, where the KL is 0 too
            return coef
        return update_kl_coef(
            coef, observed, target=target, n_episodes=n_episodes, horizon=kl.horizon, clip=kl.clip
        )

    def sample(self, number: int, again: int = 0, missing: int | None = None) -> list[Group]:
        """This iteration's groups, from the policy as it stands; with an explorer, its answers come last.

        `again` counts the times that groups were replaced: then the next prompts come, as many as `missing`.
        """
        c, turns = self.config, 1 + getattr(self.config, "resample_rounds", 0)
        turn = order(len(self.prompts), c.prompts_per_iteration, number * turns + again, c.seed)
        prompts = [self.prompts[i] for i in turn[:missing]]
        refresh(self.sampler, self.bench.trunk, POLICY, f"{self.extra['run']}@{number}")
        seed = mix_seed(c.seed, number, 2, again) if again else mix_seed(c.seed, number)
        sampling = Sampling(c.temperature, c.top_p, c.max_new_tokens, seed=seed)
        groups = sample_shared(self.sampler, prompts, c.k, sampling)
        if self.explorer is None:
            return groups
        # Another seed: with the policy's own, equal distributions would draw equal answers.
        other = Sampling(c.temperature, c.top_p, c.max_new_tokens, seed=mix_seed(c.seed, number, 1))
        theirs = sample_shared(self.explorer, prompts, c.k, other)
        return [
            Group(g.prompt, (*g.completions, *t.completions)) for g, t in zip(groups, theirs, strict=True)
        ]

    def update(self, rollouts: Rollouts, credit: Advantages | Comparisons, number: int) -> Metrics:
        """Epochs of minibatches; a pass that moved the policy too far (stop_kl) ends the update."""
        c, rows = self.config, list[Metrics]()
        encoded, places = selected(rollouts.encoded, credit.keep_C)
        n, progress = len(encoded), (number + 0.5) / c.iterations
        size = math.ceil(n / c.minibatches)
        stop_kl, stopped = getattr(c, "stop_kl", math.inf), False
        for epoch in range(c.epochs):
            shuffled = order(n, n, 0, mix_seed(c.seed, number, epoch))
            for start in range(0, n, size or 1):
                parts = self.passes.parts(encoded, places, shuffled[start : start + size])
                mix = self.mix(number * c.epochs * c.minibatches + len(rows)) if self.ptx else []
                lengths = [int(length) for p in parts for length in p.batch.mask_CT.sum(1)]
                count = self.method.count(c, lengths)
                loss = partial(self.terms, rollouts, credit, count)
                rows.append(self.engine.step([*parts, *mix], loss, count=count, progress=progress))
                if number == 0 and len(rows) == 1:
                    self.check_first(rows[0])
                if stopped := rows[-1].get("policy/approxkl_avg", 0.0) > stop_kl:
                    break
            if stopped:
                break
        metrics = merge_means(rows) | {"updates": float(len(rows)), "stopped_early": float(stopped)}
        return metrics | self.fit_critic(rollouts, credit, metrics, progress)

    def terms(
        self, rollouts: Rollouts, credit: Advantages | Comparisons, count: float, item: Part | Mix
    ) -> Terms:
        hidden_FD, logps_CT = self.passes.logps(POLICY, item.batch)
        watch(logps_CT, item.batch.mask_CT)
        if isinstance(item, Mix):
            mask_CT, coef = item.batch.mask_CT, self.config.ptx_coef
            return ptx_loss(logps_CT, mask_CT, coef=coef, count=count, tokens=item.tokens)
        critic, values_CT = self.passes.critic, None
        if critic is not None and critic.engine is None:
            values_CT = critic.head(hidden_FD[item.batch.where_CT])
        kl_coef = self.extra["kl_coef"]
        return self.method.loss(Step(self.config, rollouts, credit, kl_coef, item, logps_CT, values_CT))

    def mix(self, step: int) -> list[Mix]:
        """Step `step`'s demonstrations."""
        c = self.config
        chosen = [self.ptx[i] for i in order(len(self.ptx), c.ptx_batch_size, step, mix_seed(c.seed, 6))]
        tokens = sum(len(e.completion_ids[0]) for e in chosen)
        budget, shared = c.optim.tokens_per_microbatch, self.bench.shared
        return [Mix(batch, tokens) for _, batch in in_batches(chosen, budget, shared=shared, lanes=lanes())]

    def fit_critic(
        self, rollouts: Rollouts, credit: Advantages | Comparisons, metrics: Metrics, progress: float
    ) -> Metrics:
        critic = self.passes.critic
        if critic is None or not isinstance(credit, Advantages):
            return {}
        found: Metrics = {}
        if critic.engine is not None and rollouts.features_CTD is not None:
            found = critic.fit(
                rollouts.features_CTD, rollouts.values_CT, credit.returns_CT, rollouts.mask_CT, progress
            )
        costs = self.passes.cost_critic
        if costs is not None and credit.cost_returns_CT is not None:
            assert rollouts.features_CTD is not None and rollouts.cost_values_CT is not None
            fitted = costs.fit(
                rollouts.features_CTD,
                rollouts.cost_values_CT,
                credit.cost_returns_CT,
                rollouts.mask_CT,
                progress,
            )
            found |= {"val/cost_error": fitted["val/error"]}
        keys = ("val/error", "returns/mean", "returns/mean_square")
        explained = explained_variance(*({**metrics, **found}.get(key, 0.0) for key in keys))
        return found | ({"val/explained_variance": explained} if math.isfinite(explained) else {})

    def check_first(self, row: Metrics) -> None:
        """The very first step starts from the policy that sampled: its ratio is 1, its margin 0."""
        name, value = self.method.start
        if self.config.reference is not None and name == "rewards/margins":
            return  # these are margins over the reference
        if not abs(row[name] - value) <= start_tolerance(self.bench):
            raise NumericsError(f"at the first update {name} is {row[name]:.6f}, not {value:g}")

    # The engines' state together, for checkpoints.

    @property
    def engines(self) -> dict[str, Engine]:
        critic = self.passes.critic
        apart = {"critic_engine/": critic.engine} if critic is not None and critic.engine is not None else {}
        costs = self.passes.cost_critic
        apart |= (
            {"cost_critic_engine/": costs.engine} if costs is not None and costs.engine is not None else {}
        )
        return {"policy_engine/": self.engine, **apart}

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}{k}": v for name, engine in self.engines.items() for k, v in engine.tensors().items()}

    def restore(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        for name, engine in self.engines.items():
            engine.restore({k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)}, {})
        self.extra = dict(extra)

    def finish(self) -> None:
        for engine in self.engines.values():
            engine.finish()


@on_its_device
def run(config: OnlineConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (a Hugging Face folder), `out/metrics.jsonl`, `out/result.json`."""
    check(config)
    loaded = load_prompts(config.prompts)
    announce(loaded, "prompts", console)
    dtype = precision(config.dtype, config.lora)
    bench = open_bench(config.model, dtype)
    encoded = [Encoded(bench.renderer.prompt(p), ()) for p in loaded.rows]
    sampler = open_sampler(config, bench)
    reference = None if config.reference is None else open_reference(config.reference, bench, dtype)
    explorer = None
    if isinstance(config, XpoConfig):
        held_to = reference or bench
        explorer = LocalSampler(held_to.loaded.model, bench.renderer, policy_version="", rows=config.rows)
        explorer.refresh(held_to.trunk, None, REFERENCE)
    bench.trunk.add(POLICY, config.lora, seed=mix_seed(config.seed, 4))
    state = build(config, bench, loaded.rows, sampler, explorer, reference)
    state.ptx = read_ptx(config, bench, console)
    state.extra = {"kl_coef": first_kl_coef(config), "run": data_hash(encoded)[:8]}
    job = Run(
        config.out,
        state.method.label,
        config.iterations,
        config.checkpoint_every,
        fingerprint(
            config,
            data_hash(encoded),
            data_hash(state.ptx),
            code_hashes(config.reward_model),
            cost_code(config),
        ),
        headline=("objective/scores", "objective/kl", "completions/mean_length"),
    )
    rows = run_steps(job, state, state.iterate, console)
    record = {
        "stage": state.method.name,
        "base": config.model,
        "reference": config.reference or config.model,
        "reward_model": config.model_dump(mode="json")["reward_model"],
        "iterations": len(rows),
    }
    save_policy(bench, POLICY, config.out / "model", how=config.save, record=record)
    half = rows[len(rows) // 2 :]
    result = {
        **record,
        "kl_target": state.kl.target if state.kl is not None and state.kl.mode == "adaptive" else None,
        "kl_last_half": sum(r["objective/kl"] for r in half) / len(half),
        "score_first": rows[0]["objective/scores"],
        "score_last": rows[-1]["objective/scores"],
        "model": str(config.out / "model"),
    }
    write_json(config.out / "result.json", result)
    return result


def cost_code(config: OnlineConfig) -> list[str]:
    source = getattr(config, "cost_model", None)
    return [] if source is None else code_hashes(source)


def first_kl_coef(config: OnlineConfig) -> float:
    """β of the objective E[r] - β KL, which DPO's β is too."""
    kl: KlControl | None = getattr(config, "kl", None)
    return kl.coef if kl is not None else float(getattr(config, "beta"))  # noqa: B009


def read_ptx(config: OnlineConfig, bench: Bench, console: Console) -> list[Encoded]:
    if config.ptx_data is None:
        return []
    loaded = load_demonstrations(config.ptx_data)
    announce(loaded, "demonstrations", console)
    return [bench.renderer.group(group) for group in loaded.rows]


def build(
    config: OnlineConfig,
    bench: Bench,
    prompts: Sequence[Prompt],
    sampler: PolicySampler,
    explorer: LocalSampler | None = None,
    reference: Bench | None = None,
) -> Online:
    """Reward model, critic and engines around a bench whose policy adapter is there."""
    scorer = open_reward(config.reward_model, bench, config.dtype)
    policy = {POLICY: ParameterGroup(bench.trunk.parameters(POLICY), config.optim.learning_rate)}
    critic = cost = cost_critic = None
    if isinstance(config, PpoConfig):
        if reference is not None and reference.hidden_size != bench.hidden_size:
            raise ConfigError(
                f"--reference {config.reference}: its hidden size is {reference.hidden_size}, not "
                f"{bench.hidden_size}, and PPO's critic may read it; give one of the policy's own size"
            )
        head = ValueHead(
            bench.hidden_size,
            seed=mix_seed(config.seed, 5),
            dtype=head_dtype(bench.loaded.model.dtype),
        )
        parameters = {"critic": ParameterGroup(dict(head.named_parameters()), config.critic_learning_rate)}
        critic = Critic(config, head, None if config.critic == "policy" else Engine(parameters, config.optim))
        policy |= parameters if critic.engine is None else {}
        if config.cost_model is not None:
            cost = open_cost(config.cost_model, bench, config.dtype)
            head = ValueHead(
                bench.hidden_size, seed=mix_seed(config.seed, 7), dtype=head_dtype(bench.loaded.model.dtype)
            )
            parameters = {
                "critic": ParameterGroup(dict(head.named_parameters()), config.critic_learning_rate)
            }
            cost_critic = Critic(config, head, Engine(parameters, config.optim))
    method, passes = (
        METHODS[type(config)],
        Passes(config, bench, scorer, critic, cost, cost_critic, reference),
    )
    engine = Engine(policy, config.optim)
    return Online(config, method, bench, prompts, sampler, explorer, passes, engine)
