"""Fit a reward model to what was said of answers (see reward_losses.py), and say how good it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from accord.config import RewardConfig
from accord.data.batches import GroupBatch, in_batches
from accord.data.render import Encoded
from accord.evaluation.report_card import report_card
from accord.models.device import on_its_device
from accord.models.forward import hidden_states, layer_count
from accord.models.heads import ScalarHead, head_dtype, pooled_size
from accord.objectives.ordinal import ordered_thresholds, raw_thresholds
from accord.records import Terms
from accord.rewards.learned import ADAPTER, TrunkReward
from accord.rewards.probe import start_head
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
from accord.stages.compared import aggregated, judges_ceiling, scored_pairs
from accord.stages.pairs import Judged, split_by_prompt
from accord.stages.reward_losses import (
    LOSSES,
    RewardLoss,
    Seen,
    check,
    features,
    locate_steps,
    mean_score,
    n_grades,
)
from accord.training.engine import Engine, ParameterGroup
from accord.training.lanes import lanes
from accord.training.run import Metrics, Run, run_steps

Rows = Sequence[tuple[Judged[Any], Encoded]]


@dataclass(frozen=True)
class Fit:
    """What is fitted: a reward model, and the thresholds between grades where the loss has some."""

    config: RewardConfig
    bench: Bench
    reward: TrunkReward
    raw_thresholds: nn.Parameter | None = None

    @property
    def loss(self) -> RewardLoss:
        return LOSSES[self.config.loss]

    def see(self, batch: GroupBatch) -> Seen:
        scores, logits_CT = self.reward.forward(batch), None
        if self.config.loss == "process":
            assert scores.hidden_FD is not None
            logits_CT = self.reward.head(scores.hidden_FD[batch.stands_CT])
        return Seen(scores.scores_C, logits_CT, self.raw_thresholds)

    def terms(self, item: tuple[GroupBatch, Sequence[Judged[Any]]]) -> Terms:
        return self.loss.terms(self.config, item[1], self.see(item[0]))

    def batches(self, rows: Rows) -> Iterator[tuple[GroupBatch, list[Judged[Any]]]]:
        encoded, tokens = [e for _, e in rows], self.config.optim.tokens_per_microbatch
        for part, batch in in_batches(encoded, tokens, shared=self.bench.shared, lanes=lanes()):
            yield batch, [rows[i][0] for i in part]

    def parameters(self) -> dict[str, ParameterGroup]:
        rate = self.config.optim.learning_rate
        found = {
            ADAPTER: ParameterGroup(self.bench.trunk.parameters(ADAPTER), rate),
            "head": ParameterGroup(dict(self.reward.head.named_parameters()), rate),
        }
        if self.raw_thresholds is not None:
            found["thresholds"] = ParameterGroup({"raw": self.raw_thresholds}, rate)
        return found


@on_its_device
def run(config: RewardConfig, console: Console) -> dict[str, Any]:
    """Train, and write `out/model` (adapter, head, accord.json), `out/metrics.jsonl`, `out/result.json`."""
    check(config)
    rows = LOSSES[config.loss].read(config, console)
    bench = open_bench(config.model, config.dtype)
    kept: Rows = keep_fitting(
        rows, lambda r: bench.renderer.group(r.group), config.max_length, "prompts", console
    )
    if config.loss == "process":
        kept = [locate_steps(row, e, bench.renderer, config.step_separator) for row, e in kept]
    said, held_out = split_by_prompt(kept, config.held_out, config.seed)
    train = aggregated(said, config.aggregate, config.data, console)
    fit = build(config, bench, train)
    history = _train(fit, train, console)
    graded = held_out or said
    record = {
        "stage": "reward",
        "loss": config.loss,
        "base": bench.loaded.source,
        "data": config.data,
        "prompts": len(train),
        "comparisons": sum(len(r.said) for r, _ in train),
        "held_out_prompts": len(held_out),
        "aggregate": config.aggregate,
        "judgements": sum(len(r.said) for r, _ in said),
        "steps": len(history),
    }
    result = {**record, "held_out": _means(fit, graded), **_card(fit, graded, rows)}
    _save(fit.reward, bench, config.out / "model", record)
    result["model"] = str(config.out / "model")
    write_json(config.out / "result.json", result)
    return result


def build(config: RewardConfig, bench: Bench, train: Rows) -> Fit:
    """The adapter and the head, which starts as a linear probe unless it is to be random."""
    layers = max(1, round(config.depth * layer_count(bench.loaded.model))) if config.depth < 1 else None
    bench.trunk.add(ADAPTER, config.lora, seed=mix_seed(config.seed, 2), depth=layers)
    size, dtype = pooled_size(config.pooling, bench.hidden_size), head_dtype(bench.loaded.model.dtype)
    head = ScalarHead(size, seed=mix_seed(config.seed, 3), dtype=dtype)
    raw = None
    if config.loss == "ordinal":
        grades = n_grades([row for row, _ in train], config.data)
        raw = nn.Parameter(raw_thresholds(torch.arange(1, grades + 1, dtype=dtype) - 0.5))
    fit = Fit(config, bench, TrunkReward(bench.trunk, head, config.pooling, layers), raw)
    if config.probe_penalty is not None:
        _start_at_probe(fit, train, config.probe_penalty)
    return fit


@torch.no_grad()
def _start_at_probe(fit: Fit, train: Rows, penalty: float) -> None:
    """Start the head as a linear probe of the bare trunk (the fresh adapter changes nothing yet)."""
    found: list[Tensor] = []
    rows: list[Judged[Any]] = []
    for batch, members in fit.batches(train):
        with fit.bench.trunk.use(None) as model:
            hidden_FD = hidden_states(model, batch, layers=fit.reward.layers)
        found.append(
            features(fit.config, fit.reward.pooled(hidden_FD, batch), hidden_FD[batch.stands_CT], members)
        )
        rows += members
    hidden_ND = torch.cat(found)
    with torch.enable_grad():
        weight_D = fit.loss.probe(hidden_ND, rows, penalty)
    start_head(fit.reward.head, weight_D, hidden_ND, mean=mean_score(rows))


def _train(fit: Fit, train: Rows, console: Console) -> list[Metrics]:
    config, engine = fit.config, Engine(fit.parameters(), fit.config.optim)
    n_steps = max(1, math.ceil(config.epochs * len(train) / config.batch_size))

    def step(number: int) -> Metrics:
        chosen = [train[i] for i in order(len(train), config.batch_size, number, config.seed)]
        weight = sum(row.weight for row, _ in chosen)
        progress = (number + 0.5) / n_steps
        return engine.step(list(fit.batches(chosen)), fit.terms, count=weight, progress=progress)

    job = Run(
        config.out,
        "reward model",
        n_steps,
        config.checkpoint_every,
        fingerprint(config, data_hash(e for _, e in train), [repr(r.said) for r, _ in train]),
        headline=("loss", "rewards/accuracies"),
    )
    return run_steps(job, engine, step, console)


@torch.no_grad()
def _means(fit: Fit, rows: Rows) -> dict[str, float]:
    """The loss's own metrics over rows that were not trained on, before the scores are put to scale."""
    sums: dict[str, list[float]] = {}
    for item in fit.batches(rows):
        for name, (value, count) in fit.terms(item).metrics.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += float(value)
            total[1] += float(count)
    return {name: value / count for name, (value, count) in sorted(sums.items()) if count}


