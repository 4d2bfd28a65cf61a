"""The JSON API of judging: lease, answer, skip, undo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy import Connection

from accord.errors import LedgerError
from accord.feedback.sprt import is_decided
from accord.ledger import adjudication, answers, checks, projects, queue
from accord.ledger.accounts import Account
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.ledger.judging import Said
from accord.ledger.prepared import QUEUED, SETTLES
from accord.ledger.projects import Project
from accord.ledger.queue import later
from accord.ledger.rankings import MOST, WrongAnswerError
from accord.ledger.spans import MOST_SPANS
from accord.web.auth import Member, RefusedError, Site, caller, member_in, needs, not_found, site_of
from accord.web.body import Body
from accord.web.marking import SpanBody, located
from accord.web.questions import answered_question, shown_question

router = APIRouter(prefix="/api/v1", tags=["judging"])

LEASE_SECONDS = 900.0
LEASE = partial(checks.lease, decided=is_decided)
LONGEST_TEXT = 100_000
SKIP_REASONS = Literal["cannot-judge", "unclear", "language", "disturbing", "other"]

Judge = Annotated[Member, Depends(needs("judge"))]
Rater = Annotated[Account, Depends(caller("judge"))]
Name = Annotated[str, Field(min_length=1, max_length=40)]


class LeaseBody(Body):
    want: int = Field(2, ge=1, le=5, description="questions to hold, those held already included")


class EditBody(Body):
    position: int = Field(ge=0, lt=MOST)
    text: str = Field(min_length=1, max_length=LONGEST_TEXT)


class JudgementBody(Body):
    strength: int | None = Field(
        None, ge=-3, le=3, description="of a pair; 3: left much better, 0: equal, -3: right much better"
    )
    ranks: list[Annotated[int, Field(ge=1, le=MOST)]] | None = Field(
        None, max_length=MOST, description="of a ranking: each displayed answer's place; equal ones are tied"
    )
    seconds: float = Field(ge=0, le=86_400, allow_inf_nan=False, description="active time")
    key: str = Field(min_length=8, max_length=100, description="the same for every retry of one answer")
    both_bad: bool = False
    revises: str | None = Field(None, max_length=64)
    flags: list[list[Name]] = Field([], max_length=MOST)
    ratings: dict[Name, list[int | None]] = Field({}, max_length=20)
    comment: str = Field("", max_length=LONGEST_TEXT)
    edit: EditBody | None = None
    spans: list[SpanBody] = Field([], max_length=MOST_SPANS)

    def answered(self) -> Said:
        if self.strength is not None and self.ranks is None:
            return self.strength
        if self.ranks is not None and self.strength is None:
            return self.ranks
        raise RefusedError(422, "invalid", "give a pair's strength, or a ranking's ranks, and not both")

    def beside(self) -> Beside:
        return Beside(
            both_bad=self.both_bad,
            flags=tuple(tuple(flags) for flags in self.flags),
            ratings={name: tuple(values) for name, values in self.ratings.items()},
            comment=self.comment,
            edit=(self.edit.position, self.edit.text) if self.edit else None,
        )


class SkipBody(Body):
    reason: SKIP_REASONS


class UndoBody(Body):
    before: str | None = Field(None, max_length=64)


def progress_of(
    connection: Connection, project: Project, account: Account, *, settling: bool = False
) -> dict[str, int]:
    if settling:
        return asdict(adjudication.progress(connection, project, account.annotator_id))
    return asdict(projects.progress(connection, project.id, account.annotator_id, project.rates))


def lease_questions(site: Site, who: Member, want: int, *, settling: bool = False) -> dict[str, Any]:
    """The questions that this rater holds, and new ones up to `want`; with `settling` to adjudicate."""
    project, account = who.project, who.account
    if project.state == "paused":
        raise RefusedError(409, "paused", "this project is paused; come back later")
    with site.ledger.writing() as connection:
        now = utc_now()
        rater = queue.find_rater(connection, account.annotator_id)
        purposes = SETTLES if settling else QUEUED
        found = queue.held(connection, rater, project.id, now, seconds=LEASE_SECONDS, purposes=purposes)
        if (missing := want - len(found)) > 0:
            new = adjudication.lease if settling else LEASE
            found += new(connection, rater, project, now, limit=missing, seconds=LEASE_SECONDS, seed=None)
        expires_at = later(now, LEASE_SECONDS)
    with site.ledger.reading() as connection:  # rendering takes time, and others want to write
        return {
            "questions": [shown_question(connection, each, project, expires_at=expires_at) for each in found],
            "progress": progress_of(connection, project, account, settling=settling),
        }


@router.post("/projects/{project_id}/lease")
def lease(request: Request, who: Judge, body: LeaseBody) -> dict[str, Any]:
    """The questions that you hold, and new ones up to `want`."""
    return lease_questions(site_of(request), who, body.want)


def my_assignment(site: Site, account: Account, assignment_id: str) -> tuple[str, bool, Project]:
    """The state of an assignment of this rater, whether it settles, and its project. Raises RefusedError."""
    with site.ledger.reading() as connection:
        found = queue.whose(connection, assignment_id)
        if found is None or found[0] != account.annotator_id:
            raise not_found("this question")
        _, state, purpose, project_id = found
        if project_id is None:
            raise not_found("this question")
        permission = "adjudicate" if purpose in SETTLES else "judge"
        return state, purpose in SETTLES, member_in(connection, account, project_id, permission).project


@router.post("/assignments/{assignment_id}/judgement")
def judge(request: Request, account: Rater, assignment_id: str, body: JudgementBody) -> dict[str, Any]:
    """Answer a question, in displayed positions; the same `key` again gives the same reply."""
    site, answered = site_of(request), body.answered()
    _, settling, project = my_assignment(site, account, assignment_id)
    said = body.beside()
    if body.spans:
        with site.ledger.reading() as connection:
            said = replace(said, spans=located(connection, assignment_id, project.id, body.spans))
    _check_form(said, answered, project)
    with _fitting(), site.ledger.writing() as connection:
        judged = answers.record(
            connection,
            assignment_id,
            answered,
            said,
            seconds=body.seconds,
            idempotency_key=f"{account.id}:{body.key}",
            revises=body.revises,
            now=utc_now(),
        )
        progress = progress_of(connection, project, account, settling=settling)
    return {"judgement": judged.id, "revision": judged.revision, "progress": progress}


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except WrongAnswerError as error:
        raise RefusedError(422, "invalid", str(error)) from None


def _check_form(said: Beside, answered: Said, project: Project) -> None:
    """Only what the project asks for, so that no row holds names that a rater made up."""
    try:
        answers.check(said, answered)
    except LedgerError as error:
        raise RefusedError(422, "invalid", str(error)) from None
    asked_flags = project.form.get("flags", [])
    asked_ratings = project.form.get("attributes", [])
    if unknown := {f for flags in said.flags for f in flags} - set(asked_flags):
        raise RefusedError(422, "invalid", f"this project does not ask for the flag {min(unknown)!r}")
    if unknown := set(said.ratings) - set(asked_ratings):
        raise RefusedError(422, "invalid", f"this project does not ask for ratings of {min(unknown)!r}")
    beside = {"comment": said.comment, "edit": said.edit, "both_bad": said.both_bad, "spans": said.spans}
    for name, given in beside.items():
        if given and not project.form.get(name, False):
            raise RefusedError(422, "invalid", f"this project does not ask for {name!r}")


@router.post("/assignments/{assignment_id}/skip")
def skip(request: Request, account: Rater, assignment_id: str, body: SkipBody) -> dict[str, Any]:
    """Give a question back; its place goes to somebody else. Repeating it is harmless."""
    site = site_of(request)
    state, settling, project = my_assignment(site, account, assignment_id)
    with site.ledger.writing() as connection:
        if state != "skipped":
            queue.skip(connection, assignment_id, body.reason, utc_now())
        progress = progress_of(connection, project, account, settling=settling)
    return {"progress": progress}


@router.post("/projects/{project_id}/undo")
def undo(request: Request, who: Judge, body: UndoBody) -> dict[str, Any]:
    """Your last answer (or the one before `before`) with its question, to be revised."""
    return earlier_answer(site_of(request), who, body.before)


def earlier_answer(site: Site, who: Member, before: str | None, *, settling: bool = False) -> dict[str, Any]:
    purposes = SETTLES if settling else QUEUED
    with site.ledger.reading() as connection:
        mine = projects.my_judgements(
            connection, who.project.id, who.account.annotator_id, before=before, purposes=purposes
        )
        if not mine:
            raise RefusedError(404, "not_found", "there is no earlier answer of yours")
        return {"question": answered_question(connection, mine[0], who.project)}
