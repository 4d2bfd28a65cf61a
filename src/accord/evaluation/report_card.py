"""A reward model's report card: how often it agrees with people it was not fitted on, and why.

The accuracy stands beside what it must be compared with: the ceiling that the raters' own disagreement
sets, and the two habits that can be mistaken for judgement, "the longer one" and "the one shown first".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from accord.errors import DataError
from accord.evaluation.intervals import Interval, share

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredPair:
    """One held-out judgement of a pair (a = slot 0, b = slot 1) with the reward model's two scores."""

    prompt_id: str
    score_a: float
    score_b: float
    length_a: int
    length_b: int
    strength: int  # -3 (b much better) .. 0 (tie) .. +3 (a much better)
    shown_first: int  # the slot that stood left: 0 = a, 1 = b
    item_id: str
    rater: str


@dataclass(frozen=True)
class CalibrationBin:
    """Judgements for which the model's confidence in its own choice lies in [low, high)."""

    low: float
    high: float
    n: int
    predicted: float  # mean confidence
    observed: float  # how often the model's choice was the rater's


@dataclass(frozen=True)
class Calibration:
    """How far σ(margin) is from observed frequencies.

    `error` is the expected calibration error: the mean of |predicted - observed| over the bins, weighted by
    their counts. It is never negative, so a well calibrated model scores about 1/√n, not 0. `temperature`
    divides the scores so that σ(margin / temperature) fits the judgements best (maximum likelihood);
    above 1 the model is overconfident. It is None where no positive finite temperature is best.
    """

    error: float
    bins: tuple[CalibrationBin, ...]
    temperature: float | None
    temperature_undefined_because: str


