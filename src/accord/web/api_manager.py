"""The JSON API of running a project: settings, guideline, people, data in and out, quality, lineage."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from accord.errors import DataError, LedgerError
from accord.ledger import (
    accounts,
    exchange,
    judging,
    licences,
    lineage,
    media,
    projects,
    queue,
    ranked_rows,
    why,
)
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.ledger.known import Known
from accord.ledger.media import Medium
from accord.records import Group, Preference
from accord.web import files, listing, media_import
from accord.web.auth import (
    Member,
    RefusedError,
    an_admin,
    caller,
    member,
    needs,
    not_found,
    site_of,
)
from accord.web.body import Body
from accord.web.quality import quality_of
from accord.web.questions import NEW_FORM
from accord.web.security import IMPORT_BYTES

router = APIRouter(prefix="/api/v1", tags=["managing"])

LONGEST_GUIDELINE = 200_000
SHOWN_PROBLEMS = 100
VISIBLE = r"\S"  # something other than spaces
IMPORT_SUFFIX = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|zip)$")

Manager = Annotated[Member, Depends(needs("manage"))]
ManagerReads = Annotated[Member, Depends(needs("manage", "read"))]
Reader = Annotated[Account, Depends(caller("read"))]
Name = Annotated[str, Field(max_length=projects.NAME_LENGTH, pattern=VISIBLE)]
GuidelineText = Annotated[str, Field(max_length=LONGEST_GUIDELINE, pattern=VISIBLE)]
Label = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[\w][\w -]*$")]


class FormBody(Body):
    flags: list[Label] = Field([], max_length=20)
    attributes: list[Label] = Field([], max_length=20)
    live: bool = False
    comment: bool = True
    edit: bool = True
    both_bad: bool = True
    cannot_judge: bool = True
    spans: bool = False


class ProjectBody(Body):
    name: Name
    guideline: GuidelineText
    overlap: int = Field(1, ge=1, le=projects.MOST_OVERLAP)


class ChecksBody(Body):
    """Which share of a rater's questions check on her."""

    gold: float = Field(0.0, ge=0, le=0.5, description="known answers, until the sequential test has decided")
    repeat: float = Field(0.0, ge=0, le=0.5, description="asked again a while later, sides swapped")


class DisputesBody(Body):
    """Which rankings are given to adjudicators."""

    below: float = Field(ge=-1, le=1, description="the mean Kendall's tau-b of each two raters is less")


class ChangeBody(Body):
    checks: ChecksBody | None = None
    disputes: DisputesBody | None = None
    name: Name | None = None
    overlap: int | None = Field(None, ge=1, le=projects.MOST_OVERLAP)
    state: Literal["open", "paused"] | None = None
    form: FormBody | None = None


class GuidelineBody(Body):
    text: GuidelineText


class ReleaseBody(Body):
    name: str = Field(max_length=80, pattern=VISIBLE)


class EmptyBody(Body):
    pass


def project_json(project: projects.Project) -> dict[str, Any]:
    names = ("id", "name", "state", "overlap", "guideline_n", "created_at")
    return {name: getattr(project, name) for name in names}


# The project


@router.get("/projects")
def list_projects(request: Request, account: Reader) -> dict[str, Any]:
    """The projects you are in, with how far they are."""
    with site_of(request).ledger.reading() as connection:
        return {"projects": listing.project_rows(connection, account)}


@router.post("/projects")
def add_project(
    request: Request, account: Annotated[Account, Depends(an_admin("manage"))], body: ProjectBody
) -> dict[str, Any]:
    with site_of(request).ledger.writing() as connection:
        now = utc_now()
        project_id = projects.add_project(
            connection, body.name, body.guideline, overlap=body.overlap, form=NEW_FORM, now=now
        )
        accounts.set_role(connection, project_id, account.id, "owner", now)
    return {"id": project_id, "redirect": f"/projects/{project_id}/data"}


