"""A linear layer and its adapter in one step: y = x Wᵀ + s (x Aᵀ) Bᵀ (Hu et al. 2021, eq. 3).

peft computes the two summands apart, scales one and adds it to the other, forwards and backwards. Here the
matrix products add into their result themselves, and only x Aᵀ, which is small, is kept beside x.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from accord.models.products import is_plain, product
from accord.models.remade import recipe


class LoraProduct(torch.autograd.Function):
    """x (..., K), frozen W (N, K) and bias (N), A (r, K), B (N, r), scaling s -> (..., N).

    A and B may be wider than x and W, which then set the precision of the products.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_NK: Tensor, bias_N: Tensor | None, a_rK: Tensor, b_Nr: Tensor, scaling: float
    ) -> Tensor:
        x_FK, kept = x.reshape(-1, x.shape[-1]), recipe(x)
        a_rK, b_Nr = a_rK.to(x.dtype), b_Nr.to(x.dtype)
        low_Fr = product(x_FK, a_rK)
        y_FN = _sum(x_FK, w_NK, bias_N, low_Fr, b_Nr, scaling)
        ctx.save_for_backward(low_Fr, w_NK, a_rK, b_Nr, *kept.of)
        ctx.make, ctx.scaling, ctx.shape = kept.make, scaling, x.shape
        return y_FN.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        low_Fr, w_NK, a_rK, b_Nr, *of = ctx.saved_tensors
        dy_FN = dy.reshape(-1, dy.shape[-1])
        down_Fr = product(dy_FN, b_Nr.t()).mul_(ctx.scaling)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _sum(dy_FN, w_NK.t(), None, down_Fr, a_rK.t(), 1.0).view(ctx.shape)
        da_rK = down_Fr.T @ ctx.make(*of).reshape(-1, a_rK.shape[1]) if ctx.needs_input_grad[3] else None
        db_rN = (low_Fr.T @ dy_FN).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        return dx, None, None, da_rK, None if db_rN is None else db_rN.T, None


def _sum(
    x_FK: Tensor, w_NK: Tensor, bias_N: Tensor | None, low_Fr: Tensor, b_Nr: Tensor, scaling: float
) -> Tensor:
    """x Wᵀ + b + s (low) Bᵀ.

    In half precision on a CPU the large product is added to the small one, and the sum is rounded once. The
    other way round, what is less than half a step of a number that is already rounded would be lost: half of
    a fresh adapter's effect. (A GPU may compute x Wᵀ otherwise when it adds to something, and then the ratio
    at step 0 would not be 1.)
    """
    if x_FK.device.type != "cpu" or x_FK.dtype not in (torch.bfloat16, torch.float16):
        return product(x_FK, w_NK, bias_N).addmm_(low_Fr, b_Nr.T, alpha=scaling)
    y_FN = product(low_Fr, b_Nr * scaling)
    return (y_FN if bias_N is None else y_FN.add_(bias_N)).addmm_(x_FK, w_NK.T)


class LoraLinear(Linear):
    """peft's layer, computed so where that is the same.

    It is left to peft where several adapters add up, where there is dropout, a variant (DoRA) or a lower
    precision in the adapter, where the base layer is no plain linear layer, or learns too.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names, base = self.active_adapters, self.base_layer
        if args or kwargs or len(names) != 1 or not _plain(self, names[0], x):
            return super().forward(x, *args, **kwargs)
        a_rK, b_Nr = self.lora_A[names[0]].weight, self.lora_B[names[0]].weight
        product: Tensor = LoraProduct.apply(x, base.weight, base.bias, a_rK, b_Nr, self.scaling[names[0]])
        return product


def _plain(layer: Any, name: str, x: Tensor) -> bool:
    if name not in layer.lora_A:
        return False
    base, kind = layer.base_layer, layer.lora_A[name].weight.dtype
    return (
        name not in layer.lora_variant
        and not (layer.disable_adapters or layer.merged)
        and is_plain(base)
        and not base.weight.requires_grad
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
        and x.dtype == base.weight.dtype
        and torch.promote_types(x.dtype, kind) == kind
        and not torch.is_autocast_enabled(x.device.type)
    )


def fuse(model: nn.Module) -> None:
    """Make every LoRA layer inside `model` a `LoraLinear`; safe to repeat."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = LoraLinear
