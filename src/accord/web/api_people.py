"""The JSON API of who is in a project: invitations and roles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy import Connection, select

from accord.ledger import accounts
from accord.ledger.database import utc_now
from accord.ledger.team_schema import invitation
from accord.web.auth import Member, RefusedError, may_give, needs, not_found, site_of
from accord.web.body import Body

router = APIRouter(prefix="/api/v1", tags=["people"])

DAY = 86_400.0

Manager = Annotated[Member, Depends(needs("manage"))]
Roles = Literal["owner", "manager", "adjudicator", "rater", "viewer"]


class InvitationBody(Body):
    role: Roles = "rater"
    days: int = Field(7, ge=1, le=90)


class RoleBody(Body):
    role: Roles


@router.post("/projects/{project_id}/invitations")
def invite(request: Request, who: Manager, body: InvitationBody) -> dict[str, Any]:
    """A link for one person; it is shown this once."""
    _require_may_give(who, body.role)
    site = site_of(request)
    with site.ledger.writing() as connection:
        invitation_id, token, expires_at = accounts.invite(
            connection,
            who.project.id,
            body.role,
            created_by=who.account.id,
            seconds=body.days * DAY,
            now=utc_now(),
        )
    url = f"{site.address.scheme}://{request.headers['host']}/invite/{token}"
    return {"id": invitation_id, "url": url, "expires_at": expires_at}


def _require_may_give(who: Member, *roles: str | None) -> None:
    for role in roles:
        if role is not None and role not in may_give(who.role):
            raise RefusedError(
                403, "forbidden", f"your role, {who.role}, cannot give or take the role {role}"
            )


@router.delete("/projects/{project_id}/invitations/{invitation_id}")
def revoke_invitation(request: Request, who: Manager, invitation_id: str) -> dict[str, Any]:
    with site_of(request).ledger.writing() as connection:
        if not accounts.revoke_invitation(connection, who.project.id, invitation_id, utc_now()):
            raise not_found("this unused invitation")
    return {}


@router.patch("/projects/{project_id}/members/{account_id}")
def change_role(request: Request, who: Manager, account_id: str, body: RoleBody) -> dict[str, Any]:
    _set_role(request, who, account_id, body.role)
    return {}


@router.delete("/projects/{project_id}/members/{account_id}")
def remove_member(request: Request, who: Manager, account_id: str) -> dict[str, Any]:
    """Out of the project; what the person judged stays."""
    _set_role(request, who, account_id, None)
    return {}


def _set_role(request: Request, who: Member, account_id: str, role: str | None) -> None:
    with site_of(request).ledger.writing() as connection:
        old = accounts.role_of(connection, who.project.id, account_id)
        if old is None:
            raise not_found("this member")
        _require_may_give(who, old, role)
        now = utc_now()
        accounts.set_role(connection, who.project.id, account_id, role, now)
        if not may_give(role or ""):  # links that were made as a manager are not to outlast that
            revoke_links(connection, account_id, now, project_id=who.project.id)


def revoke_links(connection: Connection, account_id: str, now: str, *, project_id: str | None = None) -> None:
    """Revoke the open invitations that somebody made, in one project or in all."""
    made = select(invitation.c.id, invitation.c.project_id).where(invitation.c.created_by == account_id)
    if project_id is not None:
        made = made.where(invitation.c.project_id == project_id)
    for row in connection.execute(made).all():
        accounts.revoke_invitation(connection, row.project_id, row.id, now)
