"""What withdrawing means before it is done, and what it leaves to do: releases to rebuild, models to retrain.

A release never changes and a model cannot unlearn a row. So what a person took back stays on record, by
pseudonym, in the releases that held it, and this says which those are and what stands in their place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select

from accord.errors import LedgerError
from accord.ledger import answers, erasure, lineage, talks
from accord.ledger.judging import read_judgements
from accord.ledger.schema import annotator, assignment, judgement, release, release_row
from accord.ledger.team_schema import account, answer, membership, project_item, withdrawal


def preview(connection: Connection, annotator_id: str) -> dict[str, Any]:
    """What there is to take back: answers that count, texts, and the releases and models with them."""
    mine = select(judgement.c.id).join(assignment).where(assignment.c.annotator_id == annotator_id)

    def count(query: Select[Any]) -> int:
        return int(connection.execute(query).scalar_one())

    counted = mine.where(judgement.c.status == "active").subquery()
    texts = select(func.count()).where(answer.c.judgement_id.in_(mine), answer.c.body.is_not(None))
    return {
        "answers": count(select(func.count()).select_from(counted)),
        "texts": count(texts) + len(_said(connection, annotator_id)),
        **answers.affected(connection, annotator_id),
    }


def _said(connection: Connection, annotator_id: str) -> set[str]:
    """Her messages in talks, by the question that each became."""
    said = talks.turns_of(connection, talks.begun_by(connection, annotator_id))
    return set(said) - erasure.erased(connection, "item", said)


def project_withdrawals(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """Everything that was taken back by people of a project, the newest first.

    `answers` of theirs were given in this project; `releases` of it hold some of them, and `models` were
    trained on those releases, or made from models that were.
    """
    given = _given(connection, project_id)
    members = select(account.c.annotator_id).join(membership).where(membership.c.project_id == project_id)
    here = given.keys() | set(connection.execute(members).scalars())
    columns = select(withdrawal, annotator.c.pseudonym).join(annotator)
    newest = columns.order_by(withdrawal.c.created_at.desc(), annotator.c.pseudonym)
    held = _held(connection, given)
    rows = []
    for row in connection.execute(newest):
        if row.annotator_id in here:
            releases = held.get(row.annotator_id, {})
            models = {m for release_id in releases for m in lineage.models_of_release(connection, release_id)}
            rows.append(
                {
                    "id": row.id,
                    "pseudonym": row.pseudonym,
                    "scope": row.scope,
                    "created_at": row.created_at,
                    "answers": len(given.get(row.annotator_id, ())),
                    "releases": sorted(releases.values()),
                    "models": sorted(models),
                }
            )
    return rows


def _given(connection: Connection, project_id: str) -> dict[str, list[str]]:
    """Judgements of a project, every revision, by annotator."""
    joined = judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
    columns = select(assignment.c.annotator_id, judgement.c.id).select_from(joined)
    found: dict[str, list[str]] = defaultdict(list)
    for row in connection.execute(columns.where(project_item.c.project_id == project_id)):
        found[row.annotator_id].append(row.id)
    return dict(found)


def _held(connection: Connection, given: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """By annotator the releases, id and name, that hold one of these judgements."""
    author = {judgement_id: who for who, ids in given.items() for judgement_id in ids}
    columns = select(release_row.c.judgement_id, release.c.id, release.c.name).join(release)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(columns):
        if row.judgement_id in author:
            found[author[row.judgement_id]][row.id] = row.name
    return dict(found)


def erased_questions(connection: Connection, project_id: str) -> int:
    """How many questions of a project were erased."""
    mine = select(func.count()).where(
        project_item.c.project_id == project_id, project_item.c.item_id.in_(erasure.ids_of("item"))
    )
    return int(connection.execute(mine).scalar_one())


# What remains to be done


def to_do(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """Releases of a project with answers that were taken back or whose question was erased, newest first.

    `taken_back` of `rows` rows; `successors` are releases with the others of its rows and none that was taken
    back; `suggestion` is a free name for another one. `models` rest on the release, `retrained` ones on a
    successor and not on it. `mine`: no row is of another project.
    """
    gone = _Gone(connection)
    rows = _rows_by_release(connection)
    of_project = select(project_item.c.item_id).where(project_item.c.project_id == project_id)
    here = set(connection.execute(of_project).scalars())
    clean = {
        release_id: {row.assignment for row in some}
        for release_id, some in rows.items()
        if not any(row in gone for row in some)
    }
    found = []
    for made in connection.execute(select(release).order_by(release.c.created_at.desc(), release.c.name)):
        some = rows.get(made.id, [])
        taken_back = sum(row in gone and row.item in here for row in some)
        if not taken_back:
            continue
        # a later revision of an answer stands for it: what matters is who answered which question
        kept = {row.assignment for row in some if row not in gone}
        later = [release_id for release_id, held in clean.items() if kept and kept <= held]
        models = lineage.models_of_release(connection, made.id)
        again = {m for release_id in later for m in lineage.models_of_release(connection, release_id)}
        found.append(
            {
                "name": made.name,
                "created_at": made.created_at,
                "rows": len(some),
                "taken_back": taken_back,
                "kept": len(kept),
                "mine": all(row.item in here for row in some),
                "successors": _names(connection, later),
                "suggestion": _free_name(connection, f"{made.name}-rebuilt"),
                "models": models,
                "retrained": sorted(again - set(models)),
            }
        )
    return found


class Row(NamedTuple):
    assignment: str
    rater: str
    item: str


class _Gone:
    """The rows that were taken back, by their rater or with their question."""

    def __init__(self, connection: Connection) -> None:
        self.raters = answers.withdrawn_annotators(connection)
        self.items = erasure.erased(connection, "item")

    def __contains__(self, row: Row) -> bool:
        return row.rater in self.raters or row.item in self.items


def _rows_by_release(connection: Connection) -> dict[str, list[Row]]:
    joined = release_row.join(judgement).join(assignment)
    who = assignment.c
    columns = select(release_row.c.release_id, who.id, who.annotator_id, who.item_id).select_from(joined)
    found: dict[str, list[Row]] = defaultdict(list)
    for release_id, *row in connection.execute(columns):
        found[release_id].append(Row(*row))
    return dict(found)


def _names(connection: Connection, release_ids: Iterable[str]) -> list[str]:
    columns = select(release.c.name).where(release.c.id.in_(list(release_ids)))
    return list(connection.execute(columns.order_by(release.c.created_at)).scalars())


def _free_name(connection: Connection, name: str) -> str:
    taken = set(connection.execute(select(release.c.name)).scalars())
    numbered = (f"{name}-{n}" for n in range(2, len(taken) + 3))
    return name if name not in taken else next(some for some in numbered if some not in taken)


def make_successor(connection: Connection, of: str, name: str, now: str) -> lineage.Release:
    """A release with the rows of another one, but for those that were taken back.

    Raises LedgerError when none was, or when nothing would be left.
    """
    held = lineage.find_release(connection, of).judgement_ids
    raters = assignment.c.annotator_id.in_(answers.withdrawn_annotators(connection))
    questions = assignment.c.item_id.in_(erasure.ids_of("item"))
    columns = select(judgement.c.id).join(assignment).where(raters | questions)
    taken_back = set(connection.execute(columns).scalars())
    kept = [judgement_id for judgement_id in held if judgement_id not in taken_back]
    if len(kept) == len(held):
        raise LedgerError(f"nothing in release {of!r} was taken back, so it needs no successor")
    if not kept:
        raise LedgerError(f"everything in release {of!r} was taken back: nothing is left for a successor")
    judgements = read_judgements(connection, ids=kept, include_superseded=True)
    return lineage.freeze(connection, name, judgements, now)


__all__ = ["erased_questions", "make_successor", "preview", "project_withdrawals", "to_do"]