@router.patch("/projects/{project_id}")
def change_project(request: Request, who: Manager, body: ChangeBody) -> dict[str, Any]:
    """A changed overlap applies to questions that are added later."""
    if body.name not in (None, who.project.name) and "own" not in who.can:
        raise RefusedError(403, "forbidden", "only an owner may rename a project")
    with site_of(request).ledger.writing() as connection:
        changes = body.model_dump(exclude_none=True)
        now_form = projects.find_project(connection, who.project.id)
        if now_form is not None and changes.keys() & {"form", "checks", "disputes"}:  # kept together
            said = {name: now_form.form[name] for name in ("checks", "disputes") if name in now_form.form}
            said |= {name: changes.pop(name) for name in ("checks", "disputes") if name in changes}
            changes["form"] = changes.get("form", dict(now_form.form)) | said
        projects.change_project(connection, who.project.id, changes, utc_now())
        changed = projects.find_project(connection, who.project.id)
    assert changed is not None
    return {"project": project_json(changed)}


@router.post("/projects/{project_id}/guideline")
def publish_guideline(request: Request, who: Manager, body: GuidelineBody) -> dict[str, Any]:
    """A new version, in force for questions leased from now on."""
    with site_of(request).ledger.writing() as connection:
        return {"n": projects.publish_guideline(connection, who.project.id, body.text, utc_now())}


@router.get("/projects/{project_id}/quality")
def quality(request: Request, who: Annotated[Member, Depends(needs("quality"))]) -> dict[str, Any]:
    return quality_of(site_of(request).ledger, who.project.id)


# Data


FILE = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.post("/projects/{project_id}/import", openapi_extra={"requestBody": FILE})
async def import_file(
    request: Request,
    who: Manager,
    format: files.Format = "auto",
    reason: Annotated[str, Query(min_length=1, max_length=80)] = "import",
    gold: bool = False,
    as_: Annotated[Literal["pairs", "ranking"], Query(alias="as")] = "pairs",
    license: Annotated[str, Query(max_length=licences.LONGEST, description="of the file")] = "",
    x_file_name: Annotated[str, Header(description="percent-encoded; its ending says what it is")] = "",
) -> dict[str, Any]:
    """Questions from a file's bytes. With `gold`, which answers the rows call better grades raters.

    With `as=ranking` all answers to one prompt become one question, which is answered by their order.
    """
    ranked = as_ == "ranking"
    name = unquote(x_file_name)[-200:]
    suffix = IMPORT_SUFFIX.search(name.lower())
    if suffix is None:
        raise RefusedError(
            422, "invalid", "the file's name must end in .jsonl, .json, .csv, .tsv, .parquet or .zip"
        )
    handle, path = tempfile.mkstemp(suffix=suffix.group(), prefix="accord-import-")
    try:
        with os.fdopen(handle, "wb") as file:
            length = 0
            async for part in request.stream():
                length += len(part)
                if length > IMPORT_BYTES:
                    raise RefusedError(413, "too_large", f"the file is larger than {IMPORT_BYTES >> 20} MB")
                file.write(part)
        read = partial(_read_pairs, path, os.path.basename(name), format, ranked)
        rows, problems, found = await run_in_threadpool(read)
        ask = partial(_ask, rows=rows, gold=gold)
        if ranked:
            groups, unfit = ranked_rows.as_rankings(rows)
            orders, contradictions = ranked_rows.known_orders(rows, groups if gold else ())
            problems = sorted(problems + unfit + contradictions)
            ask = partial(_ask_for_orders, groups=groups, orders=orders)
        added, known = await run_in_threadpool(ask, request, who, found, reason)
        if license.strip():
            await run_in_threadpool(_note_licence, request, who, rows, license)
    finally:
        os.unlink(path)
        Path(media_import.lines_path(path)).unlink(missing_ok=True)
    shown = [{"line": line, "what": what} for line, what in problems[:SHOWN_PROBLEMS]]
    return {"added": added, "known": known, "problems": shown, "problem_count": len(problems)}


Read = tuple[list[Preference], list[files.Bad], list[Medium]]


def _read_pairs(path: str, name: str, format: files.Format, ranked: bool) -> Read:
    """The file at `path`, which people call `name`, with the media of its rows. Raises RefusedError."""
    try:
        unpacked = media_import.unpack(path)
        lines = path if unpacked is None else media_import.lines_path(path)
        rows, problems = files.read_pairs(lines, format, as_ranking=ranked)
    except DataError as error:
        said = str(error).replace(media_import.lines_path(path), name).replace(path, name)
        raise RefusedError(422, "invalid", said) from None
    problems = [(n, what.replace(lines, name)) for n, what in problems]
    if unpacked is None:
        return exchange.named_source(rows, lines, name), problems, []
    found = media_import.used(rows, unpacked)
    return exchange.named_source(rows, lines, name), sorted(problems + unpacked.problems), found


