"""PPO, RLOO and GRPO find the known optimum of a world small enough to enumerate.

A completion is up to three tokens out of {0, 1, end}; there are 15 of them. The policy is a table of logits
over (prompt, prefix), the critic a table over the same, the reward a random number per completion. The
optimum of E[r] - β KL(π || π_ref) is π* ∝ π_ref exp(r/β), and its value is J* = β log E_ref exp(r/β).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from accord.objectives import credit, kl, ppo
from accord.records import Terms

PROMPTS, END, BETA, STEPS = 4, 2, 0.5, 150
COMPLETIONS = [
    (END,),
    *((x, END) for x in range(2)),
    *(xyz for xyz in itertools.product(range(3), repeat=3) if END not in xyz[:2]),
]
PREFIXES = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
MASK_KT = torch.tensor([[t < len(y) for t in range(3)] for y in COMPLETIONS])
TOKEN_KT = torch.tensor([[*y, 0, 0][:3] for y in COMPLETIONS])
PREFIX_KT = torch.tensor(
    [[PREFIXES.index(y[:t]) if t < len(y) else 0 for t in range(3)] for y in COMPLETIONS]
)


@dataclass(frozen=True)
class World:
    """Rewards (prompts, completions) and reference log-probabilities (prompts, prefixes, tokens)."""

    rewards_PK: Tensor
    ref_PSV: Tensor

    @classmethod
    def random(cls, seed: int) -> World:
        rng = torch.Generator().manual_seed(seed)
        rewards_PK = torch.randn(PROMPTS, len(COMPLETIONS), generator=rng)
        return cls(rewards_PK, torch.randn(PROMPTS, len(PREFIXES), 3, generator=rng).log_softmax(-1))

    def objective(self, logps_PK: Tensor) -> Tensor:
        return (logps_PK.exp() * (self.rewards_PK - BETA * (logps_PK - of_all(self.ref_PSV)))).sum(1).mean()

    def kl(self, logps_PK: Tensor) -> float:
        return float((logps_PK.exp() * (logps_PK - of_all(self.ref_PSV))).sum(1).mean())

    def optimum(self) -> Tensor:
        return (of_all(self.ref_PSV) + self.rewards_PK / BETA).log_softmax(1)


def of_all(logps_PSV: Tensor) -> Tensor:
    """Log-probability of every completion of every prompt, (prompts, completions)."""
    return torch.where(MASK_KT, logps_PSV[:, PREFIX_KT, TOKEN_KT], 0.0).sum(-1)


Update = Callable[[Tensor, Tensor], Terms]  # (logps_CT, values_CT) -> what to minimise, as sums
Method = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Update]


def by_ppo(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C, *, kl_coef: float = BETA) -> Update:
    rewards_CT = ppo.shape_rewards(scores_C, logps_CT, ref_CT, mask_CT, kl_coef)
    advantages_CT, returns_CT = ppo.gae(rewards_CT, values_CT, mask_CT, gamma=1.0, lam=0.95)
    advantages_CT = ppo.whiten(advantages_CT, mask_CT)
    return lambda new_logps_CT, new_values_CT: ppo.ppo_loss(
        new_logps_CT,
        new_values_CT,
        old_logps_CT=logps_CT,
        old_values_CT=values_CT,
        advantages_CT=advantages_CT,
        returns_CT=returns_CT,
        mask_CT=mask_CT,
        clip_range=0.2,
        value_clip_range=0.2,
        vf_coef=1.0,
    )


def by_group(baseline: Callable[[Tensor, Tensor], Tensor]) -> Method:
    """The KL goes into the sequence's reward; advantages compare completions of the same prompt."""

    def method(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C) -> Update:
        penalty_C = torch.where(mask_CT, kl.k1(logps_CT, ref_CT), 0.0).sum(1)
        advantages_CT = credit.to_tokens(baseline(scores_C - BETA * penalty_C, prompt_C), mask_CT)
        return lambda new_logps_CT, _: ppo.policy_loss(
            new_logps_CT, logps_CT, advantages_CT, mask_CT, clip_range=0.2
        )

    return method


