"""A question as a rater's page gets it: blind, in displayed order, as safe HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, select

from accord.ledger import answers, judging, queue, rankings
from accord.ledger.media import references, types_in
from accord.ledger.projects import Project
from accord.ledger.queue import Assignment
from accord.ledger.schema import assignment
from accord.ledger.team_schema import project_guideline
from accord.web.render import LONGEST_MARKDOWN, NO_MEDIA, Media, render_text
from accord.web.transcript import quoted

FLAGS = ("unsafe", "false", "off-topic", "leaks-identity")
ATTRIBUTES = ("helpful", "honest", "harmless")
DEFAULT_FORM = {
    "flags": list(FLAGS),
    "attributes": [],
    "live": False,  # talks with policies, where the server has some
    "comment": True,
    "edit": True,
    "both_bad": True,
    "cannot_judge": True,
    "spans": True,
}


NEW_FORM = DEFAULT_FORM | {"checks": {"gold": 0.1, "repeat": 0.05}}  # of projects that are made in the app


def form_of(project: Project) -> dict[str, Any]:
    """What is asked beside the preference. Projects older than the marking of passages do not ask for it."""
    return DEFAULT_FORM | {"spans": False} | dict(project.form)


@lru_cache(maxsize=512)
def _kept_html(text: str, media: Media) -> str:
    return str(render_text(text, media=media))


def media_in(connection: Connection, project_id: str, texts: Iterable[str]) -> Media:
    """What a project's pages may show of the media that texts name."""
    if not (named := references(texts)):
        return NO_MEDIA
    types = types_in(connection, project_id, named)
    return Media(f"/projects/{project_id}/media/", tuple(sorted(types.items())))


def html_of(text: str, media: Media = NO_MEDIA) -> str:
    """As `render_text`. Each lease shows held questions again, and hostile Markdown can take a second."""
    kept = len(text) <= LONGEST_MARKDOWN
    return _kept_html(text, media) if kept else str(render_text(text, media=media))


def shown_question(
    connection: Connection,
    found: Assignment,
    project: Project,
    *,
    expires_at: str | None = None,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Nothing here may tell which slot an answer stands in, or which model gave it."""
    expires = select(assignment.c.lease_expires_at).where(assignment.c.id == found.id)
    texts = [found.group.completions[slot].text for slot in found.shown]
    turns = found.group.prompt.messages
    media = media_in(connection, project.id, [*texts, *(turn.content for turn in turns)])
    return {
        "assignment": found.id,
        "kind": "pair" if len(texts) == 2 else "ranking",
        "prompt": [shown_turn(m.role, m.content, media) for m in turns],
        "answers": [{"position": i, "text": t, "html": html_of(t, media)} for i, t in enumerate(texts)],
        "guideline": guideline_number(connection, project, found.guideline),
        "expires_at": expires_at or connection.execute(expires).scalar(),
        "earlier": earlier,
    }


def told_span(span: Mapping[str, Any], text: str, media: Media) -> dict[str, Any]:
    """A marked passage as pages speak of it: by what it reads like, not by where it stands."""
    quote, occurrence = quoted(text, span["start"], span["end"], media)
    kept = {name: span[name] for name in ("position", "label", "note")}
    return kept | {"quote": quote, "occurrence": occurrence}


def shown_turn(role: str, content: str, media: Media = NO_MEDIA) -> dict[str, str]:
    return {"role": role, "text": content, "html": html_of(content, media)}


def guideline_number(connection: Connection, project: Project, guideline_id: str) -> int | None:
    """The newest version with this text; None where the project never had it."""
    if guideline_id == project.guideline_id:
        return project.guideline_n
    mine = (project_guideline.c.project_id == project.id) & (project_guideline.c.guideline_id == guideline_id)
    return connection.execute(select(func.max(project_guideline.c.n)).where(mine)).scalar()


def answered_question(connection: Connection, judgement_id: str, project: Project) -> dict[str, Any]:
    """A question that was answered, with that answer in displayed positions."""
    judged = judging.read_judgements(connection, ids=[judgement_id])[0]
    found, _, _ = queue.find_assignment(connection, judging.assignment_of(connection, judgement_id) or "")
    parts = answers.read_answers(connection, [judgement_id]).get(judgement_id, [])
    said = asdict(answers.from_parts(parts, found.shown))
    if said["edit"] is not None:
        said["edit"] = {"position": said["edit"][0], "text": said["edit"][1]}
    texts = [found.group.completions[slot].text for slot in found.shown]
    media = media_in(connection, project.id, texts)
    said["spans"] = [told_span(span, texts[span["position"]], media) for span in said["spans"]]
    answered: dict[str, Any] = {"strength": judging.canonical_strength(judged.strength, found.shown)}
    if judged.ranks:
        answered = {"ranks": rankings.as_displayed(judged.ranks, found.shown)}
    earlier = {"judgement": judgement_id, **answered, **said}
    return shown_question(connection, found, project, earlier=earlier)
