"""Can the feedback be trusted? The numbers of the manager's page, each with its interval and what it means.

They are those of `accord quality`, of the same function. Counts are fresh; the statistics, which take seconds
for thousands of judgements, are computed in a thread of their own and kept until there is another answer. A
page never waits long: until new ones are there, it shows the last ones and says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, func, select

from accord.ledger import Ledger, adjudication, exchange, groups, judging, projects, store
from accord.ledger.database import utc_now
from accord.ledger.judging import EVERYTHING
from accord.ledger.schema import assignment, item, judgement, preference
from accord.ledger.team_schema import answer, gold_order, project_item
from accord.records import content_hash
from accord.web.quality_figures import Figure, advice, figures_of, figures_of_groups, share_figure

PATIENCE = 0.7  # seconds that a page waits for new statistics
REST = 10.0  # times as long as the last computation took, until the next one: raters come first
MOST_DISPUTES = 50
IMPATIENT = 0.5  # seconds; what takes less may be computed at any time

State = tuple[int, str, int, str, int]


@dataclass
class Desk:
    """One project's statistics: the last ones, and the work on new ones."""

    figures: dict[str, Any] | None = None
    state: State | None = None  # what they were computed from
    error: Exception | None = None
    took: float = 0.0
    ended: float = 0.0  # on the monotonic clock
    working: Event | None = None
    lock: Lock = field(default_factory=Lock)


_desks: WeakKeyDictionary[Ledger, dict[str, Desk]] = WeakKeyDictionary()
_desks_lock = Lock()
_computing = Lock()  # one at a time, whatever the project


def quality_of(ledger: Ledger, project_id: str, *, patience: float = PATIENCE) -> dict[str, Any]:
    """The numbers as JSON. Waits at most `patience` seconds for new statistics.

    LedgerError when a judgement does not lead back to what was shown.
    """
    with ledger.reading() as connection:
        state = _state(connection, project_id)
        counted = _counts(connection, project_id)
        project = projects.find_project(connection, project_id)
    desk = _desk(ledger, project_id)
    if state[0] and desk.state != state:
        work = _start(ledger, project_id, state, desk)
        if work is not None:
            work.wait(patience)
    if desk.error is not None:
        raise desk.error
    found = desk.figures if state[0] else None
    if found and desk.state and desk.state[3] != state[3]:  # what somebody took back is told no more
        found = {**found, "groups": []}
    pending = bool(state[0]) and desk.state != state
    summary = [*(found["summary"] if found else []), *counted.pop("figures")]
    raters = found["raters"] if found else []
    disputes = found["disputes"] if found else []
    return {
        "guidelines": [],
        "windows": [],
        "couples": [],
        "groups": [],
        "computed_at": utc_now(),
        **(found or {}),
        **counted,
        "summary": summary if state[0] else [],
        "raters": raters,
        "pending": pending,
        "disputes": [row | {"disputed": row["tau"] < project.disputed_below} for row in disputes]
        if project
        else [],
        "advice": advice(summary, raters, state[0], pending),
    }


def _desk(ledger: Ledger, project_id: str) -> Desk:
    with _desks_lock:
        return _desks.setdefault(ledger, {}).setdefault(project_id, Desk())


def _start(ledger: Ledger, project_id: str, state: State, desk: Desk) -> Event | None:
    """Work on new statistics; None while the server should rest from the last ones."""
    with desk.lock:
        if desk.working is not None:
            return desk.working
        resting = time.monotonic() - desk.ended < REST * desk.took
        if desk.figures is not None and desk.took > IMPATIENT and resting:
            return None
        desk.working = Event()
        Thread(target=_compute, args=(ledger, project_id, state, desk, desk.working), daemon=True).start()
        return desk.working


def _compute(ledger: Ledger, project_id: str, state: State, desk: Desk, done: Event) -> None:
    began = time.monotonic()
    try:
        with _computing:
            desk.figures, desk.error = compute(ledger, project_id), None
    except Exception as error:  # raised again for whoever asks
        desk.error = error
    finally:
        desk.took, desk.ended = time.monotonic() - began, time.monotonic()
        with desk.lock:
            desk.state, desk.working = state, None
        done.set()


