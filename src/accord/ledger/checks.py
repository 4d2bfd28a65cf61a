"""Checks on raters that come in their queue: gold questions, and blind repeats in another order.

To the rater they are questions like any other. Neither takes one of an item's places, and no answer to them
is a vote. A check comes instead of an ordinary question, which stays for later: where nothing else is left
to judge, nobody is checked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, select

from accord.ledger import known, prepared, queue, rankings
from accord.ledger.assigned import Assignment, Rater, Wanted
from accord.ledger.prepared import LIVE
from accord.ledger.projects import NO_CHECKS, REPEAT_AFTER, Project
from accord.ledger.schema import assignment, item, judgement, preference, presentation
from accord.ledger.team_schema import project_item
from accord.records import content_hash

MAINTENANCE = 0.1  # of the rate of gold questions, once the test has decided
MOST = 500  # candidates to draw from

# Statements, built once. All are about one rater in one project.

_FREE = prepared.FREE_IN_PROJECT
_FREE_NOT_GOLD = _FREE.where(prepared.NOT_GOLD)

_UNSEEN_GOLD = (
    select(item.c.id)
    .join(project_item)
    .where(project_item.c.project_id == bindparam("project"), item.c.id.in_(prepared.GOLD_ITEMS))
    .where(~prepared.SEEN, prepared.MAY)
    .order_by(item.c.seq)
    .limit(MOST)
)

_GOLD_ANSWERS = (
    select(assignment.c.item_id, judgement.c.id)
    .add_columns(preference.c.slot_hi, preference.c.slot_lo, preference.c.strength)
    .select_from(
        assignment.join(project_item, project_item.c.item_id == assignment.c.item_id)
        .join(judgement, judgement.c.assignment_id == assignment.c.id)
        .join(preference, preference.c.judgement_id == judgement.c.id)
    )
    .where(
        project_item.c.project_id == bindparam("project"),
        assignment.c.item_id.in_(prepared.GOLD_ITEMS),
        assignment.c.annotator_id == bindparam("rater"),
        assignment.c.purpose.in_(("judge", "gold")),
        judgement.c.status == "active",
    )
    .order_by(judgement.c.submitted_at, judgement.c.id)
)

_MINE = (
    select(assignment.c.id, assignment.c.item_id)
    .select_from(assignment.join(item).join(project_item, project_item.c.item_id == item.c.id))
    .where(
        project_item.c.project_id == bindparam("project"),
        assignment.c.annotator_id == bindparam("rater"),
        assignment.c.state == "submitted",
        assignment.c.purpose != "adjudicate",
    )
)
_JUST_ANSWERED = (
    _MINE.with_only_columns(assignment.c.leased_at)
    .order_by(assignment.c.leased_at.desc())
    .limit(1)
    .offset(REPEAT_AFTER - 1)
)
_again = assignment.alias("again").c
_REPEATABLE = (
    _MINE.where(
        prepared.MAY,
        assignment.c.purpose == "judge",
        assignment.c.guideline_id == bindparam("guideline"),
        assignment.c.leased_at < bindparam("before"),
        exists().where(judgement.c.assignment_id == assignment.c.id, judgement.c.status == "active"),
        ~exists().where(
            _again.item_id == assignment.c.item_id,
            _again.annotator_id == assignment.c.annotator_id,
            _again.purpose == "repeat",
            _again.state.in_((*LIVE, "skipped")),
        ),
    )
    .order_by(assignment.c.leased_at)
    .limit(MOST)
)
_SHOWN = (
    select(presentation.c.slot)
    .where(presentation.c.assignment_id == bindparam("assignment"))
    .order_by(presentation.c.position)
)
_ASSIGNED = (
    select(func.count()).select_from(assignment).where(assignment.c.annotator_id == bindparam("rater"))
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
    decided: Callable[[Sequence[bool]], bool],
) -> list[Assignment]:
    """As `queue.lease` in a project, with the checks that its settings want among the questions.

    `decided` says of a rater's gold answers in order of time (right or not) whether they are enough. With a
    `seed` everything drawn can be drawn again; without, nobody can know it beforehand.
    """
    settings: dict[str, Any] = {"seconds": seconds, "seed": seed}
    if project.rates == NO_CHECKS:
        return queue.lease(
            connection, rater, project.guideline_id, now, limit=limit, project=project.id, **settings
        )
    queue.expire(connection, now)
    mine: dict[str, Any] = {"rater": rater.id, "project": project.id}
    free = _FREE_NOT_GOLD if project.rates.gold else _FREE
    ordinary = list(connection.execute(free, mine | {"limit": limit}).scalars())
    left, wanted = iter(ordinary), list[Wanted]()
    for draw in _draws(connection, rater, len(ordinary), seed):
        taken = {each.item_id for each in wanted}
        check = _check(connection, mine, project, draw, taken, decided)
        wanted.append(check or Wanted(next(left)))
    return queue.hold(connection, rater, project.guideline_id, wanted, now, **settings)


def _draws(
    connection: Connection, rater: Rater, number: int, seed: int | None
) -> Iterator[tuple[float, float]]:
    """For each question two numbers from 0 to 1: which kind of question it is, and which of its kind."""
    if seed is None:
        system = secrets.SystemRandom()
        yield from ((system.random(), system.random()) for _ in range(number))
        return
    before = connection.execute(_ASSIGNED, {"rater": rater.id}).scalar_one()
    for n in range(before, before + number):
        drawn = content_hash([seed, "check", rater.id, n])
        yield int(drawn[:13], 16) / 16**13, int(drawn[13:26], 16) / 16**13


def _check(
    connection: Connection,
    mine: dict[str, Any],
    project: Project,
    draw: tuple[float, float],
    taken: Collection[str],
    decided: Callable[[Sequence[bool]], bool],
) -> Wanted | None:
    """The check that these draws ask for; None for an ordinary question, or where there is no such check."""
    (kind, which), rates = draw, project.rates
    if kind < rates.gold:
        if kind >= MAINTENANCE * rates.gold and decided(gold_answers(connection, mine)):
            return None
        unseen = [i for i in connection.execute(_UNSEEN_GOLD, mine).scalars() if i not in taken]
        return Wanted(_pick(unseen, which), "gold") if unseen else None
    if kind < rates.gold + rates.repeat:
        return _repeat(connection, mine, project.guideline_id, which, taken)
    return None


def gold_answers(connection: Connection, mine: dict[str, Any]) -> list[bool]:
    """Whether a rater's answers to a project's gold questions are right (`known.is_right`), as time went."""
    said: dict[tuple[str, str], list[rankings.Compared]] = {}
    for row in connection.execute(_GOLD_ANSWERS, mine):
        said.setdefault((row.item_id, row.id), []).append((row.slot_hi, row.slot_lo, row.strength))
    answers = known.known_answers(connection, {item_id for item_id, _ in said})
    return [
        known.is_right(rankings.ranks_from(compared), answers[item_id])
        for (item_id, _), compared in said.items()
    ]


def _repeat(
    connection: Connection, mine: dict[str, Any], guideline: str, which: float, taken: Collection[str]
) -> Wanted | None:
    """A question that she answered a while ago by the same guideline, its answers in another order."""
    before = connection.execute(_JUST_ANSWERED, mine).scalar()
    if before is None:
        return None
    rows = connection.execute(_REPEATABLE, mine | {"guideline": guideline, "before": before})
    answered = {row.item_id: row.id for row in rows if row.item_id not in taken}
    if not answered:
        return None
    item_id = _pick(list(answered), which)
    shown = connection.execute(_SHOWN, {"assignment": answered[item_id]}).scalars().all()
    return Wanted(item_id, "repeat", unlike=tuple(shown))


def _pick(among: Sequence[str], draw: float) -> str:
    return among[int(draw * len(among))]
