"""Linear layers whose weights are laid out, for the length of one call, the way the processor likes them.

Decoding multiplies a few dozen rows with every weight of the model, and a general matrix product spends a
third to a half of that time on rearranging the weights, at every step. oneDNN can rearrange them once, and
where the processor multiplies bfloat16, halve them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from accord.models.products import is_plain, onednn

LIMIT = 8 * 2**30  # bytes; the packed weights are a second copy, so large models keep their plain ones

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Packing:
    """How a model's linear layers are run while `rows` rows are decoded; `dtype` None is their own.

    Packed are plain layers on a CPU, in float32 or, where it multiplies that, bfloat16, if this build
    of torch has the operation; not those of other kinds (adapters, quantised ones), and none of a model above
    `LIMIT`. Sums run in another order, so that results differ from the plain layer's by rounding. With
    `dtype` bfloat16 inputs, weights, biases and results are rounded to it.
    """

    rows: int
    dtype: torch.dtype | None = None
    wanted: bool = True

    @classmethod
    def of(cls, model: nn.Module, rows: int, dtype: torch.dtype | None = None) -> Packing:
        sizes = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
        return cls(rows, dtype, sum(sizes) * (dtype or torch.float32).itemsize <= LIMIT)

    def takes(self, *modules: nn.Module) -> bool:
        return self.wanted and all(map(_packable, modules))

    def product(self, *layers: nn.Linear) -> Product:
        """One matrix product for layers that read the same, their results side by side."""
        if not self.takes(*layers):
            return layers[0] if len(layers) == 1 else lambda x: torch.cat([layer(x) for layer in layers], -1)
        multiply, (weight, bias) = torch.ops.mkldnn._linear_pointwise, self._laid_out(layers)
        if self.dtype is None:
            return lambda x: multiply(x, weight, bias, "none", [], "")
        dtype = self.dtype
        return lambda x: multiply(x.to(dtype), weight, bias, "none", [], "").float()

    def gated(self, gate: nn.Linear, up: nn.Linear, act: nn.Module) -> Product:
        """act(gate(x)) * up(x). For SiLU, oneDNN does all of it while it multiplies; with a `dtype` the
        result stays in it, because a further product is all that follows."""
        if not (self.takes(gate, up) and isinstance(act, (nn.SiLU, SiLUActivation))):
            through_gate, through_up = self.product(gate), self.product(up)
            return lambda x: act(through_gate(x)) * through_up(x)
        multiply, dtype = torch.ops.mkldnn._linear_pointwise, self.dtype or gate.weight.dtype
        (gate_weight, gate_bias), (up_weight, up_bias) = self._laid_out([gate]), self._laid_out([up])

        def both(x: Tensor) -> Tensor:
            x = x.to(dtype)
            opened = multiply(x, gate_weight, gate_bias, "swish", [], "")
            made: Tensor = multiply.binary(x, opened, up_weight, up_bias, "mul")
            return made

        return both

    def _laid_out(self, layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
        """Packed weights of the layers, one below the other, and their biases."""
        weight, bias = layers[0].weight.detach(), None
        if len(layers) > 1:
            weight = torch.cat([layer.weight.detach() for layer in layers])
        if any(layer.bias is not None for layer in layers):
            parts = [x.weight.new_zeros(x.out_features) if x.bias is None else x.bias for x in layers]
            bias = torch.cat([part.detach() for part in parts]).to(self.dtype or weight.dtype)
        return torch.ops.mkldnn._reorder_linear_weight(weight.to(self.dtype or weight.dtype), self.rows), bias


@contextmanager
def packed_linears(model: nn.Module, rows: int, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Run the linear layers of `model` packed inside the block, those that can be. The head is not rounded.

    Nothing outlives the block, so the weights may change between blocks (not inside).
    """
    packing, head = Packing.of(model, rows, dtype), getattr(model, "get_output_embeddings", lambda: None)()
    layers: list[Any] = [module for module in model.modules() if packing.takes(module)]
    try:
        for layer in layers:
            exact = replace(packing, dtype=None)
            layer.forward = (exact if layer is head else packing).product(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; without them it would be slower than float32."""
    cpu: Any = torch.cpu
    return onednn() and bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def _packable(module: nn.Module) -> bool:
    if not is_plain(module) or "forward" in module.__dict__:
        return False
    weight = module.weight
    quick = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and multiplies_bfloat16())
    plain = weight.device.type == "cpu" and quick and weight.is_contiguous()
    return plain and onednn() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
