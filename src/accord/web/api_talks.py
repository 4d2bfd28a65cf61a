"""Talks with the project's own policies: at each turn two blind answers, a judgement, and on from the better.

The judgement itself goes through the route of all judgements.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse

from accord.ledger import projects, queue, talks
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.ledger.projects import Project
from accord.ledger.talks import MOST_TURNS, Talk, Turn
from accord.records import Message, Prompt
from accord.web.api_rater import LEASE_SECONDS
from accord.web.auth import Member, RefusedError, Site, caller, member_in, needs, not_found, site_of
from accord.web.body import Body, ErrorReply
from accord.web.policies import Drawn, Policies, SpeechError, Wish
from accord.web.questions import form_of, shown_question, shown_turn
from accord.web.render import render_text
from accord.web.templating import page

api = APIRouter(prefix="/api/v1", tags=["talking"])
shown = APIRouter(include_in_schema=False)

LONGEST_MESSAGE = 4000
LONGEST_OPENING = 2000
CONSENT = (
    "What you write is stored as you write it, with both answers and your judgement, under your pseudonym.",
    "It is used to train and to test models. Whoever manages this project can read it.",
    "You can have it erased: take back what you wrote (page Account), and your messages, the answers to them "
    "and what you said about them leave this ledger and every later export and release. Copies made before, "
    "and models trained on them, stay as they are.",
    "So write nothing that tells who you or others are.",
)

Judge = Annotated[Member, Depends(needs("judge"))]
JudgeReads = Annotated[Member, Depends(needs("judge", "read"))]
Rater = Annotated[Account, Depends(caller("judge"))]
Reader = Annotated[Account, Depends(caller("read"))]
BUSY: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorReply, "description": "no answer now; wait as long as the header Retry-After says"}
}


class TalkBody(Body):
    opening: str = Field("", max_length=LONGEST_OPENING, description="instructions to the policy, or nothing")
    consent: bool = Field(False, description="the rater agrees to what GET .../talks says under consent")


class TurnBody(Body):
    text: str = Field(min_length=1, max_length=LONGEST_MESSAGE, pattern=r"\S")
    key: str = Field(pattern=r"^[\w-]{8,64}$", description="the same for every retry of one message")


def policies_for(site: Site, project: Project) -> Policies:
    """The policies that a project's raters talk with. Raises RefusedError where there are none."""
    if site.policies is None or not project.form.get("live", False):
        raise RefusedError(404, "not_found", "this project has no talks with models")
    return site.policies


def open_talk(connection: Connection, account: Account, talk_id: str) -> tuple[Talk, Project]:
    """A talk of this rater. Raises RefusedError."""
    talk = talks.find(connection, talk_id)
    if talk is None or talk.annotator_id != account.annotator_id:
        raise not_found("this talk")
    return talk, member_in(connection, account, talk.project_id, "judge").project


def talk_state(site: Site, account: Account, talk_id: str) -> dict[str, Any]:
    """The conversation, the question that waits for a judgement, and the message that waits for answers."""
    with site.ledger.reading() as connection:
        talk, project = open_talk(connection, account, talk_id)
        past = talks.turns(connection, talk)
        last = past[-1] if past else None
        question = None if last is None or last.said is not None else _question(connection, project, last)
        said = talks.conversation(connection, talk, last)
    return {
        "talk": talk.id,
        "began_at": talk.began_at,
        "history": [shown_turn(message.role, message.content) for message in said],
        "turns": len(past),
        "turns_left": max(MOST_TURNS - len(past), 0),
        "question": question,
        "pending": _pending(policies_for(site, project), account, talk.id),
    }


def _question(connection: Connection, project: Project, turn: Turn) -> dict[str, Any]:
    found, _, _ = queue.find_assignment(connection, turn.assignment_id)
    return shown_question(connection, found, project)


def _pending(policies: Policies, account: Account, talk_id: str) -> dict[str, Any] | None:
    wish = policies.wish_of(account.id)
    if wish is None or wish.talk != talk_id:
        return None
    return {**shown_turn("user", wish.text), "key": wish.key, **policies.place(wish)}


@api.get("/projects/{project_id}/talks")
def list_talks(request: Request, who: JudgeReads) -> dict[str, Any]:
    """Your newest talks, and what you agree to when you begin one."""
    policies_for(site_of(request), who.project)
    with site_of(request).ledger.reading() as connection:
        found = talks.talks_of(connection, who.project.id, who.account.annotator_id)
    return {"talks": found, "consent": list(CONSENT)}


