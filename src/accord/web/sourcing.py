"""Sources of questions and their licences, and the card of a release."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from accord.ledger import card, licences
from accord.ledger.database import utc_now
from accord.web import listing
from accord.web.auth import Member, needs, not_found, site_of
from accord.web.body import Body

router = APIRouter(prefix="/api/v1", tags=["sources"])

Manager = Annotated[Member, Depends(needs("manage"))]
ManagerReads = Annotated[Member, Depends(needs("manage", "read"))]


class LicenceBody(Body):
    source: str = Field("", max_length=1000)
    quoted: str = Field("", max_length=9000, description="the source, percent-encoded, as pages send it")
    licence: str = Field(max_length=licences.LONGEST)


@router.get("/projects/{project_id}/sources")
def list_sources(request: Request, who: ManagerReads) -> dict[str, Any]:
    """Where the questions come from, and under which licence; "" where none is known."""
    with site_of(request).ledger.reading() as connection:
        return {"sources": licences.sources(connection, who.project.id)}


@router.put("/projects/{project_id}/sources/licence")
def set_licence(request: Request, who: Manager, body: LicenceBody) -> dict[str, Any]:
    """Say under which licence a source stands: an SPDX identifier or a few words, or "" for unknown."""
    with site_of(request).ledger.writing() as connection:
        known = {row["source"] for row in licences.sources(connection, who.project.id)}
        source = body.source or unquote(body.quoted)
        if source not in known:
            raise not_found("this source")
        licences.set_licence(connection, who.project.id, source, body.licence, utc_now())
    return {}


@router.get("/projects/{project_id}/releases/card")
def release_card(
    request: Request, who: ManagerReads, release: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """The card of a release, as Markdown: who judged what, from which sources, under which licences."""
    with site_of(request).ledger.reading() as connection:
        if release not in [row["name"] for row in listing.release_rows(connection, who.project.id)]:
            raise not_found("this release")
        text = card.release_card(connection, who.project.id, release)
    headers = {"Content-Disposition": 'attachment; filename="card.md"'}
    return Response(
        text.encode("utf-8", "replace"), media_type="text/markdown; charset=utf-8", headers=headers
    )
