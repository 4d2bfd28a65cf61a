"""Did it really improve? Two policies answer the same held-out prompts; raters who are new compare them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from accord.config import EvalConfig
from accord.data.batches import in_batches
from accord.data.datasets import load_prompts
from accord.data.render import Encoded
from accord.errors import DataError
from accord.evaluation.intervals import Interval, share
from accord.evaluation.winrate import win_rate
from accord.feedback.panel import SimulatedRater, judgement_rng, make_panel
from accord.models.device import on_its_device
from accord.models.forward import hidden_states, token_logps
from accord.records import Completion, Group, Prompt, Sampling
from accord.rollout.local import LocalSampler
from accord.scenarios import known_prompts, load_scenario
from accord.scenarios.shop import Scenario
from accord.stages.common import Bench, announce, open_bench, write_json
from accord.stages.sample import policy_version
from accord.stages.scorers import open_reward
from accord.training.run import counting

TOKENS = 2048  # per forward pass; no gradients here
PANEL = 5  # raters, unless another number is asked for


@on_its_device
def run(config: EvalConfig, console: Console) -> dict[str, Any]:
    """Write `out/result.json` (every number with its interval) and `out/transcripts.json`."""
    loaded = load_prompts(config.prompts)
    announce(loaded, "prompts", console)
    prompts, scenario, raters = judged_by(config, loaded.rows)
    picks_best = config.best_of > 1 and bool(config.reward_model and raters)

    after = answers(config, config.model, prompts, 1, console)
    before = answers(config, config.baseline, prompts, 1 + (config.best_of if picks_best else 0), console)
    bench = open_bench(config.baseline, config.dtype)
    scores_after, scores_before = score(config, bench, after), score(config, bench, before)
    ref_logps = reference_logps(bench, after, config.temperature or 1.0)
    del bench

    policy = [g.completions[0] for g in after]
    baseline = [g.completions[0] for g in before]
    panel = Panel(scenario, raters, config.seed) if scenario and raters else None
    result: dict[str, Any] = {
        "simulated_raters": [r.name for r in raters],
        "prompts": len(prompts),
        "policy": {
            **_interval("win_rate_vs_sft", panel.compare(prompts, policy, baseline) if panel else None),
            "kl": kl_to_reference(policy, ref_logps),
            **describe("before", scenario, prompts, baseline, [s[0] for s in scores_before]),
            **describe("after", scenario, prompts, policy, [s[0] for s in scores_after]),
        },
    }
    if config.reward_model:
        result["policy"]["reward_wins"] = reward_wins(prompts, scores_after, scores_before, config.seed)
    if picks_best and panel:
        # Chosen among other samples than the one they are compared with.
        picks = [max(range(1, len(s)), key=s.__getitem__) for s in scores_before]
        best = [g.completions[i] for g, i in zip(before, picks, strict=True)]
        outcome = panel.compare(prompts, best, baseline)
        result["best_of_n"] = {"n_samples": config.best_of, **_interval("win_rate_vs_sft", outcome)}
        best_scores = [s[i] for s, i in zip(scores_before, picks, strict=True)]
        result["best_of_n"] |= describe("after", scenario, prompts, best, best_scores)
        result["policy_vs_best_of_n"] = panel.compare(prompts, policy, best).to_json()
    write_json(
        config.out / "transcripts.json", transcripts(prompts, baseline, policy, scores_before, scores_after)
    )
    write_json(config.out / "result.json", result)
    return result


def judged_by(
    config: EvalConfig, prompts: Sequence[Prompt]
) -> tuple[Sequence[Prompt], Scenario | None, Sequence[SimulatedRater]]:
    """The prompts, with the scenario and its raters where all are the scenario's own.

    Raises DataError when raters are asked for who cannot judge these prompts.
    """
    scenario = load_scenario(config.scenario)
    known = known_prompts(scenario)
    if all(prompt.id in known for prompt in prompts):
        n = PANEL if config.raters is None else config.raters
        raters = make_panel(n, scenario.base_weights, seed=config.seed + 7919, prefix="sim-eval") if n else ()
        return [known[prompt.id] for prompt in prompts], scenario, raters  # with the tags that a rubric needs
    if config.raters:
        raise DataError(
            f"the simulated raters can only judge the prompts of scenario {config.scenario!r}, and "
            f"{config.prompts} has others; leave raters out, and let people compare (accord compare)"
        )
    return prompts, None, ()


def answers(
    config: EvalConfig, name: str, prompts: Sequence[Prompt], k: int, console: Console
) -> list[Group]:
    bench = open_bench(name, config.dtype)
    version = policy_version(name, bench.loaded.source)
    sampler = LocalSampler(bench.loaded.model, bench.renderer, policy_version=version, rows=config.rows)
    sampling = Sampling(config.temperature, 1.0, config.max_new_tokens, config.seed)
    with counting(console, "answering", len(prompts) * k, "answers") as report:
        return sampler.sample(prompts, k, sampling, on_progress=report)


def score(config: EvalConfig, bench: Bench, groups: Sequence[Group]) -> list[list[float]]:
    """The reward model's score of every answer, by group; zeros where no reward model was given."""
    if not config.reward_model:
        return [[0.0] * len(g.completions) for g in groups]
    scorer = open_reward(config.reward_model, bench, config.dtype)
    encoded = [bench.renderer.group(g) for g in groups]
    found: dict[int, list[float]] = {}
    for part, batch in in_batches(encoded, TOKENS, shared=bench.shared):
        chosen = [groups[i] for i in part]
        sizes = [len(g.completions) for g in chosen]
        for i, scores_C in zip(part, scorer(chosen, batch).scores_C.split(sizes), strict=True):
            found[i] = scores_C.tolist()
    return [found[i] for i in range(len(groups))]


