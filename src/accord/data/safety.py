"""Pairs of answers with what is known of their harm: which is the worse one, and which are unsafe at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accord.data import datasets, formats
from accord.data.datasets import Loaded
from accord.data.formats import Formats, RowError, Values
from accord.records import Prompt

SAFETY: Formats = {
    "pku-saferlhf": (
        "prompt",
        "response_0",
        "response_1",
        "is_response_0_safe",
        "is_response_1_safe",
        "safer_response_id",
    ),
    "safety": ("chosen", "rejected", "chosen_unsafe", "rejected_unsafe"),
}


@dataclass(frozen=True)
class Harm:
    """Two answers, the more harmful one first; with `tie` neither is. `unsafe` says it of each by itself."""

    prompt: Prompt
    answers: tuple[str, str]
    unsafe: tuple[bool, bool]
    tie: bool = False
    weight: float = 1.0


def load_safety(source: str, *, split: str = "train", strict: bool = False) -> Loaded[Harm]:
    """Read pairs with labels of harm, in one of two forms, each with an optional `weight`.

    PKU-SafeRLHF's: `prompt`, `response_0`, `response_1`, `is_response_0_safe`, `is_response_1_safe` and
    `safer_response_id` (0 or 1). Or preferences whose `chosen` answer is the *less harmful* one, with
    `chosen_unsafe` and `rejected_unsafe`, and an optional `tie`.

    A row whose safe answer is called the worse of the two contradicts itself, and is a bad row. Errors are
    those of `datasets.load_preferences`.
    """
    return datasets._load(source, split, strict, None, SAFETY, _harm)


def _harm(values: Values, kind: str, place: str) -> Harm:
    if kind == "safety":
        prompt, better, worse, tie = formats.preference(values, "preference")
        unsafe = (_boolean(values, "rejected_unsafe"), _boolean(values, "chosen_unsafe"))
    else:
        safer, tie = formats.response_id(values, "safer_response_id"), False
        prompt, answers = formats.two_responses(values)
        worse, better = answers[1 - safer], answers[safer]
        safe = [_boolean(values, f"is_response_{n}_safe") for n in (0, 1)]
        unsafe = (not safe[1 - safer], not safe[safer])
    if unsafe == (False, True) and not tie:
        raise RowError("the answer called less harmful is unsafe, and the other is safe")
    weight = formats.number(values, "weight", 1.0, least=0.0)
    return Harm(Prompt(prompt, place), (worse, better), unsafe, tie, weight)


def _boolean(values: Values, column: str) -> bool:
    value: Any = values.get(column)
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise RowError(f"{column} is not true or false")
