"""Who is asking, and whether she may: sessions, passwords, roles."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import Depends, Request
from sqlalchemy import Connection
from starlette.responses import Response

from accord.ledger import Ledger, accounts, projects, tokens
from accord.ledger.accounts import Account
from accord.ledger.database import utc_now
from accord.ledger.projects import Project
from accord.web.policies import Policies
from accord.web.security import Address, bearer, csrf_token, session_or_visit
from accord.web.throttle import Throttle

PASSWORD_LENGTHS = (10, 200)

PERMISSIONS = {
    "owner": ("judge", "adjudicate", "quality", "manage", "own"),
    "manager": ("judge", "adjudicate", "quality", "manage"),
    "adjudicator": ("judge", "adjudicate"),
    "rater": ("judge",),
    "viewer": ("quality",),
}
# What a program's token must be for, to do what a permission allows.
SCOPES = {
    "": "read",
    "quality": "read",
    "judge": "judge",
    "adjudicate": "judge",
    "manage": "manage",
    "own": "manage",
}


@dataclass(frozen=True)
class Site:
    """Everything that the routes share."""

    ledger: Ledger
    address: Address
    runs: Path | None = None  # the folder whose runs of the loop are shown
    policies: Policies | None = None  # whom raters may talk with
    hasher: PasswordHasher = field(default_factory=PasswordHasher)
    sign_ins_per_login: Throttle = field(default_factory=lambda: Throttle(5, 900))
    sign_ins_per_address: Throttle = field(default_factory=lambda: Throttle(20, 900))
    writes_per_account: Throttle = field(default_factory=lambda: Throttle(600, 60))
    # Each hash takes 64 MB: without a limit, a crowd at the door would fill the memory.
    _hashing: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(4))

    def hash_password(self, password: str) -> str:
        with self._hashing:
            return self.hasher.hash(password)

    def password_fits(self, hashed: str, password: str) -> bool:
        with self._hashing:
            try:
                return self.hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                return False


class RefusedError(Exception):
    """A request that is not served. `code` is for programs, `message` for people."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after else {}


def not_found(what: str = "this page") -> RefusedError:
    """Also for what exists but is another team's: nobody learns that it does."""
    return RefusedError(404, "not_found", f"{what} does not exist, or you are not one of its members")


def signed_out() -> RefusedError:
    return RefusedError(401, "signed_out", "you are signed out; sign in again")


# Sessions


