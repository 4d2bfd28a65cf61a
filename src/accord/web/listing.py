"""Rows for the tables on the pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, exists, func, select

from accord.ledger import answers, exchange, judging, known, projects, rankings, store, why
from accord.ledger.accounts import Account
from accord.ledger.answers import FLAG, Part
from accord.ledger.projects import Project
from accord.ledger.schema import annotator, assignment, item, judgement, preference, release, release_row
from accord.ledger.spans import SPAN
from accord.ledger.team_schema import answer, project_item
from accord.records import Completion, Judgement
from accord.web.questions import media_in
from accord.web.render import render_text
from accord.web.transcript import marked, quoted

PAGE_ROWS = 50


def project_rows(connection: Connection, account: Account) -> list[dict[str, Any]]:
    """The projects that this account sees: administrators see all."""
    roles = projects.projects_of(connection, account.id)
    ids = projects.all_projects(connection) if account.admin else list(roles)
    rows = []
    for project_id in ids:
        project = projects.find_project(connection, project_id)
        if project is None:
            continue
        counts = projects.counts(connection, project_id)
        rows.append(
            {
                "id": project_id,
                "name": project.name,
                "state": project.state,
                "role": "owner" if account.admin else roles[project_id],
                "answered": counts["answered"],
                "wanted": counts["wanted"],
                "mine": projects.progress(connection, project_id, account.annotator_id).answered,
            }
        )
    return rows


def membership_rows(connection: Connection, account: Account) -> list[dict[str, Any]]:
    rows = []
    for project_id, role in projects.projects_of(connection, account.id).items():
        project = projects.find_project(connection, project_id)
        assert project is not None
        answered = projects.progress(connection, project_id, account.annotator_id).answered
        named = {"project": project_id, "project_name": project.name, "role": role}
        rows.append({**named, "pseudonym": account.pseudonym, "answered": answered})
    return rows


def guideline_rows(connection: Connection, project: Project) -> list[dict[str, Any]]:
    columns = select(assignment.c.guideline_id, func.count().label("n")).select_from(
        assignment.join(project_item, project_item.c.item_id == assignment.c.item_id)
    )
    submitted = columns.where(
        project_item.c.project_id == project.id,
        assignment.c.state == "submitted",
        assignment.c.purpose == "judge",
    ).group_by(assignment.c.guideline_id)
    answered = {row.guideline_id: row.n for row in connection.execute(submitted)}
    return [
        {
            "id": version.id,
            "n": version.n,
            "text": version.text,
            "html": str(render_text(version.text, wrapped=True)),
            "created_at": version.created_at,
            "current": version.n == project.guideline_n,
            "answered": answered.get(version.id, 0),
        }
        for version in projects.guidelines(connection, project.id)
    ]


def data_counts(connection: Connection, project_id: str) -> dict[str, int]:
    edits = (
        select(func.count())
        .select_from(
            answer.join(judgement)
            .join(assignment)
            .join(project_item, project_item.c.item_id == assignment.c.item_id)
        )
        .where(answer.c.key == "edit", answer.c.body.is_not(None), judgement.c.status == "active")
        .where(assignment.c.purpose.in_(judging.SETTLING))
        .where(project_item.c.project_id == project_id)
    )
    demonstrations = int(connection.execute(edits).scalar_one())
    return projects.counts(connection, project_id) | {"demonstrations": demonstrations}


def release_rows(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """Releases that hold judgements of this project, the newest first."""
    inside = (
        select(release_row.c.release_id)
        .select_from(
            release_row.join(judgement)
            .join(assignment)
            .join(project_item, project_item.c.item_id == assignment.c.item_id)
        )
        .where(project_item.c.project_id == project_id)
    )
    size = select(func.count()).select_from(release_row).where(release_row.c.release_id == release.c.id)
    columns = select(release, size.scalar_subquery().label("rows")).where(release.c.id.in_(inside))
    found = connection.execute(columns.order_by(release.c.created_at.desc()))
    return [{"name": r.name, "hash": r.hash, "rows": r.rows, "created_at": r.created_at} for r in found]


def is_release(connection: Connection, name: str) -> bool:
    """Whether the name is taken, in whichever project."""
    return connection.execute(select(release.c.id).where(release.c.name == name)).first() is not None


def chosen_judgements(connection: Connection, project_id: str, rater: str, strength: int | None) -> list[str]:
    """Ids of a project's active judgements, the newest first, of one rater or one strength if given."""
    joined = (
        judgement.join(assignment)
        .join(annotator)
        .join(project_item, project_item.c.item_id == assignment.c.item_id)
        .join(item, item.c.id == assignment.c.item_id)
    )
    rows = select(judgement.c.id).select_from(joined).where(project_item.c.project_id == project_id)
    rows = rows.where(judgement.c.status == "active")
    if rater:
        rows = rows.where(annotator.c.pseudonym == rater)
    if strength is not None:  # which is a pair's
        said = exists().where(preference.c.judgement_id == judgement.c.id)
        said = said.where(preference.c.strength == abs(strength))
        if strength:
            said = said.where(preference.c.slot_hi == (0 if strength > 0 else 1))
        rows = rows.where(said, item.c.kind == "pair")
    newest = rows.order_by(judgement.c.submitted_at.desc(), judgement.c.id)
    return list(connection.execute(newest).scalars())


