"""Queues per rater: who gets what is kept for whom, what stays unfinished, and all of it on record."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from accord.errors import LedgerError
from accord.feedback.sprt import is_decided
from accord.ledger import Ledger, accounts, checks, judging, projects, queue, reservations
from accord.ledger.assigned import Assignment
from accord.ledger.database import utc_now
from accord.ledger.projects import Progress, Project
from accord.records import Group, Prompt, Question

NAMES = ("ada", "bob", "cyd")


def questions(reason: str, n: int, overlap: int = 1, kind: str = "q") -> list[Question]:
    prompts = (Prompt.of(f"{reason} {kind} {i}") for i in range(n))
    return [Question(Group.of(prompt, "one", "two"), reason, overlap=overlap) for prompt in prompts]


class Team:
    """A project with three people, by name."""

    def __init__(self, ledger: Ledger, rates: dict[str, float] | None = None) -> None:
        self.ledger = ledger
        self.accounts: dict[str, str] = {}
        self.pseudonyms: dict[str, str] = {}
        self.annotators: dict[str, str] = {}
        with ledger.writing() as connection:
            now, form = utc_now(), {"checks": rates or {}}
            self.id = projects.add_project(connection, "p", "Choose.", overlap=1, form=form, now=now)
            for name in NAMES:
                account = accounts.add_account(connection, f"{name}{self.id}", "hash", admin=False, now=now)
                accounts.set_role(connection, self.id, account, "rater", now)
                found = accounts.by_id(connection, account)
                assert found is not None
                self.accounts[name] = account
                self.pseudonyms[name], self.annotators[name] = found[0].pseudonym, found[0].annotator_id

    def ask(self, some: Iterable[Question], priority: int = 0) -> list[str]:
        with self.ledger.writing() as connection:
            projects.add_questions(connection, self.id, list(some), utc_now(), priority=priority)
            return [queue.item_id_of(question.group) for question in some]

    def keep(self, reason: str, *names: str, exclusive: bool = True) -> str:
        people = [self.pseudonyms[name] for name in names]
        with self.ledger.writing() as connection:
            return reservations.reserve(
                connection, self.id, reason, people, exclusive=exclusive, now=utc_now()
            )

    def release(self, reservation: str, project: str = "") -> bool:
        with self.ledger.writing() as connection:
            return reservations.release(connection, project or self.id, reservation, utc_now())

    def project(self) -> Project:
        with self.ledger.reading() as connection:
            found = projects.find_project(connection, self.id)
        assert found is not None
        return found

    def lease(self, name: str, limit: int = 1, seconds: float = 900) -> list[Assignment]:
        project = self.project()
        with self.ledger.writing() as connection:
            who = queue.find_rater(connection, self.annotators[name])
            return checks.lease(
                connection, who, project, utc_now(),
                limit=limit, seconds=seconds, seed=1, decided=is_decided,
            )  # fmt: skip

    def leased(self, name: str, limit: int = 99) -> list[str]:
        return [seen.item_id for seen in self.lease(name, limit)]

    def answer(self, seen: Assignment) -> None:
        with self.ledger.writing() as connection:
            judging.submit(connection, seen.id, 1, seconds=1, idempotency_key=None, now=utc_now())

    def progress(self, name: str) -> Progress:
        with self.ledger.reading() as connection:
            return projects.progress(connection, self.id, self.annotators[name], self.project().rates)

    def queues(self) -> list[dict[str, object]]:
        with self.ledger.reading() as connection:
            return reservations.queues(connection, self.id)


def test_what_is_kept_goes_to_its_raters_alone_and_comes_first_to_them(ledger: Ledger) -> None:
    team = Team(ledger)
    free, urgent = team.ask(questions("free", 2)), team.ask(questions("urgent", 1), priority=9)
    team.keep("german", "ada", "bob")
    german = team.ask(questions("german", 2))  # it covers what comes in later
    assert [team.progress(name).left for name in NAMES] == [5, 5, 3]
    assert team.leased("cyd") == [*urgent, *free]
    assert team.leased("ada", 1) == german[:1]
    assert team.leased("bob") == german[1:]
    assert ledger.verify().problems == ()


def test_first_is_not_alone(ledger: Ledger) -> None:
    team = Team(ledger)
    german, free = team.ask(questions("german", 2)), team.ask(questions("free", 1))
    team.keep("german", "ada", exclusive=False)
    assert [team.progress(name).left for name in NAMES] == [3, 3, 3]
    assert team.leased("cyd", 2) == [*free, german[0]], "the others get them last"
    assert team.leased("ada") == german[1:]


def test_a_reservation_ends_when_it_is_ended_or_made_anew(ledger: Ledger) -> None:
    team = Team(ledger)
    german = team.ask(questions("german", 3))
    first = team.keep("german", "ada")
    second = team.keep("german", "bob")
    assert [(one["id"], [r["here"] for r in one["raters"]]) for one in team.queues()] == [(second, [True])]  # type: ignore[attr-defined]
    assert team.leased("ada") == [] and team.leased("bob", 1) == german[:1]
    assert not team.release(first), "that one has ended already"
    assert not team.release(second, project="another") and team.release(second)
    assert team.queues() == [] and team.leased("cyd", 1) == german[1:2]
    assert ledger.verify().problems == ()


def test_what_is_before_somebody_stays_there_and_is_counted(ledger: Ledger) -> None:
    team = Team(ledger)
    team.ask(questions("german", 3))
    (held,) = team.lease("cyd")
    team.keep("german", "ada")
    assert team.progress("cyd") == Progress(0, 0, 1)
    team.answer(held)
    assert team.progress("cyd") == Progress(1, 0, 0) and team.leased("cyd") == []
    assert team.progress("ada").left == 2
    assert ledger.verify().problems == ()


def test_a_lease_without_a_project_honours_it_too(ledger: Ledger, guideline: str) -> None:
    team = Team(ledger)
    german, free = team.ask(questions("german", 1)), team.ask(questions("free", 1))
    team.keep("german", "ada")
    taken = [ledger.lease(team.pseudonyms["bob"], guideline) for _ in range(2)]
    assert [seen and seen.item_id for seen in taken] == [*free, None]
    seen = ledger.lease(team.pseudonyms["ada"], guideline)
    assert seen is not None and seen.item_id == german[0]


def test_checks_are_kept_as_other_questions_are(ledger: Ledger) -> None:
    """Who does not read German is not tested on German, nor asked again what is now kept for others."""
    team = Team(ledger, {"gold": 0.5, "repeat": 0.5})
    german = team.ask(questions("german", 30))
    free = team.ask(questions("free", 60))
    with ledger.writing() as connection:
        projects.set_gold(connection, dict.fromkeys(german[:15], 2), utc_now())
    for _ in range(5):
        (seen,) = team.lease("bob")
        team.answer(seen)
    team.keep("german", "ada")
    for _ in range(40):
        (seen,) = team.lease("bob")
        assert seen.item_id in free
        team.answer(seen)
    assert any(seen.purpose == "gold" for seen in team.lease("ada", 10))


def test_the_page_says_what_waits_for_whom_and_what_nobody_can_finish(ledger: Ledger) -> None:
    team = Team(ledger)
    team.ask(questions("german", 2, overlap=2))
    team.ask(questions("free", 1))
    team.keep("german", "ada", "bob")
    (one,) = team.queues()
    assert (one["waiting"], one["stuck"], one["exclusive"]) == (2, 0, True)
    (seen,) = team.lease("ada")
    with ledger.writing() as connection:
        queue.skip(connection, seen.id, "language", utc_now())
    assert team.queues()[0]["stuck"] == 1, "bob alone cannot give two answers"
    with ledger.writing() as connection:
        accounts.set_role(connection, team.id, team.accounts["bob"], None, utc_now())
    (one,) = team.queues()
    gone = {r["pseudonym"]: r["here"] for r in one["raters"]}  # type: ignore[attr-defined]
    assert gone == {team.pseudonyms["ada"]: True, team.pseudonyms["bob"]: False}
    assert (one["waiting"], one["stuck"]) == (2, 2)
    team.keep("german", "ada", exclusive=False)
    assert team.queues()[0]["stuck"] == 0, "others get them last"


def test_questions_are_kept_for_people_who_may_judge_here(ledger: Ledger) -> None:
    team = Team(ledger)
    other = Team(ledger)
    for reason, names, problem in (
        ("german", (), "at least one person"),
        ("german", (other.pseudonyms["ada"],), "may not judge in this project"),
        ("", (team.pseudonyms["ada"],), "1 to 1000 characters"),
        ("live talk", (team.pseudonyms["ada"],), "talks belong"),
        ("live talk 12 turn 1", (team.pseudonyms["ada"],), "talks belong"),
    ):
        with ledger.writing() as connection, pytest.raises(LedgerError, match=problem):
            reservations.reserve(connection, team.id, reason, names, exclusive=True, now=utc_now())
    other.keep("german", "ada")
    ids = team.ask(questions("german", 1))
    assert team.leased("bob") == ids, "another project's reservation is its own"
    with ledger.reading() as connection:
        assert reservations.reasons(connection, team.id) == ["german"]


def test_reservations_are_append_only_and_verified(ledger: Ledger) -> None:
    team = Team(ledger)
    ended = team.keep("german", "ada")
    team.keep("german", "bob")
    for statement in (
        "UPDATE reservation SET reason = 'x'",
        f"UPDATE reservation SET ended_at = NULL WHERE id = '{ended}'",
        "DELETE FROM reservation",
        "UPDATE reservation_rater SET annotator_id = annotator_id",
        "DELETE FROM reservation_rater",
    ):
        with pytest.raises(LedgerError, match="append-only"), ledger.writing() as connection:
            connection.execute(text(statement))
    with ledger.writing() as connection:
        row = {"reservation": ended, "annotator": team.annotators["cyd"]}
        connection.execute(text("INSERT INTO reservation_rater VALUES (:reservation, :annotator)"), row)
    assert ledger.verify().problems == (f"reservation {ended} does not match its audit entry",)


STEP = st.tuples(
    st.sampled_from(["lease", "lease", "lease", "answer", "answer", "skip", "keep", "release", "ask"]),
    st.sampled_from(NAMES),
    st.sampled_from(["german", "poems", "free"]),
    st.booleans(),
    st.integers(1, 3),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=5, max_size=25))
def test_nobody_is_ever_leased_what_is_kept_for_others(
    steps: list[tuple[str, str, str, bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against a model: a dictionary of who may have which reason, and the open questions of each."""
    where = tmp_path_factory.mktemp("reserved") / "ledger.sqlite"
    with Ledger.open(where) as ledger:
        team, draw = Team(ledger), random.Random(0)
        reason_of: dict[str, str] = {}
        wanted: dict[str, int] = {}
        kept: dict[str, tuple[str, frozenset[str], bool]] = {}
        seen: dict[str, set[str]] = {name: set() for name in NAMES}
        held: dict[str, list[Assignment]] = {name: [] for name in NAMES}
        taken: dict[str, int] = {}

        def may(name: str, item: str) -> bool:
            _, names, alone = kept.get(reason_of[item], ("", frozenset(NAMES), False))
            return not alone or name in names

        def free(name: str) -> list[str]:
            can = [i for i in reason_of if i not in seen[name] and taken.get(i, 0) < wanted[i]]
            hers = [i for i in can if name in kept.get(reason_of[i], ("", frozenset(), False))[1]]
            others = [i for i in can if may(name, i) and reason_of[i] in kept and i not in hers]
            return [*hers, *(i for i in can if reason_of[i] not in kept), *others]

        def ask(reason: str, n: int) -> None:
            new = questions(reason, n, overlap=draw.randint(1, 2), kind=str(len(reason_of)))
            for id_, question in zip(team.ask(new), new, strict=True):
                reason_of[id_], wanted[id_] = reason, question.overlap

        ask("german", 3)
        ask("free", 2)
        for what, name, reason, alone, n in steps:
            if what == "ask":
                ask(reason, n)
            elif what == "keep":
                names = [name, *draw.sample(NAMES, n - 1)]
                kept[reason] = (team.keep(reason, *names, exclusive=alone), frozenset(names), alone)
            elif what == "release" and reason in kept:
                assert team.release(kept.pop(reason)[0])
            elif what == "lease":
                expected = free(name)[:n]
                found = team.lease(name, n)
                assert [one.item_id for one in found] == expected
                for one in found:
                    seen[name].add(one.item_id)
                    taken[one.item_id] = taken.get(one.item_id, 0) + 1
                held[name] += found
            elif what == "answer" and held[name]:
                team.answer(held[name].pop())
            elif what == "skip" and held[name]:
                given_back = held[name].pop()
                with ledger.writing() as connection:
                    queue.skip(connection, given_back.id, "language", utc_now())
                taken[given_back.item_id] -= 1
            done = {i for i in reason_of if _answers(taken, held, i) >= wanted[i]}
            could = [i for i in reason_of if i not in done and may(name, i) and i not in seen[name]]
            assert team.progress(name).left == len(could) + len(held[name])
        assert all(number <= wanted[item] for item, number in taken.items())
        assert ledger.verify().problems == ()


def _answers(taken: dict[str, int], held: dict[str, list[Assignment]], item: str) -> int:
    under_way = sum(one.item_id == item for some in held.values() for one in some)
    return taken.get(item, 0) - under_way
