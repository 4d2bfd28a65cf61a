"""Linear layers by the faster of the two libraries that torch has for them on a CPU.

oneDNN multiplies float32 a tenth faster than MKL on processors that are not Intel's, and no slower on those;
torch asks it only for other dtypes. Sums run in another order, so results differ by rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from accord.models.remade import recipe


def product(x_FK: Tensor, w_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x Wᵀ + b (F, N), outside of autograd; `w_NK` may be a transposed view."""
    if not (_quick(x_FK) and w_NK.dtype == torch.float32):
        return linear(x_FK, w_NK, bias_N)
    bias_N = None if bias_N is None else bias_N.detach()
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x_FK.detach(), w_NK.detach(), bias_N, "none", [], "")
    return made


def is_plain(module: nn.Module) -> bool:
    """Whether this is a linear layer and nothing more: no adapter, not quantised."""
    return type(module) in (nn.Linear, ProductLinear)


def _quick(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and onednn()


@cache
def onednn() -> bool:
    """Whether this build of torch has oneDNN's products as operators of their own."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Product(torch.autograd.Function):
    """`product` for x (..., K), with the gradients that are wanted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        kept = recipe(x)
        ctx.save_for_backward(w_NK, *(kept.of if w_NK.requires_grad else ()))
        ctx.make, ctx.shape = kept.make, x.shape
        return product(x.reshape(-1, x.shape[-1]), w_NK, bias_N).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        w_NK, *of = ctx.saved_tensors
        dy_FN = dy.reshape(-1, dy.shape[-1])
        of_x, of_w, of_bias = ctx.needs_input_grad
        return (
            product(dy_FN, w_NK.t()).view(ctx.shape) if of_x else None,
            dy_FN.T @ ctx.make(*of).reshape(-1, w_NK.shape[1]) if of_w else None,
            dy_FN.sum(0) if of_bias else None,
        )


class ProductLinear(nn.Linear):
    """A linear layer whose products are `product`."""

    def forward(self, input: Tensor) -> Tensor:
        if not _quick(input) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        made: Tensor = _Product.apply(input, self.weight, self.bias)
        return made


def quicken(model: nn.Module) -> None:
    """Make every plain linear layer inside `model` a `ProductLinear`, which differs in nothing else."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = ProductLinear