def judgement_rows(
    connection: Connection, project: Project, ids: Sequence[str], *, as_shown: bool = False
) -> list[dict[str, Any]]:
    """Rows for judgements, in the order of `ids`.

    Strengths are by slot, or `as_shown` to the rater, who must not learn which answer stood in which slot.
    """
    found = {judged.id: judged for judged in judging.read_judgements(connection, ids=ids)}
    prompts = store.read_prompts(connection, (judged.prompt_id for judged in found.values()))
    said, times = answers.read_answers(connection, ids), exchange.submission_times(connection, ids)
    numbers = {version.id: version.n for version in reversed(projects.guidelines(connection, project.id))}
    with_spans = {id_ for id_, parts in said.items() if any(part.key.startswith(SPAN) for part in parts)}
    texts = store.read_completions(
        connection, (c for id_ in with_spans if id_ in found for c in found[id_].completion_ids)
    )
    rows = []
    for judged in (found[id_] for id_ in ids if id_ in found):
        parts = said.get(judged.id, [])
        flags = Counter(part.key.removeprefix(FLAG) for part in parts if part.key.startswith(FLAG))
        rows.append(
            {
                "id": judged.id,
                "rater": judged.rater,
                "prompt_text": prompts[judged.prompt_id].messages[-1].content[:1000],
                # from slots to positions, and from positions to slots, is the same step
                "strength": judging.canonical_strength(judged.strength, judged.shown)
                if as_shown
                else judged.strength,
                "ranking": ranking_text(judged, as_shown=as_shown),
                "both_bad": any(part.key == "both_bad" for part in parts),
                "flags": sorted(flags),
                "spans": _span_rows(judged, parts, texts, as_shown=as_shown)
                if judged.id in with_spans
                else [],
                "comment": next((part.body or "" for part in parts if part.key == "comment"), ""),
                "seconds": judged.seconds,
                "submitted_at": times[judged.id],
                "guideline_n": numbers.get(judged.guideline),
                "revision": judged.revision,
                "purpose": judged.purpose,
            }
        )
    return rows


def _span_rows(
    judged: Judgement, parts: Sequence[Part], texts: Mapping[str, Completion], *, as_shown: bool
) -> list[dict[str, Any]]:
    """Marked passages, by answer: A is the one that stood first, or without `as_shown` slot 0."""
    shown = judged.shown if as_shown else tuple(range(len(judged.completion_ids)))
    rows = []
    for span in answers.from_parts(parts, shown).spans:
        text = texts[judged.completion_ids[shown[span.position]]].text
        quote, _ = quoted(text, span.start, span.end)
        rows.append({**asdict(span), "answer": chr(ord("A") + span.position), "quote": quote})
    return rows


def in_project(connection: Connection, project_id: str, judgement_id: str) -> bool:
    found = (
        select(judgement.c.id)
        .select_from(
            judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
        )
        .where(judgement.c.id == judgement_id, project_item.c.project_id == project_id)
    )
    return connection.execute(found).first() is not None


def shown_why(connection: Connection, project: Project, judgement_id: str) -> dict[str, Any]:
    """`why_judgement` with texts as HTML and grades in words."""
    told = why.why_judgement(connection, judgement_id)
    numbers = {version.id: version.n for version in reversed(projects.guidelines(connection, project.id))}
    in_words = {
        judged.id: ranking_text(judged) or strength_text(judged.strength)
        for judged in judging.read_judgements(
            connection, ids=[row["id"] for row in told["revisions"]], include_superseded=True
        )
    }
    both_bad = any(part["key"] == "both_bad" for part in told["said"])
    guideline = told["guideline"]
    parts = [Part(p["key"], p["slot"], p["number"], p["text"]) for p in told["said"]]
    spans = answers.from_parts(parts, range(len(told["answers"]))).spans
    texts = [shown["text"] for shown in told["answers"]]
    media = media_in(connection, project.id, [*texts, *(turn["text"] for turn in told["prompt"])])
    order = known.known_answers(connection, [told["item"]]).get(told["item"], ()) if told["ranks"] else ()
    return told | {
        "known_order": known.in_words(order, len(texts)),
        "said": [part for part in told["said"] if not part["key"].startswith(SPAN)],
        "spans": [asdict(s) | {"quote": quoted(texts[s.position], s.start, s.end, media)[0]} for s in spans],
        "strength_text": strength_text(told["strength"], both_bad) if both_bad else in_words[judgement_id],
        "prompt": [{**turn, "html": str(render_text(turn["text"], media=media))} for turn in told["prompt"]],
        "answers": [
            {
                **shown,
                "html": marked(
                    shown["text"],
                    [(s.start, s.end, s.label) for s in spans if s.position == shown["slot"]],
                    media,
                ),
                "sampling": json.dumps(shown["sampling"]) if shown["sampling"] else "",
            }
            for shown in told["answers"]
        ],
        "guideline": {
            "n": numbers.get(guideline["id"]),
            "html": str(render_text(guideline["text"], wrapped=True)),
        },
        "revisions": [row | {"strength_text": in_words[row["id"]]} for row in told["revisions"]],
    }


def ranking_text(judged: Judgement, *, as_shown: bool = False) -> str:
    """A ranking by its answers' letters, of slots or as they were shown; "" for a pair."""
    ranks = rankings.as_displayed(judged.ranks, judged.shown) if as_shown and judged.ranks else judged.ranks
    return rankings.in_words(ranks)


def strength_text(strength: int, both_bad: bool = False) -> str:
    if strength == 0:
        return "Both are bad" if both_bad else "Equally good"
    grade = ("slightly better", "better", "much better")[abs(strength) - 1]
    return f"{'A' if strength > 0 else 'B'} is {grade}"
