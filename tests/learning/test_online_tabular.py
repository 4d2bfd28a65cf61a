"""The methods without a critic, in the world of test_ppo_tabular: known optima, gradients by enumeration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.objectives import credit, grpo, online_dpo, ppo, reinforce
from learning.test_ppo_tabular import (
    BETA,
    COMPLETIONS,
    MASK_KT,
    PREFIX_KT,
    PREFIXES,
    PROMPTS,
    TOKEN_KT,
    Method,
    Update,
    World,
    of_all,
    train,
)


def by_rloo(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C) -> Update:
    advantages_C = reinforce.rloo_advantages(scores_C, logps_CT, ref_CT, mask_CT, prompt_C, kl_coef=BETA)
    return lambda new_CT, _: reinforce.sequence_loss(new_CT, logps_CT, advantages_C, mask_CT, clip_range=0.2)


def by_reinforce_plus_plus(*, baseline: bool) -> Method:
    def method(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C) -> Update:
        advantages_CT = reinforce.reinforce_plus_plus_advantages(
            scores_C, logps_CT, ref_CT, mask_CT, kl_coef=BETA, group_C=prompt_C if baseline else None
        )
        return lambda new_CT, _: ppo.policy_loss(new_CT, logps_CT, advantages_CT, mask_CT, clip_range=0.2)

    return method


def by_grpo(estimator: str, scale: str = "none", *, in_reward: bool = False) -> Method:
    def method(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C) -> Update:
        if in_reward:
            scores_C = reinforce.minus_kl(scores_C, logps_CT, ref_CT, mask_CT, kl_coef=BETA)
        advantages_C = grpo.grpo_advantages(scores_C, prompt_C, scale=scale)
        return lambda new_CT, _: grpo.grpo_loss(
            new_CT,
            old_logps_CT=logps_CT,
            ref_logps_CT=ref_CT,
            advantages_CT=credit.to_tokens(advantages_C, mask_CT),
            mask_CT=mask_CT,
            clip_low=0.2,
            clip_high=0.2,
            level="token",
            loss_type="dapo",
            kl_coef=0.0 if in_reward else BETA,
            kl_estimator=estimator,
        )

    return method


METHODS = {
    "rloo": by_rloo,
    "reinforce++": by_reinforce_plus_plus(baseline=False),
    "reinforce++ baseline": by_reinforce_plus_plus(baseline=True),
    "grpo with the KL in the reward": by_grpo("k2", in_reward=True),
}


def share_of_gain(world: World, method: Method) -> float:
    learned_PK = train(world, method)
    start = world.objective(of_all(world.ref_PSV))
    return float((world.objective(learned_PK) - start) / (world.objective(world.optimum()) - start))


@pytest.mark.parametrize("name", METHODS)
def test_reaches_the_optimum(name: str) -> None:
    assert share_of_gain(World.random(0), METHODS[name]) >= 0.95


def by_forward_kl(ref_V: Tensor, q_V: Tensor) -> Tensor:
    """The best of E[Q] - β KL(π || π_ref): π ∝ π_ref exp(Q/β)."""
    return (ref_V + q_V / BETA).log_softmax(0)


def by_reverse_kl(ref_V: Tensor, q_V: Tensor) -> Tensor:
    """The best of E[Q] - β KL(π_ref || π): where the gradients π (Q - E[Q]) and β (π - π_ref) are equal.

    So π = β π_ref / (λ - Q), with the one λ > max Q that makes it sum to 1, found by bisection.
    """
    low, high = float(q_V.max()), float(q_V.max()) + BETA
    for _ in range(200):
        middle = (low + high) / 2
        too_much = float((BETA * ref_V.exp() / (middle - q_V)).sum()) > 1
        low, high = (middle, high) if too_much else (low, middle)
    return (BETA * ref_V.exp() / (high - q_V)).log()


def prefix_blind_optimum(world: World, best: Callable[[Tensor, Tensor], Tensor] = by_forward_kl) -> Tensor:
    """Where KL in the loss must end, by backward induction: each position's `best` by itself.

    Q counts the reward to come but not the KL to come: each position's KL holds the prefixes fixed.
    """
    logps_PSV, value_PS = world.ref_PSV.clone(), torch.zeros(PROMPTS, len(PREFIXES))
    for s, prefix in reversed(list(enumerate(PREFIXES))):
        for p in range(PROMPTS):
            after = [(*prefix, token) for token in range(3)]
            q_V = torch.stack(
                [
                    world.rewards_PK[p, COMPLETIONS.index(y)]
                    if y in COMPLETIONS
                    else value_PS[p, PREFIXES.index(y)]
                    for y in after
                ]
            )
            logps_PSV[p, s] = best(world.ref_PSV[p, s], q_V)
            value_PS[p, s] = (logps_PSV[p, s].exp() * q_V).sum()
    return of_all(logps_PSV)


@pytest.mark.parametrize("estimator", ["k2", "k3_corrected"])
def test_kl_in_the_loss_ends_at_its_own_optimum(estimator: str) -> None:
    """Close to the true one, but measurably not it."""
    world = World.random(0)
    learned_PK, blind_PK = train(world, by_grpo(estimator)), prefix_blind_optimum(world)
    assert (learned_PK.exp() - blind_PK.exp()).abs().max() < 0.05
    start, best = (world.objective(x) for x in (of_all(world.ref_PSV), world.optimum()))
    learned, blind = ((world.objective(x) - start) / (best - start) for x in (learned_PK, blind_PK))
    assert float(learned) == pytest.approx(float(blind), abs=0.01)
    assert 0.9 < float(blind) < 0.97


def test_k3_in_the_loss_ends_at_the_fixed_point_of_its_own_gradient() -> None:
    """Not at that of the divergence whose value it estimates."""
    world = World.random(0)
    ref_V, q_V = world.ref_PSV[0, 0], world.rewards_PK[0, :3].to(world.ref_PSV)
    probs_V = by_reverse_kl(ref_V, q_V).exp()
    assert_close(probs_V * (q_V - probs_V @ q_V), BETA * (probs_V - ref_V.exp()))
    learned_PK = train(world, by_grpo("k3"))
    reverse_PK, forward_PK = prefix_blind_optimum(world, by_reverse_kl), prefix_blind_optimum(world)
    assert (learned_PK.exp() - reverse_PK.exp()).abs().max() < 0.05
    assert (learned_PK.exp() - forward_PK.exp()).abs().max() > 0.05


def test_dividing_by_the_groups_deviation_finds_another_optimum() -> None:
    """GRPO's division changes the exchange rate between reward and KL, prompt by prompt."""
    world = World.random(0)
    world = World(world.rewards_PK * torch.tensor([0.1, 0.1, 3.0, 3.0])[:, None], world.ref_PSV)
    plain = share_of_gain(world, by_grpo("k3_corrected"))
    assert share_of_gain(world, by_grpo("k3_corrected", scale="group")) < plain - 0.05