@dataclass(frozen=True)
class ReportCard:
    """See `report_card`. `n` counts decided judgements (ties left out), `n_ties` the ties."""

    accuracy: Interval
    ceiling: Interval | None
    share_of_ceiling: float | None  # accuracy / ceiling
    share_above_chance: float | None  # (accuracy - ½) / (ceiling - ½): 0 for a coin, 1 at the ceiling
    longer_wins: Interval  # accuracy of "choose the longer one"
    first_wins: Interval  # accuracy of "choose the one shown first"
    prefers_longer: Interval  # how often the model's own choice is the longer one
    calibration: Calibration
    mean_margin: float  # mean score of the chosen minus the rejected
    n: int
    n_ties: int
    n_prompts: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report_card(
    pairs: Sequence[ScoredPair],
    *,
    ceiling: Interval | None = None,
    bins: int = 10,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> ReportCard:
    """Grade a reward model on judgements that it was not fitted on.

    Each judgement counts once, so a pair judged by three raters counts three times. Ties are left out of
    everything but `n_ties`. A rule that cannot choose (equal scores, equal lengths) earns ½. Intervals are
    bootstraps over prompts. `ceiling` comes from `accord.feedback.agreement.ceiling`, which treats ties and
    repeated judgements in the same way.

    DataError when no judgement is decided or a row cannot be used.
    """
    for pair in pairs:
        _check(pair)
    decided = [pair for pair in pairs if pair.strength != 0]
    if not decided:
        raise DataError(f"no judgement to grade the reward model on: {len(pairs)} given, all of them ties")
    if bins < 1:
        raise DataError(f"calibration needs at least one bin, not {bins}")

    winner_N = np.sign([pair.strength for pair in decided]).astype(float)  # +1: a is better
    margin_N = np.array([pair.score_a - pair.score_b for pair in decided], dtype=float)
    longer_N = np.sign([pair.length_a - pair.length_b for pair in decided]).astype(float)
    first_N = np.array([1.0 - 2.0 * pair.shown_first for pair in decided])
    prompts = [pair.prompt_id for pair in decided]

    def agree(one_N: Floats, other_N: Floats) -> Interval:
        """Share of rows on which the two choices are the same; one half where either cannot choose."""
        same_N = (1 + np.sign(one_N) * np.sign(other_N)) / 2
        return share(same_N, prompts, level=level, n_boot=n_boot, seed=seed)

    accuracy = agree(margin_N, winner_N)
    of_ceiling = above_chance = None
    if ceiling is not None:
        of_ceiling = accuracy.value / ceiling.value
        if ceiling.value > 0.5:
            above_chance = (accuracy.value - 0.5) / (ceiling.value - 0.5)
    return ReportCard(
        accuracy=accuracy,
        ceiling=ceiling,
        share_of_ceiling=of_ceiling,
        share_above_chance=above_chance,
        longer_wins=agree(longer_N, winner_N),
        first_wins=agree(first_N, winner_N),
        prefers_longer=agree(margin_N, longer_N),
        calibration=calibration(margin_N * winner_N, bins=bins),
        mean_margin=float(np.mean(margin_N * winner_N)),
        n=len(decided),
        n_ties=len(pairs) - len(decided),
        n_prompts=len(set(prompts)),
    )


def calibration(won_by_N: Floats, *, bins: int = 10) -> Calibration:
    """Calibration of the Bradley-Terry probability σ(margin), from margins of chosen over rejected.

    Which of the two is called a is arbitrary, so confidences are folded: the model's confidence in its own
    choice, σ(|margin|) in [½, 1], against how often that choice was right. The `bins` have equal width;
    empty ones are left out.
    """
    confidence_N = expit(np.abs(won_by_N))
    right_N = (1 + np.sign(won_by_N)) / 2
    edges = np.linspace(0.5, 1.0, bins + 1)
    which_N = np.clip(np.searchsorted(edges, confidence_N, side="right") - 1, 0, bins - 1)
    table = []
    for b in range(bins):
        inside = which_N == b
        if inside.any():
            predicted, observed = float(confidence_N[inside].mean()), float(right_N[inside].mean())
            row = CalibrationBin(float(edges[b]), float(edges[b + 1]), int(inside.sum()), predicted, observed)
            table.append(row)
    error = sum(row.n * abs(row.predicted - row.observed) for row in table) / len(won_by_N)
    temperature, why_not = _temperature(won_by_N)
    return Calibration(error, tuple(table), temperature, why_not)


def _temperature(won_by_N: Floats) -> tuple[float | None, str]:
    """Root of the likelihood's slope in β = 1 / temperature, or why there is none.

    The negative log-likelihood Σ log(1 + exp(-β m)) is convex in β, with slope -Σ m σ(-β m).
    """
    scale = float(np.abs(won_by_N).mean())
    if scale == 0:
        return None, "all scores are equal: there is no margin to scale"
    if won_by_N.min() >= 0:
        return None, "the model chose right every time: the smaller the temperature, the better the fit"
    if won_by_N.sum() <= 0:
        return (
            None,
            "the margins point the wrong way on the whole: no positive temperature fits better than chance",
        )
    m_N = won_by_N / scale

    def slope(beta: float) -> float:
        return float(-(m_N * expit(-beta * m_N)).mean())

    high = 1.0
    while slope(high) < 0:  # ends: the slope tends to the mean of the wrong margins' sizes, which is positive
        high *= 2
    return scale / float(brentq(slope, 0.0, high, xtol=1e-12, rtol=1e-12)), ""


def _check(pair: ScoredPair) -> None:
    where = f"judgement of item {pair.item_id!r} by rater {pair.rater!r}"
    if not (math.isfinite(pair.score_a) and math.isfinite(pair.score_b)):
        raise DataError(f"{where}: scores must be finite, not {pair.score_a} and {pair.score_b}")
    if pair.strength not in range(-3, 4):
        raise DataError(f"{where}: strength must be a whole number from -3 to 3, not {pair.strength}")
    if pair.shown_first not in (0, 1):
        raise DataError(f"{where}: shown_first must be 0 (slot a stood left) or 1, not {pair.shown_first}")
