"""The seam to whatever says how good an answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from accord.data.batches import GroupBatch
from accord.records import Group


@dataclass(frozen=True)
class Scores:
    """`scores_C`, one for each completion, and, when a model made them on the batch's own tokens, its
    hidden states `hidden_FD` (flat over the batch's positions), which a critic can read for nothing.

    `parts` are the named scores (C,) that a combination was made of, to be logged; NaN is no opinion.
    """

    scores_C: Tensor
    hidden_FD: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Scorer(Protocol):
    """`batch` is `groups` collated, so a model on the same tokens need not tokenise again."""

    def __call__(self, groups: Sequence[Group], batch: GroupBatch) -> Scores: ...
