"""Users' data into the core types: preferences, demonstrations, prompts, unpaired answers.

Every row that cannot be used is listed with its file and line; none is dropped silently.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from accord.data import containers, formats
from accord.data.containers import Problem, Row, Rows
from accord.data.formats import Formats, Messages, RowError, Values
from accord.errors import DataError
from accord.records import Group, Preference, Prompt

__all__ = [
    "Loaded",
    "Problem",
    "Unpaired",
    "load_demonstrations",
    "load_preferences",
    "load_prompts",
    "load_unpaired",
]

T = TypeVar("T")
_DETECTION_ROWS = 100  # a column that the first rows lack may still be there


@dataclass(frozen=True)
class Unpaired:
    """One answer that was found good (`label`) or bad, without another to compare it with."""

    prompt: Prompt
    completion: str
    label: bool
    weight: float = 1.0
    provenance: tuple[str, ...] = ()  # "file:line"


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What was read. Every row that was read is in `rows` or in `problems`."""

    rows: tuple[T, ...]
    problems: tuple[Problem, ...]
    source: str
    kind: str  # the format, or several, with commas

    def summary(self) -> str:
        """One sentence: how many rows are used, how many are not and why, with a few of their lines."""
        used, bad = len(self.rows), len(self.problems)
        text = f"{used:,} of {used + bad:,} rows used"
        if not self.problems:
            return text
        kinds: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            kinds[problem.what.split(": ")[0]].append(problem)
        ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
        one_file = len({problem.file for problem in self.problems}) == 1
        reasons = (f"{len(found):,} {what} ({_places(found, one_file)})" for what, found in ordered)
        return f"{text}; {bad:,} left out: {', '.join(reasons)}"


def load_preferences(
    source: str,
    *,
    split: str = "train",
    strict: bool = False,
    limit: int | None = None,
    max_chars: int | None = None,
) -> Loaded[Preference]:
    """Read pairs of answers from a file, a folder or the Hugging Face hub.

    Args:
        split: which split of a hub data set, or of a folder whose files are named by split.
        strict: raise at the first bad row instead of listing it.
        limit: stop after this many usable rows.
        max_chars: longest prompt + longer answer, in characters; longer rows are left out.

    Formats: `chosen` and `rejected`, as text or conversations, with a `prompt` or with shared earlier
    turns (HH-RLHF transcripts too), and optional `margin`, `weight`, `tie`; PandaLM (the annotators'
    majority; none is a tie); AlpacaFarm. `provenance` and the prompt's `source` are "file:line".

    Raises:
        DataError: nothing usable, an unknown or ambiguous format, or (`strict`) a bad row.
    """

    def convert(values: Values, kind: str, place: str) -> Preference:
        messages, chosen, rejected, tie = formats.preference(values, kind)
        _check_length(messages, max(len(chosen), len(rejected)), max_chars)
        margin = formats.number(values, "margin", 0.0)
        weight = formats.number(values, "weight", 1.0, least=0.0)
        if tie and margin:
            raise RowError("a tie with a margin")
        return Preference(Prompt(messages, place), chosen, rejected, margin, weight, tie, (place,))

    return _load(source, split, strict, limit, formats.PREFERENCES, convert)


def load_demonstrations(
    source: str,
    *,
    split: str = "train",
    strict: bool = False,
    limit: int | None = None,
    max_chars: int | None = None,
) -> Loaded[Group]:
    """Read written answers (groups of k = 1). Arguments and errors are those of `load_preferences`.

    Formats: `messages` (the last turn is the answer, all before it the prompt), `prompt` + `completion`,
    Alpaca (`instruction`, `input`, `output`), Self-Instruct (each instance counts as a row).
    """

    def convert(values: Values, kind: str, place: str) -> Group:
        messages, answer = formats.demonstration(values, kind)
        _check_length(messages, len(answer), max_chars)
        return Group.of(Prompt(messages, place), answer)

    return _load(source, split, strict, limit, formats.DEMONSTRATIONS, convert)


def load_prompts(
    source: str,
    *,
    split: str = "train",
    strict: bool = False,
    limit: int | None = None,
    max_chars: int | None = None,
) -> Loaded[Prompt]:
    """Read prompts. Arguments and errors are those of `load_preferences`.

    Formats: `prompt`, as text or a conversation, or the prompt part of any other format. A prompt that
    occurs several times is kept several times.
    """

    def convert(values: Values, kind: str, place: str) -> Prompt:
        messages = formats.prompt_part(values, kind)
        _check_length(messages, 0, max_chars)
        return Prompt(messages, place)

    return _load(source, split, strict, limit, formats.PROMPTS, convert)


