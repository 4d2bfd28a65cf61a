"""Scalar heads on the trunk's hidden states: the reward and the value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def _last(hidden_CTD: Tensor, mask_CT: Tensor) -> Tensor:
    end_C = mask_CT.sum(1) - 1
    return hidden_CTD[torch.arange(len(end_C)), end_C]


def _mean(hidden_CTD: Tensor, mask_CT: Tensor) -> Tensor:
    return (hidden_CTD * mask_CT[:, :, None]).sum(1) / mask_CT.sum(1, keepdim=True)


# What a reward head reads of an answer's hidden states (C, T, D) under its mask: (C, D) or (C, 2 D).
POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": _last,
    "last+mean": lambda h_CTD, mask_CT: torch.cat([_last(h_CTD, mask_CT), _mean(h_CTD, mask_CT)], dim=1),
}


def pooled_size(pooling: str, hidden_size: int) -> int:
    """How many numbers a head reads with this pooling."""
    return hidden_size * (1 + pooling.count("+"))


def head_dtype(trunk: torch.dtype) -> torch.dtype:
    """What a head on this trunk computes in: a sum over D in bfloat16 could not tell two answers apart."""
    return torch.promote_types(trunk, torch.float32)


class ScalarHead(nn.Module):
    """h -> w.h + b, with w from N(0, 1/(D+1)) as in Stiennon et al. 2020 and Huang et al. 2024 (N+).

    It computes in its own dtype, whatever that of the hidden states is.
    """

    def __init__(self, hidden_size: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight_D = torch.randn(hidden_size, generator=generator, device="cpu") / math.sqrt(hidden_size + 1)
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=dtype).copy_(weight_D))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, hidden_FD: Tensor) -> Tensor:
        return hidden_FD.to(self.weight.dtype) @ self.weight + self.bias


class ValueHead(nn.Module):
    """A two-layer head for the critic. Its output layer starts at zero, and so do the values.

    N+ starts the critic as the reward model. That helps when the whole model is trained on; on frozen
    features the reward head, made for the last token, reads nonsense from the others (see docs/decisions.md).
    """

    def __init__(
        self, hidden_size: int, *, width: int = 256, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            drawn = torch.empty(width, hidden_size, device="cpu")  # the same numbers on every device
            self.inner.weight.copy_(drawn.normal_(0.0, 1.0 / math.sqrt(hidden_size), generator=generator))
            self.inner.bias.zero_()
            self.outer.weight.zero_()
            self.outer.bias.zero_()
        self.to(dtype)

    def forward(self, hidden_FD: Tensor) -> Tensor:
        normed_FD = self.norm(hidden_FD.to(self.inner.weight.dtype))
        value_F: Tensor = self.outer(torch.tanh(self.inner(normed_FD))).squeeze(-1)
        return value_F
