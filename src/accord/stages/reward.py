"""Fit a Bradley-Terry reward model on preferences, and say how good it is."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from accord.config import RewardConfig
from accord.data.batches import GroupBatch, collate, plan
from accord.data.datasets import load_preferences
from accord.data.render import Encoded
from accord.errors import DataError
from accord.evaluation.intervals import Interval
from accord.evaluation.report_card import ScoredPair, report_card
from accord.feedback.agreement import ceiling
from accord.feedback.labels import Aggregate, PairLabel, pair_labels
from accord.ledger.ledger import Ledger
from accord.models.forward import hidden_states, layer_count
from accord.models.heads import ScalarHead, head_dtype, pooled_size
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.rao_kupper import rao_kupper_loss
from accord.records import Group, Judgement, Preference, Prompt, Terms
from accord.rewards.learned import ADAPTER, TrunkReward
from accord.rewards.probe import fit_probe, start_head
from accord.stages.common import (
    Bench,
    announce,
    data_hash,
    fingerprint,
    keep_fitting,
    mix_seed,
    new_folder,
    open_bench,
    order,
    write_json,
)
from accord.training.engine import Engine, ParameterGroup
from accord.training.run import Metrics, Run, run_steps


@dataclass(frozen=True)
class Comparison:
    """One judgement on two of a prompt's answers, by their index; `label` is P(a is better)."""

    a: int
    b: int
    label: float
    margin: float
    weight: float
    judgement: Judgement | None = None


