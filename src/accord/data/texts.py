"""Plain text for pre-training: whole files, or rows with a `text` column."""

from __future__ import annotations

import re
from pathlib import Path

from accord.data import datasets, formats
from accord.data.containers import SUFFIXES, Problem
from accord.data.datasets import Loaded
from accord.data.formats import RowError, Values
from accord.errors import DataError

TEXTS: formats.Formats = {"text": ("text",)}
_ENDS = {"file": r"\Z", "paragraph": r"\n\s*\n", "line": r"\n"}


def load_texts(
    source: str, *, documents: str = "file", split: str = "train", strict: bool = False
) -> Loaded[str]:
    """Read documents: .txt files hold one or, by `documents`, one in each "paragraph" or "line"; every other
    kind of source has a row with `text` for each.

    A folder may hold both kinds; its .txt files come first. Empty documents are listed as problems. Raises
    DataError: nothing usable, no `text` column, or (`strict`) a bad row.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".txt" and not path.is_file():
        raise DataError(f"{source}: there is no such file; check the path")
    files = [path] if path.suffix.lower() == ".txt" and path.is_file() else _files(path, (".txt",))
    found, problems = list[str](), list[Problem]()
    for file in files:
        try:
            text = _document(file.read_bytes().decode("utf-8-sig"))
            found += [part for part in re.split(_ENDS[documents], text) if part.strip()]
        except (OSError, UnicodeDecodeError, RowError) as error:
            what = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            if strict:
                raise DataError(f"{file}: {what}; mend or remove the file") from error
            problems.append(Problem(str(file), 1, what))
    kinds = ["txt"] if files else []
    if path.suffix.lower() != ".txt" and (not files or _files(path, SUFFIXES)):
        # The same reader as for all other data: same kinds of file, same words for a bad row.
        rows = datasets._load(source, split, strict, None, TEXTS, _row)
        found += rows.rows
        problems += rows.problems
        kinds.append(rows.kind)
    loaded = Loaded(tuple(found), tuple(problems), source, ", ".join(kinds))
    if not found:
        raise DataError(f"{source}: no usable text. {loaded.summary()}.")
    return loaded


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    shown = [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return [p for p in shown if p.name.lower().endswith(suffixes)]


def _row(values: Values, kind: str, place: str) -> str:
    text = values.get("text")
    if not isinstance(text, str):
        raise RowError("no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError("text is not valid UTF-8") from None
    return _document(text)


def _document(text: str) -> str:
    if not text.strip():
        raise RowError("empty text")
    return text
