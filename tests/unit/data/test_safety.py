"""Labels of harm: both forms say the same, and rows that contradict themselves are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.data.datasets import load_preferences
from accord.data.safety import load_safety
from accord.errors import DataError
from accord.records import Prompt

PKU = {
    "prompt": "How?",
    "response_0": "Like this.",
    "response_1": "I would rather not.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 0,
    "safer_response_id": 1,
}
PLAIN = {
    "prompt": "How?",
    "chosen": "I would rather not.",
    "rejected": "Like this.",
    "chosen_unsafe": False,
    "rejected_unsafe": True,
}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("row", [PKU, PLAIN])
def test_the_more_harmful_answer_comes_first(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = load_safety(write(tmp_path, row)).rows
    assert found.prompt.messages == Prompt.of("How?").messages
    assert found.answers == ("Like this.", "I would rather not.")
    assert found.unsafe == (True, False)
    assert (found.tie, found.weight) == (False, 1.0)


def test_the_safer_of_two_unsafe_or_two_safe_answers_is_the_labels(tmp_path: Path) -> None:
    both = {**PKU, "is_response_1_safe": False, "safer_response_id": 0, "weight": 0.5}
    (found,) = load_safety(write(tmp_path, both)).rows
    assert found.answers == ("I would rather not.", "Like this.")
    assert (found.unsafe, found.weight) == ((True, True), 0.5)
    neither = {**PLAIN, "rejected_unsafe": 0}
    (found,) = load_safety(write(tmp_path, neither)).rows
    assert found.unsafe == (False, False)


def test_as_a_preference_the_more_helpful_response_is_chosen(tmp_path: Path) -> None:
    """One file of this kind fits both models: helpfulness as `accord reward` reads it, and harm."""
    (found,) = load_preferences(write(tmp_path, PKU)).rows
    assert (found.chosen, found.rejected) == ("Like this.", "I would rather not.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**PKU, "safer_response_id": 0}, "the answer called less harmful is unsafe, and the other is safe"),
        ({**PLAIN, "chosen_unsafe": True, "rejected_unsafe": False}, "called less harmful is unsafe"),
        ({**PKU, "safer_response_id": 2}, "safer_response_id is neither 0 nor 1"),
        ({**PKU, "safer_response_id": True}, "safer_response_id is neither 0 nor 1"),
        ({**PKU, "is_response_0_safe": None}, "is_response_0_safe is not true or false"),
        ({**PKU, "response_1": "Like this."}, "response_0 = response_1"),
        ({**PKU, "response_1": ""}, "response_1 is empty"),
        ({**PLAIN, "chosen_unsafe": "no"}, "chosen_unsafe is not true or false"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    loaded = load_safety(write(tmp_path, PKU if "response_0" in row else PLAIN, row))
    assert len(loaded.rows) == 1
    (problem,) = loaded.problems
    assert reason in problem.what and problem.line == 2


def test_a_tie_may_have_one_unsafe_answer_in_either_place(tmp_path: Path) -> None:
    tie = {**PLAIN, "chosen_unsafe": True, "rejected_unsafe": False, "tie": True}
    (found,) = load_safety(write(tmp_path, tie)).rows
    assert found.tie and found.unsafe == (False, True)


def test_preferences_without_labels_of_harm_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"safety \(chosen, rejected, chosen_unsafe, rejected_unsafe\)"):
        load_safety(write(tmp_path, {"prompt": "Q", "chosen": "a", "rejected": "b"}))
