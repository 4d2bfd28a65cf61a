"""Micro-batches side by side: the same numbers, whichever lane was first."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from accord.config import Optim
from accord.records import Terms
from accord.training.engine import Engine, ParameterGroup
from accord.training.lanes import each, in_lanes, lanes


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_as_many_lanes_as_cores_but_no_more_than_are_known_to_pay() -> None:
    assert lanes() == 2
    torch.set_num_threads(3)
    assert lanes() == 2
    torch.set_num_threads(1)
    assert lanes() == 1


@given(st.lists(st.integers(), max_size=9))
@settings(deadline=None)
def test_results_come_in_the_order_of_the_items(items: list[int]) -> None:
    assert each(lambda item: -item, items) == [-item for item in items]


def test_lanes_run_at_once_with_the_cores_shared_and_the_callers_gradient_mode() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def work(own: object) -> tuple[object, int, bool]:
        meeting.wait()  # would time out, were one to run after the other
        return own, torch.get_num_threads(), torch.is_grad_enabled()

    assert in_lanes(work, [1, 2, 3]) == [([1, 3], 1, True), ([2], 1, True)]
    with torch.no_grad():
        assert in_lanes(work, [1, 2]) == [([1], 1, False), ([2], 1, False)]
    assert torch.get_num_threads() == 2


def test_an_error_in_a_lane_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda item: 1 // item, [1, 0, 2])


# Losses whose gradients lie transposed, are one tensor for both parameters, or are expanded from a number.
AWKWARD = {
    "transposed": lambda w, v, x: (w.T.contiguous() * x).square().sum() + (v * x).sum(),
    "shared": lambda w, v, x: ((w + v) * x).square().sum(),
    "expanded": lambda w, v, x: w.sum() * x.sum() + v.sum(),
    "unused": lambda w, v, x: (v * x).square().sum(),
}


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("cores", [1, 2])
def test_gradients_are_those_of_one_backward_pass(kind: str, count: int, cores: int) -> None:
    torch.set_num_threads(cores)
    generator = torch.Generator().manual_seed(count)
    start = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    batches = list(torch.randn(count, 3, dtype=torch.float64, generator=generator))
    w, v = (nn.Parameter(t.clone()) for t in start)
    torch.stack([AWKWARD[kind](w, v, x) for x in batches]).sum().backward()
    own = {"w": nn.Parameter(start[0].clone()), "v": nn.Parameter(start[1].clone())}
    optim = Optim(learning_rate=1e-3, max_grad_norm=1e9, schedule="constant")
    engine = Engine({"p": ParameterGroup(own, 1e-3)}, optim)

    def loss(x: Tensor) -> Terms:
        return Terms(AWKWARD[kind](own["w"], own["v"], x), {"x": (x.sum(), 1)})

    means = engine.step(batches, loss, count=2.0, progress=0.5)
    assert means["x"] == pytest.approx(float(sum(x.sum() for x in batches)) / count)
    for found, expected in ((own["w"], w), (own["v"], v)):
        if expected.grad is None:
            assert found.grad is None
            continue
        torch.testing.assert_close(found.grad, expected.grad / 2, rtol=1e-12, atol=1e-12)
        assert found.grad is not None and found.grad.stride() == found.stride()
