"""DPO, cDPO and robust DPO: where they agree, and what a margin and noise do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.objectives.dpo import cdpo_loss, dpo_loss, robust_dpo_loss
from accord.objectives.pairs import PairLogps

GAP = st.floats(-20, 20)
EPSILON = st.floats(0, 0.45)
FAST = settings(max_examples=80, deadline=None)


def pair(gap: float, margin: float | None = None) -> PairLogps:
    """One pair with h = `gap`, spread over both answers and the reference."""
    parts = [gap / 2 - 9, -11 - gap / 4, -9.0, gap / 4 - 11]
    columns = [torch.tensor([x], dtype=torch.float64) for x in parts]
    columns[0].requires_grad_()
    ones = torch.ones(1, dtype=torch.float64)
    return PairLogps(*columns, ones, ones, margin_P=None if margin is None else margin * ones)


def value(loss, data: PairLogps, **own: float) -> float:
    return float(loss(data, **own).loss.detach())


def slope(loss, data: PairLogps, **own: float) -> float:
    return float(torch.autograd.grad(loss(data, **own).loss, data.chosen_P)[0])


@given(gap=GAP)
@FAST
def test_the_gradient_is_beta_times_the_probability_of_being_wrong(gap: float) -> None:
    wrong = 1 / (1 + math.exp(0.4 * gap))
    assert slope(dpo_loss, pair(gap), beta=0.4) == pytest.approx(-0.4 * wrong, rel=1e-9)


@given(gap=GAP)
@FAST
def test_without_noise_all_three_are_one(gap: float) -> None:
    plain = value(dpo_loss, pair(gap), beta=0.2)
    assert value(cdpo_loss, pair(gap), beta=0.2, label_smoothing=0.0) == plain
    assert value(robust_dpo_loss, pair(gap), beta=0.2, label_smoothing=0.0) == plain


@given(gap=GAP, epsilon=EPSILON)
@FAST
def test_flipped_labels_give_the_robust_loss_the_clean_ones_mean(gap: float, epsilon: float) -> None:
    """E over flips of L_robust = L_DPO on the true label, exactly."""
    own = {"beta": 0.2, "label_smoothing": epsilon}
    kept, flipped = (value(robust_dpo_loss, pair(x), **own) for x in (gap, -gap))
    clean = value(dpo_loss, pair(gap), beta=0.2)
    assert (1 - epsilon) * kept + epsilon * flipped == pytest.approx(clean, rel=1e-9, abs=1e-9)


def test_cdpo_pulls_an_overconfident_pair_back() -> None:
    own = {"beta": 0.5, "label_smoothing": 0.1}
    best = math.log(0.9 / 0.1) / 0.5
    assert slope(cdpo_loss, pair(best), **own) == pytest.approx(0, abs=1e-12)
    assert slope(cdpo_loss, pair(best + 1), **own) > 0 > slope(cdpo_loss, pair(best - 1), **own)
    assert slope(dpo_loss, pair(best + 1), beta=0.5) < 0
    assert slope(robust_dpo_loss, pair(best + 1), **own) < 0, "the robust form never calls a pair settled"


@given(gap=GAP, margin=st.floats(0, 3))
@FAST
def test_a_margin_asks_for_that_much_more_reward(gap: float, margin: float) -> None:
    """β h - m: the same loss as a pair whose h is m/β smaller; without a coefficient it does nothing."""
    with_margin = value(dpo_loss, pair(gap, margin), beta=0.5, margin_coef=2.0)
    assert with_margin == pytest.approx(value(dpo_loss, pair(gap - 4 * margin), beta=0.5), rel=1e-9)
    assert value(dpo_loss, pair(gap, margin), beta=0.5) == value(dpo_loss, pair(gap), beta=0.5)
