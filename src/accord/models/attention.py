"""Attention over one long row of segments, each of which sees itself and perhaps one earlier segment.

A micro-batch is one row: prompts and, behind each, its answers, which see the prompt and themselves. Dense
attention over the row would be quadratic in everything that lies in it; here each segment attends alone, to
just what it may see, and so nothing is padded and nothing is masked out that was computed.

Shape letters: H heads, K key-value heads, F the row's length, n a segment's length, p its context's, d size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from accord.errors import ModelError


class Segment(Protocol):
    """A stretch of the row."""

    @property
    def length(self) -> int: ...
    @property
    def after(self) -> int | None: ...  # the number of the earlier segment that it continues and sees


@dataclass
class _Row:
    segments: Sequence[Segment]
    layers: int = 0  # how many have attended


_row: ContextVar[_Row | None] = ContextVar("row of segments", default=None)  # of this thread


@contextmanager
def segmented(segments: Sequence[Segment], layers: int) -> Iterator[None]:
    """Attention inside the block, in this thread, is that of one row of these segments.

    Raises ModelError unless exactly `layers` layers attended so: a model that does not ask transformers for
    its attention would have let all segments see one another.
    """
    row = _Row(segments)
    token = _row.set(row)
    try:
        yield
    finally:
        _row.reset(token)
    if row.layers != layers:
        raise ModelError(
            f"{row.layers} of the model's {layers} layers use transformers' attention interface, so its "
            "completions cannot share a row; use collate(..., shared=False)"
        )


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """transformers' own function, unless the row in force has segments. Returns (1, F, H, d)."""
    row = _row.get()
    if row is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **how)
        return output, None
    unknown = [name for name in ("softcap", "position_bias", "s_aux") if how.get(name) is not None]
    if unknown:
        raise ModelError(
            f"{type(module).__name__} attends with {unknown[0]}, which rows of several completions cannot "
            "have; use collate(..., shared=False)"
        )
    row.layers += 1
    return over_segments(query, key, value, row.segments, how.get("scaling")), None


def over_segments(
    query_1HFd: Tensor,
    key_1KFd: Tensor,
    value_1KFd: Tensor,
    segments: Sequence[Segment],
    scaling: float | None = None,
) -> Tensor:
    """softmax(scaling Q Kᵀ) V, each segment causally over its context and itself; (1, F, H, d)."""
    if query_1HFd.device.type == "cpu" and query_1HFd.shape[3] == value_1KFd.shape[3]:
        made: Tensor = _OnCpu.apply(query_1HFd, key_1KFd, value_1KFd, segments, scaling)
        return made
    grouped = query_1HFd.shape[1] // key_1KFd.shape[1]
    key_1HFd, value_1HFd = repeat_kv(key_1KFd, grouped), repeat_kv(value_1KFd, grouped)
    found = []
    for own, context in spans(segments):
        q, (k, v) = query_1HFd[:, :, own], (seen(x, own, context) for x in (key_1HFd, value_1HFd))
        how = {"attn_mask": mask(q, k)} if context else {"is_causal": True}
        found.append(scaled_dot_product_attention(q, k, v, scale=scaling, **how).transpose(1, 2))
    return torch.cat(found, dim=1)


def spans(segments: Sequence[Segment]) -> Iterator[tuple[slice, slice | None]]:
    """Where each segment lies, and where what it continues lies."""
    starts = [0, *accumulate(segment.length for segment in segments)]
    where = [slice(start, end) for start, end in pairwise(starts)]
    for own, segment in zip(where, segments, strict=True):
        yield own, None if segment.after is None else where[segment.after]


def seen(x: Tensor, own: slice, context: slice | None) -> Tensor:
    """The keys, or values, that a segment sees."""
    return x[:, :, own] if context is None else torch.cat([x[:, :, context], x[:, :, own]], dim=2)


def mask(q: Tensor, k: Tensor) -> Tensor:
    """0 where a query sees a key, else -inf; the queries stand where the last keys do."""
    rows, columns = q.shape[2], k.shape[2]
    return q.new_full((rows, columns), -torch.inf).triu_(columns - rows + 1)


class _OnCpu(torch.autograd.Function):
    """Queries, keys, values and results are kept as one tensor each, and cut up again in the backward pass.

    Half precision is computed in float32, since its own backward pass takes twice as long.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Sequence[Segment], scaling: float | None
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out_1FHd = torch.empty_like(q.transpose(1, 2))
        sums_1HF = q.new_empty(q.shape[:3], dtype=wide)  # logarithms of the softmax's denominators
        for own, context in spans(segments):
            q_, k_, v_ = q[:, :, own].to(wide), *(seen(x, own, context).to(wide) for x in (k, v))
            how = {"attn_mask": mask(q_, k_)} if context else {"is_causal": True}
            out, sums_1HF[:, :, own] = _flash(q_, k_, v_, scale=scaling, **how)
            out_1FHd[:, own] = out.transpose(1, 2)
        ctx.save_for_backward(q, k, v, out_1FHd, sums_1HF)
        ctx.segments, ctx.scaling = segments, scaling
        return out_1FHd

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dout_1FHd: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out_1FHd, sums_1HF = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x, dtype=sums_1HF.dtype) for x in (q, k, v))
        for own, context in spans(ctx.segments):
            k_, v_ = (seen(x, own, context).to(dq.dtype) for x in (k, v))
            d, out = (x[:, own].transpose(1, 2).to(dq.dtype) for x in (dout_1FHd, out_1FHd))
            q_, sums = q[:, :, own].to(dq.dtype), sums_1HF[:, :, own]
            how = {"attn_mask": mask(q_, k_) if context else None, "scale": ctx.scaling}
            dq[:, :, own], *of_kv = _flash_backward(d, q_, k_, v_, out, sums, 0.0, context is None, **how)
            for whole, part in zip((dk, dv), of_kv, strict=True):
                whole[:, :, own] = part[:, :, own.start - own.stop :]
                if context:  # which lies before, and has its own already
                    whole[:, :, context] += part[:, :, : context.stop - context.start]
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype), None, None


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Under transformers' own name, so that no model's configuration has to say anything else.
ALL_ATTENTION_FUNCTIONS.register("sdpa", _attend)
