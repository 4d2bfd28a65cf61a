"""One trunk, many adapters.

The base model is in memory once. Policy, reward model and critic are LoRA adapters on it (Hu et al. 2021,
through peft); the reference policy is the trunk with no adapter. Full fine-tuning keeps a separate copy of
the model under the same name, and nothing else in the project can tell the difference.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from accord.config import Lora
from accord.errors import ConfigError, ModelError
from accord.models.device import on_cpu
from accord.models.lora import fuse
from accord.models.products import quicken
from accord.models.quiet import quietly
from accord.models.remade import remake
from accord.models.sharded import is_sharded, whole


class Trunk:
    """A frozen base model and the named adapters (or full copies) that are trained on it."""

    def __init__(self, model: PreTrainedModel) -> None:
        quicken(model)
        remake(model)
        self._model = model.requires_grad_(False)
        self._linear = _linear_names(model)  # before adapters put linear layers of their own inside
        self._peft: PeftModel | None = None
        self._full: dict[str, PreTrainedModel] = {}
        self._gate = _Gate()

    def add(self, name: str, lora: Lora | None, *, seed: int, depth: int | None = None) -> None:
        """A new adapter that changes nothing yet (B = 0); `lora=None` makes a full trainable copy.

        `depth`: the model will be read after so many layers; those above get no adapter.
        """
        if lora is None:
            if is_sharded(self._model):
                raise ConfigError(
                    "FSDP splits weights that stay as they are, and without lora all of them learn: train an "
                    "adapter (lora), or start the processes with configs/processes.yaml"
                )
            self._full[name] = copy.deepcopy(self._model).requires_grad_(True)
            return
        config = _lora_config(self._model, lora, self._linear, depth)
        with torch.random.fork_rng(devices=[]), on_cpu(), quietly():  # peft moves it to the layer's device
            torch.manual_seed(seed)
            if self._peft is None:
                peft = get_peft_model(self._model, config, adapter_name=name)
                assert isinstance(peft, PeftModel)
                self._peft = peft
            else:
                self._peft.add_adapter(name, config)
        fuse(self._model)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter that `save` (or peft) wrote."""
        try:
            with quietly():
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(self._model, str(folder), adapter_name=name)
                else:
                    self._peft.load_adapter(str(folder), adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{folder}: the adapter cannot be loaded on this model ({error})") from error
        fuse(self._model)

    @contextmanager
    def use(self, name: str | None) -> Iterator[PreTrainedModel]:
        """The model as seen through adapter `name`; None is the bare trunk (the reference policy).

        Threads may use one adapter at a time together; who wants another waits until they are done.
        """
        self._check(name)
        if name in self._full:
            yield self._full[name]
        elif self._peft is None:
            yield self._model
        else:
            with self._gate.through(name, partial(_switched, self._peft, name)):
                yield self._model

    def _check(self, name: str | None) -> None:
        known = {None, *self._full, *(self._peft.peft_config if self._peft else ())}
        if name not in known:
            raise ModelError(f"no adapter named {name!r} on this trunk")

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The trainable parameters of `name`, by stable names."""
        with self.use(name) as model:
            return {n: p for n, p in model.named_parameters() if p.requires_grad}

    def save(self, name: str, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write `name` as a plain Hugging Face folder; `weights` are those of the method."""
        self._full.get(name, self._model).save_pretrained(folder, state_dict=dict(weights))

    @torch.no_grad()
    def weights(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The weights of a plain model that is trunk and adapter in one, by name.

        A sharded trunk's are put together one by one: all processes must ask for all of them.
        """
        self._check(name)
        model = self._full.get(name, self._model)
        layers = {prefix: m for prefix, m in model.named_modules() if isinstance(m, LoraLayer)}
        for key, tensor in model.state_dict().items():
            prefix, inside, rest = key.partition(".base_layer.")
            if inside and rest == "weight":
                yield f"{prefix}.weight", _sum(layers[prefix], name, whole(tensor))
            elif ".lora_" not in key:
                yield prefix + ("." + rest if inside else ""), whole(tensor)

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write `name` as a peft folder."""
        if self._peft is None or name in self._full:
            raise ModelError(f"{name!r} was fully fine-tuned; save it merged")
        self._peft.save_pretrained(str(folder), selected_adapters=[name])
        nested = folder / name  # peft puts every adapter but "default" in a folder of its own
        if nested.is_dir():
            for path in nested.iterdir():
                path.replace(folder / path.name)
            nested.rmdir()

    @torch.no_grad()
    def merged(self, name: str | None) -> PreTrainedModel:
        """Trunk and adapter as one plain model, which shares all weights that the adapter does not change.

        They are added up anew each time, so no rounding error can build up. A full copy shares all.
        """
        self._check(name)
        if name in self._full:
            return sharing(self._full[name])
        layers = (module for module in self._model.modules() if isinstance(module, LoraLayer))
        return sharing(self._model, {id(layer): _added_up(layer, name) for layer in layers})


def sharing(model: PreTrainedModel, instead: Mapping[int, nn.Module] | None = None) -> PreTrainedModel:
    """A model with modules of its own and all tensors in common; `instead` has other modules, by id."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {**{id(tensor): tensor for tensor in tensors}, **(instead or {})})


def _added_up(layer: Any, name: str | None) -> nn.Module:
    """The layer without adapters, and what `name` adds to its weight added."""
    plain: nn.Module = layer.get_base_layer()
    total = _sum(layer, name, plain.weight)  # type: ignore[arg-type]
    if total is plain.weight:
        return plain
    plain = copy.copy(plain)
    plain._parameters = {**plain._parameters, "weight": nn.Parameter(total, requires_grad=False)}
    return plain


def _sum(layer: Any, name: str | None, weight: Tensor) -> Tensor:
    """The base's `weight` and what `name` adds to it."""
    if name not in layer.lora_A:
        return weight
    return (weight + layer.get_delta_weight(name).to(weight.device)).to(weight.dtype)


@contextmanager
def _switched(peft: PeftModel, name: str | None) -> Iterator[None]:
    if name is None:
        with peft.disable_adapter():
            yield
    else:
        peft.set_adapter(name)
        yield


class _Gate:
    """Lets threads in together that want the same: the first switches to it, the last switches back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._name: str | None = None
        self._inside: list[int] = []  # the threads
        self._switched = ExitStack()

    @contextmanager
    def through(self, name: str | None, switch: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        me = threading.get_ident()
        with self._changed:
            if me in self._inside and self._name != name:
                wanted, used = (
                    "the bare trunk" if n is None else f"adapter {n!r}" for n in (name, self._name)
                )
                raise ModelError(f"{wanted} is wanted while {used} is in use in the same thread")
            self._changed.wait_for(lambda: not self._inside or self._name == name)
            if not self._inside:
                self._switched.enter_context(switch())
                self._name = name
            self._inside.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(me)
                if not self._inside:
                    self._switched.close()
                self._changed.notify_all()


def _linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all linear layers but the output layer ("q_proj", "down_proj", ...)."""
    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return sorted(
        {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, kinds) and m is not head}
    )


def _lora_config(model: PreTrainedModel, lora: Lora, names: list[str], depth: int | None) -> LoraConfig:
    n_layers = int(getattr(model.config, "num_hidden_layers", 0) or 0)
    top = n_layers if depth is None else min(depth, n_layers)
    first = max(0, top - max(1, round(lora.layers * n_layers))) if n_layers else 0
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=0.0,
        target_modules=names,
        layers_to_transform=list(range(first, top)) if top - first < n_layers else None,
        task_type="CAUSAL_LM",
    )
