"""Rankings: what they reduce to, what they must not depend on, and data whose answer is known."""

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
from accord.objectives.plackett_luce import plackett_luce_loss

FAST = settings(max_examples=50, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def nll(scores_C: Tensor, ranks: tuple[int, ...], **settings) -> Tensor:
    """Of one ranking."""
    rank_C = torch.tensor(ranks)
    return plackett_luce_loss(scores_C, rank_C=rank_C, group_C=torch.zeros_like(rank_C), **settings).loss


def draw(seed: int, n: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    scores_C = torch.randn(n, generator=rng, dtype=torch.float64)
    return scores_C, torch.randint(1, 5, (n,), generator=rng), torch.randint(0, 3, (n,), generator=rng)


@given(a=st.floats(-50, 50), b=st.floats(-50, 50), first=st.booleans(), center=st.floats(0, 1))
@FAST
def test_two_answers_are_bradley_terry(a: float, b: float, first: bool, center: float) -> None:
    ranks = (1, 2) if first else (2, 1)
    rank_C, group_C = torch.tensor(ranks), torch.tensor([7, 7])
    got = plackett_luce_loss(f64(a, b), rank_C=rank_C, group_C=group_C, center_coef=center)
    want = bradley_terry_loss(f64(a), f64(b), label_P=f64(float(first)), center_coef=center)
    assert_close(got.loss, want.loss, rtol=1e-9, atol=1e-9)
    for name in want.metrics:
        assert [float(x) for x in got.metrics[name]] == pytest.approx([float(x) for x in want.metrics[name]])


def test_two_tied_answers_are_the_label_one_half_twice() -> None:
    for a in (-3.0, 0.0, 1.5):
        half = 2 * bradley_terry_loss(f64(a), f64(0.0), label_P=f64(0.5)).loss
        assert_close(nll(f64(a, 0.0), (1, 1), ties="breslow"), half)
        assert_close(nll(f64(a, 0.0), (1, 1), ties="efron"), half - math.log(2))


def test_the_probabilities_of_all_orders_sum_to_one() -> None:
    scores_C = f64(0.3, -1.2, 2.0, 0.9)
    total = sum(float(torch.exp(-nll(scores_C, ranks))) for ranks in itertools.permutations(range(4)))
    assert total == pytest.approx(1, abs=1e-12)


@given(seed=SEEDS, shift=st.floats(-30, 30), ties=st.sampled_from(["efron", "breslow"]))
@FAST
def test_each_group_may_be_shifted_permuted_and_relabelled(seed: int, shift: float, ties: str) -> None:
    scores_C, rank_C, group_C = draw(seed)
    want = plackett_luce_loss(scores_C, rank_C=rank_C, group_C=group_C, ties=ties).loss
    shifted_C = scores_C + shift * (group_C == 1)
    order_C = torch.randperm(len(scores_C), generator=torch.Generator().manual_seed(seed + 1))
    got = plackett_luce_loss(
        shifted_C[order_C], rank_C=10 * rank_C[order_C] - 3, group_C=100 - group_C[order_C], ties=ties
    ).loss
    assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradient_by_finite_differences(ties: str) -> None:
    scores_C, rank_C, group_C = draw(3)
    weight_C = f64(0.5, 1.0, 2.0)[group_C]
    assert torch.autograd.gradcheck(
        lambda s: (
            plackett_luce_loss(
                s, rank_C=rank_C, group_C=group_C, weight_C=weight_C, ties=ties, center_coef=0.1
            ).loss
        ),
        scores_C.requires_grad_(),
    )


def test_efron_is_closer_than_breslow_to_the_average_over_orders() -> None:
    """Two answers tied behind a better one and before a worse one; the exact likelihood tries both orders."""
    for scores in ((1.0, 0.2, -0.1, -1.0), (0.0, 1.0, -1.0, 0.5)):
        scores_C = f64(*scores)
        exact = -math.log(sum(float(torch.exp(-nll(scores_C, r))) for r in ((1, 2, 3, 4), (1, 3, 2, 4))) / 2)
        efron, breslow = (float(nll(scores_C, (1, 2, 2, 3), ties=t)) for t in ("efron", "breslow"))
        assert abs(efron - exact) < abs(breslow - exact) / 2


def test_population_data_gives_back_the_true_scores() -> None:
    true_K = f64(0.0, 1.3, -0.7, 0.8)
    orders = list(itertools.permutations(range(1, 5)))
    p_R = torch.stack([torch.exp(-nll(true_K, ranks)) for ranks in orders])
    scores_K = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scores_K], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = plackett_luce_loss(
            scores_K.repeat(len(orders)),
            rank_C=torch.tensor(orders).flatten(),
            group_C=torch.arange(len(orders)).repeat_interleave(4),
            weight_C=p_R.repeat_interleave(4),
        ).loss
        value.backward()
        return value

    optimiser.step(closure)
    assert_close(scores_K.detach() - scores_K.detach()[0], true_K, rtol=0, atol=1e-6)


def test_huge_scores_stay_finite_and_one_answer_says_nothing() -> None:
    scores_C = f64(-1e4, 1e4, 0.0).requires_grad_()
    loss = nll(scores_C, (1, 2, 2))
    assert float(loss.detach()) == pytest.approx(3e4 - math.log(2))
    assert bool(torch.autograd.grad(loss, scores_C)[0].isfinite().all())
    assert float(nll(f64(3.0), (1,))) == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"answers \[1, 2\] share a place"):
        nll(f64(1, 2, 3), (1, 2, 2), ties="refuse")
    assert_close(nll(f64(1, 2, 3), (1, 2, 3), ties="refuse"), nll(f64(1, 2, 3), (1, 2, 3)))
    with pytest.raises(ConfigError, match="unknown treatment of ties 'exact'"):
        nll(f64(1, 2), (1, 2), ties="exact")
    with pytest.raises(ValueError, match="weight_C differs within a group"):
        nll(f64(1, 2), (1, 2), weight_C=f64(1, 2))
    with pytest.raises(ValueError, match="differ in shape"):
        plackett_luce_loss(f64(1, 2), rank_C=torch.tensor([1, 2]), group_C=torch.tensor([0]))
