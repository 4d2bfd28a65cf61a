"""Do raters put answers in the same order? Kendall's tau-b, and how often they say the same of two answers.

The comparisons that a ranking implies are not independent, so intervals resample whole prompts, and none of
these comparisons counts among the pairs that were judged as pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from accord.feedback.estimates import (
    Bounds,
    Estimate,
    Floats,
    check_resampling,
    median_estimate,
    share_bounds,
    unknown,
)
from accord.ledger.known import Known, hits
from accord.records import Judgement

TAU = "how alike two raters' orders of the same answers are: 1 the same, 0 as if shuffled, -1 reversed"
SAME = "how often two raters say the same of two of a question's answers: the one, the other, equal"
NOTHING = "no question has rankings of two raters yet, so there is nothing to compare"
AGAIN = "how alike her two orders of the same answers are when a ranking comes again: 1 the same, -1 reversed"
SAME_AGAIN = "how often she says the same of two answers when a ranking comes again"
NEVER_AGAIN = "answered no ranking twice"
KNOWN = "share of the known comparisons inside gold rankings that she has right; 0.5 is guessing"
SETTLED = "how alike the adjudicator's order and the raters' orders are, of rankings that they disputed"


@dataclass(frozen=True)
class RankingRater:
    """`n` rankings, checks not counted. `tau` and `same` are with every other rater of the same questions.

    `again` and `same_again` compare blind repeats with what she said before. `known` is the share of known
    comparisons inside gold rankings; whether each ranking is right as a whole, `gold.gold_answers` tells.
    """

    rater: str
    n: int
    tau: Estimate
    same: Estimate
    again: Estimate
    same_again: Estimate
    known: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class RankingQuality:
    """`n` rankings of `questions` questions, `settled` of which an adjudicator settled."""

    n: int
    questions: int
    tau: Estimate
    same: Estimate
    settled: int
    settled_tau: Estimate
    raters: tuple[RankingRater, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def signs(ranks: Sequence[int]) -> Floats:
    """Of each two answers: 1 where the first is better, -1 where the second is, 0 for a tie."""
    return np.array([np.sign(b - a) for a, b in combinations(ranks, 2)], dtype=float)


def tau_b(one: Sequence[int], other: Sequence[int]) -> float | None:
    """Kendall's tau-b (1945), which corrects for ties; None where one of the two ties everything."""
    x, y = signs(one), signs(other)
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else None


Couples = Sequence[tuple[Judgement, Judgement]]


