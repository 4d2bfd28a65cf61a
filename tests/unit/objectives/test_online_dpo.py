"""Online DPO and XPO: which answers are compared, and where optimism pushes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.objectives import online_dpo, xpo

MASK_CT = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
REF_CT = -torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PAIRS = torch.tensor([0, 3]), torch.tensor([1, 2])
EXPLORED = torch.tensor([1, 3])


def gradient(loss: Tensor, logps_CT: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logps_CT)[0]


def test_the_best_meets_the_worst_and_equal_groups_are_left_out() -> None:
    scores_C = torch.tensor([3.0, 1.0, 5.0, 5.0, 3.0, 0.0, 5.0, 3.0])
    group_C = torch.tensor([0, 0, 1, 1, 0, 2, 1, 2])
    chosen_P, rejected_P = online_dpo.best_and_worst(scores_C, group_C)
    assert (chosen_P.tolist(), rejected_P.tolist()) == ([0, 7], [1, 5])
    nothing = online_dpo.best_and_worst(torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert [side.tolist() for side in nothing] == [[], []]


def test_given_pairs_are_turned_the_right_way() -> None:
    scores_C = torch.tensor([1.0, 4.0, 2.0, 2.0, 2.0, 0.0])
    pairs = online_dpo.better_and_worse(scores_C, torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]))
    assert [side.tolist() for side in pairs] == [[3, 1, 2], [0, 4, 5]]
    tied = online_dpo.better_and_worse(scores_C, torch.tensor([2]), torch.tensor([3]))
    assert [side.tolist() for side in tied] == [[], []]


def test_at_the_start_the_better_rises_as_the_worse_falls() -> None:
    """At the reference, σ(0) = ½: the gradient is ∓β/2 on every token of the two, and 0 elsewhere."""
    logps_CT = torch.where(MASK_CT, REF_CT, torch.nan).requires_grad_()
    terms = online_dpo.online_dpo_loss(logps_CT, REF_CT, MASK_CT, (PAIRS[0][:1], PAIRS[1][:1]), beta=0.4)
    want_CT = torch.zeros(4, 3, dtype=torch.float64)
    want_CT[0], want_CT[1, 0] = -0.2, 0.2
    assert_close(gradient(terms.loss, logps_CT), want_CT)
    assert float(terms.metrics["rewards/margins"][0]) == 0.0
    assert float(terms.metrics["rewards/margins"][1]) == 1


def test_optimism_lowers_what_the_reference_said() -> None:
    logps_CT = torch.where(MASK_CT, REF_CT, torch.nan).requires_grad_()
    plain = online_dpo.online_dpo_loss(logps_CT, REF_CT, MASK_CT, PAIRS, beta=0.4)
    brave = xpo.xpo_loss(logps_CT, REF_CT, MASK_CT, PAIRS, EXPLORED, beta=0.4, alpha=0.3)
    difference_CT = gradient(brave.loss, logps_CT) - gradient(plain.loss, logps_CT)
    want_CT = torch.zeros(4, 3, dtype=torch.float64)
    want_CT[EXPLORED] = 0.3
    assert_close(
        difference_CT, torch.where(MASK_CT, want_CT, 0.0)
    )  # positive: descent makes them less likely
    total, count = brave.metrics["logps/explored"]
    assert float(total) == pytest.approx(float(REF_CT[1, 0] + REF_CT[3].sum())) and count == 2


def test_without_optimism_it_is_online_dpo_to_the_bit() -> None:
    logps_CT = (REF_CT + 0.1).requires_grad_()
    plain = online_dpo.online_dpo_loss(logps_CT, REF_CT, MASK_CT, PAIRS, beta=0.4)
    same = xpo.xpo_loss(logps_CT, REF_CT, MASK_CT, PAIRS, EXPLORED, beta=0.4, alpha=0.0)
    assert torch.equal(plain.loss, same.loss) and plain.metrics.keys() == same.metrics.keys()
    assert torch.equal(gradient(plain.loss, logps_CT), gradient(same.loss, logps_CT))