def _card(fit: Fit, graded: Rows, rows: Sequence[Judged[Any]]) -> dict[str, Any]:
    """The report card, None where the feedback has no pairs. Scores are put to scale where that is free."""
    scored = _score_all(graded, fit.reward, fit.bench, fit.config.optim.tokens_per_microbatch)
    shift, scale = _normalise(fit.reward.head, scored) if fit.loss.compares else (0.0, 1.0)
    pairs = [p for row, s in scored for p in scored_pairs(fit.loss.pairs(row), (s - shift) / scale)]
    decided = any(p.strength for p in pairs)
    ceiling = judges_ceiling([fit.loss.pairs(row) for row in rows])
    found: dict[str, Any] = {
        "card": report_card(pairs, ceiling=ceiling, seed=fit.config.seed).to_json() if decided else None
    }
    if fit.raw_thresholds is not None:
        found["thresholds"] = (ordered_thresholds(fit.raw_thresholds.detach()) / scale).tolist()
    return found


def _score_all(
    rows: Rows, reward: TrunkReward, bench: Bench, tokens: int
) -> list[tuple[Judged[Any], Tensor]]:
    found: dict[int, Tensor] = {}
    for part, batch in in_batches([e for _, e in rows], tokens, shared=bench.shared):
        groups = [rows[i][0].group for i in part]
        sizes = [len(g.completions) for g in groups]
        for i, scores_C in zip(part, reward(groups, batch).scores_C.split(sizes), strict=True):
            found[i] = scores_C
    return [(rows[i][0], found[i]) for i in range(len(rows))]


@torch.no_grad()
def _normalise(head: ScalarHead, scored: Sequence[tuple[Judged[Any], Tensor]]) -> tuple[float, float]:
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
