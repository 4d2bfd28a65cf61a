"""Each container: what it reads, and how it says what it cannot read."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets as hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accord.data import containers
from accord.data.datasets import (
    Problem,
    load_preferences,
    load_prompts,
    load_unpaired,
)
from accord.errors import DataError
from accord.records import Message
from row_files import BOT, GOOD, PAIR, USER, bare, jsonl, turns, write


def test_lines_of_a_json_array_are_lines_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [PAIR | {"chosen": f"{i}, [" + "é\n]" * i} for i in range(30)]
    rows[7] = PAIR | {"chosen": ""}
    text = json.dumps([*rows, 12345], indent=1, ensure_ascii=False)
    path = tmp_path / "a.json"
    path.write_text("\n" + text, encoding="utf-8")
    starts = [i for i, line in enumerate(("\n" + text).split("\n"), 1) if line.startswith((" {", " 1"))]
    for chunk in (1, 2, 17, 10_000):  # wherever the stream is cut
        monkeypatch.setattr(containers, "_CHUNK", chunk)
        loaded = load_preferences(str(path))
        read = [int(row.provenance[0].rpartition(":")[2]) for row in loaded.rows]
        assert read == starts[:7] + starts[8:30]
        assert [row.chosen for row in loaded.rows] == [row["chosen"] for i, row in enumerate(rows) if i != 7]
        assert [(p.line, p.what) for p in loaded.problems] == [
            (starts[7], "chosen is empty"),
            (starts[30], "not a JSON object with named columns"),
        ]


@pytest.mark.parametrize(
    ("ending", "what"),
    [
        ("", ":3: the JSON array is never closed"),
        (",\n{", ":4: invalid JSON"),
        (",\n\n{]", ":5: invalid JSON"),
        ("\n{}]", ":4: invalid JSON: ',' expected"),
        ("]\n[]", ":3: more text follows the JSON array"),
    ],
)
def test_a_broken_array_is_an_error_and_not_a_short_file(tmp_path: Path, ending: str, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[\n{json.dumps(PAIR)},\n{json.dumps(PAIR)}{ending}")
    with pytest.raises(DataError) as error:
        load_preferences(str(path))
    assert str(error.value).startswith(f"{path}{what}")


def test_a_number_is_not_cut_where_the_stream_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([1234567, PAIR]))
    for chunk in range(1, 12):
        monkeypatch.setattr(containers, "_CHUNK", chunk)
        loaded = load_preferences(str(path))
        assert (len(loaded.rows), len(loaded.problems)) == (1, 1)


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    assert len(load_preferences(jsonl(tmp_path / "a.json", [PAIR, PAIR])).rows) == 2


def test_a_stream_is_not_read_further_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([PAIR] * 200)[:-1])  # never closed
    assert len(load_preferences(str(path), limit=3).rows) == 3
    with pytest.raises(DataError, match="limit is 0"):
        load_preferences(str(path), limit=0)


def test_csv_cells(tmp_path: Path) -> None:
    long = "x" * 200_000  # beyond the csv module's own limit
    conversation = str(turns((USER, "it's")))  # as pandas writes it
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "chosen", "rejected", "margin"])
        table.writerow(["two\nlines", long, "c", "0.5"])
        table.writerow([conversation, json.dumps(turns((BOT, "b"))), "c", ""])
        table.writerow(["p", "b", "c", "nan"])
        table.writerow(["p", "b", "c", "much"])
        table.writerow(["[{'role': array(1)}]", "b", "c", ""])
        table.writerow(['[{"a": 1}]', "[{not json}]", "c", ""])
        table.writerow(["p", "b"])
    loaded = load_preferences(str(path))
    first, second, third = loaded.rows
    assert (first.prompt.messages[0].content, first.chosen, first.margin) == ("two\nlines", long, 0.5)
    assert (second.prompt.messages, second.chosen) == ((Message(USER, "it's"),), "b")
    assert (third.prompt.messages[0].content, third.chosen) == ('[{"a": 1}]', "[{not json}]")
    assert [row.provenance[0] for row in loaded.rows] == [f"{path}:{line}" for line in (2, 4, 8)]
    assert [(p.line, p.what) for p in loaded.problems] == [
        (5, "margin is not a finite number"),
        (6, "margin is text, not a number"),
        (7, "prompt looks like a conversation but is not valid JSON"),
        (9, "wrong number of cells: 2, the header has 4"),
    ]


@pytest.mark.parametrize(("cell", "label"), [("true", True), ("False", False), ("1", True), ("0", False)])
def test_labels_in_csv(tmp_path: Path, cell: str, label: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt;completion;label\nq, r;a;{cell}\nq;a;\nq;a;maybe\n")
    loaded = load_unpaired(str(path))
    assert [(row.label, row.prompt.messages[0].content) for row in loaded.rows] == [(label, "q, r")]
    assert [(p.line, p.what) for p in loaded.problems] == [(3, "no label"), (4, "label is not true or false")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"prompt,prompt\na,b\n", ":1: a column name occurs twice"),
        (b'prompt,chosen\na,b\nc,"d\ne,f\n', ":3: a quotation mark is opened here and never closed"),
        (b'prompt,"chosen\n', ":1: the header is not valid CSV"),
        (b"", ": no usable rows. 0 of 0 rows used"),
    ],
)
def test_broken_csv(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_prompts(str(path))
    assert str(error.value).startswith(f"{path}{what}")


def test_bad_bytes_and_stray_quotes_in_csv_spoil_only_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,n\n\xe9t\xe9,1\n"a"b,2\nfine,3\n')
    loaded = load_prompts(str(path))
    assert [row.messages[0].content for row in loaded.rows] == ["fine"]
    assert [p.line for p in loaded.problems] == [2, 3]
    assert loaded.problems[0].what == "prompt is not valid UTF-8"
    assert loaded.problems[1].what.startswith("invalid CSV: ")


def test_bad_bytes_in_parquet_spoil_only_their_row(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"prompt": text}), tmp_path / "a.parquet")
    loaded = load_prompts(str(tmp_path / "a.parquet"))
    assert [row.messages[0].content for row in loaded.rows] == ["good", "fine"]
    assert loaded.problems == (Problem(str(tmp_path / "a.parquet"), 2, "not valid UTF-8"),)
    assert loaded.summary() == "2 of 3 rows used; 1 left out: 1 not valid UTF-8 (row 2)"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"prompt": "a"}\n' * 1000)
    for name, content, what in [
        ("a.jsonl.gz", packed[:-12], "damaged or cut off"),
        ("b.jsonl.gz", b"not packed", "damaged or cut off"),
        ("c.parquet", b"PAR1 not", "not a readable Parquet file"),
        ("d.jsonl", '{"prompt": "a"}'.encode("utf-16"), "UTF-16. Save it as UTF-8"),
        ("e.xlsx", b"", "unknown kind of file. Accord reads .jsonl"),
        ("f.jsonl", b'{"prompt": ""}\n', r"0 of 1 rows used; 1 left out: 1 the prompt is empty \(line 1\)"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=what):
            load_prompts(str(tmp_path / name))
    for missing in (str(tmp_path / "none.jsonl"), "./none", "none.csv"):
        with pytest.raises(DataError, match="there is no such file or folder"):
            load_prompts(missing)
    with pytest.raises(DataError, match="no data named"):
        load_prompts("")


def test_a_folder(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl", [PAIR, PAIR | {"chosen": ""}])
    write(tmp_path / "a.csv.gz", [PAIR])
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "c.parquet", [PAIR, PAIR | {"rejected": PAIR["chosen"]}])
    (tmp_path / ".cache").mkdir()
    jsonl(tmp_path / ".cache" / "x.jsonl", [{"other": 1}])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "dataset_info.json").write_text("{}")
    loaded = load_preferences(str(tmp_path))
    names = [row.provenance[0].removeprefix(f"{tmp_path}/") for row in loaded.rows]
    assert names == ["a.csv.gz:2", "b.jsonl:1", "sub/c.parquet:1"]
    assert loaded.summary() == (
        f"3 of 5 rows used; 2 left out: 1 chosen is empty ({tmp_path}/b.jsonl:2), "
        f"1 chosen = rejected ({tmp_path}/sub/c.parquet:2)"
    )
    assert len(load_preferences(str(tmp_path), limit=1).rows) == 1  # not one of each file
    with pytest.raises(DataError, match="no file of the split 'test'"):
        load_preferences(str(tmp_path), split="test")


def test_splits_in_a_folder(tmp_path: Path) -> None:
    for name in ("train-00000.jsonl", "train-00001.jsonl", "valid.jsonl", "readme.jsonl"):
        jsonl(tmp_path / name, [{"prompt": name}])
    (tmp_path / "train" / "test").mkdir(parents=True)  # the innermost name counts
    jsonl(tmp_path / "train" / "test" / "part.jsonl", [{"prompt": "test"}])

    def read(split: str) -> list[str]:
        return [p.messages[0].content for p in load_prompts(str(tmp_path), split=split).rows]

    assert read("train") == ["train-00000.jsonl", "train-00001.jsonl"]
    assert read("validation") == ["valid.jsonl"] and read("test") == ["test"]
    with pytest.raises(DataError, match=r"no file of the split 'dev2'.*readme.jsonl \(no split\)"):
        read("dev2")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str) -> hub.Dataset:
        asked.append((name, config, split))
        return hub.Dataset.from_list([{"prompt": turns((USER, "q"))}, {"prompt": []}])

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    loaded = load_prompts("owner/some.data:part", split="test")
    assert asked == [("owner/some.data", "part", "test")]
    assert [p.source for p in loaded.rows] == ["owner/some.data:part:1"]
    assert loaded.summary() == "1 of 2 rows used; 1 left out: 1 prompt is empty (row 2)"


def test_the_hub_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    with pytest.raises(DataError) as error:
        load_prompts("owner/name")
    assert "Couldn't reach the Hub)" in str(error.value) and "or give a path" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    data = hub.DatasetDict({"train": hub.Dataset.from_list([PAIR])})
    data.save_to_disk(tmp_path / "saved")
    assert bare(load_preferences(str(tmp_path / "saved")).rows[0]) == GOOD
    with pytest.raises(DataError, match="no split 'test'; it has train"):
        load_preferences(str(tmp_path / "saved"), split="test")
