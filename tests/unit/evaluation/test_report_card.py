import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit

from accord.errors import DataError
from accord.evaluation.intervals import Interval
from accord.evaluation.report_card import ScoredPair, calibration, report_card
from accord.feedback.agreement import ceiling
from accord.records import Judgement

PAIR = ScoredPair("p", 1.0, 0.0, 10, 20, 2, 0, "i", "r")


def pair(prompt="p", a=1.0, b=0.0, la=10, lb=20, strength=1, first=0):
    return ScoredPair(prompt, a, b, la, lb, strength, first, f"item-{prompt}", "rater")


def test_every_number_by_hand():
    card = report_card(
        [
            pair("1", a=2.0, b=0.0, la=10, lb=20, strength=3, first=0),  # right; shorter wins; first wins
            pair("2", a=0.0, b=1.0, la=10, lb=20, strength=-1, first=0),  # right; longer wins; second wins
            pair("3", a=0.0, b=3.0, la=10, lb=10, strength=1, first=0),  # wrong; equal lengths; first wins
            pair("4", a=1.0, b=1.0, la=30, lb=20, strength=1, first=1),  # cannot tell; longer; second
            pair("4", a=9.0, b=1.0, la=99, lb=20, strength=0, first=1),  # a tie
        ]
    )
    assert (card.n, card.n_ties, card.n_prompts) == (4, 1, 4)
    assert card.accuracy.value == 2.5 / 4
    assert card.longer_wins.value == 2.5 / 4
    assert card.first_wins.value == 2 / 4
    assert card.prefers_longer.value == (0 + 1 + 0.5 + 0.5) / 4
    assert card.mean_margin == (2 + 1 - 3 + 0) / 4
    assert card.ceiling is card.share_of_ceiling is card.share_above_chance is None
    assert card.accuracy.low < card.accuracy.value < card.accuracy.high


def test_beside_the_ceiling():
    pairs = [pair(str(k), a=1.0 if k < 6 else -1.0) for k in range(8)]
    card = report_card(pairs, ceiling=Interval(0.85, 0.8, 0.9, 100))
    assert card.accuracy.value == 0.75
    assert card.share_of_ceiling == pytest.approx(0.75 / 0.85)
    assert card.share_above_chance == pytest.approx(0.25 / 0.35)
    chance = report_card(pairs, ceiling=Interval(0.5, 0.5, 0.6, 9))
    assert chance.share_of_ceiling == 1.5 and chance.share_above_chance is None
    written = card.to_json()
    assert json.loads(json.dumps(written, allow_nan=False))["accuracy"]["value"] == 0.75


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_which_one_is_called_a_means_nothing(seed):
    rng = np.random.default_rng(seed)
    scores, lengths = rng.normal(size=(30, 2)), rng.integers(1, 9, (30, 2)).tolist()
    answers = zip(rng.integers(-3, 4, 30).tolist(), rng.integers(0, 2, 30).tolist(), strict=True)
    pairs = [
        ScoredPair(f"p{k // 2}", *scores[k], *lengths[k], strength or 1, first, f"i{k}", "r")
        for k, (strength, first) in enumerate(answers)
    ]
    swapped = [
        dataclasses.replace(
            p, score_a=p.score_b, score_b=p.score_a, length_a=p.length_b, length_b=p.length_a,
            strength=-p.strength, shown_first=1 - p.shown_first,
        )
        for p in pairs
    ]  # fmt: skip
    assert report_card(pairs, n_boot=50) == report_card(swapped, n_boot=50)


def test_planted_habits_are_seen():
    rng = np.random.default_rng(0)
    pairs = []
    for k in range(3000):
        la, lb, first = *map(int, rng.choice(100, 2, replace=False)), int(rng.integers(2))
        odds = 0.8 * np.sign(la - lb) + 0.4 * (1 - 2 * first)
        strength = 1 if rng.random() < expit(odds) else -1
        pairs.append(ScoredPair(f"p{k}", la / 100, lb / 100, la, lb, strength, first, f"i{k}", "r"))
    card = report_card(pairs, n_boot=200)
    longer = (expit(1.2) + expit(0.4)) / 2
    first = (expit(1.2) + expit(-0.4)) / 2
    assert card.longer_wins.value == pytest.approx(longer, abs=0.025)
    assert card.first_wins.value == pytest.approx(first, abs=0.03)
    assert card.prefers_longer.value == 1.0 and card.accuracy == card.longer_wins


# -------------------------------------------------------------------------------------- calibration


