"""Prompts, completions and where they came from: records to rows and back. All content-addressed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Row, Table, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from accord.errors import LedgerError
from accord.ledger import audit, prepared, schema
from accord.records import Completion, Group, Message, Prompt, Sampling, content_hash

T = TypeVar("T")
TOKEN_DTYPE, LOGP_DTYPE = "<i4", "<f8"


def chunks(values: Iterable[T], size: int = 500) -> Iterator[list[T]]:
    """Lists of at most `size`, because databases limit the parameters of one statement."""
    values = list(values)
    return (values[i : i + size] for i in range(0, len(values), size))


def insert_new(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, leaving alone those whose key is there already."""
    rows = list(rows)
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# Guidelines and policies


def add_guideline(connection: Connection, body: str, now: str) -> str:
    guideline_id = content_hash(body)
    known = select(schema.guideline_version.c.id).where(schema.guideline_version.c.id == guideline_id)
    if connection.execute(known).first() is None:
        row = {"id": guideline_id, "body": body, "created_at": now}
        connection.execute(insert(schema.guideline_version), row)
        entry = audit.Entry("add", "guideline_version", guideline_id, [guideline_id])
        audit.append(connection, [entry], now)
    return guideline_id


def policy_detail(row: Mapping[str, Any]) -> list[Any]:
    names = ("id", "base_model", "weights_sha256", "step", "parent_id", "config")
    return [row[name] for name in names]


def add_policy(connection: Connection, row: Mapping[str, Any], now: str) -> None:
    """`row` is a policy_version row without its time. Raises LedgerError when the version is taken."""
    table = schema.policy_version
    old = connection.execute(select(table).where(table.c.id == row["id"])).mappings().first()
    if old is not None:
        differing = [name for name in row if row[name] != old[name]]
        if differing:
            raise LedgerError(
                f"policy version {row['id']!r} is recorded with another {', '.join(differing)}; a version "
                "never changes, so give this policy a new one"
            )
        return
    if row["parent_id"] is not None:
        require_policies(connection, {row["parent_id"]})
    connection.execute(insert(table), {**row, "created_at": now})
    audit.append(connection, [audit.Entry("add", "policy_version", row["id"], policy_detail(row))], now)


def require_policies(connection: Connection, versions: set[str]) -> None:
    column = schema.policy_version.c.id
    known = {
        version
        for some in chunks(versions)
        for version in connection.execute(select(column).where(column.in_(some))).scalars()
    }
    if unknown := sorted(versions - known):
        raise LedgerError(f"policy versions not in the ledger: {', '.join(unknown)}; add_policy them first")


# Groups


def add_groups(connection: Connection, groups: Sequence[Group], now: str) -> None:
    """Store prompts, completions and sampling settings; what is there already stays as it is."""
    for group in groups:
        for completion in group.completions:
            if completion.prompt_id != group.prompt.id:
                raise LedgerError(
                    f"completion {completion.id} answers prompt {completion.prompt_id}, but stands in a "
                    f"group of prompt {group.prompt.id}; make each completion with its own prompt's id"
                )
    completions = [c for group in groups for c in group.completions]
    require_policies(connection, {c.policy_version for c in completions if c.policy_version})
    _add_prompts(connection, {group.prompt.id: group.prompt for group in groups}, now)
    settings = {row["id"]: row for c in completions if c.sampling for row in [_sampling_row(c.sampling)]}
    insert_new(connection, schema.sampling, settings.values())
    rows = {c.id: _completion_row(c, now) for c in completions}
    insert_new(connection, schema.completion, rows.values())


