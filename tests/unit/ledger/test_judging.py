"""What raters said arrives in canonical slots, once, and changes only by revision."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.errors import LedgerError
from accord.ledger import Assignment, Ledger
from accord.records import Group, Judgement, Prompt, Question


def test_the_same_preferred_text_is_stored_the_same_from_either_side(tmp_path: Path) -> None:
    fresh, sides = count(), Counter()
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        guideline = ledger.add_guideline("g")
        ledger.add_rater("ann", "human")

        @settings(max_examples=60, deadline=None)
        @given(st.integers(0, 3), st.integers(0, 1), st.integers(), st.booleans())
        def holds(strength: int, good_slot: int, seed: int, bulk: bool) -> None:
            texts = ["bad", "bad"]
            texts[good_slot] = "good"
            prompt = Prompt.of(f"question {next(fresh)}")
            (item_id,) = ledger.ask([Question(Group.of(prompt, *texts), "random")])

            def answer(seen: Assignment) -> tuple[int, float]:
                sides[seen.left.text] += 1
                return (strength if seen.left.text == "good" else -strength), 1.5

            if bulk:
                (judged,) = ledger.answer_many("ann", guideline, answer, seed=seed)
            else:
                seen = ledger.lease("ann", guideline, seed=seed)
                assert seen is not None
                judged = ledger.submit(seen.id, answer(seen)[0], seconds=1.5)
            assert judged.strength == (strength if good_slot == 0 else -strength)
            assert ledger.judgements(item_ids=[item_id]) == [judged]
            (row,) = ledger.preferences(ledger.release(prompt.id, item_ids=[item_id]).name)
            assert (row.margin, row.tie) == (strength, strength == 0)
            assert row.tie or (row.chosen, row.rejected) == ("good", "bad")

        holds()
    assert min(sides["good"], sides["bad"]) > 5


@pytest.fixture
def seen(ledger: Ledger, guideline: str, pairs) -> Assignment:
    ledger.add_rater("ann", "human")
    ledger.ask(pairs(1))
    found = ledger.lease("ann", guideline)
    assert found is not None
    return found


def test_a_judgement_says_everything_about_the_answer(
    ledger: Ledger, guideline: str, seen: Assignment
) -> None:
    judged = ledger.submit(seen.id, 2, seconds=4)
    assert judged == Judgement(
        id=judged.id,
        item_id=seen.item_id,
        rater="ann",
        rater_kind="human",
        prompt_id=seen.group.prompt.id,
        completion_ids=tuple(c.id for c in seen.group.completions),
        strength=2 if seen.shown == (0, 1) else -2,
        shown=seen.shown,
        guideline=guideline,
        seconds=4.0,
        revision=1,
    )


def test_an_idempotency_key_stores_one_judgement(ledger: Ledger, seen: Assignment) -> None:
    first = ledger.submit(seen.id, 2, seconds=4, idempotency_key="k")
    assert ledger.submit(seen.id, 2, seconds=5, idempotency_key="k") == first
    with pytest.raises(LedgerError, match=f"key 'k' belongs to judgement {first.id}"):
        ledger.submit(seen.id, 1, seconds=4, idempotency_key="k")
    with pytest.raises(LedgerError, match="is answered; revise its judgement"):
        ledger.submit(seen.id, 2, seconds=4)
    assert ledger.judgements(include_superseded=True) == [first]


def test_a_key_of_another_assignment_is_refused(
    ledger: Ledger, guideline: str, pairs, seen: Assignment
) -> None:
    ledger.submit(seen.id, 0, seconds=4, idempotency_key="k")
    ledger.ask(pairs(2))
    other = ledger.lease("ann", guideline)
    assert other is not None
    with pytest.raises(LedgerError, match="a new answer needs a new key"):
        ledger.submit(other.id, 0, seconds=4, idempotency_key="k")


@pytest.mark.parametrize("strength", [4, -4, 1.0, True, "1", None])
def test_strengths_outside_the_scale_are_refused(ledger: Ledger, seen: Assignment, strength: object) -> None:
    with pytest.raises(LedgerError, match="is not a whole number from -3"):
        ledger.submit(seen.id, strength, seconds=1)  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match="is not a whole number from -3"):
        ledger.answer_many("ann", seen.guideline, lambda _: (strength, 1.0)) or ledger.revise(
            ledger.submit(seen.id, 1, seconds=1).id,
            strength,  # type: ignore[arg-type]
            seconds=1,
        )


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_times_that_cannot_be_are_refused(ledger: Ledger, seen: Assignment, seconds: float) -> None:
    with pytest.raises(LedgerError, match="is not a time that passed"):
        ledger.submit(seen.id, 1, seconds=seconds)


def test_a_revision_supersedes_and_keeps_the_old_answer(ledger: Ledger, seen: Assignment) -> None:
    first = ledger.submit(seen.id, 2, seconds=4)
    second = ledger.revise(first.id, -1, seconds=2)
    assert (second.revision, second.shown, second.seconds) == (2, first.shown, 2.0)
    assert second.strength * first.strength == -2
    assert ledger.judgements() == [second]
    assert ledger.judgements(include_superseded=True) == [first, second]
    with pytest.raises(LedgerError, match="is superseded; only the newest"):
        ledger.revise(first.id, 0, seconds=1)
    third = ledger.revise(second.id, 0, seconds=1)
    assert ledger.judgements() == [third]
    with pytest.raises(LedgerError, match="judgement 'ghost' is not in the ledger"):
        ledger.revise("ghost", 0, seconds=1)
    assert ledger.verify().problems == ()


def test_judgements_of_some_items_in_the_order_of_asking(ledger: Ledger, guideline: str, pairs) -> None:
    ids = ledger.ask(pairs(700, overlap=2))  # more than one statement's worth of parameters
    for name in ("zoe", "ann"):
        ledger.add_rater(name, "simulated")
        ledger.answer_many(name, guideline, lambda _: (1, 1.0))
    everything = ledger.judgements()
    ordered = [(j.item_id, j.rater) for j in everything] == [(i, r) for i in ids for r in ("ann", "zoe")]
    same = ledger.judgements(item_ids=reversed(ids)) == everything
    assert ordered and same  # (outside the assert, because a diff of long lists takes minutes)
    assert ledger.judgements(item_ids=[ids[3]]) == everything[6:8]
    assert ledger.judgements(item_ids=[]) == []


def test_answering_in_bulk_is_leasing_and_submitting(tmp_path: Path, pairs) -> None:
    def judge(seen: Assignment) -> tuple[int, float]:
        return len(seen.item_id + seen.left.text) % 7 - 3, 2.0

    results = []
    for name in ("bulk", "single"):
        with Ledger.open(tmp_path / name) as ledger:
            ledger.add_policy("p0", base_model="tiny")
            ledger.add_rater("sim", "simulated")
            guideline = ledger.add_guideline("g")
            ledger.ask(pairs(10))
            if name == "bulk":
                assert len(ledger.answer_many("sim", guideline, judge, seed=1, limit=7, chunk=3)) == 7
                assert len(ledger.answer_many("sim", guideline, judge, seed=1)) == 3
            else:
                while (seen := ledger.lease("sim", guideline, seed=1)) is not None:
                    ledger.submit(seen.id, judge(seen)[0], seconds=2.0)
            results.append((ledger.judgements(), ledger.counts(), ledger.release("all").hash))
    assert results[0] == results[1]


def test_a_judge_that_fails_leaves_no_trace_of_its_chunk(ledger: Ledger, guideline: str, pairs) -> None:
    ledger.add_rater("sim", "simulated")
    ledger.ask(pairs(10))
    calls = count(1)

    def fails_at_the_sixth(seen: Assignment) -> tuple[int, float]:
        if next(calls) == 6:
            raise RuntimeError("judge is out")
        return 1, 1.0

    with pytest.raises(RuntimeError, match="judge is out"):
        ledger.answer_many("sim", guideline, fails_at_the_sixth, chunk=4)
    assert (ledger.counts()["judgements"], ledger.counts()["leased"]) == (4, 0)
    assert len(ledger.answer_many("sim", guideline, lambda _: (1, 1.0))) == 6
    assert ledger.verify().problems == ()
