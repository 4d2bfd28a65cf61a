"""Ratings in long form: what one rater said of one unit, and how to read them from a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accord.errors import DataError

Level = Literal["nominal", "ordinal", "interval", "ratio"]


@dataclass(frozen=True)
class Rating:
    """What one rater said of one unit. Values are numbers, except at the nominal level (any text)."""

    unit: str
    rater: str
    value: str | float


def read_ratings_csv(
    path: str | Path, unit: str, rater: str, value: str, level: Level = "nominal"
) -> list[Rating]:
    """Ratings from a comma-separated file with one rating a row; `unit`, `rater`, `value` name its columns.

    An empty value is a missing rating. DataError, with file, line and column: no such column, a value that
    is no number where the level wants one, an empty unit or rater, a rater's second value for a unit.
    """
    ratings: list[Rating] = []
    first_line: dict[tuple[str, str], int] = {}
    for line, row in _csv_rows(Path(path), (unit, rater, value)):
        for column in (unit, rater):
            if not row[column]:
                raise DataError(
                    f"{path}, line {line}, column {column!r}: empty; every rating needs its {column}"
                )
        if not row[value]:
            continue
        key = row[unit], row[rater]
        if key in first_line:
            lines = f"lines {first_line[key]} and {line}"
            raise DataError(f"{path}, {lines}: rater {key[1]!r} has two values for unit {key[0]!r}; keep one")
        first_line[key] = line
        number = None if level == "nominal" else _number(row[value])
        wrong = "" if level == "nominal" else _unsuited(number, level)
        if wrong:
            raise DataError(f"{path}, line {line}, column {value!r}: {row[value]!r} {wrong}")
        ratings.append(Rating(*key, row[value] if number is None else number))
    return ratings


def _csv_rows(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The wanted cells of every row, stripped, with the line on which the row begins."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for name in wanted:
                if header.count(name) != 1:
                    what = "no column" if name not in header else "more than one column"
                    raise DataError(
                        f"{path}: {what} {name!r}; the columns are: {', '.join(header) or '(none)'}"
                    )
            last = reader.line_num
            for cells in reader:
                line, last = last + 1, reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)}"
                    )
                yield line, {name: cells[header.index(name)].strip() for name in wanted}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not proper CSV: {error}") from error


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python reads 1_5 as 15; here it is a slip
    except ValueError:
        return None


def _unsuited(value: float | str | None, level: Level) -> str:
    """What is wrong with a value at a level that wants numbers; "" when nothing is."""
    if not isinstance(value, int | float):
        return f"is not a number, which {level} ratings must be (leave the cell empty if it is missing)"
    if not math.isfinite(value):
        return "is not a finite number (leave the cell empty if it is missing)"
    return "is negative, which ratio ratings cannot be" if level == "ratio" and value < 0 else ""


def check_ratings(ratings: Sequence[Rating], level: Level) -> None:
    """DataError when a rater has two values for a unit, or a value does not suit the level."""
    seen: set[tuple[str, str]] = set()
    for rating in ratings:
        if (rating.unit, rating.rater) in seen:
            raise DataError(f"rater {rating.rater!r} has two values for unit {rating.unit!r}; keep one")
        seen.add((rating.unit, rating.rater))
        wrong = "" if level == "nominal" else _unsuited(rating.value, level)
        if wrong:
            raise DataError(f"unit {rating.unit!r}, rater {rating.rater!r}: {rating.value!r} {wrong}")