# ---------------------------------------------------------------------------- gradients of the KL in the loss


def enumerated(estimator: str, logits_SV: Tensor, ref_SV: Tensor, old_SV: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of `kl_loss` in expectation over all completions of the old policy."""
    where = PREFIX_KT, TOKEN_KT
    old_KT = old_SV[where]
    chance_K = torch.where(MASK_KT, old_KT, 0.0).sum(1).exp()
    logps_KT = logits_SV.log_softmax(-1)[where]
    terms = grpo.kl_loss(logps_KT, ref_SV[where], old_KT, MASK_KT, estimator=estimator, weights_C=chance_K)
    return terms.loss.detach(), torch.autograd.grad(terms.loss, logits_SV)[0]


def exact(divergence: Callable[[Tensor], Tensor], logits_SV: Tensor, old_SV: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_s (how often the old policy comes by s) divergence(s); its gradient with these odds held fixed."""
    reach_S = torch.zeros(len(PREFIXES), dtype=torch.float64)
    chance_K = torch.where(MASK_KT, old_SV[PREFIX_KT, TOKEN_KT], 0.0).sum(1).exp()
    for prefixes, mask, chance in zip(PREFIX_KT, MASK_KT, chance_K, strict=True):
        reach_S[prefixes[mask]] += chance
    value = (reach_S * divergence(logits_SV.log_softmax(-1))).sum()
    return value.detach(), torch.autograd.grad(value, logits_SV)[0]


@pytest.fixture
def tables() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the policy, log-probs of its reference and of an old policy nearby."""
    rng = torch.Generator().manual_seed(3)
    shape = (len(PREFIXES), 3)
    logits_SV, ref_SV, step_SV = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(3))
    old_SV = (logits_SV + 0.3 * step_SV).log_softmax(-1)
    return logits_SV.requires_grad_(), ref_SV.log_softmax(-1), old_SV


def test_the_gradient_of_k3_is_that_of_the_reverse_divergence(tables) -> None:
    logits_SV, ref_SV, _ = tables
    old_SV = logits_SV.detach().log_softmax(-1)
    value, gradient = enumerated("k3", logits_SV, ref_SV, old_SV)
    forward = exact(lambda p_SV: (p_SV.exp() * (p_SV - ref_SV)).sum(-1), logits_SV, old_SV)
    reverse = exact(lambda p_SV: (ref_SV.exp() * (ref_SV - p_SV)).sum(-1), logits_SV, old_SV)
    assert_close(value, forward[0])
    assert_close(gradient, reverse[1])
    assert (gradient - forward[1]).abs().max() > 0.01


def test_the_gradient_of_k2_is_that_of_the_divergence_to_the_reference(tables) -> None:
    logits_SV, ref_SV, _ = tables
    old_SV = logits_SV.detach().log_softmax(-1)
    _, gradient = enumerated("k2", logits_SV, ref_SV, old_SV)
    assert_close(gradient, exact(lambda p: (p.exp() * (p - ref_SV)).sum(-1), logits_SV, old_SV)[1])


def test_the_ratio_makes_k3_right_in_value_and_gradient_off_policy_too(tables) -> None:
    logits_SV, ref_SV, old_SV = tables
    got = enumerated("k3_corrected", logits_SV, ref_SV, old_SV)
    want = exact(lambda p_SV: (p_SV.exp() * (p_SV - ref_SV)).sum(-1), logits_SV, old_SV)
    assert_close(got, want)
    assert (enumerated("k2", logits_SV, ref_SV, old_SV)[1] - want[1]).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------ online DPO


def test_online_dpo_with_sampled_preferences_finds_the_optimum() -> None:
    """Two completions per prompt; which is better is drawn from Bradley-Terry on the reward."""
    rng = torch.Generator().manual_seed(5)

    def method(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C) -> Update:
        first_P = torch.arange(0, len(scores_C), 2)
        wins_P = (
            torch.rand(len(first_P), generator=rng) < (scores_C[first_P] - scores_C[first_P + 1]).sigmoid()
        )
        pairs = torch.where(wins_P, first_P, first_P + 1), torch.where(wins_P, first_P + 1, first_P)
        return lambda new_CT, _: online_dpo.online_dpo_loss(new_CT, ref_CT, mask_CT, pairs, beta=BETA)

    assert PROMPTS % 2 == 0
    assert share_of_gain(World.random(0), method) >= 0.95
