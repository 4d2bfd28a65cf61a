"""Rows as other tools write them become the pairs that their raters preferred."""

from __future__ import annotations

from typing import Any

import pytest

from accord.errors import LedgerError
from accord.ledger.foreign import read_foreign

ULTRAFEEDBACK = {
    "instruction": "Name a colour.",
    "completions": [
        {"response": "Red.", "overall_score": 8.5},
        {"response": "Seven.", "overall_score": 1.0},
        {"response": "Blue.", "overall_score": 8.5},
        {"response": "Unrated.", "overall_score": None},
    ],
}


def ranking(*ranks: tuple[str, int], status: str = "submitted") -> dict[str, Any]:
    return {"value": [{"value": name, "rank": rank} for name, rank in ranks], "status": status}


ARGILLA = {
    "fields": {"prompt": "Name a colour.", "reply-1": "Seven.", "reply-2": "Red."},
    "responses": {
        "preference": [
            ranking(("reply-2", 1), ("reply-1", 2)),
            ranking(("reply-1", 1), ("reply-2", 1)),
            ranking(("reply-1", 1), ("reply-2", 2), status="draft"),
        ],
        "comment": [{"value": "fine", "status": "submitted"}],
    },
}

EMPTY = {"type": "pairwise", "to_name": "text1,text2", "value": {}}


def label_studio(selected: str, *, cancelled: bool = False, names: str = "text1,text2") -> dict[str, Any]:
    result = {"type": "pairwise", "to_name": names, "from_name": "pw", "value": {"selected": selected}}
    return {
        "data": {"prompt": "Name a colour.", "text1": "Red.", "text2": "Seven."},
        "annotations": [{"was_cancelled": cancelled, "result": [result]}],
    }


def pairs(row: dict[str, Any]) -> list[tuple[str, str, float, bool]]:
    found = read_foreign(row, "file:3")
    for pair in found:
        assert pair.prompt.messages[0].content == "Name a colour."
        assert pair.prompt.source == "file:3" and pair.provenance == ("file:3",)
    return [(p.chosen, p.rejected, p.margin, p.tie) for p in found]


def test_ultrafeedback_gives_every_pair_by_score() -> None:
    assert pairs(ULTRAFEEDBACK) == [
        ("Red.", "Seven.", 3.0, False),
        ("Red.", "Blue.", 0.0, True),
        ("Blue.", "Seven.", 3.0, False),
    ]


def test_argilla_gives_what_was_submitted_best_first() -> None:
    assert pairs(ARGILLA) == [("Red.", "Seven.", 1.0, False), ("Seven.", "Red.", 0.0, True)]


def test_label_studio_gives_the_side_that_was_selected() -> None:
    assert pairs(label_studio("left")) == [("Red.", "Seven.", 1.0, False)]
    assert pairs(label_studio("right")) == [("Seven.", "Red.", 1.0, False)]
    assert pairs(label_studio("left", cancelled=True)) == []


def test_rows_that_cannot_be_read_say_where_and_why() -> None:
    with pytest.raises(LedgerError, match=r"file:3: no row of argilla .* it has text"):
        read_foreign({"text": "x"}, "file:3")
    with pytest.raises(LedgerError, match=r"no row of argilla \(fields, responses\); it has completions"):
        read_foreign(ULTRAFEEDBACK, "file:3", "argilla")
    with pytest.raises(LedgerError, match=r"not as ultrafeedback writes it \(ValueError: could not convert"):
        read_foreign({**ULTRAFEEDBACK, "completions": [{"response": "a", "overall_score": "N/A"}]}, "file:3")
    with pytest.raises(LedgerError, match=r"not as label-studio writes it \(KeyError: 'selected'\)"):
        read_foreign({**label_studio("left"), "annotations": [{"result": [EMPTY]}]}, "file:3")
    with pytest.raises(LedgerError, match=r"file:3: the answer speaks of 'txt-1', which is no text"):
        read_foreign(label_studio("left", names="txt-1,txt-2"), "file:3")
    with pytest.raises(LedgerError, match=r"compares two texts, not 'a'"):
        read_foreign(label_studio("left", names="a"), "file:3")
    with pytest.raises(LedgerError, match="no field is the prompt"):
        read_foreign({**ARGILLA, "fields": {"reply-1": "a", "reply-2": "b"}}, "file:3")
