"""What the positions of a batch may see, written out densely, a reference for whatever is cleverer."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.data.batches import GroupBatch, Segment


def visible(segments: tuple[Segment, ...]) -> Tensor:
    """Bool (F, F): True where a query of the row (first axis) may attend to a key (second)."""
    segment_F = torch.tensor([i for i, segment in enumerate(segments) for _ in range(segment.length)])
    after_F = torch.tensor([-1 if segments[i].after is None else segments[i].after for i in segment_F])
    same_FF = segment_F[:, None] == segment_F[None, :]
    continued_FF = after_F[:, None] == segment_F[None, :]
    earlier_FF = torch.ones(len(segment_F), len(segment_F), dtype=torch.bool).tril()
    return (same_FF | continued_FF) & earlier_FF


def seen_by_flat(batch: GroupBatch) -> Tensor:
    """Bool (B*L, B*L), for rows of segments and ordinary rows."""
    if batch.segments:
        return visible(batch.segments)
    rows, length = batch.real_BL.shape
    row_F = torch.arange(rows).repeat_interleave(length)
    causal_FF = (row_F[:, None] == row_F[None, :]) & torch.ones(rows * length, rows * length).tril().bool()
    return causal_FF & batch.real_BL.flatten()[None, :]
