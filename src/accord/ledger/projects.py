"""Projects: questions that belong together, the guideline in force, and how far everybody is."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, exists, func, insert, select, update

from accord.errors import LedgerError
from accord.ledger import audit, database, erasure, prepared, queue, store
from accord.ledger.schema import annotator, assignment, guideline_version, item, judgement
from accord.ledger.team_schema import (
    account,
    gold,
    invitation,
    membership,
    project,
    project_guideline,
    project_item,
    session,
)
from accord.records import Question

NAME_LENGTH = 200
REPEAT_AFTER = 20  # questions that a rater answers before one of them may come again
ROUNDED_TO = 5  # the number of questions left, where some may be checks
MOST_OVERLAP = 100
DISPUTED_BELOW = 0.3  # the mean tau-b of a ranking's answers, unless the project says otherwise


@dataclass(frozen=True)
class Guideline:
    n: int
    id: str
    text: str
    created_at: str


@dataclass(frozen=True)
class Rates:
    """Which share of a rater's questions are checks on her; see checks.py."""

    gold: float = 0.0
    repeat: float = 0.0


NO_CHECKS = Rates()


@dataclass(frozen=True)
class Project:
    id: str
    name: str
    state: str
    overlap: int
    form: Mapping[str, Any]
    guideline_id: str
    guideline_n: int
    created_at: str

    @property
    def rates(self) -> Rates:
        return Rates(**self.form.get("checks", {}))

    @property
    def disputed_below(self) -> float:
        """A ranking is disputed where the mean tau-b of its answers is less; see adjudication.py."""
        return float(self.form.get("disputes", {}).get("below", DISPUTED_BELOW))


@dataclass(frozen=True)
class Progress:
    """One rater's: `left` counts open questions that she has not seen or holds.

    Where checks may come it is rounded up, or a count that stays the same would tell which were checks.
    """

    answered: int
    skipped: int
    left: int


# The project itself


def add_project(
    connection: Connection, name: str, guideline: str, *, overlap: int, form: Mapping[str, Any], now: str
) -> str:
    project_id = secrets.token_hex(8)
    row = {
        "id": project_id,
        "name": name,
        "state": "open",
        "overlap": overlap,
        "form": store.canonical_json(dict(form)),
        "created_at": now,
    }
    _check(row)
    connection.execute(insert(project), row)
    _audit(connection, project_id, "add", now)
    publish_guideline(connection, project_id, guideline, now)
    return project_id


def change_project(connection: Connection, project_id: str, changes: Mapping[str, Any], now: str) -> None:
    """`changes`: name, state, overlap and form, those that are to change."""
    row = dict(changes)
    if "form" in row:
        row["form"] = store.canonical_json(dict(row["form"]))
    _check(row)
    if row:
        connection.execute(update(project).where(project.c.id == project_id).values(**row))
        _audit(connection, project_id, "change", now)


def _check(row: Mapping[str, Any]) -> None:
    name = row.get("name", "a project")
    if not name.strip() or len(name) > NAME_LENGTH:
        raise LedgerError(f"a project's name has 1 to {NAME_LENGTH} characters")
    if not 1 <= row.get("overlap", 1) <= MOST_OVERLAP:
        raise LedgerError(f"overlap {row['overlap']}: from 1 to {MOST_OVERLAP} people can judge a question")


def project_detail(row: Mapping[str, Any]) -> list[Any]:
    return [row["name"], row["state"], row["overlap"], row["form"]]


def _audit(connection: Connection, project_id: str, action: str, now: str) -> None:
    row = connection.execute(select(project).where(project.c.id == project_id)).mappings().one()
    audit.append(connection, [audit.Entry(action, "project", project_id, project_detail(dict(row)))], now)


def find_project(connection: Connection, project_id: str) -> Project | None:
    row = connection.execute(prepared.PROJECT, {"id": project_id}).first()
    if row is None:
        return None
    form = json.loads(row.form)
    return Project(row.id, row.name, row.state, row.overlap, form, row.guideline_id, row.n, row.created_at)


def all_projects(connection: Connection) -> list[str]:
    return list(connection.execute(select(project.c.id).order_by(project.c.created_at)).scalars())


def projects_of(connection: Connection, account_id: str) -> dict[str, str]:
    """Role by project id, oldest project first."""
    columns = select(project.c.id, membership.c.role).join(membership)
    mine = columns.where(membership.c.account_id == account_id, membership.c.role.is_not(None))
    return {row.id: row.role for row in connection.execute(mine.order_by(project.c.created_at))}


# Guidelines


def publish_guideline(connection: Connection, project_id: str, text: str, now: str) -> int:
    """The number of the version in force: a new one, unless the text is the one in force already."""
    if not text.strip():
        raise LedgerError("a guideline needs a text: without one, raters do not know what better means")
    versions = guidelines(connection, project_id)
    guideline_id = store.add_guideline(connection, text, now)
    if versions and versions[0].id == guideline_id:
        return versions[0].n
    n = versions[0].n + 1 if versions else 1
    row = {"project_id": project_id, "n": n, "guideline_id": guideline_id, "created_at": now}
    connection.execute(insert(project_guideline), row)
    entry = audit.Entry("publish", "project_guideline", f"{project_id}:{n}", [guideline_id])
    audit.append(connection, [entry], now)
    return n


