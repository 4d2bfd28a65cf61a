"""Each kind of bad row by its message and line."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from accord.data.datasets import (
    Problem,
    load_demonstrations,
    load_preferences,
    load_prompts,
    load_unpaired,
)
from accord.errors import DataError
from data_paths import shared_data
from row_files import BOT, GOOD, PAIR, USER, bare, in_hh, jsonl, turns

BAD_PAIRS: list[tuple[Any, str]] = [
    ({"prompt": "a", "rejected": "c"}, "no chosen"),
    (PAIR | {"chosen": None}, "no chosen"),
    (PAIR | {"chosen": 3}, "chosen is a number, not text or a conversation"),
    (PAIR | {"rejected": True}, "rejected is true/false, not text or a conversation"),
    (PAIR | {"chosen": "  \n"}, "chosen is empty"),
    (PAIR | {"chosen": []}, "chosen is empty"),
    (PAIR | {"rejected": PAIR["chosen"]}, "chosen = rejected"),
    (PAIR | {"prompt": " "}, "the prompt is empty"),
    ({"chosen": "a", "rejected": "b"}, "no prompt: there is no prompt column, and no turn before the answer"),
    (
        {"chosen": turns((USER, "x"), (BOT, "1")), "rejected": turns((USER, "y"), (BOT, "2"))},
        "chosen and rejected have different prompts",
    ),
    (
        {"chosen": in_hh("x", "1"), "rejected": in_hh("x", "2") + in_hh("z", "3")},
        "chosen and rejected have different prompts",
    ),
    (
        {"chosen": turns((USER, "x")), "rejected": turns((USER, "x"), (BOT, "2"))},
        "the last turn of chosen is not the assistant's",
    ),
    (
        {"chosen": in_hh("x", "1"), "rejected": in_hh("x", "2") + "\n\nHuman: bye"},
        "the last turn of rejected is not the assistant's",
    ),
    ({"chosen": in_hh("x", ""), "rejected": in_hh("x", "2")}, "chosen is empty"),
    (
        PAIR | {"prompt": turns((USER, "x"), (BOT, "y"))},
        "the prompt does not end with a user turn: its last turn is the assistant's",
    ),
    (
        PAIR | {"chosen": [{"from": "gpt", "value": "x"}]},
        "chosen has a turn without role and content: turn 1",
    ),
    (
        PAIR | {"chosen": [{"role": BOT, "content": "", "tool_calls": [{"name": "f"}]}]},
        "chosen has tool calls, which cannot be read: turn 1",
    ),
    (
        PAIR | {"prompt": turns(("human", "x"))},
        "prompt has an unknown role: 'human' (known: system, user, assistant, tool)",
    ),
    (
        PAIR | {"prompt": [{"role": USER, "content": 1}]},
        "the content of a turn of prompt is a number, not text",
    ),
    (PAIR | {"margin": float("nan")}, "margin is not a finite number"),
    (PAIR | {"margin": float("-inf")}, "margin is not a finite number"),
    (PAIR | {"margin": 10**400}, "margin is not a finite number"),
    (PAIR | {"margin": "0.5"}, "margin is text, not a number"),
    (PAIR | {"weight": True}, "weight is true/false, not a number"),
    (PAIR | {"weight": -1}, "weight is below 0"),
    (PAIR | {"tie": 1}, "tie is not true or false"),
    (PAIR | {"tie": True, "margin": 2.0}, "a tie with a margin"),
    (PAIR | {"chosen": "x" * 200}, "too long (more than 100 characters)"),
    (PAIR | {"images": ["a.png"]}, "has images, which cannot be read"),
    (["not", "an", "object"], "not a JSON object with named columns"),
]


@pytest.mark.parametrize(("row", "what"), BAD_PAIRS, ids=[what[:40] for _, what in BAD_PAIRS])
def test_a_bad_pair_is_named_with_its_line(tmp_path: Path, row: Any, what: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps(PAIR) + "\n\n" + json.dumps(row) + "\n" + json.dumps(PAIR) + "\n")
    loaded = load_preferences(str(source), max_chars=100)
    assert [bare(r) for r in loaded.rows] == [GOOD, GOOD]
    assert loaded.problems == (Problem(str(source), 3, what),)
    assert loaded.rows[1].provenance == (f"{source}:4",)
    with pytest.raises(DataError) as error:
        load_preferences(str(source), max_chars=100, strict=True)
    assert str(error.value) == f"{source}:3: {what}. Mend or remove this row."


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"prompt": "a", "chosen": ', "invalid JSON: Expecting value at column 26"),
        (b'{"prompt": "\xff\xfe", "chosen": "b", "rejected": "c"}', "prompt is not valid UTF-8"),
        (b'{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}', "prompt is not valid UTF-8"),
        (b"[" * 100_000, "invalid JSON: maximum recursion depth exceeded"),
        (b'{"prompt": ' + b"1" * 5000 + b"}", "invalid JSON: Exceeds the limit"),
    ],
    ids=["cut", "bytes", "surrogate", "deep", "digits"],
)
def test_unreadable_lines_spoil_only_themselves(tmp_path: Path, line: bytes, what: str) -> None:
    source = tmp_path / "a.jsonl"
    good = json.dumps(PAIR).encode()
    source.write_bytes(b"\n".join([b"\xef\xbb\xbf" + good, line, good]))  # with a byte order mark
    loaded = load_preferences(str(source))
    assert len(loaded.rows) == 2
    (problem,) = loaded.problems
    assert problem.line == 2 and problem.what.startswith(what)


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", [PAIR | {"chosen": "one\u2028two\x85three"}, PAIR])
    first, second = load_preferences(source, strict=True).rows
    assert first.chosen == "one\u2028two\x85three" and second.provenance == (f"{source}:2",)
    Path(source).write_bytes(json.dumps([PAIR])[1:-1].replace(": ", ":\r").encode() + b"\r\n")
    assert [bare(row) for row in load_preferences(source, strict=True).rows] == [GOOD]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"label": None}, "no label"),
        ({"label": "good"}, "label is not true or false"),
        ({"label": 2}, "label is not true or false"),
        ({"completion": ""}, "completion is empty"),
        ({"prompt": None}, "no prompt: there is no prompt column, and no turn before the answer"),
        ({"weight": -0.5}, "weight is below 0"),
    ],
)
def test_a_bad_unpaired_row_is_named(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    row = {"prompt": "a", "completion": "b", "label": True}
    loaded = load_unpaired(jsonl(tmp_path / "a.jsonl", [row, row | change]))
    assert loaded.problems == (Problem(str(tmp_path / "a.jsonl"), 2, what),)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"annotator2": None}, "no annotator2"),
        ({"annotator2": True}, "annotator2 is not 1, 2 or 0 (a tie)"),
        ({"annotator2": 3}, "annotator2 is not 1, 2 or 0 (a tie)"),
        ({"response1": True}, "response1 is true/false, not text"),
        ({"response2": "one"}, "response1 = response2"),
        ({"response2": ""}, "response2 is empty"),
        ({"instruction": ""}, "the prompt is empty"),
        ({"input": 4}, "input is a number, not text"),
    ],
)
def test_a_bad_pandalm_row_is_named(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    row = {"instruction": "i", "input": "", "response1": "one", "response2": "two"}
    row |= {"annotator1": 1, "annotator2": 1, "annotator3": 1}
    loaded = load_preferences(jsonl(tmp_path / "a.jsonl", [row, row | change]))
    assert loaded.problems == (Problem(str(tmp_path / "a.jsonl"), 2, what),)


# Formats that do not fit


def test_unknown_columns_are_listed_with_the_known_formats(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", [{"question": "q", "best": "a"}])
    with pytest.raises(DataError) as error:
        load_preferences(source)
    message = str(error.value)
    assert message.startswith(f"{source}: fits no known format. Columns found: question, best.")
    assert "preference (chosen, rejected)" in message and "pandalm (instruction, response1" in message


def test_an_ambiguous_format_is_refused(tmp_path: Path) -> None:
    row = {"messages": turns((USER, "q"), (BOT, "a")), "prompt": "q", "completion": "b"}
    with pytest.raises(DataError, match=r"fits several formats \(messages, prompt-completion\)"):
        load_demonstrations(jsonl(tmp_path / "a.jsonl", [row]))


def test_text_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"A text column is for pre-training \(accord pretrain\)"):
        load_demonstrations(jsonl(tmp_path / "a.jsonl", [{"text": "Once upon a time"}]))
    with pytest.raises(DataError, match="Pairs are for the reward model"):
        load_demonstrations(jsonl(tmp_path / "b.jsonl", [PAIR]))


def test_the_format_is_found_although_the_first_row_lacks_a_column(tmp_path: Path) -> None:
    loaded = load_preferences(jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a"}, PAIR]))
    assert len(loaded.rows) == 1 and loaded.problems[0].what == "no rejected"


# The summary, and real data


def test_the_summary_counts_every_row(tmp_path: Path) -> None:
    same, empty = PAIR | {"rejected": PAIR["chosen"]}, PAIR | {"chosen": ""}
    source = jsonl(tmp_path / "a.jsonl", [PAIR] * 1200 + [empty] + [same] * 5 + [empty])
    assert load_preferences(source).summary() == (
        "1,200 of 1,207 rows used; 7 left out: 5 chosen = rejected (lines 1202, 1203, 1204, …), "
        "2 chosen is empty (lines 1201, 1207)"
    )
    assert load_preferences(source, limit=7).summary() == "7 of 7 rows used"


def test_hh_harmless() -> None:
    path = shared_data("hh_harmless_test") / "harmless_test.jsonl.gz"
    loaded = load_preferences(str(path))
    with gzip.open(path, "rt", encoding="utf-8") as file:
        raw = [json.loads(line) for line in file]
    cues = ("\n\nAssistant:", "\n\nAssistant: ")
    empty = [i for i, row in enumerate(raw, 1) if row["chosen"].endswith(cues)]
    problems = {
        what: [p.line for p in loaded.problems if p.what == what]
        for what in {p.what for p in loaded.problems}
    }
    assert problems["chosen is empty"] == empty and len(empty) == 4
    assert problems["chosen and rejected have different prompts"] == [1255, 1689, 1951, 1953, 2037]
    assert len(loaded.rows) + 9 == len(raw) == 2312
    for preference in loaded.rows:  # the answer is what stands after the last cue
        row = raw[int(preference.provenance[0].rpartition(":")[2]) - 1]
        assert row["chosen"].rpartition("\n\nAssistant:")[2].strip() == preference.chosen
        assert row["rejected"].rpartition("\n\nAssistant:")[2].strip() == preference.rejected
        assert preference.prompt.messages[-1].role == USER
    assert len(load_prompts(str(path)).rows) == 2312 - 5  # an empty answer does not spoil the prompt


def test_pandalm() -> None:
    path = shared_data("pandalm_test") / "testset-v1.json"
    loaded = load_preferences(str(path))
    raw = json.loads(path.read_text(encoding="utf-8"))
    answers = [(row["response1"], row["response2"]) for row in raw]
    usable = [all(isinstance(a, str) and a.strip() for a in pair) for pair in answers]
    assert len(loaded.rows) == sum(usable) == 939 and len(loaded.problems) == 60
    votes = [
        Counter(row[f"annotator{i}"] for i in (1, 2, 3)) for row, use in zip(raw, usable, strict=True) if use
    ]
    assert [p.tie for p in loaded.rows] == [
        v.most_common(1)[0] not in [(1, 2), (1, 3), (2, 2), (2, 3)] for v in votes
    ]


def test_self_instruct_and_ifeval() -> None:
    folder = shared_data("self_instruct")
    assert load_demonstrations(str(folder / "seed_tasks.jsonl")).summary() == "175 of 175 rows used"
    assert len(load_demonstrations(str(folder / "user_oriented_instructions.jsonl")).rows) == 252
    assert len(load_prompts(str(shared_data("ifeval") / "input_data.jsonl")).rows) == 541
