"""The kappas against statsmodels, published values, hand-made tables and a bootstrap by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import inter_rater

from accord.errors import DataError
from accord.feedback.kappa import cohen_kappa, fleiss_kappa
from accord.feedback.ratings import Rating
from data_paths import shared_data

WEIGHTINGS = {"none": None, "linear": "linear", "quadratic": "quadratic"}
SCALE = [0.0, 1.0, 2.0, 3.0]


def ratings_of(*rows):
    """Long form: one row of values per rater."""
    return [Rating(f"u{u}", f"r{r}", v) for r, row in enumerate(rows) for u, v in enumerate(row)]


def two(first, second, **settings):
    return cohen_kappa(ratings_of(first, second), "r0", "r1", **{"n_boot": 0, **settings})


scores = st.sampled_from(SCALE)
pairs = st.lists(st.tuples(scores, scores), min_size=2, max_size=30)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(pairs=pairs)
@settings(max_examples=60, deadline=None)
def test_cohen_equals_statsmodels(weighting, pairs):
    first, second = zip(*pairs, strict=True)
    found = two(first, second, weighting=weighting, categories=SCALE)
    if len({*first, *second}) == 1:
        assert found.value is None and "nothing varies" in found.meaning
        return
    table = np.zeros((4, 4))
    np.add.at(table, (np.array(first, int), np.array(second, int)), 1)
    expected = inter_rater.cohens_kappa(table, wt=WEIGHTINGS[weighting], return_results=False)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.n == len(pairs)


@given(rows=st.lists(st.lists(scores, min_size=3, max_size=3), min_size=2, max_size=20))
@settings(max_examples=60, deadline=None)
def test_fleiss_equals_statsmodels(rows):
    found = fleiss_kappa(ratings_of(*zip(*rows, strict=True)), n_boot=0)
    if len({value for row in rows for value in row}) == 1:
        assert found.value is None and "nothing varies" in found.meaning
        return
    table, _ = inter_rater.aggregate_raters(np.array(rows))
    assert found.value == pytest.approx(inter_rater.fleiss_kappa(table), abs=1e-12)


def test_fleiss_published_example():
    """Fleiss 1971's kind of table: 10 subjects, 14 raters, 5 categories, as reprinted widely; kappa 0.210."""
    table = """0 0 0 0 14  0 2 6 4 2  0 0 3 5 6  0 3 9 2 0  2 2 8 1 1
               7 7 0 0 0   3 2 6 3 0  2 5 3 2 2  6 5 2 1 0  0 2 2 3 7"""
    counts = np.array(table.split(), int).reshape(10, 5)
    ratings = [
        Rating(f"u{u}", f"r{r}", float(value))
        for u, row in enumerate(counts)
        for r, value in enumerate(np.repeat(np.arange(5), row))
    ]
    assert fleiss_kappa(ratings, n_boot=0).value == pytest.approx(0.210, abs=5e-4)


def test_pandalms_published_kappas():
    rows = json.loads((shared_data("pandalm_test") / "testset-v1.json").read_text())
    votes = ratings_of(*([str(row[f"annotator{k}"]) for row in rows] for k in (1, 2, 3)))
    for (i, j), published in {(0, 1): 0.85, (0, 2): 0.88, (1, 2): 0.86}.items():
        found = cohen_kappa(votes, f"r{i}", f"r{j}")
        assert found.value == pytest.approx(published, abs=0.006)
        assert found.low < published < found.high
    everyone = fleiss_kappa(votes)
    assert everyone.n == len(rows)
    assert everyone.value == pytest.approx(0.86, abs=0.01)


def test_weighted_fleiss_by_hand():
    # Units (0, 0, 2), (1, 1, 1), (2, 0, 1): squared differences of the three pairs 0 4 4, 0 0 0, 4 1 1.
    ratings = ratings_of((0, 1, 2), (0, 1, 0), (2, 1, 1))
    seen = (8 / 3 + 0 + 6 / 3) / 3
    shares = np.array([3, 4, 2]) / 9
    chance = sum(shares[j] * shares[k] * (j - k) ** 2 for j in range(3) for k in range(3))
    assert fleiss_kappa(ratings, weighting="quadratic", n_boot=0).value == pytest.approx(1 - seen / chance)
    linear = (4 / 3 + 0 + 4 / 3) / 3
    chance = sum(shares[j] * shares[k] * abs(j - k) for j in range(3) for k in range(3))
    assert fleiss_kappa(ratings, weighting="linear", n_boot=0).value == pytest.approx(1 - linear / chance)


