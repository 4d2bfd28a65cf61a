"""Asking people: questions in a project, waiting, releases that people may overtake, labels in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from accord.config import AskConfig
from accord.data.groups import write_groups
from accord.errors import ConfigError
from accord.ledger import Ledger, accounts, database, projects
from accord.ledger.database import utc_now
from accord.records import Completion, Group
from accord.scenarios import load_scenario
from accord.stages import ask, people
from accord.training.run import InterruptedRunError

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")


@pytest.fixture
def config(tmp_path: Path) -> AskConfig:
    """Six prompts with one pair each, every pair for three people."""
    groups = []
    for prompt in load_scenario("shop").train_prompts[:6]:
        answers = tuple(
            Completion(prompt.id, text, index=i) for i, text in enumerate(("short", "much longer"))
        )
        groups.append(Group(prompt, answers))
    write_groups(tmp_path / "samples.jsonl", groups)
    return AskConfig(
        samples=str(tmp_path / "samples.jsonl"),
        ledger=str(tmp_path / "ledger.sqlite"),
        raters="people",
        overlap=3,
        overlap_share=0.0,
        release="one",
    )


class Answering:
    """In place of `time.sleep`: each time the loop would wait, one person answers `n` questions."""

    def __init__(self, config: AskConfig, n: int, *names: str) -> None:
        self.config, self.n, self.names = config, n, list(names)

    def __call__(self, seconds: float) -> None:
        if not self.names:
            raise KeyboardInterrupt
        name = self.names.pop(0)
        with Ledger.open(self.config.ledger) as ledger:
            ledger.add_rater(name, "human")
            guideline = ledger.add_guideline(load_scenario("shop").guideline)
            worse = name == "inverted"
            ledger.answer_many(
                name,
                guideline,
                lambda seen: (2 if (len(seen.left.text) > len(seen.right.text)) != worse else -2, 3.0),
                limit=self.n,
            )


def test_it_waits_for_all_and_hears_of_every_answer(
    config: AskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[people.Waiting] = []
    monkeypatch.setattr(people.time, "sleep", Answering(config, 6, "ann", "bob", "cyd"))
    found = ask.run(config, QUIET, tell=heard.append)
    assert [w.given for w in heard] == [0, 6, 12, 18]
    assert {(w.needed, w.wanted, w.people) for w in heard} == {(18, 18, 3)}
    assert (found["judgements"], found["simulated"], found["raters"]) == (18, False, ["ann", "bob", "cyd"])


def test_a_number_is_enough(config: AskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people.time, "sleep", Answering(config, 5, "ann"))
    assert ask.run(config.model_copy(update={"wait": 5}), QUIET)["judgements"] == 5


def test_it_says_where_to_go(config: AskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=300)
    monkeypatch.setattr(people.time, "sleep", Answering(config, 6))
    with pytest.raises(InterruptedRunError, match=r"0 of 18 judgements are in .*same command again"):
        ask.run(config, console)
    said = console.export_text()
    assert f"waiting for 18 judgements; run `accord serve --db {config.ledger}`" in said
    assert "want 3 different people" in said and "project 'answers'" in said


def test_what_was_answered_counts_when_it_goes_on(config: AskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people.time, "sleep", Answering(config, 6, "ann"))
    with pytest.raises(InterruptedRunError, match="6 of 18"):
        ask.run(config, QUIET)
    monkeypatch.setattr(people.time, "sleep", Answering(config, 6, "bob", "cyd"))
    assert ask.run(config, QUIET)["judgements"] == 18
    with Ledger.open(config.ledger) as ledger, ledger.reading() as connection:
        (project,) = projects.all_projects(connection)
        assert len(projects.item_ids(connection, project)) == 6
        assert projects.guidelines(connection, project)[0].text == load_scenario("shop").guideline


def test_people_may_overtake_a_release(config: AskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the release was made, it goes on with that release, though there are more answers now."""
    less = config.model_copy(update={"wait": 6})
    monkeypatch.setattr(people.time, "sleep", Answering(config, 6, "ann"))
    first = ask.run(less, QUIET)
    Answering(config, 6, "bob")(0.0)
    again = ask.run(less, QUIET)
    assert (again["judgements"], again["release_hash"]) == (6, first["release_hash"])
    assert ask.run(less.model_copy(update={"release": "two"}), QUIET)["judgements"] == 12


def test_what_measures_policies_is_not_released(config: AskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = load_scenario("shop").heldout_prompts[0]
    measuring = ask.Question(Group.of(prompt, "old", "newer"), people.EVALUATION)
    with Ledger.open(config.ledger) as ledger:
        project = people.open_project(ledger, "evaluation", "Which is better?")
        people.put_questions(ledger, project, [measuring])
    monkeypatch.setattr(people.time, "sleep", Answering(config, 7, "ann", "bob", "cyd"))
    assert ask.run(config, QUIET)["judgements"] == 18
    with Ledger.open(config.ledger) as ledger:
        assert ledger.counts()["judgements"] == 19
        assert prompt.id not in {j.prompt_id for j in ledger.release_judgements("one")}


def test_more_than_is_wanted_is_refused_before_anybody_is_asked_to_wait(config: AskConfig) -> None:
    with pytest.raises(ConfigError, match=r"ask.wait is 19, but only 18 judgements are wanted"):
        ask.run(config.model_copy(update={"wait": 19}), QUIET)


@pytest.mark.parametrize("how", ["majority", "reliability"])
def test_the_file_has_one_row_a_pair(
    config: AskConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(people.time, "sleep", Answering(config, 6, "ann", "inverted", "cyd"))
    out = tmp_path / "rows.jsonl"
    ask.run(config.model_copy(update={"aggregate": how, "out": out}), QUIET)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 6
    assert {row["chosen"][0]["content"] for row in rows} == {"much longer"}
    assert all(0 < row["weight"] <= 1 for row in rows)


def test_members_come_along_once(config: AskConfig) -> None:
    with Ledger.open(config.ledger) as ledger:
        first = people.open_project(ledger, "answers", "Which is better?")
        with ledger.writing() as connection:
            now = utc_now()
            ids = [accounts.add_account(connection, n, "x", admin=False, now=now) for n in ("ann", "bob")]
            for account in ids:
                accounts.set_role(connection, first, account, "rater", now)
        second = people.open_project(ledger, "evaluation", "Which is better?", members_of=first)
        with ledger.writing() as connection:
            assert [accounts.role_of(connection, second, account) for account in ids] == ["rater"] * 2
            accounts.set_role(connection, second, ids[0], None, utc_now())
        assert people.open_project(ledger, "evaluation", "Another text", members_of=first) == second
        with ledger.reading() as connection:  # whoever was sent away stays away, and the guideline stays
            assert [accounts.role_of(connection, second, a) for a in ids] == [None, "rater"]
            assert projects.guidelines(connection, second)[0].text == "Which is better?"
