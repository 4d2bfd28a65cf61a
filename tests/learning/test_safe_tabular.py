"""PPO with Safe RLHF's Lagrangian finds the best policy that keeps within a limit of cost.

The worlds are those of test_ppo_tabular, with a second random table for the cost. Maximising E[r] - β KL
subject to E[c] <= d is a convex problem whose optimum is π ∝ π_ref exp((r - λ c) / β) with the λ >= 0 that
just keeps to d. So a λ is chosen first, and the limit is what its optimum costs: both answers are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from accord.config import PpoConfig
from accord.objectives import ppo, safe
from learning.test_ppo_tabular import (
    BETA,
    COMPLETIONS,
    MASK_KT,
    PREFIX_KT,
    PREFIXES,
    PROMPTS,
    STEPS,
    TOKEN_KT,
    World,
    of_all,
)

PER_PROMPT, EPOCHS, PRICE = 128, 4, 0.35
MAXIMUM = PpoConfig.model_fields["cost_multiplier_max"].default


@dataclass(frozen=True)
class SafeWorld:
    world: World
    costs_PK: Tensor

    @classmethod
    def random(cls, seed: int) -> SafeWorld:
        rng = torch.Generator().manual_seed(100 + seed)
        world = World.random(seed)
        # Costs go along with rewards, so that the limit is felt.
        return cls(world, world.rewards_PK + torch.randn(PROMPTS, len(COMPLETIONS), generator=rng))

    def cost(self, logps_PK: Tensor) -> float:
        return float((logps_PK.exp() * self.costs_PK).sum(1).mean())

    def tilted(self, multiplier: float) -> Tensor:
        scores_PK = (self.world.rewards_PK - multiplier * self.costs_PK) / BETA
        return (of_all(self.world.ref_PSV) + scores_PK).log_softmax(1)

    def range(self) -> float:
        return float(self.costs_PK.max() - self.costs_PK.min())


def train(
    safe_world: SafeWorld, limit: float, *, seed: int, fixed_multiplier: float | None = None
) -> tuple[Tensor, float]:
    """The final log-probability of every completion, and λ. A critic each for reward (with KL) and cost."""
    world, rng = safe_world.world, torch.Generator().manual_seed(seed)
    logits_PSV = world.ref_PSV.clone().requires_grad_()
    critics_2PS = torch.zeros(2, PROMPTS, len(PREFIXES), requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [logits_PSV]}, {"params": [critics_2PS], "lr": 0.1}], lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
    prompt_C = torch.arange(PROMPTS).repeat_interleave(PER_PROMPT)
    multiplier = 1.0 if fixed_multiplier is None else fixed_multiplier
    for _ in range(STEPS):
        probs_PK = of_all(logits_PSV.detach().log_softmax(-1)).exp()
        drawn_C = torch.multinomial(probs_PK, PER_PROMPT, replacement=True, generator=rng).flatten()
        mask_CT, where = MASK_KT[drawn_C], (prompt_C[:, None], PREFIX_KT[drawn_C], TOKEN_KT[drawn_C])
        old_CT, ref_CT = logits_PSV.detach().log_softmax(-1)[where], world.ref_PSV[where]
        cost_C = safe_world.costs_PK[prompt_C, drawn_C]
        if fixed_multiplier is None:
            multiplier = safe.update_multiplier(
                multiplier, float(cost_C.mean()), limit=limit, learning_rate=0.2, maximum=MAXIMUM
            )
        scored = ((world.rewards_PK[prompt_C, drawn_C], BETA), (cost_C, 0.0))
        estimates = []
        for (scores_C, kl_coef), critic_PS in zip(scored, critics_2PS.detach(), strict=True):
            rewards_CT = ppo.shape_rewards(scores_C, old_CT, ref_CT, mask_CT, kl_coef)
            values_CT = critic_PS[where[:2]]
            advantages_CT, returns_CT = ppo.gae(rewards_CT, values_CT, mask_CT, gamma=1.0, lam=0.95)
            estimates.append((values_CT, advantages_CT, returns_CT))
        mixed_CT = safe.lagrangian_advantages(estimates[0][1], estimates[1][1], multiplier)
        advantages_CT = ppo.whiten(mixed_CT, mask_CT)
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            logps_CT = logits_PSV.log_softmax(-1)[where]
            loss = ppo.policy_loss(logps_CT, old_CT, advantages_CT, mask_CT, clip_range=0.2).loss
            for critic_PS, (values_CT, _, returns_CT) in zip(critics_2PS, estimates, strict=True):
                critic_CT = critic_PS[where[:2]]
                loss = loss + ppo.value_loss(critic_CT, values_CT, returns_CT, mask_CT, clip_range=0.2).loss
            (loss / mask_CT.sum()).backward()
            optimiser.step()
        schedule.step()
    return of_all(logits_PSV.detach().log_softmax(-1)), multiplier


def share(safe_world: SafeWorld, logps_PK: Tensor, price: float) -> float:
    """Of the gain over the reference that the optimum of this price makes."""
    world = safe_world.world
    start = world.objective(of_all(world.ref_PSV))
    best = world.objective(safe_world.tilted(price))
    return float((world.objective(logps_PK) - start) / (best - start))


@pytest.mark.parametrize("seed", [0, 1])
def test_keeps_the_limit_at_the_best_feasible_reward(seed: int) -> None:
    safe_world = SafeWorld.random(seed)
    limit = safe_world.cost(safe_world.tilted(PRICE))
    assert limit < safe_world.cost(safe_world.tilted(0.0)) - 0.08 * safe_world.range()  # the limit is felt
    logps_PK, multiplier = train(safe_world, limit, seed=seed)
    assert safe_world.cost(logps_PK) <= limit + 0.02 * safe_world.range()
    assert share(safe_world, logps_PK, PRICE) >= 0.95
    assert multiplier == pytest.approx(PRICE, rel=0.25)


def test_no_fixed_price_of_cost_does_as_well() -> None:
    """Reward shaping with 0.1, 1 or 10 either breaks the limit or gives up more than 5 % of the gain."""
    safe_world = SafeWorld.random(0)
    limit = safe_world.cost(safe_world.tilted(PRICE))
    for price in (0.1, 1.0, 10.0):
        logps_PK, _ = train(safe_world, limit, seed=0, fixed_multiplier=price)
        kept = safe_world.cost(logps_PK) <= limit + 0.02 * safe_world.range()
        assert not (kept and share(safe_world, logps_PK, PRICE) >= 0.95), price


def test_a_slack_limit_costs_nothing() -> None:
    safe_world = SafeWorld.random(0)
    limit = safe_world.cost(safe_world.tilted(0.0)) + 1.0
    logps_PK, multiplier = train(safe_world, limit, seed=0)
    assert multiplier < 0.1
    assert share(safe_world, logps_PK, 0.0) >= 0.95
