"""Votes: the same preferred text is the same vote, whatever the slots and the side."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from accord.errors import DataError
from accord.feedback.votes import first_votes, strength_ratings, votes_of, winner_ratings
from accord.records import Judgement


def judged(**changes):
    base = Judgement("j", "i", "ann", "human", "p", ("a", "b"), 2, (0, 1), "g", 9.0)
    return replace(base, **changes)


def test_the_preferred_text_decides_not_its_slot_nor_its_side():
    for slots, left in itertools.product((("a", "b"), ("b", "a")), "ab"):
        strength = 2 if slots[0] == "b" else -2  # "b" is preferred
        shown = (0, 1) if slots[0] == left else (1, 0)
        (vote,) = votes_of([judged(completion_ids=slots, strength=strength, shown=shown)])
        assert (vote.first, vote.second, vote.strength, vote.winner) == ("a", "b", -2, -1)
        assert vote.pair == "a|b"
        assert vote.displayed == (2 if left == "b" else -2)
        assert vote.first_is_left == (left == "a")
        assert vote.first_is_slot_0 == (slots[0] == "a")


def test_the_last_revision_counts_and_a_repeat_is_no_revision():
    old, new = judged(strength=3), judged(id="j2", strength=-1, revision=2)
    assert [v.strength for v in votes_of([old, new])] == [-1]
    assert [v.strength for v in votes_of([new, old])] == [-1]
    repeat = judged(id="k", item_id="i2", completion_ids=("b", "a"), strength=3)
    votes = votes_of([old, repeat])
    assert [v.strength for v in votes] == [3, -3]
    assert [v.judgement_id for v in first_votes(votes)] == ["j"]
    assert [r.value for r in strength_ratings(votes)] == [3.0]
    assert [r.value for r in winner_ratings([*votes[1:], replace(votes[0], rater="bo", strength=0)])] == [
        "second",
        "tie",
    ]


def test_what_is_no_pair_is_refused():
    with pytest.raises(DataError, match=r"judgement j: 3 answers"):
        votes_of([judged(completion_ids=("a", "b", "c"), shown=(0, 1, 2))])
    with pytest.raises(DataError, match=r"judgement j: strength 4 is outside -3..3"):
        votes_of([judged(strength=4)])
