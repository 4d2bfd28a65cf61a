"""Linear layers whose weights are laid out, for the length of one call, the way the processor likes them.

Decoding multiplies a few dozen rows with every weight of the model, and a general matrix product spends a
third to a half of that time on rearranging the weights, at every step. oneDNN can rearrange them once, and
where the processor multiplies bfloat16, halve them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 8 * 2**30  # bytes; the packed weights are a second copy, so large models keep their plain ones

Product = Callable[[Tensor], Tensor]


@contextmanager
def packed_linears(model: nn.Module, rows: int, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Run the plain float32 linear layers of `model` on repacked copies of their weights inside the block.

    Does nothing where it cannot help: on a GPU, in other dtypes, for subclasses of `nn.Linear` (adapters,
    quantised layers), for models above `LIMIT`, and where this build of torch lacks the operation. Nothing
    outlives the block, so the weights may change between blocks (not inside). Sums run in another order:
    results differ from the plain layer's by rounding. With `dtype` bfloat16 the layers multiply in it
    (their results are float32 again), except for those that `exact_layers` names.
    """
    layers: list[Any] = [module for module in model.modules() if _packable(module)]
    exact = exact_layers(model)
    if not packs(layers, dtype):
        layers = []
    try:
        for layer in layers:
            layer.forward = _packed([layer], rows, None if layer in exact else dtype)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def packs(layers: Sequence[nn.Linear], dtype: torch.dtype | None) -> bool:
    """Whether all these layers' packed weights together stay below `LIMIT`."""
    return sum(layer.weight.numel() * (dtype or torch.float32).itemsize for layer in layers) <= LIMIT


def exact_layers(model: nn.Module) -> set[nn.Module]:
    """What is never rounded: the head, whose results are the logits themselves."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return set() if head is None else {head}


def product(layers: Sequence[nn.Linear], rows: int, dtype: torch.dtype | None = None) -> Product:
    """One matrix product for layers that read the same, their results side by side; packed where possible."""
    if all(map(_packable, layers)):
        return _packed(layers, rows, dtype)
    return unpacked(layers)


def unpacked(layers: Sequence[nn.Linear], rows: int = 0, dtype: torch.dtype | None = None) -> Product:
    """The same from the layers themselves; `rows` and `dtype` make no difference."""
    if len(layers) == 1:
        return layers[0]
    return lambda x: torch.cat([layer(x) for layer in layers], -1)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; without them it would be slower than float32."""
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    cpu: Any = torch.cpu
    return known and bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def _packable(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in module.__dict__:
        return False
    weight = module.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()
    ops = torch.ops.mkldnn
    known = hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")
    return plain and known and torch.backends.mkldnn.is_available()


def _packed(layers: Sequence[Any], rows: int, dtype: torch.dtype | None) -> Product:
    ops = torch.ops.mkldnn
    joined = torch.cat([x.weight.detach() for x in layers]) if len(layers) > 1 else layers[0].weight.detach()
    weight = ops._reorder_linear_weight(joined.to(dtype or joined.dtype), rows)
    bias = None
    if any(x.bias is not None for x in layers):
        parts = [x.weight.new_zeros(len(x.weight)) if x.bias is None else x.bias.detach() for x in layers]
        bias = torch.cat(parts)
    if dtype is None:
        return lambda x: ops._linear_pointwise(x, weight, bias, "none", [], "")
    rounded = None if bias is None else bias.to(dtype)
    return lambda x: ops._linear_pointwise(x.to(dtype), weight, rounded, "none", [], "").to(x.dtype)
