"""ORPO's log-odds where probabilities are rounded to 0 and to 1, and the order it sees."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.objectives.orpo import log_odds, orpo_loss
from accord.objectives.pairs import PairLogps


@given(p=st.floats(1e-6, 1 - 1e-6))
@settings(max_examples=80, deadline=None)
def test_log_odds_is_the_logit(p: float) -> None:
    got = log_odds(torch.tensor([math.log(p)], dtype=torch.float64))
    assert float(got) == pytest.approx(math.log(p / (1 - p)), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_and_its_gradient_are_finite_at_both_ends(dtype: torch.dtype) -> None:
    logp_P = torch.tensor([0.0, -1e-30, -1e-9, -50.0, -1e4], dtype=dtype, requires_grad=True)
    odds_P = log_odds(logp_P)
    (slope_P,) = torch.autograd.grad(odds_P.sum(), logp_P)
    assert torch.isfinite(odds_P).all() and torch.isfinite(slope_P).all()
    assert (slope_P >= 1).all() and float(slope_P[0]) > 1e6, "a certain answer still feels a pull"
    assert odds_P[3:].tolist() == pytest.approx([-50.0, -1e4])
    assert float(odds_P[0].detach()) == pytest.approx(-math.log(torch.finfo(dtype).eps), rel=1e-3)


def test_length_does_not_matter_but_likelihood_per_token_does() -> None:
    def loss(chosen: float, n: float) -> float:
        columns = (chosen, -6.0, 0.0, 0.0, n, 3.0)
        return float(orpo_loss(PairLogps(*(torch.tensor([x]) for x in columns)), beta=0.1).loss)

    assert loss(-6.0, 3) == pytest.approx(0.1 * math.log(2))
    assert loss(-60.0, 30) == pytest.approx(0.1 * math.log(2))
    assert loss(-5.0, 3) < 0.1 * math.log(2) < loss(-7.0, 3)
