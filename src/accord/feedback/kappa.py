"""Cohen's and Fleiss' kappa, plain and weighted, with bootstrap intervals clustered by question.

Krippendorff's alpha (agreement.py) is the statistic to prefer: it takes any number of raters and missing
values. The kappas are here because papers report them. Both are one minus a ratio: the disagreement seen
over the one expected by chance. They differ in what chance means: for Cohen each rater keeps her own habits,
for Fleiss all raters share theirs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from accord.errors import DataError
from accord.feedback.estimates import Estimate, Floats, check_resampling, quantiles, resample, unknown
from accord.feedback.ratings import Rating, check_ratings

Weighting = Literal["none", "linear", "quadratic"]

Value = str | float


def cohen_kappa(
    ratings: Sequence[Rating],
    first: str,
    second: str,
    *,
    weighting: Weighting = "none",
    categories: Sequence[Value] | None = None,
    clusters: Mapping[str, Hashable] | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Agreement of two raters beyond chance, on the units that both rated (Cohen 1960, 1968).

    kappa = 1 - Σ w_jk o_jk / Σ w_jk e_jk with o the shares of the joint table, e the products of its
    margins, and w the disagreement of categories j and k: 1 unless equal ("none"), |j - k| ("linear") or
    (j - k)² ("quadratic"), counted in steps of `categories` (default: the sorted values that occur).

    The interval is a bootstrap over clusters of units (default: every unit for itself). `value` is None,
    and `meaning` says why, when the two share no unit or both use one category only. DataError: a rater's
    second value for a unit, a value outside `categories`, a setting out of range.
    """
    check_resampling(n_boot, confidence)
    check_ratings(ratings, "nominal")
    by_rater = {rater: {r.unit: r.value for r in ratings if r.rater == rater} for rater in (first, second)}
    units = [unit for unit in by_rater[first] if unit in by_rater[second]]
    if not units:
        return unknown(f"raters {first!r} and {second!r} share no question")
    both = [(by_rater[first][unit], by_rater[second][unit]) for unit in units]
    used = {value for pair in both for value in pair}
    if len(used) == 1:
        return unknown(_constant(used.pop()), len(units))
    code, disagreement_KK = _scale(used, categories, weighting)
    group_U, n_clusters = _groups(units, clusters)
    size = len(code)
    tables_GKK = np.zeros((n_clusters, size, size))
    np.add.at(tables_GKK, (group_U, [code[a] for a, _ in both], [code[b] for _, b in both]), 1)

    def kappas(weights_BG: Floats) -> Floats:
        table_BKK = np.einsum("bg,gjk->bjk", weights_BG, tables_GKK)
        seen_B = (table_BKK * disagreement_KK).sum((1, 2))
        rows_BK, columns_BK, total_B = table_BKK.sum(2), table_BKK.sum(1), table_BKK.sum((1, 2))
        chance_B = np.einsum("bj,jk,bk->b", rows_BK, disagreement_KK, columns_BK) / total_B
        return _one_minus(seen_B, chance_B)

    return _estimate(kappas, n_clusters, len(units), n_boot, confidence, seed)


