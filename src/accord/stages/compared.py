"""Comparisons for the reward model: what was said of a prompt's answers, with ties and who said it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from accord.data.datasets import load_preferences
from accord.data.render import Encoded
from accord.errors import DataError
from accord.evaluation.intervals import Interval
from accord.evaluation.report_card import ScoredPair
from accord.feedback.agreement import ceiling
from accord.feedback.labels import Aggregate, PairLabel, pair_labels
from accord.ledger.ledger import Ledger
from accord.ledger.lineage import settled
from accord.ledger.rankings import comparisons, ranks_said
from accord.records import Judgement, Preference, Prompt
from accord.stages.common import announce
from accord.stages.pairs import Judged, gather, in_ledger


@dataclass(frozen=True)
class Comparison:
    """One judgement on two of a prompt's answers, by their index; `label` is P(a is better)."""

    a: int
    b: int
    label: float
    margin: float
    weight: float
    judgement: Judgement | None = None


Compared = Judged[Comparison]


def read_compared(source: str, strict: bool, console: Console) -> list[Compared]:
    """Preferences of a file, a hub name, or a ledger's release (LEDGER#RELEASE), gathered by prompt."""
    if found := in_ledger(source):
        path, release = found
        with Ledger.open(path, create=False) as ledger:
            said = settled(ledger.release_judgements(release))
            judgements = [pair for judged in said for pair in comparisons(judged)]
            return compared(ledger.preferences(release), judgements)
    loaded = load_preferences(source, strict=strict)
    announce(loaded, "preferences", console)
    return compared(loaded.rows)


def compared(preferences: Iterable[Preference], judgements: Sequence[Judgement] = ()) -> list[Compared]:
    """One row for each prompt, whatever order its preferences came in; equal texts are one answer.

    `judgements` are those of the preferences, in their order, where they are known.
    """
    return gather(
        (
            p.prompt,
            (p.chosen, p.rejected),
            partial(
                Comparison,
                label=0.5 if p.tie else 1.0,
                margin=p.margin,
                weight=p.weight,
                judgement=judged,
            ),
        )
        for p, judged in zip(preferences, judgements or repeat(None), strict=False)
    )


def released_orders(path: str, release: str) -> list[tuple[Prompt, tuple[str, ...], tuple[float, ...]]]:
    """Prompt, answers and their ranks of each judgement of a release; a pair is a ranking of two."""
    with Ledger.open(path, create=False) as ledger:
        said = ledger.release_judgements(release)
        texts = {c: ledger.completion(c).text for c in {c for j in said for c in j.completion_ids}}
        prompts = {p: ledger.prompt(p) for p in {j.prompt_id for j in said}}
    return [
        (prompts[j.prompt_id], tuple(texts[c] for c in j.completion_ids), tuple(map(float, ranks_said(j))))
        for j in said
    ]


def aggregated(
    rows: Sequence[tuple[Compared, Encoded]], how: Aggregate | Literal["none"], source: str, console: Console
) -> list[tuple[Compared, Encoded]]:
    """The rows with one comparison a pair, from all that was said of it; unchanged when `how` is "none".

    A label of what rankings say has their mean weight.
    The report card keeps to single judgements, with which its ceiling can be compared. Raises DataError for
    rows that are no judgements of a ledger.
    """
    if how == "none":
        return list(rows)
    said = [(row, c, c.judgement) for row, _ in rows for c in row.said]
    judgements = [judged for _, _, judged in said if judged is not None]
    if len(judgements) < len(said):
        raise DataError(
            f"--aggregate {how} needs to know who judged what, which {source} does not tell; give a ledger's "
            "release (LEDGER#RELEASE), or leave --aggregate out"
        )
    weights: dict[frozenset[str], list[float]] = {}  # of what was said of a pair
    place: dict[str, int] = {}  # of each completion among its prompt's answers
    lengths: dict[str, float] = {}
    for row, c, judged in said:
        assert judged is not None
        weights.setdefault(frozenset(judged.completion_ids), []).append(c.weight)
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
        said_of = weights[frozenset((pair.first, pair.second))]
        label = _from_label(pair, place)
        found.append(replace(label, weight=label.weight * sum(said_of) / len(said_of)))
    return [(replace(r, said=tuple(by_prompt[r.group.prompt.id])), e) for r, e in rows]


def _from_label(pair: PairLabel, place: Mapping[str, int]) -> Comparison:
    better, worse = (pair.first, pair.second) if pair.p_first >= 0.5 else (pair.second, pair.first)
    label = 0.5 if pair.tie else 1.0
    return Comparison(place[better], place[worse], label, pair.margin, pair.weight)


def pair_tensors(
    rows: Sequence[Compared], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indices of the two answers among the batch's completions, P(a better), margin and weight."""
    a, b, label, margin, weight, offset = [], [], [], [], [], 0
    for row in rows:
        for c in row.said:
            a.append(offset + c.a)
            b.append(offset + c.b)
            label.append(c.label)
            margin.append(c.margin)
            weight.append(c.weight)
        offset += len(row.group.completions)
    numbers = (torch.tensor(x, dtype=dtype) for x in (label, margin, weight))
    return (torch.tensor(a), torch.tensor(b), *numbers)  # type: ignore[return-value]


def strength(c: Comparison) -> int:
    """How strongly `a` is preferred: 0 for a tie, else the margin in whole grades, at least 1."""
    return 0 if c.label == 0.5 else max(1, round(c.margin))


def scored_pairs(row: Compared, scores_C: Tensor) -> list[ScoredPair]:
    texts = [c.text for c in row.group.completions]
    pairs = []
    for c in row.said:
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
                strength=strength(c),
                shown_first=first,
                item_id=c.judgement.item_id if c.judgement else "",
                rater=c.judgement.rater if c.judgement else "",
            )
        )
    return pairs


def judges_ceiling(rows: Sequence[Compared]) -> Interval | None:
    """The best accuracy that the raters' own agreement allows; None where no pair was judged twice."""
    judgements = [c.judgement for row in rows for c in row.said if c.judgement is not None]
    found = ceiling(judgements) if judgements else None
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    return Interval(found.value, found.low, found.high, found.n_pairs)
