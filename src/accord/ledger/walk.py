"""Does a row lead back? From each judgement to what was said, shown and asked, and by which guideline.

`verify` checks the whole ledger; this checks what is about to leave it. Each step compares content with the
hash that it had when it was written: texts with their ids, the rest with the audit trail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, select

from accord.ledger import answers, queue, store
from accord.ledger.judging import EVERYTHING, content, read_judgements
from accord.ledger.schema import assignment, audit, guideline_version, item, item_candidate, judgement
from accord.ledger.team_schema import answer, project_item
from accord.records import Judgement, content_hash

Recorded = Mapping[tuple[str, str], str]  # (table, id) -> hash of the content at the last change


def walk(connection: Connection, project_id: str) -> tuple[dict[str, Judgement], dict[str, str]]:
    """A project's active judgements by id, of every purpose, and by id why some do not lead back."""
    joined = judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
    mine = select(judgement.c.id, assignment.c.item_id).select_from(joined)
    mine = mine.where(judgement.c.status == "active", project_item.c.project_id == project_id)
    expected = {row.id: row.item_id for row in connection.execute(mine)}
    found = read_judgements(connection, item_ids=expected.values(), purposes=EVERYTHING)
    broken = dict.fromkeys(
        expected.keys() - {judged.id for judged in found}, "what was shown is not on record"
    )
    rows = select(audit.c.object, audit.c.object_id, audit.c.detail_hash).order_by(audit.c.seq)
    kept = rows.where(audit.c.object.in_(("judgement", "item", "answer")))
    recorded = {(row.object, row.object_id): row.detail_hash for row in connection.execute(kept)}
    for check in (_said, _asked, _beside):
        for judgement_id, reason in check(connection, found, recorded):
            broken.setdefault(judgement_id, reason)
    return {judged.id: judged for judged in found}, broken


def _said(
    connection: Connection, judgements: Sequence[Judgement], recorded: Recorded
) -> Iterator[tuple[str, str]]:
    for judged in judgements:
        if recorded.get(("judgement", judged.id)) != content_hash(content(judged)):
            yield judged.id, "it is not what the rater said"


def _asked(
    connection: Connection, judgements: Sequence[Judgement], recorded: Recorded
) -> Iterator[tuple[str, str]]:
    """The question, its texts, and the guideline."""
    items = _item_hashes(connection, judgements)
    prompts = store.read_prompts(connection, (judged.prompt_id for judged in judgements))
    completions = store.read_completions(connection, (c for j in judgements for c in j.completion_ids))
    whole = {p for p, prompt in prompts.items() if prompt.id == p}
    whole |= {c for c, completion in completions.items() if completion.id == c}
    whole |= {
        row.id
        for some in store.chunks({judged.guideline for judged in judgements})
        for row in connection.execute(select(guideline_version).where(guideline_version.c.id.in_(some)))
        if content_hash(row.body) == row.id
    }
    for judged in judgements:
        if recorded.get(("item", judged.item_id)) != items[judged.item_id]:
            yield judged.id, "its question is not what was asked"
        elif judged.prompt_id not in whole:
            yield judged.id, "its prompt is not what was shown"
        elif not whole.issuperset(judged.completion_ids):
            yield judged.id, "one of its answers is not what was shown"
        elif judged.guideline not in whole:
            yield judged.id, "its guideline is not what was shown"


def _item_hashes(connection: Connection, judgements: Sequence[Judgement]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    slots: dict[str, list[str]] = {}
    for some in store.chunks({judged.item_id for judged in judgements}):
        inside = select(item_candidate).where(item_candidate.c.item_id.in_(some))
        for row in connection.execute(inside.order_by(item_candidate.c.item_id, item_candidate.c.slot)):
            slots.setdefault(row.item_id, []).append(row.completion_id)
        for asked in connection.execute(select(item).where(item.c.id.in_(some))).mappings():
            hashes[asked["id"]] = content_hash(queue.item_detail(dict(asked), slots.get(asked["id"], [])))
    return hashes


def _beside(
    connection: Connection, judgements: Sequence[Judgement], recorded: Recorded
) -> Iterator[tuple[str, str]]:
    """Flags, ratings and texts; of a text that was withdrawn, the hash is left."""
    parts: dict[str, list[dict[str, object]]] = {}
    for some in store.chunks(judged.id for judged in judgements):
        for row in connection.execute(select(answer).where(answer.c.judgement_id.in_(some))).mappings():
            parts.setdefault(row["judgement_id"], []).append(dict(row))
    for judged in judgements:
        rows = parts.get(judged.id, [])
        told = content_hash(answers.detail_of(rows)) if rows else None
        changed = (
            row["body"] is not None
            and hashlib.sha256(f"{row['salt']}{row['body']}".encode()).hexdigest() != row["body_sha256"]
            for row in rows
        )
        if recorded.get(("answer", judged.id)) != told or any(changed):
            yield judged.id, "what stands beside it is not what the rater wrote"
