"""Where text for pre-training comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accord.data.texts import load_texts
from accord.errors import DataError


@pytest.mark.parametrize(
    ("documents", "expected"),
    [("file", ("a\nb\n\nc\n",)), ("paragraph", ("a\nb", "c\n")), ("line", ("a", "b", "c"))],
)
def test_what_a_document_is_in_a_text_file(tmp_path: Path, documents: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "a.txt").write_text("a\nb\n\nc\n")
    loaded = load_texts(str(tmp_path / "a.txt"), documents=documents)
    assert loaded.rows == expected
    assert loaded.kind == "txt"


def test_a_folder_holds_text_files_and_rows(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("from a file")
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "from a row"}) + "\n" + '{"text": ""}\n')
    pq.write_table(pa.table({"text": ["from a table", None]}), tmp_path / "d.parquet")
    loaded = load_texts(str(tmp_path))
    assert loaded.rows == ("from a file", "from a row", "from a table")
    assert [(Path(p.file).name, p.line, p.what) for p in loaded.problems] == [
        ("broken.txt", 1, "not valid UTF-8"),
        ("c.jsonl", 2, "empty text"),
        ("d.parquet", 2, "no text"),
    ]
    with pytest.raises(DataError, match=r"broken.txt: not valid UTF-8"):
        load_texts(str(tmp_path), strict=True)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.txt: there is no such file"):
        load_texts(str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"no usable text.*empty text"):
        load_texts(str(tmp_path / "empty.txt"))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match=r"text"):
        load_texts(str(tmp_path / "rows.jsonl"))
