"""How far raters agree: raw agreement, Krippendorff's alpha, and the ceiling this sets for a reward model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from scipy import sparse
from scipy.special import betaln

from accord.errors import DataError
from accord.feedback.estimates import Bounds, Floats, check_resampling, quantiles, resample, share_bounds
from accord.feedback.ratings import Level, Rating, check_ratings, read_ratings_csv
from accord.records import Judgement

__all__ = [
    "Agreement",
    "Ceiling",
    "Level",
    "Rating",
    "agreement",
    "ceiling",
    "read_ratings_csv",
    "single_label_ceiling",
]


@dataclass(frozen=True)
class Agreement:
    """See `agreement`. None stands for what cannot be told; `alpha_undefined_because` says why, else ""."""

    level: Level
    alpha: float | None
    alpha_low: float | None
    alpha_high: float | None
    alpha_undefined_because: str
    raw: float | None
    raw_low: float | None
    raw_high: float | None
    n_units: int
    n_raters: int
    n_values: int
    n_pairable: int  # values in units that have at least two

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ceiling:
    """See `ceiling`. `at_least` and `at_most` assume nothing about how disagreement is spread over pairs."""

    value: float | None
    low: float | None
    high: float | None
    at_least: float | None
    at_most: float | None
    n: int  # decided judgements of pairs that have at least two
    n_pairs: int
    n_prompts: int
    undefined_because: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# ---------------------------------------------------------------------------------------- agreement


def agreement(
    ratings: Sequence[Rating],
    *,
    level: Level = "nominal",
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Raw pairwise agreement and Krippendorff's alpha of long-form ratings; missing ones are simply absent.

    raw: draw a value, then another rater's value of the same unit: the probability that they are equal, at
    whatever level. A unit thus weighs by its number of values, as it does in alpha.
    alpha = 1 - D_o / D_e (Krippendorff 2018, Content Analysis, ch. 12): disagreement inside units over that
    expected if the same values were dealt to units at random. Distances: nominal, unequal; interval,
    (c - k)²; ratio, ((c - k) / (c + k))²; ordinal, the squared difference of mid-ranks.

    Intervals are bootstraps over units. There is none (None) when n_boot is 0, when one unit only has two
    values, and for alpha also when every unit agrees perfectly (resampling would claim certainty; raw then
    has Wilson's interval) or when it is undefined in more than 1 of 20 resamples.

    DataError: two values of one rater for one unit, a value that does not suit the level, a setting out of
    range.
    """
    if level not in get_args(Level):
        raise DataError(f"level must be one of {', '.join(get_args(Level))}, not {level!r}")
    check_resampling(n_boot, confidence)
    check_ratings(ratings, level)
    counts_UK, value_K = _table(ratings, level)
    n_paired, m_U = counts_UK.shape[0], _row_sums(counts_UK)

    alpha, raw, why = None, None, ""
    alpha_bounds: Bounds = (None, None)
    raw_bounds: Bounds = (None, None)
    if n_paired == 0:
        why = "no unit has values of two raters, so there is nothing to compare"
    else:
        agreed_U = _agreed(counts_UK)
        raw = float(agreed_U.sum() / m_U.sum())
        raw_bounds = share_bounds(agreed_U, m_U, n_boot, confidence, seed)
        if counts_UK.shape[1] == 1:
            why = f"every value that can be compared is {_only_value(ratings)!r}: where nothing varies, "
            why += "agreement cannot be told from chance"
    if not why:
        alphas = _alpha_statistic(counts_UK, value_K, level)
        alpha = float(alphas(np.ones((1, n_paired)))[0])
        alpha_bounds = quantiles(resample(alphas, n_paired, n_boot, seed), confidence, n_paired)

    return Agreement(
        level=level,
        alpha=alpha,
        alpha_low=alpha_bounds[0],
        alpha_high=alpha_bounds[1],
        alpha_undefined_because=why,
        raw=raw,
        raw_low=raw_bounds[0],
        raw_high=raw_bounds[1],
        n_units=len({r.unit for r in ratings}),
        n_raters=len({r.rater for r in ratings}),
        n_values=len(ratings),
        n_pairable=int(m_U.sum()),
    )


def _table(ratings: Sequence[Rating], level: Level) -> tuple[sparse.csr_array, Floats]:
    """Counts (U, K) of each value in each unit that has at least two, and the sorted values as numbers.

    Numbers are centred and scaled for the interval level, which alpha does not feel but rounding does.
    """
    units = defaultdict(list)
    for rating in ratings:
        units[rating.unit].append(rating.value if level == "nominal" else float(rating.value))
    pairable = [values for values in units.values() if len(values) > 1]
    distinct = sorted({v for values in pairable for v in values}, key=str if level == "nominal" else None)
    code = {value: k for k, value in enumerate(distinct)}
    rows = [u for u, values in enumerate(pairable) for _ in values]
    columns = [code[v] for values in pairable for v in values]
    shape = (len(pairable), len(distinct))
    counts_UK = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    value_K = np.arange(len(distinct), dtype=float) if level == "nominal" else np.array(distinct, dtype=float)
    if level == "interval" and len(value_K) > 1:
        half_K = value_K / 2  # so that no difference overflows
        value_K = (half_K - (half_K[0] + half_K[-1]) / 2) / (half_K[-1] - half_K[0])
    return counts_UK, value_K


