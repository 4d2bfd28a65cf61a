"""SimPO: length-normalised, with a margin outside of beta."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import ConfigError
from accord.objectives.pairs import PairLogps
from accord.objectives.simpo import simpo_loss


def loss(chosen: float, rejected: float, n_chosen: float, n_rejected: float, **own: float) -> float:
    columns = (chosen, rejected, 0.0, 0.0, n_chosen, n_rejected)
    pairs = PairLogps(*(torch.tensor([x], dtype=torch.float64) for x in columns))
    return float(simpo_loss(pairs, **{"beta": 2.0, "gamma": 1.0, **own}).loss)


@given(scale_w=st.integers(1, 20), scale_l=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_answers_twice_as_long_at_the_same_likelihood_per_token_are_the_same(
    scale_w: int, scale_l: int
) -> None:
    longer = loss(-3.0 * scale_w, -5.0 * scale_l, 4.0 * scale_w, 3.0 * scale_l)
    assert longer == pytest.approx(loss(-3.0, -5.0, 4.0, 3.0), rel=1e-12)


def test_gamma_is_the_reward_by_which_the_chosen_answer_must_win() -> None:
    """At a margin of exactly γ the loss is log 2, whatever β is."""
    for beta in (0.5, 2.5):
        assert loss(-4.0, -4 - 4 * 1.5 / beta, 4, 4, beta=beta, gamma=1.5) == pytest.approx(math.log(2))


def test_a_negative_gamma_is_refused() -> None:
    with pytest.raises(ConfigError, match="gamma must be at least 0, not -1"):
        loss(-1, -1, 1, 1, gamma=-1.0)
