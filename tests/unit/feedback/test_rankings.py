"""Agreement among rankings, against SciPy's tau-b and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from accord.feedback.rankings import ranking_quality, tau_b
from accord.feedback.votes import votes_of
from accord.ledger.known import closed
from accord.ledger.rankings import by_slot
from accord.records import Judgement, Purpose

orders = st.integers(2, 9).flatmap(
    lambda k: st.tuples(*(st.lists(st.integers(1, k), min_size=k, max_size=k) for _ in range(2)))
)


def ranked(
    item: str,
    rater: str,
    *ranks: int,
    prompt: str = "",
    seconds: float = 10.0,
    revision: int = 1,
    purpose: Purpose = "judge",
) -> Judgement:
    ids = tuple(f"{item}.{slot}" for slot in range(len(ranks)))
    shown = tuple(range(len(ranks)))
    name, about = f"{item}{rater}{revision}{purpose}", prompt or item
    said = by_slot(ranks, shown)
    return Judgement(
        name, item, rater, "human", about, ids, 0, shown, "g", seconds, revision, purpose, ranks=said
    )


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


# Checks on raters, and adjudication

whole = st.integers(3, 9).flatmap(
    lambda k: st.lists(
        st.tuples(*(st.lists(st.integers(1, k), min_size=k, max_size=k) for _ in range(2))),
        min_size=1,
        max_size=5,
    )
)


@given(whole)
def test_repeats_are_compared_with_what_she_said_before(said: list[tuple[list[int], list[int]]]) -> None:
    """Against SciPy's tau-b and a count over all pairs."""
    votes = [ranked(str(i), "ann", *first) for i, (first, _) in enumerate(said)]
    again = [ranked(str(i), "ann", *second, purpose="repeat") for i, (_, second) in enumerate(said)]
    others = [ranked(str(i), "bob", *second) for i, (_, second) in enumerate(said)]
    found = ranking_quality([*votes, *again, *others], n_boot=0)
    assert found is not None and (found.n, len(found.raters)) == (2 * len(said), 2)
    ann, bob = found.raters
    taus = [stats.kendalltau(*both, variant="b").statistic for both in said]
    known = [tau for tau in taus if not np.isnan(tau)]
    assert (ann.again.value is None) == (not known) and ann.again.n == len(known)
    assert not known or ann.again.value == pytest.approx(float(np.mean(known)), abs=1e-12)
    same = [
        (one[a] > one[b]) - (one[a] < one[b]) == (two[a] > two[b]) - (two[a] < two[b])
        for one, two in said
        for a in range(len(one))
        for b in range(a)
    ]
    assert ann.same_again.value == pytest.approx(sum(same) / len(same)) and ann.same_again.n == len(same)
    assert ann.tau.value == bob.tau.value == found.tau.value == ann.again.value, "a repeat is no vote"
    assert (bob.again.value, bob.again.meaning) == (None, "answered no ranking twice")


def test_known_comparisons_by_hand_with_an_interval_over_questions() -> None:
    chain = closed([(0, 1), (1, 2)], 3)
    gold = {"g": chain, "h": ((2, 0),), "i": chain}
    said = [
        ranked("g", "ann", 1, 2, 3, purpose="gold"),  # 3 of 3
        ranked("h", "ann", 1, 2, 3, purpose="gold"),  # 0 of 1
        ranked("i", "ann", 2, 2, 3),  # 2 of 3: a tie is not right
        ranked("i", "ann", 3, 2, 1, purpose="repeat"),
        ranked("i", "eve", 3, 2, 1, purpose="adjudicate"),
        ranked("x", "ann", 3, 2, 1),
    ]
    found = ranking_quality(said, gold)
    assert found is not None and found.n == 2 and found.settled == 1
    (ann,) = found.raters
    assert (ann.rater, ann.n, ann.known.n) == ("ann", 2, 7)
    assert ann.known.value == pytest.approx(5 / 7)
    assert ann.known.low is not None and ann.known.high is not None and ann.known.low < 5 / 7 < ann.known.high
    assert found.settled_tau.value == pytest.approx(stats.kendalltau([3, 2, 1], [2, 2, 3]).statistic)
    plain = ranking_quality([j for j in said if j.purpose == "judge"])
    assert plain is not None and plain.tau == found.tau and plain.raters[0].known.value is None
    only = ranking_quality(said[:2], gold)
    assert only is not None and (only.n, only.questions, only.raters[0].seconds.value) == (0, 0, None)


def test_what_is_always_alike_has_an_interval_too() -> None:
    said = [ranked(str(i), rater, 1, 2, 3) for i in range(12) for rater in ("ann", "bob")]
    found = ranking_quality(said)
    assert found is not None and found.tau.value == 1.0
    low, high = stats.binomtest(12, 12).proportion_ci(method="wilson")
    assert (found.tau.low, found.tau.high) == pytest.approx((2 * low - 1, 2 * high - 1))
