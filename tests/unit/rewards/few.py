"""Small batches for scorers that read texts and not tokens."""

from __future__ import annotations

from collections.abc import Sequence

from accord.data.batches import GroupBatch, collate
from accord.data.render import Encoded
from accord.records import Group


def batch_of(groups: Sequence[Group]) -> GroupBatch:
    """The groups collated, with made-up tokens."""
    return collate([Encoded((1, 2), tuple((3, 4) for _ in g.completions)) for g in groups])
