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
from typing import Any, Protocol

import torch
from torch import Tensor, nn
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
    dtype, grouped = query_1HFd.dtype, query_1HFd.shape[1] // key_1KFd.shape[1]
    wide = dtype
    if query_1HFd.device.type != "cpu":  # only the CPU's kernel takes a mask and grouped heads together
        key_1KFd, value_1KFd, grouped = repeat_kv(key_1KFd, grouped), repeat_kv(value_1KFd, grouped), 1
    elif dtype in (torch.bfloat16, torch.float16):  # whose backward pass takes twice as long there
        wide = torch.float32
    lengths = [segment.length for segment in segments]
    queries, keys, values = (x.to(wide).split(lengths, dim=2) for x in (query_1HFd, key_1KFd, value_1KFd))
    found = []
    for i, segment in enumerate(segments):
        k, v, mask = keys[i], values[i], None
        if segment.after is not None:
            k, v = (torch.cat([x[segment.after], x[i]], dim=2) for x in (keys, values))
            context = lengths[segment.after]
            mask = torch.ones(lengths[i], k.shape[2], dtype=torch.bool, device=k.device).tril(context)
        found.append(
            scaled_dot_product_attention(
                queries[i],
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped > 1,
            ).transpose(1, 2)
        )
    return torch.cat(found, dim=1).to(dtype)


# Under transformers' own name, so that no model's configuration has to say anything else.
ALL_ATTENTION_FUNCTIONS.register("sdpa", _attend)
