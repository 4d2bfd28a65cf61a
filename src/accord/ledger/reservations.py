"""Queues per rater: questions that are kept for some of a project's people.

A reservation names the reason under which questions are asked (the name of an import, of a strategy) and the
raters who get them before all others, or alone. It covers what comes in later under that reason too. What is
before somebody already stays there, and places are counted as ever: a reservation only says who may lease.
It ends when a manager ends it and never by itself: whoever wanted experts does not want their questions to
fall to anybody because one of them left. So `queues` tells what waits for whom, and what nobody can finish.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from accord.errors import LedgerError
from accord.ledger import audit, prepared
from accord.ledger.prepared import LIVE, LIVE_TALK
from accord.ledger.schema import annotator, assignment, item
from accord.ledger.team_schema import account, membership, project_item, reservation, reservation_rater

JUDGING = ("owner", "manager", "adjudicator", "rater")  # roles that may judge
LONGEST = 1000


def reserve(
    connection: Connection,
    project_id: str,
    reason: str,
    pseudonyms: Sequence[str],
    *,
    exclusive: bool,
    now: str,
) -> str:
    """Keep the questions asked for `reason` for these members; the id. It replaces what was said before.

    With `exclusive` nobody else gets them; without, they come first to these and last to the others. Raises
    LedgerError for nobody, for somebody who may not judge in the project, and for talks.
    """
    if not reason or len(reason) > LONGEST:
        raise LedgerError(
            f"questions are kept by the name under which they came in, 1 to {LONGEST} characters"
        )
    if f"{reason} ".startswith(LIVE_TALK):
        raise LedgerError("talks belong to whoever talks and cannot be kept for others")
    there = people(connection, project_id)
    ids = {there[name]["annotator"] for name in pseudonyms if name in there}
    if unknown := sorted(set(pseudonyms) - there.keys()):
        raise LedgerError(f"{unknown[0]!r} may not judge in this project; choose among its members")
    if not ids:
        raise LedgerError("name at least one person for whom the questions are kept")
    standing = (reservation.c.project_id == project_id) & (reservation.c.reason == reason)
    for old in connection.execute(select(reservation.c.id).where(standing, reservation.c.ended_at.is_(None))):
        release(connection, project_id, old.id, now)
    reservation_id = secrets.token_hex(8)
    row = {"id": reservation_id, "project_id": project_id, "reason": reason, "created_at": now}
    connection.execute(insert(reservation), row | {"exclusive": exclusive})
    raters = [{"reservation_id": reservation_id, "annotator_id": id_} for id_ in sorted(ids)]
    connection.execute(insert(reservation_rater), raters)
    _audit(connection, reservation_id, "reserve", now)
    return reservation_id


def release(connection: Connection, project_id: str, reservation_id: str, now: str) -> bool:
    """Let everybody have them. False when the project has no such reservation that stands."""
    mine = (reservation.c.id == reservation_id) & (reservation.c.project_id == project_id)
    change = update(reservation).where(mine, reservation.c.ended_at.is_(None)).values(ended_at=now)
    if connection.execute(change).rowcount != 1:
        return False
    _audit(connection, reservation_id, "release", now)
    return True


def people(connection: Connection, project_id: str) -> dict[str, dict[str, str]]:
    """Who may judge in a project, by pseudonym: annotator and login."""
    columns = select(annotator.c.pseudonym, annotator.c.id, account.c.login).select_from(
        membership.join(account, account.c.id == membership.c.account_id).join(
            annotator, annotator.c.id == account.c.annotator_id
        )
    )
    here = columns.where(
        membership.c.project_id == project_id,
        membership.c.role.in_(JUDGING),
        account.c.disabled_at.is_(None),
    )
    rows = connection.execute(here.order_by(annotator.c.pseudonym))
    return {row.pseudonym: {"annotator": row.id, "login": row.login or ""} for row in rows}


def queues(connection: Connection, project_id: str, *, gold_apart: bool = False) -> list[dict[str, Any]]:
    """What is kept for whom, oldest first.

    `waiting` questions are open; of those, `stuck` ones want more answers than the people who are named and
    still here can give (none where others get them last). `gold_apart`: gold questions only come as checks.
    """
    standing = select(reservation).where(
        reservation.c.project_id == project_id, reservation.c.ended_at.is_(None)
    )
    here = people(connection, project_id)
    found = []
    for row in connection.execute(standing.order_by(reservation.c.created_at, reservation.c.id)).all():
        named = select(annotator.c.pseudonym).join(reservation_rater)
        named = named.where(reservation_rater.c.reservation_id == row.id).order_by(annotator.c.pseudonym)
        raters = [
            {"pseudonym": name, "login": here.get(name, {}).get("login", ""), "here": name in here}
            for name in connection.execute(named).scalars()
        ]
        able = [here[rater["pseudonym"]]["annotator"] for rater in raters if rater["here"]]
        waiting = _missing(connection, project_id, row.reason, able, gold_apart=gold_apart)
        stuck = sum(places > who for places, who in waiting) if row.exclusive else 0
        about = {"id": row.id, "reason": row.reason, "exclusive": row.exclusive, "created_at": row.created_at}
        found.append(about | {"raters": raters, "waiting": len(waiting), "stuck": stuck})
    return found


def _missing(
    connection: Connection, project_id: str, reason: str, able: Sequence[str], *, gold_apart: bool
) -> list[tuple[int, int]]:
    """Of each open question: places that nobody fills yet, and how many of these people could."""
    mine = assignment.c.annotator_id.in_(able) & assignment.c.state.in_((*LIVE, "skipped"))
    seen = select(func.count(assignment.c.annotator_id.distinct()))
    seen_by = seen.where(assignment.c.item_id == item.c.id, mine).scalar_subquery()
    columns = select(item.c.target_overlap, prepared.places_taken().label("taken"), seen_by.label("seen"))
    open_ = columns.select_from(item.join(project_item)).where(
        project_item.c.project_id == project_id, item.c.reason == reason, item.c.state == "open"
    )
    if gold_apart:
        open_ = open_.where(prepared.NOT_GOLD)
    return [(row.target_overlap - row.taken, len(able) - row.seen) for row in connection.execute(open_)]


def reasons(connection: Connection, project_id: str) -> list[str]:
    """Names under which questions of a project came in, but for talks."""
    rows = select(item.c.reason).distinct().select_from(item.join(project_item))
    here = rows.where(project_item.c.project_id == project_id, item.c.reason.not_like(f"{LIVE_TALK}%"))
    return list(connection.execute(here.order_by(item.c.reason)).scalars())


def _audit(connection: Connection, reservation_id: str, action: str, now: str) -> None:
    detail = next(said for key, said in details(connection) if key[1] == reservation_id)
    audit.append(connection, [audit.Entry(action, "reservation", reservation_id, detail)], now)


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], list[Any]]]:
    """What `verify` compares with the audit trail."""
    raters: dict[str, list[str]] = {}
    columns = select(reservation_rater).order_by(reservation_rater.c.annotator_id)
    for row in connection.execute(columns):
        raters.setdefault(row.reservation_id, []).append(row.annotator_id)
    for row in connection.execute(select(reservation)):
        said = [row.project_id, row.reason, row.exclusive, raters.get(row.id, []), row.ended_at is not None]
        yield ("reservation", row.id), said
