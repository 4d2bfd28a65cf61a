"""Where rows come from: JSON Lines, JSON arrays, CSV, TSV, Parquet, folders of these, the Hugging Face hub.

Everything is read as a stream; a file is never held whole in memory. A row that cannot be read becomes a
`Problem` with its file and line. What makes the rest of a file unreadable is a `DataError`: rows must not
go missing unnoticed.
"""

from __future__ import annotations

import ast
import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from accord.errors import DataError


@dataclass(frozen=True)
class Problem:
    """One bad row: where (`line` is 1-based; in Parquet and on the hub it counts rows) and why.

    What follows the first colon in `what` is detail; the part before it names the kind of problem.
    """

    file: str
    line: int
    what: str


@dataclass(frozen=True)
class Row:
    file: str
    line: int  # where the row starts
    values: dict[str, Any]


Rows = Iterator[Row | Problem]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv")
SUFFIXES = (*TEXT_SUFFIXES, *(s + ".gz" for s in TEXT_SUFFIXES), ".parquet")
_KNOWN = "Accord reads .jsonl, .json, .csv and .tsv (each also as .gz) and .parquet"
_SPLITS = {"train": "train", "training": "train", "test": "test", "eval": "test", "evaluation": "test"}
_SPLITS |= {"validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")
_CHUNK = 1 << 20  # characters


def read(source: str, split: str) -> Iterator[tuple[str, Rows]]:
    """Each file of `source` with its rows, in order of name.

    `source` is a file, a folder, or a hub name ("owner/name", or "owner/name:config"). `split` chooses on
    the hub, and in a folder whose files carry split names (train.jsonl, test-00000.parquet, test/part.csv);
    a single file is read whole, whatever its name.

    Raises:
        DataError: nothing there, of an unknown kind, or unreadable.
    """
    path = Path(source).expanduser()
    if not source:
        raise DataError("no data named. Give a file, a folder, or the name of a data set on the hub.")
    if path.is_dir():
        if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            yield source, _saved_rows(source, split)
            return
        for file in _files(path, split):
            yield str(file), read_file(file)
    elif path.exists():
        yield str(path), read_file(path)
    elif _HUB_NAME.fullmatch(source) and not source.lower().endswith(SUFFIXES):
        yield source, _hub_rows(source, split)
    else:
        raise DataError(f"{source}: there is no such file or folder. Check the path.")


