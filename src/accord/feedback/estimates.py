"""Numbers with their uncertainty: the result type of the statistics here, and the intervals they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from accord.errors import DataError

Bounds = tuple[float | None, float | None]
Floats = NDArray[np.float64]

_BLOCK = 4_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval, from `n` observations, and one sentence on what it means.

    None stands for what cannot be told; without a value, `meaning` says why.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    meaning: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def unknown(why: str, n: int = 0) -> Estimate:
    """What cannot be told, and why."""
    return Estimate(None, None, None, n, why)


def share_estimate(hits: int, n: int, meaning: str, *, confidence: float = 0.95) -> Estimate:
    """A share of independent observations with Wilson's interval; unknown when there are none."""
    if n == 0:
        return unknown("nothing was observed")
    bounds = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return Estimate(hits / n, float(bounds.low), float(bounds.high), n, meaning)


def median_estimate(values: Floats, meaning: str, *, confidence: float = 0.95) -> Estimate:
    """The median with the interval between two order statistics, which holds for any distribution.

    The number of values below the true median is Binomial(n, ½); without an interval of the wanted
    confidence (fewer than 6 values at 95 %) there are no bounds.
    """
    if len(values) == 0:
        return unknown("nothing was observed")
    ordered, n = np.sort(values), len(values)
    below = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5)) - 1
    if stats.binom.cdf(below + 1, n, 0.5) <= (1 - confidence) / 2:
        below += 1
    low, high = (None, None) if below < 0 else (float(ordered[below]), float(ordered[n - 1 - below]))
    return Estimate(float(np.median(ordered)), low, high, n, meaning)


# ---------------------------------------------------------------------------------------- resampling


def resample(statistic: Callable[[Floats], Floats], n_clusters: int, n_boot: int, seed: int) -> Floats:
    """`statistic` of n_boot draws of the clusters with replacement; none of one cluster.

    `statistic` maps weights (B, n_clusters), how often each cluster was drawn, to B values.
    """
    if n_clusters < 2 or n_boot == 0:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n_clusters)
    even = np.full(n_clusters, 1 / n_clusters)
    sizes = [min(block, n_boot - start) for start in range(0, n_boot, block)]
    return np.concatenate([statistic(rng.multinomial(n_clusters, even, size=b).astype(float)) for b in sizes])


def quantiles(replicates: Floats, confidence: float, n_clusters: int) -> Bounds:
    """Percentile bounds, their tails moved out for few clusters (Hesterberg 2015, arXiv 1411.5279).

    None when there are no replicates, when more than 1 of 20 are undefined, or when all are alike.
    """
    defined = replicates[~np.isnan(replicates)]
    if len(defined) == 0 or len(defined) < 0.95 * len(replicates) or np.ptp(defined) < 1e-12:
        return None, None
    t = stats.t.ppf((1 + confidence) / 2, n_clusters - 1)
    tail = float(stats.norm.sf(t * math.sqrt(n_clusters / (n_clusters - 1))))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def share_bounds(hit_G: Floats, n_G: Floats, n_boot: int, confidence: float, seed: int) -> Bounds:
    """Bounds of Σ hit / Σ n over clusters; where all are alike, Wilson's with clusters as trials."""
    replicates = resample(lambda w_BG: (w_BG @ hit_G) / (w_BG @ n_G), len(n_G), n_boot, seed)
    if len(replicates) == 0 or np.ptp(hit_G / n_G) > 1e-12:
        return quantiles(replicates, confidence, len(n_G))
    alike = stats.binomtest(round(len(n_G) * float(hit_G[0] / n_G[0])), len(n_G))
    wilson = alike.proportion_ci(confidence, method="wilson")
    return float(wilson.low), float(wilson.high)


def check_resampling(n_boot: int, confidence: float) -> None:
    if n_boot < 0 or not 0 < confidence < 1:
        raise DataError(
            f"n_boot must not be negative and confidence lies between 0 and 1, not {n_boot}, {confidence}"
        )
