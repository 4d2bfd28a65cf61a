"""Answers that were ranked, scored, or judged step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accord.data import datasets, formats
from accord.data.datasets import Loaded
from accord.data.formats import Formats, RowError, Values
from accord.records import Prompt

RANKINGS: Formats = {
    "ranking": ("prompt", "completions", "ranking"),
    "scores": ("prompt", "completions", "scores"),
}
SCORES: Formats = {
    "scores": ("prompt", "completions", "scores"),
    "score": ("prompt", "completion", "score"),
}
STEPWISE: Formats = {"stepwise": ("prompt", "completions", "labels")}


@dataclass(frozen=True)
class Graded:
    """A prompt's answers (or an answer's steps) with a number for each: a rank, a score, or P(right)."""

    prompt: Prompt
    completions: tuple[str, ...]
    grades: tuple[float, ...]
    weight: float = 1.0


def load_rankings(source: str, *, split: str = "train", strict: bool = False) -> Loaded[Graded]:
    """Read rankings: `prompt`, `completions`, and `ranking` (1 the best; equal numbers are ties) or `scores`,
    which are ranked, highest first. Answers with null were not ranked and are left out.

    Errors are those of `datasets.load_preferences`.
    """
    return datasets._load(source, split, strict, None, RANKINGS, _ranking)


def load_scores(source: str, *, split: str = "train", strict: bool = False) -> Loaded[Graded]:
    """Read scores: `prompt` with `completions` and `scores` (null: none), or `completion` and `score`."""
    return datasets._load(source, split, strict, None, SCORES, _scores)


def load_steps(source: str, *, split: str = "train", strict: bool = False) -> Loaded[Graded]:
    """Read TRL's stepwise supervision: `prompt`, `completions` (the steps of one answer) and `labels`.

    A label is true or false, or the probability that the step is right.
    """
    return datasets._load(source, split, strict, None, STEPWISE, _steps)


def _ranking(values: Values, kind: str, place: str) -> Graded:
    found = _graded(values, kind, place)
    if len(found.completions) < 2:
        raise RowError(f"fewer than two answers with a {kind.removesuffix('s')}")
    if len(set(found.completions)) < len(found.completions):
        raise RowError("the same answer stands twice in one ranking")
    if kind == "ranking":
        return found
    order = sorted(set(found.grades), reverse=True)
    ranks = tuple(float(order.index(grade) + 1) for grade in found.grades)
    return Graded(found.prompt, found.completions, ranks, found.weight)


def _scores(values: Values, kind: str, place: str) -> Graded:
    if kind == "score":
        values = {**values, "completions": [values.get("completion")], "scores": [values.get("score")]}
    return _graded(values, "scores", place)


def _graded(values: Values, column: str, place: str) -> Graded:
    answers, grades = _columns(values, "completions", column)
    texts = [_text(answer) for answer in answers]
    kept = [(text, _number(g, column)) for text, g in zip(texts, grades, strict=True) if g is not None]
    if not kept:
        raise RowError(f"{column} has no number")
    return _made(values, place, [text for text, _ in kept], [grade for _, grade in kept])


def _steps(values: Values, kind: str, place: str) -> Graded:
    steps, labels = _columns(values, "completions", "labels")
    return _made(values, place, [_text(step) for step in steps], [_chance(label) for label in labels])


def _made(values: Values, place: str, texts: Sequence[str], grades: Sequence[float]) -> Graded:
    prompt = Prompt(formats.prompt_part(values, "prompt"), place)
    weight = formats.number(values, "weight", 1.0, least=0.0)
    return Graded(prompt, tuple(texts), tuple(grades), weight)


def _columns(values: Values, first: str, second: str) -> tuple[list[Any], list[Any]]:
    found = []
    for column in (first, second):
        value = values.get(column)
        if not isinstance(value, list) or not value:
            raise RowError(f"{column} is not a list with something in it")
        found.append(value)
    if len(found[0]) != len(found[1]):
        raise RowError(f"{first} and {second} differ in length: {len(found[0])} and {len(found[1])}")
    return found[0], found[1]


def _text(value: Any) -> str:
    """One of the completions: text, or a conversation of the assistant's one turn."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str) or not value.strip():
        raise RowError("completions holds something that is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError("completions is not valid UTF-8") from None
    return value


def _number(value: Any, column: str) -> float:
    return formats.number({column: value}, column, 0.0)


def _chance(value: Any) -> float:
    if isinstance(value, bool):
        return float(value)
    chance = _number(value, "labels") if value is not None else -1.0
    if not 0 <= chance <= 1:
        raise RowError("labels holds something that is neither true, false nor a probability")
    return chance