def train(world: World, method: Method, *, per_prompt: int = 128, epochs: int = 4, seed: int = 0) -> Tensor:
    """The final log-probability of every completion."""
    rng = torch.Generator().manual_seed(seed)
    logits_PSV = world.ref_PSV.clone().requires_grad_()
    critic_PS = torch.zeros(PROMPTS, len(PREFIXES), requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [logits_PSV]}, {"params": [critic_PS], "lr": 0.1}], lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
    prompt_C = torch.arange(PROMPTS).repeat_interleave(per_prompt)
    for _ in range(STEPS):
        probs_PK = of_all(logits_PSV.detach().log_softmax(-1)).exp()
        drawn_C = torch.multinomial(probs_PK, per_prompt, replacement=True, generator=rng).flatten()
        mask_CT = MASK_KT[drawn_C]
        where = prompt_C[:, None], PREFIX_KT[drawn_C], TOKEN_KT[drawn_C]

        def score(where=where) -> tuple[Tensor, Tensor]:
            return logits_PSV.log_softmax(-1)[where], critic_PS[where[:2]]

        logps_CT, values_CT = (x.detach() for x in score())
        scores_C = world.rewards_PK[prompt_C, drawn_C]
        update = method(scores_C, logps_CT, world.ref_PSV[where], values_CT, mask_CT, prompt_C)
        for _ in range(epochs):
            optimiser.zero_grad()
            (update(*score()).loss / mask_CT.sum()).backward()
            optimiser.step()
        schedule.step()
    return of_all(logits_PSV.detach().log_softmax(-1))


def test_the_worlds_are_consistent() -> None:
    """Completions' probabilities sum to 1, and J(π*) is the closed form J*."""
    world = World.random(0)
    assert len(COMPLETIONS) == 15
    torch.testing.assert_close(of_all(world.ref_PSV).exp().sum(1), torch.ones(PROMPTS))
    tilted_P = (of_all(world.ref_PSV) + world.rewards_PK / BETA).logsumexp(1)
    torch.testing.assert_close(world.objective(world.optimum()), BETA * tilted_P.mean())


METHODS = {"ppo": by_ppo, "rloo": by_group(credit.leave_one_out), "dr_grpo": by_group(credit.group_mean)}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_reaches_the_optimum(name: str, seed: int) -> None:
    world = World.random(seed)
    learned_PK, best_PK, ref_PK = (
        train(world, METHODS[name], seed=seed),
        world.optimum(),
        of_all(world.ref_PSV),
    )
    gain = world.objective(learned_PK) - world.objective(ref_PK)
    best_gain = world.objective(best_PK) - world.objective(ref_PK)
    assert float(gain / best_gain) >= 0.98
    assert world.kl(learned_PK) == pytest.approx(world.kl(best_PK), rel=0.05)


@pytest.mark.parametrize("start", [0.05, 3.0])
def test_the_kl_controller_holds_its_target(start: float) -> None:
    """From too loose and from too tight a leash, the KL of the second half of training is near the target."""
    target, coefs, seen = 0.6, [start], []

    def method(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C) -> Update:
        seen.append(float(torch.where(mask_CT, kl.k1(logps_CT, ref_CT), 0.0).sum(1).mean()))
        update = by_ppo(scores_C, logps_CT, ref_CT, values_CT, mask_CT, prompt_C, kl_coef=coefs[-1])
        steering = {"target": target, "n_episodes": len(scores_C), "horizon": 2000}
        coefs.append(ppo.update_kl_coef(coefs[-1], seen[-1], **steering))
        return update

    train(World.random(0), method)
    late = seen[STEPS // 2 :]
    assert sum(late) / len(late) == pytest.approx(target, rel=0.25)
    assert (coefs[-1] > start) == (start < BETA)