def ranking_quality(
    judgements: Iterable[Judgement],
    gold: Mapping[str, Known] | None = None,
    *,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankingQuality | None:
    """Of the rankings among the judgements, each rater's newest of a question; None when there are none.

    Votes alone make `tau` and `same`; repeats, gold questions and adjudications count for their own figures.
    `gold`: what is known, by item.
    """
    check_resampling(n_boot, confidence)
    last: dict[tuple[str, str, str], Judgement] = {}
    for judged in judgements:
        key = judged.item_id, judged.rater, judged.purpose
        if judged.ranks and (key not in last or judged.revision >= last[key].revision):
            last[key] = judged
    if not last:
        return None
    by_item: dict[str, list[Judgement]] = defaultdict(list)
    for judged in last.values():
        if judged.purpose == "judge":
            by_item[judged.item_id].append(judged)
    couples = [couple for said in by_item.values() for couple in combinations(said, 2)]
    settings = {"n_boot": n_boot, "confidence": confidence, "seed": seed}
    settled = [judged for judged in last.values() if judged.purpose == "adjudicate"]
    disputed = [(judged, vote) for judged in settled for vote in by_item[judged.item_id]]
    names = sorted({judged.rater for judged in last.values() if judged.purpose != "adjudicate"})
    said = list(last.values())
    return RankingQuality(
        n=sum(judged.purpose == "judge" for judged in said),
        questions=sum(map(bool, by_item.values())),
        tau=_tau(couples, settings),
        same=_same(couples, settings),
        settled=len(settled),
        settled_tau=_tau(disputed, settings, SETTLED, "no ranking was adjudicated"),
        raters=tuple(_rater(name, said, couples, gold or {}, settings) for name in names),
    )


def _rater(
    name: str,
    said: Sequence[Judgement],
    couples: Couples,
    gold: Mapping[str, Known],
    settings: Mapping[str, Any],
) -> RankingRater:
    own = [judged for judged in said if judged.rater == name]
    votes = [judged for judged in own if judged.purpose == "judge"]
    first = {judged.item_id: judged for judged in votes}
    again = [(first[j.item_id], j) for j in own if j.purpose == "repeat" and j.item_id in first]
    asked = [j for j in own if j.purpose in ("judge", "gold") and j.item_id in gold]
    seconds = np.array([judged.seconds for judged in votes])
    hers = [couple for couple in couples if name in (couple[0].rater, couple[1].rater)]
    return RankingRater(
        rater=name,
        n=len(votes),
        tau=_tau(hers, settings),
        same=_same(hers, settings),
        again=_tau(again, settings, AGAIN, NEVER_AGAIN),
        same_again=_same(again, settings, SAME_AGAIN, NEVER_AGAIN),
        known=_known(asked, gold, settings),
        seconds=median_estimate(seconds, "the median time for one ranking"),
    )


def _tau(
    couples: Couples, settings: Mapping[str, Any], meaning: str = TAU, nothing: str = NOTHING
) -> Estimate:
    """The mean over couples; as a share between -1 and 1 where all are alike, so that there are bounds."""
    found = [(a.prompt_id, tau) for a, b in couples if (tau := tau_b(a.ranks, b.ranks)) is not None]
    if not found:
        return unknown(nothing if not couples else "where everything is tied, no order can be compared")
    share_G, n_G = _by_prompt((prompt, (1 + tau) / 2, 1.0) for prompt, tau in found)
    low, high = _bounds(share_G, n_G, settings)
    mean = sum(tau for _, tau in found) / len(found)
    if low is None or high is None:
        return Estimate(mean, None, None, len(found), meaning)
    return Estimate(mean, 2 * low - 1, 2 * high - 1, len(found), meaning)


def _same(
    couples: Couples, settings: Mapping[str, Any], meaning: str = SAME, nothing: str = NOTHING
) -> Estimate:
    if not couples:
        return unknown(nothing)
    same = [(a.prompt_id, signs(a.ranks) == signs(b.ranks)) for a, b in couples]
    return _share(
        ((prompt, float(agreed.sum()), float(len(agreed))) for prompt, agreed in same), meaning, settings
    )


def _known(asked: Sequence[Judgement], gold: Mapping[str, Known], settings: Mapping[str, Any]) -> Estimate:
    if not asked:
        return unknown("answered no gold ranking")
    right = ((j.prompt_id, float(hits(j.ranks, gold[j.item_id])), float(len(gold[j.item_id]))) for j in asked)
    return _share(right, KNOWN, settings)


def _share(values: Iterable[tuple[str, float, float]], meaning: str, settings: Mapping[str, Any]) -> Estimate:
    """A share of comparisons; those of one prompt are one observation for the interval."""
    hit_G, n_G = _by_prompt(values)
    low, high = _bounds(hit_G, n_G, settings)
    return Estimate(float(hit_G.sum() / n_G.sum()), low, high, int(n_G.sum()), meaning)


def _bounds(hit_G: Floats, n_G: Floats, settings: Mapping[str, Any]) -> Bounds:
    return share_bounds(hit_G, n_G, settings["n_boot"], settings["confidence"], settings["seed"])


def _by_prompt(values: Iterable[tuple[str, float, float]]) -> tuple[Floats, Floats]:
    """Sums of the two numbers over each prompt."""
    sums: dict[str, list[float]] = {}
    for prompt, value, n in values:
        total = sums.setdefault(prompt, [0.0, 0.0])
        total[0] += value
        total[1] += n
    both = np.array(list(sums.values()))
    return both[:, 0], both[:, 1]
