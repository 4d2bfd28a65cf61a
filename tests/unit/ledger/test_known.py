"""What is known of a question: orders in words, what follows from them, and which answers are right."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from accord.errors import LedgerError
from accord.feedback.sprt import GOOD
from accord.ledger import Ledger, checks, judging, known, projects, queue, rankings
from accord.ledger.assigned import Assignment
from accord.ledger.database import utc_now
from accord.ledger.known import Known, WrongAnswerError
from accord.ledger.projects import Project
from accord.records import Group, Prompt, Question
from accord.stages.quality import facts_of

CHAIN = known.read_order("A > B > C > D", 4)
some_known = st.integers(3, 6).flatmap(
    lambda k: st.tuples(
        st.just(k),
        st.permutations(range(k)),
        st.lists(st.sampled_from(list(combinations(range(k), 2))), min_size=1, max_size=6),
    )
)


def part_of_an_order(drawn: tuple[int, Sequence[int], Sequence[tuple[int, int]]]) -> tuple[int, Known]:
    k, order, pairs = drawn
    return k, known.closed([(order[a], order[b]) for a, b in pairs], k)


@pytest.mark.parametrize(
    ("said", "answers", "pairs"),
    [
        ("A > B > C", 3, {(0, 1), (0, 2), (1, 2)}),
        (" c>a ", 3, {(2, 0)}),
        ("A > B = C > D", 4, {(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)}),
        ("A > C, B > C", 3, {(0, 2), (1, 2)}),
        ("A > B, B > D", 4, {(0, 1), (1, 3), (0, 3)}),
        ("", 3, set()),
        ("B", 3, set()),
    ],
)
def test_an_order_in_words(said: str, answers: int, pairs: set[tuple[int, int]]) -> None:
    assert set(known.read_order(said, answers)) == pairs


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("A > E", "'E' is none of the answers A, B, C: write an order as A > B = C"),
        ("A > ", "'' is none of the answers"),
        ("A B > C", "'A B' is none"),
        ("A > B, B > C, C > A", "answer A would be better than itself"),
        ("B > B", "answer B would be better than itself"),
    ],
)
def test_what_is_no_order_is_refused(said: str, why: str) -> None:
    with pytest.raises(WrongAnswerError, match=why):
        known.read_order(said, 3)


@given(some_known)
def test_words_are_read_back_as_they_were_meant(
    drawn: tuple[int, Sequence[int], list[tuple[int, int]]],
) -> None:
    k, pairs = part_of_an_order(drawn)
    assert known.read_order(known.in_words(pairs, k), k) == pairs
    assert known.in_words(CHAIN, 4) == "A > B > C > D"
    for (a, b), (c, d) in product(pairs, pairs):
        assert b != c or (a, d) in pairs


@given(some_known)
def test_half_of_all_orders_are_right_whatever_is_known(
    drawn: tuple[int, Sequence[int], list[tuple[int, int]]],
) -> None:
    """So that who guesses is right half of the time, and who ties what she guesses at most that often."""
    k, pairs = part_of_an_order(drawn)
    orders = list(permutations(range(1, k + 1)))
    assert 2 * sum(known.is_right(order, pairs) for order in orders) == len(orders)
    if k <= 4:
        tied = list(product(range(1, k + 1), repeat=k))
        assert 2 * sum(known.is_right(order, pairs) for order in tied) <= len(tied)


@pytest.mark.parametrize("k", range(3, 10))
def test_who_is_good_at_each_comparison_is_right_as_often(k: int) -> None:
    """Each comparison right with probability GOOD: drawn as if answers were compared two by two."""
    draw, n = random.Random(k), 4000
    whole = known.closed(list(combinations(range(k), 2)), k)
    for pairs in (whole, ((0, 1),), ((0, 2), (1, 2)), tuple(sorted(whole)[:4])):
        right = 0
        for _ in range(n):
            good = {pair: draw.random() < GOOD for pair in pairs}
            hit = 2 * sum(good.values()) - len(pairs)
            right += hit > 0 or (hit == 0 and good[known.farthest(pairs)])
        assert right / n > GOOD - 3 * (GOOD * (1 - GOOD) / n) ** 0.5


def test_right_and_wrong_by_hand() -> None:
    assert known.hits((1, 2, 3, 4), CHAIN) == 6 and known.hits((4, 3, 2, 1), CHAIN) == 0
    assert known.is_right((2, 1, 3, 4), CHAIN)
    assert known.hits((4, 1, 2, 3), CHAIN) == 3 and not known.is_right((4, 1, 2, 3), CHAIN)
    assert known.hits((2, 3, 4, 1), CHAIN) == 3, "half, and the best is below the worst"
    assert not known.is_right((2, 3, 4, 1), CHAIN)
    assert known.hits((1, 4, 3, 2), CHAIN) == 3 and known.is_right((1, 4, 3, 2), CHAIN)
    assert not known.is_right((1, 1, 1, 1), CHAIN), "who ties all has nothing right"
    assert known.hits((1, 1, 3, 4), CHAIN) == 5
    assert known.is_right((1, 2), ((0, 1),)) and not known.is_right((1, 1), ((0, 1),))
    assert known.farthest(CHAIN) == (0, 3)


# In the ledger


def ranking(i: int, overlap: int = 1) -> Question:
    return Question(Group.of(Prompt.of(f"rank {i}"), "a", "b", "c"), "random", "ranking", overlap)


def project_of(ledger: Ledger, n: int, gold: int, rates: dict[str, float] | None = None) -> Project:
    """Rankings, of which the last are known to be A > B > C."""
    with ledger.writing() as connection:
        now = utc_now()
        made = projects.add_project(
            connection, "p", "Order.", overlap=1, form={"checks": rates or {}}, now=now
        )
        asked = [ranking(i) for i in range(n + gold)]
        projects.add_questions(connection, made, asked, now)
        ids = [queue.item_id_of(question.group) for question in asked[n:]]
        known.set_orders(connection, dict.fromkeys(ids, known.read_order("A > B > C", 3)), now)
        found = projects.find_project(connection, made)
    assert found is not None
    return found


def answer_all(
    ledger: Ledger, project: Project, say: Callable[[Assignment], Sequence[int]], *, limit: int = 999
) -> list[Assignment]:
    """By slot; one by one."""
    ledger.add_rater("ann", "human")
    asked: list[Assignment] = []
    with ledger.writing() as connection:
        now, who = utc_now(), queue.find_rater(connection, "ann")
        while len(asked) < limit:
            settings = {"limit": 1, "seconds": 900.0, "seed": 3, "decided": lambda correct: False}
            found = checks.lease(connection, who, project, now, **settings)  # type: ignore[arg-type]
            if not found:
                break
            said, now = rankings.as_displayed(say(found[0]), found[0].shown), queue.later(now, 1)
            judging.submit(connection, found[0].id, said, seconds=1, idempotency_key=None, now=now)
            asked += found
    return asked


def test_gold_rankings_come_at_their_rate_are_no_votes_and_are_judged_in_order(ledger: Ledger) -> None:
    project, draw, right = project_of(ledger, 60, 20, {"gold": 0.25}), random.Random(1), list[bool]()

    def say(seen: Assignment) -> Sequence[int]:
        good = draw.random() < 0.6
        if seen.purpose == "gold":
            right.append(good)
        return (1, 3, 2) if good else (3, 1, 2)

    asked = answer_all(ledger, project, say)
    purposes = [each.purpose for each in asked]
    assert purposes.count("judge") == 60 and 8 <= purposes.count("gold") <= 20
    with ledger.reading() as connection:
        who = queue.find_rater(connection, "ann")
        told = checks.gold_answers(connection, {"rater": who.id, "project": project.id})
        assert projects.progress(connection, project.id, who.id, project.rates).left == 0
    assert told == right and True in right and False in right
    assert len(ledger.judgements()) == 60, "no answer to a gold question is a vote"
    assert ledger.verify().problems == ()


def test_what_is_known_can_be_corrected_and_taken_back(ledger: Ledger) -> None:
    project = project_of(ledger, 2, 1)
    ledger.add_rater("ann", "human")
    with ledger.writing() as connection:
        (item_id,) = known.known_answers(connection)
        known.set_orders(connection, {item_id: known.read_order("C > A", 3)}, utc_now())
        known.set_orders(connection, {item_id: known.read_order("C > A", 3)}, utc_now())
    with ledger.reading() as connection:
        assert known.known_answers(connection, [item_id]) == {item_id: ((2, 0),)}
        assert len(list(known.details(connection))) == 2, "the same again is not noted again"
        assert facts_of(connection, []).gold == {item_id: ((2, 0),)}
        has_gold = connection.execute(checks.prepared.HAS_GOLD, {"project": project.id}).scalar()
        assert has_gold == item_id
    with ledger.writing() as connection:
        known.set_orders(connection, {item_id: ()}, utc_now())
        assert known.known_answers(connection) == {}
        assert connection.execute(checks.prepared.HAS_GOLD, {"project": project.id}).scalar() is None
        asked = checks.lease(
            connection, queue.find_rater(connection, "ann"), replace(project, form={"checks": {"gold": 0.5}}),
            utc_now(), limit=9, seconds=9.0, seed=1, decided=lambda correct: False,
        )  # fmt: skip
    assert [each.purpose for each in asked] == ["judge"] * 3, "an ordinary question again"
    assert ledger.verify().problems == ()


def test_a_known_order_cannot_be_changed_behind_the_ledgers_back(ledger: Ledger) -> None:
    project_of(ledger, 1, 1)
    for change in ("UPDATE gold_order SET pairs = '[]'", "DELETE FROM gold_order"):
        with pytest.raises(LedgerError, match="gold_order is append-only"), ledger.writing() as connection:
            connection.execute(text(change))
    with ledger.writing() as connection:  # as somebody with a database shell
        sqlite = connection.dialect.name == "sqlite"
        name = "no_update" if sqlite else "no_change ON gold_order"
        connection.execute(text(f"DROP TRIGGER gold_order_{name}"))
        connection.execute(text("UPDATE gold_order SET pairs = '[[2,0]]'"))
    assert any("gold_order" in p and "does not match its audit" in p for p in ledger.verify().problems)


# Repeats


def test_a_ranking_comes_again_in_another_order_a_while_later(ledger: Ledger) -> None:
    project = project_of(ledger, 70, 0, {"repeat": 0.4})
    asked = answer_all(ledger, project, lambda _: (1, 2, 2))
    first = {each.item_id: i for i, each in enumerate(asked) if each.purpose == "judge"}
    again = {each.item_id: i for i, each in enumerate(asked) if each.purpose == "repeat"}
    assert len(first) == 70 and len(again) >= 15 and len(asked) == len(first) + len(again)
    orders = set()
    for item_id, i in again.items():
        before = asked[first[item_id]].shown
        assert asked[i].shown != before and sorted(asked[i].shown) == [0, 1, 2]
        assert i - first[item_id] >= projects.REPEAT_AFTER
        orders.add(tuple(before.index(slot) for slot in asked[i].shown))
    assert len(orders) == 5, "drawn among all the other orders, and not always the reverse"
    assert len(ledger.judgements()) == 70 and ledger.verify().problems == ()
