"""RLOO and REINFORCE++: exact gradients, and what the baselines leave alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.objectives import reinforce

C, T = 4, 5
LENGTHS_C = torch.tensor([5, 2, 1, 3])
MASK_CT = torch.arange(T) < LENGTHS_C[:, None]
GROUP_C = torch.tensor([1, 0, 0, 1])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_at_the_start_the_loss_has_reinforces_gradient() -> None:
    logps_CT, advantages_C = draw(0, C, T), draw(1, C)
    new_CT = torch.where(MASK_CT, logps_CT, math.nan).requires_grad_()
    old_CT = torch.where(MASK_CT, logps_CT, -math.inf)
    terms = reinforce.sequence_loss(new_CT, old_CT, advantages_C, MASK_CT, clip_range=0.2)
    gradient_CT = torch.autograd.grad(terms.loss, new_CT)[0]
    assert_close(gradient_CT, torch.where(MASK_CT, -advantages_C[:, None], 0.0))
    assert tuple(map(float, terms.metrics["val/ratio"])) == (C, C)


@pytest.mark.parametrize(
    ("total", "advantage", "loss", "gradient"),
    [(0.1, 2.0, -2 * math.exp(0.1), -2 * math.exp(0.1)), (0.5, 2.0, -2.4, 0.0), (-0.5, -2.0, 1.6, 0.0)],
)
def test_the_clip_is_on_the_whole_answers_ratio(
    total: float, advantage: float, loss: float, gradient: float
) -> None:
    new_CT = torch.tensor([[total + 1, -1.0]], dtype=torch.float64, requires_grad=True)
    old_CT, mask_CT = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    advantages_C = torch.tensor([advantage], dtype=torch.float64)
    terms = reinforce.sequence_loss(new_CT, old_CT, advantages_C, mask_CT, clip_range=0.2)
    assert float(terms.loss) == pytest.approx(loss)
    gradient_CT = torch.autograd.grad(terms.loss, new_CT)[0]
    assert gradient_CT.tolist() == [pytest.approx([gradient, gradient])]
    assert float(terms.metrics["policy/clipfrac_avg"][0]) == float(gradient == 0)


def test_rloo_is_the_gradient_of_reward_minus_kl_without_bias() -> None:
    """Over every pair of one-token answers: the expected gradient is that of E[r] - β KL(π || π_ref)."""
    reward_V, beta = torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64), 0.7
    ref_V = torch.tensor([0.1, 0.5, -0.3], dtype=torch.float64).log_softmax(0)
    logits_V = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    logps_V = logits_V.log_softmax(0)
    objective = (logps_V.exp() * (reward_V - beta * (logps_V - ref_V))).sum()
    (want,) = torch.autograd.grad(objective, logits_V, retain_graph=True)
    got = torch.zeros_like(want)
    mask_CT, group_C = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    for actions in itertools.product(range(3), repeat=2):
        chosen = torch.tensor(actions)
        old_CT, ref_CT = logps_V.detach()[chosen, None], ref_V[chosen, None]
        advantages_C = reinforce.rloo_advantages(
            reward_V[chosen], old_CT, ref_CT, mask_CT, group_C, kl_coef=beta
        )
        terms = reinforce.sequence_loss(logps_V[chosen, None], old_CT, advantages_C, mask_CT, clip_range=0.2)
        (gradient,) = torch.autograd.grad(terms.loss, logits_V, retain_graph=True)
        got -= old_CT.sum().exp() * gradient / 2
    assert_close(got, want)


def test_rloo_needs_siblings() -> None:
    zeros_CT = torch.zeros(C, T)
    with pytest.raises(ValueError, match="have one completion each"):
        reinforce.rloo_advantages(
            torch.zeros(C), zeros_CT, zeros_CT, MASK_CT, torch.tensor([0, 0, 0, 1]), kl_coef=0.0
        )


def plus_plus(scores_C: Tensor, kl_coef: float = 0.0, **settings: object) -> Tensor:
    return reinforce.reinforce_plus_plus_advantages(
        scores_C, draw(0, C, T), draw(1, C, T), MASK_CT, kl_coef=kl_coef, **settings
    )


def test_reinforce_plus_plus_is_whitened_over_the_batch() -> None:
    advantages_N = plus_plus(draw(2, C), kl_coef=0.3)[MASK_CT]
    assert float(advantages_N.mean()) == pytest.approx(0, abs=1e-9)
    assert float(advantages_N.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert (plus_plus(draw(2, C), kl_coef=0.3)[~MASK_CT] == 0).all()


def test_without_kl_all_tokens_of_an_answer_share_its_credit() -> None:
    advantages_CT = plus_plus(draw(2, C))
    for row, mask in zip(advantages_CT, MASK_CT, strict=True):
        assert_close(row[mask], row[0].expand(int(mask.sum())))


def test_a_token_is_charged_for_its_own_kl_and_what_follows() -> None:
    """Two tokens, KL 1 and 2: returns -3 and -2 with β = 1, and with γ = ½ -2 and -2."""
    logps_CT, ref_CT = torch.tensor([[1.0, 2.0]]).double(), torch.zeros(1, 2).double()
    tensors = torch.zeros(1).double(), logps_CT, ref_CT, torch.ones(1, 2, dtype=torch.bool)
    got = reinforce.reinforce_plus_plus_advantages(*tensors, kl_coef=1.0)
    assert got.tolist() == [pytest.approx([-1.0, 1.0], abs=1e-6)]
    assert reinforce.reinforce_plus_plus_advantages(*tensors, kl_coef=1.0, gamma=0.5).tolist() == [[0.0, 0.0]]


def test_the_group_baseline_forgets_how_hard_a_prompt_is() -> None:
    scores_C = draw(2, C)
    shifted_C = scores_C + 10.0 * GROUP_C
    assert_close(plus_plus(shifted_C, group_C=GROUP_C), plus_plus(scores_C, group_C=GROUP_C))
    assert (plus_plus(shifted_C) - plus_plus(scores_C)).abs().max() > 0.1
