"""The fused LoRA layer against peft's own, and against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from accord.models.lora import LoraProduct, fuse
from tiny import tiny_gpt2, tiny_llama, tiny_qwen

KINDS = {"llama": tiny_llama, "qwen": tiny_qwen}  # without and with biases


def adapted(kind: str, **settings: Any) -> Any:
    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=7, target_modules=targets, init_lora_weights=False, **settings)
    model = KINDS[kind]().double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # which a fresh model has at 0
            nn.init.normal_(parameter)
    return get_peft_model(model, config).double()


def outcome(model: Any) -> list[Tensor]:
    """Logits and all gradients of a scalar of them."""
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(5)
    vocabulary = model.config.vocab_size
    ids_BL = torch.randint(0, vocabulary, (3, 7), generator=generator)
    logits = model(input_ids=ids_BL, use_cache=False).logits
    weights = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
    (logits * weights).sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_pefts(kind: str) -> None:
    model = adapted(kind)
    theirs = outcome(model)
    fuse(model)
    fuse(model)
    calls: list[int] = []
    apply = LoraProduct.apply
    try:
        LoraProduct.apply = lambda *args: calls.append(1) or apply(*args)  # type: ignore
        ours = outcome(model)
    finally:
        del LoraProduct.apply
    assert len(calls) == 7 * model.config.num_hidden_layers
    assert len(ours) == len(theirs) > 10
    for own, peft in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, peft, rtol=1e-11, atol=1e-11)


def test_its_gradients_are_the_slopes() -> None:
    generator = torch.Generator().manual_seed(1)
    x, w, bias, a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    )
    learned = [t.requires_grad_() for t in (x, a, b)]
    assert torch.autograd.gradcheck(lambda x, a, b: LoraProduct.apply(x, w, bias, a, b, 0.7), learned)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_what_it_does_not_know_is_left_to_peft(settings: dict[str, Any]) -> None:
    model = adapted("llama", **settings).eval()
    theirs = outcome(model)
    fuse(model)
    for own, peft in zip(outcome(model), theirs, strict=True):
        assert torch.equal(own, peft)


def test_what_is_disabled_is_not_added() -> None:
    model = adapted("llama")
    ids_BL = torch.ones(1, 2, dtype=torch.long)
    with torch.no_grad(), model.disable_adapter():
        bare = model(input_ids=ids_BL).logits
        fuse(model)
        assert torch.equal(model(input_ids=ids_BL).logits, bare)
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids_BL).logits, bare)


def test_two_adapters_at_once_and_none_are_left_to_peft() -> None:
    model = adapted("llama")
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])
    theirs = outcome(model)
    with model.disable_adapter(), torch.no_grad():
        bare = model(input_ids=torch.ones(1, 2, dtype=torch.long)).logits
    fuse(model)
    for own, peft in zip(outcome(model), theirs, strict=True):
        assert torch.equal(own, peft)
    with model.disable_adapter(), torch.no_grad():
        assert torch.equal(model(input_ids=torch.ones(1, 2, dtype=torch.long)).logits, bare)


def test_an_adapter_that_is_not_on_a_layer_is_left_to_peft() -> None:
    model = adapted("llama")
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.set_adapter("other")
    theirs = outcome(model.double())
    fuse(model)
    for own, peft in zip(outcome(model), theirs, strict=True):
        torch.testing.assert_close(own, peft, rtol=1e-11, atol=1e-11)


def test_what_is_merged_already_is_not_added_again() -> None:
    model = adapted("llama")
    ids_BL = torch.ones(1, 2, dtype=torch.long)
    with torch.no_grad():
        apart = model(input_ids=ids_BL).logits
        model.merge_adapter()
        fuse(model)
        torch.testing.assert_close(model(input_ids=ids_BL).logits, apart, rtol=1e-9, atol=1e-9)


def halved(kind: str) -> Any:
    """A bfloat16 model whose adapters are float32, as peft leaves them."""
    model = adapted(kind).bfloat16()
    for name, module in model.named_modules():
        if name.endswith((".lora_A.default", ".lora_B.default")):
            module.float()
    return model


def distance(found: list[Tensor], truth: list[Tensor]) -> float:
    return sum(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_float32_adapter_on_a_bfloat16_model_is_as_near_to_the_truth_as_pefts(kind: str) -> None:
    truth, model = outcome(adapted(kind)), halved(kind)
    theirs = outcome(model)
    fuse(model)
    ours = outcome(model)
    assert [x.dtype for x in ours] == [x.dtype for x in theirs]
    assert ours[1].dtype == torch.float32 and not torch.equal(ours[1], theirs[1])
    assert distance(ours, truth) < 1.2 * distance(theirs, truth)


def test_in_bfloat16_a_small_adapter_counts_in_full_forwards_and_backwards() -> None:
    """Added to what is rounded already, most of it would vanish (as it does in peft)."""
    generator = torch.Generator().manual_seed(0)
    x, w, pull = (torch.randn(64, 64, generator=generator).bfloat16() for _ in range(3))
    a, b = torch.randn(2, 64, generator=generator), 1e-4 * torch.randn(64, 2, generator=generator)

    def effect(of: Tensor, without: Tensor, exact: Tensor) -> float:
        return float(((of.double() - without.double()) * exact).sum() / exact.square().sum())

    found = []
    for size in (0.0, 1.0):
        x.grad = None
        y = LoraProduct.apply(x.requires_grad_(), w, None, a, size * b, 1.0)
        y.backward(pull)
        found.append((y.detach(), x.grad))
    (base, dx_base), (whole, dx_whole) = found
    a, b = a.double(), b.double()
    assert effect(whole, base, x.detach().double() @ a.T @ b.T) == pytest.approx(1, abs=0.15)
    assert effect(dx_whole, dx_base, pull.double() @ b @ a) == pytest.approx(1, abs=0.15)
    assert torch.equal(base, nn.functional.linear(x, w))


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_a_fresh_adapter_changes_no_bit(kind: str) -> None:
    model = halved(kind)
    fuse(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)
    ids_BL = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        found = model(input_ids=ids_BL).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids_BL).logits, found)


def test_a_lower_precision_in_the_adapter_is_left_to_peft() -> None:
    model = adapted("llama")
    for name, module in model.named_modules():
        if name.endswith((".lora_A.default", ".lora_B.default")):
            module.float()
    theirs = outcome(model)
    fuse(model)
    for own, peft in zip(outcome(model), theirs, strict=True):
        assert torch.equal(own, peft)


def test_autocast_is_left_to_peft() -> None:
    model = adapted("llama").float()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = outcome(model)
        fuse(model)
        for own, peft in zip(outcome(model), theirs, strict=True):
            assert torch.equal(own, peft)


def test_layers_that_are_no_plain_linear_layers_are_left_to_peft() -> None:
    """GPT-2's weights lie transposed (Conv1D)."""
    config = LoraConfig(r=3, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(tiny_gpt2(), config)
    theirs = outcome(model)
    fuse(model)
    for own, peft in zip(outcome(model), theirs, strict=True):
        assert torch.equal(own, peft)


def test_a_base_layer_that_learns_is_left_to_peft() -> None:
    model = adapted("llama")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.requires_grad_(True)
    theirs = outcome(model)
    fuse(model)
    for own, peft in zip(outcome(model), theirs, strict=True):
        assert torch.equal(own, peft)
