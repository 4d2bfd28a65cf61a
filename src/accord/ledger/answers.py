"""What raters say beside the preference: flags, ratings, a comment, a better answer; and taking it back.

Like the preference it is stored in canonical slots, while people speak of displayed positions. `record` is
the one place where both meet, in the transaction that stores the judgement.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, update

from accord.errors import LedgerError
from accord.ledger import audit, groups, judging, lineage, talks
from accord.ledger.judging import Said
from accord.ledger.schema import assignment, judgement, release, release_row
from accord.ledger.spans import SPAN, Span, check_spans, check_within, read_key
from accord.ledger.store import chunks, read_completions
from accord.ledger.team_schema import WHOLE, account, answer, api_token, session, withdrawal
from accord.records import Judgement

RATINGS = range(1, 6)
FLAG, RATING = "flag:", "rating:"
SCOPES = ("identity", "text", "all")


@dataclass(frozen=True)
class Beside:
    """In displayed positions: `flags[p]` and `ratings[attribute][p]` are about the answer at position p."""

    both_bad: bool = False
    flags: tuple[tuple[str, ...], ...] = ()
    ratings: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    comment: str = ""
    edit: tuple[int, str] | None = None  # the answer at a position as the rater would have it
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Part:
    """One row of it, in canonical slots."""

    key: str
    slot: int
    number: int | None = None
    body: str | None = None


def to_parts(said: Beside, shown: Sequence[int]) -> list[Part]:
    parts = [Part("both_bad", WHOLE, 1)] if said.both_bad else []
    for slot, flags in zip(shown, said.flags, strict=False):
        parts += [Part(FLAG + flag, slot, 1) for flag in sorted(set(flags))]
    for attribute, ratings in said.ratings.items():
        rated = zip(shown, ratings, strict=True)
        parts += [Part(RATING + attribute, slot, value) for slot, value in rated if value is not None]
    if said.comment:
        parts.append(Part("comment", WHOLE, body=said.comment))
    if said.edit is not None:
        position, body = said.edit
        parts.append(Part("edit", shown[position], body=body))
    return parts + [Part(span.key, shown[span.position], body=span.note or None) for span in said.spans]


def from_parts(parts: Iterable[Part], shown: Sequence[int]) -> Beside:
    """The inverse of `to_parts`. Texts that were withdrawn are gone."""
    position = {slot: i for i, slot in enumerate(shown)}
    flags: list[list[str]] = [[] for _ in shown]
    ratings: dict[str, list[int | None]] = {}
    both_bad, comment, edit = False, "", None
    spans: list[Span] = []
    for part in parts:
        if part.key.startswith(FLAG):
            flags[position[part.slot]].append(part.key.removeprefix(FLAG))
        elif part.key.startswith(RATING):
            empty: list[int | None] = [None] * len(shown)
            rated = ratings.setdefault(part.key.removeprefix(RATING), empty)
            rated[position[part.slot]] = part.number
        elif part.key == "comment":
            comment = part.body or ""
        elif part.key == "edit" and part.body is not None:
            edit = (position[part.slot], part.body)
        elif part.key == "both_bad":
            both_bad = True
        elif part.key.startswith(SPAN):
            spans.append(read_key(position[part.slot], part.key, part.body or ""))
    spans.sort(key=lambda span: (span.position, span.start, span.end))
    frozen = {name: tuple(rated) for name, rated in ratings.items()}
    return Beside(both_bad, tuple(tuple(sorted(f)) for f in flags), frozen, comment, edit, tuple(spans))


def check(said: Beside, answered: Said) -> None:
    """Raise LedgerError where it does not fit the answer."""
    slots = 2 if isinstance(answered, int) else len(answered)
    if said.both_bad and answered != 0:
        raise LedgerError("both answers are bad only where neither of a pair is better: strength 0")
    if said.flags and len(said.flags) != slots:
        raise LedgerError(f"flags are one list per displayed answer, so {slots} lists")
    for attribute, ratings in said.ratings.items():
        if len(ratings) != slots or not all(v is None or v in RATINGS for v in ratings):
            raise LedgerError(f"ratings of {attribute!r} are {slots} whole numbers from 1 to 5, or empty")
    if said.edit is not None and (said.edit[0] not in range(slots) or not said.edit[1].strip()):
        raise LedgerError("a rewritten answer needs the displayed position of the answer, and a text")
    check_spans(said.spans, slots)


def record(
    connection: Connection,
    assignment_id: str,
    answered: Said,
    said: Beside,
    *,
    seconds: float,
    idempotency_key: str,
    revises: str | None,
    now: str,
) -> Judgement:
    """Submit an answer with what stands beside it, or revise the newest one. Repeating a call is harmless."""
    check(said, answered)
    if (earlier := judging.with_key(connection, idempotency_key)) is not None:
        if judging.assignment_of(connection, earlier.id) != assignment_id:
            raise LedgerError("this idempotency key belongs to the answer to another question")
        return earlier
    if revises is None:
        judged = judging.submit(
            connection, assignment_id, answered, seconds=seconds, idempotency_key=idempotency_key, now=now
        )
    elif judging.assignment_of(connection, revises) != assignment_id:
        raise LedgerError("the answer that this one revises is not about this question")
    else:
        judged = judging.revise(
            connection, revises, answered, seconds=seconds, idempotency_key=idempotency_key, now=now
        )
    if said.spans:
        texts = read_completions(connection, judged.completion_ids)
        check_within(said.spans, [texts[judged.completion_ids[slot]].text for slot in judged.shown])
    _store(connection, judged, to_parts(said, judged.shown), now)
    return judged


def _store(connection: Connection, judged: Judgement, parts: Sequence[Part], now: str) -> None:
    if not parts:
        return
    rows = [_row(judged.id, part) for part in parts]
    connection.execute(insert(answer), rows)
    entry = audit.Entry("say", "answer", judged.id, detail_of(rows), judged.rater)
    audit.append(connection, [entry], now)


def _row(judgement_id: str, part: Part) -> dict[str, Any]:
    salt = None if part.body is None else secrets.token_hex(16)
    digest = None if part.body is None else hashlib.sha256(f"{salt}{part.body}".encode()).hexdigest()
    return {
        "judgement_id": judgement_id,
        "key": part.key,
        "slot": part.slot,
        "number": part.number,
        "body": part.body,
        "salt": salt,
        "body_sha256": digest,
    }


def detail_of(rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    """What the audit trail covers: everything but the texts, of which it has the salted hash."""
    return sorted([row["key"], row["slot"], row["number"], row["body_sha256"]] for row in rows)


def read_answers(connection: Connection, judgement_ids: Iterable[str]) -> dict[str, list[Part]]:
    """What stands beside judgements, by judgement; those without anything are left out."""
    found: dict[str, list[Part]] = defaultdict(list)
    for some in chunks(dict.fromkeys(judgement_ids)):
        for row in connection.execute(select(answer).where(answer.c.judgement_id.in_(some))):
            found[row.judgement_id].append(Part(row.key, row.slot, row.number, row.body))
    return dict(found)


# Withdrawal


def withdraw(connection: Connection, annotator_id: str, scope: str, now: str) -> dict[str, int]:
    """Erase who a person is, also what she wrote, or also take all her judgements out of every later release.

    What she wrote are texts beside judgements, and her talks: of these the answers go too, which may repeat
    her words, and the judgements count no longer. The pseudonym stays, so that the record of what was trained
    on what stays whole. Each scope includes those before it: identity, text, all. Returns what was done.
    Erased bytes leave the file with `Ledger.compact`.
    """
    if scope not in SCOPES:
        raise LedgerError(f"withdrawal {scope!r} is not one of {', '.join(SCOPES)}")
    mine = assignment.c.annotator_id == annotator_id
    judgements = select(judgement.c.id).join(assignment).where(mine)
    counts = {"accounts": _forget(connection, annotator_id, now), "texts": 0, "judgements": 0}
    if scope != "identity":
        written = answer.c.judgement_id.in_(judgements) & answer.c.body.is_not(None)
        gone = update(answer).where(written).values(body=None, salt=None)
        counts["texts"] = connection.execute(gone).rowcount
        said = talks.erase(connection, talks.begun_by(connection, annotator_id), now)
        counts["texts"] += said.questions
        counts["judgements"] += said.judgements
    if scope == "all":
        active = judgement.c.id.in_(judgements) & (judgement.c.status == "active")
        taken_back = update(judgement).where(active).values(status="withdrawn")
        counts["judgements"] += connection.execute(taken_back).rowcount
        leased = update(assignment).where(mine, assignment.c.state == "leased")
        connection.execute(leased.values(state="expired"))
    row = {"id": secrets.token_hex(8), "annotator_id": annotator_id, "scope": scope, "created_at": now}
    known = select(withdrawal.c.id).where(
        withdrawal.c.annotator_id == annotator_id, withdrawal.c.scope == scope
    )
    if connection.execute(known).first() is None:
        connection.execute(insert(withdrawal), row)
        entry = audit.Entry("withdraw", "withdrawal", str(row["id"]), [annotator_id, scope])
        audit.append(connection, [entry], now)
    return counts


def affected(connection: Connection, annotator_id: str) -> dict[str, list[str]]:
    """The releases that hold judgements of an annotator, and the models behind which they stand."""
    mine = select(judgement.c.id).join(assignment).where(assignment.c.annotator_id == annotator_id)
    held = select(release.c.name).join(release_row).where(release_row.c.judgement_id.in_(mine)).distinct()
    names = sorted(connection.execute(held).scalars())
    one_of_each = [
        connection.execute(
            select(release_row.c.judgement_id)
            .join(release)
            .where(release.c.name == name, release_row.c.judgement_id.in_(mine))
            .limit(1)
        ).scalar_one()
        for name in names
    ]
    models = {model for id_ in one_of_each for model in lineage.models_touched_by(connection, id_)}
    return {"releases": names, "models": sorted(models)}


def _forget(connection: Connection, annotator_id: str, now: str) -> int:
    """Erase the account's personal data; it cannot sign in again."""
    from accord.ledger.accounts import account_detail

    groups.forget(connection, annotator_id, now)
    row = connection.execute(select(account).where(account.c.annotator_id == annotator_id)).mappings().first()
    if row is None or row["login"] is None:
        return 0
    for table in (session, api_token):
        connection.execute(table.delete().where(table.c.account_id == row["id"]))
    change = {
        "login": None,
        "login_key": None,
        "password_hash": None,
        "disabled_at": row["disabled_at"] or now,
    }
    connection.execute(update(account).where(account.c.id == row["id"]).values(**change))
    entry = audit.Entry("erase", "account", row["id"], account_detail(dict(row) | change))
    audit.append(connection, [entry], now)
    return 1


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], Any]]:
    """What `verify` compares with the audit trail."""
    rows: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(select(answer)).mappings():
        rows[row["judgement_id"]].append(row)
    for judgement_id, parts in rows.items():
        yield ("answer", judgement_id), detail_of(parts)
    for row in connection.execute(select(withdrawal)).mappings():
        yield ("withdrawal", row["id"]), [row["annotator_id"], row["scope"]]


def damaged(connection: Connection) -> Iterator[str]:
    """Texts that are not those that were written."""
    for row in connection.execute(select(answer).where(answer.c.body.is_not(None))):
        if hashlib.sha256(f"{row.salt}{row.body}".encode()).hexdigest() != row.body_sha256:
            yield f"answer {row.key} of judgement {row.judgement_id}: the text does not match its hash"


def withdrawn_annotators(connection: Connection) -> set[str]:
    chosen = select(withdrawal.c.annotator_id).where(withdrawal.c.scope == "all")
    return set(connection.execute(chosen).scalars())


__all__ = ["Beside", "Part", "details", "read_answers", "record", "withdraw"]
