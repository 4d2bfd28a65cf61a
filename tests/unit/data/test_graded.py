"""Rankings, scores and labelled steps: what is read, and what is said of rows that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.data.graded import load_rankings, load_scores, load_steps
from accord.errors import DataError


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "Q", **row}) + "\n" for row in rows))
    return str(path)


def test_rankings_by_place_and_by_score_agree(tmp_path: Path) -> None:
    by_place = write(tmp_path, {"completions": ["a", "b", "c", "d"], "ranking": [2, None, 1, 2], "weight": 3})
    (row,) = load_rankings(by_place).rows
    assert (row.completions, row.grades, row.weight) == (("a", "c", "d"), (2.0, 1.0, 2.0), 3.0)
    by_score = write(tmp_path, {"completions": ["a", "b", "c", "d"], "scores": [0.5, None, 9, 0.5]})
    (row,) = load_rankings(by_score).rows
    assert (row.completions, row.grades) == (("a", "c", "d"), (2.0, 1.0, 2.0))


def test_scores_of_one_answer_or_several(tmp_path: Path) -> None:
    (row,) = load_scores(write(tmp_path, {"completion": "a", "score": 4})).rows
    assert (row.completions, row.grades) == (("a",), (4.0,))
    conversation = [{"role": "assistant", "content": "a"}]
    (row,) = load_scores(write(tmp_path, {"completions": [conversation, "b"], "scores": [1, -2.5]})).rows
    assert (row.completions, row.grades) == (("a", "b"), (1.0, -2.5))


def test_trls_stepwise_rows(tmp_path: Path) -> None:
    (row,) = load_steps(write(tmp_path, {"completions": ["a", "b"], "labels": [True, 0.25]})).rows
    assert (row.completions, row.grades, row.prompt.messages[0].content) == (("a", "b"), (1.0, 0.25), "Q")


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (
            load_rankings,
            {"completions": ["a", "b"], "ranking": [1]},
            "completions and ranking differ in length",
        ),
        (load_rankings, {"completions": ["a", "a"], "ranking": [1, 2]}, "the same answer stands twice"),
        (load_rankings, {"completions": ["a", "b"], "ranking": [1, None]}, "fewer than two answers"),
        (load_scores, {"completions": ["a"], "scores": [None]}, "scores has no number"),
        (load_scores, {"completions": ["a"], "scores": ["high"]}, "scores is text, not a number"),
        (load_scores, {"completions": [7], "scores": [1]}, "something that is no text"),
        (load_steps, {"completions": ["a"], "labels": [2]}, "neither true, false nor a probability"),
        (load_steps, {"completions": [], "labels": []}, "completions is not a list with something in it"),
        (load_steps, {"completions": ["a"], "score": 1}, r"Known here: stepwise"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(tmp_path: Path, read: Any, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, row))
