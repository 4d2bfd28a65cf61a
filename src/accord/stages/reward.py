"""Fit a Bradley-Terry reward model on preferences, and say how good it is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from accord.config import RewardConfig
from accord.data.batches import GroupBatch, collate, plan
from accord.data.render import Encoded
from accord.evaluation.report_card import report_card
from accord.models.forward import hidden_states, layer_count
from accord.models.heads import ScalarHead, head_dtype, pooled_size
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.rao_kupper import rao_kupper_loss
from accord.records import Terms
from accord.rewards.learned import ADAPTER, TrunkReward
from accord.rewards.probe import fit_probe, start_head
from accord.stages.common import (
    Bench,
    data_hash,
    fingerprint,
    keep_fitting,
    mix_seed,
    new_folder,
    open_bench,
    order,
    write_json,
)
from accord.stages.compared import (
    Compared,
    aggregated,
    judges_ceiling,
    pair_tensors,
    read_compared,
    scored_pairs,
)
from accord.stages.pairs import split_by_prompt
from accord.training.engine import Engine, ParameterGroup
from accord.training.run import Metrics, Run, run_steps


def run(config: RewardConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (adapter, head, accord.json), `out/metrics.jsonl`, `out/result.json`."""
    rows = read_compared(config.data, config.strict, console)
    bench = open_bench(config.model, config.dtype)
    layers = max(1, round(config.depth * layer_count(bench.loaded.model))) if config.depth < 1 else None
    bench.trunk.add(ADAPTER, config.lora, seed=mix_seed(config.seed, 2), depth=layers)
    kept = keep_fitting(rows, lambda r: bench.renderer.group(r.group), config.max_length, "prompts", console)
    said, held_out = split_by_prompt(kept, config.held_out, config.seed)
    train = aggregated(said, config.aggregate, config.data, console)
    size = pooled_size(config.pooling, bench.hidden_size)
    head = ScalarHead(size, seed=mix_seed(config.seed, 3), dtype=head_dtype(bench.loaded.model.dtype))
    reward = TrunkReward(bench.trunk, head, config.pooling, layers)
    if config.probe_penalty is not None:
        _start_at_probe(reward, train, bench, config)
    history = _fit(config, train, reward, bench, console)
    scored = _score_all(held_out or said, reward, bench, config.optim.tokens_per_microbatch)
    shift, scale = _normalise(reward.head, scored)
    pairs = [p for row, s in scored for p in scored_pairs(row, (s - shift) / scale)]
    card = report_card(pairs, ceiling=judges_ceiling(rows), seed=config.seed)
    record = {
        "stage": "reward",
        "base": bench.loaded.source,
        "data": config.data,
        "prompts": len(train),
        "comparisons": sum(len(r.said) for r, _ in train),
        "held_out_prompts": len(held_out),
        "aggregate": config.aggregate,
        "judgements": sum(len(r.said) for r, _ in said),
        "steps": len(history),
    }
    _save(reward, bench, config.out / "model", record)
    result = {**record, "card": card.to_json(), "model": str(config.out / "model")}
    write_json(config.out / "result.json", result)
    return result


@torch.no_grad()
def _start_at_probe(
    reward: TrunkReward, train: Sequence[tuple[Compared, Encoded]], bench: Bench, config: RewardConfig
) -> None:
    """Start the head as a linear probe of the bare trunk (the fresh adapter changes nothing yet)."""
    hidden: list[Tensor] = []
    rows: list[Compared] = []
    for part in plan([e for _, e in train], config.optim.tokens_per_microbatch):
        batch = collate([train[i][1] for i in part], shared=bench.shared)
        with bench.trunk.use(None) as model:
            hidden.append(reward.pooled(hidden_states(model, batch, layers=reward.layers), batch))
        rows += [train[i][0] for i in part]
    hidden_CD = torch.cat(hidden)
    a_P, b_P, label_P, _, weight_P = pair_tensors(rows, torch.float64)
    assert config.probe_penalty is not None
    with torch.enable_grad():
        weight_D = fit_probe(hidden_CD, a_P, b_P, label_P, weight_P, penalty=config.probe_penalty)
    start_head(reward.head, weight_D, hidden_CD)


def _fit(
    config: RewardConfig,
    train: Sequence[tuple[Compared, Encoded]],
    reward: TrunkReward,
    bench: Bench,
    console: Console,
) -> list[Metrics]:
    engine = Engine(
        {
            ADAPTER: ParameterGroup(bench.trunk.parameters(ADAPTER), config.optim.learning_rate),
            "head": ParameterGroup(dict(reward.head.named_parameters()), config.optim.learning_rate),
        },
        config.optim,
    )
    n_steps = max(1, math.ceil(config.epochs * len(train) / config.batch_size))

    likelihood = bradley_terry_loss
    if config.ties == "rao-kupper":
        likelihood = partial(rao_kupper_loss, threshold=config.tie_threshold)

    def loss(item: tuple[GroupBatch, Sequence[Compared]]) -> Terms:
        batch, rows = item
        scores_C = reward.forward(batch).scores_C
        a_P, b_P, label_P, margin_P, weight_P = pair_tensors(rows, scores_C.dtype)
        return likelihood(
            scores_C[a_P],
            scores_C[b_P],
            label_P=label_P,
            margin_P=config.margin_coef * margin_P,
            weight_P=weight_P,
            label_smoothing=config.label_smoothing,
            center_coef=config.center_rewards_coefficient,
        )

    def step(number: int) -> Metrics:
        chosen = order(len(train), config.batch_size, number, config.seed)
        encoded = [train[i][1] for i in chosen]
        batches = [
            (collate([encoded[i] for i in part], shared=bench.shared), [train[chosen[i]][0] for i in part])
            for part in plan(encoded, config.optim.tokens_per_microbatch)
        ]
        weight = sum(train[i][0].weight for i in chosen)
        return engine.step(batches, loss, count=weight, progress=(number + 0.5) / n_steps)

    job = Run(
        config.out,
        "reward model",
        n_steps,
        config.checkpoint_every,
        fingerprint(config, data_hash(e for _, e in train), [repr(r.said) for r, _ in train]),
        headline=("loss", "rewards/accuracies"),
    )
    return run_steps(job, engine, step, console)


def _score_all(
    rows: Sequence[tuple[Compared, Encoded]], reward: TrunkReward, bench: Bench, tokens: int
) -> list[tuple[Compared, Tensor]]:
    found: dict[int, Tensor] = {}
    for part in plan([e for _, e in rows], tokens):
        batch = collate([rows[i][1] for i in part], shared=bench.shared)
        groups = [rows[i][0].group for i in part]
        sizes = [len(g.completions) for g in groups]
        for i, scores_C in zip(part, reward(groups, batch).scores_C.split(sizes), strict=True):
            found[i] = scores_C
    return [(rows[i][0], found[i]) for i in range(len(rows))]


@torch.no_grad()
def _normalise(head: ScalarHead, scored: Sequence[tuple[Compared, Tensor]]) -> tuple[float, float]:
    """Shift and scale the head so that these answers (the sampling policy's) have mean 0 and deviation 1."""
    scores = torch.cat([s for _, s in scored])
    shift, scale = float(scores.mean()), max(float(scores.std()), 1e-6)
    head.weight.div_(scale)
    head.bias.sub_(shift).div_(scale)
    return shift, scale


def _save(reward: TrunkReward, bench: Bench, out: Path, record: dict[str, Any]) -> None:
    with new_folder(out) as folder:
        reward.save(folder)
        bench.loaded.tokenizer.save_pretrained(folder)
        (folder / "accord.json").write_text(json.dumps(record, indent=1))