def _add_prompts(connection: Connection, prompts: Mapping[str, Prompt], now: str) -> None:
    message_ids = {m: content_hash([m.role, m.content]) for p in prompts.values() for m in p.messages}
    rows = [{"id": id_, "role": m.role, "content": m.content} for m, id_ in message_ids.items()]
    insert_new(connection, schema.message, rows)
    rows = [
        {"id": p.id, "source": p.source, "tags": canonical_json(p.tags), "created_at": now}
        for p in prompts.values()
    ]
    insert_new(connection, schema.prompt, rows)
    turns = [
        {"prompt_id": p.id, "position": position, "message_id": message_ids[m]}
        for p in prompts.values()
        for position, m in enumerate(p.messages)
    ]
    insert_new(connection, schema.prompt_message, turns)


def _sampling_row(sampling: Sampling) -> dict[str, str]:
    return {"id": content_hash(asdict(sampling)), "settings": canonical_json(asdict(sampling))}


def _completion_row(completion: Completion, now: str) -> dict[str, Any]:
    token_ids = np.asarray(completion.token_ids, TOKEN_DTYPE).tobytes()
    logps = np.asarray(completion.logps, LOGP_DTYPE).tobytes()
    return {
        "id": completion.id,
        "prompt_id": completion.prompt_id,
        "body": completion.text,
        "token_ids": token_ids,
        "logps": logps,
        "tokens_sha256": tokens_sha256(token_ids, logps, completion.finish_reason),
        "policy_id": completion.policy_version or None,
        "sampling_id": _sampling_row(completion.sampling)["id"] if completion.sampling else None,
        "finish_reason": completion.finish_reason,
        "sample_index": completion.index,
        "created_at": now,
    }


def tokens_sha256(token_ids: bytes, logps: bytes, finish_reason: str) -> str:
    """Guards what Completion.id leaves out."""
    return hashlib.sha256(b"|".join((finish_reason.encode(), token_ids, logps))).hexdigest()


def read_prompts(connection: Connection, ids: Iterable[str]) -> dict[str, Prompt]:
    """Prompts by id; ids that are not there are left out."""
    prompts: dict[str, Prompt] = {}
    for some in chunks(set(ids)):
        rows = connection.execute(prepared.PROMPTS, {"ids": some})
        for prompt_id, turns in groupby(rows, key=lambda row: row.id):
            first, *rest = turns
            messages = tuple(Message(t.role, t.content) for t in (first, *rest) if t.role is not None)
            prompts[prompt_id] = Prompt(messages, first.source, tuple(json.loads(first.tags)))
    return prompts


def read_completions(connection: Connection, ids: Iterable[str]) -> dict[str, Completion]:
    """Completions by id; ids that are not there are left out."""
    table = schema.completion
    columns = select(table, schema.sampling.c.settings).outerjoin(schema.sampling)
    return {
        row.id: _to_completion(row)
        for some in chunks(set(ids))
        for row in connection.execute(columns.where(table.c.id.in_(some)))
    }


def _to_completion(row: Row[Any]) -> Completion:
    return Completion(
        prompt_id=row.prompt_id,
        text=row.body,
        token_ids=tuple(np.frombuffer(row.token_ids, TOKEN_DTYPE).tolist()),
        logps=tuple(np.frombuffer(row.logps, LOGP_DTYPE).tolist()),
        policy_version=row.policy_id or "",
        sampling=Sampling(**json.loads(row.settings)) if row.settings else None,
        finish_reason=row.finish_reason,
        index=row.sample_index,
    )


def read_groups(connection: Connection, item_ids: Iterable[str]) -> dict[str, Group]:
    """The groups of items by item id, completions in canonical slots; unknown ids are left out."""
    candidates: dict[str, list[Completion]] = {}
    prompt_of: dict[str, str] = {}
    for some in chunks(set(item_ids)):
        for row in connection.execute(prepared.GROUPS, {"items": some}):
            candidates.setdefault(row.item_id, []).append(_to_completion(row))
            prompt_of[row.item_id] = row.item_prompt
    prompts = read_prompts(connection, prompt_of.values())
    return {
        item_id: Group(prompts[prompt_of[item_id]], tuple(slots)) for item_id, slots in candidates.items()
    }
