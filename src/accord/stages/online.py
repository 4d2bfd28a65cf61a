"""Improve a policy by PPO against a reward model.

One iteration, read from top to bottom in `Ppo.iterate`:

    sample k answers per prompt -> score them -> reference log-probs and values -> KL into the reward
    -> GAE -> whiten -> several epochs of clipped updates -> steer the KL coefficient

All arithmetic of an iteration happens on one padded tensor per quantity, C answers by T tokens; only the
passes through the model are cut into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from accord.config import PpoConfig
from accord.data.batches import GroupBatch, collate, plan
from accord.data.datasets import load_prompts
from accord.data.render import Encoded
from accord.errors import NumericsError
from accord.models.forward import hidden_states, token_logps
from accord.models.heads import ValueHead
from accord.objectives.kl import k3
from accord.objectives.ppo import (
    explained_variance,
    gae,
    missing_end_penalty,
    policy_loss,
    ppo_loss,
    shape_rewards,
    update_kl_coef,
    value_loss,
    whiten,
)
from accord.records import Group, Prompt, Sampling, Terms
from accord.rewards.scorer import Scorer
from accord.rollout.local import LocalSampler
from accord.stages.common import (
    Bench,
    announce,
    data_hash,
    fingerprint,
    mix_seed,
    open_bench,
    order,
    save_policy,
    write_json,
)
from accord.stages.reward import open_reward
from accord.training.engine import Engine, ParameterGroup, merge_means
from accord.training.run import Metrics, Run, run_steps

POLICY = "policy"


@dataclass(frozen=True)
class Rollouts:
    """One iteration's answers with all that the update needs; made once, never changed.

    C answers (groups in order, each group's k answers in order), T the longest in tokens, D hidden size.
    """

    groups: Sequence[Group]
    encoded: Sequence[Encoded]
    mask_CT: Tensor
    logps_CT: Tensor  # under the policy that sampled, at the sampling temperature
    ref_logps_CT: Tensor
    scores_C: Tensor  # the reward model's, before penalty and KL
    features_CTD: Tensor | None  # what a critic on frozen features reads
    values_CT: Tensor
    advantages_CT: Tensor
    returns_CT: Tensor


@dataclass(frozen=True)
class Part:
    """A micro-batch of an update: the tokens, and which rows of the iteration's tensors they are."""

    batch: GroupBatch
    rows_C: Tensor

    def take(self, full: Tensor) -> Tensor:
        """This part's rows of a (C, T, ...) tensor, cut to the part's own longest answer."""
        return full[self.rows_C, : self.batch.mask_CT.shape[1]]


@dataclass
class Ppo:
    """What stays between iterations. The policy's and the critic's engines hold all that is learned."""

    config: PpoConfig
    bench: Bench
    prompts: Sequence[Prompt]
    scorer: Scorer
    sampler: LocalSampler
    value_head: ValueHead
    policy_engine: Engine
    critic_engine: Engine | None  # None when the critic reads the policy's own trunk
    extra: dict[str, Any] = field(default_factory=dict)

    def iterate(self, number: int) -> Metrics:
        rollouts = self.roll_out(self.sample(number), number)
        kl_coef = self.extra["kl_coef"]
        metrics = {**summarise(rollouts, kl_coef), "kl_coef": kl_coef}
        metrics |= self.update(rollouts, number)
        if self.config.kl.mode == "adaptive":
            self.extra["kl_coef"] = update_kl_coef(
                kl_coef,
                metrics["objective/kl"],
                target=self.config.kl.target,
                n_episodes=len(rollouts.mask_CT),
                horizon=self.config.kl.horizon,
                clip=self.config.kl.clip,
            )
        return metrics

    def sample(self, number: int) -> list[Group]:
        """This iteration's groups, from the policy as it stands."""
        c = self.config
        chosen = order(len(self.prompts), c.prompts_per_iteration, number, c.seed)
        self.bench.trunk.write_merged(POLICY, self.sampler.model)
        self.sampler.policy_version = f"{self.extra['run']}@{number}"
        sampling = Sampling(c.temperature, c.top_p, c.max_new_tokens, seed=mix_seed(c.seed, number))
        return self.sampler.sample([self.prompts[i] for i in chosen], c.k, sampling)

    @torch.no_grad()
    def roll_out(self, groups: Sequence[Group], number: int) -> Rollouts:
        """Score the groups and turn rewards into advantages."""
        c = self.config
        encoded = [self.bench.renderer.group(g) for g in groups]
        lengths = [len(ids) for e in encoded for ids in e.completion_ids]
        mask_CT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        dtype = next(iter(self.value_head.parameters())).dtype
        logps_CT = torch.zeros(mask_CT.shape, dtype=dtype)
        for row, completion in enumerate(c for g in groups for c in g.completions):
            logps_CT[row, : len(completion.logps)] = torch.tensor(completion.logps, dtype=dtype)
        ref_logps_CT, values_CT = torch.zeros_like(logps_CT), torch.zeros_like(logps_CT)
        scores_C = torch.zeros(len(lengths), dtype=dtype)
        features_CTD = None
        if c.critic != "policy":
            features_CTD = torch.zeros(*mask_CT.shape, self.bench.hidden_size, dtype=dtype)
        for part, chosen in self.parts(encoded, range(len(encoded))):
            rows, width = part.rows_C, part.batch.mask_CT.shape[1]
            ref_hidden_FD, ref_logps_CT[rows, :width] = self.logps(None, part.batch)
            if number == 0:
                self.check_start(part, ref_logps_CT, logps_CT)
            scores = self.scorer([groups[i] for i in chosen], part.batch)
            scores_C[rows] = scores.scores_C.to(dtype)
            if features_CTD is None:
                hidden_FD, _ = self.logps(POLICY, part.batch, only_hidden=True)
                values_CT[rows, :width] = self.value_head(hidden_FD[part.batch.where_CT])
            else:
                own = c.critic == "reward" and scores.hidden_FD is not None
                hidden_FD = scores.hidden_FD if own and scores.hidden_FD is not None else ref_hidden_FD
                features_CTD[rows, :width] = hidden_FD[part.batch.where_CT]
        if features_CTD is not None:
            values_CT = self.value_head(features_CTD)
        values_CT = values_CT * mask_CT

        finished_C = torch.tensor([c.finish_reason == "stop" for g in groups for c in g.completions])
        penalised_C = scores_C
        if c.missing_end_penalty is not None:
            penalised_C = missing_end_penalty(scores_C, finished_C, c.missing_end_penalty, mode="replace")
        rewards_CT = shape_rewards(penalised_C, logps_CT, ref_logps_CT, mask_CT, self.extra["kl_coef"])
        if c.whiten_rewards:
            rewards_CT = whiten(rewards_CT, mask_CT, shift_mean=False)
        advantages_CT, returns_CT = gae(rewards_CT, values_CT, mask_CT, gamma=c.gamma, lam=c.lam)
        return Rollouts(
            groups=groups,
            encoded=encoded,
            mask_CT=mask_CT,
            logps_CT=logps_CT,
            ref_logps_CT=ref_logps_CT,
            scores_C=scores_C,
            features_CTD=features_CTD,
            values_CT=values_CT,
            advantages_CT=whiten(advantages_CT, mask_CT),
            returns_CT=returns_CT,
        )

    def update(self, rollouts: Rollouts, number: int) -> Metrics:
        """Epochs of minibatches; a pass that moved the policy too far (stop_kl) ends the update."""
        c = self.config
        rows: list[Metrics] = []
        n = len(rollouts.groups)
        size = math.ceil(n / c.minibatches)
        stopped = False
        for epoch in range(c.epochs):
            shuffled = order(n, n, 0, mix_seed(c.seed, number, epoch))
            for start in range(0, n, size):
                parts = [p for p, _ in self.parts(rollouts.encoded, shuffled[start : start + size])]
                tokens = sum(int(p.batch.mask_CT.sum()) for p in parts)
                rows.append(
                    self.policy_engine.step(
                        parts,
                        lambda part: self.policy_terms(part, rollouts),
                        count=tokens,
                        progress=(number + 0.5) / c.iterations,
                    )
                )
                if stopped := rows[-1]["policy/approxkl_avg"] > c.stop_kl:
                    break
            if stopped:
                break
        if number == 0 and abs(rows[0]["val/ratio"] - 1) > 1e-3:
            raise NumericsError(f"the first update's probability ratio is {rows[0]['val/ratio']:.6f}, not 1")
        metrics = merge_means(rows) | {"updates": float(len(rows)), "stopped_early": float(stopped)}
        if self.critic_engine is not None:
            metrics |= self.fit_critic(rollouts, number)
        error, mean, square = (
            metrics.get(k, 0.0) for k in ("val/error", "returns/mean", "returns/mean_square")
        )
        explained = explained_variance(error, mean, square)
        return metrics | ({"val/explained_variance": explained} if math.isfinite(explained) else {})

    def policy_terms(self, part: Part, rollouts: Rollouts) -> Terms:
        hidden_FD, logps_CT = self.logps(POLICY, part.batch)
        if self.critic_engine is not None:
            return policy_loss(
                logps_CT,
                part.take(rollouts.logps_CT),
                part.take(rollouts.advantages_CT),
                part.batch.mask_CT,
                clip_range=self.config.clip_range,
            )
        return ppo_loss(
            logps_CT,
            self.value_head(hidden_FD[part.batch.where_CT]),
            old_logps_CT=part.take(rollouts.logps_CT),
            old_values_CT=part.take(rollouts.values_CT),
            advantages_CT=part.take(rollouts.advantages_CT),
            returns_CT=part.take(rollouts.returns_CT),
            mask_CT=part.batch.mask_CT,
            clip_range=self.config.clip_range,
            value_clip_range=self.config.value_clip_range,
            vf_coef=self.config.vf_coef,
        )

    def fit_critic(self, rollouts: Rollouts, number: int) -> Metrics:
        """Passes of the value head over frozen features: no model pass, so they cost next to nothing."""
        assert self.critic_engine is not None and rollouts.features_CTD is not None
        features_CTD = rollouts.features_CTD

        def loss(_: None) -> Terms:
            return value_loss(
                self.value_head(features_CTD),
                rollouts.values_CT,
                rollouts.returns_CT,
                rollouts.mask_CT,
                clip_range=self.config.value_clip_range,
            )

        count, progress = int(rollouts.mask_CT.sum()), (number + 0.5) / self.config.iterations
        rows = [
            self.critic_engine.step([None], loss, count=count, progress=progress)
            for _ in range(self.config.critic_epochs)
        ]
        return {k: v for k, v in rows[0].items() if k not in ("loss", "lr", "grad_norm")}

    def parts(self, encoded: Sequence[Encoded], chosen: Sequence[int]) -> list[tuple[Part, list[int]]]:
        """Micro-batches over the chosen groups, each with the rows its answers have in the full tensors."""
        found = []
        for indices in plan([encoded[i] for i in chosen], self.config.optim.tokens_per_microbatch):
            groups = [chosen[i] for i in indices]
            rows_C = torch.tensor([g * self.config.k + j for g in groups for j in range(self.config.k)])
            found.append(
                (Part(collate([encoded[g] for g in groups], shared=self.bench.shared), rows_C), groups)
            )
        return found

    def logps(self, name: str | None, batch: GroupBatch, only_hidden: bool = False) -> tuple[Tensor, Tensor]:
        """(hidden states, log-probs) through adapter `name`, at the sampling temperature."""
        with self.bench.trunk.use(name) as model:
            hidden_FD = hidden_states(model, batch)
            if only_hidden:
                return hidden_FD, hidden_FD
            logps_CT, _ = token_logps(
                model,
                hidden_FD,
                batch.where_CT,
                batch.targets_CT,
                batch.mask_CT,
                temperature=self.config.temperature,
            )
        return hidden_FD, logps_CT

    def check_start(self, part: Part, ref_logps_CT: Tensor, sampled_CT: Tensor) -> None:
        """Before the first update the policy is the reference: KL exactly 0, ratio 1 to rounding."""
        _, logps_CT = self.logps(POLICY, part.batch)
        drift = float((logps_CT - part.take(ref_logps_CT)).abs().max())
        if drift != 0.0:
            raise NumericsError(
                f"at step 0 the policy differs from its reference by {drift:.2e} nats in a token"
            )
        gap = float(((logps_CT - part.take(sampled_CT)) * part.batch.mask_CT).abs().max())
        tolerance = 1e-3 if logps_CT.dtype in (torch.float32, torch.float64) else 0.2
        if gap > tolerance:
            raise NumericsError(
                f"the sampler's and the trainer's log-probs differ by {gap:.2e} nats in a token"
            )

    # The engines' state together, for checkpoints.

    def tensors(self) -> dict[str, Tensor]:
        found = {f"policy_engine/{k}": v for k, v in self.policy_engine.tensors().items()}
        if self.critic_engine is not None:
            found |= {f"critic_engine/{k}": v for k, v in self.critic_engine.tensors().items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        for name, engine in (("policy_engine/", self.policy_engine), ("critic_engine/", self.critic_engine)):
            if engine is not None:
                engine.restore({k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)}, {})
        self.extra = dict(extra)


def summarise(rollouts: Rollouts, kl_coef: float) -> Metrics:
    """The iteration in TRL's names; KL and reward are means over answers, in nats and reward units."""
    mask_CT = rollouts.mask_CT
    log_ratio_CT = (rollouts.logps_CT - rollouts.ref_logps_CT) * mask_CT
    kl = float(log_ratio_CT.sum(1).mean())
    finished = [c.finish_reason == "stop" for g in rollouts.groups for c in g.completions]
    return {
        "objective/kl": kl,
        "objective/kl_k3": float((k3(rollouts.logps_CT, rollouts.ref_logps_CT) * mask_CT).sum(1).mean()),
        "objective/entropy": float(-(rollouts.logps_CT * mask_CT).sum(1).mean()),
        "objective/scores": float(rollouts.scores_C.mean()),
        "objective/scores_std": float(rollouts.scores_C.std()),
        "objective/rlhf_reward": float(rollouts.scores_C.mean()) - kl_coef * kl,
        "completions/mean_length": float(mask_CT.sum(1).float().mean()),
        "completions/clipped_ratio": 1 - sum(finished) / len(finished),
    }


def run(config: PpoConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (a Hugging Face folder), `out/metrics.jsonl`, `out/result.json`."""
    loaded = load_prompts(config.prompts)
    announce(loaded, "prompts", console)
    bench = open_bench(config.model, config.dtype)
    encoded = [Encoded(bench.renderer.prompt(p), ()) for p in loaded.rows]
    decoder = bench.trunk.plain_copy()
    bench.trunk.add(POLICY, config.lora, seed=mix_seed(config.seed, 4))
    state = build(
        config, bench, loaded.rows, LocalSampler(decoder, bench.renderer, policy_version="", rows=config.rows)
    )
    state.extra = {"kl_coef": config.kl.coef, "run": data_hash(encoded)[:8]}
    job = Run(
        config.out,
        "PPO",
        config.iterations,
        config.checkpoint_every,
        fingerprint(config, data_hash(encoded)),
        headline=("objective/scores", "objective/kl", "completions/mean_length"),
    )
    rows = run_steps(job, state, state.iterate, console)
    record = {
        "stage": "ppo",
        "base": config.model,
        "reward_model": config.reward_model,
        "iterations": len(rows),
    }
    save_policy(bench, POLICY, config.out / "model", how=config.save, record=record)
    half = rows[len(rows) // 2 :]
    result = {
        **record,
        "kl_target": config.kl.target if config.kl.mode == "adaptive" else None,
        "kl_last_half": sum(r["objective/kl"] for r in half) / len(half),
        "score_first": rows[0]["objective/scores"],
        "score_last": rows[-1]["objective/scores"],
        "model": str(config.out / "model"),
    }
    write_json(config.out / "result.json", result)
    return result


def build(config: PpoConfig, bench: Bench, prompts: Sequence[Prompt], sampler: LocalSampler) -> Ppo:
    """Reward model, critic and engines around a bench whose policy adapter is there."""
    scorer = open_reward(config.reward_model, bench, config.dtype)
    head = ValueHead(bench.hidden_size, seed=mix_seed(config.seed, 5))
    policy = {POLICY: ParameterGroup(bench.trunk.parameters(POLICY), config.optim.learning_rate)}
    critic = {"critic": ParameterGroup(dict(head.named_parameters()), config.critic_learning_rate)}
    critic_engine = None
    if config.critic == "policy":
        policy |= critic
    else:
        critic_engine = Engine(critic, config.optim)
    return Ppo(config, bench, prompts, scorer, sampler, head, Engine(policy, config.optim), critic_engine)