def load_unpaired(
    source: str,
    *,
    split: str = "train",
    strict: bool = False,
    limit: int | None = None,
    max_chars: int | None = None,
) -> Loaded[Unpaired]:
    """Read single answers with a verdict: `prompt`, `completion`, `label`, and optional `weight`.

    Arguments and errors are those of `load_preferences`.
    """

    def convert(values: Values, kind: str, place: str) -> Unpaired:
        messages, answer = formats.demonstration(values, kind)
        label = formats.label(values)
        _check_length(messages, len(answer), max_chars)
        weight = formats.number(values, "weight", 1.0, least=0.0)
        return Unpaired(Prompt(messages, place), answer, label, weight, (place,))

    return _load(source, split, strict, limit, formats.UNPAIRED, convert)


def _load(
    source: str,
    split: str,
    strict: bool,
    limit: int | None,
    known: Formats,
    convert: Callable[[Values, str, str], T],
) -> Loaded[T]:
    if limit is not None and limit < 1:
        raise DataError(f"{source}: limit is {limit}; give at least 1, or none.")
    rows: list[T] = []
    problems: list[Problem] = []
    kinds: dict[str, None] = {}  # in order, once each
    for file, records in containers.read(source, split):
        kind, records = _detected(file, records, known)
        kinds |= {kind: None} if kind else {}
        for item in _converted(records, kind, convert):
            if not isinstance(item, Problem):
                rows.append(item)
            elif strict:
                raise DataError(f"{item.file}:{item.line}: {item.what}. Mend or remove this row.")
            else:
                problems.append(item)
            if len(rows) == limit:
                break
        if len(rows) == limit:
            break
    loaded = Loaded(tuple(rows), tuple(problems), source, ", ".join(kinds))
    if not rows:
        raise DataError(f"{source}: no usable rows. {loaded.summary()}.")
    return loaded


def _converted(records: Rows, kind: str, convert: Callable[[Values, str, str], T]) -> Iterator[T | Problem]:
    for record in records:
        if isinstance(record, Problem):
            yield record
            continue
        try:
            cases = list(formats.instances(record.values, kind))
        except RowError as error:
            yield Problem(record.file, record.line, str(error))
            continue
        for values in cases:
            try:
                yield convert(values, kind, f"{record.file}:{record.line}")
            except RowError as error:
                yield Problem(record.file, record.line, str(error))


def _detected(file: str, records: Rows, known: Formats) -> tuple[str, Rows]:
    """The format of a file, from the columns of its first rows, and all its rows again."""
    head: list[Row | Problem] = []
    columns: dict[str, None] = {}
    found = 0
    for record in records:
        head.append(record)
        if isinstance(record, Row):
            columns |= dict.fromkeys(record.values)
            found += 1
        if found == _DETECTION_ROWS:
            break
    if not found:
        return "", iter(head)
    try:
        kind = formats.detect(columns, known)
    except RowError as error:
        advice = "; ".join(f"{name} ({', '.join(needed)})" for name, needed in known.items())
        if known is formats.DEMONSTRATIONS and "text" in columns:
            advice = "A text column is for pre-training (accord pretrain). Demonstrations are: " + advice
        elif known is formats.DEMONSTRATIONS and {"chosen", "rejected"} <= set(columns):
            advice = "Pairs are for the reward model and for DPO. Demonstrations are: " + advice
        else:
            advice = f"{formats.what_for(columns)}Known here: {advice}"
        raise DataError(f"{file}: {error}. Columns found: {', '.join(columns)}. {advice}.") from None
    return kind, itertools.chain(head, records)


def _check_length(messages: Messages, answer: int, max_chars: int | None) -> None:
    if max_chars is not None and sum(len(m.content) for m in messages) + answer > max_chars:
        raise RowError(f"too long (more than {max_chars:,} characters)")


def _places(problems: list[Problem], one_file: bool) -> str:
    shown = [str(p.line) if one_file else f"{p.file}:{p.line}" for p in problems[:3]]
    if len(problems) > len(shown):
        shown.append("…")
    text_file = problems[0].file.lower().removesuffix(".gz").endswith(containers.TEXT_SUFFIXES)
    word = ("line" if text_file else "row") + ("s" if len(problems) > 1 else "")
    return f"{word} {', '.join(shown)}" if one_file else ", ".join(shown)
