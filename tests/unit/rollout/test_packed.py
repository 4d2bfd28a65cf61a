"""Repacked weights: the same numbers, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accord.models.products import quicken
from accord.rollout import packed
from accord.rollout.llama import Llama
from accord.rollout.packed import Packing, multiplies_bfloat16, packed_linears
from tiny import tiny_llama


def _layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 160, bias=bias).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96), (64, 1, 96), (3, 7, 96)])
@torch.no_grad()
def test_equal_to_the_plain_layer(shape, bias):
    layer, x = _layer(bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exact = layer.double()(x.double())
    layer.float()
    with packed_linears(layer, 64):
        assert "forward" in layer.__dict__
        torch.testing.assert_close(layer(x).double(), exact, rtol=0, atol=1e-5)


def test_quickened_layers_are_packed_too():
    layer = nn.Linear(8, 16)
    quicken(nn.Sequential(layer))
    with packed_linears(nn.Sequential(layer), 4):
        assert "forward" in layer.__dict__


@torch.no_grad()
def test_new_weights_count_in_the_next_block():
    layer, x = _layer(), torch.ones(2, 96)
    with packed_linears(layer, 2):
        before = layer(x)
    layer.weight.mul_(-2)
    layer.bias.mul_(-2)
    with packed_linears(layer, 2):
        torch.testing.assert_close(layer(x), -2 * before)


def test_layers_are_plain_again_after_the_block_and_after_an_interrupt():
    model = tiny_llama()
    with pytest.raises(KeyboardInterrupt), packed_linears(model, 4):
        assert "forward" in model.lm_head.__dict__
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in model.modules())
    loss = model(torch.arange(5)[None]).logits.sum()
    loss.backward()
    assert model.lm_head.weight.grad is not None


def test_other_layers_are_left_alone(monkeypatch):
    class Adapted(nn.Linear):
        pass

    model = nn.ModuleList([Adapted(4, 4), nn.Linear(4, 4).double(), nn.LayerNorm(4)])
    with packed_linears(model, 4):
        assert not any("forward" in module.__dict__ for module in model)
    monkeypatch.setattr(packed, "LIMIT", 10)
    layer = _layer()
    with packed_linears(layer, 4):
        assert "forward" not in layer.__dict__


@pytest.mark.parametrize("biases", [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_layers_that_read_the_same_are_one_product(biases, dtype):
    torch.manual_seed(0)
    layers = [nn.Linear(24, size, bias=bias).to(dtype) for size, bias in zip((40, 8), biases, strict=True)]
    x = torch.randn(5, 24, dtype=dtype)
    exact = torch.cat([layer.double()(x.double()) for layer in layers], -1)
    for layer in layers:
        layer.to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(Packing(5).product(*layers)(x).double(), exact, rtol=0, atol=tolerance)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_bfloat16_rounds_what_is_multiplied_and_the_result_and_nothing_else(bias):
    layer, x = _layer(bias), torch.randn(7, 96, generator=torch.Generator().manual_seed(1))
    rounded = x.bfloat16().double() @ layer.weight.bfloat16().double().T
    if bias:
        rounded += layer.bias.bfloat16().double()
    found = Packing(7, torch.bfloat16).product(layer)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rounded, rtol=2**-8, atol=1e-4)
    assert (found - layer(x)).abs().max() > 1e-3
    with packed_linears(layer, 7, torch.bfloat16):
        assert torch.equal(layer(x), found)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")
@torch.no_grad()
def test_the_head_is_not_rounded():
    model, x = tiny_llama(), torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    exact = model.lm_head(x)
    torch.testing.assert_close(Llama(model, 4, torch.bfloat16).head(x), exact, rtol=0, atol=1e-5)
    with packed_linears(model, 4, torch.bfloat16):
        torch.testing.assert_close(model.lm_head(x), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("act", [nn.SiLU(), nn.GELU()])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_gate_and_what_it_lets_through(act, bias):
    torch.manual_seed(0)
    gate, up = (nn.Linear(24, 40, bias=bias) for _ in range(2))
    x = torch.randn(5, 24)
    found = Packing(5).gated(gate, up, act)(x)
    exact = act(gate.double()(x.double())) * up.double()(x.double())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    gate.float(), up.float()
    if multiplies_bfloat16():
        rounded = Packing(5, torch.bfloat16).gated(gate, up, act)(x)
        torch.testing.assert_close(rounded.double(), exact, rtol=2e-2, atol=2e-2)
        assert (rounded - found).abs().max() > 1e-4