def guidelines(connection: Connection, project_id: str) -> list[Guideline]:
    """Every version, newest first."""
    columns = select(project_guideline, guideline_version.c.body).join(guideline_version)
    rows = columns.where(project_guideline.c.project_id == project_id).order_by(project_guideline.c.n.desc())
    return [Guideline(r.n, r.guideline_id, r.body, r.created_at) for r in connection.execute(rows)]


# Questions


def add_questions(
    connection: Connection, project_id: str, questions: Sequence[Question], now: str, *, priority: int = 0
) -> tuple[int, int]:
    """Ask them in this project: how many are new to it, and how many were in this or another one already.

    A question of another project stays as that project asked it, and what was erased stays away.
    """
    asked = [queue.item_id_of(question.group) for question in questions]
    home, gone = _projects_of_items(connection, asked), erasure.refused(connection, questions, asked)
    mine = {id_ for id_ in asked if home.get(id_, project_id) == project_id} - gone
    free = [question for id_, question in zip(asked, questions, strict=True) if id_ in mine]
    ids = dict.fromkeys(queue.ask(connection, free, now))
    new = [item_id for item_id in ids if item_id not in home]
    _include(connection, project_id, new, priority)
    return len(new), len(questions) - len(new)


def _projects_of_items(connection: Connection, item_ids: Sequence[str]) -> dict[str, str]:
    return {
        row.item_id: row.project_id
        for some in store.chunks(dict.fromkeys(item_ids))
        for row in connection.execute(select(project_item).where(project_item.c.item_id.in_(some)))
    }


def _include(connection: Connection, project_id: str, item_ids: Sequence[str], priority: int) -> None:
    rows = [{"item_id": i, "project_id": project_id, "priority": priority} for i in item_ids]
    if rows:
        connection.execute(insert(project_item), rows)
        database.learn_sizes(connection, (item, project_item), len(rows))


def unassigned(connection: Connection) -> list[str]:
    """Items of the ledger that are in no project."""
    free = ~exists().where(project_item.c.item_id == item.c.id)
    return list(connection.execute(select(item.c.id).where(free).order_by(item.c.seq)).scalars())


def adopt(connection: Connection, project_id: str) -> int:
    """Take the ledger's items that are in no project into this one; how many."""
    _include(connection, project_id, found := unassigned(connection), 0)
    return len(found)


def item_ids(connection: Connection, project_id: str) -> list[str]:
    rows = select(item.c.id).join(project_item).where(project_item.c.project_id == project_id)
    return list(connection.execute(rows.order_by(item.c.seq)).scalars())


def project_of_item(connection: Connection, item_id: str) -> str | None:
    column = select(project_item.c.project_id).where(project_item.c.item_id == item_id)
    return connection.execute(column).scalar()


def set_gold(connection: Connection, answers: Mapping[str, int], now: str) -> None:
    """Note the known answers of items: positive means that slot 0 is better. The first one stays."""
    rows = [{"item_id": i, "strength": strength, "created_at": now} for i, strength in answers.items()]
    store.insert_new(connection, gold, rows)


def gold_answers(connection: Connection, project_id: str) -> dict[str, int]:
    rows = select(gold).join(project_item, project_item.c.item_id == gold.c.item_id)
    rows = rows.where(project_item.c.project_id == project_id)
    return {row.item_id: row.strength for row in connection.execute(rows)}


# How far


