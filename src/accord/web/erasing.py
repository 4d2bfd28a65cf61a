"""Erasing questions and media of a project at somebody's request: a photo, a letter, a whole import."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy import Connection, select

from accord.ledger import erasure, talks
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.ledger.erasure import Erased
from accord.ledger.prepared import LIVE_TALK
from accord.ledger.schema import assignment, item, judgement
from accord.ledger.team_schema import project_item
from accord.web.api_account import prove
from accord.web.auth import RefusedError, member, not_found, signed_in, site_of
from accord.web.body import Body

router = APIRouter(prefix="/api/v1", tags=["erasing"])

SignedIn = Annotated[Account, Depends(signed_in)]


class ErasureBody(Body):
    reason: str = Field("", max_length=1000, description="the name under which questions came in")
    judgement: str = Field("", max_length=64, description="the question that it answers")
    medium: str = Field("", max_length=64, description="SHA-256 of a file, and every question that shows it")
    password: str = Field(max_length=1000)


@router.post("/projects/{project_id}/erasures")
def erase(request: Request, account: SignedIn, project_id: str, body: ErasureBody) -> dict[str, Any]:
    """Erase questions with their texts and media, and what was written about them. There is no way back.

    Their judgements count no longer; releases that hold some are listed under withdrawals.
    """
    site = site_of(request)
    project = member(site, account, project_id, "manage").project.id
    prove(request, account, body.password)
    if sum(map(bool, (body.reason, body.judgement, body.medium))) != 1:
        raise RefusedError(422, "invalid", "say one of reason, judgement, medium")
    with site.ledger.writing() as connection:
        now = utc_now()
        if body.medium:
            done = erasure.erase_medium(connection, project, body.medium, now, actor=account.pseudonym)
            if done is None:
                raise not_found("this medium")
        else:
            done = _erase_questions(connection, project, body, now, account.pseudonym)
    site.ledger.compact()
    return asdict(done)


def _erase_questions(connection: Connection, project: str, body: ErasureBody, now: str, actor: str) -> Erased:
    found = select(item.c.id, item.c.reason).join(project_item).where(project_item.c.project_id == project)
    if body.judgement:
        answered = select(assignment.c.item_id).join(judgement).where(judgement.c.id == body.judgement)
        found = found.where(item.c.id.in_(answered))
    else:
        found = found.where(item.c.reason == body.reason)
    rows = connection.execute(found).all()
    if not rows:
        raise not_found("a question like that")
    said = {row.reason.removeprefix(LIVE_TALK).split()[0] for row in rows if row.reason.startswith(LIVE_TALK)}
    if said:  # a talk goes as a whole: each of its turns holds those before
        return talks.erase(connection, said, now, actor=actor)
    return erasure.erase_items(connection, [row.id for row in rows], now, actor=actor)
