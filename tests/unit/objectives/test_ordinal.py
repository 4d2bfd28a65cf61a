"""Graded comparisons and ratings: what they reduce to, symmetries, and data whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError
from accord.objectives.bradley_terry import bradley_terry_loss
from accord.objectives.ordinal import (
    ordered_thresholds,
    ordinal_logps,
    ordinal_loss,
    ordinal_rating_loss,
    raw_thresholds,
)
from accord.objectives.rao_kupper import rao_kupper_loss
from accord.records import Terms

FAST = settings(max_examples=50, deadline=None)
DELTAS = st.floats(-60, 60)
STEPS = st.lists(st.floats(0.01, 5), min_size=1, max_size=4)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def metric(terms: Terms, name: str) -> list[float]:
    return [float(x) for x in terms.metrics[name]]


T_3 = f64(0.4, 1.1, 2.3)
STRENGTH_P = torch.tensor([3, 0, -1, 2, -3])
A_P, B_P = f64(1.0, -0.5, 2.0, 0.3, 0.1), f64(0.2, 0.7, 2.0, -1.5, -0.9)
WEIGHT_P = f64(1, 2, 0.5, 1.5, 1)


def minimise(loss, *parameters: Tensor) -> None:
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def test_gradient_by_finite_differences() -> None:
    inputs = [x.clone().requires_grad_() for x in (A_P, B_P, T_3)]
    assert torch.autograd.gradcheck(
        lambda a, b, t: (
            ordinal_loss(
                a, b, strength_P=STRENGTH_P, thresholds_M=t, weight_P=WEIGHT_P, center_coef=0.02
            ).loss
        ),
        inputs,
    )
    thresholds = f64(-1.0, 0.2, 0.3, 2.0).requires_grad_()
    rating_C = torch.tensor([1, 5, 3, 2, 4])
    assert torch.autograd.gradcheck(
        lambda s, t: ordinal_rating_loss(s, rating_C=rating_C, thresholds_M=t, weight_C=WEIGHT_P).loss,
        (A_P.clone().requires_grad_(), thresholds),
    )
    assert torch.autograd.gradcheck(ordered_thresholds, (f64(-3.0, 0.0, 2.0).requires_grad_(),))


@given(delta=DELTAS, steps=STEPS)
@FAST
def test_probabilities_of_all_strengths_sum_to_one(delta: float, steps: list[float]) -> None:
    thresholds_M = f64(*itertools.accumulate(steps))
    logps_1G = ordinal_logps(f64(delta), torch.cat([-thresholds_M.flip(0), thresholds_M]))
    assert logps_1G.shape == (1, 2 * len(steps) + 1)
    assert float(logps_1G.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert bool((logps_1G <= 1e-12).all())


@given(delta=DELTAS, steps=STEPS, data=st.data())
@FAST
def test_swapping_the_slots_mirrors_the_outcome(delta: float, steps: list[float], data) -> None:
    thresholds_M = f64(*itertools.accumulate(steps))
    strength = data.draw(st.integers(-len(steps), len(steps)))
    one = ordinal_loss(
        f64(delta), f64(0), strength_P=torch.tensor([strength]), thresholds_M=thresholds_M, center_coef=0.1
    )
    other = ordinal_loss(
        f64(0), f64(delta), strength_P=torch.tensor([-strength]), thresholds_M=thresholds_M, center_coef=0.1
    )
    assert_close(one.loss, other.loss, rtol=1e-9, atol=1e-9)
    assert one.metrics.keys() == other.metrics.keys()
    for name in one.metrics:
        assert metric(one, name) == pytest.approx(metric(other, name), abs=1e-12)


@given(delta=DELTAS, shift=st.floats(-5, 5))
@FAST
def test_only_differences_are_seen(delta: float, shift: float) -> None:
    strength_P = torch.tensor([2])
    here = ordinal_loss(f64(delta), f64(0), strength_P=strength_P, thresholds_M=T_3)
    there = ordinal_loss(f64(delta + shift), f64(shift), strength_P=strength_P, thresholds_M=T_3)
    assert_close(here.loss, there.loss, rtol=1e-9, atol=1e-9)
    edges, rating_C = f64(-1, 0.5, 2), torch.tensor([3])
    here = ordinal_rating_loss(f64(delta), rating_C=rating_C, thresholds_M=edges)
    there = ordinal_rating_loss(f64(delta + shift), rating_C=rating_C, thresholds_M=edges + shift)
    assert_close(here.loss, there.loss, rtol=1e-9, atol=1e-9)


def test_one_threshold_is_rao_kupper() -> None:
    label_P = f64(1, 0.5, 0, 1, 0)
    graded = ordinal_loss(
        A_P, B_P, strength_P=2 * label_P - 1, thresholds_M=f64(0.7), weight_P=WEIGHT_P, center_coef=0.01
    )
    want = rao_kupper_loss(A_P, B_P, label_P=label_P, threshold=0.7, weight_P=WEIGHT_P, center_coef=0.01)
    assert_close(graded.loss, want.loss)
    for name in want.metrics:
        assert metric(graded, name) == pytest.approx(metric(want, name))


def test_a_vanishing_threshold_without_ties_is_bradley_terry() -> None:
    label_P = f64(1, 0, 0, 1, 0)
    graded = ordinal_loss(A_P, B_P, strength_P=2 * label_P - 1, thresholds_M=f64(1e-12))
    assert_close(graded.loss, bradley_terry_loss(A_P, B_P, label_P=label_P).loss)


def test_stronger_words_pull_further() -> None:
    """At equal rewards the pull towards A grows with the strength; a tie does not pull."""
    pulls = []
    for strength in range(-3, 4):
        a_P = f64(0.0).requires_grad_()
        loss = ordinal_loss(a_P, f64(0.0), strength_P=torch.tensor([strength]), thresholds_M=T_3).loss
        pulls.append(-float(torch.autograd.grad(loss, a_P)[0]))
    assert pulls == sorted(pulls) and len(set(pulls)) == 7
    assert pulls[3] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_survive_hopeless_predictions(dtype: torch.dtype) -> None:
    """However wrong the rewards are, each strength's loss and gradient stay finite and pull the right way."""
    for strength in range(-3, 4):
        a_P = torch.tensor([-500.0], dtype=dtype, requires_grad=True)
        t_M = T_3.to(dtype).requires_grad_()
        strength_P = torch.tensor([strength])
        loss = ordinal_loss(a_P, torch.zeros_like(a_P), strength_P=strength_P, thresholds_M=t_M).loss
        loss.backward()
        assert bool(loss.isfinite()) and bool(t_M.grad.isfinite().all())
        assert float(a_P.grad[0]) == pytest.approx(0 if strength == -3 else -1, abs=1e-6)


