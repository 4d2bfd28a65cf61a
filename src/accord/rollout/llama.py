"""A Llama's forward over tokens that stand side by side without padding, whatever attention they are given.

Transformers' own forward is written for every use; decoding a few dozen rows spends a third of its time there
on small operations. This one is for sampling only: its matrix products are packed, queries, keys and values
come from one of them, and the gate of the feed-forward opens inside another. Norms and rotary angles are the
model's own modules. Results differ from the model's by rounding.

F tokens side by side, D hidden size, H query heads, K key-value heads, S their size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from accord.models.products import is_plain
from accord.rollout.decoders import takes_slots
from accord.rollout.packed import Packing, multiplies_bfloat16

KINDS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
MOVING = ("dynamic", "longrope")  # rotary angles that depend on how long the sequence has become

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries (F, H, S), keys (F, K, S), values (F, K, S)) to the heads' outputs (F, H, S)."""


def is_llama(model: PreTrainedModel) -> bool:
    """Whether `Llama` computes what this model does: its kind exactly, on a CPU, and nothing added to it."""
    if type(model) not in KINDS or model.device.type != "cpu" or not takes_slots(model):
        return False
    config: Any = model.config
    known = config._attn_implementation == "sdpa" and config.rope_parameters["rope_type"] not in MOVING
    dtypes = (torch.float32, torch.float64, *([torch.bfloat16] if multiplies_bfloat16() else []))
    return known and model.dtype in dtypes and all(map(_untouched, model.modules()))


def _untouched(module: nn.Module) -> bool:
    """No hooks, no forward of its own, no adapter in the place of a linear layer."""
    plain = not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)
    return plain and (is_plain(module) or not isinstance(module, nn.Linear))


class Llama:
    """Packed weights of a model for which `is_llama` holds, as they are now.

    The model is taken apart: the plain weights of a layer may go as soon as its packed ones are there.
    """

    def __init__(self, model: Any, rows: int, dtype: torch.dtype | None = None) -> None:
        packing = Packing.of(model, rows, dtype)
        trunk = model.model
        self.embed, self.rotary, self.norm = trunk.embed_tokens, trunk.rotary_emb, trunk.norm
        self.layers: list[_Layer] = []
        while trunk.layers:
            self.layers.append(_Layer(trunk.layers.pop(0), packing))
        exact = replace(packing, dtype=None)  # the head's results are the logits themselves
        self.head = exact.product(model.lm_head)

    def hidden(self, ids_F: Tensor, positions_F: Tensor, attend: Attend) -> Tensor:
        """Final hidden states (F, D)."""
        x_FD = self.embed(ids_F)
        cos_1FS, sin_1FS = self.rotary(x_FD[None], positions_F[None])
        half = cos_1FS.shape[-1] // 2
        sign_S = torch.ones_like(cos_1FS[0, 0]).index_fill_(0, torch.arange(half), -1)
        angles = cos_1FS[0, :, None], (sin_1FS[0] * sign_S)[:, None]
        for number, layer in enumerate(self.layers):
            q_FHS, k_FKS, v_FKS = layer.heads(x_FD, angles)
            x_FD = x_FD + layer.out(attend(number, q_FHS, k_FKS, v_FKS).flatten(1))
            x_FD = x_FD + layer.feed_forward(x_FD)
        return self.norm(x_FD)


class _Layer:
    def __init__(self, layer: Any, packing: Packing) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.norms = tuple(getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        self.scaling, self.size = float(attention.scaling), int(attention.head_dim)
        projections: list[nn.Linear] = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.counts = [p.out_features // self.size for p in projections]
        self.qkv, self.out = packing.product(*projections), packing.product(attention.o_proj)
        self.gated = packing.gated(mlp.gate_proj, mlp.up_proj, mlp.act_fn)
        self.down = packing.product(mlp.down_proj)

    def heads(self, x_FD: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, ready to be multiplied with the keys, keys and values."""
        all_FNS = self.qkv(self.before(x_FD)).unflatten(-1, (-1, self.size))
        turned, count = sum(self.counts[:2]), self.counts[0]
        both_FNS = all_FNS[:, :turned]
        if self.norms[0] is not None and self.norms[1] is not None:
            q_FHS, k_FKS = both_FNS[:, :count], both_FNS[:, count:]
            both_FNS = torch.cat([self.norms[0](q_FHS), self.norms[1](k_FKS)], 1)
        cos_F1S, sin_F1S = angles
        both_FNS = torch.addcmul(both_FNS * cos_F1S, both_FNS.roll(self.size // 2, -1), sin_F1S)
        return both_FNS[:, :count] * self.scaling, both_FNS[:, count:], all_FNS[:, turned:]

    def feed_forward(self, x_FD: Tensor) -> Tensor:
        return self.down(self.gated(self.between(x_FD)))