def _row_sums(counts_UK: sparse.csr_array) -> Floats:
    return np.asarray(counts_UK.sum(axis=1), dtype=float).reshape(-1)


def _agreed(counts_UK: sparse.csr_array) -> Floats:
    """Sum over a unit's values of the share of the other values that equal it."""
    m_U = _row_sums(counts_UK)
    return (_row_sums(counts_UK.power(2)) - m_U) / (m_U - 1)


def _alpha_statistic(
    counts_UK: sparse.csr_array, value_K: Floats, level: Level
) -> Callable[[Floats], Floats]:
    """A function from weights (B, U), how often each unit counts, to B alphas (NaN where nothing varies)."""
    if level == "nominal":
        within_U = _row_sums(counts_UK) - _agreed(counts_UK)
    elif level == "ratio":
        within_U = _ratio_within(counts_UK, value_K)

    def alphas(weights_BU: Floats) -> Floats:
        n_BK = np.asarray((counts_UK.T @ weights_BU.T).T)
        total_B = n_BK.sum(1)
        if level == "nominal":
            within_B, among_B = weights_BU @ within_U, total_B**2 - (n_BK**2).sum(1)
        elif level == "ratio":
            within_B, among_B = weights_BU @ within_U, _ratio_among(n_BK, value_K)
        else:
            # A mid-rank is the number of values below plus half of those that are equal; Krippendorff's
            # ordinal distance between c and k is the difference of their mid-ranks.
            x_BK = np.cumsum(n_BK, axis=1) - n_BK / 2 if level == "ordinal" else value_K[None, :]
            within_B, among_B = _squares(counts_UK, weights_BU, n_BK, x_BK)
        varies_B = (n_BK > 0).sum(1) > 1
        expected_B = np.where(varies_B, among_B, 1.0)
        return np.where(varies_B, 1 - (total_B - 1) * within_B / expected_B, np.nan)

    return alphas


def _squares(
    counts_UK: sparse.csr_array, weights_BU: Floats, n_BK: Floats, x_BK: Floats
) -> tuple[Floats, Floats]:
    """Squared differences over ordered pairs of values, within units (over m - 1) and among all values.

    By moments: the sum over i, j of (x_i - x_j)² is 2 (m Σx² - (Σx)²).
    """
    m_U1 = _row_sums(counts_UK)[:, None]
    one_UB, two_UB = counts_UK @ x_BK.T, counts_UK @ (x_BK**2).T
    within_UB = 2 * (m_U1 * two_UB - one_UB**2) / (m_U1 - 1)
    within_B = (weights_BU.T * within_UB).sum(0)
    among_B = 2 * (n_BK.sum(1) * (n_BK * x_BK**2).sum(1) - (n_BK * x_BK).sum(1) ** 2)
    return within_B, among_B


def _ratio_distance(c: Floats, k: Floats) -> Floats:
    total = c + k
    return ((c - k) / np.where(total > 0, total, 1.0)) ** 2


def _ratio_within(counts_UK: sparse.csr_array, value_K: Floats) -> Floats:
    within = []
    for start, stop in zip(counts_UK.indptr[:-1], counts_UK.indptr[1:], strict=True):
        n, x = counts_UK.data[start:stop], value_K[counts_UK.indices[start:stop]]
        within.append(n @ _ratio_distance(x[:, None], x[None, :]) @ n / (n.sum() - 1))
    return np.array(within)


def _ratio_among(n_BK: Floats, value_K: Floats) -> Floats:
    among_B = np.zeros(len(n_BK))
    for start in range(0, len(value_K), 256):  # a strip of the (K, K) distances at a time
        strip = slice(start, start + 256)
        distance = _ratio_distance(value_K[strip, None], value_K[None, :])
        among_B += (n_BK[:, strip] * (n_BK @ distance.T)).sum(1)
    return among_B


# --------------------------------------------------------------------------------------- the ceiling


