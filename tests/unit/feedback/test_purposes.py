"""Checks count for what they check alone, and what an adjudicator says is the label."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accord.errors import DataError
from accord.feedback.adjudicated import adjudicated
from accord.feedback.gold import gold_answers
from accord.feedback.labels import pair_labels
from accord.feedback.raters import RaterQuality, rater_quality
from accord.feedback.votes import checked_votes, votes_of
from accord.records import Judgement, Purpose


def said(
    item: int, rater: str, strength: int, purpose: Purpose = "judge", shown: tuple[int, int] = (0, 1)
) -> Judgement:
    """`strength` > 0 is for completion a<item>."""
    return Judgement(
        id=f"{item}-{rater}-{purpose}", item_id=f"i{item}", rater=rater, rater_kind="human",
        prompt_id=f"p{item}", completion_ids=(f"a{item}", f"b{item}"), strength=strength, shown=shown,
        guideline="g", seconds=3.0, purpose=purpose,
    )  # fmt: skip


VOTES = [said(i, rater, 2 if i % 2 else -1) for i in range(12) for rater in ("ann", "ben", "cy")]


def test_checks_and_adjudications_are_no_votes() -> None:
    more = [said(1, "ann", -3, "repeat"), said(20, "ann", 3, "gold"), said(2, "eve", 3, "adjudicate")]
    assert votes_of([*VOTES, *more]) == votes_of(VOTES)
    assert len(checked_votes([*VOTES, *more])) == len(VOTES) + 2


def test_repeats_tell_consistency_and_gold_questions_gold_and_nothing_else() -> None:
    repeats = [said(i, "ann", (2 if i % 2 else -1) * (1 if i else -1), "repeat", (1, 0)) for i in range(4)]
    gold = [said(30 + i, "ann", 3 if i < 6 else -3, "gold") for i in range(8)]
    known = {f"i{30 + i}": ((0, 1),) for i in range(8)}

    def measured(every: list[Judgement]) -> list[RaterQuality]:
        return rater_quality(checked_votes(every), gold=gold_answers(every, known), n_boot=20)

    plain, checked = measured(VOTES), measured([*VOTES, *repeats, *gold])
    assert checked[0].consistency.value == pytest.approx(3 / 4) and checked[0].consistency.n == 4
    assert checked[0].gold.accuracy.value == pytest.approx(6 / 8)
    assert plain[0].gold.accuracy.n == plain[0].consistency.n == 0
    same = replace(checked[0], consistency=plain[0].consistency, gold=plain[0].gold, flags=plain[0].flags)
    assert same == plain[0]
    assert checked[1:] == plain[1:]


def test_a_repeated_gold_question_counts_once_and_who_only_answered_checks_is_there() -> None:
    known = {"i0": ((0, 1),)}
    every = [said(0, "dan", 1, "gold"), *VOTES]
    found = rater_quality(checked_votes(every), gold=gold_answers(every, known), n_boot=20)
    dan = next(quality for quality in found if quality.rater == "dan")
    assert (dan.n, dan.gold.accuracy.n, dan.seconds.value) == (0, 1, None)
    voted = [said(0, "dan", 1), said(0, "dan", 1, "repeat")]
    (dan,) = rater_quality(checked_votes(voted), gold=gold_answers(voted, known), n_boot=20)
    assert (dan.gold.accuracy.n, dan.consistency.n) == (1, 1)


@pytest.mark.parametrize("how", ["majority", "reliability"])
@pytest.mark.parametrize(("strength", "p_first"), [(-3, 0.0), (1, 1.0), (0, 0.5)])
def test_what_an_adjudicator_says_is_the_label(how: str, strength: int, p_first: float) -> None:
    settled = said(1, "eve", strength, "adjudicate")
    labels = pair_labels([*VOTES, settled], how)  # type: ignore[arg-type]
    found = {pair.first: pair for pair in labels.pairs}
    label = found["a1"]
    assert (label.p_first, label.margin, label.weight) == (p_first, abs(strength), 1.0)
    assert label.judgement_ids == (settled.id, "1-ann-judge", "1-ben-judge", "1-cy-judge")
    others = {pair.first: pair for pair in pair_labels(VOTES, how).pairs}  # type: ignore[arg-type]
    assert {name: pair for name, pair in found.items() if name != "a1"} == {
        name: pair for name, pair in others.items() if name != "a1"
    }


def test_labels_of_adjudications_alone_and_of_nothing() -> None:
    (pair,) = pair_labels([said(1, "eve", 2, "adjudicate")], "reliability").pairs
    assert (pair.p_first, pair.margin) == (1.0, 2.0)
    with pytest.raises(DataError, match="no judgements to make labels of"):
        pair_labels([said(1, "ann", 2, "gold")], "majority")


def test_how_often_the_majority_was_right() -> None:
    """Item 1 and 3: right; 2: wrong; 4: called equal; 50: no majority."""
    settled = [said(i, "eve", s, "adjudicate") for i, s in ((1, 3), (3, 1), (2, 2), (4, 0), (50, 1))]
    split = [said(50, "ann", 1), said(50, "ben", -1)]
    found = adjudicated([*VOTES, *split, *settled])
    assert found.n == 5 and found.majority_right.n == 3
    assert found.majority_right.value == pytest.approx(2 / 3)
    assert adjudicated(VOTES).majority_right.value is None
