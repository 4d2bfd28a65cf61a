"""Who is asked what: items, leases on them, and the side on which each answer is shown."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from accord.errors import LedgerError
from accord.ledger import audit, erasure, prepared, rankings
from accord.ledger.assigned import Assignment, Place, Rater, Wanted
from accord.ledger.prepared import LIVE
from accord.ledger.schema import annotator, assignment, item, item_candidate, presentation
from accord.ledger.store import add_groups, chunks, read_groups
from accord.records import Group, Question, RaterKind, content_hash

# Raters


def add_rater(connection: Connection, pseudonym: str, kind: RaterKind, now: str) -> str:
    if not pseudonym:
        raise LedgerError("a rater needs a pseudonym")
    if kind not in ("human", "model", "simulated"):
        raise LedgerError(f"rater {pseudonym!r}: kind {kind!r} is not one of human, model, simulated")
    old = connection.execute(select(annotator).where(annotator.c.pseudonym == pseudonym)).first()
    if old is not None:
        if old.kind != kind:
            raise LedgerError(
                f"rater {pseudonym!r} is recorded as {old.kind} and cannot become {kind}; use another "
                "pseudonym"
            )
        return str(old.id)
    rater_id = content_hash(["annotator", pseudonym])
    row = {"id": rater_id, "pseudonym": pseudonym, "kind": kind, "created_at": now}
    connection.execute(insert(annotator), row)
    audit.append(connection, [audit.Entry("add", "annotator", rater_id, [pseudonym, kind])], now)
    return rater_id


def find_rater(connection: Connection, rater: str) -> Rater:
    """By pseudonym or annotator id."""
    row = connection.execute(prepared.RATER, {"rater": rater}).first()
    if row is None:
        raise LedgerError(f"rater {rater!r} is not in the ledger; add_rater first")
    return Rater(row.id, row.pseudonym, row.kind)


# Questions


def item_id_of(group: Group) -> str:
    """The same whichever answer comes first."""
    kind = "pair" if len(group.completions) == 2 else "ranking"
    return content_hash([kind, group.prompt.id, sorted(c.id for c in group.completions)])


def item_detail(row: Mapping[str, Any], completion_ids: Sequence[str]) -> list[Any]:
    names = ("kind", "prompt_id", "reason", "target_overlap")
    return [*(row[name] for name in names), list(completion_ids)]


def ask(connection: Connection, questions: Sequence[Question], now: str) -> list[str]:
    """Make an item of each question that was not asked before; a larger overlap reopens an old one.

    One that was erased stays so. Raises LedgerError for a new one with an answer or medium that was erased.
    """
    for question in questions:
        _check_question(question)
    ids = [item_id_of(question.group) for question in questions]
    gone = erasure.refused(connection, questions, ids)
    if new := gone - erasure.erased(connection, "item", gone):
        raise LedgerError(
            f"question {min(new)} holds an answer or a medium that was erased at somebody's request and does "
            "not come in again; leave it out"
        )
    questions = [question for id_, question in zip(ids, questions, strict=True) if id_ not in gone]
    add_groups(connection, [question.group for question in questions], now)
    wanted: dict[str, Question] = {}
    for question in questions:
        item_id = item_id_of(question.group)
        if item_id not in wanted or question.overlap > wanted[item_id].overlap:
            wanted[item_id] = question
    old = {
        row["id"]: dict(row)
        for some in chunks(wanted)
        for row in connection.execute(select(item).where(item.c.id.in_(some))).mappings()
    }
    _insert_items(connection, {i: q for i, q in wanted.items() if i not in old}, now)
    raised = {i: q.overlap for i, q in wanted.items() if i in old and q.overlap > old[i]["target_overlap"]}
    _raise_overlap(connection, old, raised, now)
    return ids


def _check_question(question: Question) -> None:
    completions = question.group.completions
    of_pairs = question.kind == "pair"
    fewest, most = (2, 2) if of_pairs else (rankings.FEWEST, rankings.MOST)
    different = len({c.id if of_pairs else c.text for c in completions}) == len(completions)
    if question.kind not in ("pair", "ranking") or not (fewest <= len(completions) <= most and different):
        raise LedgerError(
            f"question about prompt {question.group.prompt.id}: kind {question.kind!r} with "
            f"{len(completions)} completions; a pair has two different completions, a ranking "
            f"{rankings.FEWEST} to {rankings.MOST} of different texts"
        )
    if question.overlap < 1:
        raise LedgerError(
            f"question about prompt {question.group.prompt.id}: overlap {question.overlap} is less than 1"
        )


def _insert_items(connection: Connection, questions: Mapping[str, Question], now: str) -> None:
    if not questions:
        return
    last = connection.execute(select(func.coalesce(func.max(item.c.seq), 0))).scalar_one()
    rows, candidates, entries = [], [], []
    for seq, (item_id, question) in enumerate(questions.items(), start=last + 1):
        row = {
            "id": item_id,
            "seq": seq,
            "kind": question.kind,
            "prompt_id": question.group.prompt.id,
            "reason": question.reason,
            "target_overlap": question.overlap,
            "state": "open",
            "created_at": now,
        }
        slots = [c.id for c in question.group.completions]
        rows.append(row)
        candidates += [
            {"item_id": item_id, "slot": slot, "completion_id": completion_id}
            for slot, completion_id in enumerate(slots)
        ]
        entries.append(audit.Entry("ask", "item", item_id, item_detail(row, slots)))
    connection.execute(insert(item), rows)
    connection.execute(insert(item_candidate), candidates)
    audit.append(connection, entries, now)


def _raise_overlap(
    connection: Connection, old: Mapping[str, dict[str, Any]], raised: Mapping[str, int], now: str
) -> None:
    if not raised:
        return
    groups = read_groups(connection, raised)
    changes = [{"key": item_id, "overlap": overlap} for item_id, overlap in raised.items()]
    statement = update(item).where(item.c.id == bindparam("key"))
    connection.execute(statement.values(target_overlap=bindparam("overlap"), state="open"), changes)
    entries = []
    for item_id, overlap in raised.items():
        row = old[item_id] | {"target_overlap": overlap}
        slots = [c.id for c in groups[item_id].completions]
        entries.append(audit.Entry("raise_overlap", "item", item_id, item_detail(row, slots)))
    audit.append(connection, entries, now)


# Leases


def later(now: str, seconds: float) -> str:
    moment = datetime.strptime(now, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return (moment + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sides(shown_seed: int, slots: int) -> tuple[int, ...]:
    """The slot at each displayed position: a shuffle that any machine can repeat."""
    return tuple(sorted(range(slots), key=lambda slot: content_hash([shown_seed, slot])))


def expire(connection: Connection, now: str) -> None:
    """Give back the places of leases that ran out."""
    connection.execute(prepared.EXPIRE, {"now": now})


def lease(
    connection: Connection,
    rater: Rater,
    guideline: str,
    now: str,
    *,
    limit: int,
    seconds: float,
    seed: int | None,
    project: str | None = None,
    kind: str = "pair",
    items: Sequence[str] = (),
) -> list[Assignment]:
    """Up to `limit` open items that this rater has neither answered nor skipped.

    In the order of asking; those of a `project` (its id) by priority first, without one those of a `kind`.
    Or just these new `items`.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise LedgerError(f"a lease of {seconds} seconds makes no sense; give a number of seconds")
    if connection.execute(prepared.GUIDELINE, {"guideline": guideline}).first() is None:
        raise LedgerError(f"guideline {guideline!r} is not in the ledger; add_guideline first")
    expire(connection, now)
    inside = {"kind": kind} if project is None else {"project": project}
    wanted = {"rater": rater.id, "limit": limit} | inside
    free = prepared.FREE if project is None else prepared.FREE_IN_PROJECT
    found = items or connection.execute(free, wanted).scalars().all()
    return hold(connection, rater, guideline, [Wanted(id_) for id_ in found], now, seconds=seconds, seed=seed)


