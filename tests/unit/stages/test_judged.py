"""What was said of answers, gathered by prompt: from preferences, from verdicts, from a ledger."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from accord.data.datasets import Unpaired
from accord.data.render import Encoded
from accord.errors import DataError
from accord.ledger import Assignment, Ledger
from accord.records import Completion, Group, Preference, Prompt, Question, Sampling
from accord.stages.pairs import (
    Judged,
    Pair,
    Verdict,
    crossed,
    pairs_of,
    read_pairs,
    read_verdicts,
    split_by_prompt,
    verdicts_of,
)

ONE, TWO = Prompt.of("one"), Prompt.of("two")


def told() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=400), text


def named(rows: list[Judged[Pair]]) -> set[tuple[Any, ...]]:
    """Pairs by their texts, so that places do not matter."""
    texts = {row.group.prompt.id: [c.text for c in row.group.completions] for row in rows}
    return {
        (i, texts[i][p.chosen], texts[i][p.rejected], p.margin, p.weight)
        for row in rows
        for i in [row.group.prompt.id]
        for p in row.said
    }


def test_preferences_are_gathered_by_prompt_and_each_text_stands_once() -> None:
    rows = [
        Preference(ONE, "a", "b", margin=2.0),
        Preference(TWO, "x", "y", weight=0.5),
        Preference(ONE, "b", "c"),
    ]
    first, second = pairs_of(rows)
    assert [c.text for c in first.group.completions] == ["a", "b", "c"]
    assert first.said == (Pair(0, 1, margin=2.0), Pair(1, 2))
    assert second.weight == 0.5
    assert named(pairs_of(rows)) == named(pairs_of(rows[::-1]))


def test_an_answer_that_was_judged_twice_counts_twice_and_is_read_once() -> None:
    answers = [Unpaired(ONE, "a", True), Unpaired(ONE, "a", False, weight=2.0), Unpaired(ONE, "b", True)]
    (row,) = verdicts_of(answers)
    assert [c.text for c in row.group.completions] == ["a", "b"]
    assert row.said == (Verdict(0, True), Verdict(0, False, 2.0), Verdict(1, True))
    assert row.weight == 4.0


def test_each_good_answer_meets_each_bad_one_of_its_own_prompt() -> None:
    answers = [
        Unpaired(ONE, "good", True, weight=2.0),
        Unpaired(ONE, "bad", False, weight=3.0),
        Unpaired(ONE, "worse", False),
        Unpaired(ONE, "good", False),  # a rater disagreed: nothing to compare it with but itself
        Unpaired(TWO, "alone", True),
    ]
    assert named(crossed(answers)) == {(ONE.id, "good", "bad", 0.0, 6.0), (ONE.id, "good", "worse", 0.0, 2.0)}


@given(n=st.integers(1, 30), share=st.floats(0, 0.99), seed=st.integers(0, 99), turn=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_split_keeps_prompts_whole_and_ignores_the_order_of_rows(
    n: int, share: float, seed: int, turn: bool
) -> None:
    rows = [
        (pairs_of([Preference(Prompt.of(f"q{i}"), "a", "b")])[0], Encoded((1,), ((2,), (3,))))
        for i in range(n)
    ]
    train, held_out = split_by_prompt(rows, share, seed)
    ids = [[row.group.prompt.id for row, _ in part] for part in (train, held_out)]
    assert len(ids[1]) == round(share * n) and sorted(ids[0] + ids[1]) == sorted(
        row.group.prompt.id for row, _ in rows
    )
    again = split_by_prompt(rows[::-1] if turn else rows, share, seed)
    assert [[row.group.prompt.id for row, _ in part] for part in again] == ids


@pytest.fixture
def release(tmp_path: Path) -> str:
    """A ledger with four judged pairs, one of them a tie, as LEDGER#RELEASE."""
    path = tmp_path / "ledger.sqlite"

    def strength(seen: Assignment) -> tuple[int, float]:
        return next(answers), 1.0

    answers = iter([2, -1, 0, 3])
    with Ledger.open(path) as ledger:
        ledger.add_policy("p0", base_model="tiny")
        guideline = ledger.add_guideline("Choose the better one.")
        ledger.add_rater("ann", "simulated")
        questions = []
        for i in range(4):
            prompt = Prompt.of(f"question {i}")
            both = tuple(
                Completion(prompt.id, f"{i}.{k}", (7, k), (-0.1, -0.2), "p0", Sampling(), index=k)
                for k in (0, 1)
            )
            questions.append(Question(Group(prompt, both), "random"))
        ledger.ask(questions)
        ledger.answer_many("ann", guideline, strength)
        ledger.release("first")
    return f"{path}#first"


def test_a_ledgers_release_is_read_as_pairs_and_as_verdicts_without_its_ties(release: str) -> None:
    console, text = told()
    pairs = read_pairs(release, False, console)
    assert len(pairs) == 3 and all(len(row.said) == 1 for row in pairs)
    assert {p.margin for row in pairs for p in row.said} == {1.0, 2.0, 3.0}
    assert "left out 1 tie, which prefers neither answer" in text.getvalue()
    verdicts = read_verdicts(release, False, console)
    assert [[v.good for v in row.said] for row in verdicts] == [[True, False]] * 3
    for row, judged in zip(pairs, verdicts, strict=True):
        assert row.group == judged.group and row.said[0].chosen == judged.said[0].answer


def test_a_source_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_pairs(str(tmp_path / "none.jsonl"), False, told()[0])
