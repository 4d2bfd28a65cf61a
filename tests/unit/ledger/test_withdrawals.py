"""What a withdrawal leaves to do: which releases and models, and the release that takes their place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accord.errors import LedgerError
from accord.ledger import Ledger, accounts, answers, projects, queue, withdrawals
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.records import Question

Rows = list[dict[str, object]]


@pytest.fixture
def team(ledger: Ledger, pairs: Callable[..., list[Question]]) -> dict[str, str]:
    """ada and bob judge three questions of project p; cyd is a member and judges nothing."""
    with ledger.writing() as connection:
        now = utc_now()
        project = projects.add_project(connection, "p", "Choose.", overlap=2, form={}, now=now)
        projects.add_questions(connection, project, pairs(3, overlap=2), now)
        found = projects.find_project(connection, project)
        assert found is not None
        ids = {"project": project}
        for name in ("ada", "bob", "cyd"):
            account = accounts.add_account(connection, name, "hash", admin=False, now=now)
            accounts.set_role(connection, project, account, "rater", now)
            who = accounts.by_id(connection, account)
            assert who is not None
            ids[name] = who[0].annotator_id
        for name in ("ada", "bob"):
            rater = queue.find_rater(connection, ids[name])
            for n, seen in enumerate(
                queue.lease(connection, rater, found.guideline_id, now, limit=3, seconds=900, seed=1)
            ):
                said = Beside(comment=f"{name} {n}")
                answers.record(
                    connection,
                    seen.id,
                    1,
                    said,
                    seconds=1,
                    idempotency_key=f"{name}{n}",
                    revises=None,
                    now=now,
                )
    return ids


def withdraw(ledger: Ledger, annotator_id: str, scope: str) -> None:
    with ledger.writing() as connection:
        answers.withdraw(connection, annotator_id, scope, utc_now())


def told(ledger: Ledger, project: str) -> tuple[Rows, Rows]:
    with ledger.reading() as connection:
        return withdrawals.project_withdrawals(connection, project), withdrawals.to_do(connection, project)


def rebuild(ledger: Ledger, of: str, name: str) -> int:
    with ledger.writing() as connection:
        return len(withdrawals.make_successor(connection, of, name, utc_now()).judgement_ids)


def test_the_preview_counts_what_there_is_and_not_what_others_gave(
    ledger: Ledger, team: dict[str, str]
) -> None:
    ledger.release("v1")
    ledger.record_training("m1", "v1")
    with ledger.reading() as connection:
        hers = withdrawals.preview(connection, team["ada"])
        nothing = withdrawals.preview(connection, team["cyd"])
    assert hers == {"answers": 3, "texts": 3, "releases": ["v1"], "models": ["m1"]}
    assert nothing == {"answers": 0, "texts": 0, "releases": [], "models": []}
    withdraw(ledger, team["ada"], "all")
    with ledger.reading() as connection:
        left = withdrawals.preview(connection, team["ada"])
    assert left == {"answers": 0, "texts": 0, "releases": ["v1"], "models": ["m1"]}


def test_everybody_who_withdrew_is_listed_with_where_the_answers_went(
    ledger: Ledger, team: dict[str, str]
) -> None:
    ledger.release("v1")
    ledger.add_policy("child", base_model="tiny", parent="p0")
    ledger.record_training("p0", "v1")
    for name, scope in (("ada", "identity"), ("cyd", "text"), ("ada", "all")):
        withdraw(ledger, team[name], scope)
    rows, _ = told(ledger, team["project"])
    seen = [(row["scope"], row["answers"], row["releases"], row["models"]) for row in rows]
    assert seen == [
        ("all", 3, ["v1"], ["child", "p0"]),
        ("text", 0, [], []),
        ("identity", 3, ["v1"], ["child", "p0"]),
    ]
    assert all(str(row["pseudonym"]).startswith("r-") for row in rows)
    assert told(ledger, "another project") == ([], [])


@pytest.mark.parametrize("scope", ["identity", "text"])
def test_releases_need_nothing_while_the_answers_stay(
    ledger: Ledger, team: dict[str, str], scope: str
) -> None:
    ledger.release("v1")
    withdraw(ledger, team["ada"], scope)
    assert told(ledger, team["project"])[1] == []
    with ledger.writing() as connection, pytest.raises(LedgerError, match="nothing in release 'v1'"):
        withdrawals.make_successor(connection, "v1", "v2", utc_now())


def test_a_successor_holds_the_other_rows_and_ends_what_remains(ledger: Ledger, team: dict[str, str]) -> None:
    ledger.release("v1")
    ledger.record_training("m1", "v1")
    withdraw(ledger, team["ada"], "all")
    (open_,) = told(ledger, team["project"])[1]
    expected = {
        "rows": 6,
        "taken_back": 3,
        "kept": 3,
        "mine": True,
        "successors": [],
        "suggestion": "v1-rebuilt",
        "models": ["m1"],
        "retrained": [],
    }
    assert {name: open_[name] for name in expected} == expected
    assert rebuild(ledger, "v1", "v1-rebuilt") == 3
    ledger.record_training("m2", "v1-rebuilt")
    (done,) = told(ledger, team["project"])[1]
    changed = {"successors": ["v1-rebuilt"], "retrained": ["m2"], "suggestion": "v1-rebuilt-2"}
    assert {name: done[name] for name in expected} == expected | changed
    raters = {judged.rater for judged in ledger.release_judgements("v1-rebuilt")}
    assert len(raters) == 1 and len(ledger.release_judgements("v1")) == 6
    assert ledger.verify().problems == ()
    withdraw(ledger, team["bob"], "all")  # and now the successor needs one
    rows = {row["name"]: row for row in told(ledger, team["project"])[1]}
    assert set(rows) == {"v1", "v1-rebuilt"} and rows["v1"]["successors"] == []
    with pytest.raises(LedgerError, match="nothing is left"):
        rebuild(ledger, "v1", "v3")


def test_a_smaller_release_is_no_successor_and_a_revised_one_is(ledger: Ledger, team: dict[str, str]) -> None:
    """It must have all the answers that were not taken back, in whichever revision."""
    ledger.release("v1")
    withdraw(ledger, team["ada"], "all")
    kept = ledger.judgements()
    ledger.release("part", item_ids=[kept[0].item_id])
    assert told(ledger, team["project"])[1][0]["successors"] == []
    ledger.revise(kept[0].id, -3, seconds=1.0)
    ledger.release("today")
    assert told(ledger, team["project"])[1][0]["successors"] == ["today"]
    assert rebuild(ledger, "v1", "exact") == 3
    assert {j.id for j in ledger.release_judgements("exact")} == {j.id for j in kept}, "as it was released"
    assert ledger.verify().problems == ()