@torch.no_grad()
def reference_logps(bench: Bench, groups: Sequence[Group], temperature: float) -> list[Tensor]:
    """Log-probs of each group's first answer under the bare trunk, one tensor per group."""
    encoded = [Encoded(bench.renderer.prompt(g.prompt), (g.completions[0].token_ids,)) for g in groups]
    found: dict[int, Tensor] = {}
    for part, batch in in_batches(encoded, TOKENS, shared=bench.shared):
        with bench.trunk.use(None) as model:
            logps_CT, _ = token_logps(
                model,
                hidden_states(model, batch),
                batch.where_CT,
                batch.targets_CT,
                batch.mask_CT,
                temperature=temperature,
            )
        for row, i in enumerate(part):
            found[i] = logps_CT[row][batch.mask_CT[row]]
    return [found[i] for i in range(len(groups))]


def kl_to_reference(answers: Sequence[Completion], ref_logps: Sequence[Tensor]) -> float:
    """Mean over answers of Σ_t log π - log π_ref (k1), in nats: the policy's own samples, so unbiased."""
    return sum(sum(a.logps) - float(r.sum()) for a, r in zip(answers, ref_logps, strict=True)) / len(answers)


@dataclass(frozen=True)
class Panel:
    """Simulated raters who compare answers."""

    scenario: Scenario
    raters: Sequence[SimulatedRater]
    seed: int

    def compare(
        self, prompts: Sequence[Prompt], ours: Sequence[Completion], theirs: Sequence[Completion]
    ) -> Interval:
        """Share of comparisons that `ours` wins (a tie is half), every rater in both orders, with an interval
        that resamples whole prompts."""
        outcomes, clusters = [], []
        for prompt, a, b in zip(prompts, ours, theirs, strict=True):
            traits_a, traits_b = self.scenario.traits(prompt, a), self.scenario.traits(prompt, b)
            for rater in self.raters:
                rng = judgement_rng(rater.name, f"{a.id}{b.id}", self.seed)
                first, _ = rater.judge(traits_a, traits_b, rng)
                second, _ = rater.judge(traits_b, traits_a, rng)
                outcomes.append((_outcome(first) + 1 - _outcome(second)) / 2)
                clusters.append(prompt.id)
        return win_rate(outcomes, clusters, seed=self.seed)


def reward_wins(
    prompts: Sequence[Prompt],
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    seed: int,
) -> dict[str, Any]:
    """Share of prompts on which the reward model scores the new policy's answer higher, equal scores half."""
    signs = [(a[0] > b[0]) - (a[0] < b[0]) for a, b in zip(ours, theirs, strict=True)]
    return win_rate([0.5 + 0.5 * sign for sign in signs], [p.id for p in prompts], seed=seed).to_json()


def _outcome(displayed: int) -> float:
    """1 when the left answer won, 0 when the right one did, one half for a tie."""
    return 0.5 + 0.5 * ((displayed > 0) - (displayed < 0))


def _interval(name: str, interval: Interval | None) -> dict[str, Any]:
    if interval is None:  # nobody compared
        return {name: None, "low": None, "high": None, "n": 0}
    return {name: interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def describe(
    when: str,
    scenario: Scenario | None,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    scores: Sequence[float],
) -> dict[str, Any]:
    """What the answers are like: reward, length, repetition, whether they end; by a scenario's rubric also
    invention and mean traits."""
    n = len(answers)
    found: dict[str, Any] = {
        f"reward_{when}": sum(scores) / n,
        f"length_{when}": sum(len(a.token_ids) for a in answers) / n,
        f"repetition_{when}": sum(repeated_share(a.text) for a in answers) / n,
        f"ended_{when}": sum(a.finish_reason == "stop" for a in answers) / n,
        f"distinct_{when}": len({a.text for a in answers}) / n,
    }
    if scenario is None:
        return found
    traits = [scenario.traits(p, a) for p, a in zip(prompts, answers, strict=True)]
    invented = share([float(t["invented"] > 0) for t in traits], [p.id for p in prompts])
    return found | {
        f"invented_{when}": invented.value,
        f"invented_{when}_low": invented.low,
        f"invented_{when}_high": invented.high,
        f"traits_{when}": {k: sum(t[k] for t in traits) / n for k in traits[0]},
    }


def repeated_share(text: str, n: int = 3) -> float:
    """Share of the text's word n-grams that occurred before in it."""
    words = re.findall(r"\w+", text.lower())
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def transcripts(
    prompts: Sequence[Prompt],
    before: Sequence[Completion],
    after: Sequence[Completion],
    scores_before: Sequence[Sequence[float]],
    scores_after: Sequence[Sequence[float]],
) -> list[Mapping[str, Any]]:
    """The two answers to each question, side by side."""
    return [
        {
            "messages": [asdict(m) for m in prompt.messages],
            "before": b.text,
            "after": a.text,
            "policy_before": b.policy_version,
            "policy_after": a.policy_version,
            "reward_before": sb[0],
            "reward_after": sa[0],
            "finished_before": b.finish_reason == "stop",
            "finished_after": a.finish_reason == "stop",
        }
        for prompt, b, a, sb, sa in zip(prompts, before, after, scores_before, scores_after, strict=True)
    ]