@dataclass(frozen=True)
class Compared:
    """Everything said about one prompt's answers: the group once, and all its comparisons."""

    group: Group
    comparisons: tuple[Comparison, ...]


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
    head = ScalarHead(
        size, seed=mix_seed(config.seed, 3), dtype=head_dtype(bench.loaded.model.dtype)
    )
    reward = TrunkReward(bench.trunk, head, config.pooling, layers)
    if config.probe_penalty is not None:
        _start_at_probe(reward, train, bench, config)
    history = _fit(config, train, reward, bench, console)
    scored = _score_all(held_out or said, reward, bench, config.optim.tokens_per_microbatch)
    shift, scale = _normalise(reward.head, scored)
    pairs = [p for row, s in scored for p in _scored_pairs(row, (s - shift) / scale)]
    card = report_card(pairs, ceiling=_ceiling(rows), seed=config.seed)
    record = {
        "stage": "reward",
        "base": bench.loaded.source,
        "data": config.data,
        "prompts": len(train),
        "comparisons": sum(len(r.comparisons) for r, _ in train),
        "held_out_prompts": len(held_out),
        "aggregate": config.aggregate,
        "judgements": sum(len(r.comparisons) for r, _ in said),
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
        weight = sum(c.weight for i in chosen for c in train[i][0].comparisons)
        return engine.step(batches, loss, count=weight, progress=(number + 0.5) / n_steps)

    job = Run(
        config.out,
        "reward model",
        n_steps,
        config.checkpoint_every,
        fingerprint(config, data_hash(e for _, e in train), [repr(r.comparisons) for r, _ in train]),
        headline=("loss", "rewards/accuracies"),
    )
    return run_steps(job, engine, step, console)


def pair_tensors(
    rows: Sequence[Compared], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indices of the two answers among the batch's completions, P(a better), margin and weight."""
    a, b, label, margin, weight, offset = [], [], [], [], [], 0
    for row in rows:
        for c in row.comparisons:
            a.append(offset + c.a)
            b.append(offset + c.b)
            label.append(c.label)
            margin.append(c.margin)
            weight.append(c.weight)
        offset += len(row.group.completions)
    numbers = (torch.tensor(x, dtype=dtype) for x in (label, margin, weight))
    return (torch.tensor(a), torch.tensor(b), *numbers)  # type: ignore[return-value]


def read_compared(source: str, strict: bool, console: Console) -> list[Compared]:
    """Preferences of a file, a hub name, or a ledger's release (LEDGER#RELEASE), gathered by prompt."""
    path, hash_sign, release = source.rpartition("#")
    if hash_sign and path:
        with Ledger.open(path, create=False) as ledger:
            judgements = {j.id: j for j in ledger.release_judgements(release)}
            return gather(ledger.preferences(release), judgements)
    loaded = load_preferences(source, strict=strict)
    announce(loaded, "preferences", console)
    return gather(loaded.rows, {})


def gather(preferences: Sequence[Preference], judgements: dict[str, Judgement]) -> list[Compared]:
    """One row for each prompt, whatever order its preferences came in; equal texts are one answer."""
    prompts: dict[str, Prompt] = {}
    answers: dict[str, list[str]] = {}
    comparisons: dict[str, list[Comparison]] = {}
    for p in preferences:
        prompts.setdefault(p.prompt.id, p.prompt)
        texts = answers.setdefault(p.prompt.id, [])
        for text in (p.chosen, p.rejected):
            if text not in texts:
                texts.append(text)
        judgement = judgements.get(p.provenance[0]) if p.provenance else None
        comparisons.setdefault(p.prompt.id, []).append(
            Comparison(
                texts.index(p.chosen),
                texts.index(p.rejected),
                0.5 if p.tie else 1.0,
                p.margin,
                p.weight,
                judgement,
            )
        )
    return [Compared(Group.of(prompts[i], *answers[i]), tuple(comparisons[i])) for i in prompts]


def aggregated(
    rows: Sequence[tuple[Compared, Encoded]], how: Aggregate | Literal["none"], source: str, console: Console
) -> list[tuple[Compared, Encoded]]:
    """The rows with one comparison a pair, from all that was said of it; unchanged when `how` is "none".

    The report card keeps to single judgements, with which its ceiling can be compared. Raises DataError for
    rows that are no judgements of a ledger.
    """
    if how == "none":
        return list(rows)
    said = [(row, c, c.judgement) for row, _ in rows for c in row.comparisons]
    judgements = [judged for _, _, judged in said if judged is not None]
    if len(judgements) < len(said):
        raise DataError(
            f"--aggregate {how} needs to know who judged what, which {source} does not tell; give a ledger's "
            "release (LEDGER#RELEASE), or leave --aggregate out"
        )
    place: dict[str, int] = {}  # of each completion among its prompt's answers
    lengths: dict[str, float] = {}
    for row, c, judged in said:
        assert judged is not None
        slots = (c.a, c.b) if judged.strength >= 0 else (c.b, c.a)
        for completion_id, index in zip(judged.completion_ids, slots, strict=True):
            place[completion_id] = index
            lengths[completion_id] = float(len(row.group.completions[index].text))
    labels = pair_labels(judgements, how, lengths=lengths)
    if labels.note:
        console.print(f"{source}: {labels.note}", markup=False, highlight=False, soft_wrap=True)
    prompt_of = {judged.id: judged.prompt_id for judged in judgements}
    by_prompt: dict[str, list[Comparison]] = {}
    for pair in labels.pairs:
        found = by_prompt.setdefault(prompt_of[pair.judgement_ids[0]], [])
        found.append(_from_label(pair, place))
    return [(replace(r, comparisons=tuple(by_prompt[r.group.prompt.id])), e) for r, e in rows]


def _from_label(pair: PairLabel, place: Mapping[str, int]) -> Comparison:
    better, worse = (pair.first, pair.second) if pair.p_first >= 0.5 else (pair.second, pair.first)
    label = 0.5 if pair.tie else 1.0
    return Comparison(place[better], place[worse], label, pair.margin, pair.weight)


def split_by_prompt(
    rows: Sequence[tuple[Compared, Encoded]], share: float, seed: int
) -> tuple[list[tuple[Compared, Encoded]], list[tuple[Compared, Encoded]]]:
    """(train, held out). By prompt, so that no answer is seen in both."""
    shuffled = sorted(rows, key=lambda row: row[0].group.prompt.id)
    random.Random(seed).shuffle(shuffled)
    n = round(share * len(shuffled))
    return shuffled[n:], shuffled[:n]


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


def _scored_pairs(row: Compared, scores_C: Tensor) -> list[ScoredPair]:
    texts = [c.text for c in row.group.completions]
    pairs = []
    for c in row.comparisons:
        strength = 0 if c.label == 0.5 else max(1, round(c.margin))
        first = 0
        if c.judgement is not None:
            # In the ledger slot 0 is whichever stood first in the item; here `a` is the preferred one.
            preferred_slot = 0 if c.judgement.strength >= 0 else 1
            first = 0 if c.judgement.shown[0] == preferred_slot else 1
        pairs.append(
            ScoredPair(
                prompt_id=row.group.prompt.id,
                score_a=float(scores_C[c.a]),
                score_b=float(scores_C[c.b]),
                length_a=len(texts[c.a]),
                length_b=len(texts[c.b]),
                strength=strength,
                shown_first=first,
                item_id=c.judgement.item_id if c.judgement else "",
                rater=c.judgement.rater if c.judgement else "",
            )
        )
    return pairs


def _ceiling(rows: Sequence[Compared]) -> Interval | None:
    """The best accuracy that the raters' own agreement allows; None where no pair was judged twice."""
    judgements = [c.judgement for row in rows for c in row.comparisons if c.judgement is not None]
    found = ceiling(judgements) if judgements else None
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    return Interval(found.value, found.low, found.high, found.n_pairs)


def _save(reward: TrunkReward, bench: Bench, out: Path, record: dict[str, Any]) -> None:
    with new_folder(out) as folder:
        reward.save(folder)
        bench.loaded.tokenizer.save_pretrained(folder)
        (folder / "accord.json").write_text(json.dumps(record, indent=1))