# --- data whose answer is known ----------------------------------------------------------------------------

TRUE_K = f64(0.0, 1.3, -0.7, 2.2, 0.4)
LEFT_P, RIGHT_P = torch.tensor(list(itertools.combinations(range(5), 2))).T
TRUE_LOGPS_PG = ordinal_logps(TRUE_K[LEFT_P] - TRUE_K[RIGHT_P], torch.cat([-T_3.flip(0), T_3]))


def fit(count_PG: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of the five items (the first at 0) and thresholds, at the maximum likelihood of the counts."""
    rewards_K = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    raw_M = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    pair_N, grade_N = (count_PG > 0).nonzero().T

    def loss() -> Tensor:
        return ordinal_loss(
            rewards_K[LEFT_P[pair_N]],
            rewards_K[RIGHT_P[pair_N]],
            strength_P=grade_N - 3,
            thresholds_M=ordered_thresholds(raw_M),
            weight_P=count_PG[pair_N, grade_N] / count_PG.sum(),
        ).loss

    minimise(loss, rewards_K, raw_M)
    return rewards_K.detach() - rewards_K.detach()[0], ordered_thresholds(raw_M.detach())


def test_population_data_gives_back_rewards_and_thresholds() -> None:
    rewards_K, thresholds_M = fit(TRUE_LOGPS_PG.exp())
    assert_close(rewards_K, TRUE_K, rtol=0, atol=1e-5)
    assert_close(thresholds_M, T_3, rtol=0, atol=1e-5)


def test_sampled_data_gives_them_back_within_the_noise() -> None:
    """20 000 judgements of each pair; the worst standard error of an estimate is then about 0.01."""
    rng = torch.Generator().manual_seed(0)
    drawn_PN = torch.multinomial(TRUE_LOGPS_PG.exp(), 20_000, replacement=True, generator=rng)
    count_PG = torch.nn.functional.one_hot(drawn_PN, 7).sum(1).double()
    rewards_K, thresholds_M = fit(count_PG)
    assert_close(rewards_K, TRUE_K, rtol=0, atol=0.06)
    assert_close(thresholds_M, T_3, rtol=0, atol=0.03)


def test_population_of_ratings_gives_back_scores_and_thresholds() -> None:
    true_M = f64(-1.2, -0.1, 0.9, 2.0)
    p_KG = ordinal_logps(TRUE_K, true_M).exp()
    scores_K = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    raw_M = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    item_N, grade_N = (p_KG > 0).nonzero().T

    def loss() -> Tensor:
        edges_M = ordered_thresholds(raw_M)
        return ordinal_rating_loss(
            scores_K[item_N], rating_C=grade_N + 1, thresholds_M=edges_M, weight_C=p_KG[item_N, grade_N]
        ).loss

    minimise(loss, scores_K, raw_M)
    level = scores_K.detach()[0]
    assert_close(scores_K.detach() - level, TRUE_K, rtol=0, atol=1e-4)
    assert_close(ordered_thresholds(raw_M.detach()) - level, true_M, rtol=0, atol=1e-4)


# --- thresholds and refusals -------------------------------------------------------------------------------


@given(raw=st.lists(st.floats(-20, 50), min_size=1, max_size=5))
@FAST
def test_ordered_thresholds_are_ordered_positive_and_invertible(raw: list[float]) -> None:
    thresholds_M = ordered_thresholds(f64(*raw))
    assert bool((thresholds_M.diff(prepend=f64(0)) > 0).all())
    back_M = ordered_thresholds(raw_thresholds(thresholds_M))
    assert_close(back_M, thresholds_M, rtol=1e-6, atol=1e-9)


def test_bad_thresholds_and_grades_are_refused() -> None:
    zero = f64(0.0)

    def comparison(strength: float, *thresholds: float) -> None:
        ordinal_loss(zero, zero, strength_P=f64(strength), thresholds_M=f64(*thresholds))

    for bad in ((0.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(ConfigError, match="must be positive"):
            comparison(1, *bad)
    for bad in ((2.0, 1.0), (1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(ConfigError, match=r"increase strictly|must be positive"):
            comparison(1, *bad)
        with pytest.raises(ConfigError, match="positive and increase"):
            raw_thresholds(f64(*bad))
    for strength in (3, -3, 0.5, math.nan):
        with pytest.raises(ValueError, match="strengths are whole numbers from -2 to 2"):
            comparison(strength, 1.0, 2.0)
    for rating in (0, 4, 1.5):
        with pytest.raises(ValueError, match="ratings are whole numbers from 1 to 3"):
            ordinal_rating_loss(zero, rating_C=f64(rating), thresholds_M=f64(-1.0, 2.0))
    with pytest.raises(ValueError, match="differ in shape"):
        ordinal_loss(zero, zero, strength_P=f64(1, 1), thresholds_M=T_3)
    with pytest.raises(ValueError, match="differ in shape"):
        ordinal_rating_loss(zero, rating_C=f64(1, 1), thresholds_M=T_3)
