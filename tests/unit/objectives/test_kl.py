"""KL estimators: exact expectations and gradients over a small vocabulary, enumerated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.objectives.kl import k1, k2, k3


@pytest.fixture
def logits_V() -> Tensor:
    return torch.tensor([0.3, -1.2, 0.8, 2.0, -0.4], dtype=torch.float64, requires_grad=True)


REF_V = torch.tensor([1.0, 0.1, -0.7, 0.9, 0.4], dtype=torch.float64).log_softmax(0)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("estimator", [k1, k3])
def test_k1_and_k3_are_unbiased(estimator, logits_V: Tensor) -> None:
    logps_V = logits_V.log_softmax(0)
    assert_close((logps_V.exp() * estimator(logps_V, REF_V)).sum(), exact_kl(logps_V, REF_V))


def test_k2_is_biased_far_away_and_nearly_right_close_by(logits_V: Tensor) -> None:
    def relative_bias(step: float) -> float:
        logps_V = (REF_V + step * logits_V.detach()).log_softmax(0)
        truth = exact_kl(logps_V, REF_V)
        return float(((logps_V.exp() * k2(logps_V, REF_V)).sum() - truth) / truth)

    assert abs(relative_bias(3.0)) > 0.1
    assert abs(relative_bias(0.001)) < 0.001


def test_signs(logits_V: Tensor) -> None:
    logps_V = logits_V.log_softmax(0)
    assert (k1(logps_V, REF_V) < 0).any() and (k1(logps_V, REF_V) > 0).any()
    assert (k2(logps_V, REF_V) >= 0).all() and (k3(logps_V, REF_V) >= 0).all()
    assert (k1(torch.tensor([-1.0]), torch.tensor([-2.0])) > 0).all()  # the policy likes the token more


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_exactly_zero_at_the_reference(estimator) -> None:
    logps = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 30
    assert (estimator(logps, logps) == 0).all()


def test_k3_keeps_its_digits_near_zero() -> None:
    d = torch.tensor([1e-8], dtype=torch.float64)  # exp(-d) - 1 + d has none left: d² / 2 = 5e-17
    assert_close(k3(d, torch.zeros_like(d)), d**2 / 2 - d**3 / 6, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (k1, lambda p: p.sum() * 0),
        (k2, lambda p: exact_kl(p, REF_V)),
        (k3, lambda p: exact_kl(REF_V, p)),
    ],
)
def test_gradients_as_losses(estimator, target, logits_V: Tensor) -> None:
    """What each estimator would push the policy towards if it were differentiated on-policy."""
    logps_V = logits_V.log_softmax(0)
    (want,) = torch.autograd.grad(target(logps_V), logits_V)
    logps_V = logits_V.log_softmax(0)
    (got,) = torch.autograd.grad((logps_V.exp().detach() * estimator(logps_V, REF_V)).sum(), logits_V)
    assert_close(got, want)
