"""The pages, and the four forms that work without a session: set up, join, sign in, sign out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from sqlalchemy import Connection
from starlette.responses import HTMLResponse, RedirectResponse, Response

from accord.errors import LedgerError
from accord.ledger import accounts, licences, projects, tokens
from accord.ledger.accounts import Account, Invitation
from accord.ledger.database import utc_now
from accord.web import files, listing
from accord.web.api_account import address_of
from accord.web.api_rater import lease_questions
from accord.web.auth import (
    Member,
    RefusedError,
    check_password,
    may_give,
    needs,
    new_password,
    not_found,
    session_token,
    set_cookie,
    signed_in,
    site_of,
    visitor,
)
from accord.web.quality import quality_of
from accord.web.questions import form_of
from accord.web.render import render_text
from accord.web.templating import page

router = APIRouter(include_in_schema=False)

SignedIn = Annotated[Account, Depends(signed_in)]
AnyMember = Annotated[Member, Depends(needs(""))]
Manager = Annotated[Member, Depends(needs("manage"))]
Judge = Annotated[Member, Depends(needs("judge"))]
Text = Annotated[str, Form(max_length=1000)]

TOKEN_SCOPES = {
    "read": "see what you see: projects, quality, exports",
    "judge": "answer questions as you",
    "manage": "change projects as you: import, guideline, people, settings",
}


def error_page(
    request: Request, status: int, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    account = visitor(request) if status not in (400, 500) else None  # where asking might fail again
    response = page(request, "error.html", account=account, status=status, message=message)
    response.headers.update(headers or {})
    return response


def to_login(request: Request) -> Response:
    return RedirectResponse(f"/login?next={quote(request.url.path, safe='/')}", 303)


def _within(target: str) -> str:
    """Where to go after signing in: a path of this app, and of no other site."""
    safe = target.startswith("/") and target[1:2] not in ("/", "\\") and target.isprintable()
    return target if safe else "/"


# Coming in and going out


def _enter(request: Request, connection: Connection, account_id: str, target: str) -> Response:
    """A new session, never an old token: what somebody planted in the browser before lets nobody in."""
    accounts.end_session(connection, session_token(request))
    token = accounts.start_session(connection, account_id, utc_now())
    response = RedirectResponse(_within(target), 303)
    set_cookie(request, response, "session", token)
    set_cookie(request, response, "visit", "")
    return response


def _invitation(request: Request, token: str, *, admin: bool) -> Invitation:
    """The open invitation of a link. Raises RefusedError, and counts it as an attempt to get in."""
    site = site_of(request)
    if wait := site.sign_ins_per_address.wait(address_of(request)):
        raise RefusedError(429, "throttled", "too many attempts; try again later", retry_after=wait)
    with site.ledger.reading() as connection:
        found = accounts.open_invitation(connection, token, utc_now())
    if found is None or (found.project_id is None) != admin:
        site.sign_ins_per_address.take(address_of(request))
        raise RefusedError(
            404, "not_found", "this link was used, was revoked or is too old; ask for a new one"
        )
    return found


@router.get("/setup/{token}")
def setup_page(request: Request, token: str) -> HTMLResponse:
    _invitation(request, token, admin=True)
    return page(request, "setup.html", token=token, error="", login="")


@router.post("/setup/{token}")
def setup(request: Request, token: str, login: Text = "", password: Text = "") -> Response:
    _invitation(request, token, admin=True)
    try:
        return _join(request, token, login, password, admin=True, target="/projects")
    except RefusedError as error:
        return page(request, "setup.html", status=error.status, token=token, error=error.message, login=login)


def _join(request: Request, token: str, login: str, password: str, *, admin: bool, target: str) -> Response:
    """A new account through a link, which is used up in the same transaction."""
    site = site_of(request)
    hashed = site.hash_password(new_password(password))
    now = utc_now()
    try:
        with site.ledger.writing() as connection:
            found = accounts.open_invitation(connection, token, now)
            if found is None:
                raise RefusedError(409, "conflict", "somebody else was quicker: this link is used up")
            account_id = accounts.add_account(connection, login, hashed, admin=admin, now=now)
            accounts.use_invitation(connection, found, account_id, now)
            return _enter(request, connection, account_id, target)
    except LedgerError as error:
        raise RefusedError(422, "invalid", str(error)) from None


@router.get("/invite/{token}")
def invite_page(request: Request, token: str) -> HTMLResponse:
    return _show_invitation(request, token, _invitation(request, token, admin=False))


def _show_invitation(
    request: Request, token: str, found: Invitation, *, error: str = "", login: str = "", status: int = 200
) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        project = projects.find_project(connection, found.project_id or "")
    if project is None:
        raise not_found("this project")
    return page(
        request,
        "invite.html",
        account=visitor(request),
        status=status,
        token=token,
        error=error,
        login=login,
        project_name=project.name,
        role=found.role,
    )


@router.post("/invite/{token}")
def accept(request: Request, token: str, login: Text = "", password: Text = "") -> Response:
    found = _invitation(request, token, admin=False)
    target = f"/projects/{found.project_id}"
    account = visitor(request)
    try:
        if account is None:
            return _join(request, token, login, password, admin=False, target=target)
        return _accept_as(request, token, account, target)
    except RefusedError as error:
        return _show_invitation(request, token, found, error=error.message, login=login, status=error.status)


def _accept_as(request: Request, token: str, account: Account, target: str) -> Response:
    now = utc_now()
    with site_of(request).ledger.writing() as connection:
        found = accounts.open_invitation(connection, token, now)
        if found is None or found.project_id is None:
            raise RefusedError(409, "conflict", "somebody else was quicker: this link is used up")
        if accounts.role_of(connection, found.project_id, account.id) is not None:
            raise RefusedError(409, "conflict", "you are in this project already; leave the link for others")
        accounts.use_invitation(connection, found, account.id, now)
    return RedirectResponse(target, 303)


@router.get("/login")
def login_page(request: Request, next: Annotated[str, Query(max_length=500)] = "/") -> Response:
    if visitor(request) is not None:
        return RedirectResponse(_within(next), 303)
    return page(request, "login.html", error="", login="", next=_within(next))


@router.post("/login")
def login(
    request: Request,
    login: Text = "",
    password: Text = "",
    next: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    site = site_of(request)
    try:
        account = check_password(site, address_of(request), login, password)
    except RefusedError as error:
        response = page(
            request, "login.html", status=error.status, error=error.message, login=login, next=_within(next)
        )
        response.headers.update(error.headers)
        return response
    with site.ledger.writing() as connection:
        return _enter(request, connection, account.id, next)


@router.post("/logout")
def logout(request: Request) -> Response:
    with site_of(request).ledger.writing() as connection:
        accounts.end_session(connection, session_token(request))
    response = RedirectResponse("/login", 303)
    set_cookie(request, response, "session", "")
    return response


# Signed in


@router.get("/")
def home(request: Request) -> Response:
    account = visitor(request)
    if account is None:
        return RedirectResponse("/login", 303)
    with site_of(request).ledger.reading() as connection:
        mine = projects.projects_of(connection, account.id)
    if not account.admin and len(mine) == 1:
        return RedirectResponse(f"/projects/{next(iter(mine))}", 303)
    return RedirectResponse("/projects", 303)


@router.get("/projects")
def projects_page(request: Request, account: SignedIn) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        rows = listing.project_rows(connection, account)
    return page(request, "projects.html", account=account, projects=rows)


@router.get("/account")
def account_page(request: Request, account: SignedIn) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        context: dict[str, Any] = {
            "sessions": accounts.sessions_of(connection, account.id, session_token(request)),
            "memberships": listing.membership_rows(connection, account),
            "tokens": tokens.tokens_of(connection, account.id, utc_now()),
        }
    scopes = [{"key": key, "label": label} for key, label in TOKEN_SCOPES.items()]
    return page(request, "account.html", account=account, scopes=scopes, **context)


# In a project


@router.get("/projects/{project_id}")
def project_page(who: AnyMember) -> Response:
    where = "quality" if "quality" in who.can else "judge"
    return RedirectResponse(f"/projects/{who.project.id}/{where}", 303)


@router.get("/projects/{project_id}/judge")
def judge_page(request: Request, who: Judge) -> HTMLResponse:
    return judging_page(request, who)


def judging_page(request: Request, who: Member, *, settling: bool = False) -> HTMLResponse:
    """The page of the questions in one's queue, or with `settling` of those about which raters disagree."""
    site = site_of(request)
    try:
        boot = lease_questions(site, who, 2, settling=settling)
    except RefusedError:  # paused: the page says so
        boot = {"questions": [], "progress": {"answered": 0, "skipped": 0, "left": 0}}
    with site.ledger.reading() as connection:
        newest = projects.guidelines(connection, who.project.id)[0]
    guideline = {
        "id": newest.id,
        "n": newest.n,
        "html": str(render_text(newest.text, wrapped=True)),
        "created_at": newest.created_at,
    }
    return page(
        request,
        "judge.html",
        who=who,
        page="adjudicate" if settling else "judge",
        form=form_of(who.project),
        guideline=guideline,
        boot=boot,
        settling=settling,
    )


