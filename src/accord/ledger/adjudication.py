"""Questions about which raters disagree, for somebody who has not judged them to settle.

A pair is disputed once it has all the answers it wanted and two of them name different winners, or lie three
steps or more apart on the scale from -3 to 3. One adjudicator answers it, as blind as the raters did: the
same page, sides drawn anew, nothing of what they said, which would pull her towards one of them. Afterwards
she sees it all and may revise. Her answer is the pair's label; the votes stay on record.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, case, exists, func, select
from sqlalchemy import bindparam as bound

from accord.ledger import queue
from accord.ledger.assigned import Assignment, Rater, Wanted
from accord.ledger.prepared import LIVE
from accord.ledger.projects import Progress, Project
from accord.ledger.schema import assignment, item, judgement, preference
from accord.ledger.team_schema import project_item

FAR_APART = 3  # steps between two answers

_signed = case((preference.c.slot_hi == 0, preference.c.strength), else_=-preference.c.strength)
_most, _least = func.max(_signed), func.min(_signed)

# The pairs of a project about which raters disagree, settled or not.
_DISPUTED = (
    select(item.c.id, item.c.seq)
    .select_from(
        item.join(project_item)
        .join(assignment, assignment.c.item_id == item.c.id)
        .join(judgement, judgement.c.assignment_id == assignment.c.id)
        .join(preference, preference.c.judgement_id == judgement.c.id)
    )
    .where(
        project_item.c.project_id == bound("project"),
        item.c.kind == "pair",
        item.c.state == "done",
        assignment.c.purpose == "judge",
        judgement.c.status == "active",
    )
    .group_by(item.c.id, item.c.seq)
    .having(((_most > 0) & (_least < 0)) | (_most - _least >= FAR_APART))
    .subquery("disputed")
)


def _by(*conditions: Any) -> Any:
    """There is an assignment of the disputed item like that."""
    return exists().where(assignment.c.item_id == _DISPUTED.c.id, *conditions)


_SETTLED = _by(assignment.c.purpose == "adjudicate", assignment.c.state.in_(LIVE))
_MINE = _by(assignment.c.annotator_id == bound("rater"), assignment.c.state.in_((*LIVE, "skipped")))
_FREE = select(_DISPUTED.c.id).where(~_SETTLED, ~_MINE).order_by(_DISPUTED.c.seq)

_STATES: Select[Any] = (
    select(assignment.c.state, func.count().label("n"))
    .select_from(assignment.join(project_item, project_item.c.item_id == assignment.c.item_id))
    .where(
        project_item.c.project_id == bound("project"),
        assignment.c.annotator_id == bound("rater"),
        assignment.c.purpose == "adjudicate",
    )
    .group_by(assignment.c.state)
)


def lease(
    connection: Connection,
    rater: Rater,
    project: Project,
    now: str,
    *,
    limit: int,
    seconds: float,
    seed: int | None,
) -> list[Assignment]:
    """Up to `limit` disputed pairs that nobody settles yet and that this member has not judged or skipped."""
    queue.expire(connection, now)
    found = connection.execute(_FREE.limit(limit), _of(project, rater.id)).scalars()
    wanted = [Wanted(item_id, "adjudicate") for item_id in found]
    return queue.hold(connection, rater, project.guideline_id, wanted, now, seconds=seconds, seed=seed)


def progress(connection: Connection, project: Project, annotator_id: str) -> Progress:
    """One adjudicator's: `left` counts what she can still settle, with what she holds."""
    mine = _of(project, annotator_id)
    states = {row.state: row.n for row in connection.execute(_STATES, mine)}
    free = connection.execute(select(func.count()).select_from(_FREE.subquery()), mine).scalar_one()
    return Progress(states.get("submitted", 0), states.get("skipped", 0), free + states.get("leased", 0))


def disputed(connection: Connection, project_id: str) -> list[str]:
    """Items about which raters disagree, settled or not, in the order of asking."""
    rows = select(_DISPUTED.c.id).order_by(_DISPUTED.c.seq)
    return list(connection.execute(rows, {"project": project_id}).scalars())


def settled(connection: Connection, project_id: str) -> list[str]:
    """The active judgements that settle pairs, the newest first."""
    rows = (
        select(judgement.c.id)
        .select_from(
            judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
        )
        .where(
            project_item.c.project_id == project_id,
            assignment.c.purpose == "adjudicate",
            judgement.c.status == "active",
        )
        .order_by(judgement.c.submitted_at.desc(), judgement.c.id)
    )
    return list(connection.execute(rows).scalars())


def _of(project: Project, annotator_id: str) -> dict[str, str]:
    return {"project": project.id, "rater": annotator_id}
