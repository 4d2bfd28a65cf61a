"""Why is a row, or a model, as it is? Back from it to the people who judged and to what they saw."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, select

from accord.errors import LedgerError
from accord.ledger import answers, erasure, lineage, prepared, store
from accord.ledger.judging import assignment_of, read_judgements
from accord.ledger.schema import guideline_version, item, judgement, release, release_row, training_input
from accord.records import Judgement


def why_judgement(connection: Connection, judgement_id: str) -> dict[str, Any]:
    """What was asked, shown and said, by whom and by which guideline; and where the row went."""
    found = read_judgements(connection, ids=[judgement_id], include_superseded=True)
    if not found:
        raise LedgerError(f"judgement {judgement_id!r} is not in the ledger; check the id")
    judged = found[0]
    prompt = store.read_prompts(connection, [judged.prompt_id])[judged.prompt_id]
    asked = connection.execute(select(item).where(item.c.id == judged.item_id)).one()
    body = select(guideline_version.c.body).where(guideline_version.c.id == judged.guideline)
    revisions = select(judgement).where(judgement.c.assignment_id == assignment_of(connection, judgement_id))
    said = answers.read_answers(connection, [judgement_id]).get(judgement_id, [])
    return {
        "judgement": judged.id,
        "rater": judged.rater,
        "rater_kind": judged.rater_kind,
        "strength": None if judged.ranks else judged.strength,
        "ranks": list(judged.ranks) or None,
        "seconds": judged.seconds,
        "item": judged.item_id,
        "asked_because": asked.reason,
        "purpose": judged.purpose,
        "erased": bool(erasure.erased(connection, "item", [judged.item_id])),
        "prompt": [{"role": m.role, "text": m.content} for m in prompt.messages],
        "source": prompt.source,
        "answers": _answers(connection, judged),
        "said": [{"key": p.key, "slot": p.slot, "number": p.number, "text": p.body} for p in said],
        "guideline": {"id": judged.guideline, "text": connection.execute(body).scalar()},
        "revisions": [
            {"id": r.id, "revision": r.revision, "submitted_at": r.submitted_at, "status": r.status}
            for r in connection.execute(revisions.order_by(judgement.c.revision))
        ],
        **who_trained_on(connection, judgement_id),
    }


def _answers(connection: Connection, judged: Judgement) -> list[dict[str, Any]]:
    completions = store.read_completions(connection, judged.completion_ids)
    preferred = 0 if judged.strength > 0 else 1 if judged.strength < 0 else None
    rows = []
    for slot, completion_id in enumerate(judged.completion_ids):
        completion = completions[completion_id]
        rows.append(
            {
                "slot": slot,
                "text": completion.text,
                "policy": completion.policy_version or None,
                "sampling": vars(completion.sampling) if completion.sampling else None,
                "preferred": judged.ranks[slot] == 1 if judged.ranks else slot == preferred,
                "rank": judged.ranks[slot] if judged.ranks else None,
                "stood": _stood(judged.shown.index(slot), len(judged.shown)),
            }
        )
    return rows


def _stood(position: int, answers: int) -> str:
    return ("left", "right")[position] if answers == 2 else f"at place {position + 1} of {answers}"


def who_trained_on(connection: Connection, judgement_id: str) -> dict[str, list[str]]:
    """The releases that hold a judgement, and the models behind which it stands."""
    models = lineage.models_touched_by(connection, judgement_id)
    held = select(release.c.name).join(release_row).where(release_row.c.judgement_id == judgement_id)
    return {"releases": sorted(connection.execute(held).scalars()), "models": models}


def why_model(connection: Connection, model: str) -> dict[str, Any]:
    """The releases behind a model, and who judged them by which guidelines."""
    names = lineage.trained_on(connection, model)
    if not names:
        known = sorted(connection.execute(select(training_input.c.model).distinct()).scalars())
        raise LedgerError(
            f"no training of {model!r} is on record; the ledger knows {', '.join(known) or 'no model'}"
        )
    releases = []
    for name in names:
        judgements = lineage.release_judgements(connection, name)
        kinds = Counter(judged.rater_kind for judged in judgements)
        releases.append(
            {
                "name": name,
                "hash": lineage.find_release(connection, name).hash,
                "judgements": len(judgements),
                "by_kind_of_rater": dict(sorted(kinds.items())),
                "raters": sorted({judged.rater for judged in judgements}),
                "guidelines": sorted({judged.guideline for judged in judgements}),
                "asked_because": _reasons(connection, judgements),
            }
        )
    return {"model": model, "releases": releases}


def _reasons(connection: Connection, judgements: list[Judgement]) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    asked = Counter(judged.item_id for judged in judgements)
    for some in store.chunks(asked):
        for row in connection.execute(select(item.c.id, item.c.reason).where(item.c.id.in_(some))):
            reasons[prepared.short_reason(row.reason)] += asked[row.id]
    return dict(sorted(reasons.items()))


def why(connection: Connection, row_or_model: str) -> dict[str, Any]:
    """`why_judgement` for a judgement's id, `why_model` for a model's name."""
    known = select(judgement.c.id).where(judgement.c.id == row_or_model)
    if connection.execute(known).first() is not None:
        return why_judgement(connection, row_or_model)
    return why_model(connection, row_or_model)