def read_file(path: Path) -> Rows:
    """The rows of one file, by its suffix."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: unknown kind of file. {_KNOWN}.")
    with _readable(path):
        if suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        with _open(path) as stream:
            head = stream.read(4096)
            stream.seek(0)
            if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{path}: the file is UTF-16. Save it as UTF-8.")
            # A broken byte becomes a lone surrogate, which spoils the row it is in and no other.
            newline = "\n" if suffix in JSON_SUFFIXES else ""
            text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
            if suffix not in JSON_SUFFIXES:
                yield from _csv_rows(str(path), text, "\t" if suffix == ".tsv" else ",")
            elif head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                yield from _array_rows(str(path), text)
            else:
                yield from _line_rows(str(path), text)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the compressed file is damaged or cut off ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _files(folder: Path, split: str) -> list[Path]:
    """The data files under `folder` that belong to `split`."""
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = [n for n in names if n.name.lower().endswith(SUFFIXES) and n.name not in _METADATA]
    names = [n for n in names if not any(part.startswith(".") for part in n.parts)]
    if not names:
        raise DataError(f"{folder}: the folder holds no data files. {_KNOWN}.")
    splits = {name: _split_of(name) for name in names}
    if not any(splits.values()):
        splits = dict.fromkeys(names, "train")  # a folder without splits is training data, as on the hub
    wanted = _SPLITS.get(split, split)
    chosen = [folder / name for name in names if splits[name] == wanted]
    if not chosen:
        found = ", ".join(f"{name} ({splits[name] or 'no split'})" for name in names[:10])
        raise DataError(
            f"{folder}: no file of the split {split!r}. Found: {found}. Name one file or another split."
        )
    return chosen


def _split_of(name: Path) -> str:
    words = re.split(r"[^a-z]+", name.as_posix().lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")


def _line_rows(file: str, text: TextIO) -> Rows:
    for line, content in enumerate(text, 1):
        if not content.strip():
            continue
        try:
            yield _object(file, line, json.loads(content.rstrip()))
        except json.JSONDecodeError as error:
            yield Problem(file, line, f"invalid JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; endless nesting
            yield Problem(file, line, f"invalid JSON: {error}")


def _object(file: str, line: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(file, line, value)
    return Problem(file, line, "not a JSON object with named columns")


def _array_rows(file: str, text: TextIO) -> Rows:
    """The elements of one JSON array, decoded one at a time."""
    decode, blank = json.JSONDecoder().raw_decode, re.compile(r"\s*")
    buffer, at, line, expected = text.read(_CHUNK), 0, 1, "["
    while True:
        start = blank.match(buffer, at).end()  # type: ignore[union-attr]
        line, at = line + buffer.count("\n", at, start), start
        if at == len(buffer):
            buffer, at = text.read(_CHUNK), 0
            if not buffer:
                raise DataError(
                    f"{file}:{line}: the JSON array is never closed; the file seems to be cut off."
                )
        elif buffer[at] == expected:  # the opening bracket, or a comma
            at, expected = at + 1, "value"
        elif buffer[at] == "]" and expected != "[":
            break
        elif expected != "value":
            raise DataError(
                f"{file}:{line}: invalid JSON: {expected!r} expected, {buffer[at]!r} found. Mend it."
            )
        else:
            problem = None
            try:
                value, end = decode(buffer, at)
            except (ValueError, RecursionError) as error:
                problem, end = error, len(buffer)
            # At the buffer's end an element may be incomplete. Doubling keeps the repeated decoding linear.
            if end == len(buffer) and (more := text.read(max(_CHUNK, end - at))):
                buffer, at = buffer[at:] + more, 0
                continue
            if problem is not None:
                line += buffer.count("\n", at, getattr(problem, "pos", at))
                raise DataError(
                    f"{file}:{line}: invalid JSON ({problem}); nothing after it can be read. Mend it."
                )
            yield _object(file, line, value)
            line, at, expected = line + buffer.count("\n", at, end), end, ","
    if (buffer[at + 1 :] + text.read(_CHUNK)).strip():
        raise DataError(f"{file}:{line}: more text follows the JSON array. Make it one array, or JSON Lines.")


def _csv_rows(file: str, text: TextIO, delimiter: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default refuses answers above 128 KiB
    first = text.readline()
    if delimiter == "," and ";" in first and "," not in first:
        delimiter = ";"  # what spreadsheets write where the comma is the decimal sign
    reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{file}:1: the header is not valid CSV ({error}). Mend it.") from error
    if len(set(columns)) < len(columns):
        raise DataError(f"{file}:1: a column name occurs twice in {', '.join(columns)}. Rename one.")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise DataError(
                    f"{file}:{line}: a quotation mark is opened here and never closed."
                ) from error
            yield Problem(file, line, f"invalid CSV: {error}")
            continue
        if cells is None:
            return
        if not cells:
            continue  # an empty line
        if len(cells) != len(columns):
            yield Problem(file, line, f"wrong number of cells: {len(cells)}, the header has {len(columns)}")
            continue
        try:
            yield Row(file, line, {c: _typed(c, cell) for c, cell in zip(columns, cells, strict=True)})
        except ValueError as error:
            yield Problem(file, line, str(error))


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_NUMBER_COLUMNS = {"margin", "weight", "preference", "annotator1", "annotator2", "annotator3"}


def _typed(column: str, cell: str) -> Any:
    """A CSV cell as what JSON would hold: a number, a truth value, a conversation, or the text itself."""
    if column in ("label", "tie"):
        return _BOOLEANS.get(cell.strip().lower(), cell or None)
    if column in _NUMBER_COLUMNS:
        try:
            return float(cell) if cell.strip() else None
        except ValueError:
            return cell
    if not re.match(r"\s*\[\s*\{\s*['\"]", cell):
        return cell
    for parse in (json.loads, ast.literal_eval):  # the second for what pandas writes
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        turns = all(isinstance(turn, dict) and "role" in turn for turn in value)
        return value if turns or column == "instances" else cell
    if re.search(r"['\"]role['\"]\s*:", cell):
        raise ValueError(f"{column} looks like a conversation but is not valid JSON")
    return cell


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    line += 1
                    try:
                        yield Row(str(path), line, batch.slice(i, 1).to_pylist()[0])
                    except UnicodeDecodeError:
                        yield Problem(str(path), line, "not valid UTF-8")
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error


def _hub_rows(source: str, split: str) -> Rows:
    name, _, config = source.partition(":")
    try:
        import datasets

        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the hub's client raises dozens of kinds, and none of them is ours to mend
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{source}: there is no such file or folder, and the Hugging Face hub gives no such data set "
            f"({reason}). Check the name, the split {split!r} and the network, or give a path."
        ) from error
    yield from _enumerated(source, rows)


def _saved_rows(folder: str, split: str) -> Rows:
    """A folder that `datasets` wrote with `save_to_disk`."""
    import datasets

    try:
        rows = datasets.load_from_disk(folder)
    except Exception as error:  # as above
        raise DataError(f"{folder}: not a readable folder of `save_to_disk` ({error}).") from error
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise DataError(f"{folder}: no split {split!r}; it has {', '.join(rows)}.")
        rows = rows[split]
    yield from _enumerated(folder, rows)


def _enumerated(file: str, rows: Iterable[dict[str, Any]]) -> Rows:
    for line, values in enumerate(rows, 1):
        yield Row(file, line, dict(values))
