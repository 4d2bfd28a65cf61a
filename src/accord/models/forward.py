"""The one forward pass: hidden states of groups, and log-probabilities where completions are.

The backbone runs without its language-model head. Logits, the largest tensor of all, are made only at the
positions that predict a completion's token, a chunk at a time (see `readout.py`).

Shape letters: B rows, L row length, F = B*L flat positions, D hidden size, C completions, T longest
completion, N real completion tokens, n those of one chunk, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from accord.errors import ConfigError, ModelError
from accord.models.attention import Segment, segmented
from accord.models.readout import read_off


class Rows(Protocol):
    """What `hidden_states` reads of a batch of groups."""

    @property
    def input_ids_BL(self) -> Tensor: ...
    @property
    def position_ids_BL(self) -> Tensor: ...
    @property
    def real_BL(self) -> Tensor: ...  # False at padding
    @property
    def segments(self) -> Sequence[Segment]: ...  # of the only row; none where rows are ordinary


def supports_block_mask(model: PreTrainedModel) -> bool:
    """Whether completions may share a row: every layer is full attention, ours to compute, at our positions.

    False for state-space and linear-attention models, sliding-window and chunked attention (a mask of their
    own), ALiBi (positions of its own) and every attention kernel but "sdpa". Batches for such models need
    `collate(..., shared=False)`.
    """
    config = _text_config(model)
    layers = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return (
        config._attn_implementation == "sdpa"
        and "position_ids" in inspect.signature(_backbone(model).forward).parameters
        and all(kind in ("full_attention", "global") for kind in layers)
        and not (windowed and not layers)
        and not getattr(config, "alibi", False)
    )


def hidden_states(model: PreTrainedModel, batch: Rows, *, layers: int | None = None) -> Tensor:
    """Final hidden states, flat, of shape (B*L, D), after the last norm; at padding they mean nothing.

    `model` is a causal language model, with or without PEFT layers injected. With `layers` only the first so
    many of its layers are run, then the last norm. Raises ModelError when completions share rows and the
    model cannot keep them apart, or when it does not have so many layers.
    """
    backbone = _backbone(model)
    run = _first_layers(backbone, layers)
    inputs = {"input_ids": batch.input_ids_BL, "position_ids": batch.position_ids_BL}
    if not batch.segments:  # ordinary rows: the model makes its own causal mask
        if "position_ids" not in inspect.signature(backbone.forward).parameters:
            del inputs["position_ids"]
        output = run(**inputs, attention_mask=batch.real_BL.long(), use_cache=False)
        return output.last_hidden_state.flatten(0, 1)
    if not supports_block_mask(model):
        raise ModelError(
            f"{type(model).__name__} (attention {model.config._attn_implementation!r}) cannot keep "
            "completions that share a row apart; use collate(..., shared=False), or load it with "
            "attn_implementation='sdpa'"
        )
    ready = inputs["input_ids"].new_zeros(1, 1, 1, 1)  # of four axes: the model makes no mask of its own
    with segmented(batch.segments, layer_count(model) if layers is None else layers):
        output = run(**inputs, attention_mask=ready, use_cache=False)
    return output.last_hidden_state.flatten(0, 1)


def layer_count(model: PreTrainedModel) -> int:
    """How many layers the backbone has."""
    return int(_text_config(model).num_hidden_layers)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The backbone's layers. Raises ModelError where they are not in one list."""
    lists = _layer_lists(_backbone(model))
    if len(lists) != 1:
        raise ModelError(f"the layers of {type(model).__name__} are in {len(lists)} lists, not in one")
    return next(iter(lists.values()))


def _first_layers(backbone: nn.Module, layers: int | None) -> nn.Module:
    """The backbone, ending after `layers` of its layers: what is above is not even computed.

    The same modules in another shell, so that other threads may run the whole backbone meanwhile.
    """
    lists = _layer_lists(backbone)
    total = max(map(len, lists.values()), default=0)
    if layers is None or layers == total:
        return backbone
    if not 0 < layers <= total or len(lists) != 1:
        raise ModelError(
            f"{type(backbone).__name__} cannot be read after {layers} layers: found {total} layers in "
            f"{len(lists)} lists; set depth to 1"
        )
    ((name, every),) = lists.items()
    shell = copy.copy(backbone)
    shell._modules = {**backbone._modules, name: every[:layers]}
    return shell


