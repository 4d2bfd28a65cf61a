"""Who may come in: accounts, sessions, invitations, and roles in projects.

A person's name stands in `account.login` alone; whatever is exported or shown beside judgements uses the
pseudonym. Of session tokens and links only the SHA-256 is kept, so reading the database lets nobody in.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from accord.errors import LedgerError
from accord.ledger import audit, groups, prepared, queue
from accord.ledger.queue import later
from accord.ledger.team_schema import account, invitation, membership, session

LOGIN_LENGTH = 64
IDLE_SECONDS = 3 * 86_400.0
LONGEST_SECONDS = 14 * 86_400.0
TOUCH_SECONDS = 300.0  # how exactly `last_seen_at` is kept


@dataclass(frozen=True)
class Account:
    id: str
    annotator_id: str
    pseudonym: str
    login: str
    admin: bool


@dataclass(frozen=True)
class Invitation:
    id: str
    project_id: str | None
    role: str


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    return secrets.token_urlsafe(32)


# Accounts


def login_key(login: str) -> str:
    """Logins that look the same are the same."""
    return unicodedata.normalize("NFKC", login).casefold()


def add_account(connection: Connection, login: str, password_hash: str, *, admin: bool, now: str) -> str:
    if not 1 <= len(login) <= LOGIN_LENGTH or not login.isprintable() or login != login.strip():
        raise LedgerError(
            f"a login has 1 to {LOGIN_LENGTH} visible characters, and no space before or after them"
        )
    key = login_key(login)
    if connection.execute(select(account.c.id).where(account.c.login_key == key)).first() is not None:
        raise LedgerError("this login is taken; choose another one")
    annotator_id = queue.add_rater(connection, f"r-{secrets.token_hex(5)}", "human", now)
    account_id = secrets.token_hex(8)
    row = {
        "id": account_id,
        "annotator_id": annotator_id,
        "login": login,
        "login_key": key,
        "password_hash": password_hash,
        "admin": admin,
        "created_at": now,
    }
    connection.execute(insert(account), row)
    _audit_account(connection, account_id, "add", now)
    return account_id


def account_detail(row: Mapping[str, Any]) -> list[Any]:
    """No personal data: what is hashed here stays for good."""
    return [row["annotator_id"], bool(row["admin"]), row["disabled_at"] is not None]


def _audit_account(connection: Connection, account_id: str, action: str, now: str) -> None:
    row = connection.execute(select(account).where(account.c.id == account_id)).mappings().one()
    audit.append(connection, [audit.Entry(action, "account", account_id, account_detail(dict(row)))], now)


def by_login(connection: Connection, login: str) -> tuple[Account, str] | None:
    found = connection.execute(select(account.c.id).where(account.c.login_key == login_key(login))).scalar()
    return None if found is None else by_id(connection, found)


def by_id(connection: Connection, account_id: str) -> tuple[Account, str] | None:
    """An account that may sign in, with its password's hash."""
    row = connection.execute(prepared.ACCOUNT, {"id": account_id}).first()
    if row is None:
        return None
    return Account(row.id, row.annotator_id, row.pseudonym, row.login, row.admin), row.password_hash


def exists(connection: Connection, account_id: str) -> bool:
    """Also of an account that is disabled or erased."""
    return connection.execute(select(account.c.id).where(account.c.id == account_id)).first() is not None


def sessions_of(connection: Connection, account_id: str, token: str) -> list[dict[str, Any]]:
    """An account's sessions, the newest first; `current` is the one of `token`."""
    rows = select(session).where(session.c.account_id == account_id).order_by(session.c.created_at.desc())
    return [
        {
            "id": row.id,
            "created_at": row.created_at,
            "last_seen_at": row.last_seen_at,
            "current": row.token_sha256 == token_sha256(token),
        }
        for row in connection.execute(rows)
    ]


def has_admin(connection: Connection) -> bool:
    condition = account.c.admin & account.c.disabled_at.is_(None)
    return connection.execute(select(account.c.id).where(condition)).first() is not None


def set_password(connection: Connection, account_id: str, password_hash: str) -> None:
    connection.execute(update(account).where(account.c.id == account_id).values(password_hash=password_hash))


def set_disabled(connection: Connection, account_id: str, disabled: bool, now: str) -> None:
    """A disabled account is signed out everywhere."""
    change = update(account).where(account.c.id == account_id).values(disabled_at=now if disabled else None)
    if connection.execute(change).rowcount != 1:
        raise LedgerError(f"account {account_id!r} is not in the ledger; check the id")
    if disabled:
        end_sessions(connection, account_id)
    _audit_account(connection, account_id, "disable" if disabled else "enable", now)


# Sessions


def start_session(connection: Connection, account_id: str, now: str) -> str:
    """The token of a new session."""
    token = new_token()
    row = {
        "token_sha256": token_sha256(token),
        "id": secrets.token_hex(8),
        "account_id": account_id,
        "created_at": now,
        "last_seen_at": now,
    }
    connection.execute(insert(session), row)
    connection.execute(delete(session).where(_ended(now)))
    return token


def _ended(now: str) -> ColumnElement[bool]:
    idle = session.c.last_seen_at <= later(now, -IDLE_SECONDS)
    return idle | (session.c.created_at <= later(now, -LONGEST_SECONDS))


