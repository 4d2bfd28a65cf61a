"""Where judgements went: releases, the models trained on them, and the models made from those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from accord.errors import LedgerError
from accord.ledger import audit, erasure, judging, rankings, schema
from accord.ledger.judging import read_judgements
from accord.ledger.store import chunks, read_completions, read_prompts
from accord.records import Judgement, Preference, content_hash


@dataclass(frozen=True)
class Release:
    """A named snapshot of judgements. `hash` covers their content, in no particular order."""

    name: str
    hash: str
    judgement_ids: tuple[str, ...]
    created_at: str


def row_hash(judged: Judgement) -> str:
    return content_hash(judging.content(judged))


def release_hash(row_hashes: Iterable[str]) -> str:
    return content_hash(sorted(row_hashes))


def make_release(connection: Connection, name: str, item_ids: Sequence[str] | None, now: str) -> Release:
    if item_ids is not None:
        _require_items(connection, item_ids)
    judgements = read_judgements(connection, item_ids=item_ids, purposes=judging.SETTLING)
    if not judgements:
        raise LedgerError(
            f"release {name!r} would be empty: its items have no judgements; collect some first"
        )
    return freeze(connection, name, judgements, now)


def freeze(connection: Connection, name: str, judgements: Sequence[Judgement], now: str) -> Release:
    """A release of these judgements. The same name with the same content again is harmless."""
    if not name:
        raise LedgerError("a release needs a name")
    rows = {judged.id: row_hash(judged) for judged in judgements}
    digest = release_hash(rows.values())
    if (old := _find(connection, name)) is not None:
        if old.hash != digest:
            raise LedgerError(
                f"release {name!r} exists with other content ({len(old.judgement_ids)} judgements, hash "
                f"{old.hash}; now {len(rows)}, hash {digest}); a release never changes, so choose a new name"
            )
        return old
    release_id = content_hash(["release", name])
    row = {"id": release_id, "name": name, "hash": digest, "created_at": now}
    connection.execute(insert(schema.release), row)
    members = [{"release_id": release_id, "judgement_id": j, "row_hash": h} for j, h in rows.items()]
    connection.execute(insert(schema.release_row), members)
    audit.append(connection, [audit.Entry("release", "release", release_id, [name, digest])], now)
    return Release(name, digest, tuple(rows), now)


def _require_items(connection: Connection, item_ids: Sequence[str]) -> None:
    column = schema.item.c.id
    for some in chunks(dict.fromkeys(item_ids)):
        known = set(connection.execute(select(column).where(column.in_(some))).scalars())
        if unknown := [item_id for item_id in some if item_id not in known]:
            raise LedgerError(
                f"items not in the ledger: {', '.join(unknown[:3])}; use the ids that ask returned"
            )


def _find(connection: Connection, name: str) -> Release | None:
    table = schema.release
    row = connection.execute(select(table).where(table.c.name == name)).first()
    if row is None:
        return None
    judgements = _members(connection, row.id)
    return Release(row.name, row.hash, tuple(judged.id for judged in judgements), row.created_at)


def find_release(connection: Connection, name: str) -> Release:
    found = _find(connection, name)
    if found is None:
        names = list(connection.execute(select(schema.release.c.name)).scalars())
        raise LedgerError(
            f"release {name!r} is not in the ledger; it has {', '.join(sorted(names)) or 'none'}"
        )
    return found


def _members(connection: Connection, release_id: str) -> list[Judgement]:
    table = schema.release_row.c
    ids = connection.execute(select(table.judgement_id).where(table.release_id == release_id)).scalars()
    return read_judgements(connection, ids=list(ids), include_superseded=True)


def release_judgements(connection: Connection, name: str) -> list[Judgement]:
    """Without those whose question was erased since."""
    find = find_release(connection, name)
    found = read_judgements(connection, ids=find.judgement_ids, include_superseded=True)
    gone = erasure.erased(connection, "item", {judged.item_id for judged in found})
    return [judged for judged in found if judged.item_id not in gone]


def release_preferences(connection: Connection, name: str) -> list[Preference]:
    return to_preferences(connection, settled(release_judgements(connection, name)))


def settled(judgements: Sequence[Judgement]) -> list[Judgement]:
    """What labels come of: of an item that was adjudicated that answer alone, of all others the votes."""
    decided = {judged.item_id for judged in judgements if judged.purpose == "adjudicate"}
    return [j for j in judgements if j.purpose == ("adjudicate" if j.item_id in decided else "judge")]


def to_preferences(connection: Connection, judgements: Sequence[Judgement]) -> list[Preference]:
    """One for each of `rankings.comparisons`, in their order."""
    prompts = read_prompts(connection, (judged.prompt_id for judged in judgements))
    completions = read_completions(connection, (c for judged in judgements for c in judged.completion_ids))
    rows = []
    for judged in judgements:
        for pair in rankings.comparisons(judged):
            first, second = (completions[c].text for c in pair.completion_ids)
            chosen, rejected = (first, second) if pair.strength >= 0 else (second, first)
            rows.append(
                Preference(
                    prompt=prompts[judged.prompt_id],
                    chosen=chosen,
                    rejected=rejected,
                    margin=0.0 if judged.ranks else float(abs(pair.strength)),
                    weight=rankings.pair_weight(len(judged.ranks)) if judged.ranks else 1.0,
                    tie=pair.strength == 0,
                    provenance=(judged.id,),
                )
            )
    return rows


# Models


def training_detail(model: str, release_id: str, run: str) -> list[str]:
    return [model, release_id, run]


def record_training(connection: Connection, model: str, release: str, run: str, now: str) -> None:
    if not model:
        raise LedgerError("a training needs the name of the model that came out of it")
    find_release(connection, release)
    detail = training_detail(model, content_hash(["release", release]), run)
    table = schema.training_input
    row = dict(zip(("model", "release_id", "run"), detail, strict=True))
    known = select(table.c.model).where(*(table.c[name] == value for name, value in row.items()))
    if connection.execute(known).first() is None:
        connection.execute(insert(table), {**row, "recorded_at": now})
        entry = audit.Entry("train", "training_input", content_hash(detail), detail)
        audit.append(connection, [entry], now)


def trained_on(connection: Connection, model: str) -> list[str]:
    """Names of the releases behind `model` and behind the policy versions that it descends from."""
    parents = _parents(connection)
    line, current = [model], parents.get(model)
    while current is not None:  # the schema lets a parent only come before its child: no cycles
        line.append(current)
        current = parents.get(current)
    joined = select(schema.release.c.name).join(schema.training_input)
    names = {
        name
        for some in chunks(line)
        for name in connection.execute(joined.where(schema.training_input.c.model.in_(some))).scalars()
    }
    return sorted(names)


def models_touched_by(connection: Connection, judgement_id: str) -> list[str]:
    """Models trained on a release that holds this judgement, and the policy versions made from those."""
    known = select(schema.judgement.c.id).where(schema.judgement.c.id == judgement_id)
    if connection.execute(known).first() is None:
        raise LedgerError(f"judgement {judgement_id!r} is not in the ledger; check the id")
    training, row = schema.training_input, schema.release_row
    joined = select(training.c.model).join(row, row.c.release_id == training.c.release_id)
    return _with_descendants(
        connection, connection.execute(joined.where(row.c.judgement_id == judgement_id)).scalars()
    )


def models_of_release(connection: Connection, release_id: str) -> list[str]:
    """Models trained on a release, by its id, and the policy versions made from those."""
    table = schema.training_input.c
    trained = select(table.model).where(table.release_id == release_id)
    return _with_descendants(connection, connection.execute(trained).scalars())


def _with_descendants(connection: Connection, models: Iterable[str]) -> list[str]:
    touched = set(models)
    children: dict[str, list[str]] = {}
    for child, parent in _parents(connection).items():
        children.setdefault(parent, []).append(child)
    frontier = list(touched)
    while frontier:
        made = [child for child in children.get(frontier.pop(), []) if child not in touched]
        touched.update(made)
        frontier += made
    return sorted(touched)


def _parents(connection: Connection) -> dict[str, str]:
    table = schema.policy_version.c
    rows = connection.execute(select(table.id, table.parent_id).where(table.parent_id.is_not(None)))
    return {row.id: row.parent_id for row in rows}