@router.get("/projects/{project_id}/mine")
def mine_page(request: Request, who: Judge) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        ids = projects.my_judgements(connection, who.project.id, who.account.annotator_id)
        rows = listing.judgement_rows(connection, who.project, ids[: listing.PAGE_ROWS], as_shown=True)
    for row in rows:
        del row["rater"]
    return page(request, "mine.html", who=who, rows=rows)


@router.get("/projects/{project_id}/guideline")
def guideline_page(request: Request, who: AnyMember) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        versions = listing.guideline_rows(connection, who.project)
    return page(request, "guideline.html", who=who, versions=versions)


@router.get("/projects/{project_id}/quality")
def quality_page(request: Request, who: Annotated[Member, Depends(needs("quality"))]) -> HTMLResponse:
    return page(request, "quality.html", who=who, quality=quality_of(site_of(request).ledger, who.project.id))


@router.get("/projects/{project_id}/people")
def people_page(request: Request, who: Manager) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        members = projects.members(connection, who.project.id)
        invitations = projects.invitations(connection, who.project.id, utc_now())
    members = [row | {"me": row["account"] == who.account.id} for row in members]
    return page(
        request,
        "people.html",
        who=who,
        members=members,
        invitations=invitations,
        roles=list(may_give(who.role)),
    )


