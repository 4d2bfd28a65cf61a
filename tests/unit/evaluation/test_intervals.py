import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from accord.errors import DataError
from accord.evaluation.intervals import cluster_bootstrap, share, wilson
from accord.evaluation.winrate import win_rate


@given(n=st.integers(1, 500), data=st.data(), level=st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=80, deadline=None)
def test_wilson_equals_statsmodels(n, data, level):
    k = data.draw(st.integers(0, n))
    ours = wilson(k, n, level=level)
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert (ours.low, ours.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("k", "n", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_what_is_no_proportion(k, n, level):
    with pytest.raises(DataError):
        wilson(k, n, level=level)


def test_the_tails_match_students_t_for_few_normal_clusters():
    """For normal means the expanded percentile interval is mean ± t s / √n, up to resampling noise."""
    x = stats.norm.ppf((np.arange(12) + 0.5) / 12)
    ours = cluster_bootstrap(lambda w: w @ x / w.sum(1), range(12), n_boot=100_000, level=0.9)
    half = stats.t.ppf(0.95, 11) * x.std(ddof=1) / math.sqrt(12)
    # t without √(n / (n - 1)) would give 0.96 of this, the plain percentile interval 0.88.
    assert ours.high - ours.low == pytest.approx(2 * half, rel=0.02)


def clustered_outcomes(rng, n_prompts, per_prompt):
    p = np.repeat(rng.beta(0.5, 0.5, n_prompts), per_prompt)
    return (rng.random(len(p)) < p).astype(float), np.repeat(np.arange(n_prompts), per_prompt).tolist()


def test_clusters_are_what_makes_the_interval_cover():
    rng = np.random.default_rng(0)
    clustered, by_row, n_sims = 0, 0, 300
    for seed in range(n_sims):
        outcomes, prompts = clustered_outcomes(rng, 40, 6)
        honest = win_rate(outcomes, prompts, n_boot=300, seed=seed)
        naive = win_rate(outcomes, range(len(outcomes)), n_boot=300, seed=seed)
        clustered += honest.low <= 0.5 <= honest.high
        by_row += naive.low <= 0.5 <= naive.high
    assert 0.91 <= clustered / n_sims <= 0.985
    assert by_row / n_sims < 0.85


def test_few_clusters_cover_too():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(300):
        outcomes, prompts = clustered_outcomes(rng, 8, 3)
        interval = win_rate(outcomes, prompts, n_boot=300, seed=seed)
        covered += interval.low <= 0.5 <= interval.high
    assert covered / 300 >= 0.91


def test_win_rate_is_the_mean_with_ties_at_one_half():
    found = win_rate([1, 0.5, 0, 1], ["p", "p", "q", "r"])
    assert found.value == 0.625 and found.n == 4 and found.note == ""
    assert 0 <= found.low < 0.625 < found.high <= 1
    assert found == win_rate([1, 0.5, 0, 1], ["x", "x", "y", "z"])  # the names of prompts mean nothing
    swapped = win_rate([0, 0.5, 1, 0], ["p", "p", "q", "r"])
    assert (swapped.low, swapped.high) == (pytest.approx(1 - found.high), pytest.approx(1 - found.low))


def test_one_prompt_tells_nothing_of_others():
    found = win_rate([1, 1, 0], ["p", "p", "p"])
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), 0.0, 1.0)
    assert "one cluster" in found.note


def test_five_of_five_is_not_certainty():
    found = win_rate([1] * 10, [k // 2 for k in range(10)])
    low, _ = proportion_confint(5, 5, method="wilson")
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(low), 1.0)
    assert "Wilson" in found.note and found.n == 10


@pytest.mark.parametrize(
    ("outcomes", "clusters", "message"),
    [
        ([], [], "at least one comparison"),
        ([1.0, 2.0], ["p", "q"], r"value 1 is 2\.0"),
        ([math.nan], ["p"], "value 0 is nan"),
        ([1.0, 0.0], ["p"], "2 values and 1 clusters"),
    ],
)
def test_unusable_outcomes(outcomes, clusters, message):
    with pytest.raises(DataError, match=message):
        win_rate(outcomes, clusters)


def test_settings_are_checked():
    with pytest.raises(DataError, match="confidence level"):
        win_rate([1, 0], "pq", level=95)
    with pytest.raises(DataError, match="n_boot"):
        win_rate([1, 0], "pq", n_boot=0)
    with pytest.raises(DataError, match="at least one observation"):
        cluster_bootstrap(lambda w: w.sum(1), [])
    with pytest.raises(DataError, match="at least one observation"):
        share([], [])


def test_a_statistic_that_is_often_undefined_gets_its_bounds():
    x = np.array([1.0, 0.0, 0.0, 0.0])

    def ratio(weights):  # undefined unless row 0 is drawn
        return np.where(weights @ x > 0, 1.0, np.nan)

    found = cluster_bootstrap(ratio, range(4), n_boot=500)
    assert (found.low, found.high) == (-math.inf, math.inf) and "undefined in" in found.note
    assert found.to_json() == {"value": 1.0, "low": None, "high": None, "n": 4, "note": found.note}
    json.dumps(found.to_json(), allow_nan=False)


def test_blocks_do_not_change_the_resamples(monkeypatch):
    x = np.random.default_rng(0).random(20)
    whole = share(x, range(20), n_boot=100)
    monkeypatch.setattr("accord.evaluation.intervals._BLOCK", 60)
    again = share(x, range(20), n_boot=100)
    assert (again.low, again.high) == (pytest.approx(whole.low), pytest.approx(whole.high))
