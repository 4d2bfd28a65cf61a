"""Questions for people: put into a project of the annotation app, and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from sqlalchemy import Connection, func, select

from accord.errors import ConfigError
from accord.ledger import accounts, projects, queue
from accord.ledger.database import utc_now
from accord.ledger.ledger import Ledger
from accord.ledger.schema import assignment, item
from accord.ledger.store import chunks
from accord.ledger.team_schema import membership
from accord.records import Question
from accord.training.run import InterruptedRunError

LOOK_AGAIN = 2.0  # seconds between two looks into the ledger
SIGN_OF_LIFE = 30.0  # seconds after which it is told again that the wait goes on

# Why a question was asked whose answer is the measure of a policy: such answers never train anything.
EVALUATION = "evaluation: which of two policies answers better"


@dataclass(frozen=True)
class Waiting:
    """How far people are. `needed` judgements let the work go on; `wanted` is how many were asked for."""

    ledger: str
    project: str  # its name
    given: int
    needed: int
    wanted: int
    people: int  # raters that the most wanted question needs

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Tell = Callable[[Waiting], None]


def open_project(ledger: Ledger, name: str, guideline: str, *, members_of: str | None = None) -> str:
    """The id of the project of this name, made with this guideline if there is none.

    An existing project keeps the guideline that its managers may have rewritten. Who has a role in
    `members_of` (a project's id) gets the same one here, unless she has or had one.
    """
    with ledger.writing() as connection:
        now = utc_now()
        project_id = find_project(connection, name)
        if project_id is None:
            project_id = projects.add_project(connection, name, guideline, overlap=1, form={}, now=now)
        known = select(membership.c.account_id).where(membership.c.project_id == project_id)
        here = set(connection.execute(known).scalars())  # also who was removed
        for member in projects.members(connection, members_of) if members_of else []:
            if member["account"] not in here:
                accounts.set_role(connection, project_id, member["account"], member["role"], now)
    return project_id


def find_project(connection: Connection, name: str) -> str | None:
    """The oldest project of this name."""
    for project_id in projects.all_projects(connection):
        found = projects.find_project(connection, project_id)
        if found is not None and found.name == name:
            return project_id
    return None


def put_questions(
    ledger: Ledger, project_id: str, questions: Sequence[Question], *, priority: int = 0
) -> list[str]:
    """Ask them in the project; their item ids. Those of a higher priority come first. Idempotent."""
    with ledger.writing() as connection:
        projects.add_questions(connection, project_id, questions, utc_now(), priority=priority)
    return list(dict.fromkeys(queue.item_id_of(question.group) for question in questions))


def wait_for(
    ledger: Ledger,
    where: str,
    project: str,
    item_ids: Sequence[str],
    wait: int | Literal["all"],
    console: Console,
    tell: Tell = lambda waiting: None,
) -> Waiting:
    """Return when enough judgements of these items are there; `tell` hears of changes, and that it waits.

    Raises ConfigError when more are waited for than were asked, and InterruptedRunError after Ctrl-C: the
    judgements are in the ledger, and waiting can begin again at any time.
    """
    seen = look(ledger, where, project, item_ids, wait)
    if seen.needed > seen.wanted:
        raise ConfigError(
            f"ask.wait is {wait}, but only {seen.wanted} judgements are wanted; lower it, or ask for more "
            "(ask.overlap, ask.pairs_per_prompt, ask.limit)"
        )
    tell(seen)
    told = time.monotonic()
    if seen.given >= seen.needed:
        return seen
    for line in _invitation(seen):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    try:
        with _bar(console) as progress:
            task = progress.add_task("judgements", total=seen.needed, completed=seen.given)
            while seen.given < seen.needed:
                time.sleep(LOOK_AGAIN)
                before, seen = seen, look(ledger, where, project, item_ids, wait)
                if seen != before or time.monotonic() - told > SIGN_OF_LIFE:
                    tell(seen)
                    told = time.monotonic()
                    progress.update(task, completed=seen.given, total=seen.needed)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped while waiting for people: {seen.given} of {seen.needed} judgements are in {where}; "
            "run the same command again to go on"
        ) from None
    return seen


def _invitation(seen: Waiting) -> list[str]:
    more = f" ({seen.wanted} are wanted)" if seen.needed < seen.wanted else ""
    several = f" Some questions want {seen.people} different people." if seen.people > 1 else ""
    return [
        f"waiting for {seen.needed - seen.given} judgements{more}; run `accord serve --db {seen.ledger}`, "
        f"sign in, and send raters invitation links (project {seen.project!r}, People).{several}",
        "This goes on by itself when they are there. Ctrl-C stops waiting; the same command goes on.",
    ]


def look(
    ledger: Ledger, where: str, project: str, item_ids: Sequence[str], wait: int | Literal["all"]
) -> Waiting:
    """Count the votes that these items have and want."""
    given = wanted = people = 0
    with ledger.reading() as connection:
        for some in chunks(item_ids):
            submitted = select(func.count()).select_from(assignment)
            submitted = submitted.where(assignment.c.item_id.in_(some), assignment.c.state == "submitted")
            votes = submitted.where(assignment.c.purpose == "judge")
            given += int(connection.execute(votes).scalar_one())
            overlap = select(func.sum(item.c.target_overlap), func.max(item.c.target_overlap))
            total, most = connection.execute(overlap.where(item.c.id.in_(some))).one()
            wanted, people = wanted + int(total or 0), max(people, int(most or 0))
    return Waiting(where, project, given, wanted if wait == "all" else wait, wanted, people)


def for_training(ledger: Ledger) -> list[str]:
    """The items whose answers may train something: all but those that measure a policy."""
    with ledger.reading() as connection:
        rows = select(item.c.id).where(item.c.reason != EVALUATION).order_by(item.c.seq)
        return list(connection.execute(rows).scalars())


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        console=console,
    )
