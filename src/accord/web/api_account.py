"""The JSON API of one's own account, and of the accounts an administrator looks after."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse

from accord.ledger import accounts, answers, tokens
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.web.api_people import DAY, revoke_links
from accord.web.auth import (
    RefusedError,
    an_admin,
    check_password,
    new_password,
    not_found,
    session_token,
    set_cookie,
    signed_in,
    site_of,
)
from accord.web.body import Body

router = APIRouter(prefix="/api/v1", tags=["account"])

SignedIn = Annotated[Account, Depends(signed_in)]
Admin = Annotated[Account, Depends(an_admin())]


class PasswordBody(Body):
    old: str = Field(max_length=1000)
    new: str = Field(max_length=1000)


class DisableBody(Body):
    disabled: bool


class TokenBody(Body):
    name: str = Field(min_length=1, max_length=tokens.NAME_LENGTH)
    scopes: list[Literal["read", "judge", "manage"]] = Field(min_length=1, max_length=3)
    days: int = Field(90, ge=1, le=366)
    password: str = Field(max_length=1000)


class WithdrawBody(Body):
    scope: Literal["identity", "text", "all"]
    password: str = Field(max_length=1000)


def address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"


@router.post("/account/password")
def change_password(request: Request, account: SignedIn, body: PasswordBody) -> JSONResponse:
    """A new password ends every session and token, and starts a new session here."""
    site = site_of(request)
    hashed = site.hash_password(new_password(body.new))
    prove(request, account, body.old)
    with site.ledger.writing() as connection:
        accounts.set_password(connection, account.id, hashed)
        accounts.end_sessions(connection, account.id)
        tokens.end_tokens(connection, account.id)
        token = accounts.start_session(connection, account.id, utc_now())
    response = JSONResponse({"redirect": "/account"})
    set_cookie(request, response, "session", token)
    return response


def prove(request: Request, account: Account, password: str) -> None:
    """A stolen session is not enough for this. Raises RefusedError."""
    try:
        check_password(site_of(request), address_of(request), account.login, password)
    except RefusedError as error:
        if error.status == 401:
            raise RefusedError(403, "wrong", "the password is wrong") from None
        raise


@router.delete("/account/sessions")
def end_other_sessions(request: Request, account: SignedIn) -> dict[str, Any]:
    with site_of(request).ledger.writing() as connection:
        return {"ended": accounts.end_sessions(connection, account.id, but=session_token(request))}


@router.delete("/account/sessions/{session_id}")
def end_session(request: Request, account: SignedIn, session_id: str) -> dict[str, Any]:
    with site_of(request).ledger.writing() as connection:
        if not accounts.end_sessions(connection, account.id, session_id=session_id):
            raise not_found("this session")
    return {}


@router.post("/account/tokens")
def add_token(request: Request, account: SignedIn, body: TokenBody) -> dict[str, str]:
    """A token for a program that acts as you, shown this once. It outlives sessions: prove yourself."""
    prove(request, account, body.password)
    with site_of(request).ledger.writing() as connection:
        token_id, token, expires_at = tokens.add_token(
            connection, account.id, body.name, body.scopes, seconds=body.days * DAY, now=utc_now()
        )
    return {"id": token_id, "token": token, "expires_at": expires_at}


@router.delete("/account/tokens/{token_id}")
def end_token(request: Request, account: SignedIn, token_id: str) -> dict[str, Any]:
    with site_of(request).ledger.writing() as connection:
        if not tokens.end_tokens(connection, account.id, token_id=token_id):
            raise not_found("this token")
    return {}


@router.post("/account/withdraw")
def withdraw(request: Request, account: SignedIn, body: WithdrawBody) -> dict[str, Any]:
    """Take back who you are, also what you wrote, or also all that you judged. There is no way back."""
    prove(request, account, body.password)
    site = site_of(request)
    with site.ledger.writing() as connection:
        affected = answers.affected(connection, account.annotator_id)
        done = answers.withdraw(connection, account.annotator_id, body.scope, utc_now())
        tokens.end_tokens(connection, account.id)
    site.ledger.compact()
    return {"done": done, "affected": affected, "redirect": "/login"}


@router.post("/accounts/{account_id}/disable")
def disable(request: Request, admin: Admin, account_id: str, body: DisableBody) -> dict[str, Any]:
    """Keep somebody out: signed out everywhere at once, tokens and open links ended."""
    if account_id == admin.id:
        raise RefusedError(409, "conflict", "you cannot disable your own account; ask another administrator")
    with site_of(request).ledger.writing() as connection:
        if not accounts.exists(connection, account_id):
            raise not_found("this account")
        now = utc_now()
        accounts.set_disabled(connection, account_id, body.disabled, now)
        if body.disabled:
            tokens.end_tokens(connection, account_id)
            revoke_links(connection, account_id, now)
    return {}
