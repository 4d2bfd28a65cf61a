"""Each format of rows, by round trip and by property."""

from __future__ import annotations

import itertools
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.datasets import (
    load_demonstrations,
    load_preferences,
    load_prompts,
    load_unpaired,
)
from accord.data.formats import is_transcript, transcript
from accord.errors import DataError
from accord.records import Message, Preference, Prompt
from row_files import BOT, GOOD, PAIR, USER, bare, in_hh, jsonl, turns, write


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {k: turns((USER if k == "prompt" else BOT, v)) for k, v in PAIR.items()},
        PAIR | {"prompt": turns((USER, PAIR["prompt"]))},
        {k: turns((USER, PAIR["prompt"]), (BOT, PAIR[k])) for k in ("chosen", "rejected")},
        {k: in_hh(PAIR["prompt"], PAIR[k]) for k in ("chosen", "rejected")},
        PAIR | {"prompt": f"\n\nHuman: {PAIR['prompt']}\n\nAssistant:"},
        # an explicit prompt that the conversations repeat
        {"prompt": PAIR["prompt"]}
        | {k: turns((USER, PAIR["prompt"]), (BOT, PAIR[k])) for k in ("chosen", "rejected")},
        {"instruction": PAIR["prompt"], "input": "", "output_1": "It is not."}
        | {"output_2": "Rayleigh scattering.", "preference": 2},
        {"instruction": PAIR["prompt"], "input": "", "response1": "It is not."}
        | {"response2": "Rayleigh scattering.", "annotator1": 2, "annotator2": 2, "annotator3": 0},
        PAIR | {"id": 7, "messages": None, "images": []},  # unknown columns do no harm
    ],
)
def test_each_preference_format_gives_the_same_preference(tmp_path: Path, row: dict[str, Any]) -> None:
    source = jsonl(tmp_path / "a.jsonl", [row])
    (read,) = load_preferences(source, strict=True).rows
    assert bare(read) == GOOD
    assert read.provenance == (f"{source}:1",) and read.prompt.source == f"{source}:1"


def test_the_prompt_in_front_may_hold_more_than_the_prompt_column(tmp_path: Path) -> None:
    system = ("system", "Be brief.")
    row = {"prompt": "Hi"} | {k: turns(system, (USER, "Hi"), (BOT, k)) for k in ("chosen", "rejected")}
    (read,) = load_preferences(jsonl(tmp_path / "a.jsonl", [row])).rows
    assert read.prompt.messages == (Message(*system), Message(USER, "Hi"))
    row["prompt"] = "Hello"
    with pytest.raises(DataError, match="chosen does not continue the prompt"):
        load_preferences(jsonl(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ((1, 1, 1), 1),
        ((2, 2, 1), 2),
        ((2, 2, 0), 2),
        ((0, 0, 1), 0),
        ((0, 1, 2), 0),
        ((1, 0, 1), 1),
        ((1, 2), 0),
    ],
)
def test_pandalm_follows_the_majority(tmp_path: Path, votes: tuple[int, ...], verdict: int) -> None:
    row = {"instruction": "Rewrite.", "input": "a b", "response1": "one", "response2": "two"}
    row |= {f"annotator{i}": vote for i, vote in enumerate(votes, 1)}
    (read,) = load_preferences(jsonl(tmp_path / "a.jsonl", [row])).rows
    assert read.prompt.messages == (Message(USER, "Rewrite.\n\na b"),)
    assert read.tie == (verdict == 0) and (read.margin, read.weight) == (0.0, 1.0)
    if verdict:
        assert read.chosen == {1: "one", 2: "two"}[verdict] and read.rejected == {2: "one", 1: "two"}[verdict]


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@given(
    rows=st.lists(
        st.builds(
            Preference,
            prompt=st.lists(texts, min_size=1, max_size=3).map(
                lambda contents: Prompt(
                    tuple(
                        Message((USER, BOT)[(len(contents) - i) % 2 == 0], c) for i, c in enumerate(contents)
                    )
                )
            ),
            chosen=texts.map(lambda t: t + "+"),
            rejected=texts.map(lambda t: t + "-"),
            margin=st.floats(allow_nan=False, allow_infinity=False),
            weight=st.floats(0, 100),
        ),
        min_size=1,
        max_size=5,
    ),
    name=st.sampled_from(["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.tsv.gz", "a.parquet"]),
)
def test_what_to_row_writes_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Preference], name: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / name
    write(path, [row.to_row() for row in rows])
    loaded = load_preferences(str(path))
    assert loaded.problems == () and loaded.kind == "preference"
    assert [bare(row) for row in loaded.rows] == rows


# HH transcripts

# Lines that look like a new turn, without being a paragraph of their own, belong to the text.
hh_texts = st.lists(
    st.sampled_from(
        ["Human:", "Assistant: no", "Human: said\nAssistant: did", "a  b", "ok", "\n", ":", "Ünï"]
    ),
    min_size=1,
    max_size=4,
).map(lambda parts: (" " + " ".join(parts)).strip())


