"""Linear layers whose weights are laid out, for the length of one call, the way the processor likes them.

Decoding multiplies a few dozen rows with every weight of the model, and a general matrix product spends a
third to a half of that time on rearranging the weights, at every step. oneDNN can rearrange them once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 8 * 2**30  # bytes; the packed weights are a second copy, so large models keep their plain ones


@contextmanager
def packed_linears(model: nn.Module, rows: int) -> Iterator[None]:
    """Run the plain float32 linear layers of `model` on repacked copies of their weights inside the block.

    Does nothing where it cannot help: on a GPU, in other dtypes, for subclasses of `nn.Linear` (adapters,
    quantised layers), for models above `LIMIT`, and where this build of torch lacks the operation. Nothing
    outlives the block, so the weights may change between blocks (not inside). Sums run in another order:
    results differ from the plain layer's by rounding.
    """
    layers: list[Any] = [module for module in model.modules() if _packable(module)]
    if sum(layer.weight.nbytes for layer in layers) > LIMIT:
        layers = []
    try:
        for layer in layers:
            layer.forward = _packed_forward(layer, rows)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _packable(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in module.__dict__:
        return False
    weight = module.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()
    ops = torch.ops.mkldnn
    known = hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")
    return plain and known and torch.backends.mkldnn.is_available()


def _packed_forward(layer: Any, rows: int) -> Callable[[Tensor], Tensor]:
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows), layer.bias

    def forward(input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")

    return forward
