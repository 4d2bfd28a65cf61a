"""One step of training, against hand-written float64 arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from accord.config import Optim
from accord.errors import NumericsError
from accord.records import Terms
from accord.training.engine import Engine, ParameterGroup, learning_rate_share, merge_means

SGD_LIKE = Optim(learning_rate=0.1, schedule="constant", max_grad_norm=1e9)


def world(seed: int = 0, n: int = 12) -> tuple[nn.Parameter, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(torch.randn(3, dtype=torch.float64, generator=generator))
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return w, x, torch.randn(n, dtype=torch.float64, generator=generator)


def squares(w: nn.Parameter, x: Tensor, y: Tensor) -> object:
    def loss(rows: Tensor) -> Terms:
        error = (x[rows] @ w - y[rows]).square()
        return Terms(error.sum(), {"error": (error.detach().sum(), len(rows))})

    return loss


def adamw(w: np.ndarray, gradients: list[np.ndarray], optim: Optim) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2, with bias correction."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        w = w - optim.learning_rate * optim.weight_decay * w
        m = optim.adam_beta1 * m + (1 - optim.adam_beta1) * g
        v = optim.adam_beta2 * v + (1 - optim.adam_beta2) * g * g
        m_hat, v_hat = m / (1 - optim.adam_beta1**t), v / (1 - optim.adam_beta2**t)
        w = w - optim.learning_rate * m_hat / (np.sqrt(v_hat) + optim.adam_epsilon)
    return w


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 2 * x.T @ (x @ w - y) / len(y)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_the_gradient_does_not_know_how_the_batch_was_cut(sizes: list[int], seed: int) -> None:
    w, x, y = world(seed, sum(sizes))
    expected = gradient(w.detach().numpy(), x.numpy(), y.numpy())
    engine = Engine({"w": ParameterGroup({"w": w}, 0.0)}, SGD_LIKE)
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).split(sizes)
    metrics = engine.step(list(rows), squares(w, x, y), count=len(y), progress=0.5)
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-12, atol=1e-12)
    mean = float(((x @ w.detach() - y) ** 2).mean())
    assert metrics["loss"] == pytest.approx(mean, rel=1e-12)
    assert metrics["error"] == pytest.approx(mean, rel=1e-12)
    assert metrics["grad_norm"] == pytest.approx(float(np.linalg.norm(expected)), rel=1e-6)


def test_three_steps_are_adamw() -> None:
    optim = SGD_LIKE.model_copy(update={"weight_decay": 0.05})
    w, x, y = world()
    engine = Engine({"w": ParameterGroup({"w": w}, optim.learning_rate)}, optim)
    start, gradients = w.detach().numpy().copy(), []
    for _ in range(3):
        gradients.append(gradient(w.detach().numpy(), x.numpy(), y.numpy()))
        engine.step([torch.arange(12)], squares(w, x, y), count=12, progress=0.5)
    np.testing.assert_allclose(w.detach().numpy(), adamw(start, gradients, optim), rtol=1e-10)


def test_clipping_scales_the_whole_gradient() -> None:
    w, x, y = world()
    engine = Engine({"w": ParameterGroup({"w": w}, 0.0)}, SGD_LIKE.model_copy(update={"max_grad_norm": 0.01}))
    engine.step([torch.arange(12)], squares(w, x, y), count=12, progress=0.5)
    direction = gradient(w.detach().numpy(), x.numpy(), y.numpy())
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 0.01 * direction / np.linalg.norm(direction), rtol=1e-4)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    w, x, y = world()
    before = w.detach().clone()
    engine = Engine({"w": ParameterGroup({"w": w}, 0.1)}, SGD_LIKE)
    x[3, 1] = math.inf
    with pytest.raises(NumericsError, match="lower the learning rate"):
        engine.step([torch.arange(12)], squares(w, x, y), count=12, progress=0.5)
    assert torch.equal(w.detach(), before)


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ("constant", 0.5, 1.0),
        ("linear", 0.1, 1.0),
        ("linear", 0.55, 0.5),
        ("cosine", 0.55, 0.5),
        ("cosine", 0.325, 0.5 * (1 + math.cos(math.pi / 4))),
        ("linear", 0.05, 0.5),  # half-way through the warm-up
    ],
)
def test_the_schedule(schedule: str, progress: float, expected: float) -> None:
    assert learning_rate_share(schedule, progress, 0.1) == pytest.approx(expected)


def test_a_restored_engine_goes_on_bit_for_bit() -> None:
    def fresh() -> tuple[Engine, object]:
        w, x, y = world()
        return Engine({"w": ParameterGroup({"w": w}, 0.1)}, SGD_LIKE), squares(w, x, y)

    straight, loss = fresh()
    for _ in range(4):
        straight.step([torch.arange(12)], loss, count=12, progress=0.5)
    first, loss = fresh()
    for _ in range(2):
        first.step([torch.arange(12)], loss, count=12, progress=0.5)
    first.extra["kl_coef"] = 0.3
    saved = {k: v.clone() for k, v in first.tensors().items()}
    second, loss = fresh()
    second.restore(saved, first.extra)
    for _ in range(2):
        second.step([torch.arange(12)], loss, count=12, progress=0.5)
    assert second.extra == {"kl_coef": 0.3}
    for name, value in straight.tensors().items():
        if name != "rng":
            assert torch.equal(value, second.tensors()[name]), name


def test_metrics_that_only_some_steps_have_are_averaged_over_those() -> None:
    assert merge_means([{"a": 1.0, "b": 4.0}, {"a": 3.0}]) == {"a": 2.0, "b": 4.0}


@pytest.mark.parametrize("resumed_after", [None, 2, 4])
def test_the_last_steps_are_averaged(resumed_after: int | None) -> None:
    """The mean of the parameters after the steps of the last share, also across a checkpoint."""
    optim = SGD_LIKE.model_copy(update={"average_share": 0.6})
    w, x, y = world()

    def fresh(parameter: nn.Parameter) -> Engine:
        return Engine({"w": ParameterGroup({"w": parameter}, 0.1)}, optim)

    engine, seen = fresh(w), []
    for step in range(5):
        if step == resumed_after:
            kept = {k: v.clone() for k, v in engine.tensors().items()}
            w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
            engine = fresh(w)
            engine.restore(kept, {})
        engine.step([torch.arange(12)], squares(w, x, y), count=12, progress=(step + 0.5) / 5)
        seen.append(w.detach().clone())
    last = w.detach().clone()
    engine.finish()
    torch.testing.assert_close(w.detach(), torch.stack(seen[2:]).mean(0), rtol=1e-12, atol=1e-12)
    assert (w.detach() - last).abs().max() > 0.01
    engine.finish()
    torch.testing.assert_close(w.detach(), torch.stack(seen[2:]).mean(0), rtol=1e-12, atol=1e-12)


def test_without_a_share_the_last_parameters_stay() -> None:
    w, x, y = world()
    engine = Engine({"w": ParameterGroup({"w": w}, 0.1)}, SGD_LIKE)
    for step in range(3):
        engine.step([torch.arange(12)], squares(w, x, y), count=12, progress=(step + 0.5) / 3)
    last = w.detach().clone()
    assert "averaged" not in engine.tensors()
    engine.finish()
    assert torch.equal(w.detach(), last)
