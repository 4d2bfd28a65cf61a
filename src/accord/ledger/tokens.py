"""Tokens by which programs use the API for an account.

A token is shown once; the ledger keeps its SHA-256. What it may do is what its account may do, narrowed to
its scopes. One that is revoked is deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from accord.errors import LedgerError
from accord.ledger import prepared
from accord.ledger.accounts import TOUCH_SECONDS, Account, by_id, new_token, token_sha256
from accord.ledger.queue import later
from accord.ledger.team_schema import api_token

SCOPES = ("read", "judge", "manage")
PREFIX = "accord_"  # so that scanners of published code recognise a leaked one
NAME_LENGTH = 64
MOST_TOKENS = 50  # an account's


@dataclass(frozen=True)
class Bearer:
    """Whose token it is, and for what."""

    account: Account
    token_id: str
    scopes: tuple[str, ...]
    touch_due: bool  # whether `touch_token` should note that it was used


def add_token(
    connection: Connection, account_id: str, name: str, scopes: Collection[str], *, seconds: float, now: str
) -> tuple[str, str, str]:
    """Its id, the token itself (kept nowhere), and when it ends. LedgerError for what makes no sense."""
    if not name.strip() or len(name) > NAME_LENGTH or not name.isprintable():
        raise LedgerError(f"a token's name has 1 to {NAME_LENGTH} visible characters")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise LedgerError(f"a token's scopes are some of {', '.join(SCOPES)}")
    connection.execute(delete(api_token).where(api_token.c.expires_at <= now))
    mine = select(func.count()).select_from(api_token).where(api_token.c.account_id == account_id)
    if connection.execute(mine).scalar_one() >= MOST_TOKENS:
        raise LedgerError(f"an account has at most {MOST_TOKENS} tokens; revoke one first")
    token = PREFIX + new_token()
    row = {
        "token_sha256": token_sha256(token),
        "id": secrets.token_hex(8),
        "account_id": account_id,
        "name": name,
        "scopes": " ".join(scope for scope in SCOPES if scope in scopes),
        "created_at": now,
        "expires_at": later(now, seconds),
    }
    connection.execute(insert(api_token), row)
    return str(row["id"]), token, str(row["expires_at"])


def read_token(connection: Connection, token: str, now: str) -> Bearer | None:
    """None when it has ended, was revoked, or its account may not come in."""
    row = connection.execute(prepared.TOKEN, {"sha256": token_sha256(token), "now": now}).first()
    known = by_id(connection, row.account_id) if row is not None else None
    if row is None or known is None:
        return None
    touch_due = row.last_used_at is None or row.last_used_at <= later(now, -TOUCH_SECONDS)
    return Bearer(known[0], row.id, tuple(row.scopes.split()), touch_due)


def touch_token(connection: Connection, token_id: str, now: str) -> None:
    connection.execute(update(api_token).where(api_token.c.id == token_id).values(last_used_at=now))


def tokens_of(connection: Connection, account_id: str, now: str) -> list[dict[str, Any]]:
    """An account's tokens that still work, the newest first."""
    mine = (api_token.c.account_id == account_id) & (api_token.c.expires_at > now)
    rows = select(api_token).where(mine).order_by(api_token.c.created_at.desc(), api_token.c.id)
    names = ("id", "name", "created_at", "expires_at", "last_used_at")
    return [
        {**{name: getattr(row, name) for name in names}, "scopes": row.scopes.split()}
        for row in connection.execute(rows)
    ]


def end_tokens(connection: Connection, account_id: str, *, token_id: str | None = None) -> int:
    """End one of an account's tokens, or all of them; how many ended."""
    chosen = api_token.c.account_id == account_id
    if token_id is not None:
        chosen &= api_token.c.id == token_id
    return connection.execute(delete(api_token).where(chosen)).rowcount
