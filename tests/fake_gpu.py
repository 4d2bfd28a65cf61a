"""A second device for machines that have one: its tensors hold real numbers, and mixing devices is an error.

Within `fake_gpu()` new tensors are on "meta", behind which this keeps tensors of the CPU. What CUDA
refuses is refused: an operation on tensors of two devices (numbers without dimensions and indices may come
from the CPU), a CPU generator for its random numbers, `.numpy()`. It says nothing of kernels, of half
precision or of speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

GPU = torch.device("meta")
ATEN = torch.ops.aten
MOVES = (ATEN.copy_.default, ATEN._to_copy.default)
INDEXED = (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default)


class OnGpu(Tensor):
    """A tensor that says it is on the GPU; `held` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    # With these, `Module.to` keeps parameters what they are, ties and all.

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], *_: Any) -> OnGpu:
        return OnGpu(inner["held"])

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return run(function, args, dict(kwargs or {}))


def run(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, if CUDA would do it; its result is where CUDA would put it."""
    given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    check(function, args, given)
    named = [x for x in (*args, kwargs.get("device")) if isinstance(x, torch.device)]
    wanted = named[0] if named else None
    if kwargs.get("generator") is not None and (wanted == GPU or any(isinstance(x, OnGpu) for x in given)):
        raise RuntimeError(f"{function}: a CPU generator for a tensor on the GPU")
    if function in MOVES and function is ATEN.copy_.default and not isinstance(args[0], OnGpu):
        here = False
    else:
        here = wanted == GPU if wanted is not None else any(isinstance(x, OnGpu) for x in given)
    with torch._C.DisableTorchFunction():  # what it is made of makes tensors where its inputs are
        found = function(*pytree.tree_map(held, tuple(args)), **pytree.tree_map(held, kwargs))
    if not here:
        return args[0] if function is ATEN.copy_.default else found
    wrapped = pytree.tree_map(lambda x: OnGpu(x) if isinstance(x, Tensor) else x, found)
    return return_and_correct_aliasing(function, tuple(args), kwargs, wrapped)


def held(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.held if isinstance(x, OnGpu) else x


def check(function: Any, args: Sequence[Any], given: Sequence[Tensor]) -> None:
    if function in MOVES:
        return
    if function in INDEXED and isinstance(args[0], OnGpu):  # indices may be on either device
        given = [x for x in given if x is args[0] or x.dtype not in (torch.long, torch.int, torch.bool)]
    if len({isinstance(x, OnGpu) for x in given if x.dim() > 0}) > 1:
        where = [f"{'gpu' if isinstance(x, OnGpu) else 'cpu'}{list(x.shape)}" for x in given]
        raise RuntimeError(f"{function}: tensors on two devices: {where}")


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """In plain operations: torch's own makes its causal mask where no mode sees it."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = OnGpu(torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -torch.inf)
            if attn_mask.dtype == torch.bool
            else scores + attn_mask
        )
    return scores.softmax(-1) @ value


def _located(index: Any) -> Any:
    """The index with its lists as tensors, which torch would make of them where no mode sees it."""
    if isinstance(index, tuple):
        return tuple(map(_located, index))
    return torch.tensor(index) if isinstance(index, list) else index


class _DefaultDevice(DeviceContext):
    """As `with torch.device(...)`: new tensors are on the GPU unless the CPU is asked for."""

    def __init__(self) -> None:
        super().__init__(GPU)

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is Tensor.numpy and isinstance(args[0], OnGpu):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if function is nn.functional.scaled_dot_product_attention and isinstance(args[0], OnGpu):
            return attention(*args, **kwargs)
        if function is Tensor.tolist:
            return held(args[0]).tolist()
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnGpu):
            return function(args[0], _located(args[1]), *args[2:])
        if function is Tensor.new_tensor and isinstance(args[0], OnGpu):
            return OnGpu(args[0].held.new_tensor(*args[1:], **kwargs))
        if (
            function is Tensor.to
            and GPU in (kwargs.get("device"), *args[1:])
            and not isinstance(args[0], OnGpu)
        ):
            return OnGpu(args[0])
        if function in _device_constructors() and torch.device(kwargs.get("device") or GPU) == GPU:
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"{function}: a CPU generator for a tensor on the GPU")
            trained = kwargs.pop("requires_grad", False)
            made = function(*args, **{**kwargs, "device": "cpu"})
            return (made if isinstance(made, OnGpu) else OnGpu(made)).requires_grad_(trained)
        return function(*args, **kwargs)


class _Constants(TorchDispatchMode):
    """For operations that make a tensor on the device of another, as `where` does of a number."""

    def __init__(self) -> None:
        super().__init__()
        self.done: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = run(function, args, dict(kwargs or {}))
        if isinstance(found, OnGpu):
            self.done.add(str(function))
        return found


@contextmanager
def fake_gpu() -> Iterator[set[str]]:
    """New tensors are on the GPU inside the block; fills a set with the operations that it did."""
    asked = torch.is_autocast_enabled  # knows no "meta"
    torch.is_autocast_enabled = lambda *_: False
    try:
        with _DefaultDevice(), _Constants() as constants:
            yield constants.done
    finally:
        torch.is_autocast_enabled = asked


def moved(model: nn.Module) -> Any:
    """The model on the GPU, in place."""
    ties: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not isinstance(parameter.data, OnGpu):
                fresh = nn.Parameter(OnGpu(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = ties.setdefault(id(parameter), fresh)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = OnGpu(buffer.detach())
    return model
