"""Queues per rater: which questions are kept for whom."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import HTMLResponse

from accord.ledger import reservations
from accord.ledger.database import utc_now
from accord.web.auth import Member, needs, not_found, site_of
from accord.web.body import Body
from accord.web.templating import page

router = APIRouter(tags=["queues"])

Manager = Annotated[Member, Depends(needs("manage"))]
ManagerReads = Annotated[Member, Depends(needs("manage", "read"))]
API = "/api/v1/projects/{project_id}/queues"


class QueueBody(Body):
    reason: str = Field(min_length=1, max_length=reservations.LONGEST, description="as questions came in")
    raters: list[Annotated[str, Field(max_length=64)]] = Field(max_length=1000, description="pseudonyms")
    others: Literal["never", "last"] = Field("never", description="when everybody else gets them")


@router.get("/projects/{project_id}/queues", include_in_schema=False)
def queues_page(request: Request, who: Manager) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        people = reservations.people(connection, who.project.id)
        reasons = reservations.reasons(connection, who.project.id)
    shown = [{"pseudonym": name, "login": about["login"]} for name, about in people.items()]
    return page(
        request, "queues.html", who=who, page="people", people=shown, reasons=reasons, **_queues(request, who)
    )


def _queues(request: Request, who: Member) -> dict[str, Any]:
    gold_apart = bool(who.project.rates.gold)
    with site_of(request).ledger.reading() as connection:
        return {"queues": reservations.queues(connection, who.project.id, gold_apart=gold_apart)}


@router.get(API)
def list_queues(request: Request, who: ManagerReads) -> dict[str, Any]:
    """What is kept for whom, how many questions wait there, and how many of them nobody can finish."""
    return _queues(request, who)


@router.post(API)
def keep(request: Request, who: Manager, body: QueueBody) -> dict[str, str]:
    """Keep the questions that came in under a name for some people, in place of what was said before."""
    with site_of(request).ledger.writing() as connection:
        made = reservations.reserve(
            connection,
            who.project.id,
            body.reason,
            body.raters,
            exclusive=body.others == "never",
            now=utc_now(),
        )
    return {"id": made}


@router.delete(API + "/{queue_id}")
def release(request: Request, who: Manager, queue_id: str) -> dict[str, Any]:
    """Let everybody have them again."""
    with site_of(request).ledger.writing() as connection:
        if not reservations.release(connection, who.project.id, queue_id, utc_now()):
            raise not_found("this queue")
    return {}
