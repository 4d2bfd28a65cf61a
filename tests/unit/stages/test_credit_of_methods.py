"""What the on-policy methods make of an iteration's tensors, without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.config import GrpoConfig, PpoConfig, PpoLagrangianConfig
from accord.errors import NumericsError
from accord.objectives.grpo import grpo_advantages
from accord.stages import online
from accord.stages.methods import (
    METHODS,
    centred,
    centred_groups,
    grpo_credit,
    ppo_credit,
    useful_groups,
    watch,
)
from accord.stages.rollouts import Rollouts
from reference import oracles

FILES = {"model": "m", "reward_model": "r", "prompts": "p", "out": "o"}
LENGTHS = (3, 1, 2, 4)


def random_rollouts(seed: int = 0, **changes: Any) -> Rollouts:
    rng = torch.Generator().manual_seed(seed)
    mask_CT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    fields: dict[str, Any] = {
        "groups": (),
        "encoded": (),
        "group_C": torch.tensor([0, 0, 1, 1]),
        "own_C": torch.ones(4, dtype=torch.bool),
        "finished_C": torch.tensor([True, True, False, True]),
        "mask_CT": mask_CT,
        "features_CTD": None,
        "scores_C": draw(4),
        "rewards_C": draw(4),
        "costs_C": draw(4),
    }
    names = ("sampler_logps_CT", "logps_CT", "ref_logps_CT", "values_CT", "cost_values_CT")
    fields |= {name: draw(*mask_CT.shape) * mask_CT for name in names}
    return Rollouts(**{**fields, **changes})


def flat(ragged: Any) -> list[float]:
    return [x for row in ragged for x in row]


def rows(padded_CT: Tensor) -> list[list[float]]:
    return [padded_CT[c, :length].tolist() for c, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("multiplier", [0.0, 0.7, 4.0])
def test_credit_under_a_price_of_cost_is_that_of_both_critics(multiplier: float) -> None:
    """From the paper, one number at a time: GAE of the reward with all of the KL, GAE of the bare cost."""
    r = random_rollouts(multiplier=multiplier)
    config = PpoLagrangianConfig.model_validate({**FILES, "cost_model": "c", "gamma": 0.9, "lam": 0.8})
    found = ppo_credit(config, r, 0.3)
    assert r.costs_C is not None and r.cost_values_CT is not None and found.cost_returns_CT is not None
    logps, refs = rows(r.logps_CT), rows(r.ref_logps_CT)
    rewarded, returns = oracles.gae(
        oracles.shape_rewards(r.rewards_C.tolist(), logps, refs, 0.3), rows(r.values_CT), 0.9, 0.8
    )
    charged, cost_returns = oracles.gae(
        oracles.shape_rewards(r.costs_C.tolist(), logps, refs, 0.0), rows(r.cost_values_CT), 0.9, 0.8
    )
    mixed = [
        [(a - multiplier * b) / (1 + multiplier) for a, b in zip(gain, loss, strict=True)]
        for gain, loss in zip(rewarded, charged, strict=True)
    ]
    assert flat(rows(found.advantages_CT)) == pytest.approx(flat(oracles.whiten(mixed, True)), abs=1e-9)
    assert flat(rows(found.returns_CT)) == pytest.approx(flat(returns), abs=1e-9)
    assert flat(rows(found.cost_returns_CT)) == pytest.approx(flat(cost_returns), abs=1e-9)


def test_without_a_cost_model_there_is_no_price() -> None:
    r = random_rollouts(costs_C=None, cost_values_CT=None, multiplier=3.0)
    config = PpoConfig.model_validate(FILES)
    found = ppo_credit(config, r, 0.3)
    assert found.cost_returns_CT is None
    free = ppo_credit(config, replace(random_rollouts(), multiplier=0.0), 0.3)
    torch.testing.assert_close(found.advantages_CT, free.advantages_CT)


@dataclass(frozen=True)
class Priced:
    multiplier: float = 0.0


def test_the_price_follows_the_mean_cost_of_the_last_answers() -> None:
    own = {"cost_model": "c", "cost_limit": 0.5, "cost_window": 3, "cost_multiplier": 2.0}
    config = PpoLagrangianConfig.model_validate(
        {**FILES, **own, "cost_multiplier_rate": 0.25, "cost_multiplier_max": 4.0}
    )
    state: Any = SimpleNamespace(extra={})

    def price(*costs: float) -> dict[str, float]:
        priced, metrics = online.Online.price(state, config, Priced(), costs)  # type: ignore[arg-type]
        assert priced.multiplier == metrics["objective/cost_multiplier"] == state.extra["multiplier"]
        return metrics

    first = price(2.0, 1.0)
    assert first["objective/costs"] == 1.5 and first["objective/cost_excess"] == 1.0
    assert first["objective/cost_multiplier"] == pytest.approx(2.0 * math.exp(0.25 * 2.0 * 1.0))
    second = price(-4.5, -2.5)  # the window holds 1, -4.5, -2.5
    assert second["objective/costs"] == -3.5 and second["objective/cost_excess"] == -2.5
    after = first["objective/cost_multiplier"]
    assert second["objective/cost_multiplier"] == pytest.approx(after * math.exp(0.25 * after * -2.5))
    whole = price(9.0, 8.0, 7.0, 6.0)  # an iteration is never cut
    assert whole["objective/cost_excess"] == 7.0
    assert price(99.0)["objective/cost_multiplier"] == 4.0


def test_groups_are_useful_when_their_rewards_differ_after_all_that_is_taken_from_them() -> None:
    equal = torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    r = random_rollouts(rewards_C=equal)
    plain = GrpoConfig.model_validate(FILES)
    assert useful_groups(plain, r, 0.3) == []
    assert useful_groups(plain, replace(r, rewards_C=torch.tensor([1.0, 1.0, 2.0, 3.0])), 0.3) == [1]
    with_kl = GrpoConfig.model_validate({**FILES, "use_kl_in_reward": True})
    assert useful_groups(with_kl, r, 0.3) == [0, 1] and useful_groups(with_kl, r, 0.0) == []
    # A penalty from 3 tokens on (of 4): answers of 1 and 3 tokens stay equal, those of 2 and 4 do not.
    long = {**FILES, "max_new_tokens": 4, "overlong_buffer": 1, "overlong_penalty": 0.5}
    assert useful_groups(GrpoConfig.model_validate(long), r, 0.3) == [1]


def test_switches_of_grpo_reach_its_credit() -> None:
    r = random_rollouts(rewards_C=torch.tensor([1.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    for scale in ("group", "batch", "none"):
        found = grpo_credit(GrpoConfig.model_validate({**FILES, "scale_rewards": scale}), r, 0.0)
        expected_C = grpo_advantages(r.rewards_C, r.group_C, scale=scale)  # type: ignore[arg-type]
        torch.testing.assert_close(found.advantages_CT[:, 0], expected_C)
        assert found.keep_C.all()
    own = {"drop_equal_groups": True, "mask_truncated_completions": True}
    found = grpo_credit(GrpoConfig.model_validate({**FILES, **own}), r, 0.0)
    assert found.keep_C.tolist() == [False, False, False, True]


@pytest.mark.parametrize("name", ["ppo", "reinforce++"])
def test_whitened_advantages_have_mean_0_and_deviation_1(name: str) -> None:
    """What `objective/advantages` reports; of group methods it is the mean over answers that is 0."""
    schema = {method.name: schema for schema, method in METHODS.items()}[name]
    found = METHODS[schema].credit(schema.model_validate(FILES), random_rollouts(), 0.1)
    assert found.metrics["objective/advantages"] == pytest.approx(0, abs=1e-9)
    assert found.metrics["objective/advantages_std"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_group_methods_have_advantages_of_mean_0_within_a_prompt(name: str) -> None:
    schema = {method.name: schema for schema, method in METHODS.items()}[name]
    found = METHODS[schema].credit(schema.model_validate(FILES), random_rollouts(), 0.1)
    assert not isinstance(found, online.Comparisons)
    first_C = found.advantages_CT[:, 0]
    assert first_C.abs().min() > 0
    assert (first_C[0] + first_C[1]).item() == pytest.approx(0, abs=1e-9)
    assert (first_C[2] + first_C[3]).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("advantages", [[1.0, 1.0, -1.0], [1.0, -1.0, math.nan], [math.inf, -math.inf]])
def test_advantages_that_do_not_cancel_out_stop_the_run(advantages: list[float]) -> None:
    centred(torch.zeros(3))
    centred(torch.tensor([1.0, 1.0, -2.0]))
    with pytest.raises(NumericsError, match="the advantages' mean is"):
        centred(torch.tensor(advantages))


def test_rounding_in_groups_of_equal_rewards_stops_nothing() -> None:
    """1000.1 has no exact mean in float32, and GRPO divides the rest by next to nothing."""
    r = random_rollouts(
        rewards_C=torch.tensor([1000.1] * 3 + [1.0] * 3), group_C=torch.tensor([0] * 3 + [1] * 3)
    )
    mask_CT = torch.ones(6, 2, dtype=torch.bool)
    same = {name: torch.zeros(6, 2) for name in ("logps_CT", "ref_logps_CT", "sampler_logps_CT")}
    r = replace(r, mask_CT=mask_CT, own_C=mask_CT[:, 0], finished_C=mask_CT[:, 0], **same)
    assert grpo_credit(GrpoConfig.model_validate(FILES), r, 0.0).keep_C.all()
    wrong = replace(r, rewards_C=torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 1.0]))
    with pytest.raises(NumericsError, match="mean is"):
        centred_groups(wrong.rewards_C, wrong.rewards_C, wrong.group_C)


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce++"])
def test_every_method_looks_at_its_advantages(name: str) -> None:
    schema = {method.name: schema for schema, method in METHODS.items()}[name]
    r = random_rollouts()
    broken = replace(r, rewards_C=torch.full_like(r.rewards_C, torch.nan))
    with pytest.raises(NumericsError, match="the advantages' mean is nan"):
        METHODS[schema].credit(schema.model_validate(FILES), broken, 0.1)


def test_a_gradient_outside_the_answers_stops_the_run() -> None:
    mask_CT = random_rollouts().mask_CT
    inside_CT = torch.zeros(mask_CT.shape, requires_grad=True) * 1.0
    watch(inside_CT, mask_CT)
    (inside_CT * mask_CT).sum().backward()
    outside_CT = torch.zeros(mask_CT.shape, requires_grad=True) * 1.0
    watch(outside_CT, mask_CT)
    with pytest.raises(NumericsError, match="no token of an answer"):
        outside_CT.sum().backward()


def test_what_a_steps_loss_is_divided_by() -> None:
    """Tokens, answers, or pairs of answers."""
    counts = {m.name: m.count(None, LENGTHS) for c, m in METHODS.items() if c is not GrpoConfig}
    assert counts == {
        "ppo": 10,
        "ppo-lagrangian": 10,
        "rloo": 4,
        "reinforce++": 10,
        "online-dpo": 2,
        "xpo": 2,
    }
    for loss_type, count in (("grpo", 4), ("dapo", 10), ("dr_grpo", 4 * 7)):
        config = GrpoConfig.model_validate({**FILES, "loss_type": loss_type, "max_new_tokens": 7})
        assert METHODS[GrpoConfig].count(config, LENGTHS) == count
