"""What raters said: submissions, revisions, and reading judgements back, always in canonical slots."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, true, update

from accord.errors import LedgerError
from accord.ledger import audit, prepared, queue, rankings
from accord.ledger.queue import Assignment, Place, Rater
from accord.ledger.rankings import WrongAnswerError
from accord.ledger.schema import (
    annotator,
    assignment,
    item,
    item_candidate,
    judgement,
    preference,
    presentation,
)
from accord.ledger.store import chunks
from accord.records import Judgement, Purpose, content_hash

STRONGEST = 3
VOTES: tuple[Purpose, ...] = ("judge",)
SETTLING: tuple[Purpose, ...] = ("judge", "adjudicate")  # what makes a pair's label
EVERYTHING: tuple[Purpose, ...] = ("judge", "repeat", "gold", "adjudicate")


# In displayed positions: the strength of a pair, positive where the left answer is better, or the ranks of a
# ranking, 1 for the best, equal numbers for ties.
Said = int | Sequence[int]


@dataclass(frozen=True)
class Answer:
    """What a rater said."""

    assignment: Assignment | Place
    rater: Rater
    said: Said
    seconds: float
    idempotency_key: str | None = None


def canonical_strength(displayed: int, shown: Sequence[int]) -> int:
    """From displayed positions (positive: left is better) to slots (positive: slot 0 is better)."""
    return displayed if shown[0] == 0 else -displayed


def check_answer(said: Said, seconds: float, answers: int = 2) -> None:
    """Raise LedgerError for no time, and WrongAnswerError for what answers no question of so many answers."""
    if answers > 2:
        if not isinstance(said, Sequence):
            raise WrongAnswerError(
                f"the question is a ranking of {answers} answers: give their ranks, not a strength"
            )
        rankings.check_ranks(said, answers)
    elif not isinstance(said, int) or isinstance(said, bool) or not -STRONGEST <= said <= STRONGEST:
        raise WrongAnswerError(
            f"strength {said!r} is not a whole number from -{STRONGEST} (right much better) to "
            f"{STRONGEST} (left much better)"
        )
    if not (math.isfinite(seconds) and seconds >= 0):
        raise LedgerError(f"seconds {seconds!r} is not a time that passed")


def content(judged: Judgement) -> dict[str, Any]:
    """What hashes cover. That of a vote has no purpose, as before there were others."""
    said = asdict(judged)
    if judged.purpose == "judge":
        del said["purpose"]
    if not judged.ranks:
        del said["ranks"]
    return said


def to_judgement(answer: Answer, revision: int = 1) -> Judgement:
    seen, said = answer.assignment, answer.said
    return Judgement(
        id=content_hash(["judgement", seen.id, revision]),
        item_id=seen.item_id,
        rater=answer.rater.pseudonym,
        rater_kind=answer.rater.kind,
        prompt_id=seen.prompt_id,
        completion_ids=seen.completion_ids,
        strength=canonical_strength(said, seen.shown) if isinstance(said, int) else 0,
        shown=seen.shown,
        guideline=seen.guideline,
        seconds=float(answer.seconds),
        revision=revision,
        purpose=seen.purpose,
        ranks=() if isinstance(said, int) else rankings.by_slot(said, seen.shown),
    )


def submit(
    connection: Connection,
    assignment_id: str,
    said: Said,
    *,
    seconds: float,
    idempotency_key: str | None,
    now: str,
) -> Judgement:
    queue.expire(connection, now)
    found, rater, state = queue.find_place(connection, assignment_id)
    check_answer(said, seconds, len(found.shown))
    answer = Answer(found, rater, said, seconds, idempotency_key)
    if idempotency_key is not None and (earlier := with_key(connection, idempotency_key)) is not None:
        new = to_judgement(answer)
        if (earlier.id, earlier.strength, earlier.ranks) != (new.id, new.strength, new.ranks):
            said_then = f"ranks {list(earlier.ranks)}" if earlier.ranks else f"strength {earlier.strength}"
            raise LedgerError(
                f"idempotency key {idempotency_key!r} belongs to judgement {earlier.id} of {said_then} "
                "(by slot); a new answer needs a new key"
            )
        return earlier
    if state == "submitted":
        raise LedgerError(f"assignment {assignment_id} is answered; revise its judgement to change it")
    if state == "skipped":
        raise LedgerError(f"assignment {assignment_id} was skipped; lease the next item")
    if state == "expired":
        queue.require_place(connection, found, rater)
    return record(connection, [answer], now)[0]


def record(connection: Connection, answers: Sequence[Answer], now: str) -> list[Judgement]:
    """Store first answers to assignments whose places are held in this transaction or by a lease."""
    if not answers:
        return []
    judgements = [to_judgement(answer) for answer in answers]
    connection.execute(prepared.SUBMITTED, [{"key": answer.assignment.id} for answer in answers])
    keys = [(answer.assignment.id, None, answer.idempotency_key) for answer in answers]
    _insert(connection, judgements, keys, "submit", now)
    queue.close_answered(connection, (judged.item_id for judged in judgements))
    return judgements


def revise(
    connection: Connection,
    judgement_id: str,
    said: Said,
    *,
    seconds: float,
    now: str,
    idempotency_key: str | None = None,
) -> Judgement:
    columns = select(judgement.c.assignment_id, judgement.c.revision, judgement.c.status)
    old = connection.execute(columns.where(judgement.c.id == judgement_id)).first()
    if old is None:
        raise LedgerError(f"judgement {judgement_id!r} is not in the ledger; check the id")
    if old.status != "active":
        raise LedgerError(
            f"judgement {judgement_id} is {old.status}; only the newest revision can be revised"
        )
    found, rater, _ = queue.find_place(connection, old.assignment_id)
    check_answer(said, seconds, len(found.shown))
    new = to_judgement(Answer(found, rater, said, seconds), old.revision + 1)
    connection.execute(update(judgement).where(judgement.c.id == judgement_id).values(status="superseded"))
    _insert(connection, [new], [(found.id, judgement_id, idempotency_key)], "revise", now)
    return new


def _insert(
    connection: Connection,
    judgements: Sequence[Judgement],
    keys: Sequence[tuple[str, str | None, str | None]],  # assignment, superseded judgement, idempotency key
    action: str,
    now: str,
) -> None:
    rows = [
        {
            "id": judged.id,
            "assignment_id": assignment_id,
            "revision": judged.revision,
            "supersedes_id": supersedes_id,
            "submitted_at": now,
            "active_seconds": judged.seconds,
            "status": "active",
            "idempotency_key": idempotency_key,
        }
        for judged, (assignment_id, supersedes_id, idempotency_key) in zip(judgements, keys, strict=True)
    ]
    connection.execute(insert(judgement), rows)
    connection.execute(insert(preference), [row for judged in judgements for row in _preference_rows(judged)])
    entries = [audit.Entry(action, "judgement", j.id, content(j), j.rater) for j in judgements]
    audit.append(connection, entries, now)


def _preference_rows(judged: Judgement) -> list[dict[str, Any]]:
    high = 0 if judged.strength >= 0 else 1
    pair = [(high, 1 - high, abs(judged.strength))]
    return [
        {"judgement_id": judged.id, "slot_hi": hi, "slot_lo": lo, "strength": strength, "tie": strength == 0}
        for hi, lo, strength in (rankings.compare(judged.ranks) if judged.ranks else pair)
    ]


# Reading


def with_key(connection: Connection, idempotency_key: str) -> Judgement | None:
    found = connection.execute(prepared.WITH_KEY, {"key": idempotency_key}).scalar()
    return None if found is None else next(iter(_select(connection, judgement.c.id == found)), None)


def assignment_of(connection: Connection, judgement_id: str) -> str | None:
    return connection.execute(prepared.ASSIGNMENT_OF, {"id": judgement_id}).scalar()


def read_judgements(
    connection: Connection,
    *,
    item_ids: Iterable[str] | None = None,
    ids: Iterable[str] | None = None,
    include_superseded: bool = False,
    purposes: Collection[Purpose] = VOTES,
) -> list[Judgement]:
    """Judgements of some items, or with some ids, or all; in the order of asking, then by rater.

    Those with some ids are told whatever their purpose is.
    """
    status = true() if include_superseded else judgement.c.status == "active"
    if ids is None:
        status = status & assignment.c.purpose.in_(purposes)
    if item_ids is not None:
        conditions = [assignment.c.item_id.in_(some) for some in chunks(dict.fromkeys(item_ids))]
    elif ids is not None:
        conditions = [judgement.c.id.in_(some) for some in chunks(dict.fromkeys(ids))]
    else:
        conditions = [judgement.c.id.is_not(None)]
    found = [judged for part in conditions for judged in _select(connection, status & part)]
    seqs = {row.id: row.seq for row in connection.execute(select(item.c.id, item.c.seq))}
    return sorted(found, key=lambda j: (seqs[j.item_id], j.rater, j.purpose, j.revision))


def _select(connection: Connection, condition: ColumnElement[bool]) -> Iterator[Judgement]:
    joined = (
        judgement.join(assignment, judgement.c.assignment_id == assignment.c.id)
        .join(annotator)
        .join(item, assignment.c.item_id == item.c.id)
        .join(presentation, presentation.c.assignment_id == assignment.c.id)
        .outerjoin(
            preference,
            (preference.c.judgement_id == judgement.c.id) & (preference.c.slot_hi == presentation.c.slot),
        )
        .join(
            item_candidate,
            (item_candidate.c.item_id == item.c.id) & (item_candidate.c.slot == presentation.c.slot),
        )
    )
    columns = (
        select(judgement.c.id, judgement.c.revision, judgement.c.active_seconds)
        .add_columns(assignment.c.item_id, assignment.c.guideline_id, assignment.c.purpose)
        .add_columns(annotator.c.pseudonym, annotator.c.kind)
        .add_columns(item.c.prompt_id, preference.c.slot_lo, preference.c.strength)
        .add_columns(presentation.c.slot, item_candidate.c.completion_id)
        .select_from(joined)
        .where(condition)
        .order_by(judgement.c.id, presentation.c.position)
    )
    for _, rows in groupby(connection.execute(columns), key=lambda row: row.id):
        if (found := _from_rows(list(rows))) is not None:
            yield found


def _from_rows(rows: Sequence[Row[Any]]) -> Judgement | None:
    """One judgement from its rows: of each displayed position, the preferences in which it is the better one.

    None where it has none: it is damaged, and whoever looks for it will miss it.
    """
    row = rows[0]
    by_slot = {r.slot: r.completion_id for r in rows}
    said = [(r.slot, r.slot_lo, r.strength) for r in rows if r.strength is not None]
    if not said:
        return None
    ranking = len(by_slot) > 2
    high, _, strength = said[0]
    return Judgement(
        id=row.id,
        item_id=row.item_id,
        rater=row.pseudonym,
        rater_kind=row.kind,
        prompt_id=row.prompt_id,
        completion_ids=tuple(by_slot[slot] for slot in sorted(by_slot)),
        strength=0 if ranking else strength if high == 0 else -strength,
        shown=tuple(by_slot),
        guideline=row.guideline_id,
        seconds=row.active_seconds,
        revision=row.revision,
        purpose=row.purpose,
        ranks=rankings.ranks_of(said, len(by_slot)) if ranking else (),
    )