def fleiss_kappa(
    ratings: Sequence[Rating],
    *,
    weighting: Weighting = "none",
    categories: Sequence[Value] | None = None,
    clusters: Mapping[str, Hashable] | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Agreement of many raters beyond chance (Fleiss 1971), every unit rated by equally many.

    kappa = 1 - D_o / D_e. D_o: the mean over units of the disagreement of two different ratings of the
    unit; D_e: that of two ratings drawn from all. Weights as in `cohen_kappa`; without them this is
    (P - P_e) / (1 - P_e). Where units have different numbers of ratings, those with the commonest number
    (of at least two) are used, and `meaning` says how many are left out. Interval, None and DataError as
    in `cohen_kappa`.
    """
    check_resampling(n_boot, confidence)
    check_ratings(ratings, "nominal")
    units: dict[str, list[Value]] = defaultdict(list)
    for rating in ratings:
        units[rating.unit].append(rating.value)
    sizes = Counter(len(values) for values in units.values() if len(values) > 1)
    if not sizes:
        return unknown("no question has answers of two raters")
    m = max(sizes, key=lambda size: (sizes[size], size))
    chosen = [unit for unit, values in units.items() if len(values) == m]
    used = {value for unit in chosen for value in units[unit]}
    if len(used) == 1:
        return unknown(_constant(used.pop()), len(chosen))
    code, disagreement_KK = _scale(used, categories, weighting)
    counts_UK = np.zeros((len(chosen), len(code)))
    for u, unit in enumerate(chosen):
        np.add.at(counts_UK[u], [code[value] for value in units[unit]], 1)
    # Two different ratings of a unit: equal ones have no disagreement, so none need be taken out.
    within_U = np.einsum("uj,jk,uk->u", counts_UK, disagreement_KK, counts_UK) / (m * (m - 1))
    group_U, n_clusters = _groups(chosen, clusters)
    within_G, units_G = np.bincount(group_U, within_U), np.bincount(group_U).astype(float)
    counts_GK = np.zeros((n_clusters, len(code)))
    np.add.at(counts_GK, group_U, counts_UK)

    def kappas(weights_BG: Floats) -> Floats:
        share_BK = weights_BG @ counts_GK
        share_BK = share_BK / share_BK.sum(1, keepdims=True)
        seen_B = (weights_BG @ within_G) / (weights_BG @ units_G)
        return _one_minus(seen_B, np.einsum("bj,jk,bk->b", share_BK, disagreement_KK, share_BK))

    others = sizes.total() - len(chosen)
    note = f"; of questions with {m} answers each, {others} with another number left out" if others else ""
    return _estimate(kappas, n_clusters, len(chosen), n_boot, confidence, seed, note)


def _constant(value: Value) -> str:
    return f"every answer is {value!r}: where nothing varies, agreement cannot be told from chance"


def _scale(
    used: set[Value], categories: Sequence[Value] | None, weighting: Weighting
) -> tuple[dict[Value, int], Floats]:
    """The index of each category, and the disagreement (K, K) of any two."""
    if weighting not in get_args(Weighting):
        raise DataError(f"weighting must be one of {', '.join(get_args(Weighting))}, not {weighting!r}")
    if categories is None:
        numbers = all(isinstance(value, int | float) for value in used)
        if weighting != "none" and not numbers:
            raise DataError(f"{weighting} weights need categories in order; give them, or ratings as numbers")
        categories = sorted(used) if numbers else sorted(used, key=str)  # type: ignore[type-var]
    code = {value: k for k, value in enumerate(categories)}
    if strange := used - set(code):
        raise DataError(f"value {min(strange, key=str)!r} is not among the categories {list(categories)}")
    step_KK = np.abs(np.subtract.outer(np.arange(len(code)), np.arange(len(code)))).astype(float)
    return code, {"none": (step_KK > 0).astype(float), "linear": step_KK, "quadratic": step_KK**2}[weighting]


def _groups(units: Sequence[str], clusters: Mapping[str, Hashable] | None) -> tuple[list[int], int]:
    """The number of each unit's cluster, and how many clusters there are."""
    number: dict[Hashable, int] = {}
    group = [number.setdefault(clusters[u] if clusters else u, len(number)) for u in units]
    return group, len(number)


def _one_minus(seen_B: Floats, chance_B: Floats) -> Floats:
    varies_B = chance_B > 0
    return np.where(varies_B, 1 - seen_B / np.where(varies_B, chance_B, 1.0), np.nan)


def _estimate(
    kappas: Callable[[Floats], Floats],
    n_clusters: int,
    n: int,
    n_boot: int,
    confidence: float,
    seed: int,
    note: str = "",
) -> Estimate:
    value = float(kappas(np.ones((1, n_clusters)))[0])
    low, high = quantiles(resample(kappas, n_clusters, n_boot, seed), confidence, n_clusters)
    return Estimate(value, low, high, n, f"agreement beyond chance: 0 is chance, 1 perfect{note}")
