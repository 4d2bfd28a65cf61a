"""Layers whose activations are made again: the same numbers, from half of what would be kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from accord.models.lora import fuse
from accord.models.products import quicken
from accord.models.remade import VARIANTS, recipe, remake
from tiny import tiny_gpt2, tiny_llama, tiny_qwen

SIZES = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
IDS = torch.randint(0, 99, (3, 7), generator=torch.Generator().manual_seed(5))


def tiny_mistral() -> Any:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, **HEADS, sliding_window=None)).eval()


def tiny_qwen3() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS)).eval()


KINDS: dict[str, Callable[[], Any]] = {
    "llama": tiny_llama,
    "mistral": tiny_mistral,
    "qwen2": tiny_qwen,
    "qwen3": tiny_qwen3,
}


def adapted(make: Callable[[], Any], *, remade: bool, dtype: torch.dtype = torch.float64) -> Any:
    """A model with weights of no special value, adapters on all its linear layers, frozen underneath."""
    model = make().to(dtype)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # which are all 1 in a fresh model
            nn.init.normal_(parameter, 1, 0.3)
    quicken(model)
    if remade:
        remake(model)
    config = LoraConfig(r=3, lora_alpha=7, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(model.requires_grad_(False), config).to(dtype)
    fuse(model)
    return model


def in_float64(model: Any) -> Any:
    """The model with norms as the paper has them; transformers' own round float64 to float32."""

    def norm(x: Tensor, *, of: Any) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + of.variance_epsilon).sqrt() * of.weight

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(norm, of=module)
    return model


def outcome(model: Any) -> list[Tensor]:
    """Logits and all gradients of a scalar of them."""
    logits = model(input_ids=IDS, use_cache=False).logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6), dtype=logits.dtype)
    (logits * weights).sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def kept_bytes(model: Any) -> int:
    """Of what a forward pass keeps, all but the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}
    with saved_tensors_hooks(lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x):
        model.model.model(input_ids=torch.randint(0, 99, (8, 64)), use_cache=False)
    return sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_plain_layers(kind: str) -> None:
    plain, ours = (adapted(KINDS[kind], remade=remade) for remade in (False, True))
    layers = ours.config.num_hidden_layers
    made = [type(module) for module in ours.modules() if type(module) in VARIANTS.values()]
    assert len(made) == layers * (5 if kind == "qwen3" else 3) + 1
    expected, found = outcome(in_float64(plain)), outcome(ours)
    assert len(found) == len(expected) == 1 + 2 * 7 * layers
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_in_half_precision_results_round_where_the_models_own_do(kind: str) -> None:
    plain, ours = (adapted(KINDS[kind], remade=remade, dtype=torch.bfloat16) for remade in (False, True))
    with torch.no_grad():
        expected, found = (m(input_ids=IDS, use_cache=False).logits for m in (plain, ours))
    assert (expected != found).float().mean() < 0.1  # up to a last bit of 1 / rms
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_without_gradients_computes_the_same_bits(dtype: torch.dtype) -> None:
    """Or the policy would not start at the reference exactly."""
    model = adapted(tiny_llama, remade=True, dtype=dtype)
    learning = model(input_ids=IDS, use_cache=False).logits
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS, use_cache=False).logits, learning)


@pytest.mark.parametrize("kind", KINDS)
def test_less_is_kept(kind: str) -> None:
    plain, ours = (kept_bytes(adapted(KINDS[kind], remade=remade)) for remade in (False, True))
    assert ours < 0.75 * plain


def test_norms_that_learn_get_their_gradient_and_compute_the_same_bits() -> None:
    """A full copy must start at the frozen reference exactly."""
    frozen, ours, plain = tiny_llama().requires_grad_(False), tiny_llama(), in_float64(tiny_llama().double())
    for model in (frozen, ours):
        quicken(model)
        remake(model)
    assert torch.equal(ours(input_ids=IDS).logits, frozen(input_ids=IDS).logits)
    found, expected = outcome(ours.double()), outcome(plain)
    assert len(found) == len(expected) == 1 + len(list(plain.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_other_models_and_activations_are_left_alone() -> None:
    model = tiny_gpt2()
    remake(model)
    assert not any(type(module) in VARIANTS.values() for module in model.modules())
    other = in_float64(tiny_llama(hidden_act="gelu").double())
    expected = other(input_ids=IDS).logits
    remake(other)
    torch.testing.assert_close(other(input_ids=IDS).logits, expected, rtol=1e-12, atol=1e-12)


def test_a_tensor_that_remembers_nothing_is_kept_itself() -> None:
    x = torch.ones(2)
    assert recipe(x).make(*recipe(x).of) is x


def test_a_pass_that_nobody_goes_back_through_leaves_nothing_behind() -> None:
    model, alive = adapted(tiny_llama, remade=True), []
    hook = model.base_model.model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda _, __, y: alive.append(weakref.ref(y))
    )
    model(input_ids=IDS, use_cache=False)
    hook.remove()
    assert len(alive) == 1 and alive[0]() is None
