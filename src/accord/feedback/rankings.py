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
    Estimate,
    Floats,
    check_resampling,
    median_estimate,
    quantiles,
    resample,
    share_bounds,
    unknown,
)
from accord.records import Judgement

TAU = "how alike two raters' orders of the same answers are: 1 the same, 0 as if shuffled, -1 reversed"
SAME = "how often two raters say the same of two of a question's answers: the one, the other, equal"
NOTHING = "no question has rankings of two raters yet, so there is nothing to compare"


@dataclass(frozen=True)
class RankingRater:
    rater: str
    n: int
    tau: Estimate  # with every other rater of the same questions
    seconds: Estimate


@dataclass(frozen=True)
class RankingQuality:
    """`n` rankings of `questions` questions."""

    n: int
    questions: int
    tau: Estimate
    same: Estimate
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


def ranking_quality(
    judgements: Iterable[Judgement], *, n_boot: int = 1000, confidence: float = 0.95, seed: int = 0
) -> RankingQuality | None:
    """Of the rankings among the judgements, each rater's newest of a question; None when there are none."""
    check_resampling(n_boot, confidence)
    last: dict[tuple[str, str], Judgement] = {}
    for judged in judgements:
        key = judged.item_id, judged.rater
        vote = judged.ranks and judged.purpose == "judge"
        if vote and (key not in last or judged.revision >= last[key].revision):
            last[key] = judged
    if not last:
        return None
    by_item: dict[str, list[Judgement]] = defaultdict(list)
    for judged in last.values():
        by_item[judged.item_id].append(judged)
    couples = [couple for said in by_item.values() for couple in combinations(said, 2)]
    settings = {"n_boot": n_boot, "confidence": confidence, "seed": seed}
    names = sorted({judged.rater for judged in last.values()})
    return RankingQuality(
        n=len(last),
        questions=len(by_item),
        tau=_tau(couples, settings),
        same=_same(couples, settings),
        raters=tuple(_rater(name, list(last.values()), couples, settings) for name in names),
    )


Couples = Sequence[tuple[Judgement, Judgement]]


def _rater(
    name: str, said: Sequence[Judgement], couples: Couples, settings: Mapping[str, Any]
) -> RankingRater:
    own = [judged for judged in said if judged.rater == name]
    seconds = np.array([judged.seconds for judged in own])
    return RankingRater(
        rater=name,
        n=len(own),
        tau=_tau([couple for couple in couples if name in (couple[0].rater, couple[1].rater)], settings),
        seconds=median_estimate(seconds, "the median time for one ranking"),
    )


def _tau(couples: Couples, settings: Mapping[str, Any]) -> Estimate:
    found = [(a.prompt_id, tau) for a, b in couples if (tau := tau_b(a.ranks, b.ranks)) is not None]
    if not found:
        return unknown(NOTHING if not couples else "where everything is tied, no order can be compared")
    sum_G, n_G = _by_prompt((prompt, tau, 1.0) for prompt, tau in found)
    replicates = resample(
        lambda w_BG: (w_BG @ sum_G) / (w_BG @ n_G), len(n_G), settings["n_boot"], settings["seed"]
    )
    low, high = quantiles(replicates, settings["confidence"], len(n_G))
    return Estimate(float(sum_G.sum() / n_G.sum()), low, high, len(found), TAU)


def _same(couples: Couples, settings: Mapping[str, Any]) -> Estimate:
    if not couples:
        return unknown(NOTHING)
    same = [(a.prompt_id, signs(a.ranks) == signs(b.ranks)) for a, b in couples]
    hit_G, n_G = _by_prompt((prompt, float(agreed.sum()), float(len(agreed))) for prompt, agreed in same)
    low, high = share_bounds(hit_G, n_G, settings["n_boot"], settings["confidence"], settings["seed"])
    return Estimate(float(hit_G.sum() / n_G.sum()), low, high, int(n_G.sum()), SAME)


def _by_prompt(values: Iterable[tuple[str, float, float]]) -> tuple[Floats, Floats]:
    """Sums of the two numbers over each prompt."""
    sums: dict[str, list[float]] = {}
    for prompt, value, n in values:
        total = sums.setdefault(prompt, [0.0, 0.0])
        total[0] += value
        total[1] += n
    both = np.array(list(sums.values()))
    return both[:, 0], both[:, 1]
