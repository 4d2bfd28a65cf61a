"""Win rate of one policy over another, with an interval that knows prompts are the units."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from accord.errors import DataError
from accord.evaluation.intervals import Interval, share


def win_rate(
    outcomes: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean outcome over all comparisons, with a bootstrap interval over prompts.

    outcomes: one number in [0, 1] per comparison: 1 a win, 0.5 a tie, 0 a loss. A judge asked in both
    orders may be given as two comparisons of the same prompt or as their mean.
    clusters: each comparison's prompt id. Prompts are drawn whole, so repeated judgements of one prompt
    do not shorten the interval as if they were new prompts.

    With one prompt the interval is [0, 1]; when all prompts came out alike it is Wilson's with the prompts
    as observations; `note` says so. DataError when there are no comparisons or an outcome is out of range.
    """
    if len(outcomes) == 0:
        raise DataError("a win rate needs at least one comparison, but there is none")
    return share(outcomes, clusters, level=level, n_boot=n_boot, seed=seed)
