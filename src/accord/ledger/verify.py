"""Does the ledger still say what it was told? Every hash again, every rule again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from accord.errors import LedgerError
from accord.ledger import (
    answers,
    audit,
    erasure,
    groups,
    judging,
    known,
    licences,
    lineage,
    media,
    projects,
    queue,
    reservations,
    schema,
    store,
)
from accord.records import Judgement, content_hash


@dataclass(frozen=True)
class VerifyReport:
    """`head` is the hash of the last audit entry: kept elsewhere, it proves that nothing was cut off."""

    ok: bool
    problems: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    head: str = ""


def verify(connection: Connection) -> VerifyReport:
    checks: tuple[Callable[[Connection], Iterable[str]], ...] = (
        _integrity,
        _foreign_keys,
        _texts,
        answers.damaged,
        media.damaged,
        erasure.left_over,
        groups.damaged,
        _chain,
        _objects,
        _assignments,
        _items,
        _statuses,
        _preferences,
        _releases,
    )
    problems: list[str] = []
    for check in checks:
        try:
            problems += check(connection)
        # A check that cannot even read what it checks has found damage.
        except (SQLAlchemyError, sqlite3.Error, LedgerError, LookupError, ValueError, TypeError) as error:
            problems.append(f"{check.__name__.strip('_')}: cannot be checked ({error})")
    table = schema.audit
    try:
        last = connection.execute(select(table.c.hash).order_by(table.c.seq.desc()).limit(1)).scalar()
        numbers = counts(connection)
    except (SQLAlchemyError, sqlite3.Error):
        last, numbers = None, {}
    return VerifyReport(not problems, tuple(problems), numbers, last or "")


def counts(connection: Connection) -> dict[str, int]:
    """How many of everything; `judgements` are the active ones."""

    def count(table: Any, *where: Any) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())

    active = schema.judgement.c.status == "active"
    return {
        "raters": count(schema.annotator),
        "guidelines": count(schema.guideline_version),
        "policies": count(schema.policy_version),
        "prompts": count(schema.prompt),
        "completions": count(schema.completion),
        "items": count(schema.item),
        "items_open": count(schema.item, schema.item.c.state == "open"),
        "leased": count(schema.assignment, schema.assignment.c.state == "leased"),
        "skipped": count(schema.assignment, schema.assignment.c.state == "skipped"),
        "judgements": count(schema.judgement, active),
        "superseded": count(schema.judgement, ~active),
        "releases": count(schema.release),
        "trainings": count(schema.training_input),
        "audit": count(schema.audit),
    }


def _integrity(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        for (line,) in connection.execute(text("PRAGMA integrity_check")):
            if line != "ok":
                yield f"sqlite integrity check: {line}"


def _foreign_keys(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        for table, row, target, _ in connection.execute(text("PRAGMA foreign_key_check")):
            yield f"{table} row {row} points to a row of {target} that does not exist"


def _texts(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(schema.guideline_version)):
        if content_hash(row.body) != row.id:
            yield f"guideline {row.id}: the text does not match its id"
    for row in connection.execute(select(schema.message)):
        if content_hash([row.role, row.content]) != row.id:
            yield f"message {row.id}: the text does not match its id"
    ids = connection.execute(select(schema.prompt.c.id)).scalars().all()
    gone = erasure.erased(connection, "prompt")
    for prompt_id, prompt in store.read_prompts(connection, ids).items():
        if prompt.id != prompt_id and prompt_id not in gone:
            yield f"prompt {prompt_id}: its messages do not match its id"
    ids = connection.execute(select(schema.completion.c.id)).scalars().all()
    gone = erasure.erased(connection, "completion")
    for completion_id, completion in store.read_completions(connection, ids).items():
        if completion.id != completion_id and completion_id not in gone:
            yield f"completion {completion_id}: its text or origin does not match its id"
    for row in connection.execute(select(schema.completion).where(schema.completion.c.id.not_in(gone))):
        if store.tokens_sha256(row.token_ids, row.logps, row.finish_reason) != row.tokens_sha256:
            yield f"completion {row.id}: its tokens or log-probabilities were changed"


def _chain(connection: Connection) -> Iterator[str]:
    prev_hash, expected = "", 1
    for row in connection.execute(select(schema.audit).order_by(schema.audit.c.seq)).mappings():
        if row["seq"] != expected:
            yield f"audit: entry {expected} is missing (the next is {row['seq']})"
        if row["prev_hash"] != prev_hash:
            yield f"audit entry {row['seq']} does not follow from the entry before it"
        if audit.chain_hash(dict(row)) != row["hash"]:
            yield f"audit entry {row['seq']}: its content does not match its hash"
        prev_hash, expected = row["hash"], row["seq"] + 1


def _objects(connection: Connection) -> Iterator[str]:
    """Everything that changes through the audit trail agrees with its last entry there."""
    rows = connection.execute(select(schema.audit).order_by(schema.audit.c.seq))
    recorded = {(row.object, row.object_id): row.detail_hash for row in rows}
    for key, detail in _details(connection):
        entry = recorded.pop(key, None)
        if entry is None:
            yield f"{key[0]} {key[1]} has no audit entry"
        elif entry != content_hash(detail):
            yield f"{key[0]} {key[1]} does not match its audit entry"
    gone = {(name, id_) for name in ("media", "project_media") for id_ in erasure.erased(connection, name)}
    for name, id_ in recorded.keys() - gone:
        yield f"{name} {id_} is in the audit trail, but not in the ledger"


def _details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    for row in connection.execute(select(schema.annotator)):
        yield ("annotator", row.id), [row.pseudonym, row.kind]
    for row in connection.execute(select(schema.guideline_version.c.id)):
        yield ("guideline_version", row.id), [row.id]
    for policy in connection.execute(select(schema.policy_version)).mappings():
        yield ("policy_version", policy["id"]), store.policy_detail(dict(policy))
    slots: dict[str, list[str]] = {}
    candidates = schema.item_candidate
    for row in connection.execute(select(candidates).order_by(candidates.c.item_id, candidates.c.slot)):
        slots.setdefault(row.item_id, []).append(row.completion_id)
    for item in connection.execute(select(schema.item)).mappings():
        yield ("item", item["id"]), queue.item_detail(dict(item), slots.get(item["id"], []))
    for row in connection.execute(select(schema.assignment).where(schema.assignment.c.state == "skipped")):
        yield ("assignment", row.id), queue.skip_detail(row.item_id, row.annotator_id, row.skip_reason)
    for judged in _judgements(connection):
        yield ("judgement", judged.id), judging.content(judged)
    for row in connection.execute(select(schema.release)):
        yield ("release", row.id), [row.name, row.hash]
    for row in connection.execute(select(schema.training_input)):
        detail = lineage.training_detail(row.model, row.release_id, row.run)
        yield ("training_input", content_hash(detail)), detail
    yield from answers.details(connection)
    yield from projects.details(connection)
    yield from known.details(connection)
    yield from groups.details(connection)
    yield from licences.details(connection)
    yield from reservations.details(connection)
    yield from media.details(connection)
    yield from erasure.details(connection)


def _judgements(connection: Connection) -> list[Judgement]:
    return judging.read_judgements(connection, include_superseded=True, purposes=judging.EVERYTHING)


def _assignments(connection: Connection) -> Iterator[str]:
    slots: dict[str, int] = {}
    for row in connection.execute(select(schema.item_candidate.c.item_id)):
        slots[row.item_id] = slots.get(row.item_id, 0) + 1
    shown: dict[str, list[int]] = {}
    seen = schema.presentation
    for row in connection.execute(select(seen).order_by(seen.c.assignment_id, seen.c.position)):
        shown.setdefault(row.assignment_id, []).append(row.slot)
    standing = schema.judgement.c.status.in_(("active", "withdrawn"))
    answered = {row.assignment_id for row in connection.execute(select(schema.judgement).where(standing))}
    for row in connection.execute(select(schema.assignment)):
        if tuple(shown.get(row.id, ())) != queue.sides(row.shown_seed, slots.get(row.item_id, 0)):
            yield f"assignment {row.id}: the sides on record are not those that were drawn"
        if (row.state == "submitted") != (row.id in answered):
            yield f"assignment {row.id} is {row.state}, which does not agree with its judgements"


def _items(connection: Connection) -> Iterator[str]:
    states = schema.assignment.c
    taken: dict[tuple[str, str], int] = {}
    numbers = select(states.item_id, states.state, func.count()).where(states.purpose == "judge")
    numbers = numbers.group_by(states.item_id, states.state)
    for item_id, state, number in connection.execute(numbers):
        taken[item_id, state] = number
    gone = erasure.erased(connection, "item")
    for row in connection.execute(select(schema.item)):
        submitted = taken.get((row.id, "submitted"), 0)
        live = submitted + taken.get((row.id, "leased"), 0)
        if live > row.target_overlap:
            yield f"item {row.id} has {live} answers given or under way, and wants {row.target_overlap}"
        if (row.state == "done") != (submitted >= row.target_overlap or row.id in gone):
            yield f"item {row.id} is {row.state} with {submitted} of {row.target_overlap} answers"


def _preferences(connection: Connection) -> Iterator[str]:
    """Of k answers, every two are compared once."""
    said, slot = schema.preference.c, schema.presentation.c
    shown = select(slot.assignment_id, func.count().label("k")).group_by(slot.assignment_id).subquery()
    rows = (
        select(schema.judgement.c.id, shown.c.k, func.count(said.slot_hi).label("n"))
        .select_from(schema.judgement.join(shown, shown.c.assignment_id == schema.judgement.c.assignment_id))
        .outerjoin(schema.preference, said.judgement_id == schema.judgement.c.id)
        .group_by(schema.judgement.c.id, shown.c.k)
    )
    for row in connection.execute(rows):
        if row.n != row.k * (row.k - 1) // 2:
            yield f"judgement {row.id}: {row.n} preferences are on record for {row.k} answers"


def _statuses(connection: Connection) -> Iterator[str]:
    who = schema.assignment.c
    columns = select(schema.judgement, who.annotator_id, who.item_id).join(schema.assignment)
    rows = connection.execute(columns).all()
    superseded = {row.supersedes_id for row in rows}
    withdrawn, gone = answers.withdrawn_annotators(connection), erasure.erased(connection, "item")
    for row in rows:
        expected = "withdrawn" if row.annotator_id in withdrawn or row.item_id in gone else "active"
        expected = "superseded" if row.id in superseded else expected
        if row.status != expected:
            yield f"judgement {row.id} is {row.status}, but should be {expected}"


def _releases(connection: Connection) -> Iterator[str]:
    judgements = _judgements(connection)
    now = {judged.id: lineage.row_hash(judged) for judged in judgements}
    rows: dict[str, list[str]] = {}
    for row in connection.execute(select(schema.release_row)):
        rows.setdefault(row.release_id, []).append(row.row_hash)
        if now.get(row.judgement_id) != row.row_hash:
            yield f"release {row.release_id}: judgement {row.judgement_id} is not as it was released"
    for row in connection.execute(select(schema.release)):
        if lineage.release_hash(rows.get(row.id, ())) != row.hash:
            yield f"release {row.name!r}: its rows do not match its hash"