def hold(
    connection: Connection,
    rater: Rater,
    guideline: str,
    wanted: Sequence[Wanted],
    now: str,
    *,
    seconds: float,
    seed: int | None,
) -> list[Assignment]:
    """Put these items before a rater. That there is a place for each is the caller's to know."""
    if not wanted:
        return []
    found = [each.item_id for each in wanted]
    attempts = connection.execute(prepared.ATTEMPTS, {"rater": rater.id, "items": found})
    before = {row.item_id: row.n for row in attempts}
    rows = [
        _assignment_row(each, rater.id, before.get(each.item_id, 0) + 1, guideline, seed)
        # a microsecond apart, which keeps their order
        | {"leased_at": later(now, place / 1e6), "lease_expires_at": later(now, seconds)}
        for place, each in enumerate(wanted)
    ]
    groups = read_groups(connection, found)
    assignments = [_shown(row, rater.pseudonym, groups[row["item_id"]]) for row in rows]
    connection.execute(insert(assignment), rows)
    positions = [
        {"assignment_id": a.id, "position": position, "slot": slot}
        for a in assignments
        for position, slot in enumerate(a.shown)
    ]
    connection.execute(insert(presentation), positions)
    return assignments


def held(
    connection: Connection,
    rater: Rater,
    project: str,
    now: str,
    *,
    seconds: float,
    purposes: Sequence[str] = prepared.QUEUED,
) -> list[Assignment]:
    """The items that this rater holds, in the order they came; their leases run `seconds` from now."""
    hers = {"rater": rater.id, "now": now, "project": project, "purposes": purposes}
    ids = connection.execute(prepared.HELD, hers).scalars().all()
    if not ids:
        return []
    connection.execute(prepared.RENEW, {"ids": ids, "until": later(now, seconds)})
    places = find_assignments(connection, ids)
    return [places[assignment_id][0] for assignment_id in ids]


