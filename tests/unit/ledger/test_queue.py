"""Who is asked what: overlap, leases, skips, sides, and all of it under many threads."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from accord.errors import LedgerError
from accord.ledger import Ledger
from accord.records import Group, Prompt, Question


def test_a_pair_asked_again_in_either_order_is_the_same_item(ledger: Ledger, pairs) -> None:
    questions = pairs(3)
    turned = [replace(q, group=Group(q.group.prompt, q.group.completions[::-1])) for q in questions]
    ids = ledger.ask([*questions, *turned])
    assert ids[:3] == ids[3:] == ledger.ask(turned)
    assert len(set(ids)) == 3
    assert ledger.group(ids[0]) == questions[0].group  # the first slots stay
    assert ledger.counts()["items"] == 3


def test_a_larger_overlap_reopens_an_item_and_a_smaller_one_changes_nothing(
    ledger: Ledger, guideline: str, pairs
) -> None:
    for name in ("r1", "r2"):
        ledger.add_rater(name, "simulated")
    ledger.ask(pairs(1))
    assert len(ledger.answer_many("r1", guideline, lambda seen: (1, 1.0))) == 1
    assert ledger.counts()["items_open"] == 0
    assert ledger.lease("r2", guideline) is None
    ledger.ask([*pairs(1), *pairs(1, overlap=2), *pairs(1)])
    assert ledger.counts()["items_open"] == 1
    assert len(ledger.answer_many("r2", guideline, lambda seen: (1, 1.0))) == 1
    assert ledger.verify().problems == ()


def test_questions_that_make_no_sense_are_refused(ledger: Ledger) -> None:
    prompt = Prompt.of("hello")
    for texts in ((), ("a",), ("a", "b", "c")):
        with pytest.raises(LedgerError, match=f"with {len(texts)} completions; a pair has two"):
            ledger.ask([Question(Group.of(prompt, *texts), "random")])
    twice = Group(prompt, Group.of(prompt, "a").completions * 2)
    with pytest.raises(LedgerError, match="two different completions"):
        ledger.ask([Question(twice, "random")])
    with pytest.raises(LedgerError, match="overlap 0 is less than 1"):
        ledger.ask([Question(Group.of(prompt, "a", "b"), "random", overlap=0)])
    assert ledger.counts()["prompts"] == 0


def test_items_come_in_the_order_of_asking_and_never_twice_to_one_rater(
    ledger: Ledger, guideline: str, pairs
) -> None:
    rater_id = ledger.add_rater("ann", "human")
    ids = ledger.ask(pairs(3, overlap=2))
    first, second = ledger.lease("ann", guideline), ledger.lease(rater_id, guideline)
    assert first is not None and second is not None
    assert [first.item_id, second.item_id] == ids[:2]
    assert first.rater == second.rater == "ann"
    ledger.submit(first.id, 1, seconds=3)
    third = ledger.lease("ann", guideline)
    assert third is not None and third.item_id == ids[2]
    assert ledger.lease("ann", guideline) is None


def test_a_lease_holds_a_place_until_it_runs_out(ledger: Ledger, guideline: str, pairs) -> None:
    for name in ("ann", "ben"):
        ledger.add_rater(name, "human")
    ledger.ask(pairs(1))
    held = ledger.lease("ann", guideline)
    assert held is not None and ledger.lease("ben", guideline) is None
    ledger.skip(held.id, "unclear")
    late = ledger.lease("ben", guideline, seconds=0)
    assert late is not None and ledger.lease("ann", guideline) is None  # skipped: not offered again
    again = ledger.lease("ben", guideline)
    assert again is not None and again.item_id == late.item_id and again.id != late.id


def test_a_late_answer_counts_while_its_place_is_free(ledger: Ledger, guideline: str, pairs) -> None:
    for name in ("ann", "ben"):
        ledger.add_rater(name, "human")
    ledger.ask(pairs(2))
    late = ledger.lease("ann", guideline, seconds=0)
    assert late is not None
    assert ledger.submit(late.id, 1, seconds=9).rater == "ann"
    late = ledger.lease("ann", guideline, seconds=0)
    taken = ledger.lease("ben", guideline)
    assert late is not None and taken is not None and taken.item_id == late.item_id
    with pytest.raises(LedgerError, match="lease ran out and the place was given"):
        ledger.submit(late.id, 1, seconds=9)
    ledger.submit(taken.id, 1, seconds=9)
    assert ledger.verify().problems == ()


def test_a_rater_who_leased_again_cannot_answer_both_leases(ledger: Ledger, guideline: str, pairs) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask(pairs(1, overlap=5))
    late = ledger.lease("ann", guideline, seconds=0)
    again = ledger.lease("ann", guideline)
    assert late is not None and again is not None
    with pytest.raises(LedgerError, match="lease ran out"):
        ledger.submit(late.id, 1, seconds=9)
    ledger.submit(again.id, 1, seconds=9)
    assert len(ledger.judgements()) == 1


def test_answered_and_skipped_assignments_cannot_be_skipped(ledger: Ledger, guideline: str, pairs) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask(pairs(2))
    answered, skipped = ledger.lease("ann", guideline), ledger.lease("ann", guideline)
    assert answered is not None and skipped is not None
    ledger.submit(answered.id, 1, seconds=1)
    ledger.skip(skipped.id, "both bad")
    with pytest.raises(LedgerError, match="is submitted and cannot be skipped"):
        ledger.skip(answered.id, "")
    with pytest.raises(LedgerError, match="is skipped and cannot be skipped"):
        ledger.skip(skipped.id, "")
    with pytest.raises(LedgerError, match="was skipped; lease the next"):
        ledger.submit(skipped.id, 1, seconds=1)


def test_unknown_raters_guidelines_and_assignments(ledger: Ledger, guideline: str) -> None:
    ledger.add_rater("ann", "human")
    with pytest.raises(LedgerError, match="rater 'ghost' is not in the ledger"):
        ledger.lease("ghost", guideline)
    with pytest.raises(LedgerError, match="guideline 'ghost' is not in the ledger"):
        ledger.lease("ann", "ghost")
    with pytest.raises(LedgerError, match="makes no sense"):
        ledger.lease("ann", guideline, seconds=float("nan"))
    with pytest.raises(LedgerError, match="assignment 'ghost' is not in the ledger"):
        ledger.submit("ghost", 1, seconds=1)


def test_a_rater_keeps_kind_and_id(ledger: Ledger) -> None:
    assert ledger.add_rater("ann", "human") == ledger.add_rater("ann", "human")
    with pytest.raises(LedgerError, match="'ann' is recorded as human and cannot become model"):
        ledger.add_rater("ann", "model")
    with pytest.raises(LedgerError, match="kind 'robot' is not one of"):
        ledger.add_rater("bob", "robot")  # type: ignore[arg-type]


def test_sides_are_random_but_repeatable_with_a_seed(tmp_path: Path, pairs) -> None:
    def shown(name: str, seed: int | None) -> list[tuple[int, ...]]:
        with Ledger.open(tmp_path / name) as ledger:
            ledger.add_policy("p0", base_model="tiny")
            ledger.add_rater("sim", "simulated")
            ledger.ask(pairs(400))
            guideline = ledger.add_guideline("g")
            return [j.shown for j in ledger.answer_many("sim", guideline, lambda _: (0, 0.0), seed=seed)]

    first = shown("a", 7)
    repeated, changed = first == shown("b", 7), first != shown("c", 8)
    assert repeated and changed  # (outside the assert, because a diff of long lists takes minutes)
    for sides in (first, shown("d", None)):
        assert 140 < Counter(sides)[0, 1] < 260  # six standard deviations
        assert Counter(sides)[0, 1] + Counter(sides)[1, 0] == 400


def test_left_and_right_are_what_the_rater_sees(ledger: Ledger, guideline: str, pairs) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask(pairs(20))
    while (seen := ledger.lease("ann", guideline)) is not None:
        assert (seen.left, seen.right) == tuple(seen.group.completions[slot] for slot in seen.shown)
        assert sorted(seen.shown) == [0, 1]


def test_many_threads_never_overshoot_and_lose_nothing(where: str, pairs) -> None:
    """Two connections with four threads each, one of them always too late."""
    items, overlap, threads = 200, 3, 8
    ledgers = [Ledger.open(where) for _ in range(2)]
    ledgers[0].add_policy("p0", base_model="tiny")
    guideline = ledgers[0].add_guideline("g")
    ids = ledgers[0].ask(pairs(items, overlap=overlap))
    start = threading.Barrier(threads, timeout=60)

    def work(number: int) -> list[str]:
        ledger, name, stored = ledgers[number % 2], f"rater {number}", []
        ledger.add_rater(name, "human")
        start.wait()
        for _ in range(10 * items):
            seen = ledger.lease(name, guideline, seconds=0 if number == 0 else 900)
            if seen is None:
                break
            try:
                stored.append(ledger.submit(seen.id, 1, seconds=1).id)
            except LedgerError as refused:
                assert number == 0 and "lease ran out" in str(refused)
        return stored

    with ThreadPoolExecutor(threads) as pool:
        acknowledged = [id_ for stored in pool.map(work, range(threads)) for id_ in stored]
    judgements = ledgers[1].judgements()
    assert Counter(j.item_id for j in judgements) == dict.fromkeys(ids, overlap)
    assert sorted(acknowledged) == sorted(j.id for j in judgements)
    assert len({(j.item_id, j.rater) for j in judgements}) == items * overlap
    assert ledgers[0].verify().problems == ()
    for ledger in ledgers:
        ledger.close()