def test_steps_are_those_of_the_scale_not_of_the_values_that_occur():
    first, second = [0, 0, 3, 3, 0], [0, 3, 3, 0, 1]
    whole = two(first, second, weighting="quadratic", categories=[0, 1, 2, 3])
    used = two(first, second, weighting="quadratic")
    assert used.value != pytest.approx(whole.value)
    seen, chance = (9 + 9 + 1) / 5, np.mean([(a - b) ** 2 for a in first for b in second])
    assert whole.value == pytest.approx(1 - seen / chance)


def test_fleiss_uses_the_commonest_number_of_answers_and_says_what_it_left_out():
    full = ratings_of("aabbab", "aabbba", "aabaab")
    more = [*full, Rating("x", "r0", "a"), Rating("x", "r1", "b"), Rating("y", "r0", "a")]
    assert fleiss_kappa(more, n_boot=0).value == fleiss_kappa(full, n_boot=0).value
    assert "1 with another number left out" in fleiss_kappa(more, n_boot=0).meaning
    assert "left out" not in fleiss_kappa(full, n_boot=0).meaning


def test_what_is_undefined_says_why():
    assert "share no question" in cohen_kappa([Rating("u", "a", 1.0)], "a", "b").meaning
    assert cohen_kappa([Rating("u", "a", 1.0)], "a", "b").value is None
    assert "no question has answers of two raters" in fleiss_kappa([Rating("u", "a", 1.0)]).meaning
    assert "every answer is 'x'" in two("xx", "xx").meaning


def test_resampling_questions_in_clusters_widens_the_interval():
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(0, 2, 30), 10)  # ten copies of thirty questions
    flip = np.repeat(rng.random(30) < 0.25, 10)
    ratings = ratings_of(truth.tolist(), np.where(flip, 1 - truth, truth).tolist())
    alone = cohen_kappa(ratings, "r0", "r1")
    together = cohen_kappa(ratings, "r0", "r1", clusters={f"u{u}": u // 10 for u in range(300)})
    assert together.value == alone.value
    assert together.high - together.low > 2.5 * (alone.high - alone.low)
    fleiss = [fleiss_kappa(ratings, clusters=c) for c in (None, {f"u{u}": u // 10 for u in range(300)})]
    assert fleiss[1].high - fleiss[1].low > 2.5 * (fleiss[0].high - fleiss[0].low)


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    rng = np.random.default_rng(1)
    first = rng.integers(0, 3, 60)
    second = np.where(rng.random(60) < 0.7, first, rng.integers(0, 3, 60))
    found = cohen_kappa(ratings_of(first.tolist(), second.tolist()), "r0", "r1", n_boot=4000)
    values = []
    for _ in range(2000):
        drawn = rng.integers(0, 60, 60)
        table = np.zeros((3, 3))
        np.add.at(table, (first[drawn], second[drawn]), 1)
        values.append(inter_rater.cohens_kappa(table, return_results=False))
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.025)


def test_errors_say_what_is_wrong():
    with pytest.raises(DataError, match=r"'r0' has two values for unit 'u0'"):
        cohen_kappa([*ratings_of([1.0]), *ratings_of([2.0])], "r0", "r1")
    with pytest.raises(DataError, match=r"value 3 is not among the categories \[0, 1\]"):
        two([0, 3], [0, 0], categories=[0, 1])
    with pytest.raises(DataError, match="weighting must be one of none, linear, quadratic, not 'cubic'"):
        two([0, 1], [0, 0], weighting="cubic")
    with pytest.raises(DataError, match="linear weights need categories in order"):
        two("ab", "aa", weighting="linear")
    with pytest.raises(DataError, match="n_boot must not be negative"):
        fleiss_kappa([], n_boot=-1)
