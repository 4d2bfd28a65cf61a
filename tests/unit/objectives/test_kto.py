"""KTO: bounded, saturating on both sides, with a baseline that no gradient passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives.kto import kl_baseline, kto_loss

LOGPS_C = torch.tensor([-3.0, -7.0, -5.0, -2.0], dtype=torch.float64)
REF_C = torch.tensor([-4.0, -6.0, -5.0, -6.0], dtype=torch.float64)
GOOD_C = torch.tensor([True, False, True, False])
OWN = {"good_C": GOOD_C, "baseline": 0.5, "beta": 0.4, "desirable_weight": 1.3, "undesirable_weight": 0.7}


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_gradient_by_finite_differences() -> None:
    logps_C = LOGPS_C.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kto_loss(x, REF_C, **OWN).loss, logps_C)


def test_good_answers_are_pushed_up_and_bad_ones_down() -> None:
    logps_C = LOGPS_C.clone().requires_grad_()
    (slope_C,) = torch.autograd.grad(kto_loss(logps_C, REF_C, **OWN).loss, logps_C)
    assert ((slope_C < 0) == GOOD_C).all() and (slope_C != 0).all()


@given(ratio=st.floats(-300, 300), baseline=st.floats(0, 10), good=st.booleans())
@settings(max_examples=80, deadline=None)
def test_an_answers_loss_lies_between_zero_and_its_weight(ratio: float, baseline: float, good: bool) -> None:
    own = {**OWN, "good_C": torch.tensor([good]), "baseline": baseline}
    loss = float(kto_loss(vector(ratio), vector(0.0), **own).loss)
    assert 0 <= loss <= (1.3 if good else 0.7)


def test_at_the_baseline_the_loss_is_half_and_the_answer_half_right() -> None:
    terms = kto_loss(vector(0.5, 0.5), vector(0.0, 0.0), **{**OWN, "good_C": GOOD_C[:2]})
    assert float(terms.loss) == pytest.approx((1.3 + 0.7) / 2)
    assert [float(x) for x in terms.metrics["rewards/accuracies"]] == [1.0, 2.0]


def test_metrics_keep_good_and_bad_apart() -> None:
    weight_C = vector(1, 2, 3, 4)
    metrics = kto_loss(LOGPS_C, REF_C, **OWN, weight_C=weight_C).metrics
    sums = {name: tuple(float(x) for x in pair) for name, pair in metrics.items()}
    assert sums["rewards/chosen"] == pytest.approx((0.4 * (1 * 1 + 3 * 0), 4))
    assert sums["rewards/rejected"] == pytest.approx((0.4 * (2 * -1 + 4 * 4), 6))
    assert sums["logps/chosen"] == (-3 - 15, 4)
    assert sums["logps/rejected"] == (-14 - 8, 6)
    assert sums["rewards/accuracies"] == (1 + 2, 10)  # ratios 1, -1, 0, 4 against a baseline of 0.5
    assert sums["kl"] == (0.5 * 10, 10)


def test_micro_batches_add_up_for_one_baseline() -> None:
    def part(keep: slice) -> Tensor:
        return kto_loss(LOGPS_C[keep], REF_C[keep], **{**OWN, "good_C": GOOD_C[keep]}).loss

    assert_close(part(slice(0, 1)) + part(slice(1, None)), part(slice(None)))


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_baseline_is_never_negative_and_carries_no_gradient(ratios: list[float]) -> None:
    logps_C = vector(*ratios).requires_grad_()
    baseline = kl_baseline(logps_C, torch.zeros_like(logps_C))
    assert float(baseline) == pytest.approx(max(0.0, sum(ratios) / len(ratios)), abs=1e-12)
    assert not baseline.requires_grad


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_settings_that_are_not_positive_are_refused(name: str) -> None:
    own: dict[str, Any] = {**OWN, name: 0.0}
    with pytest.raises(ConfigError, match=f"{name} must be positive, not 0"):
        kto_loss(LOGPS_C, REF_C, **own)


def test_shapes_and_an_empty_baseline_are_refused() -> None:
    with pytest.raises(ValueError, match=r"good_C \(3,\)"):
        kto_loss(LOGPS_C, REF_C, **{**OWN, "good_C": GOOD_C[:3]})
    with pytest.raises(ValueError, match="at least one mismatched answer"):
        kl_baseline(vector(), vector())