@router.get("/projects/{project_id}/data")
def data_page(request: Request, who: Manager) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        context: dict[str, Any] = {
            "counts": listing.data_counts(connection, who.project.id),
            "sources": projects.sources(connection, who.project.id),
            "releases": listing.release_rows(connection, who.project.id),
            "named_sources": licences.sources(connection, who.project.id),
            # they may be anybody's: administrators alone see that there are some, and take them in
            "unassigned": len(projects.unassigned(connection)) if who.account.admin else 0,
        }
    return page(request, "data.html", who=who, formats=files.offered(), **context)


@router.get("/projects/{project_id}/judgements")
def judgements_page(
    request: Request,
    who: Manager,
    page_number: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
    rater: Annotated[str, Query(max_length=64)] = "",
    strength: Annotated[str, Query(pattern=r"^(-?[0-3])?$")] = "",
) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        ids = listing.chosen_judgements(
            connection, who.project.id, rater, int(strength) if strength else None
        )
        start = (page_number - 1) * listing.PAGE_ROWS
        rows = listing.judgement_rows(connection, who.project, ids[start : start + listing.PAGE_ROWS])
    return page(
        request,
        "judgements.html",
        who=who,
        rows=rows,
        page_number=page_number,
        pages=max(1, -(-len(ids) // listing.PAGE_ROWS)),
        filters={"rater": rater, "strength": strength},
    )


@router.get("/projects/{project_id}/judgements/{judgement_id}")
def judgement_page(request: Request, who: Manager, judgement_id: str) -> HTMLResponse:
    with site_of(request).ledger.reading() as connection:
        if not listing.in_project(connection, who.project.id, judgement_id):
            raise not_found("this judgement")
        told = listing.shown_why(connection, who.project, judgement_id)
    return page(request, "judgement.html", who=who, why=told)


@router.get("/projects/{project_id}/settings")
def settings_page(request: Request, who: Manager) -> HTMLResponse:
    return page(request, "settings.html", who=who, form=form_of(who.project))
