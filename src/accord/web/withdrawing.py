"""Withdrawals: what each level means for the person before she does it, and for the project after."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import HTMLResponse

from accord.ledger import reservations, withdrawals
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.web.auth import Member, RefusedError, needs, not_found, signed_in, site_of
from accord.web.body import Body
from accord.web.templating import page

router = APIRouter(tags=["withdrawals"])

SignedIn = Annotated[Account, Depends(signed_in)]
Manager = Annotated[Member, Depends(needs("manage"))]
ManagerReads = Annotated[Member, Depends(needs("manage", "read"))]


class SuccessorBody(Body):
    release: str = Field(min_length=1, max_length=200)
    name: str = Field(max_length=80, pattern=r"\S")


@router.get("/account/withdraw", include_in_schema=False)
def withdraw_page(request: Request, account: SignedIn) -> HTMLResponse:
    """Nothing is withdrawn here: the form on the page asks the API."""
    with site_of(request).ledger.reading() as connection:
        found = withdrawals.preview(connection, account.annotator_id)
    return page(request, "withdraw.html", account=account, found=found, pseudonym=account.pseudonym)


@router.get("/api/v1/account/withdraw")
def withdraw_preview(request: Request, account: SignedIn) -> dict[str, Any]:
    """What there is to take back: answers, texts, and the releases and models that rest on them."""
    with site_of(request).ledger.reading() as connection:
        return withdrawals.preview(connection, account.annotator_id)


@router.get("/projects/{project_id}/withdrawals", include_in_schema=False)
def withdrawals_page(request: Request, who: Manager) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        reasons = reservations.reasons(connection, who.project.id)
        erased = withdrawals.erased_questions(connection, who.project.id)
    more: dict[str, Any] = {"admin": who.account.admin, "reasons": reasons, "erased": erased}
    return page(request, "withdrawals.html", who=who, **more, **_found(request, who))


@router.get("/api/v1/projects/{project_id}/withdrawals")
def list_withdrawals(request: Request, who: ManagerReads) -> dict[str, Any]:
    """What people of the project took back, and the releases and models that still hold or used it."""
    return _found(request, who)


def _found(request: Request, who: Member) -> dict[str, Any]:
    with site_of(request).ledger.reading() as connection:
        return {
            "withdrawals": withdrawals.project_withdrawals(connection, who.project.id),
            "to_do": withdrawals.to_do(connection, who.project.id),
        }


@router.post("/api/v1/projects/{project_id}/withdrawals/successor")
def make_successor(request: Request, who: Manager, body: SuccessorBody) -> dict[str, Any]:
    """A release with the rows of another one, but for those that were taken back."""
    with site_of(request).ledger.writing() as connection:
        known = withdrawals.to_do(connection, who.project.id)
        found = next((row for row in known if row["name"] == body.release), None)
        if found is None:
            raise not_found("a release of this name with rows that were taken back")
        if not found["mine"] and not who.account.admin:
            raise RefusedError(
                403, "forbidden", "this release also holds other projects' answers; ask an administrator"
            )
        made = withdrawals.make_successor(connection, body.release, body.name, utc_now())
    return {"name": made.name, "hash": made.hash, "rows": len(made.judgement_ids)}
