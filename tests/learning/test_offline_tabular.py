"""The offline losses find their known optima in a world small enough to enumerate.

A few prompts with K answers each; a policy is a table of logits, the reference and the true reward are random
tables, and an answer's length is a number. The data are all pairs of different answers, in both orders, each
weighing its exact share of the labels: nothing is sampled, and an optimum is reached or it is not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.objectives import OFFLINE
from accord.objectives.kto import kto_loss
from accord.objectives.pairs import PairLogps

PROMPTS, K, BETA = 3, 8, 0.5
FIRST_Q, SECOND_Q = torch.tensor(list(itertools.permutations(range(K), 2))).T  # each pair in both orders


@dataclass(frozen=True)
class World:
    """Rewards and reference log-probabilities (prompts, answers), lengths in tokens."""

    rewards_PK: Tensor
    ref_PK: Tensor
    tokens_PK: Tensor

    @classmethod
    def random(cls, seed: int) -> World:
        rng = torch.Generator().manual_seed(seed)
        rewards_PK, ref_PK = torch.randn(2, PROMPTS, K, generator=rng, dtype=torch.float64)
        tokens_PK = torch.randint(1, 7, (PROMPTS, K), generator=rng).double()
        return cls(rewards_PK, ref_PK.log_softmax(1), tokens_PK)

    def optimum(self) -> Tensor:
        """log π*, π* ∝ π_ref exp(r/β)."""
        return (self.ref_PK + self.rewards_PK / BETA).log_softmax(1)

    def labels(self) -> Tensor:
        """Bradley-Terry's probability that the first of each ordered pair is preferred."""
        return (self.rewards_PK[:, FIRST_Q] - self.rewards_PK[:, SECOND_Q]).sigmoid()


def minimise(start_PK: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-probabilities at which `loss` ends, started from the reference."""
    logits_PK = start_PK.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits_PK],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(logits_PK.log_softmax(1))
        value.backward()
        return value

    optimiser.step(closure)
    return logits_PK.detach().log_softmax(1)


def train(name: str, own: dict[str, Any], data: World, weight_PQ: Tensor) -> Tensor:
    """log π after learning from all ordered pairs, weighing `weight_PQ`."""

    def both(x_PK: Tensor) -> tuple[Tensor, Tensor]:
        return x_PK[:, FIRST_Q].flatten(), x_PK[:, SECOND_Q].flatten()

    def loss(logps_PK: Tensor) -> Tensor:
        columns = (*both(logps_PK), *both(data.ref_PK), *both(data.tokens_PK))
        terms = OFFLINE[name](PairLogps(*columns, weight_P=weight_PQ.flatten()), **own)
        return terms.loss / weight_PQ.sum()

    return minimise(data.ref_PK, loss)


def sure(chosen: int, rejected: int) -> Tensor:
    """Weights by which every prompt has this one pair, with a sure label."""
    only_Q = (FIRST_Q.eq(chosen) & SECOND_Q.eq(rejected)).double()
    return only_Q.repeat(PROMPTS, 1)


def apart(x_PK: Tensor) -> Tensor:
    """Differences within a prompt, of all ordered pairs."""
    return x_PK[:, FIRST_Q] - x_PK[:, SECOND_Q]


def furthest(got: Tensor, wanted: Tensor | float) -> float:
    return float((got - wanted).abs().max())


@pytest.mark.parametrize("seed", [0, 1])
def test_dpo_on_exact_bradley_terry_labels_finds_the_optimum_of_rlhf(seed: int) -> None:
    """Every answer's log-probability within 0.01 of π* ∝ π_ref exp(r/β)."""
    data = World.random(seed)
    learned_PK = train("dpo", {"beta": BETA}, data, data.labels())
    assert furthest(learned_PK, data.optimum()) <= 1e-2
    assert furthest(data.ref_PK, data.optimum()) > 1, "the start is far from it"


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_robust_dpo_finds_the_same_from_flipped_labels_and_dpo_does_not(epsilon: float) -> None:
    data = World.random(0)
    flipped_PQ = (1 - epsilon) * data.labels() + epsilon * (1 - data.labels())
    robust_PK = train("robust-dpo", {"beta": BETA, "label_smoothing": epsilon}, data, flipped_PQ)
    fooled_PK = train("dpo", {"beta": BETA}, data, flipped_PQ)
    assert furthest(robust_PK, data.optimum()) <= 1e-2
    assert furthest(fooled_PK, data.optimum()) > 0.3


@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("form", ["sum", "mean"])
def test_ipo_stops_at_half_over_tau(form: str, tau: float) -> None:
    data = World.random(2)
    learned_PK = train("ipo", {"beta": tau, "form": form}, data, sure(4, 6))
    ratio_PK = (learned_PK - data.ref_PK) / (data.tokens_PK if form == "mean" else 1)
    assert furthest(ratio_PK[:, 4] - ratio_PK[:, 6], 1 / (2 * tau)) <= 1e-3


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_cdpo_stops_at_the_logit_of_one_minus_epsilon_and_dpo_nowhere(epsilon: float) -> None:
    data = World.random(2)

    def reward_gap(name: str, **own: float) -> Tensor:
        rewards_PK = BETA * (train(name, {"beta": BETA, **own}, data, sure(4, 6)) - data.ref_PK)
        return rewards_PK[:, 4] - rewards_PK[:, 6]

    logit = math.log((1 - epsilon) / epsilon)
    assert furthest(reward_gap("cdpo", label_smoothing=epsilon), logit) <= 1e-2
    assert float(reward_gap("dpo").min()) > logit + 2


@pytest.mark.parametrize("name", ["simpo", "orpo", "cpo"])
def test_without_a_reference_the_methods_own_measure_comes_to_differ_as_the_rewards_do(name: str) -> None:
    """On exact labels: β log π (CPO), β log π per token (SimPO), log odds per token (ORPO)."""
    data = World.random(1)
    own = {"simpo": {"beta": BETA, "gamma": 0.0}, "orpo": {"beta": 1.0}, "cpo": {"beta": BETA}}[name]

    def measure(logps_PK: Tensor) -> Tensor:
        if name == "cpo":
            return BETA * logps_PK
        mean_PK = logps_PK / data.tokens_PK
        return BETA * mean_PK if name == "simpo" else mean_PK - torch.log(-torch.expm1(mean_PK))

    learned_PK = train(name, own, data, data.labels())
    assert furthest(apart(measure(learned_PK)), apart(data.rewards_PK)) <= 1e-2
    assert furthest(apart(measure(data.ref_PK)), apart(data.rewards_PK)) > 1


def test_kto_moves_probability_from_bad_answers_to_good_ones() -> None:
    """The better half of each prompt's answers is good; they end up with nearly all of the probability."""
    data = World.random(3)
    good_PK = data.rewards_PK > data.rewards_PK.median(1, keepdim=True).values

    def loss(logps_PK: Tensor) -> Tensor:
        columns = logps_PK.flatten(), data.ref_PK.flatten()
        return kto_loss(*columns, good_C=good_PK.flatten(), baseline=0.0, beta=0.3).loss / K

    learned_PK = minimise(data.ref_PK, loss)
    assert (learned_PK[~good_PK] < data.ref_PK[~good_PK] - 1).all()
    mass_P = (learned_PK.exp() * good_PK).sum(1)
    assert float(mass_P.min()) > 0.95 > float((data.ref_PK.exp() * good_PK).sum(1).min())