def _assignment_row(
    wanted: Wanted, annotator_id: str, attempt: int, guideline: str, seed: int | None
) -> dict[str, Any]:
    name = [wanted.item_id, annotator_id, attempt]
    drawn = _sixty_bits(seed, name)
    for turn in count():  # until it gives another order
        if wanted.unlike is None or sides(drawn, len(wanted.unlike)) != wanted.unlike:
            break
        drawn = _sixty_bits(seed, [*name, turn])
    return {
        "id": content_hash(["assignment", *name]),
        "item_id": wanted.item_id,
        "annotator_id": annotator_id,
        "attempt": attempt,
        "guideline_id": guideline,
        "state": "leased",
        "shown_seed": drawn,
        "purpose": wanted.purpose,
    }


def _sixty_bits(seed: int | None, name: Sequence[Any]) -> int:
    return secrets.randbits(60) if seed is None else int(content_hash([seed, *name])[:15], 16)


def _shown(row: Mapping[str, Any], pseudonym: str, group: Group) -> Assignment:
    shown = sides(row["shown_seed"], len(group.completions))
    seen = (row["id"], row["item_id"], pseudonym, group, shown, row["guideline_id"], row["purpose"])
    return Assignment(*seen)


def find_assignment(connection: Connection, assignment_id: str) -> tuple[Assignment, Rater, str]:
    """The assignment, its rater, and its state."""
    found = find_assignments(connection, [assignment_id])
    if assignment_id not in found:
        raise LedgerError(f"assignment {assignment_id!r} is not in the ledger; lease one")
    return found[assignment_id]


