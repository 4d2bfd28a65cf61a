"""Questions about which raters disagree, for somebody who has not judged them to settle.

A pair is disputed once it has all the answers it wanted and two of them name different winners, or lie three
steps or more apart on the scale from -3 to 3. A ranking is disputed once it has all its answers and the mean
of Kendall's tau-b over each two of them is below what the project sets. One adjudicator answers it, as blind
as the raters did: the same page, sides drawn anew, nothing of what they said, which would pull her towards
one of them. Afterwards she sees it all and may revise. Her answer is the question's label; the votes stay on
record.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, Subquery, case, exists, func, select, union_all
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
_PAIRS = (
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
)


def _taus() -> Subquery:
    """Of the project's rankings that have all their answers, the mean tau-b of each two raters.

    tau-b is S / sqrt(n1 n2): of the comparisons that two rankings share, S counts those that they decide
    alike less those that they decide oppositely, and n1, n2 those that each decides. Where one ties
    everything it is not defined; two who both do agree (1), and one alone is as if shuffled (0).
    """
    a, b = assignment.alias("first"), assignment.alias("second")
    ja, jb = judgement.alias("first_said"), judgement.alias("second_said")
    x, y = preference.alias("x"), preference.alias("y")
    alike = (x.c.slot_hi == y.c.slot_hi) & (x.c.slot_lo == y.c.slot_lo)
    crossed = (x.c.slot_hi == y.c.slot_lo) & (x.c.slot_lo == y.c.slot_hi)
    s = func.sum(x.c.strength * y.c.strength * case((alike, 1), else_=-1))
    n1, n2 = func.sum(x.c.strength), func.sum(y.c.strength)
    tau = case((n1 * n2 > 0, s / func.sqrt(n1 * n2)), (n1 + n2 == 0, 1.0), else_=0.0)
    couples = (
        select(item.c.id, item.c.seq, tau.label("tau"))
        .select_from(
            item.join(project_item)
            .join(a, a.c.item_id == item.c.id)
            .join(b, (b.c.item_id == item.c.id) & (a.c.annotator_id < b.c.annotator_id))
            .join(ja, ja.c.assignment_id == a.c.id)
            .join(jb, jb.c.assignment_id == b.c.id)
            .join(x, x.c.judgement_id == ja.c.id)
            .join(y, (y.c.judgement_id == jb.c.id) & (alike | crossed))
        )
        .where(
            project_item.c.project_id == bound("project"),
            item.c.kind == "ranking",
            item.c.state == "done",
            a.c.purpose == "judge",
            b.c.purpose == "judge",
            ja.c.status == "active",
            jb.c.status == "active",
        )
        .group_by(item.c.id, item.c.seq, ja.c.id, jb.c.id)
        .subquery("couples")
    ).c
    return (
        select(couples.id, couples.seq, func.avg(couples.tau).label("tau"))
        .group_by(couples.id, couples.seq)
        .subquery("taus")
    )


_TAUS = _taus()
_RANKINGS = select(_TAUS.c.id, _TAUS.c.seq).where(_TAUS.c.tau < bound("below"))
_DISPUTED = union_all(_PAIRS, _RANKINGS).subquery("disputed")


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
    """Up to `limit` disputed questions that nobody settles and that this member has not judged or skipped."""
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


def disputed(connection: Connection, project: Project) -> list[str]:
    """Items about which raters disagree, settled or not, in the order of asking."""
    rows = select(_DISPUTED.c.id).order_by(_DISPUTED.c.seq)
    return list(connection.execute(rows, _of(project, "")).scalars())


def alike(connection: Connection, project_id: str) -> dict[str, float]:
    """The mean tau-b of each ranking that has all its answers, two at least; the least alike first."""
    rows = select(_TAUS.c.id, _TAUS.c.tau).order_by(_TAUS.c.tau, _TAUS.c.seq)
    return {row.id: float(row.tau) for row in connection.execute(rows, {"project": project_id})}


def settled(connection: Connection, project_id: str) -> list[str]:
    """The active judgements that settle questions, the newest first."""
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


def _of(project: Project, annotator_id: str) -> dict[str, Any]:
    return {"project": project.id, "rater": annotator_id, "below": project.disputed_below}
