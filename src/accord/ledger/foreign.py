"""Preferences from other tools' exports: Argilla, Label Studio, UltraFeedback. Each row becomes pairs.

What a row said is not taken for a judgement of this ledger, which did not see it made: it is a question to
ask, or a known answer (`gold`). The shapes are those of Argilla 2's `to_json`, Label Studio's JSON export of
its Pairwise tag, and UltraFeedback's completions with ratings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from accord.errors import LedgerError
from accord.records import Preference, Prompt

PROMPTS = ("instruction", "prompt", "question", "input", "context")
STRONGEST = 3


TOOLS = {
    "argilla": ("fields", "responses"),
    "label-studio": ("data", "annotations"),
    "ultrafeedback": ("instruction", "completions"),
}


def tool_of(row: Mapping[str, Any]) -> str:
    """The tool that writes rows with these columns; "" when none of them does."""
    return next((tool for tool, columns in TOOLS.items() if row.keys() >= set(columns)), "")


def read_foreign(row: Mapping[str, Any], place: str, tool: str = "") -> list[Preference]:
    """The pairs of one row, which may be none. `place` is "file:line", `tool` a name of TOOLS.

    LedgerError when the row is of none of these tools, or not as `tool` writes it.
    """
    written_by = tool_of(row)
    if not written_by or tool not in ("", written_by):
        wanted = "; ".join(
            f"{name} ({', '.join(columns)})" for name, columns in TOOLS.items() if tool in ("", name)
        )
        raise LedgerError(f"{place}: no row of {wanted}; it has {', '.join(sorted(row)) or 'nothing'}")
    read = {"argilla": _argilla, "label-studio": _label_studio, "ultrafeedback": _ultrafeedback}[written_by]
    try:
        return list(read(row, place))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(
            f"{place}: the row is not as {written_by} writes it ({type(error).__name__}: {error})"
        ) from error


def _ultrafeedback(row: Mapping[str, Any], place: str) -> Iterator[Preference]:
    """Every two answers of unequal overall score; the margin is the difference, at most 3."""
    prompt = Prompt.of(str(row["instruction"]), source=place)
    scored = [
        (str(answer["response"]), float(answer["overall_score"]))
        for answer in row["completions"]
        if answer.get("overall_score") is not None
    ]
    for (first, a), (second, b) in combinations(scored, 2):
        if first != second:
            yield _ordered(prompt, first, second, a - b, place)


def _argilla(row: Mapping[str, Any], place: str) -> Iterator[Preference]:
    """Each submitted ranking, as its pairs; the margin is the difference of ranks, at most 3."""
    fields = {name: str(text) for name, text in row["fields"].items() if isinstance(text, str)}
    prompt = Prompt.of(_prompt_of(fields, place), source=place)
    for answers in row["responses"].values():
        for answer in answers:
            ranked = answer.get("value")
            submitted = answer.get("status", "submitted") == "submitted"
            if not (submitted and isinstance(ranked, list) and all(isinstance(r, Mapping) for r in ranked)):
                continue
            for one, other in combinations(ranked, 2):
                if one.get("rank") is None or other.get("rank") is None:
                    continue
                texts = [_field(fields, str(r["value"]), place) for r in (one, other)]
                if texts[0] != texts[1]:
                    yield _ordered(prompt, texts[0], texts[1], float(other["rank"] - one["rank"]), place)


def _label_studio(row: Mapping[str, Any], place: str) -> Iterator[Preference]:
    """Each answer of the Pairwise tag: `left` and `right` are its two names in the order of `to_name`."""
    fields = {name: str(text) for name, text in row["data"].items() if isinstance(text, str)}
    for annotation in row["annotations"]:
        for result in annotation.get("result", ()):
            if result.get("type") != "pairwise" or annotation.get("was_cancelled"):
                continue
            names = [name.strip() for name in str(result["to_name"]).split(",")]
            if len(names) != 2:
                raise LedgerError(f"{place}: a pairwise result compares two texts, not {result['to_name']!r}")
            left, right = (_field(fields, name, place) for name in names)
            prompt = Prompt.of(_prompt_of(fields, place), source=place)
            selected = result["value"]["selected"]
            if left != right and selected in ("left", "right"):
                yield _ordered(prompt, left, right, 1.0 if selected == "left" else -1.0, place)


def _ordered(prompt: Prompt, first: str, second: str, better: float, place: str) -> Preference:
    """`better` > 0: the first one is preferred, by that much."""
    chosen, rejected = (first, second) if better >= 0 else (second, first)
    margin = min(abs(better), float(STRONGEST))
    return Preference(prompt, chosen, rejected, margin, tie=better == 0, provenance=(place,))


def _prompt_of(fields: Mapping[str, str], place: str) -> str:
    for name in PROMPTS:
        if name in fields:
            return fields[name]
    raise LedgerError(f"{place}: no field is the prompt; one must be named {', '.join(PROMPTS)}")


def _field(fields: Mapping[str, str], name: str, place: str) -> str:
    if name not in fields:
        raise LedgerError(
            f"{place}: the answer speaks of {name!r}, which is no text of the row "
            f"({', '.join(sorted(fields))}); name the labelling tag as its data"
        )
    return fields[name]
