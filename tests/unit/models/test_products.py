"""Products by oneDNN: the numbers of plain ones, whichever library makes them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from accord.models import products
from accord.models.products import ProductLinear, product, quicken
from tiny import tiny_llama

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.3}
THERE = torch.backends.mkldnn.is_available()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.sampled_from(sorted(TOLERANCE, key=str)),
)
def test_it_is_x_times_the_transpose_plus_the_bias(
    count: int, inner: int, outer: int, bias: bool, view: bool, dtype: torch.dtype
) -> None:
    x_FK = torch.randn(count, inner).to(dtype)
    w_NK = torch.randn(inner, outer).to(dtype).t() if view else torch.randn(outer, inner).to(dtype)
    bias_N = torch.randn(outer).to(dtype) if bias else None
    expected = x_FK.double() @ w_NK.double().T + (0 if bias_N is None else bias_N.double())
    found = product(x_FK, w_NK, bias_N)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_a_layer_has_the_values_and_gradients_of_a_plain_one(bias: bool, learns: bool) -> None:
    theirs = nn.Linear(6, 7, bias=bias).requires_grad_(learns)
    ours = copy.deepcopy(theirs)
    quicken(nn.Sequential(ours))
    assert type(ours) is ProductLinear
    x, weights = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 7)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    wanted = [[x, *layer.parameters()] if learns else [x] for layer in (ours, theirs)]
    gradients = [
        torch.autograd.grad((y * weights).sum(), of) for y, of in zip((found, expected), wanted, strict=True)
    ]
    assert len(gradients[0]) == 1 + learns * (1 + bias)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_every_plain_layer_of_a_model_is_quickened() -> None:
    model = tiny_llama()
    ids = torch.arange(6)[None]
    before = model(input_ids=ids).logits
    kinds = [type(m) for m in model.modules()]
    quicken(model)
    assert sum(type(m) is ProductLinear for m in model.modules()) == sum(k is nn.Linear for k in kinds) > 7
    torch.testing.assert_close(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("there", [True, False])
def test_torchs_own_is_used_where_the_other_is_not(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(products, "onednn", lambda: there and THERE)
    monkeypatch.setattr(products, "linear", lambda *a: calls.append(1) or nn.functional.linear(*a))
    x_FK, w_NK = torch.randn(3, 4), torch.randn(2, 4)
    torch.testing.assert_close(product(x_FK, w_NK), x_FK @ w_NK.T)
    assert bool(calls) == (not (there and THERE))


def test_autocast_keeps_its_dtype() -> None:
    layer = nn.Linear(4, 4)
    quicken(nn.Sequential(layer))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4)).dtype == torch.bfloat16
