"""Figures of groups: right where they are shown, and nowhere of fewer than five people."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.feedback.groups import group_figures, may_be_shown
from accord.feedback.votes import Vote

LENGTHS = {f"{side}{pair}": float(10 + 5 * (side == "b")) for side in "ab" for pair in range(200)}


def vote(rater: str, pair: int, winner: int) -> Vote:
    return Vote(
        judgement_id=f"{rater}-{pair}",
        item_id=f"i{pair}",
        rater=rater,
        prompt=f"p{pair}",
        first=f"a{pair}",
        second=f"b{pair}",
        first_is_slot_0=True,
        first_is_left=True,
        strength=winner,
        seconds=1.0,
        guideline="g",
    )


def people(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


def batched(who: list[str]) -> list[list[str]]:
    return [who[i : i + 5] for i in range(0, len(who) // 5 * 5, 5)]


def test_the_figures_are_those_of_a_count_by_hand() -> None:
    """reds want the first answer of every pair, blues the second; one blue calls every fourth pair a tie."""
    reds, blues = people("r", 5), people("b", 5)
    votes = [vote(r, pair, 1) for r in reds for pair in range(20)]
    votes += [vote(b, pair, 0 if b == "b0" and pair % 4 == 0 else -1) for b in blues for pair in range(20)]
    asked = {"colour": {"red": batched(reds), "blue": batched(blues), "green": []}}
    blue, red = group_figures(votes, asked, lengths=LENGTHS, n_boot=200)["colour"]
    assert (red.value, red.n_people, red.n_votes) == ("red", 5, 100)
    assert (red.within.value, red.across.value, red.ties.value, red.longer.value) == (1.0, 0.0, 0.0, 0.0)
    assert (blue.within.value, blue.across.value, blue.ties.value, blue.longer.value) == (1.0, 0.0, 0.05, 1.0)
    assert blue.ties.low is not None and blue.ties.high is not None
    assert blue.ties.low <= 0.05 <= blue.ties.high and blue.ties.n == 20


def test_of_a_batch_equally_many_answers_of_each_count() -> None:
    """Whoever looks again after one person's nine answers, or one person's hundred, sees the same."""
    reds = people("r", 5)
    said = random.Random(0)
    votes = [vote(r, pair, said.choice((1, -1))) for pair in range(10) for r in reds]
    asked = {"colour": {"red": batched(reds)}}
    before = group_figures(votes, asked, lengths=LENGTHS)
    more = votes + [vote("r0", pair, -1) for pair in range(10, 110)]
    more += [vote(r, pair, 1) for r in reds[1:4] for pair in range(10, 30)]
    more += [vote("r4", pair, 1) for pair in range(10, 19)]
    assert group_figures(more, asked, lengths=LENGTHS) == before
    assert before["colour"][0].n_votes == 50
    after = group_figures([*more, vote("r4", 19, 1)], asked, lengths=LENGTHS)
    assert after["colour"][0].n_votes == 100


def test_figures_are_rounded() -> None:
    reds = people("r", 5)
    said = random.Random(1)
    votes = [vote(r, pair, said.choice((1, 1, -1, 0))) for pair in range(40) for r in reds]
    (red,) = group_figures(votes, {"colour": {"red": batched(reds)}}, lengths=LENGTHS)["colour"]
    for figure in (red.within, red.ties, red.longer):
        assert figure.value is not None and figure.low is not None and figure.high is not None
        for number in (figure.value, figure.low, figure.high):
            assert number == pytest.approx(round(number * 20) / 20)
        assert figure.low <= figure.value <= figure.high and figure.n % 10 == 0


def test_less_than_a_batch_or_ten_answers_each_has_no_figures() -> None:
    votes = [vote(r, pair, 1) for r in people("r", 5) for pair in range(9)]
    asked = {"colour": {"red": batched(people("r", 5))}}
    assert group_figures(votes, asked, lengths=LENGTHS) == {"colour": []}
    votes = [vote(r, pair, 1) for r in people("r", 4) for pair in range(50)]
    assert group_figures(votes, {"colour": {"red": [people("r", 4)]}}, lengths=LENGTHS) == {"colour": []}
    assert group_figures(votes, {"colour": {"red": [["r0"] * 5]}}, lengths=LENGTHS) == {"colour": []}


def shown(groups: dict[str, dict[str, set[str]]], everybody: set[str]) -> set[str]:
    return {value for values in may_be_shown(groups, everybody).values() for value in values}


def test_a_small_remainder_takes_the_smallest_group_with_it() -> None:
    red, blue, green = set(people("r", 10)), set(people("b", 5)), set(people("g", 4))
    groups = {"colour": {"red": red, "blue": blue}}
    assert shown(groups, red | blue) == {"red", "blue"}
    assert shown(groups, red | blue | green) == {"red"}, "everybody less both would be four people"
    assert shown(groups, red | blue | set(people("x", 5))) == {"red", "blue"}
    assert shown({"colour": {"blue": blue}}, blue | green) == set()


def test_a_group_that_is_nearly_another_questions_group_is_withheld() -> None:
    small, others = set(people("r", 5)), set(people("x", 30))
    for more, expected in ((0, {"a", "b"}), (1, {"b"}), (4, {"b"}), (5, {"a", "b"})):
        groups = {"colour": {"a": small}, "region": {"b": small | set(people("y", more))}}
        assert shown(groups, small | others | set(people("y", 5))) == expected


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_nothing_shown_is_of_or_leaves_fewer_than_five(data: st.DataObject) -> None:
    everybody = people("p", data.draw(st.integers(0, 30)))
    groups: dict[str, dict[str, set[str]]] = {}
    for name in ("colour", "region"):
        told = data.draw(st.lists(st.sampled_from("uvwx"), min_size=len(everybody), max_size=len(everybody)))
        groups[name] = {
            value: {who for who, said in zip(everybody, told, strict=True) if said == value}
            for value in "uvw"
        }
    found = may_be_shown(groups, set(everybody))
    sets = [groups[name][value] for name, values in found.items() for value in values]
    assert all(len(some) >= 5 for some in sets)
    for name, values in found.items():
        inside: set[str] = set().union(*(groups[name][value] for value in values))
        assert not values or len(set(everybody) - inside) not in range(1, 5)
    for one, other in combinations(sets, 2):
        assert not (one < other and len(other - one) < 5) and not (other < one and len(one - other) < 5)
