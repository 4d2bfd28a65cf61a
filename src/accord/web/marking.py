"""Passages of answers that raters mark: from what they selected on the page to places in the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from sqlalchemy import Connection

from accord.ledger import queue
from accord.ledger.spans import Span
from accord.web.auth import RefusedError
from accord.web.body import Body
from accord.web.questions import media_in
from accord.web.render import Media
from accord.web.transcript import locate

LONGEST_QUOTE = 5_000
SHOWN_QUOTE = 60


class SpanBody(Body):
    position: int = Field(ge=0, le=25, description="the answer's displayed position")
    quote: str = Field(min_length=1, max_length=LONGEST_QUOTE, description="the passage as the page shows it")
    occurrence: int = Field(0, ge=0, le=200_000, description="how many like it begin before it")
    label: Literal["good", "bad"]
    note: str = Field("", max_length=LONGEST_QUOTE)


def located(
    connection: Connection, assignment_id: str, project_id: str, marks: Sequence[SpanBody]
) -> tuple[Span, ...]:
    """Each passage where it stands in its answer's text. Raises RefusedError when it is not there."""
    if not marks:
        return ()
    found, _, _ = queue.find_assignment(connection, assignment_id)
    texts = [found.group.completions[slot].text for slot in found.shown]
    media = media_in(connection, project_id, texts)
    return tuple(_located(mark, texts, media) for mark in marks)


def _located(mark: SpanBody, texts: Sequence[str], media: Media) -> Span:
    if mark.position >= len(texts):
        raise RefusedError(422, "invalid", f"there is no answer at position {mark.position} to mark")
    place = locate(texts[mark.position], mark.quote, mark.occurrence, media)
    if place is None:
        quote = mark.quote if len(mark.quote) <= SHOWN_QUOTE else f"{mark.quote[:SHOWN_QUOTE]}…"
        which = f", {mark.occurrence + 1} times," if mark.occurrence else ""
        raise RefusedError(
            422,
            "invalid",
            f"answer {'AB'[mark.position] if mark.position < 2 else mark.position + 1} does not hold{which} "
            f"the marked passage {quote!r}; mark it again",
        )
    return Span(mark.position, *place, mark.label, mark.note.strip())