def _ask(
    request: Request, who: Member, found: list[Medium], reason: str, *, rows: list[Preference], gold: bool
) -> tuple[int, int]:
    project, now = who.project, utc_now()
    with site_of(request).ledger.writing() as connection:
        media.add_media(connection, project.id, found, now)
        return exchange.add_preferences(
            connection, project.id, rows, overlap=project.overlap, reason=reason, gold=gold, now=now
        )


def _ask_for_orders(
    request: Request,
    who: Member,
    found: list[Medium],
    reason: str,
    *,
    groups: list[Group],
    orders: Mapping[str, Known],
) -> tuple[int, int]:
    project, now = who.project, utc_now()
    with site_of(request).ledger.writing() as connection:
        media.add_media(connection, project.id, found, now)
        return ranked_rows.add_rankings(
            connection, project.id, groups, overlap=project.overlap, reason=reason, now=now, orders=orders
        )


def _note_licence(request: Request, who: Member, rows: list[Preference], licence: str) -> None:
    with site_of(request).ledger.writing() as connection:
        for source in sorted({licences.source_of(row.prompt.source) for row in rows}):
            licences.set_licence(connection, who.project.id, source, licence, utc_now())


@router.post("/projects/{project_id}/adopt")
def adopt(request: Request, who: Manager, body: EmptyBody) -> dict[str, Any]:
    """Take in the ledger's questions that are in no project. They may be anybody's: administrators only."""
    if not who.account.admin:
        raise RefusedError(403, "forbidden", "only an administrator may take in the ledger's questions")
    with site_of(request).ledger.writing() as connection:
        return {"added": projects.adopt(connection, who.project.id)}


@router.post("/projects/{project_id}/releases")
def release(request: Request, who: Manager, body: ReleaseBody) -> dict[str, Any]:
    """Freeze the project's answers as they are now under a name."""
    with site_of(request).ledger.writing() as connection:
        mine = [row["name"] for row in listing.release_rows(connection, who.project.id)]
        if body.name not in mine and listing.is_release(connection, body.name):
            raise RefusedError(409, "conflict", "there is a release of this name; choose another one")
        ids = projects.item_ids(connection, who.project.id)
        exchange.project_judgements(connection, who.project.id)  # refuses what does not lead back
        made = lineage.make_release(connection, body.name, ids, utc_now())
    return {"name": made.name, "hash": made.hash, "rows": len(made.judgement_ids)}


@router.get("/projects/{project_id}/export/{format}")
def export(request: Request, who: ManagerReads, format: str) -> Response:
    """A file of the project's answers as they are now. Refused (409) when one does not lead back."""
    if format not in files.EXPORTS:
        raise not_found("this format")
    file = files.EXPORTS[format]
    with site_of(request).ledger.reading() as connection:
        content = b"".join(file.write(connection, who.project.id))
    headers = {"Content-Disposition": f'attachment; filename="{format}"'}
    return Response(content, media_type=file.media, headers=headers)


# Lineage


def judgement_of_mine(request: Request, account: Account, judgement_id: str) -> Member:
    """The project of a judgement that this account may look into. Raises RefusedError."""
    site = site_of(request)
    with site.ledger.reading() as connection:
        assignment_id = judging.assignment_of(connection, judgement_id)
        if assignment_id is None:
            raise not_found("this judgement")
        try:
            found, _, _ = queue.find_assignment(connection, assignment_id)
        except LedgerError:
            raise not_found("this judgement") from None
        project_id = projects.project_of_item(connection, found.item_id)
    if project_id is None:
        raise not_found("this judgement")
    return member(site, account, project_id, "manage")


@router.get("/judgements/{judgement_id}/why")
def why_judgement(request: Request, account: Reader, judgement_id: str) -> dict[str, Any]:
    """Back from a row to what was asked, shown and said."""
    judgement_of_mine(request, account, judgement_id)
    with site_of(request).ledger.reading() as connection:
        return why.why_judgement(connection, judgement_id)


@router.get("/judgements/{judgement_id}/models")
def models(request: Request, account: Reader, judgement_id: str) -> dict[str, Any]:
    """The releases that hold a judgement, and the models behind which it stands."""
    judgement_of_mine(request, account, judgement_id)
    with site_of(request).ledger.reading() as connection:
        return dict(why.who_trained_on(connection, judgement_id))