@given(
    conversation=st.lists(st.tuples(hh_texts.filter(bool), hh_texts.filter(bool)), min_size=0, max_size=3),
    question=hh_texts.filter(bool),
    answers=st.tuples(hh_texts.filter(bool), hh_texts.filter(bool)).filter(lambda pair: pair[0] != pair[1]),
)
def test_hh_transcripts_are_split_at_turns(
    tmp_path_factory: pytest.TempPathFactory,
    conversation: list[tuple[str, str]],
    question: str,
    answers: tuple[str, str],
) -> None:
    start = "".join(in_hh(*pair) for pair in conversation)
    row = {
        name: start + in_hh(question, answer)
        for name, answer in zip(("chosen", "rejected"), answers, strict=True)
    }
    source = jsonl(tmp_path_factory.mktemp("hh") / "a.jsonl", [row])
    (read,) = load_preferences(source, strict=True).rows
    flat = [*itertools.chain(*conversation), question]
    assert [m.content for m in read.prompt.messages] == flat
    assert [m.role for m in read.prompt.messages] == [(USER, BOT)[i % 2] for i in range(len(flat))]
    assert (read.chosen, read.rejected) == answers


@given(st.text(string.ascii_letters + ": \n", max_size=60))
def test_a_transcript_loses_nothing_but_white_space(text: str) -> None:
    whole = in_hh(text, "yes")
    assert is_transcript(whole)
    again = "".join(
        f"\n\n{'Human' if m.role == USER else 'Assistant'}: {m.content}" for m in transcript(whole)
    )
    assert "".join(again.split()) == "".join(whole.split())


def test_answers_that_share_their_beginning_are_not_cut(tmp_path: Path) -> None:
    row = {"chosen": in_hh("Hi", "The sky is blue."), "rejected": in_hh("Hi", "The sky is green.")}
    (read,) = load_preferences(jsonl(tmp_path / "a.jsonl", [row])).rows
    assert (read.chosen, read.rejected) == ("The sky is blue.", "The sky is green.")


# The other loaders


@pytest.mark.parametrize(
    "row",
    [
        {"messages": turns((USER, "q"), (BOT, "a"))},
        {"prompt": "q", "completion": "a"},
        {"prompt": turns((USER, "q")), "completion": turns((BOT, "a"))},
        {"instruction": "q", "output": "a", "input": ""},
        {"instruction": "q", "instances": [{"input": "", "output": "a"}]},
    ],
)
def test_each_demonstration_format(tmp_path: Path, row: dict[str, Any]) -> None:
    source = jsonl(tmp_path / "a.jsonl", [row])
    (group,) = load_demonstrations(source, strict=True).rows
    assert group.prompt.messages == (Message(USER, "q"),) and group.prompt.source == f"{source}:1"
    assert [(c.text, c.prompt_id) for c in group.completions] == [("a", group.prompt.id)]


def test_the_last_turn_of_a_conversation_is_the_demonstration(tmp_path: Path) -> None:
    rows = [
        {"messages": turns(("system", ""), (USER, "q"), (BOT, "a"), (USER, "r"), (BOT, "b"))},
        {"messages": turns((USER, "q"))},
        {"messages": turns((BOT, "a"))},
    ]
    loaded = load_demonstrations(jsonl(tmp_path / "a.jsonl", rows))
    assert loaded.rows[0].completions[0].text == "b" and len(loaded.rows[0].prompt.messages) == 4
    assert [p.line for p in loaded.problems] == [2, 3]


def test_each_instance_of_a_task_is_a_row(tmp_path: Path) -> None:
    cases = [{"input": "x", "output": "1"}, {"input": "y", "output": ""}, {"input": "", "output": "3"}]
    source = jsonl(tmp_path / "a.jsonl", [{"instruction": "q", "instances": cases}, {"instances": []}])
    loaded = load_demonstrations(source)
    assert [g.prompt.messages[0].content for g in loaded.rows] == ["q\n\nx", "q"]
    assert [(p.line, p.what) for p in loaded.problems] == [
        (1, "output is empty"),
        (2, "instances is not a list with something in it"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q"},
        {"prompt": turns((USER, "q"))},
        {"prompt": "\n\nHuman: q\n\nAssistant:"},
        {"prompt": "\n\nHuman: q"},
        {"prompt": "q", "completion": "", "messages": 3},
        {"messages": turns((USER, "q"), (BOT, "a"))},
        {"messages": turns((USER, "q"))},
        {"chosen": in_hh("q", "same"), "rejected": in_hh("q", "same")},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "instances": [{"input": "", "output": ""}]},
    ],
)
def test_each_prompt_format(tmp_path: Path, row: dict[str, Any]) -> None:
    (prompt,) = load_prompts(jsonl(tmp_path / "a.jsonl", [row]), strict=True).rows
    assert prompt.messages == (Message(USER, "q"),) and prompt.id == Prompt.of("q").id


def test_max_chars_counts_the_prompt_and_the_longer_answer(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", [{"prompt": "1234", "chosen": "56", "rejected": "789"}])
    assert len(load_preferences(source, max_chars=7).rows) == 1
    assert len(load_prompts(source, max_chars=4).rows) == 1
    for load, most in ((load_preferences, 6), (load_prompts, 3)):
        with pytest.raises(DataError, match=rf"too long \(more than {most} characters\)"):
            load(source, max_chars=most)


@pytest.mark.parametrize(("written", "label"), [(True, True), (False, False), (1, True), (0, False)])
def test_unpaired_rows(tmp_path: Path, written: Any, label: bool) -> None:
    row = {"prompt": "q", "completion": "a", "label": written, "weight": 0.5}
    source = jsonl(tmp_path / "a.jsonl", [row])
    (read,) = load_unpaired(source, strict=True).rows
    assert (read.completion, read.label, read.weight) == ("a", label, 0.5)
    assert read.prompt.messages == (Message(USER, "q"),) and read.provenance == (f"{source}:1",)
