"""Best of n: no training at all, only choosing. With fine-tuning on what was chosen: rejection sampling.

The yardstick for every trained policy: what n samples and the reward model give, at a KL that is known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from accord.config import BestOfNConfig, SftConfig, with_overrides
from accord.data.batches import in_batches
from accord.data.datasets import load_prompts
from accord.data.groups import write_groups
from accord.models.device import on_its_device
from accord.objectives.best_of_n import best_of_n_kl, best_of_n_mean
from accord.objectives.ppo import missing_end_penalty
from accord.records import Group, Sampling
from accord.rewards.scorer import Scorer
from accord.rollout.local import LocalSampler
from accord.stages import sft
from accord.stages.common import Bench, announce, open_bench, write_json
from accord.stages.sample import policy_version
from accord.stages.scorers import open_reward
from accord.stages.sft import demonstrations_of
from accord.training.checkpoint import write_atomically
from accord.training.run import counting


@on_its_device
def run(config: BestOfNConfig, console: Console) -> dict[str, Any]:
    """Write `out/samples.jsonl` (all answers), `out/demonstrations.jsonl` (the best), `out/result.json`."""
    loaded = load_prompts(config.prompts, limit=config.limit)
    announce(loaded, "prompts", console)
    groups, scores = draw_and_score(config, loaded.rows, console)
    write_groups(config.out / "samples.jsonl", groups)
    best = [int(scores_K.argmax()) for scores_K in scores]
    chosen = [Group(g.prompt, (g.completions[i],)) for g, i in zip(groups, best, strict=True)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in demonstrations_of(chosen)]
    write_atomically(config.out / "demonstrations.jsonl", "".join(lines))
    answers = [g.completions[0] for g in chosen]
    result: dict[str, Any] = {
        "stage": "best-of-n",
        "base": config.model,
        "reward_model": config.model_dump(mode="json")["reward_model"],
        "prompts": len(groups),
        "n": config.n,
        "kl_bound": best_of_n_kl(config.n),
        "score_mean": float(torch.cat(scores).mean()),
        "score_best": sum(float(s[i]) for s, i in zip(scores, best, strict=True)) / len(best),
        "curve": curve(scores, config.n),
        "ended_by_themselves": sum(a.finish_reason == "stop" for a in answers) / len(answers),
        "demonstrations": str(config.out / "demonstrations.jsonl"),
    }
    if config.sft is not None:
        settings = with_overrides(
            SftConfig,
            "sft",
            config.sft,
            model=config.model,
            data=result["demonstrations"],
            out=config.out / "sft",
            seed=config.seed,
            dtype=config.dtype,
            device=config.device,
        )
        result["model"] = sft.run(settings, console)["model"]
    write_json(config.out / "result.json", result)
    return result


def curve(scores: Sequence[Tensor], n: int) -> list[dict[str, float]]:
    """For 1, 2, 4 ... and n itself: the bound on the KL, and the mean score, unbiased, from all samples."""
    sizes = sorted({1 << i for i in range(n.bit_length()) if 1 << i <= n} | {n})
    return [
        {
            "n": size,
            "kl_bound": best_of_n_kl(size),
            "score": sum(float(best_of_n_mean(s, s, size)) for s in scores) / len(scores),
        }
        for size in sizes
    ]


def draw_and_score(
    config: BestOfNConfig, prompts: Sequence[Any], console: Console
) -> tuple[list[Group], list[Tensor]]:
    """n answers to each prompt, and each group's rewards (with the penalty for answers without an end)."""
    bench = open_bench(config.model, config.dtype)
    version = policy_version(config.model, bench.loaded.source)
    sampler = LocalSampler(bench.loaded.model, bench.renderer, policy_version=version, rows=config.rows)
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, config.seed)
    with counting(console, "sampling", len(prompts) * config.n, "answers") as report:
        groups = sampler.sample(prompts, config.n, sampling, on_progress=report)
    scores = score(open_reward(config.reward_model, bench, config.dtype), bench, groups, config)
    if config.missing_end_penalty is None:
        return groups, scores
    finished = [torch.tensor([c.finish_reason == "stop" for c in g.completions]) for g in groups]
    penalty = config.missing_end_penalty
    return groups, [missing_end_penalty(s, f, penalty) for s, f in zip(scores, finished, strict=True)]


@torch.no_grad()
def score(scorer: Scorer, bench: Bench, groups: Sequence[Group], config: BestOfNConfig) -> list[Tensor]:
    """One vector of rewards per group."""
    encoded = [bench.renderer.group(g) for g in groups]
    found: dict[int, Tensor] = {}
    for part, batch in in_batches(encoded, config.tokens_per_microbatch, shared=bench.shared):
        scores_C = scorer([groups[i] for i in part], batch).scores_C
        for i, group_scores in zip(part, scores_C.split([config.n] * len(part)), strict=True):
            found[i] = group_scores
    return [found[i] for i in range(len(groups))]
