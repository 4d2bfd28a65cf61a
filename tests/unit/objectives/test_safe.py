"""Safe RLHF: where zero lies, how the two advantages mix, and how the multiplier moves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.safe import cost_loss, lagrangian_advantages, update_multiplier


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


YES, NO = torch.tensor([True]), torch.tensor([False])


def test_gradient_by_finite_differences() -> None:
    costs = f64(1.0, -0.5, 2.0).requires_grad_(), f64(0.2, 0.7, 2.0).requires_grad_()
    settings = {
        "label_P": f64(1, 0, 0.5),
        "unsafe_A_P": torch.tensor([True, False, True]),
        "unsafe_B_P": torch.tensor([False, False, True]),
        "weight_P": f64(1, 2, 0.5),
    }
    assert torch.autograd.gradcheck(lambda a, b: cost_loss(a, b, **settings).loss, costs)


def test_zero_is_the_border_of_safety() -> None:
    """Comparisons alone leave the level free; fitted costs are above 0 if unsafe and below it if safe."""
    harm_K, unsafe_K = (0.0, 1.0, 2.0, 3.0), torch.tensor([False, False, True, True])
    costs_K = torch.full((4,), 10.0, dtype=torch.float64, requires_grad=True)
    left_P, right_P = torch.tensor(list(itertools.combinations(range(4), 2))).T
    optimiser = torch.optim.LBFGS([costs_K], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        label_P = torch.sigmoid(torch.tensor(harm_K)[left_P] - torch.tensor(harm_K)[right_P]).double()
        loss = cost_loss(
            costs_K[left_P],
            costs_K[right_P],
            label_P=label_P,
            unsafe_A_P=unsafe_K[left_P],
            unsafe_B_P=unsafe_K[right_P],
        ).loss
        loss.backward()
        return loss

    optimiser.step(closure)
    fitted = costs_K.detach().tolist()
    assert fitted == sorted(fitted)
    assert fitted[1] < 0 < fitted[2]
    assert sum(fitted) == pytest.approx(0, abs=1e-4)  # by the symmetry of this data


def test_swapping_the_slots_changes_nothing() -> None:
    one = cost_loss(f64(1.0), f64(-0.3), label_P=f64(0.8), unsafe_A_P=YES, unsafe_B_P=NO)
    other = cost_loss(f64(-0.3), f64(1.0), label_P=f64(0.2), unsafe_A_P=NO, unsafe_B_P=YES)
    assert_close(one.loss, other.loss)


def test_the_comparison_is_bradley_terrys() -> None:
    compared = bradley_terry_loss(f64(1.0), f64(-0.3), label_P=f64(1))
    got = cost_loss(f64(1.0), f64(-0.3), label_P=f64(1), unsafe_A_P=YES, unsafe_B_P=NO)
    border = math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-0.3))
    assert float(got.loss) == pytest.approx(float(compared.loss) + border)
    assert compared.metrics.keys() < got.metrics.keys()
    assert [float(x) for x in got.metrics["costs/safety_accuracies"]] == [2.0, 2.0]


def test_costs_of_zero_are_half_right() -> None:
    terms = cost_loss(f64(0.0), f64(0.0), label_P=f64(1), unsafe_A_P=YES, unsafe_B_P=YES)
    assert [float(x) for x in terms.metrics["costs/safety_accuracies"]] == [1.0, 2.0]


def test_the_multiplier_trades_reward_for_cost() -> None:
    reward_CT, cost_CT = f64(1.0, -2.0)[None], f64(0.5, 3.0)[None]
    assert_close(lagrangian_advantages(reward_CT, cost_CT, 0.0), reward_CT)
    assert_close(lagrangian_advantages(reward_CT, cost_CT, 1.0), (reward_CT - cost_CT) / 2)
    assert_close(lagrangian_advantages(reward_CT, cost_CT, 1e12), -cost_CT)


def test_the_multiplier_moves_by_its_logs_gradient() -> None:
    """d/d ln λ of λ (E[C] - limit) is λ (E[C] - limit): up while the limit is broken, else down."""
    for start in (0.1, 1.0, 3.0):
        log = f64(math.log(start)).requires_grad_()
        (slope,) = torch.autograd.grad((log.exp() * (0.7 - 0.2)).sum(), log)
        got = update_multiplier(start, 0.7, limit=0.2, learning_rate=0.05)
        assert math.log(got) == pytest.approx(math.log(start) + 0.05 * float(slope))
        assert update_multiplier(start, 0.1, limit=0.2) < start < update_multiplier(start, 0.3, limit=0.2)
        assert update_multiplier(start, 0.2, limit=0.2) == pytest.approx(start)
    assert update_multiplier(1.0, 1e6, maximum=5.0) == pytest.approx(5.0)
    assert math.isfinite(update_multiplier(1.0, 1e9))
    assert update_multiplier(1.0, -1e9) > 0


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="at least 0, not -1"):
        lagrangian_advantages(f64(1.0)[None], f64(1.0)[None], -1)
    with pytest.raises(ConfigError, match="at least 0, not nan"):
        lagrangian_advantages(f64(1.0)[None], f64(1.0)[None], math.nan)
    with pytest.raises(ValueError, match="differ in shape"):
        lagrangian_advantages(f64(1.0)[None], f64(1.0), 1)
    for bad in ({"multiplier": 0.0}, {"learning_rate": 0.0}, {"maximum": -1.0}):
        with pytest.raises(ConfigError, match="must be positive"):
            update_multiplier(**{"multiplier": 1.0, "mean_cost": 0.1, **bad})
    with pytest.raises(ValueError, match="differ in shape"):
        cost_loss(f64(1.0), f64(1.0), label_P=f64(1), unsafe_A_P=YES, unsafe_B_P=torch.tensor([True, False]))
