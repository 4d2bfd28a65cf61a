"""Drift: planted changes are found where they are, none where none are, and no figure tells of a person."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from accord.errors import DataError
from accord.feedback.drift import by_group, by_guideline, change_point, over_time
from accord.feedback.votes import Vote


def stream(n=120, change=None, raters=("ann", "bob", "cyd"), seed=0):
    """Pairs in time, three raters each; after `change` raters guess instead of being right in 9 of 10."""
    rng = np.random.default_rng(seed)
    votes, times = [], {}
    for i in range(n):
        late = change is not None and i >= change
        for rater in raters:
            right = rng.random() < (0.5 if late else 0.9)
            j = f"{i:04d}-{rater}"
            guideline = "new" if late else "old"
            votes.append(
                Vote(
                    j,
                    str(i),
                    rater,
                    str(i),
                    f"{i}a",
                    f"{i}b",
                    True,
                    bool(rng.integers(2)),
                    2 if right else -2,
                    9.0,
                    guideline,
                )
            )
            times[j] = f"2026-01-01T00:{i // 60:02d}:{i % 60:02d}"
    return votes, times


def test_a_change_is_found_where_it_is():
    votes, times = stream(change=70)
    found = change_point(votes, times)
    assert found.p_value < 0.01
    assert "00:01:00" <= found.at[-8:] <= "00:01:20"
    assert found.before.value > 0.7 > 0.62 > found.after.value
    assert change_point(votes[::-1], times).p_value == found.p_value  # the order of the list means nothing


def test_without_a_change_p_values_are_even():
    values = [change_point(*stream(60, seed=seed), n_permutations=99).p_value for seed in range(40)]
    assert 0.3 < np.mean(values) < 0.7
    assert np.mean(np.array(values) <= 0.1) < 0.25


def test_where_no_change_can_be_looked_for_it_is_said():
    assert "fewer than 20" in change_point(*stream(10)).meaning
    votes, times = stream(40)
    found = change_point([replace(v, strength=2) for v in votes], times)
    assert found.p_value is None and "all pairs agree alike" in found.meaning
    with pytest.raises(DataError, match="judgement 0000-ann has no time"):
        change_point(votes, {})


def test_windows_hold_equally_many_pairs_in_time():
    votes, times = stream(change=60)
    found = over_time(votes, times, windows=4, n_boot=0)
    assert [part.n_votes for part in found] == [90] * 4
    assert all(one.end < other.start for one, other in itertools.pairwise(found))
    assert found[0].raw.value > 0.7 and found[3].raw.value < 0.62
    assert found[0].alpha.value is not None and found[0].n_raters == 3
    assert len(over_time(*stream(3), windows=8, n_boot=0)) == 3
    assert over_time([], {}) == []
    with pytest.raises(DataError, match="windows must be at least 1"):
        over_time(votes, times, windows=0)


def test_by_guideline_compares_only_votes_under_the_same_one():
    votes, times = stream(change=60)
    old, new = by_guideline(votes, times, n_boot=0)
    assert (old.name, new.name, old.n_votes) == ("old", "new", 180)
    alone, _ = over_time([v for v in votes if v.guideline == "old"], times, windows=2, n_boot=0)
    assert old.raw.value > new.raw.value
    assert alone.end < old.end < new.start
    crossed = [replace(v, guideline="new" if v.rater == "ann" else "old") for v in votes]
    assert {p.name: p.raw.value is None for p in by_guideline(crossed, n_boot=0)} == {
        "new": True,
        "old": False,
    }


PEOPLE = [f"r{i:02d}" for i in range(16)]


def groups_of(**sizes):
    names = iter(PEOPLE)
    return {next(names): group for group, size in sizes.items() for _ in range(size)}


def test_groups_by_hand():
    votes = []
    for pair, text in {"p": "+++++-----", "q": "++++++++++", "s": "+++-------"}.items():
        for rater, sign in zip(PEOPLE, text, strict=False):
            votes.append(
                Vote(
                    pair + rater,
                    pair,
                    rater,
                    pair,
                    "a" + pair,
                    "b" + pair,
                    True,
                    True,
                    1 if sign == "+" else -1,
                    9.0,
                    "g",
                )
            )
    found, withheld = by_group(votes, groups_of(north=5, south=5), n_boot=0)
    north = found[0]
    assert (north.group, north.n_people, withheld) == ("north", 5, "")
    # Agreeing couples of 20: p all, q all, s 3 of one and 2 of the other; across, of 25: 0, 25, 2 x 5.
    assert north.within.value == pytest.approx((20 + 20 + 3 * 2 + 2 * 1) / 60)
    assert north.with_others.value == pytest.approx((0 + 25 + 10) / 75)


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ({"a": 5, "b": 5}, {"a", "b"}),
        ({"a": 5, "b": 4}, set()),  # 4 could be told from 9 - 5, so both are withheld
        ({"a": 6, "b": 5, "c": 3}, {"a"}),
        ({"a": 6, "b": 3, "c": 3}, {"a"}),  # six are withheld together
        ({"a": 4}, set()),
    ],
)
def test_no_figure_for_fewer_than_five_people(sizes, shown):
    groups = groups_of(**sizes)
    votes, _ = stream(30, raters=PEOPLE)
    found, withheld = by_group(votes, groups, n_boot=0)
    assert {group.group for group in found} == shown
    assert all(group.n_people >= 5 for group in found)
    assert bool(withheld) == (shown != set(sizes))


def test_people_who_did_not_judge_make_no_group_larger():
    groups = groups_of(a=6)
    votes, _ = stream(30, raters=PEOPLE[:4])
    assert by_group(votes, groups, n_boot=0)[0] == []
