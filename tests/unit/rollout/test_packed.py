"""Repacked weights: the same numbers, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accord.rollout import packed
from accord.rollout.packed import packed_linears
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