def _layer_lists(backbone: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists that the backbone's layers are in, by name: the longest, one if all is well."""
    lists = {n: m for n, m in backbone.named_children() if isinstance(m, nn.ModuleList)}
    total = max(map(len, lists.values()), default=0)
    return {n: m for n, m in lists.items() if len(m) == total}


def token_logps(
    model: PreTrainedModel,
    hidden_FD: Tensor,
    where_CT: Tensor,
    targets_CT: Tensor,
    mask_CT: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 128,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Natural log-probabilities of `targets_CT` at `temperature`, and the distribution's entropy in nats.

    Both have shape (C, T), are zero where `mask_CT` is False, and are float32 (float64 for a float64 model).
    `where_CT` says at which flat position each target is predicted. At most `chunk` positions have their
    logits in memory at a time. The entropy is None unless asked for.

    Raises ConfigError for a temperature that is not positive, ModelError for a model without a head.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"temperature is {temperature}; log-probabilities need a finite value above 0")
    head, config = _head(model), _text_config(model)
    frozen = not any(parameter.requires_grad for parameter in head.parameters())

    def logits(hidden_nD: Tensor) -> Tensor:
        scaled_nV = _scaled(head(hidden_nD), config)
        scaled_nV = scaled_nV.to(torch.promote_types(scaled_nV.dtype, torch.float32))
        return scaled_nV if temperature == 1 else scaled_nV / temperature

    hidden_ND, targets_N = hidden_FD[where_CT[mask_CT]], targets_CT[mask_CT]
    made = [
        read_off(logits, hidden_nD, targets_n, frozen=frozen, entropy=entropy)
        for hidden_nD, targets_n in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True)
    ]
    spread = [v_N.new_zeros(mask_CT.shape).masked_scatter(mask_CT, v_N) for v_N in torch.cat(made, dim=1)]
    return spread[0], spread[1] if entropy else None


@torch.no_grad()
def check_logits(model: PreTrainedModel) -> None:
    """Raise ModelError unless this module's logits are the model's own, on a short input.

    Some architectures scale or cap their logits between backbone and head in ways of their own; it is
    better to learn of it here than from a policy that drifts.
    """
    ids_BL = torch.arange(1, 9, device=model.device)[None] % _text_config(model).vocab_size
    own = model(input_ids=ids_BL, use_cache=False).logits[0].float()
    hidden = _backbone(model)(input_ids=ids_BL, use_cache=False).last_hidden_state[0]
    ours = _scaled(_head(model)(hidden), _text_config(model)).float()
    tolerance = 4 * torch.finfo(model.dtype).eps * own.abs().max()
    if not (own - ours).abs().max() <= tolerance:
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way Accord does not know (off by "
            f"{(own - ours).abs().max():.3g}); its log-probabilities would be wrong. Use another "
            "architecture, or teach `_scaled` in accord/models/forward.py what it does"
        )


def _scaled(logits: Tensor, config: PreTrainedConfig) -> Tensor:
    """What an architecture does to its head's output: Cohere multiplies, Granite divides, Gemma caps."""
    factor = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "output_multiplier"):
        factor *= getattr(config, name, None) or 1.0
    scaling = getattr(config, "logits_scaling", None) or 1.0
    if scaling != 1 and config.model_type.startswith(("granite", "minicpm")):
        factor /= scaling
    elif scaling != 1 and config.model_type.startswith("hyperclovax"):
        factor *= scaling
    elif scaling != 1:
        raise ModelError(
            f"a model of type {config.model_type!r} sets logits_scaling={scaling}, which some architectures "
            "multiply by and others divide by; teach `_scaled` in accord/models/forward.py which it is"
        )
    logits = logits if factor == 1 else logits * factor
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _causal_lm(model: PreTrainedModel) -> PreTrainedModel:
    """The Hugging Face model itself, when `model` is a PeftModel around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _text_config(model: PreTrainedModel) -> PreTrainedConfig:
    return _causal_lm(model).config.get_text_config(decoder=True)


def _backbone(model: PreTrainedModel) -> nn.Module:
    whole = _causal_lm(model)
    backbone = whole.get_decoder()
    if backbone is whole:
        raise ModelError(f"{type(whole).__name__} has no decoder; load it with AutoModelForCausalLM")
    return backbone


def _head(model: PreTrainedModel) -> nn.Module:
    head = _causal_lm(model).get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no language-model head; load it with AutoModelForCausalLM"
        )
    return head
