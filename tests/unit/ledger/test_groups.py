"""What raters tell about themselves: with consent, in whole batches of five, erased when they say so."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, update

from accord.errors import LedgerError
from accord.ledger import Ledger, accounts, answers, groups, projects, queue
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.ledger.team_schema import attribute_choice, attribute_value, group_consent
from accord.records import Question

VALUE = "Occitan of the Val d'Aran"
CHOICES = (VALUE, "Catalan")


class Team:
    """Twelve people who have judged ten questions each; `ask` is what the project asks them."""

    def __init__(self, ledger: Ledger, questions: list[Question]) -> None:
        self.ledger, self.people = ledger, [f"p{n:02}" for n in range(12)]
        with ledger.writing() as connection:
            now = utc_now()
            self.project = projects.add_project(
                connection, "p", "Choose.", overlap=len(self.people), form={}, now=now
            )
            projects.add_questions(connection, self.project, questions, now)
            self.accounts = {
                name: accounts.add_account(connection, name, "hash", admin=False, now=now)
                for name in self.people
            }
            for account in self.accounts.values():
                accounts.set_role(connection, self.project, account, "rater", now)
            self.ask = groups.add_attribute(connection, self.project, "language", CHOICES, now)
            found = {name: accounts.by_id(connection, self.accounts[name]) for name in self.people}
            self.ids = {name: one[0].annotator_id for name, one in found.items() if one}
            self.names = {one[0].pseudonym: name for name, one in found.items() if one}
        for name in self.people:
            self.judge(name, 10)

    def judge(self, name: str, n: int) -> None:
        with self.ledger.writing() as connection:
            project = projects.find_project(connection, self.project)
            assert project is not None
            who, now = queue.find_rater(connection, self.ids[name]), utc_now()
            for seen in queue.lease(
                connection, who, project.guideline_id, now, limit=n, seconds=900, seed=1, project=project.id
            ):
                answers.record(
                    connection, seen.id, 1, Beside(), seconds=1, idempotency_key=f"{name}{seen.id}",
                    revises=None, now=now,
                )  # fmt: skip

    def tell(self, names: Sequence[str], value: str) -> None:
        with self.ledger.writing() as connection:
            for name in names:
                groups.tell(connection, self.project, self.ids[name], {self.ask: value}, utc_now())

    def shown(self, value: str = VALUE) -> list[list[str]]:
        with self.ledger.reading() as connection:
            found = groups.batches(connection, self.project).get(self.ask, {}).get(value, [])
        return [sorted(self.names[pseudonym] for pseudonym in batch) for batch in found]


@pytest.fixture
def team(ledger: Ledger, pairs: Callable[..., list[Question]]) -> Team:
    return Team(ledger, pairs(10, overlap=12))


def test_people_are_told_of_in_whole_batches_in_the_order_of_telling(team: Team) -> None:
    team.tell(team.people[:4], VALUE)
    assert team.shown() == []
    team.tell(team.people[4:9], VALUE)
    assert team.shown() == [team.people[:5]], "the other four wait"
    team.tell(team.people[9:], VALUE)
    assert team.shown() == [team.people[:5], team.people[5:10]]
    assert team.shown("Catalan") == []
    assert team.ledger.verify().problems == ()


@pytest.mark.parametrize("how", ["withdraws", "changes", "leaves", "is forgotten"])
def test_when_one_goes_her_batch_goes_and_nobody_takes_her_place(team: Team, how: str) -> None:
    team.tell(team.people[:7], VALUE)
    before = team.shown()
    gone = team.people[2]
    with team.ledger.writing() as connection:
        if how == "withdraws":
            assert groups.withdraw_consent(connection, team.project, team.ids[gone], utc_now()) == 1
        elif how == "leaves":
            accounts.set_role(connection, team.project, team.accounts[gone], None, utc_now())
        elif how == "is forgotten":
            answers.withdraw(connection, team.ids[gone], "identity", utc_now())
    if how == "changes":
        team.tell([gone], "Catalan")
    assert before == [team.people[:5]] and team.shown() == []
    team.tell(team.people[7:11], VALUE)
    assert team.shown() == [team.people[5:10]], "what changes at once is five people, never one"
    with team.ledger.reading() as connection:
        told = groups.own_values(connection, team.project, team.ids[gone])
    assert told == ({team.ask: "Catalan"} if how == "changes" else {})
    assert team.ledger.verify().problems == ()


def test_a_batch_that_one_left_is_not_filled_up(team: Team) -> None:
    team.tell(team.people[:3], VALUE)
    team.tell([team.people[2]], "")
    team.tell(team.people[3:7], VALUE)
    assert team.shown() == [], "of five places in a row, one was left: none of the others counts"
    team.tell([team.people[7]], VALUE)
    assert team.shown() == [team.people[3:8]]


def test_nothing_is_kept_of_a_value_but_its_salted_hash(ledger: Ledger, path: Path, pairs: object) -> None:
    """Neither in the file nor in numbers: the places are counted from an unknown one."""
    assert callable(pairs)
    team = Team(ledger, pairs(10, overlap=12))

    def times() -> int:
        ledger.compact()
        files = sorted(path.parent.glob(f"{path.name}*"))
        return b"".join(file.read_bytes() for file in files).count(VALUE.encode())

    offered = times()
    team.tell(team.people[:2], VALUE)
    assert times() == offered + 2
    with ledger.writing() as connection:
        groups.withdraw_consent(connection, team.project, team.ids["p00"], utc_now())
        rows = connection.execute(select(attribute_value)).all()
        given = connection.execute(select(attribute_choice.c.given)).scalars().all()
    assert [(row.value is None, row.salt is None, row.place is None) for row in rows].count((True,) * 3) == 1
    assert all(n % groups.BATCH == 0 for n in given), "how many gave which value is not to be read off"
    team.tell([team.people[1]], "")
    with ledger.writing() as connection:
        groups.end_attribute(connection, team.project, team.ask, utc_now())
    team.ask = ""
    assert times() == offered, "nobody's choosing is left"
    shell = sqlite3.connect(path)
    for change in ("value = 'x'", "place = 1", "salt = 'x'", "value_sha256 = 'x'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            shell.execute(f"UPDATE attribute_value SET {change}")
    shell.close()
    assert ledger.verify().problems == ()


def test_ending_a_question_erases_what_was_told(team: Team) -> None:
    team.tell(team.people, VALUE)
    with team.ledger.writing() as connection:
        assert not groups.end_attribute(connection, "another project", team.ask, utc_now())
        assert groups.end_attribute(connection, team.project, team.ask, utc_now())
        assert not groups.end_attribute(connection, team.project, team.ask, utc_now())
        assert groups.attributes(connection, team.project) == []
        assert groups.own_values(connection, team.project, team.ids["p00"]) == {}
        again = groups.add_attribute(connection, team.project, "language", CHOICES, utc_now())
        assert groups.batches(connection, team.project) == {again: {value: [] for value in CHOICES}}
    assert team.ledger.verify().problems == ()


def test_what_is_refused_says_why(team: Team) -> None:
    with team.ledger.writing() as connection:
        now = utc_now()
        newcomer = accounts.by_id(
            connection, accounts.add_account(connection, "new", "hash", admin=False, now=now)
        )
        assert newcomer is not None
        for values, words in (({"no such": VALUE}, "not asked"), ({team.ask: "Basque"}, "not one of")):
            with pytest.raises(LedgerError, match=words):
                groups.tell(connection, team.project, team.ids["p00"], values, now)
        with pytest.raises(LedgerError, match="after your first 10 answers"):
            groups.tell(connection, team.project, newcomer[0].annotator_id, {team.ask: VALUE}, now)
        for name, choices, words in (
            ("language", CHOICES, "already"),
            (" ", CHOICES, "visible characters"),
            ("region", ["a"], "2 to 40 choices"),
            ("region", ["a", " a"], "each once"),
        ):
            with pytest.raises(LedgerError, match=words):
                groups.add_attribute(connection, team.project, name, choices, now)
        assert connection.execute(select(group_consent)).first() is None


def test_tampering_is_found(team: Team) -> None:
    team.tell(team.people[:1], VALUE)
    with team.ledger.reading() as connection:
        row = connection.execute(select(attribute_value)).mappings().one()
        assert list(groups.damaged(connection)) == []
        kept = dict(groups.details(connection))
    assert ("attribute_value", f"{team.ask}:{team.ids['p00']}:0") in kept
    assert VALUE not in str(kept["attribute_value", f"{team.ask}:{team.ids['p00']}:0"])
    with pytest.raises(Exception, match="append-only"), team.ledger.writing() as connection:
        connection.execute(update(attribute_value).values(value=f"{row['value']}x"))
