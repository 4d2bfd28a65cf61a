"""A rater's numbers by hand, the sequential test's promises exactly, copying, medians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from accord.feedback.copying import Copying, copy_weights, find_copying
from accord.feedback.estimates import median_estimate, share_estimate, unknown
from accord.feedback.gold import gold_answers, gold_test
from accord.feedback.raters import rater_quality
from accord.feedback.votes import Vote
from accord.records import Judgement


def vote(pair, rater, strength, *, left=True, seconds=20.0, item=None):
    """On texts "<pair>a" and "<pair>b"; `strength` > 0 is for the first, which stands left or right."""
    item = item or pair
    return Vote(
        f"{item}-{rater}", item, rater, pair, pair + "a", pair + "b", True, left, strength, seconds, "g"
    )


def quality(votes, **settings):
    return {q.rater: q for q in rater_quality(votes, n_boot=0, **settings)}


# ---------------------------------------------------------------------------------------- one by one


def test_agreement_by_hand():
    #            ann  bo  cy  dee     for ann: agreeing couples, majority of the others
    table = {
        "p": (2, 1, -1, 3),  # 2 of 3, with it
        "q": (-1, 2, 0, None),  # 0 of 1 (a tie has no part), against it
        "r": (0, 1, 1, 1),  # a tie of hers
        "s": (1, 1, -1, None),  # 1 of 2, none
    }
    votes = [
        vote(p, rater, strength)
        for p, row in table.items()
        for rater, strength in zip(("ann", "bo", "cy", "dee"), row, strict=True)
        if strength is not None
    ]
    ann = quality(votes)["ann"]
    assert (ann.n, ann.ties) == (4, 1)
    assert ann.agreement.value == pytest.approx(3 / 6)
    assert (ann.with_majority.value, ann.with_majority.n) == (0.5, 2)
    assert quality([vote("p", "ann", 1)])["ann"].agreement.value is None


def test_leanings_by_hand():
    votes = [vote(f"p{i}", "ann", 1 if i < 9 else -1, left=True) for i in range(12)]
    votes += [vote(f"p{i}", "bo", 1 if i % 2 else -1, left=False) for i in range(12)]
    ann = quality(votes, lengths={f"p{i}a": 200.0 for i in range(12)} | {f"p{i}b": 100.0 for i in range(12)})[
        "ann"
    ]
    assert ann.left.value == 9 / 12
    assert ann.left_p_value == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert ann.longer.value == 9 / 12
    difference = np.array([(i < 9) - (i % 2) for i in range(12)], float)
    assert ann.longer_than_others.value == pytest.approx(difference.mean())
    t = stats.ttest_1samp(difference, 0)
    assert ann.longer_p_value == pytest.approx(t.pvalue)
    interval = t.confidence_interval(0.95)
    assert [ann.longer_than_others.low, ann.longer_than_others.high] == pytest.approx(
        [interval.low, interval.high]
    )
    assert quality(votes)["ann"].longer.value is None


def test_consistency_is_of_texts_not_of_sides():
    votes = [vote("p", "ann", 2), vote("p", "ann", 1, left=False, item="p2")]
    votes += [vote("q", "ann", 2), vote("q", "ann", -2, left=False, item="q2")]
    found = quality(votes)["ann"].consistency
    assert (found.value, found.n) == (0.5, 2)
    assert quality(votes[:1])["ann"].consistency.value is None


def test_gold_is_known_by_slot():
    def said(item, strength=0, *, purpose="judge", ranks=()):
        ids = tuple(item + side for side in "cba")[: len(ranks) or 2]
        return Judgement(
            item + purpose, item, "ann", "human", item, ids, strength, tuple(range(len(ids))), "g", 1.0,
            purpose=purpose, ranks=ranks,
        )  # fmt: skip

    known = {"p": ((0, 1),), "q": ((1, 0),), "r": ((0, 1), (0, 2), (1, 2))}
    told = [said("p", 2), said("q", -1, purpose="gold"), said("r", ranks=(1, 2, 2))]
    assert gold_answers(told, known) == {"ann": [True, True, True]}
    told = [said("q", 1), said("p", 0), said("p", 2, purpose="repeat"), said("p", 2, purpose="adjudicate")]
    assert gold_answers([*told, said("r", ranks=(2, 2, 1)), said("s", 1)], known) == {"ann": [False] * 3}
    assert gold_answers([said("p", 2)], {}) == {"ann": []}
    found = quality([], gold={"ann": [True, False]})["ann"]
    assert (found.n, found.gold.accuracy.value, found.agreement.value) == (0, 0.5, None)


def honest(rater, n=60, seed=0, **settings):
    rng = np.random.default_rng([seed, len(rater), ord(rater[0])])
    return [
        vote(f"p{i}", rater, int(rng.choice([1, 2, 3]) * (1 if rng.random() < 0.85 else -1) * (-1) ** i),
             left=bool(rng.integers(2)), **settings)
        for i in range(n)
    ]  # fmt: skip


def test_flags_and_their_evidence():
    team = [v for rater in ("ann", "bob", "cyd", "dee", "eve") for v in honest(rater)]
    assert not any(q.flags for q in quality(team).values())
    same = [vote(f"p{i}", "zed", 2 if i % 2 else -2, left=bool(i % 2)) for i in range(60)]  # always "left, 2"
    found = {f.kind: f.evidence for f in quality(team + same)["zed"].flags}
    assert set(found) == {"straight-lining", "side", "agreement"}
    assert "60 times in a row" in found["straight-lining"]
    assert "left answer in 100% of 60" in found["side"]
    assert "below chance" in found["agreement"]
    (flag,) = quality(team + honest("fox", seconds=2.0))["fox"].flags
    assert flag.kind == "speed" and "median of 2.0 s per answer, the team's is 20.0 s" in flag.evidence
    lengths = {f"p{i}{side}": 4000.0 for i in range(60) for side in "ab"}
    assert all("60 of 60" in q.flags[0].evidence for q in quality(team, lengths=lengths).values())
    gold: dict[str, list[bool]] = {}
    for v in team + same:
        gold.setdefault(v.rater, []).append(v.strength * (-1) ** int(v.item_id[1:]) > 0)
    assert [f.kind for f in quality(team + same, gold=gold)["zed"].flags] == [
        "agreement",
        "gold",
        "side",
        "straight-lining",
    ]
    assert not any(q.flags for name, q in quality(team + same, gold=gold).items() if name != "zed")


# ---------------------------------------------------------------------------------- the sequential test


def outcome(accuracy: float, most: int = 400) -> dict[str, float]:
    """Exact probabilities of the verdicts and the mean number of questions, by walking over (n, right)."""
    alive, result, mean = {0: 1.0}, {"good": 0.0, "guessing": 0.0}, 0.0
    for n in range(1, most):
        after: dict[int, float] = {}
        for right, p in alive.items():
            for more, q in ((1, accuracy), (0, 1 - accuracy)):
                after[right + more] = after.get(right + more, 0.0) + p * q
        alive = {}
        for right, p in after.items():
            # A walk that is still alive depends on the order only through where it stands now.
            ratio = right * math.log(0.85 / 0.5) + (n - right) * math.log(0.15 / 0.5)
            if abs(ratio) >= math.log(19):
                result["good" if ratio > 0 else "guessing"] += p
                mean += n * p
            else:
                alive[right] = p
    return {**result, "mean": mean}


def test_the_sequential_test_errs_as_seldom_and_ends_as_soon_as_it_says():
    good, guessing = outcome(0.85), outcome(0.5)
    assert good["guessing"] < 0.05 and guessing["good"] < 0.05
    assert 9 < good["mean"] < 12 and 7 < guessing["mean"] < 10
    rng = np.random.default_rng(0)
    for accuracy, expected in ((0.85, good), (0.5, guessing)):
        tests = [gold_test((rng.random(200) < accuracy).tolist()) for _ in range(400)]
        assert np.mean([t.verdict == "good" for t in tests]) == pytest.approx(expected["good"], abs=0.04)
        assert np.mean([t.decided_after for t in tests]) == pytest.approx(expected["mean"], abs=1)


def test_ten_gold_questions_suffice_and_fewer_exclude_nobody():
    assert gold_test([True] * 6).verdict == "good" and gold_test([True] * 5).verdict == "undecided"
    three = gold_test([False] * 3)
    assert (three.verdict, three.decided_after, three.may_exclude) == ("guessing", 3, False)
    assert gold_test([False] * 3 + [True] * 7).may_exclude
    assert gold_test([True] * 10 + [False] * 10).verdict == "good"  # a verdict stands
    assert gold_test([True] * 8 + [False] * 2).p_too_low == pytest.approx(stats.beta.cdf(0.7, 9, 3))
    assert gold_test([]).accuracy.value is None


# -------------------------------------------------------------------------------------------- copying


def test_a_copy_is_found_and_shares_one_vote():
    team = [v for rater in ("ann", "bob", "cyd", "dee") for v in honest(rater)]
    assert find_copying(team) == []
    copy = [vote(v.item_id, "zed", v.strength, left=not v.first_is_left) for v in team if v.rater == "bob"][
        :40
    ]
    (found,) = find_copying(team + copy)
    assert found.raters == ("bob", "zed") and found.agreement == found.same_strength == 1 and found.n == 40
    assert "40 of 40 shared pairs" in found.evidence
    weights = copy_weights(team + copy, [found])
    assert {weights[v.judgement_id] for v in copy} == {0.5}
    assert (weights["p0-bob"], weights["p59-bob"]) == (0.5, 1.0)
    assert "p0-ann" not in weights


def test_two_inverted_raters_are_no_copies_of_each_other():
    team = [v for rater in ("ann", "bob", "cyd", "dee") for v in honest(rater)]
    turned = [vote(v.item_id, v.rater, -v.strength) for rater in ("fay", "gus") for v in honest(rater)]
    assert find_copying(team + turned) == []


def test_three_who_copy_share_one_vote():
    some = Copying(("a", "b"), 9, 1, 1, 1, 1, 0, ""), Copying(("b", "c"), 9, 1, 1, 1, 1, 0, "")
    votes = [vote("p", rater, 1) for rater in "abcd"] + [vote("q", rater, 1) for rater in "acd"]
    weights = copy_weights(votes, some)
    assert weights == pytest.approx({"p-a": 1 / 3, "p-b": 1 / 3, "p-c": 1 / 3, "q-a": 1, "q-c": 1})


# ------------------------------------------------------------------------------------------ estimates


def test_median_interval_is_between_order_statistics():
    found = median_estimate(np.arange(1.0, 21.0), "")
    assert (found.value, found.low, found.high) == (10.5, 6.0, 15.0)  # binomial tables: ranks 6 and 15 of 20
    assert median_estimate(np.arange(5.0), "").low is None
    assert (median_estimate(np.arange(6.0), "").low, median_estimate(np.arange(6.0), "").high) == (0, 5)
    rng = np.random.default_rng(0)
    found = [median_estimate(rng.exponential(size=25), "") for _ in range(2000)]
    assert 0.95 <= np.mean([f.low <= math.log(2) <= f.high for f in found]) <= 0.975


def test_nothing_observed_is_unknown():
    assert share_estimate(0, 0, "") == unknown("nothing was observed") == median_estimate(np.zeros(0), "")
