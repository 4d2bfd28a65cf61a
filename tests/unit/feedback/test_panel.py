"""Simulated raters: what is planted in them is measured back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import ConfigError
from accord.feedback.panel import GRADES, SimulatedRater, judgement_rng, make_panel, utility

PLAIN = SimulatedRater("sim-test", {"good": 1.0})
N = 8000


def strengths(rater: SimulatedRater, left: float, right: float, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(11)
    return np.array([rater.judge({"good": left}, {"good": right}, rng)[0] for _ in range(n)])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def se(p: float, n: int = N) -> float:
    return math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("gap", [-2.0, -0.5, 0.0, 1.0, 2.5])
def test_choices_are_bradley_terry(gap: float) -> None:
    share = np.mean(strengths(PLAIN, gap, 0.0) > 0)
    assert share == pytest.approx(sigmoid(gap), abs=4 * se(sigmoid(gap)))


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_planted_noise_is_measured_back(noise: float) -> None:
    share = np.mean(strengths(replace(PLAIN, noise=noise), 1.5, 0.0) > 0)
    expected = sigmoid(1.5 / noise)
    error = 1 / math.sqrt(N * expected * (1 - expected))  # of the measured logit, by the delta method
    assert math.log(share / (1 - share)) == pytest.approx(1.5 / noise, abs=4 * error)
    assert 1.5 / math.log(share / (1 - share)) == pytest.approx(noise, rel=0.15)


@pytest.mark.parametrize("bias", [-0.8, 0.4])
def test_planted_position_bias_is_measured_back(bias: float) -> None:
    share = np.mean(strengths(replace(PLAIN, position_bias=bias), 0.0, 0.0) > 0)
    assert math.log(share / (1 - share)) == pytest.approx(bias, abs=0.1)


def test_planted_lapses_are_measured_back() -> None:
    # With a gap no noise can bridge, every answer that is not "left" is a lapse: 4 of the 7 strengths.
    seen = strengths(replace(PLAIN, lapse=0.3), 50.0, 0.0)
    assert np.mean(seen <= 0) * 7 / 4 == pytest.approx(0.3, abs=4 * 7 / 4 * se(0.3 * 4 / 7))


def test_ties_have_the_logistic_share() -> None:
    expected = sigmoid(0.5) - sigmoid(-0.5)
    share = np.mean(strengths(replace(PLAIN, tie_width=0.5), 0.0, 0.0) == 0)
    assert share == pytest.approx(expected, abs=4 * se(expected))


def test_swapping_sides_mirrors_the_distribution() -> None:
    rater = replace(PLAIN, lapse=0.1, tie_width=0.3)
    one = np.bincount(strengths(rater, 1.2, 0.0) + 3, minlength=7) / N
    other = np.bincount(3 - strengths(rater, 0.0, 1.2), minlength=7) / N
    assert np.abs(one - other).max() < 4 * math.sqrt(2) * se(0.3)
    leaning = replace(rater, position_bias=1.0)
    one = np.bincount(strengths(leaning, 1.2, 0.0) + 3, minlength=7) / N
    other = np.bincount(3 - strengths(leaning, 0.0, 1.2), minlength=7) / N
    assert np.abs(one - other).max() > 0.1


def test_strength_grows_with_the_difference() -> None:
    exact = replace(PLAIN, noise=0.0, tie_width=0.25)
    gaps = [0.2, 0.3, 0.25 + GRADES[1] + 0.01, 0.25 + GRADES[2] + 0.01]
    rng = np.random.default_rng(0)
    assert [exact.judge({"good": g}, {"good": 0.0}, rng)[0] for g in gaps] == [0, 1, 2, 3]
    assert [exact.judge({"good": 0.0}, {"good": g}, rng)[0] for g in gaps] == [0, -1, -2, -3]


def test_hard_pairs_take_longer_and_lapses_are_quick() -> None:
    rng = np.random.default_rng(5)
    hard, easy, careless = (
        np.mean([rater.judge({"good": gap}, {"good": 0.0}, rng)[1] for _ in range(500)])
        for rater, gap in ((PLAIN, 0.0), (PLAIN, 5.0), (replace(PLAIN, lapse=1.0), 0.0))
    )
    assert hard > 1.5 * easy > 3 * careless > 0


def test_a_judgement_depends_on_rater_and_item_only() -> None:
    panel = make_panel(3, {"good": 1.0}, seed=1)

    def ask(pairs: list[tuple[int, str]]) -> dict[tuple[int, str], tuple[int, float]]:
        return {
            (r, item): panel[r].judge({"good": 0.3}, {"good": 0.0}, judgement_rng(panel[r].name, item))
            for r, item in pairs
        }

    pairs = [(r, f"item-{i}") for r in range(3) for i in range(20)]
    forward = ask(pairs)
    assert ask(pairs[::-1]) == forward
    assert len({seconds for _, seconds in forward.values()}) == len(pairs)
    assert judgement_rng("sim-1", "x", seed=1).random() != judgement_rng("sim-1", "x", seed=2).random()


@given(st.floats(-5, 5), st.floats(0, 1))
def test_every_judgement_draws_the_same_number_of_variates(gap: float, lapse: float) -> None:
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    replace(PLAIN, lapse=lapse).judge({"good": gap}, {"good": 0.0}, one)
    PLAIN.judge({"good": 0.0}, {"good": 0.0}, other)
    assert one.random() == other.random()


def test_utility_is_the_weighted_sum() -> None:
    assert utility({"a": 2.0, "b": -1.0}, {"a": 0.5, "b": 0.25, "c": 9.0}) == pytest.approx(0.75)
    with pytest.raises(KeyError, match="b"):
        utility({"a": 2.0, "b": -1.0}, {"a": 0.5})


def test_panels_of_two_seeds_are_disjoint_people() -> None:
    base = {"good": 2.0, "bad": -1.0}
    one, again, other = (make_panel(6, base, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert not {r.name for r in one} & {r.name for r in other}
    assert not {r.weights["good"] for r in one} & {r.weights["good"] for r in other}
    assert all(r.name.startswith("sim-") for r in one + other)
    assert all(r.weights["good"] > 0 > r.weights["bad"] for r in one + other)
    assert all(r.weights == base for r in make_panel(3, base, seed=4, spread=0.0))


def test_the_panel_spreads_as_asked() -> None:
    panel = make_panel(800, {"good": 3.0}, seed=9, spread=0.4, noise=0.7)
    logs = np.log([r.weights["good"] / 3.0 for r in panel])
    assert abs(logs.mean()) < 0.06 and logs.std() == pytest.approx(0.4, rel=0.1)
    assert np.median([r.noise for r in panel]) == pytest.approx(0.7, rel=0.05)
    assert abs(np.mean([r.position_bias for r in panel])) < 0.03
    assert np.mean([r.lapse for r in panel]) == pytest.approx(1 / 30, rel=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_panel(0, {}, seed=1), "at least one rater"),
        (lambda: make_panel(2, {}, seed=1, prefix="anna"), "must be 'sim'"),
        (lambda: replace(PLAIN, noise=-1.0), "'sim-test': noise -1.0"),
        (lambda: replace(PLAIN, lapse=1.5), "lapse 1.5"),
    ],
)
def test_errors_say_what_is_wrong(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