def bradley_terry_wins(rng, n, spread=2.0):
    """Margins m and, from them, by how much the winner leads when the winner is drawn with σ(m)."""
    m = spread * rng.normal(size=n)
    return np.where(rng.random(n) < expit(m), m, -m)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_planted_is_found(scale):
    lead = bradley_terry_wins(np.random.default_rng(0), 40_000)
    found = calibration(scale * lead)
    assert found.temperature == pytest.approx(scale, rel=0.03)
    assert calibration(scale * lead / found.temperature).error < 0.01
    assert (found.error < 0.01) == (scale == 1.0)
    assert sum(b.n for b in found.bins) == 40_000
    for b in found.bins:
        assert b.low - 1e-12 <= b.predicted <= b.high + 1e-12
        if scale > 1:
            assert b.observed < b.predicted  # overconfident everywhere


def test_the_temperature_is_the_maximum_of_the_likelihood():
    lead = bradley_terry_wins(np.random.default_rng(1), 300)
    best = minimize_scalar(lambda t: np.logaddexp(0, -lead / t).sum(), bounds=(0.05, 20), method="bounded",
                           options={"xatol": 1e-9})  # fmt: skip
    assert calibration(lead).temperature == pytest.approx(best.x, rel=1e-4)
    assert calibration(1e-6 * lead).temperature == pytest.approx(1e-6 * best.x, rel=1e-4)


def test_expected_calibration_error_by_hand():
    sure = math.log(9)  # σ = 0.9
    found = calibration(np.array([sure, sure, sure, -sure, 0.0]), bins=5)
    low, high = found.bins
    assert (low.n, low.predicted, low.observed) == (1, 0.5, 0.5)
    assert (high.n, high.observed) == (4, 0.75) and high.predicted == pytest.approx(0.9)
    assert found.error == pytest.approx(4 / 5 * 0.15)
    assert found.temperature == pytest.approx(sure / math.log(3))  # where σ is 0.75


@pytest.mark.parametrize(
    ("lead", "message"),
    [
        ([1.0, 2.0], "right every time"),
        ([-1.0, 0.5], "wrong way"),
        ([0.0, 0.0], "no margin"),
    ],
)
def test_no_temperature_is_said_in_words(lead, message):
    found = calibration(np.array(lead))
    assert found.temperature is None and message in found.temperature_undefined_because


# --------------------------------------------------------------------- the ceiling, from end to end


def oracle_and_judgements(rng, n, tie_chance):
    """Pairs with p_i ~ Beta judged by three raters; an oracle scores with the logit of p_i."""
    p_i = rng.beta(0.7, 0.7, n)
    pairs, judgements = [], []
    for i in range(n):
        for r in range(3):
            strength = 1 if rng.random() < p_i[i] else -1
            if rng.random() < tie_chance(p_i[i]):
                strength = 0
            pairs.append(ScoredPair(f"p{i}", p_i[i], 0.5, 1, 2, strength, 0, f"i{i}", f"r{r}"))
            judgements.append(
                Judgement(
                    f"{i}-{r}", f"i{i}", f"r{r}", "simulated", f"p{i}", ("a", "b"), strength, (0, 1), "g", 1.0
                )
            )
    return pairs, judgements


@pytest.mark.parametrize(
    ("tie_chance", "low", "high"),
    [
        (lambda p: 0.0, -0.012, 0.012),
        (lambda p: 0.3, -0.012, 0.012),
        # Ties where raters are torn: pairs with two decided judgements are then the clearer ones, and the
        # ceiling errs upwards, here by about one point.
        (lambda p: 0.8 * (1 - abs(2 * p - 1)), 0.003, 0.02),
    ],
)
def test_the_best_possible_model_scores_the_ceiling(tie_chance, low, high):
    pairs, judgements = oracle_and_judgements(np.random.default_rng(2), 6000, tie_chance)
    limit = ceiling(judgements, n_boot=200)
    card = report_card(pairs, n_boot=200, ceiling=Interval(limit.value, limit.low, limit.high, limit.n))
    assert low <= limit.value - card.accuracy.value <= high
    worse = [dataclasses.replace(p, score_a=p.score_a + 0.3) for p in pairs]
    assert report_card(worse, n_boot=200).accuracy.value < card.accuracy.value - 0.03


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "0 given"),
        ([dataclasses.replace(PAIR, strength=0)], "1 given, all of them ties"),
        ([dataclasses.replace(PAIR, score_a=math.nan)], "item 'i' by rater 'r': scores must be finite"),
        ([dataclasses.replace(PAIR, strength=4)], "from -3 to 3, not 4"),
        ([dataclasses.replace(PAIR, shown_first=2)], "shown_first must be 0"),
    ],
)
def test_unusable_rows(pairs, message):
    with pytest.raises(DataError, match=message):
        report_card(pairs)
    with pytest.raises(DataError, match="at least one bin"):
        report_card([PAIR], bins=0)
