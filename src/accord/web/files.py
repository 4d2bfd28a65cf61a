"""Files that come into a project and go out of it, and what reads and writes each format."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection

from accord.errors import DataError, LedgerError
from accord.ledger import card, exchange, foreign, licences, media
from accord.records import Preference
from accord.web.media_types import ENDINGS as ENDING_OF

Bad = tuple[int, str]  # the line of a row that cannot be used, and why
Rows = Callable[[Connection, str], Iterator[dict[str, Any]]]

Format = Literal["auto", "pairs", "argilla", "label-studio", "ultrafeedback"]


# In


def read_pairs(path: str, format: Format, *, as_ranking: bool = False) -> tuple[list[Preference], list[Bad]]:
    """The pairs of a file, and its rows that cannot be used. DataError when there is nothing to use.

    "auto": the columns of its first row tell which tool wrote it. `as_ranking` takes Accord's rankings too; a
    row is then told as each two of its answers, the better one first.
    """
    from accord.data.containers import Row, read_file  # slow to import
    from accord.data.datasets import load_preferences

    tool: str = "" if format in ("auto", "pairs") else format
    first = None
    if format == "auto":
        first = next((row for row in read_file(Path(path)) if isinstance(row, Row)), None)
        tool = foreign.tool_of(first.values) if first else ""
    if tool:
        return _foreign_pairs(path, tool)
    if as_ranking and first is not None and "completions" in first.values:
        return _ranked(path)
    loaded = load_preferences(path)
    return list(loaded.rows), [(problem.line, problem.what) for problem in loaded.problems]


def _ranked(path: str) -> tuple[list[Preference], list[Bad]]:
    from accord.data.graded import load_rankings

    loaded = load_rankings(path)
    pairs = [
        Preference(row.prompt, text, other, tie=grade == lower)
        for row in loaded.rows
        for (grade, text), (lower, other) in combinations(
            sorted(zip(row.grades, row.completions, strict=True), key=lambda ranked: ranked[0]), 2
        )
    ]
    return pairs, [(problem.line, problem.what) for problem in loaded.problems]


def _foreign_pairs(path: str, tool: str) -> tuple[list[Preference], list[Bad]]:
    from accord.data.containers import Problem, read_file

    pairs: list[Preference] = []
    problems: list[Bad] = []
    for row in read_file(Path(path)):
        if isinstance(row, Problem):
            problems.append((row.line, row.what))
            continue
        place = f"{path}:{row.line}"
        try:
            found = foreign.read_foreign(row.values, place, tool)
        except LedgerError as error:
            problems.append((row.line, str(error).removeprefix(f"{place}: ")))
            continue
        complaints = {complaint for pair in found if (complaint := _complaint(pair))}
        problems += [(row.line, complaint) for complaint in sorted(complaints)]
        pairs += [pair for pair in found if not _complaint(pair)]
        if not found:
            problems.append((row.line, "no pair: nobody compared two different answers"))
    if not pairs:
        first = f" Line {problems[0][0]}: {problems[0][1]}." if problems else ""
        raise DataError(f"{path}: no row of {tool} that can be used.{first}")
    return pairs, problems


def _complaint(pair: Preference) -> str:
    """Why a pair cannot be asked about; "" when it can."""
    from accord.data import formats

    row = {"prompt": pair.prompt.messages[-1].content, "chosen": pair.chosen, "rejected": pair.rejected}
    try:
        formats.preference(row, "preference")
    except formats.RowError as error:
        return str(error)
    return ""


# Out


@dataclass(frozen=True)
class File:
    label: str
    media: str
    write: Callable[[Connection, str], Iterable[bytes]]


def _jsonl(rows: Rows) -> Callable[[Connection, str], Iterable[bytes]]:
    def write(connection: Connection, project_id: str) -> Iterator[bytes]:
        for row in rows(connection, project_id):
            yield (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")

    return write


def _parquet(rows: Rows) -> Callable[[Connection, str], Iterable[bytes]]:
    def write(connection: Connection, project_id: str) -> list[bytes]:
        known = json.dumps(licences.licences(connection, project_id), ensure_ascii=False)
        return [exchange.parquet(rows(connection, project_id), about={"accord.licences": known})]

    return write


def _csv(connection: Connection, project_id: str) -> Iterator[bytes]:
    return (line.encode("utf-8", "replace") for line in exchange.judgement_csv(connection, project_id))


def _media_zip(connection: Connection, project_id: str) -> list[bytes]:
    """Each medium as a file named by its hash, as texts name it. They hardly shrink, so they are stored."""
    exchange.project_judgements(connection, project_id)  # refuses what does not lead back
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        mine = media.ids_in(connection, project_id)
        for id_, type_ in media.types_in(connection, project_id, mine).items():
            content = media.read_part(connection, id_, 0, media.size_of(connection, id_))
            if media.Medium(type_, content).id != id_:
                raise LedgerError(
                    f"medium {id_} is not what was brought in, so nothing leaves; restore a backup"
                )
            archive.writestr(zipfile.ZipInfo(f"{id_}.{ENDING_OF[type_]}"), content)
    return [out.getvalue()]


def _licences(connection: Connection, project_id: str) -> list[bytes]:
    exchange.project_judgements(connection, project_id)  # refuses what does not lead back
    found = licences.sources(connection, project_id)
    return [json.dumps(found, ensure_ascii=False, indent=1).encode("utf-8", "replace")]


def _card(connection: Connection, project_id: str) -> list[bytes]:
    return [card.data_card(connection, project_id).encode("utf-8", "replace")]


ROWS: dict[str, tuple[str, Rows]] = {
    "preferences": (
        "Preferences for training (TRL rows with margin and weight)",
        exchange.preference_rows,
    ),
    "unpaired": ("Single answers, good or bad (TRL rows for KTO)", exchange.unpaired_rows),
    "rankings": ("Rankings", exchange.ranking_rows),
    "demonstrations": ("Rewritten answers as demonstrations", exchange.demonstration_rows),
}
JSON_LINES, PARQUET = "application/jsonl; charset=utf-8", "application/vnd.apache.parquet"
EXPORTS: Mapping[str, File] = {
    **{
        f"{name}.{ending}": File(label, media, write(rows))
        for name, (label, rows) in ROWS.items()
        for ending, media, write in (("jsonl", JSON_LINES, _jsonl), ("parquet", PARQUET, _parquet))
    },
    "judgements.jsonl": File(
        "Everything that was said, one judgement a line", JSON_LINES, _jsonl(exchange.judgement_rows)
    ),
    "judgements.csv": File("The same for spreadsheets", "text/csv; charset=utf-8", _csv),
    "media.zip": File("Images, sound and video, by hash", "application/zip", _media_zip),
    "licences.json": File("Sources and their licences", "application/json", _licences),
    "card.md": File("Data card, computed from the rows", "text/markdown; charset=utf-8", _card),
}
ENDINGS = {
    "jsonl": "JSON lines",
    "parquet": "Parquet",
    "csv": "CSV",
    "md": "Markdown",
    "json": "JSON",
    "zip": "zip",
}


def offered() -> list[dict[str, Any]]:
    """What the page offers: one entry for each label, with a link for each kind of file."""
    by_label: dict[str, list[dict[str, str]]] = {}
    for key, file in EXPORTS.items():
        ending = ENDINGS[key.rpartition(".")[2]]
        by_label.setdefault(file.label, []).append({"key": key, "ending": ending})
    return [{"label": label, "files": links} for label, links in by_label.items()]