def single_label_ceiling(raw_agreement: float) -> float | None:
    """Best accuracy against one rater's label if all pairs were equally hard: p = (1 + √(2A - 1)) / 2.

    Two raters who each choose the better of two with probability p, independently, agree with probability
    A = p² + (1 - p)². None when A < ½: no p gives that. Pairs are never equally hard, and then this is the
    upper limit of the ceiling (Jensen: see `ceiling`, whose value is the one to use).
    """
    if not 0 <= raw_agreement <= 1:
        raise DataError(f"raw agreement is a share between 0 and 1, not {raw_agreement}")
    return None if raw_agreement < 0.5 else (1 + math.sqrt(2 * raw_agreement - 1)) / 2


def ceiling(
    judgements: Sequence[Judgement],
    *,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ceiling:
    """The best expected accuracy of any reward model against one fresh rater's decided label.

    Let p_i be the probability that a rater drawn from the population prefers slot 0 of pair i, given that
    she does not call it a tie; raters' own values and their slips both go into p_i. Nothing that sees only
    the pair can do better than E max(p_i, 1 - p_i). From pairs that several raters judged we see
    A = E[p_i² + (1 - p_i)²] without bias. With d_i = |2 p_i - 1|, E d² = 2A - 1 and the ceiling is
    (1 + E d) / 2; since E d² <= E d <= √(E d²), it lies for certain between

        at_least = A    and    at_most = (1 + √(2A - 1)) / 2   (all pairs equally hard).

    `value` takes p_i to follow a symmetric Beta(a, a) (symmetric, as slots are arbitrary); A gives
    a = (1 - A) / (2A - 1) and the ceiling ½ + 2^(-2a) / (a B(a, a)). If p_i is instead the logistic of a
    normal margin, this errs by less than 0.0025. The worst cases: it is too low by at most 0.039 where all
    pairs are equally hard, too high by at most 0.088 where every pair is either certain or a coin toss.

    As in the report card, ties (strength 0) are left out, every remaining judgement weighs the same, and of
    a rater's revisions of one item the last counts. Assumed further: raters judge independently; shared
    pairs are a fair sample of those the model is graded on (not, say, the ones asked again because raters
    disagreed); and raters are many: with R fixed raters who also give the held-out labels, the A that
    matters is higher than the one seen by up to (1 - A) / R.

    low, high: bootstrap over prompts (none when n_boot is 0 or there is one prompt). Without a pair that two
    raters decided, `value` is None and `undefined_because` says so.
    """
    check_resampling(n_boot, confidence)
    shared = _shared_votes(judgements)
    if not shared:
        why = "no pair was decided (not tied) by two raters, so the raters' agreement is not known"
        return Ceiling(None, None, None, None, None, 0, 0, 0, why)

    agreed, decided = defaultdict[str, float](float), defaultdict[str, float](float)
    for (prompt, _), counts in shared.items():
        m = sum(counts)
        agreed[prompt] += sum(n * (n - 1) for n in counts) / (m - 1)
        decided[prompt] += m
    agreed_G, decided_G = np.array(list(agreed.values())), np.array(list(decided.values()))
    observed = float(agreed_G.sum() / decided_G.sum())
    # The ceiling rises with agreement, so the bounds of one are those of the other.
    low, high = share_bounds(agreed_G, decided_G, n_boot, confidence, seed)
    return Ceiling(
        value=_beta_ceiling(observed),
        low=None if low is None else _beta_ceiling(low),
        high=None if high is None else _beta_ceiling(high),
        at_least=max(0.5, observed),
        at_most=single_label_ceiling(max(0.5, observed)),
        n=int(decided_G.sum()),
        n_pairs=len(shared),
        n_prompts=len(agreed),
    )


def _shared_votes(judgements: Sequence[Judgement]) -> dict[tuple[str, str], tuple[int, ...]]:
    """How the decided votes of each (prompt, item) fell, where there are at least two."""
    last: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        key = judgement.item_id, judgement.rater
        if key not in last or judgement.revision >= last[key].revision:
            last[key] = judgement
    votes: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for judgement in last.values():
        if judgement.strength != 0:
            votes[judgement.prompt_id, judgement.item_id][judgement.strength > 0] += 1
    return {key: tuple(count.values()) for key, count in votes.items() if count.total() > 1}


def _beta_ceiling(observed: float) -> float:
    """½ + E|p - ½| for p ~ Beta(a, a) whose raw agreement (a + 1) / (2a + 1) is the one observed."""
    if observed <= 0.5:  # below by chance only: for no p_i is the expected agreement less than one half
        return 0.5
    if observed >= 1.0:
        return 1.0
    a = (1 - observed) / (2 * observed - 1)
    return 0.5 + math.exp(-2 * a * math.log(2) - math.log(a) - float(betaln(a, a)))


def _only_value(ratings: Sequence[Rating]) -> str | float:
    """The value of the units that have two, when it is the same everywhere."""
    several = Counter(rating.unit for rating in ratings)
    return next(rating.value for rating in ratings if several[rating.unit] > 1)
