"""Templates, and what each of them gets."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from accord import __version__
from accord.ledger.accounts import Account, new_token
from accord.web.auth import Member, csrf_of, session_token, set_cookie, site_of
from accord.web.render import render_text, visible
from accord.web.security import csrf_token

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, auto_reload=False
    )
    made.filters.update(render=render_text, visible=lambda text: visible(str(text)))
    made.globals.update(static=lambda name: f"/static/{name}?v={__version__}", version=__version__)
    return made


def _can(request: Request, who: Member) -> list[str]:
    """What the member may do here; "talk" where there are policies to talk with."""
    open_to_talk = site_of(request).policies is not None and who.project.form.get("live", False)
    return [*who.can, *(["talk"] if open_to_talk and "judge" in who.can else [])]


def page(
    request: Request,
    template: str,
    *,
    account: Account | None = None,
    who: Member | None = None,
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """A rendered template. A visitor without a cookie gets one, so that forms can be told from forgeries."""
    account = who.account if who else account
    visit = "" if session_token(request) or csrf_of(request) else new_token()
    everywhere = {
        "me": {"login": account.login, "admin": account.admin} if account else None,
        "csrf": csrf_token(visit) if visit else csrf_of(request),
        "can": _can(request, who) if who else [],
        "project": who.project if who else None,
        "role": who.role if who else None,
        "page": template.removesuffix(".html"),
        "status": status,
    }
    text = _environment().get_template(template).render(everywhere | context)
    response = HTMLResponse(text, status)
    if visit:
        set_cookie(request, response, "visit", visit)
    return response
