"""Sums and ensembles of scorers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from accord.errors import ConfigError, DataError
from accord.records import Group, Prompt
from accord.rewards.combine import Component, Ensemble, WeightedSum, part_metrics
from accord.rewards.scorer import Scores
from unit.rewards.few import batch_of

NAN = math.nan
GROUPS = [Group.of(Prompt.of("1"), "a", "b"), Group.of(Prompt.of("2"), "c")]
BATCH = batch_of(GROUPS)


def fixed(*scores: float, hidden: Tensor | None = None):
    return lambda groups, batch: Scores(torch.tensor(scores), hidden)


def test_a_weighted_sum_and_its_parts() -> None:
    reward = WeightedSum(
        (Component("model", fixed(1.0, 2.0, 3.0), 2.0), Component("rule", fixed(1.0, -1.0, 0.0), -0.5))
    )
    got = reward(GROUPS, BATCH)
    assert got.scores_C.tolist() == [1.5, 4.5, 6.0]
    assert {name: part_C.tolist() for name, part_C in got.parts.items()} == {
        "model": [1, 2, 3],
        "rule": [1, -1, 0],
    }


def test_no_opinion_is_left_out_of_the_sum() -> None:
    reward = WeightedSum((Component("a", fixed(1.0, NAN, 3.0), 2.0), Component("b", fixed(NAN, 5.0, 1.0))))
    assert reward(GROUPS, BATCH).scores_C.tolist() == [2, 5, 7]
    silent = WeightedSum((Component("a", fixed(1.0, 1.0, NAN)), Component("b", fixed(1.0, 1.0, NAN))))
    with pytest.raises(DataError, match=rf"row 2 .prompt {GROUPS[1].prompt.id}.: a, b gave none"):
        silent(GROUPS, BATCH)


def test_hidden_states_are_those_of_the_first_model() -> None:
    hidden = torch.ones(2, 2)
    rule, model, other = (
        fixed(0.0, 0, 0),
        fixed(0.0, 0, 0, hidden=hidden),
        fixed(0.0, 0, 0, hidden=2 * hidden),
    )
    parts = Component("rule", rule), Component("model", model), Component("other", other)
    assert WeightedSum(parts)(GROUPS, BATCH).hidden_FD is hidden
    assert WeightedSum(parts[:1])(GROUPS, BATCH).hidden_FD is None
    assert Ensemble((rule, model, other))(GROUPS, BATCH).hidden_FD is hidden


MEMBERS = (fixed(1.0, 4.0, 0.0), fixed(3.0, 0.0, 0.0), fixed(2.0, -1.0, 0.0))
MEAN, VARIANCE = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([2 / 3, 14 / 3, 0.0])


def test_ensembles() -> None:
    for how, want_C in {
        "mean": MEAN,
        "min": torch.tensor([1.0, -1.0, 0.0]),
        "std": MEAN - 0.5 * VARIANCE.sqrt(),
        "variance": MEAN - 0.5 * VARIANCE,
    }.items():
        got = Ensemble(MEMBERS, how, coef=0.5)(GROUPS, BATCH)
        assert_close(got.scores_C, want_C)
        assert_close(got.parts["ensemble/mean"], MEAN)
        assert_close(got.parts["ensemble/std"], VARIANCE.sqrt())


def test_one_member_is_itself() -> None:
    for how in ("mean", "min", "std", "variance"):
        assert Ensemble(MEMBERS[:1], how, coef=3.0)(GROUPS, BATCH).scores_C.tolist() == [1, 4, 0]


def test_metrics_count_only_opinions() -> None:
    parts = {"a": torch.tensor([1.0, NAN, 4.0]), "b": torch.tensor([NAN, 2.0, NAN]), "c": torch.tensor([NAN])}
    got = part_metrics(parts)
    assert got["rewards/a/mean"] == 2.5
    assert got["rewards/a/std"] == pytest.approx(math.sqrt(4.5))
    assert (got["rewards/b/mean"], got["rewards/b/std"]) == (2, 0)
    assert math.isnan(got["rewards/c/mean"]) and math.isnan(got["rewards/c/std"])


def test_refusals() -> None:
    one = Component("a", MEMBERS[0])
    for components, words in (
        ((), "needs at least one component"),
        ((one, one), "two components of the reward are called 'a'"),
        ((Component("a", MEMBERS[0], NAN),), "weight of reward 'a' must be a finite number, not nan"),
    ):
        with pytest.raises(ConfigError, match=words):
            WeightedSum(components)
    for settings, words in (
        ({"members": ()}, "needs at least one member"),
        ({"members": MEMBERS, "how": "median"}, "unknown ensemble 'median': use mean, min"),
        ({"members": MEMBERS, "how": "std", "coef": -1.0}, "coef must be at least 0, not -1"),
        ({"members": MEMBERS, "how": "std", "coef": NAN}, "coef must be at least 0, not nan"),
    ):
        with pytest.raises(ConfigError, match=words):
            Ensemble(**settings)
    with pytest.raises(DataError, match=r"row 1 .*member 1 of the ensemble"):
        Ensemble((MEMBERS[0], fixed(1.0, NAN, 1.0)))(GROUPS, BATCH)
