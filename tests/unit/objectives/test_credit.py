"""Group credit: bias proven by enumeration, and groups that have nothing to compare."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.objectives import GROUP_CREDIT
from accord.objectives.credit import group_mean, group_standardised, leave_one_out, to_tokens

REWARD_V = torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64)


def expected_gradient(credit, k: int) -> tuple[Tensor, Tensor]:
    """E[(1/k) Σ A_i ∇ log π(a_i)] over every k-tuple of actions, and the true ∇ E[r]."""
    logits_V = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    probs_V = logits_V.softmax(0)
    (truth,) = torch.autograd.grad((probs_V * REWARD_V).sum(), logits_V, retain_graph=True)
    total = torch.zeros_like(truth)
    for actions in itertools.product(range(3), repeat=k):
        chosen = torch.tensor(actions)
        advantages = credit(REWARD_V[chosen], torch.zeros(k, dtype=torch.long))
        surrogate = (advantages * probs_V.log()[chosen]).mean()
        (grad,) = torch.autograd.grad(surrogate, logits_V, retain_graph=True)
        total += probs_V.detach()[chosen].prod() * grad
    return total, truth


@pytest.mark.parametrize("k", [2, 3, 4])
def test_leave_one_out_is_unbiased(k: int) -> None:
    assert_close(*expected_gradient(leave_one_out, k))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_group_mean_is_the_true_gradient_times_k_minus_one_over_k(k: int) -> None:
    got, truth = expected_gradient(group_mean, k)
    assert_close(got, truth * (k - 1) / k)


def test_group_standardised_has_unit_std_whatever_the_scale() -> None:
    scores_C = torch.tensor([0.0, 3.0, 1.0, 7.0, 5.0, 6.0], dtype=torch.float64)
    group_C = torch.tensor([0, 1, 0, 1, 0, 1])
    for scale in (1.0, 100.0):
        advantages_C = group_standardised(scale * scores_C, group_C, eps=0.0)
        for group in (0, 1):
            members = advantages_C[group_C == group]
            assert float(members.mean()) == pytest.approx(0, abs=1e-12)
            assert float(members.std()) == pytest.approx(1)


@pytest.mark.parametrize("credit", GROUP_CREDIT.values(), ids=GROUP_CREDIT.keys())
def test_credit_ignores_a_shift_per_prompt_and_the_order(credit) -> None:
    scores_C = torch.tensor([0.0, 3.0, 1.0, 7.0, 5.0], dtype=torch.float64)
    group_C = torch.tensor([4, 9, 4, 9, 4])
    advantages_C = credit(scores_C, group_C)
    assert_close(credit(scores_C + 10.0 * group_C, group_C), advantages_C)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_close(credit(scores_C[order], group_C[order]), advantages_C[order])


@pytest.mark.parametrize("credit", GROUP_CREDIT.values(), ids=GROUP_CREDIT.keys())
def test_equal_scores_earn_nothing_and_one_alone_is_refused(credit) -> None:
    assert credit(torch.tensor([2.0, 2.0]), torch.tensor([0, 0])).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"groups \[5\] have one completion"):
        credit(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 5, 0]))
    with pytest.raises(ValueError, match="group_C"):
        credit(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0]))


def test_to_tokens() -> None:
    mask_CT = torch.tensor([[True, False], [True, True]])
    assert to_tokens(torch.tensor([2.0, -3.0]), mask_CT).tolist() == [[2.0, 0.0], [-3.0, -3.0]]
