"""Agreement among rankings, against SciPy's tau-b and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from accord.feedback.rankings import ranking_quality, tau_b
from accord.feedback.votes import votes_of
from accord.ledger.rankings import by_slot
from accord.records import Judgement

orders = st.integers(2, 9).flatmap(
    lambda k: st.tuples(*(st.lists(st.integers(1, k), min_size=k, max_size=k) for _ in range(2)))
)


def ranked(
    item: str, rater: str, *ranks: int, prompt: str = "", seconds: float = 10.0, revision: int = 1
) -> Judgement:
    ids = tuple(f"{item}.{slot}" for slot in range(len(ranks)))
    shown = tuple(range(len(ranks)))
    name, about = f"{item}{rater}{revision}", prompt or item
    said = by_slot(ranks, shown)
    return Judgement(name, item, rater, "human", about, ids, 0, shown, "g", seconds, revision, ranks=said)


@given(orders)
def test_tau_is_scipys(both: tuple[list[int], list[int]]) -> None:
    expected = stats.kendalltau(*both, variant="b").statistic
    found = tau_b(*both)
    assert (found is None) == bool(np.isnan(expected))
    assert found is None or found == pytest.approx(expected, abs=1e-12)


def test_numbers_by_hand() -> None:
    found = ranking_quality(
        [
            ranked("i", "ann", 1, 2, 3, seconds=4.0),
            ranked("i", "bob", 1, 3, 2),  # one of three pairs is turned round: tau 1/3
            ranked("j", "ann", 1, 2, 3, seconds=8.0),
            ranked("j", "bob", 1, 2, 3),
            ranked(
                "k", "ann", 1, 1, 1, seconds=6.0
            ),  # no order: no tau, but one rater alone says nothing of it
        ]
    )
    assert found is not None and (found.n, found.questions) == (5, 3)
    assert found.tau.value == pytest.approx((1 / 3 + 1) / 2) and found.tau.n == 2
    assert found.same.value == pytest.approx(5 / 6) and found.same.n == 6
    assert {rater.rater: (rater.n, rater.seconds.value) for rater in found.raters} == {
        "ann": (3, 6.0),
        "bob": (2, 10.0),
    }


def test_intervals_resample_prompts_and_not_comparisons() -> None:
    """Copies of one prompt's rankings are one observation: they make no interval narrower."""
    rng = np.random.default_rng(0)

    def many(copies: int) -> list[Judgement]:
        made = []
        for prompt in range(12):
            orders = [rng.permutation(4) + 1 for _ in range(2)] if prompt % 2 else [np.arange(1, 5)] * 2
            for copy in range(copies):
                for rater, order in zip("ab", orders, strict=True):
                    made.append(ranked(f"{prompt}-{copy}", rater, *map(int, order), prompt=str(prompt)))
        return made

    rng = np.random.default_rng(0)
    once = ranking_quality(many(1))
    rng = np.random.default_rng(0)
    often = ranking_quality(many(20))
    assert once is not None and often is not None
    assert (once.tau.low, once.tau.high) == pytest.approx((often.tau.low, often.tau.high))
    assert (once.same.low, once.same.high) == pytest.approx((often.same.low, often.same.high))
    assert once.tau.low is not None and once.tau.high is not None and once.tau.high - once.tau.low > 0.2


def test_the_last_revision_counts_and_nothing_is_made_up() -> None:
    changed = [
        ranked("i", "ann", 1, 2, 3),
        ranked("i", "ann", 3, 2, 1, revision=2),
        ranked("i", "bob", 3, 2, 1),
    ]
    found = ranking_quality(changed)
    assert found is not None and found.n == 2 and found.tau.value == 1.0
    assert found.tau.low is None, "one prompt has no interval"
    alone = ranking_quality(changed[:1])
    assert alone is not None and alone.tau.value is None and "rankings of two raters" in alone.tau.meaning
    flat = ranking_quality([ranked("i", "ann", 1, 1, 1), ranked("i", "bob", 1, 2, 3)])
    assert flat is not None and flat.tau.value is None and "everything is tied" in flat.tau.meaning
    assert ranking_quality([]) is None


def test_rankings_are_no_votes_on_pairs() -> None:
    assert votes_of([ranked("i", "ann", 1, 2, 3)]) == []
