"""Passages of an answer that a rater marked: where they are in its text, good or bad, and why.

A passage is a row of `answer`: the key says the label and the place, in code points of the text as the model
wrote it, and the body is the rater's note. So the place outlives a note that is withdrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accord.errors import LedgerError

SPAN = "span:"
LABELS = ("good", "bad")
MOST_SPANS = 50


@dataclass(frozen=True)
class Span:
    """About the answer at a displayed position, or in a slot, from `start` to before `end`."""

    position: int
    start: int
    end: int
    label: str
    note: str = ""

    @property
    def key(self) -> str:
        return f"{SPAN}{self.label}:{self.start}:{self.end}"


def read_key(position: int, key: str, note: str) -> Span:
    """The inverse of `Span.key`."""
    label, start, end = key.removeprefix(SPAN).split(":")
    return Span(position, int(start), int(end), label, note)


def check_spans(spans: Sequence[Span], slots: int) -> None:
    if len(spans) > MOST_SPANS:
        raise LedgerError(f"at most {MOST_SPANS} passages can be marked, not {len(spans)}")
    places = [(span.position, span.start, span.end) for span in spans]
    if len(set(places)) < len(places):
        raise LedgerError("a passage is marked twice; mark it once, as good or as bad")
    for span in spans:
        if span.position not in range(slots) or span.label not in LABELS or not 0 <= span.start < span.end:
            raise LedgerError(
                f"a marked passage needs a displayed position below {slots}, a label, {' or '.join(LABELS)}, "
                f"and a start before its end; got {span.position}, {span.label!r}, {span.start}, {span.end}"
            )


def check_within(spans: Sequence[Span], texts: Sequence[str]) -> None:
    """`texts` by displayed position. Raises LedgerError for a passage beyond the end of its text."""
    for span in spans:
        if span.end > len(texts[span.position]):
            raise LedgerError(
                f"the passage from {span.start} to {span.end} is beyond the answer, which has "
                f"{len(texts[span.position])} characters"
            )
