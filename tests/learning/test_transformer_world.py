"""A tiny transformer over three tokens, all answers enumerated: the methods reach 95 % of the exact optimum.

The world is that of test_ppo_tabular, but the policy is a Llama read by the project's own forward pass (all
answers to a prompt in one row). Its start is the reference, so the optimum π ∝ π_ref exp(r/β) is known.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from accord.data.batches import collate
from accord.data.render import Encoded
from accord.models.forward import hidden_states, token_logps
from accord.objectives import dpo
from accord.objectives.pairs import PairLogps
from learning.test_online_tabular import METHODS
from learning.test_ppo_tabular import (
    BETA,
    COMPLETIONS,
    MASK_KT,
    PREFIX_KT,
    PREFIXES,
    PROMPTS,
    Method,
    by_ppo,
)
from tiny import tiny_llama

PER_PROMPT, EPOCHS, STEPS = 128, 2, 120
K = len(COMPLETIONS)
BATCH = collate([Encoded((p // 2, p % 2, 2), tuple(COMPLETIONS)) for p in range(PROMPTS)])
POLICY_METHODS: dict[str, Method] = {"ppo": by_ppo, **METHODS}


class Policy:
    """Log-probabilities of each token of each answer to each prompt, (prompts x answers, tokens)."""

    def __init__(self) -> None:
        self.model = tiny_llama(vocab=3, layers=2, hidden=16, seed=3, eos_token_id=2, pad_token_id=2).double()
        self.critic_PS = torch.zeros(PROMPTS, len(PREFIXES), dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            self.ref_RT = self.logps_RT()

    def logps_RT(self) -> Tensor:
        hidden_FD = hidden_states(self.model, BATCH)
        return token_logps(self.model, hidden_FD, BATCH.where_CT, BATCH.targets_CT, BATCH.mask_CT)[0]


def of_answers(logps_RT: Tensor) -> Tensor:
    return logps_RT.sum(1).view(PROMPTS, K)


def objective(logps_PK: Tensor, ref_PK: Tensor, rewards_PK: Tensor) -> float:
    return float((logps_PK.exp() * (rewards_PK - BETA * (logps_PK - ref_PK))).sum(1).mean())


def rewards(seed: int = 0) -> Tensor:
    return torch.randn(PROMPTS, K, generator=torch.Generator().manual_seed(seed)).double()


def train(policy: Policy, method: Method, rewards_PK: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(
        [{"params": policy.model.parameters()}, {"params": [policy.critic_PS], "lr": 0.1}], lr=4e-3
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
    prompt_C = torch.arange(PROMPTS).repeat_interleave(PER_PROMPT)
    for _ in range(STEPS):
        with torch.no_grad():
            old_RT = policy.logps_RT()
        probs_PK = of_answers(old_RT).exp()
        drawn_C = torch.multinomial(probs_PK, PER_PROMPT, replacement=True, generator=rng).flatten()
        row_C, mask_CT = prompt_C * K + drawn_C, MASK_KT[drawn_C]
        read = prompt_C[:, None], PREFIX_KT[drawn_C]
        update = method(
            rewards_PK[prompt_C, drawn_C],
            old_RT[row_C],
            policy.ref_RT[row_C],
            policy.critic_PS.detach()[read],
            mask_CT,
            prompt_C,
        )
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            (update(policy.logps_RT()[row_C], policy.critic_PS[read]).loss / mask_CT.sum()).backward()
            optimiser.step()
        schedule.step()
    with torch.no_grad():
        return of_answers(policy.logps_RT())


def test_all_answers_are_enumerated() -> None:
    policy = Policy()
    assert of_answers(policy.ref_RT).exp().sum(1).tolist() == pytest.approx([1.0] * PROMPTS, abs=1e-5)
    assert (BATCH.mask_CT.view(PROMPTS, K, -1) == MASK_KT).all()


@pytest.mark.parametrize("name", POLICY_METHODS)
def test_reaches_the_optimum(name: str) -> None:
    policy, rewards_PK = Policy(), rewards()
    ref_PK = of_answers(policy.ref_RT)
    score = partial(objective, ref_PK=ref_PK, rewards_PK=rewards_PK)
    best = score((ref_PK + rewards_PK / BETA).log_softmax(1))
    learned = score(train(policy, POLICY_METHODS[name], rewards_PK))
    assert (learned - score(ref_PK)) / (best - score(ref_PK)) >= 0.95


def test_dpo_on_exact_labels_finds_the_optimum() -> None:
    """Every pair of answers, weighed by its Bradley-Terry probability: max |log π - log π*| is small."""
    policy, rewards_PK = Policy(), rewards()
    ref_PK = of_answers(policy.ref_RT)
    best_PK = (ref_PK + rewards_PK / BETA).log_softmax(1)
    first, second = torch.triu_indices(K, K, 1)
    wins_PN = torch.sigmoid(rewards_PK[:, first] - rewards_PK[:, second])

    def loss(logps_PK: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for a, b, weight_PN in ((first, second, wins_PN), (second, first, 1 - wins_PN)):
            sides = [x[:, i].flatten() for x in (logps_PK, ref_PK) for i in (a, b)]
            lengths = torch.ones_like(sides[0])
            pairs = PairLogps(*sides, lengths, lengths, weight_P=weight_PN.flatten())
            total = total + dpo.dpo_loss(pairs, beta=BETA).loss
        return total / wins_PN.numel()

    solver = torch.optim.LBFGS(
        policy.model.parameters(), max_iter=150, history_size=50, line_search_fn="strong_wolfe"
    )

    def evaluate() -> Tensor:
        solver.zero_grad()
        value = loss(of_answers(policy.logps_RT()))
        value.backward()
        return value

    solver.step(evaluate)
    with torch.no_grad():
        gap_PK = (of_answers(policy.logps_RT()) - best_PK).abs()
    assert float(gap_PK.max()) <= 1e-2