def site_of(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


def session_token(request: Request) -> str:
    return request.cookies.get(site_of(request).address.cookie("session"), "")


def visitor(request: Request) -> Account | None:
    """The account whose session came with the request."""
    token = session_token(request)
    if not token:
        return None
    ledger, now = site_of(request).ledger, utc_now()
    with ledger.reading() as connection:
        found = accounts.read_session(connection, token, now)
    if found is None:
        return None
    account, touch_due = found
    if touch_due:
        with ledger.writing() as connection:
            accounts.touch_session(connection, token, now)
    return account


def csrf_of(request: Request) -> str:
    """The token for the forms of a page; empty before the first cookie."""
    secret = session_or_visit(request, site_of(request).address)
    return csrf_token(secret) if secret else ""


def set_cookie(request: Request, response: Response, name: str, value: str) -> None:
    address = site_of(request).address
    age = int(accounts.LONGEST_SECONDS) if value else 0
    response.set_cookie(
        address.cookie(name),
        value,
        max_age=age,
        path="/",
        httponly=True,
        samesite="lax",
        secure=address.secure,
    )


# Roles


@dataclass(frozen=True)
class Member:
    """An account in a project where it may do what the route needs."""

    account: Account
    project: Project
    role: str

    @property
    def can(self) -> tuple[str, ...]:
        return PERMISSIONS[self.role]


def caller(scope: str = "") -> Callable[[Request], Account]:
    """A dependency: who asks, by session or by a token with this scope; "" takes no token at all."""

    def check(request: Request) -> Account:
        token = bearer(request)
        account = visitor(request) if token is None else _token_account(site_of(request), token, scope)
        if account is None:
            raise signed_out()
        if request.method not in ("GET", "HEAD"):
            limit_writes(site_of(request), account)
        return account

    return check


signed_in = caller()


def _token_account(site: Site, token: str, scope: str) -> Account:
    now = utc_now()
    with site.ledger.reading() as connection:
        found = tokens.read_token(connection, token, now)
    if found is None:
        raise RefusedError(401, "signed_out", "this token has ended, was revoked or never was; make another")
    if not scope:
        raise RefusedError(403, "forbidden", "no token may do this; sign in with a browser")
    if scope not in found.scopes:
        raise RefusedError(403, "forbidden", f"this token is not for this; it would need the scope {scope!r}")
    if found.touch_due:
        with site.ledger.writing() as connection:
            tokens.touch_token(connection, found.token_id, now)
    return found.account


def limit_writes(site: Site, account: Account) -> None:
    if wait := site.writes_per_account.take(account.id):
        raise RefusedError(429, "throttled", "too many requests; wait a moment", retry_after=wait)


def an_admin(scope: str = "") -> Callable[..., Account]:
    """A dependency like `caller`."""

    asks = Depends(caller(scope))

    def check(account: Account = asks) -> Account:
        if not account.admin:
            raise RefusedError(403, "forbidden", "only an administrator may do this")
        return account

    return check


def member(site: Site, account: Account, project_id: str, permission: str = "") -> Member:
    """The account's membership; administrators own every project."""
    with site.ledger.reading() as connection:
        return member_in(connection, account, project_id, permission)


def member_in(connection: Connection, account: Account, project_id: str, permission: str = "") -> Member:
    project = projects.find_project(connection, project_id)
    role = accounts.role_of(connection, project_id, account.id)
    role = "owner" if account.admin else role
    if project is None or role is None:
        raise not_found("this project")
    if permission and permission not in PERMISSIONS[role]:
        raise RefusedError(403, "forbidden", f"your role in this project, {role}, does not allow this")
    return Member(account, project, role)


def needs(permission: str, scope: str | None = None) -> Callable[..., Member]:
    """A dependency for routes with `project_id` in their path; "" asks for any role.

    `scope` is that of a token that may do it; by default it follows from the permission.
    """
    asks = Depends(caller(SCOPES[permission] if scope is None else scope))

    def check(request: Request, project_id: str, account: Account = asks) -> Member:
        return member(site_of(request), account, project_id, permission)

    return check


def may_give(role: str) -> tuple[str, ...]:
    """The roles that somebody of this role may give and take away."""
    lower = ("adjudicator", "rater", "viewer")
    return ("owner", "manager", *lower) if role == "owner" else lower if role == "manager" else ()


# Passwords


def check_password(site: Site, address: str, login: str, password: str) -> Account:
    """The account, if the password is right and there were not too many attempts. Raises RefusedError.

    An unknown login takes as long, counts as much and reads the same as a wrong password.
    """
    key = accounts.login_key(login)[:200]
    # Counted before the slow part, so that a burst cannot slip through.
    wait = site.sign_ins_per_login.take(key) or site.sign_ins_per_address.take(address)
    if wait:
        raise RefusedError(
            429,
            "throttled",
            f"too many attempts; try again in {int(wait // 60) + 1} min",
            retry_after=wait,
        )
    with site.ledger.reading() as connection:
        found = accounts.by_login(connection, login)
    hashed = found[1] if found else _somebodys_hash(site)
    if not site.password_fits(hashed, password) or found is None:
        raise RefusedError(401, "wrong", "the login or the password is wrong")
    # Forgiving the address too would let one good account pay for guesses at others.
    site.sign_ins_per_login.forgive(key)
    site.sign_ins_per_address.take_back(address)
    return found[0]


_hashes: dict[str, str] = {}


def _somebodys_hash(site: Site) -> str:
    """With the costs of real ones."""
    costs = f"{site.hasher.time_cost} {site.hasher.memory_cost} {site.hasher.parallelism}"
    if costs not in _hashes:
        _hashes[costs] = site.hash_password("nobody has this password")
    return _hashes[costs]


def new_password(password: str) -> str:
    """The password, when it is long enough. Raises RefusedError."""
    shortest, longest = PASSWORD_LENGTHS
    if not shortest <= len(password) <= longest:
        raise RefusedError(422, "invalid", f"a password has {shortest} to {longest} characters")
    return password
