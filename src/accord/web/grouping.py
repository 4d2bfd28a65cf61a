"""What a project asks raters about themselves, and what each of them tells or takes back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import HTMLResponse

from accord.ledger import groups
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.web.auth import Member, RefusedError, member, needs, not_found, signed_in, site_of
from accord.web.body import Body
from accord.web.templating import page

router = APIRouter(tags=["groups"])

AnyMember = Annotated[Member, Depends(needs(""))]
Manager = Annotated[Member, Depends(needs("manage"))]
Owner = Annotated[Member, Depends(needs("own"))]


def _herself(request: Request, project_id: str, account: Annotated[Account, Depends(signed_in)]) -> Member:
    """A member with a browser: no program tells what a person is."""
    return member(site_of(request), account, project_id)


Herself = Annotated[Member, Depends(_herself)]


WORDS: dict[str, Any] = {"statement": groups.STATEMENT, "first": groups.FIRST_ANSWERS}


class AttributeBody(Body):
    name: str = Field(max_length=200)
    choices: list[str] = Field(max_length=100)


class AboutBody(Body):
    consent: bool
    values: dict[str, str] = Field({}, max_length=100)


# What is asked


@router.get("/projects/{project_id}/groups", include_in_schema=False)
def groups_page(request: Request, who: Manager) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        asked = groups.attributes(connection, who.project.id)
    return page(
        request,
        "groups.html",
        who=who,
        attributes=asked,
        statement=groups.STATEMENT,
        first=groups.FIRST_ANSWERS,
    )


@router.get("/api/v1/projects/{project_id}/attributes")
def list_attributes(request: Request, who: AnyMember) -> dict[str, Any]:
    """What raters are asked about themselves."""
    with site_of(request).ledger.reading() as connection:
        asked = groups.attributes(connection, who.project.id)
    return {"attributes": [{"id": one.id, "name": one.name, "choices": one.choices} for one in asked]}


@router.post("/api/v1/projects/{project_id}/attributes")
def add_attribute(request: Request, who: Owner, body: AttributeBody) -> dict[str, Any]:
    """Ask raters one more thing. Nobody has to answer."""
    with site_of(request).ledger.writing() as connection:
        made = groups.add_attribute(connection, who.project.id, body.name, body.choices, utc_now())
    return {"id": made}


@router.delete("/api/v1/projects/{project_id}/attributes/{attribute_id}")
def end_attribute(request: Request, who: Owner, attribute_id: str) -> dict[str, Any]:
    """Ask it no more, and erase what was told."""
    site = site_of(request)
    with site.ledger.writing() as connection:
        if not groups.end_attribute(connection, who.project.id, attribute_id, utc_now()):
            raise not_found("this question")
    site.ledger.compact()
    return {}


# What is told


@router.get("/projects/{project_id}/about-me", include_in_schema=False)
def about_page(request: Request, who: AnyMember) -> HTMLResponse:
    me = who.account.annotator_id
    with site_of(request).ledger.reading() as connection:
        context: dict[str, Any] = {
            "attributes": groups.attributes(connection, who.project.id),
            "told": groups.own_values(connection, who.project.id, me),
            "consented_at": groups.consented_at(connection, who.project.id, me),
            "answered": groups.answered(connection, who.project.id, me),
        }
    return page(request, "about_me.html", who=who, **WORDS, **context)


@router.put("/api/v1/projects/{project_id}/about-me")
def tell(request: Request, who: Herself, body: AboutBody) -> dict[str, Any]:
    """Consent, and tell; what is left out or "" is not told any more, and erased."""
    if not body.consent:
        raise RefusedError(422, "invalid", "nothing is kept without your consent: tick the box, or leave")
    site = site_of(request)
    with site.ledger.writing() as connection:
        before = groups.own_values(connection, who.project.id, who.account.annotator_id)
        groups.tell(connection, who.project.id, who.account.annotator_id, body.values, utc_now())
    if before:
        site.ledger.compact()
    return {}


@router.delete("/api/v1/projects/{project_id}/about-me")
def take_back(request: Request, who: Herself) -> dict[str, Any]:
    """Withdraw the consent: what was told is erased. Harmless where nothing was."""
    site = site_of(request)
    with site.ledger.writing() as connection:
        erased = groups.withdraw_consent(connection, who.project.id, who.account.annotator_id, utc_now())
    site.ledger.compact()
    return {"erased": erased}
