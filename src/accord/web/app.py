"""The app: every route, behind the gate, with errors that say what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from accord import __version__
from accord.errors import DataError, LedgerError
from accord.ledger import accounts
from accord.ledger.database import utc_now
from accord.web import (
    adjudicating,
    api_account,
    api_manager,
    api_people,
    api_rater,
    api_talks,
    erasing,
    grouping,
    knowing,
    live,
    media,
    openapi,
    pages,
    reserving,
    sourcing,
    withdrawing,
)
from accord.web.auth import RefusedError, Site
from accord.web.body import ERRORS
from accord.web.render import visible
from accord.web.security import Gate

STATIC = Path(__file__).parent / "static"
SET_UP_SECONDS = 86_400.0
LONGEST_MESSAGE = 500
WORDS = {401: "signed_out", 403: "forbidden", 404: "not_found", 405: "not_allowed", 413: "too_large"}

log = logging.getLogger("accord.web")


class Static(StaticFiles):
    """Files of this package. Where the address carries the version, browsers may keep them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        versioned = scope["query_string"] == f"v={__version__}".encode()
        response.headers["Cache-Control"] = "public, max-age=3600" if versioned else "no-cache"
        return response


def make_app(site: Site) -> FastAPI:
    """The ASGI app over an open ledger. The documentation pages that FastAPI brings load from other hosts."""
    app = FastAPI(title="Accord", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.site = site
    parts = (api_rater, api_manager, api_people, api_account, openapi, live)
    for part in (*parts, knowing, sourcing, reserving, erasing, withdrawing, pages):
        app.include_router(part.router, responses=ERRORS)
    for router in (adjudicating.router, api_talks.api, api_talks.shown, grouping.router, media.router):
        app.include_router(router, responses=ERRORS)
    app.mount("/static", Static(directory=STATIC, check_dir=False), name="static")
    for error, handler in HANDLERS.items():
        app.add_exception_handler(error, handler)
    app.add_middleware(Gate, address=site.address, reply=_reply)
    return app


# Errors


def _reply(request: Request, status: int, code: str, message: str, **headers: str) -> Response:
    shown = visible(message, longest=LONGEST_MESSAGE)  # it may quote what was sent
    if request.scope["path"].startswith("/api/"):
        body = {"error": {"code": code, "message": shown}}
        return JSONResponse(body, status, headers=headers)
    if status == 401 and request.method == "GET":
        return pages.to_login(request)
    return pages.error_page(request, status, shown, headers)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _reply(request, error.status, error.code, error.message, **error.headers)


def _ledger(request: Request, error: Exception) -> Response:
    """What the ledger refuses is for the person who asked; what its database says is for the server's log."""
    if isinstance(error.__cause__, UnicodeEncodeError):
        return _reply(request, 422, "invalid", "the text holds half a character (a lone surrogate); clean it")
    if error.__cause__ is not None:
        log.error("%s", error)
        said = "the ledger cannot be used at the moment; try again soon"
        return _reply(request, 503, "unavailable", said, **{"Retry-After": "5"})
    return _reply(request, 409, "conflict", str(error))


def _bad_data(request: Request, error: Exception) -> Response:
    return _reply(request, 422, "invalid", str(error))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return _reply(request, 422, "invalid", f"{where or 'the request'}: {first['msg']}")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = WORDS.get(error.status_code, "invalid")
    message = "this page does not exist" if error.status_code == 404 else str(error.detail)
    return _reply(request, error.status_code, code, message, **dict(error.headers or {}))


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response]] = {
    RefusedError: _refused,
    LedgerError: _ledger,
    DataError: _bad_data,
    RequestValidationError: _invalid,
    HTTPException: _http,
}


def set_up_url(site: Site, base: str, *, again: bool = False) -> str:
    """A one-time link that makes an administrator, when there is none yet (or `again`); else ""."""
    with site.ledger.writing() as connection:
        if accounts.has_admin(connection) and not again:
            return ""
        token = accounts.set_up_link(connection, seconds=SET_UP_SECONDS, now=utc_now())
    return f"{base}/setup/{token}"