def read_session(connection: Connection, token: str, now: str) -> tuple[Account, bool] | None:
    """Whose session it is, and whether `touch_session` is due; None when it has ended."""
    mine = {"sha256": token_sha256(token)}
    lives = {"idle": later(now, -IDLE_SECONDS), "oldest": later(now, -LONGEST_SECONDS)}
    row = connection.execute(prepared.SESSION, mine | lives).first()
    found = by_id(connection, row.account_id) if row is not None else None
    if row is None or found is None:
        return None
    return found[0], row.last_seen_at <= later(now, -TOUCH_SECONDS)


def touch_session(connection: Connection, token: str, now: str) -> None:
    mine = session.c.token_sha256 == token_sha256(token)
    connection.execute(update(session).where(mine).values(last_seen_at=now))


def end_session(connection: Connection, token: str) -> None:
    connection.execute(delete(session).where(session.c.token_sha256 == token_sha256(token)))


def end_sessions(
    connection: Connection, account_id: str, *, session_id: str | None = None, but: str = ""
) -> int:
    """End one of an account's sessions, or all but that of the token `but`; how many ended."""
    chosen = session.c.account_id == account_id
    if session_id is not None:
        chosen &= session.c.id == session_id
    if but:
        chosen &= session.c.token_sha256 != token_sha256(but)
    return connection.execute(delete(session).where(chosen)).rowcount


# Invitations


def invite(
    connection: Connection,
    project_id: str | None,
    role: str,
    *,
    created_by: str | None,
    seconds: float,
    now: str,
) -> tuple[str, str, str]:
    """A link that lets one person in, once: its id, its token (kept nowhere), and when it ends."""
    token = new_token()
    row = {
        "id": secrets.token_hex(8),
        "token_sha256": token_sha256(token),
        "project_id": project_id,
        "role": role,
        "created_by": created_by,
        "created_at": now,
        "expires_at": later(now, seconds),
    }
    connection.execute(insert(invitation), row)
    _audit_invitation(connection, str(row["id"]), "invite", now)
    return str(row["id"]), token, str(row["expires_at"])


def invitation_detail(row: Mapping[str, Any]) -> list[Any]:
    return [row["project_id"], row["role"], row["used_by"], row["revoked_at"] is not None]


def _audit_invitation(connection: Connection, invitation_id: str, action: str, now: str) -> None:
    found = select(invitation).where(invitation.c.id == invitation_id)
    detail = invitation_detail(dict(connection.execute(found).mappings().one()))
    audit.append(connection, [audit.Entry(action, "invitation", invitation_id, detail)], now)


def open_invitation(connection: Connection, token: str, now: str) -> Invitation | None:
    """The invitation of a link, while it is neither used nor revoked nor too old."""
    valid = (
        (invitation.c.token_sha256 == token_sha256(token))
        & invitation.c.used_by.is_(None)
        & invitation.c.revoked_at.is_(None)
        & (invitation.c.expires_at > now)
    )
    row = connection.execute(select(invitation).where(valid)).first()
    return None if row is None else Invitation(row.id, row.project_id, row.role)


def use_invitation(connection: Connection, found: Invitation, account_id: str, now: str) -> None:
    if found.project_id is not None:
        set_role(connection, found.project_id, account_id, found.role, now)
    change = update(invitation).where(invitation.c.id == found.id)
    connection.execute(change.values(used_by=account_id))
    _audit_invitation(connection, found.id, "use", now)


def revoke_invitation(connection: Connection, project_id: str | None, invitation_id: str, now: str) -> bool:
    """False when the project has no such invitation that is unused."""
    chosen = (invitation.c.id == invitation_id) & (invitation.c.project_id == project_id)
    unused = invitation.c.used_by.is_(None) & invitation.c.revoked_at.is_(None)
    if connection.execute(update(invitation).where(chosen, unused).values(revoked_at=now)).rowcount != 1:
        return False
    _audit_invitation(connection, invitation_id, "revoke", now)
    return True


def set_up_link(connection: Connection, *, seconds: float, now: str) -> str:
    """The token of a new link that makes an administrator; links made before stop working."""
    unused = (invitation.c.role == "admin") & invitation.c.used_by.is_(None)
    old = select(invitation.c.id).where(unused, invitation.c.revoked_at.is_(None))
    for invitation_id in connection.execute(old).scalars().all():
        revoke_invitation(connection, None, invitation_id, now)
    return invite(connection, None, "admin", created_by=None, seconds=seconds, now=now)[1]


# Roles


def role_of(connection: Connection, project_id: str, account_id: str) -> str | None:
    return connection.execute(prepared.ROLE, {"project": project_id, "account": account_id}).scalar()


def set_role(connection: Connection, project_id: str, account_id: str, role: str | None, now: str) -> None:
    """A role of None ends the membership; what the person judged stays, what she told goes."""
    mine = (membership.c.project_id == project_id) & (membership.c.account_id == account_id)
    if connection.execute(update(membership).where(mine).values(role=role)).rowcount == 0:
        row = {"project_id": project_id, "account_id": account_id, "role": role}
        connection.execute(insert(membership), row)
    if role is None:  # she cannot reach the page any more on which she would take it back
        who = select(account.c.annotator_id).where(account.c.id == account_id)
        groups.withdraw_consent(connection, project_id, connection.execute(who).scalar_one(), now)
    entry = audit.Entry("set", "membership", f"{project_id}:{account_id}", [role])
    audit.append(connection, [entry], now)
