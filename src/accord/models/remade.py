"""Activations that are made again instead of kept: a norm's result and a gate's, one pass over memory each.

Of a decoder layer's activations almost half are these two: the linear layers behind them keep them for the
gradients of their adapters, and torch keeps what was on the way. Here a result remembers what it was made of,
which is kept anyway, and `LoraProduct` keeps that in its place.

Shape letter: D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm


class Recipe(NamedTuple):
    """`make(*of)` is the tensor again, outside of autograd."""

    make: Callable[..., Tensor]
    of: tuple[Tensor, ...]


def recipe(x: Tensor) -> Recipe:
    """How to make x again from what is best kept: itself, unless it remembers better."""
    return getattr(x, "_recipe", None) or Recipe(_itself, (x,))


def _itself(x: Tensor) -> Tensor:
    return x


def _remembering(x: Tensor, make: Callable[..., Tensor], *of: Tensor) -> Tensor:
    x._recipe = Recipe(make, of)  # type: ignore[attr-defined]
    return x


def _scale(x: Tensor, eps: float) -> Tensor:
    """1 / rms(x), in float32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _normed(x: Tensor, scale: Tensor, weight_D: Tensor) -> Tensor:
    """x / rms(x), rounded to x's precision, times the weight."""
    return weight_D * (x * scale).to(x.dtype)


class _Norm(torch.autograd.Function):
    """RMS norm of x (..., D) (Zhang and Sennrich 2019, eq. 4), and 1 / rms (..., 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, scale, weight_D)
        ctx.mark_non_differentiable(scale)
        return _normed(x, scale, weight_D), scale

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight_D = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = ((x * scale).to(x.dtype) * dy).flatten(0, -2).sum(0)
        # with d = dy weight:  dx = d / rms - x (d . x) / (D rms^3)
        d, wide = (dy * weight_D).to(scale.dtype), x.to(scale.dtype)
        along = torch.linalg.vecdot(d, wide)[..., None].mul_(scale**3).div_(x.shape[-1])
        return d.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), of_weight, None


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate).mul_(up)


class _Gate(torch.autograd.Function):
    """silu(gate) * up, which are kept and nothing else (Shazeer 2020, eq. 5)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(dy * up, gate), silu(gate).mul_(dy)


class _RemadeNorm(nn.Module):
    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return _normed(hidden_states, _scale(hidden_states, self.variance_epsilon), self.weight)
        y, scale = _Norm.apply(hidden_states, self.weight, self.variance_epsilon)
        return _remembering(y, _normed, hidden_states, scale, self.weight)


class _RemadeMLP(nn.Module):
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.act_fn, (nn.SiLU, SiLUActivation)):
            return super().forward(x)  # type: ignore[misc, no-any-return]
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not torch.is_grad_enabled():
            return self.down_proj(_gated(gate, up))  # type: ignore[no-any-return]
        made: Tensor = self.down_proj(_remembering(_Gate.apply(gate, up), _gated, gate, up))
        return made


def _variants(how: type[nn.Module], *kinds: type[nn.Module]) -> dict[type[nn.Module], type[nn.Module]]:
    return {kind: type(kind.__name__, (how, kind), {}) for kind in kinds}


VARIANTS = {
    **_variants(_RemadeNorm, LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm),
    **_variants(_RemadeMLP, LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP),
}


def remake(model: nn.Module) -> None:
    """Make the norms and feed-forwards inside `model` that are known so that their results are remade."""
    for module in model.modules():
        if type(module) in VARIANTS:
            module.__class__ = VARIANTS[type(module)]