def compute(ledger: Ledger, project_id: str) -> dict[str, Any]:
    """The statistics, now: what `accord quality` prints, as figures. It takes as long as it takes."""
    from accord.stages import quality  # with SciPy, so slow to import

    with ledger.reading() as connection:
        facts = quality.facts_of(connection, exchange.project_judgements(connection, project_id, EVERYTHING))
        versions = projects.guidelines(connection, project_id)
        asked = groups.attributes(connection, project_id)
        batches = groups.batches(connection, project_id)
        disputes = dispute_rows(connection, project_id)
    numbers = {version.id: version.n for version in reversed(versions)}
    told = figures_of_groups(asked, quality.measure_groups(facts, batches)) if asked else []
    figures = figures_of(quality.measure(facts), numbers)
    return {**figures, "disputes": disputes, "groups": told, "computed_at": utc_now()}


# Counting, which is quick


def _of_project(project_id: str) -> tuple[Any, Any]:
    """A join from judgements, and the condition that they are active votes in the project."""
    joined = judgement.join(assignment).join(project_item, project_item.c.item_id == assignment.c.item_id)
    here = (project_item.c.project_id == project_id) & (judgement.c.status == "active")
    return joined, here & (assignment.c.purpose == "judge")


def _state(connection: Connection, project_id: str) -> State:
    """Active judgements, when the last was given, guidelines, who is in groups, and versions of orders."""
    joined, _ = _of_project(project_id)
    columns = select(func.count(), func.max(judgement.c.submitted_at)).select_from(joined)
    here = (project_item.c.project_id == project_id) & (judgement.c.status == "active")
    n, last = connection.execute(columns.where(here)).one()
    told = content_hash(groups.batches(connection, project_id))
    orders = gold_order.join(project_item, project_item.c.item_id == gold_order.c.item_id)
    known = select(func.count()).select_from(orders).where(project_item.c.project_id == project_id)
    versions = len(projects.guidelines(connection, project_id))
    return int(n), last or "", versions, told, connection.execute(known).scalar_one()


def _counts(connection: Connection, project_id: str) -> dict[str, Any]:
    joined, here = _of_project(project_id)
    said = joined.join(preference, preference.c.judgement_id == judgement.c.id)
    said = said.join(item, (item.c.id == assignment.c.item_id) & (item.c.kind == "pair"))
    grades = select(preference.c.slot_hi, preference.c.strength, func.count().label("n"))
    rows = grades.select_from(said).where(here).group_by(preference.c.slot_hi, preference.c.strength)
    strengths = dict.fromkeys(range(-3, 4), 0)
    for slot, strength, n in connection.execute(rows):
        strengths[strength if slot == 0 else -strength] += n
    day = func.substr(judgement.c.submitted_at, 1, 10)
    days = select(day.label("day"), func.count().label("n")).select_from(joined).where(here).group_by(day)
    marked = select(func.count(func.distinct(answer.c.judgement_id)))
    marked = marked.select_from(joined.join(answer, answer.c.judgement_id == judgement.c.id))
    bad = connection.execute(marked.where(here, answer.c.key == "both_bad")).scalar_one()
    counts = projects.counts(connection, project_id)
    by_day = [{"day": row.day, "answered": row.n} for row in sorted(connection.execute(days))]
    figures = _refusals(sum(strengths.values()), strengths[0], int(bad))
    given, skipped = sum(row["answered"] for row in by_day), counts["skipped"]
    meaning = "how often a question was given back"
    figures.append(share_figure("skipped", "Skipped", skipped, given + skipped, meaning))
    return {
        "strengths": [{"strength": s, "count": n} for s, n in strengths.items()],
        "days": by_day,
        "figures": figures,
    }


def dispute_rows(connection: Connection, project_id: str) -> list[dict[str, Any]]:
    """How alike raters order each ranking that has all its answers, the least alike first.

    `tau` is the mean tau-b of each two raters, and `settled` says that an adjudicator answered.
    """
    taus = adjudication.alike(connection, project_id)
    shown = dict(list(taus.items())[:MOST_DISPUTES])
    judged = judging.read_judgements(connection, item_ids=shown, purposes=judging.SETTLING)
    settled = {each.item_id for each in judged if each.purpose == "adjudicate"}
    asked = store.read_groups(connection, shown)
    return [
        {
            "item": item_id,
            "prompt_text": asked[item_id].prompt.messages[-1].content[:1000],
            "tau": tau,
            "settled": item_id in settled,
        }
        for item_id, tau in shown.items()
    ]


def _refusals(n: int, ties: int, bad: int) -> list[Figure]:
    return [
        share_figure("ties", "Called equal", ties, n, "how often neither answer was better"),
        share_figure(
            "both_bad", "Both bad", bad, n, "how often both were bad: the policy then needs demonstrations"
        ),
    ]