def find_assignments(
    connection: Connection, assignment_ids: Iterable[str]
) -> dict[str, tuple[Assignment, Rater, str]]:
    """The same for some assignments, by id; those that are not there are left out."""
    rows = [
        row
        for some in chunks(assignment_ids)
        for row in connection.execute(prepared.ASSIGNMENTS, {"ids": some})
    ]
    shown: dict[str, list[int]] = {}
    for row in rows:
        shown.setdefault(row.id, []).append(row.slot)
    groups = read_groups(connection, {row.item_id for row in rows})
    return {
        row.id: (
            Assignment(
                row.id,
                row.item_id,
                row.pseudonym,
                groups[row.item_id],
                tuple(shown[row.id]),
                row.guideline_id,
                row.purpose,
            ),
            Rater(row.annotator_id, row.pseudonym, row.kind),
            row.state,
        )
        for row in rows
    }


def find_place(connection: Connection, assignment_id: str) -> tuple[Place, Rater, str]:
    """As `find_assignment`, without reading the texts."""
    rows = connection.execute(prepared.PLACE, {"id": assignment_id}).all()
    if not rows:
        raise LedgerError(f"assignment {assignment_id!r} is not in the ledger; lease one")
    row, by_slot = rows[0], {r.slot: r.completion_id for r in rows}
    completion_ids = tuple(by_slot[slot] for slot in sorted(by_slot))
    shown = tuple(r.slot for r in rows)
    found = Place(row.id, row.item_id, row.prompt_id, completion_ids, shown, row.guideline_id, row.purpose)
    return found, Rater(row.annotator_id, row.pseudonym, row.kind), row.state


def whose(connection: Connection, assignment_id: str) -> tuple[str, str, str, str | None] | None:
    """The annotator's id, state, purpose and project of an assignment; None when there is no such one."""
    row = connection.execute(prepared.WHOSE, {"id": assignment_id}).first()
    return None if row is None else (row.annotator_id, row.state, row.purpose, row.project_id)


def require_place(connection: Connection, found: Place, rater: Rater) -> None:
    """An answer that comes after its lease ran out still counts while its place is free."""
    mine = assignment.c.annotator_id == rater.id
    repeats = assignment.c.purpose == "repeat"
    same = {"judge": mine & ~repeats, "gold": mine & ~repeats, "repeat": mine & repeats}
    settles = assignment.c.purpose == "adjudicate"
    other = same.get(found.purpose, (mine & ~repeats) | settles) & assignment.c.state.in_(LIVE)
    here = assignment.c.item_id == found.item_id
    taken = connection.execute(select(assignment.c.id).where(here, other)).first() is not None
    if found.purpose == "judge" and not taken:
        full = select(prepared.places_taken() >= item.c.target_overlap).where(item.c.id == found.item_id)
        taken = bool(connection.execute(full).scalar_one())
    if erasure.erased(connection, "item", [found.item_id]):
        raise LedgerError(f"assignment {found.id}: its question was erased; lease the next item")
    if taken:
        raise LedgerError(
            f"assignment {found.id}: the lease ran out and the place was given to another answer; lease the "
            "next item"
        )


def skip(connection: Connection, assignment_id: str, reason: str, now: str) -> None:
    expire(connection, now)
    found, rater, state = find_place(connection, assignment_id)
    if state not in ("leased", "expired"):
        raise LedgerError(f"assignment {assignment_id} is {state} and cannot be skipped")
    change = update(assignment).where(assignment.c.id == assignment_id)
    connection.execute(change.values(state="skipped", skip_reason=reason))
    detail = skip_detail(found.item_id, rater.id, reason)
    audit.append(connection, [audit.Entry("skip", "assignment", assignment_id, detail, rater.pseudonym)], now)


def skip_detail(item_id: str, annotator_id: str, reason: str | None) -> list[Any]:
    return [item_id, annotator_id, reason]


def close_answered(connection: Connection, item_ids: Iterable[str]) -> None:
    """Mark items done that have all the answers they wanted, so that the queue need not look at them."""
    for some in chunks(set(item_ids)):
        connection.execute(prepared.CLOSE, {"items": some})
