"""What raters tell about themselves: only with consent, for figures of groups, and erased when they say so.

A value stands in `attribute_value` alone; the audit trail has its salted hash. Figures of groups are told of
whole batches of five people who gave the same value one after the other, and of a batch only while all five
are in it. So whoever compares yesterday's figures with today's finds five people, and not the one who came
or went (`accord.feedback.groups`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from accord.errors import LedgerError
from accord.ledger import audit
from accord.ledger.schema import annotator, assignment
from accord.ledger.team_schema import (
    attribute_choice,
    attribute_value,
    group_consent,
    project_attribute,
    project_item,
)

BATCH = 5  # people; accord.feedback.groups has the same
FIRST_ANSWERS = 10  # before somebody is asked: groups are of people who judge
NAME_LENGTH, MOST_CHOICES, MOST_ATTRIBUTES = 60, 40, 10
BASES = 1_000_000

STATEMENT = (
    "What for: to see whether groups of people want different answers. Nothing is decided about you by it.",
    "Who sees it: no page shows what you tell here to anybody but you. Owners, managers and viewers of this "
    "project see figures of groups, never of fewer than five people, and rounded. Whoever runs the server "
    "could read it in the database.",
    "What remains possible: in a small team, somebody who knows every answer could guess who is in a group.",
    "How long: until you take it back, here, at any time, without a reason. Then it is erased. It is also "
    "erased when the question is ended, when you leave the project, and when you withdraw.",
    "Every question may be left open, and nothing else depends on it.",
)


@dataclass(frozen=True)
class Attribute:
    id: str
    name: str
    choices: tuple[str, ...]
    created_at: str


# What is asked


def attributes(connection: Connection, project_id: str) -> list[Attribute]:
    """What a project asks, oldest first."""
    rows = select(project_attribute).where(
        project_attribute.c.project_id == project_id, project_attribute.c.ended_at.is_(None)
    )
    found = connection.execute(rows.order_by(project_attribute.c.created_at, project_attribute.c.id)).all()
    choices: dict[str, list[str]] = defaultdict(list)
    ids = [row.id for row in found]
    listed = select(attribute_choice).where(attribute_choice.c.attribute_id.in_(ids))
    for row in connection.execute(listed.order_by(attribute_choice.c.n)):
        choices[row.attribute_id].append(row.value)
    return [Attribute(row.id, row.name, tuple(choices[row.id]), row.created_at) for row in found]


def add_attribute(
    connection: Connection, project_id: str, name: str, choices: Sequence[str], now: str
) -> str:
    """Ask raters for one of these, or nothing. Raises LedgerError."""
    name, given = name.strip(), [choice.strip() for choice in choices]
    asked = attributes(connection, project_id)
    for text in (name, *given):
        if not 1 <= len(text) <= NAME_LENGTH or not text.isprintable():
            raise LedgerError(f"what is asked and each choice have 1 to {NAME_LENGTH} visible characters")
    if not 2 <= len(given) <= MOST_CHOICES or len(set(given)) < len(given):
        raise LedgerError(f"a question has 2 to {MOST_CHOICES} choices, each once")
    if name in (one.name for one in asked):
        raise LedgerError(f"{name!r} is asked already; end it before you ask anew")
    if len(asked) >= MOST_ATTRIBUTES:
        raise LedgerError(f"{MOST_ATTRIBUTES} questions are asked already; ask only for what you will use")
    attribute_id = secrets.token_hex(8)
    row = {"id": attribute_id, "project_id": project_id, "name": name, "created_at": now}
    connection.execute(insert(project_attribute), row)
    # Counting from an unknown number, so that nobody can tell from the next place whose value was erased.
    rows = [
        {"attribute_id": attribute_id, "n": n, "value": value, "given": BATCH * secrets.randbelow(BASES)}
        for n, value in enumerate(given)
    ]
    connection.execute(insert(attribute_choice), rows)
    _audit_attribute(connection, attribute_id, "ask", now)
    return attribute_id


def end_attribute(connection: Connection, project_id: str, attribute_id: str, now: str) -> bool:
    """Stop asking, and erase what was told. False when the project does not ask this."""
    mine = (project_attribute.c.id == attribute_id) & (project_attribute.c.project_id == project_id)
    change = update(project_attribute).where(mine, project_attribute.c.ended_at.is_(None))
    if connection.execute(change.values(ended_at=now)).rowcount != 1:
        return False
    _erase(connection, attribute_value.c.attribute_id == attribute_id)
    _audit_attribute(connection, attribute_id, "end", now)
    return True


def _audit_attribute(connection: Connection, attribute_id: str, action: str, now: str) -> None:
    found = {key[1]: detail for key, detail in _attribute_details(connection)}
    entry = audit.Entry(action, "project_attribute", attribute_id, found[attribute_id])
    audit.append(connection, [entry], now)


# What is told


def answered(connection: Connection, project_id: str, annotator_id: str) -> int:
    joined = assignment.join(project_item, project_item.c.item_id == assignment.c.item_id)
    mine = (assignment.c.annotator_id == annotator_id) & (assignment.c.state == "submitted")
    count = select(func.count()).select_from(joined).where(mine, project_item.c.project_id == project_id)
    return int(connection.execute(count).scalar_one())


def consented_at(connection: Connection, project_id: str, annotator_id: str) -> str | None:
    found = _consent(connection, project_id, annotator_id)
    return None if found is None else str(found.given_at)


def _consent(connection: Connection, project_id: str, annotator_id: str) -> Any:
    mine = (group_consent.c.project_id == project_id) & (group_consent.c.annotator_id == annotator_id)
    return connection.execute(
        select(group_consent).where(mine, group_consent.c.withdrawn_at.is_(None))
    ).first()


def own_values(connection: Connection, project_id: str, annotator_id: str) -> dict[str, str]:
    """What somebody has told in a project, by attribute."""
    columns = select(attribute_value.c.attribute_id, attribute_value.c.value).join(project_attribute)
    mine = columns.where(
        attribute_value.c.annotator_id == annotator_id,
        attribute_value.c.value.is_not(None),
        project_attribute.c.project_id == project_id,
    )
    return {row.attribute_id: row.value for row in connection.execute(mine)}


def tell(
    connection: Connection, project_id: str, annotator_id: str, values: Mapping[str, str], now: str
) -> None:
    """Consent to the statement, and tell these values; what is not among them or "" is not told any more.

    Raises LedgerError for what is not asked, and of somebody who has hardly judged.
    """
    asked = {one.id: one for one in attributes(connection, project_id)}
    for attribute_id, value in values.items():
        if attribute_id not in asked or value not in ("", *asked[attribute_id].choices):
            raise LedgerError("this is not asked any more, or not one of its choices; load the page again")
    if answered(connection, project_id, annotator_id) < FIRST_ANSWERS:
        raise LedgerError(f"you will be asked after your first {FIRST_ANSWERS} answers in this project")
    found = _consent(connection, project_id, annotator_id)
    consent_id = secrets.token_hex(8) if found is None else found.id
    if found is None:
        row = {"id": consent_id, "project_id": project_id, "annotator_id": annotator_id, "given_at": now}
        connection.execute(insert(group_consent), row | {"statement": "\n\n".join(STATEMENT)})
        _audit_consent(connection, consent_id, "consent", now)
    before = own_values(connection, project_id, annotator_id)
    for attribute_id in asked:
        value = values.get(attribute_id, "")
        if value != before.get(attribute_id, ""):
            mine = attribute_value.c.annotator_id == annotator_id
            _erase(connection, mine & (attribute_value.c.attribute_id == attribute_id))
            if value:
                _give(connection, attribute_id, annotator_id, consent_id, value, now)


def _give(
    connection: Connection, attribute_id: str, annotator_id: str, consent_id: str, value: str, now: str
) -> None:
    earlier = select(func.count()).where(
        attribute_value.c.attribute_id == attribute_id, attribute_value.c.annotator_id == annotator_id
    )
    n = int(connection.execute(earlier).scalar_one())
    chosen = (attribute_choice.c.attribute_id == attribute_id) & (attribute_choice.c.value == value)
    place = connection.execute(select(attribute_choice.c.given).where(chosen)).scalar_one()
    connection.execute(update(attribute_choice).where(chosen).values(given=place + 1))
    salt = secrets.token_hex(16)
    row = {
        "attribute_id": attribute_id,
        "annotator_id": annotator_id,
        "n": n,
        "consent_id": consent_id,
        "place": place,
        "value": value,
        "salt": salt,
        "value_sha256": _salted(salt, value),
        "given_at": now,
    }
    connection.execute(insert(attribute_value), row)
    key, detail = _value_detail(row)
    audit.append(connection, [audit.Entry("tell", *key, detail)], now)


def _erase(connection: Connection, which: Any) -> int:
    """Values are gone, and the batch of each is over: its other places will not be filled again."""
    told = connection.execute(select(attribute_value).where(which, attribute_value.c.value.is_not(None)))
    rows = told.all()
    for row in rows:
        chosen = attribute_choice.c.attribute_id == row.attribute_id
        chosen &= attribute_choice.c.value == row.value
        past = (row.place // BATCH + 1) * BATCH
        connection.execute(
            update(attribute_choice).where(chosen, attribute_choice.c.given < past).values(given=past)
        )
    gone = update(attribute_value).where(which, attribute_value.c.value.is_not(None))
    connection.execute(gone.values(value=None, salt=None, place=None))
    return len(rows)


def withdraw_consent(connection: Connection, project_id: str, annotator_id: str, now: str) -> int:
    """Erase what somebody told in a project; how many values."""
    found = _consent(connection, project_id, annotator_id)
    if found is None:
        return 0
    change = update(group_consent).where(group_consent.c.id == found.id)
    connection.execute(change.values(withdrawn_at=now))
    _audit_consent(connection, found.id, "withdraw", now)
    return _erase(connection, attribute_value.c.consent_id == found.id)


def forget(connection: Connection, annotator_id: str, now: str) -> int:
    """The same in every project."""
    mine = select(group_consent.c.project_id).where(
        group_consent.c.annotator_id == annotator_id, group_consent.c.withdrawn_at.is_(None)
    )
    projects = connection.execute(mine).scalars().all()
    return sum(withdraw_consent(connection, project_id, annotator_id, now) for project_id in projects)


def _audit_consent(connection: Connection, consent_id: str, action: str, now: str) -> None:
    row = connection.execute(select(group_consent).where(group_consent.c.id == consent_id)).mappings().one()
    entry = audit.Entry(action, "group_consent", consent_id, _consent_detail(dict(row)))
    audit.append(connection, [entry], now)


# What is told of groups


def batches(connection: Connection, project_id: str) -> dict[str, dict[str, list[tuple[str, ...]]]]:
    """By attribute and value, the batches of raters (pseudonyms) that are whole."""
    columns = select(attribute_value, annotator.c.pseudonym).join(
        project_attribute, project_attribute.c.id == attribute_value.c.attribute_id
    )
    joined = columns.join(annotator, annotator.c.id == attribute_value.c.annotator_id)
    live = joined.where(project_attribute.c.project_id == project_id, attribute_value.c.value.is_not(None))
    places: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for row in connection.execute(live.order_by(attribute_value.c.place)):
        places[row.attribute_id, row.value, row.place // BATCH].append(row.pseudonym)
    found: dict[str, dict[str, list[tuple[str, ...]]]] = {
        one.id: {value: [] for value in one.choices} for one in attributes(connection, project_id)
    }
    for (attribute_id, value, _), people in places.items():
        if len(people) == BATCH:
            found[attribute_id][value].append(tuple(people))
    return found


# Verification


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    """What `verify` compares with the audit trail."""
    yield from _attribute_details(connection)
    for row in connection.execute(select(group_consent)).mappings():
        yield ("group_consent", row["id"]), _consent_detail(dict(row))
    for row in connection.execute(select(attribute_value)).mappings():
        yield _value_detail(dict(row))


def _attribute_details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    choices: dict[str, list[str]] = defaultdict(list)
    for row in connection.execute(select(attribute_choice).order_by(attribute_choice.c.n)):
        choices[row.attribute_id].append(row.value)
    for row in connection.execute(select(project_attribute)):
        yield (
            ("project_attribute", row.id),
            [row.project_id, row.name, choices[row.id], row.ended_at is not None],
        )


def _consent_detail(row: Mapping[str, Any]) -> list[Any]:
    return [row["project_id"], row["annotator_id"], row["statement"], row["withdrawn_at"] is not None]


def _value_detail(row: Mapping[str, Any]) -> tuple[tuple[str, str], list[Any]]:
    name = f"{row['attribute_id']}:{row['annotator_id']}:{row['n']}"
    return ("attribute_value", name), [row["consent_id"], row["value_sha256"]]


def _salted(salt: str, value: str) -> str:
    return hashlib.sha256(f"{salt}{value}".encode()).hexdigest()


def damaged(connection: Connection) -> Iterator[str]:
    """Values that are not those that were told."""
    for row in connection.execute(select(attribute_value).where(attribute_value.c.value.is_not(None))):
        if _salted(row.salt, row.value) != row.value_sha256:
            yield f"attribute {row.attribute_id} of {row.annotator_id}: the value does not match its hash"
