"""Confidence intervals: Wilson's for a proportion, and the bootstrap over whole clusters.

Rows that share a prompt (or a rater) rise and fall together. Resampling rows one by one would pretend
that they are independent and give intervals that are too short, so whole clusters are drawn instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from accord.errors import DataError

Floats = NDArray[np.float64]

_BLOCK = 4_000_000  # numbers held at once while resampling
_MAX_UNDEFINED = 0.05  # share of resamples in which a statistic may be undefined


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval, from `n` observations; `note` says when it is a special case."""

    value: float
    low: float
    high: float
    n: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; a bound that is not finite becomes None."""
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()
        }


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22).

    `successes` may be fractional (a tie counts one half): a variable in [0, 1] has at most the variance of
    a coin with the same mean, so the interval then errs on the wide side. DataError when n is 0 or
    `successes` lies outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise DataError(
            f"a proportion needs n >= 1 and 0 <= successes <= n, but {successes} of {n} was given"
        )
    z = stats.norm.ppf((1 + _checked_level(level)) / 2)
    p, shrink = successes / n, 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / shrink
    # The value itself is always inside; at p = 0 or 1 rounding would otherwise leave it just outside.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def cluster_bootstrap(
    statistic: Callable[[Floats], ArrayLike],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Percentile bootstrap interval of `statistic`, drawing whole clusters with replacement.

    `statistic` maps weights (B, N) to B values: weights[b, i] is how often row i is in resample b (all ones
    for the data as they are). `clusters` names each row's cluster. With few clusters the percentile interval
    is too short; its tails are therefore moved out to match Student's t (the expanded percentile interval,
    Hesterberg 2015, arXiv 1411.5279).

    `bounds` are the values that the statistic can take at all. They are returned, with a note, when there is
    one cluster only, or when the statistic is undefined (NaN) in more than 1 of 20 resamples; rarer undefined
    resamples are left out. DataError when there are no rows or the settings are out of range.
    """
    _checked_level(level)
    if n_boot < 1:
        raise DataError(f"n_boot must be at least 1, not {n_boot}")
    if len(clusters) == 0:
        raise DataError("an interval needs at least one observation, but there is none")
    code_N, n_clusters = _codes(clusters)
    value = float(np.asarray(statistic(np.ones((1, len(clusters))))).reshape(-1)[0])
    if n_clusters == 1:
        note = "all observations are of one cluster (one prompt): nothing says how much another would differ"
        return Interval(value, *bounds, len(clusters), note)

    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(clusters))
    values = []
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=size)
        values.append(np.asarray(statistic(drawn[:, code_N].astype(float)), dtype=float).reshape(-1))
    replicates = np.concatenate(values)
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < (1 - _MAX_UNDEFINED) * n_boot:
        note = f"undefined in {n_boot - len(defined)} of {n_boot} resamples: too few observations"
        return Interval(value, *bounds, len(clusters), note)
    low, high = np.quantile(defined, _expanded_tails(level, n_clusters))
    return Interval(value, float(low), float(high), len(clusters))


def share(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `values` in [0, 1] (a share, an accuracy, a win rate) with a cluster-bootstrap interval.

    When every cluster has the same mean (five wins of five), the bootstrap would claim certainty: then the
    interval is Wilson's with the clusters as observations. One cluster gives [0, 1]. Both say so in `note`.
    DataError when there are no values, they are outside [0, 1], or the lengths differ.
    """
    values_N = _checked_shares(values, clusters)
    code_N, n_clusters = _codes(clusters)
    sum_G, n_G = np.bincount(code_N, values_N), np.bincount(code_N)  # all that a cluster contributes
    interval = cluster_bootstrap(
        lambda weights_BG: (weights_BG @ sum_G) / (weights_BG @ n_G),
        range(n_clusters),
        level=level,
        n_boot=n_boot,
        seed=seed,
        bounds=(0.0, 1.0),
    )
    if n_clusters == 1 or np.ptp(sum_G / n_G) > 1e-12:
        return replace(interval, n=len(values_N))
    safe = wilson(interval.value * n_clusters, n_clusters, level=level)
    note = f"all {n_clusters} clusters are alike, so this is Wilson's interval for {n_clusters} observations"
    return Interval(interval.value, safe.low, safe.high, len(values_N), note)


def _checked_shares(values: ArrayLike, clusters: Sequence[Hashable]) -> Floats:
    values_N = np.asarray(values, dtype=float)
    if values_N.ndim != 1 or len(values_N) != len(clusters):
        raise DataError(f"{values_N.size} values and {len(clusters)} clusters: every value needs its cluster")
    if len(values_N) == 0:
        raise DataError("a share needs at least one observation, but there is none")
    wrong = np.flatnonzero(~((values_N >= 0) & (values_N <= 1)))
    if len(wrong):
        raise DataError(
            f"value {wrong[0]} is {values_N[wrong[0]]}, but shares are averages of values in [0, 1]"
        )
    return values_N


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise DataError(f"the confidence level must lie between 0 and 1, not at {level}")
    return level


def _codes(clusters: Sequence[Hashable]) -> tuple[NDArray[np.intp], int]:
    """Clusters numbered in order of first appearance, so that names do not change the resamples."""
    number: dict[Hashable, int] = {}
    codes = np.array([number.setdefault(c, len(number)) for c in clusters], dtype=np.intp)
    return codes, len(number)


def _expanded_tails(level: float, n_clusters: int) -> tuple[float, float]:
    t = stats.t.ppf((1 + level) / 2, n_clusters - 1)
    tail = float(stats.norm.sf(t * math.sqrt(n_clusters / (n_clusters - 1))))
    return tail, 1 - tail
