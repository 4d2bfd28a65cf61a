"""Settling what raters disagree about: the same page and protocol as judging, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sqlalchemy import Connection
from starlette.responses import HTMLResponse

from accord.ledger import adjudication, judging
from accord.ledger.projects import Project
from accord.web import listing
from accord.web.api_rater import LeaseBody, UndoBody, earlier_answer, lease_questions
from accord.web.auth import Member, needs, site_of
from accord.web.pages import judging_page
from accord.web.templating import page

router = APIRouter(tags=["judging"])

Adjudicator = Annotated[Member, Depends(needs("adjudicate"))]
API = "/api/v1/projects/{project_id}/adjudication"


@router.post(f"{API}/lease")
def lease(request: Request, who: Adjudicator, body: LeaseBody) -> dict[str, Any]:
    """Questions about which raters disagree and which you have not judged: those you hold, and new ones."""
    return lease_questions(site_of(request), who, body.want, settling=True)


@router.post(f"{API}/undo")
def undo(request: Request, who: Adjudicator, body: UndoBody) -> dict[str, Any]:
    """The question that you settled last (or the one before `before`), to be revised."""
    return earlier_answer(site_of(request), who, body.before, settling=True)


@router.get("/projects/{project_id}/adjudicate", include_in_schema=False)
def adjudicate_page(request: Request, who: Adjudicator) -> HTMLResponse:
    return judging_page(request, who, settling=True)


@router.get("/projects/{project_id}/adjudicated", include_in_schema=False)
def adjudicated_page(request: Request, who: Adjudicator) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        rows = settled_rows(connection, who.project)
        waiting = adjudication.progress(connection, who.project, who.account.annotator_id).left
    return page(request, "adjudicated.html", who=who, rows=rows, waiting=waiting)


def settled_rows(connection: Connection, project: Project) -> list[dict[str, Any]]:
    """The newest adjudications, each with the votes and comments on which nobody agreed, by slot."""
    ids = adjudication.settled(connection, project.id)[: listing.PAGE_ROWS]
    settled = listing.judgement_rows(connection, project, ids)
    found = judging.read_judgements(connection, ids=ids)
    item_of = {judged.id: judged.item_id for judged in found}
    votes = judging.read_judgements(connection, item_ids=item_of.values())
    by_item = defaultdict[str, list[dict[str, Any]]](list)
    said = listing.judgement_rows(connection, project, [vote.id for vote in votes])
    for vote, row in zip(votes, said, strict=True):
        by_item[vote.item_id].append(row)
    taus = adjudication.alike(connection, project.id)
    return [
        row | {"votes": by_item[item_of[row["id"]]], "tau": taus.get(item_of[row["id"]])} for row in settled
    ]