def progress(
    connection: Connection, project_id: str, annotator_id: str, rates: Rates = NO_CHECKS
) -> Progress:
    mine, items = prepared.MINE, prepared.OPEN_ITEMS
    if rates.gold:  # then no gold question is asked as an ordinary one
        mine, items = prepared.MINE_NOT_GOLD, prepared.OPEN_ITEMS_NOT_GOLD
    rows = connection.execute(mine, {"rater": annotator_id, "project": project_id}).all()
    done = {state: sum(r.n for r in rows if r.state == state) for state in ("submitted", "skipped")}
    votes = [r for r in rows if r.purpose == "judge"]
    seen = sum(r.n for r in votes if r.item_state == "open" and r.state != "leased")
    left = connection.execute(items, {"rater": annotator_id, "project": project_id}).scalar_one() - seen
    left += sum(r.n for r in votes if r.item_state == "kept" and r.state == "leased")
    if _may_be_checked(connection, project_id, rates, done["submitted"]):
        left = -(-left // ROUNDED_TO) * ROUNDED_TO
    return Progress(done["submitted"], done["skipped"], left)


def _may_be_checked(connection: Connection, project_id: str, rates: Rates, answered: int) -> bool:
    if rates.repeat and answered >= REPEAT_AFTER:
        return True
    return (
        bool(rates.gold)
        and connection.execute(prepared.HAS_GOLD, {"project": project_id}).scalar() is not None
    )


def counts(connection: Connection, project_id: str) -> dict[str, int]:
    """Questions, how many of them are open or done, votes wanted and given, and skips."""
    columns = select(item.c.state, func.count().label("n"), func.sum(item.c.target_overlap).label("wanted"))
    rows = columns.select_from(item.join(project_item)).where(project_item.c.project_id == project_id)
    found = {row.state: row for row in connection.execute(rows.group_by(item.c.state))}
    given = (
        select(assignment.c.state, func.count().label("n"))
        .select_from(assignment.join(project_item, project_item.c.item_id == assignment.c.item_id))
        .where(project_item.c.project_id == project_id, assignment.c.purpose == "judge")
        .group_by(assignment.c.state)
    )
    states = {row.state: row.n for row in connection.execute(given)}
    return {
        "items": sum(row.n for row in found.values()),
        "open": found["open"].n if "open" in found else 0,
        "done": found["done"].n if "done" in found else 0,
        "wanted": sum(int(row.wanted) for row in found.values()),
        "answered": states.get("submitted", 0),
        "skipped": states.get("skipped", 0),
    }


def sources(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """Why questions were asked, with how many there are and how many are done."""
    done = func.sum(case((item.c.state == "done", 1), else_=0))
    columns = select(item.c.reason, func.count().label("items"), done.label("done"))
    rows = columns.select_from(item.join(project_item)).where(project_item.c.project_id == project_id)
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute(rows.group_by(item.c.reason).order_by(item.c.reason)):
        reason = prepared.short_reason(row.reason)
        before = found.get(reason, {"items": 0, "done": 0})
        new = {"items": before["items"] + row.items, "done": before["done"] + int(row.done)}
        found[reason] = {"reason": reason, **new}
    return list(found.values())


# People


def members(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """Everybody with a role."""
    seen = select(func.max(session.c.last_seen_at)).where(session.c.account_id == account.c.id)
    answered = (
        select(func.count())
        .select_from(assignment.join(project_item, project_item.c.item_id == assignment.c.item_id))
        .where(assignment.c.annotator_id == account.c.annotator_id, assignment.c.state == "submitted")
        .where(project_item.c.project_id == project_id)
    )
    columns = (
        select(account.c.id, account.c.login, account.c.disabled_at, annotator.c.pseudonym, membership.c.role)
        .add_columns(seen.scalar_subquery().label("seen"), answered.scalar_subquery().label("answered"))
        .select_from(membership.join(account).join(annotator))
        .where(membership.c.project_id == project_id, membership.c.role.is_not(None))
        .order_by(annotator.c.pseudonym)
    )
    return [
        {
            "account": row.id,
            "login": row.login or "",
            "pseudonym": row.pseudonym,
            "role": row.role,
            "answered": row.answered,
            "last_seen": row.seen,
            "disabled": row.disabled_at is not None,
        }
        for row in connection.execute(columns)
    ]


def invitations(connection: Connection, project_id: str, now: str) -> list[dict[str, Any]]:
    columns = select(invitation, annotator.c.pseudonym).select_from(
        invitation.outerjoin(account, account.c.id == invitation.c.used_by).outerjoin(annotator)
    )
    rows = connection.execute(columns.where(invitation.c.project_id == project_id))
    found = []
    for row in sorted(rows, key=lambda row: row.created_at, reverse=True):
        state = "used" if row.used_by else "revoked" if row.revoked_at else "open"
        state = "expired" if state == "open" and row.expires_at <= now else state
        times = {"created_at": row.created_at, "expires_at": row.expires_at}
        found.append({"id": row.id, "role": row.role, "used_by": row.pseudonym, "state": state, **times})
    return found


def my_judgements(
    connection: Connection,
    project_id: str,
    annotator_id: str,
    *,
    before: str | None = None,
    purposes: Sequence[str] = prepared.QUEUED,
) -> list[str]:
    """Ids of a rater's active judgements, by when their question was first answered, newest first."""
    first = judgement.alias()
    answered = select(func.min(first.c.submitted_at)).where(first.c.assignment_id == assignment.c.id)
    rows = (
        select(judgement.c.id)
        .select_from(
            judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
        )
        .where(assignment.c.annotator_id == annotator_id, judgement.c.status == "active")
        .where(project_item.c.project_id == project_id, assignment.c.purpose.in_(purposes))
        .order_by(answered.scalar_subquery().desc(), judgement.c.id)
    )
    ids = list(connection.execute(rows).scalars())
    return ids[ids.index(before) + 1 :] if before in ids else ids


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    """What `verify` compares with the audit trail."""
    from accord.ledger.accounts import account_detail, invitation_detail

    for row in connection.execute(select(project)).mappings():
        yield ("project", row["id"]), project_detail(dict(row))
    for row in connection.execute(select(project_guideline)).mappings():
        yield ("project_guideline", f"{row['project_id']}:{row['n']}"), [row["guideline_id"]]
    for row in connection.execute(select(membership)).mappings():
        yield ("membership", f"{row['project_id']}:{row['account_id']}"), [row["role"]]
    for row in connection.execute(select(account)).mappings():
        yield ("account", row["id"]), account_detail(dict(row))
    for row in connection.execute(select(invitation)).mappings():
        yield ("invitation", row["id"]), invitation_detail(dict(row))