@api.post("/projects/{project_id}/talks")
def begin(request: Request, who: Judge, body: TalkBody) -> dict[str, str]:
    """Begin a talk; the opening, if there is one, instructs the policy."""
    policies_for(site_of(request), who.project)
    _check_open(who.project)
    if not body.consent:
        raise RefusedError(422, "consent", "agree first to what happens with what you write (consent: true)")
    with site_of(request).ledger.writing() as connection:
        talk_id = talks.begin(
            connection,
            who.project.id,
            who.account.annotator_id,
            opening=body.opening.strip(),
            consent=" ".join(CONSENT),
            now=utc_now(),
        )
    return {"talk": talk_id}


def _check_open(project: Project) -> None:
    if project.state == "paused":
        raise RefusedError(409, "paused", "this project is paused; come back later")


@api.get("/talks/{talk_id}")
def read_talk(request: Request, account: Reader, talk_id: str) -> dict[str, Any]:
    """A talk of yours as it stands, with the question that is open, if one is."""
    return talk_state(site_of(request), account, talk_id)


@api.post("/talks/{talk_id}/turns", responses=BUSY)
async def add_turn(request: Request, account: Rater, talk_id: str, body: TurnBody) -> dict[str, Any]:
    """Say something; the reply is a question with two answers to it. It takes as long as the models do."""
    site = site_of(request)
    policies, wish = await run_in_threadpool(_wish, site, account, talk_id, body)
    if isinstance(wish, dict):
        return wish
    try:
        reply: dict[str, Any] = await asyncio.wrap_future(policies.ask(wish))
    except SpeechError as error:
        status = 503 if error.code == "unavailable" else 409
        raise RefusedError(status, error.code, error.message, retry_after=error.retry_after) from None
    return reply


def _wish(
    site: Site, account: Account, talk_id: str, body: TurnBody
) -> tuple[Policies, Wish | dict[str, Any]]:
    """What the rater waits for; the question itself where this message has its answers already."""
    with site.ledger.reading() as connection:
        talk, project = open_talk(connection, account, talk_id)
        policies = policies_for(site, project)
        past = talks.turns(connection, talk)
        last = past[-1] if past else None
        if last is not None and last.said is None:
            if last.key != body.key:
                raise RefusedError(409, "conflict", "judge the two answers first; then the talk goes on")
            return policies, _question(connection, project, last)
        _check_open(project)
        if any(turn.key == body.key for turn in past):
            raise RefusedError(
                409, "conflict", "this message has been answered and judged; load the page again"
            )
        if len(past) >= MOST_TURNS:
            raise RefusedError(409, "conflict", f"a talk has {MOST_TURNS} turns at most; begin another one")
        messages = (*talks.conversation(connection, talk, last), Message("user", body.text))
    prompt, turn = Prompt(messages, source="live talk", tags=("live",)), len(past) + 1
    keep = partial(_keep, site, talk, (turn, body.key, prompt))
    return policies, Wish(account.id, talk.id, body.key, turn, body.text, prompt, keep)


def _keep(site: Site, talk: Talk, turn: tuple[int, str, Prompt], drawn: Drawn) -> dict[str, Any]:
    with site.ledger.writing() as connection:
        project = projects.find_project(connection, talk.project_id)
        assert project is not None
        given = (drawn.completions, drawn.base_models)
        found = talks.add_turn(connection, talk, project, turn, given, seconds=LEASE_SECONDS, now=utc_now())
    with site.ledger.reading() as connection:
        return shown_question(connection, found, project)


@api.delete("/talks/{talk_id}/turns")
def cancel(request: Request, account: Rater, talk_id: str) -> dict[str, bool]:
    """Do not wait for answers any more; false where there was nothing to wait for."""
    site = site_of(request)
    with site.ledger.reading() as connection:
        talk, project = open_talk(connection, account, talk_id)
    return {"cancelled": policies_for(site, project).cancel(account.id, talk.id)}


@shown.get("/projects/{project_id}/talk")
def talk_page(request: Request, who: Judge, talk: Annotated[str, Query(max_length=64)] = "") -> HTMLResponse:
    site = site_of(request)
    policies_for(site, who.project)
    state = talk_state(site, who.account, talk) if talk else None
    with site.ledger.reading() as connection:
        if talk and open_talk(connection, who.account, talk)[1].id != who.project.id:
            raise not_found("this talk")
        newest = projects.guidelines(connection, who.project.id)[0]
        mine = talks.talks_of(connection, who.project.id, who.account.annotator_id)
    guideline = {"id": newest.id, "n": newest.n, "html": str(render_text(newest.text, wrapped=True))}
    return page(
        request,
        "talk.html",
        who=who,
        form=form_of(who.project),
        settling=False,
        guideline=guideline,
        boot={"state": state, "turns": MOST_TURNS},
        talks=mine,
        consent=CONSENT,
        longest={"message": LONGEST_MESSAGE, "opening": LONGEST_OPENING},
    )
