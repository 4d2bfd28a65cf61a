"""The quality page's numbers: those of `accord quality`, with planted faults found, and never waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accord.errors import LedgerError
from accord.feedback.panel import SimulatedRater
from accord.ledger import Ledger, database, exchange, projects
from accord.ledger.database import utc_now
from accord.records import Completion, Group, Prompt, Question
from accord.stages import quality as stage
from accord.web import quality as page

RATERS = ("ann", "bob", "cyd", "left", "blind")
PAIRS = 60


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Sixty pairs, each judged by three good raters, one who clicks left and one who clicks anything."""
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")
    monkeypatch.setattr(page, "IMPATIENT", 1000.0)  # no rest between two computations
    with Ledger.open(tmp_path / "ledger.sqlite") as made:
        project_id = add_project(made, "one")
        add_questions(made, project_id, PAIRS)
        for name in RATERS:
            answer(made, project_id, name)
        yield made


def add_project(ledger: Ledger, name: str) -> str:
    with ledger.writing() as connection:
        return projects.add_project(
            connection, name, f"Guideline of {name}.", overlap=5, form={}, now=utc_now()
        )


def add_questions(ledger: Ledger, project_id: str, n: int, start: int = 0) -> None:
    made = []
    for i in range(start, start + n):
        prompt = Prompt.of(f"question {i}")
        pair = tuple(Completion(prompt.id, f"{q} {i} " + "word " * 9, index=q) for q in range(2))
        made.append(Question(Group(prompt, pair), "test", overlap=len(RATERS)))
    with ledger.writing() as connection:
        projects.add_questions(connection, project_id, made, utc_now())


def answer(ledger: Ledger, project_id: str, name: str, limit: int | None = None) -> None:
    faults: dict[str, Any] = {"left": {"position_bias": 8.0}, "blind": {"lapse": 0.98}}
    rater = SimulatedRater(name, {"q": 2.5}, **faults.get(name, {}))
    rng = np.random.default_rng(sum(map(ord, name)))
    ledger.add_rater(name, "simulated")
    with ledger.reading() as connection:
        guideline = projects.guidelines(connection, project_id)[0].id

    def judge(seen: Any) -> tuple[int, float]:
        left, right = ({"q": float(side.text[0])} for side in (seen.left, seen.right))
        return rater.judge(left, right, rng)

    ledger.answer_many(name, guideline, judge, seed=7, limit=limit)


def the_project(ledger: Ledger) -> str:
    with ledger.reading() as connection:
        return projects.all_projects(connection)[0]


def numbers(ledger: Ledger) -> dict[str, Any]:
    return page.quality_of(ledger, the_project(ledger), patience=120)


def by_key(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {figure["key"]: figure for figure in figures}


def test_they_are_those_of_accord_quality(ledger: Ledger, tmp_path: Path) -> None:
    found, told = numbers(ledger), stage.measure(stage.read_facts(str(tmp_path / "ledger.sqlite")))
    assert found["pending"] is False
    team = by_key(found["summary"])
    for key, value in (
        ("raw", {n: told["agreement"]["winner"][f"raw{n}"] for n in ("", "_low", "_high")}),
        ("alpha", {n: told["agreement"]["strength"][f"alpha{n}"] for n in ("", "_low", "_high")}),
        ("fleiss", {"": told["kappa"]["fleiss"]["value"], "_low": told["kappa"]["fleiss"]["low"]}),
        ("ceiling", {"": told["ceiling"]["value"], "_high": told["ceiling"]["high"]}),
    ):
        for bound, number in value.items():
            assert team[key][bound[1:] or "value"] == number, (key, bound)
    assert team["ties"]["value"] == told["ties"]
    assert team["change"]["value"] == told["change"]["p_value"]
    for mine, theirs in zip(found["raters"], told["by_rater"], strict=True):
        figures = by_key(mine["figures"])
        assert (mine["pseudonym"], mine["answered"]) == (theirs["rater"], theirs["n"])
        assert figures["left"]["value"] == theirs["left"]["value"]
        assert figures["rest"]["low"] == theirs["with_majority"]["low"]
        fitted = next(r for r in told["reliability"]["raters"] if r["rater"] == mine["pseudonym"])
        assert figures["skill"]["value"] == fitted["skill"]["value"]
    assert len(found["couples"]) == len(told["kappa"]["cohen"]) == 10
    assert len(found["windows"]) == len(told["over_time"]) == 8


def test_planted_faults_are_seen(ledger: Ledger) -> None:
    found = {rater["pseudonym"]: rater for rater in numbers(ledger)["raters"]}
    assert any(w.startswith("side: chose the left answer") for w in found["left"]["warnings"])
    assert any(w.startswith("speed: ") for w in found["blind"]["warnings"])
    assert not any(found[name]["warnings"] for name in ("ann", "bob", "cyd"))
    skill = {name: by_key(rater["figures"])["skill"]["value"] for name, rater in found.items()}
    assert min(skill["ann"], skill["bob"], skill["cyd"]) > 0.7 > skill["blind"]


def test_every_figure_has_its_meaning_or_says_why_not(ledger: Ledger) -> None:
    found = numbers(ledger)
    figures = list(found["summary"])
    for part in (*found["raters"], *found["guidelines"], *found["windows"]):
        figures += part["figures"]
    assert len(figures) > 60
    for figure in figures:
        known = figure["value"] is not None
        assert bool(figure["meaning"]) is known and bool(figure["undefined_because"]) is not known, figure
        if figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"], figure
    gold = by_key(found["raters"][0]["figures"])["gold"]
    assert gold["value"] is None and "no gold question" in gold["undefined_because"]


def test_gold_questions_decide_with_the_sequential_test(ledger: Ledger) -> None:
    project_id = the_project(ledger)
    with ledger.writing() as connection:
        known = {}
        for item_id in projects.item_ids(connection, project_id)[:20]:
            known[item_id] = 0
        for judged in exchange.project_judgements(connection, project_id):
            if judged.item_id in known:
                texts = {c.id: c.text for c in ledger.group(judged.item_id).completions}
                known[judged.item_id] = 2 if texts[judged.completion_ids[0]].startswith("1") else -2
        projects.set_gold(connection, known, utc_now())
    found = {rater["pseudonym"]: rater for rater in numbers(ledger)["raters"]}
    assert found["ann"]["gold"]["verdict"] == "good" and found["ann"]["gold"]["decided_after"] <= 20
    assert by_key(found["ann"]["figures"])["gold"]["n"] == 20
    assert any(w.startswith("gold: ") for w in found["left"]["warnings"] + found["blind"]["warnings"])


def test_guideline_versions_are_told_apart(ledger: Ledger) -> None:
    project_id = the_project(ledger)
    with ledger.writing() as connection:
        projects.publish_guideline(connection, project_id, "A second version.", utc_now())
    add_questions(ledger, project_id, 10, start=1000)
    for name in ("ann", "bob"):
        answer(ledger, project_id, name)
    parts = numbers(ledger)["guidelines"]
    assert [(part["n"], part["answered"]) for part in parts] == [(1, 5 * PAIRS), (2, 20)]


def test_another_project_has_no_part_in_them(ledger: Ledger) -> None:
    before = numbers(ledger)
    other = add_project(ledger, "two")
    add_questions(ledger, other, 15, start=2000)
    answer(ledger, other, "dan")
    assert numbers(ledger)["summary"] == before["summary"]
    theirs = page.quality_of(ledger, other, patience=120)
    assert [rater["pseudonym"] for rater in theirs["raters"]] == ["dan"]
    assert by_key(theirs["summary"])["alpha"]["value"] is None


def test_before_the_first_answer_it_says_what_to_do(ledger: Ledger) -> None:
    found = page.quality_of(ledger, add_project(ledger, "empty"))
    assert found["summary"] == [] and found["raters"] == [] and found["pending"] is False
    assert found["advice"] == ["Nothing has been answered yet: invite raters and bring in questions."]


def test_nothing_is_computed_twice_and_new_answers_are_worked_in(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    compute = page.compute
    monkeypatch.setattr(page, "compute", lambda *of: (runs.append(of), compute(*of))[1])
    assert numbers(ledger)["summary"] == numbers(ledger)["summary"]
    assert len(runs) == 1
    project_id = the_project(ledger)
    add_questions(ledger, project_id, 1, start=3000)
    answer(ledger, project_id, "ann")
    after = numbers(ledger)
    assert len(runs) == 2 and after["pending"] is False
    assert sum(row["count"] for row in after["strengths"]) == 5 * PAIRS + 1


def test_a_page_does_not_wait_for_slow_statistics(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are shown with fresh counts, it is said, and the server then rests."""
    first = numbers(ledger)
    go, compute, runs = threading.Event(), page.compute, []

    def slow(*of: Any) -> dict[str, Any]:
        runs.append(of)
        go.wait(60)
        return compute(*of)

    monkeypatch.setattr(page, "compute", slow)
    project_id = the_project(ledger)
    add_questions(ledger, project_id, 1, start=3000)
    answer(ledger, project_id, "ann")
    for _ in range(3):
        found = page.quality_of(ledger, project_id, patience=0.01)
        assert found["pending"] is True and "being worked in" in found["advice"][-1]
        assert found["raters"] == first["raters"]
        assert sum(row["count"] for row in found["strengths"]) == 5 * PAIRS + 1
    assert len(runs) == 1
    go.set()
    assert page.quality_of(ledger, project_id, patience=120)["pending"] is False
    # after slow ones the next have to wait, however many answers come
    monkeypatch.setattr(page, "IMPATIENT", 0.5)
    page._desk(ledger, project_id).took = 1000.0
    answer(ledger, project_id, "bob")
    assert page.quality_of(ledger, project_id, patience=120)["pending"] is True and len(runs) == 1


def test_what_does_not_lead_back_is_an_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise LedgerError("1 of 300 judgements do not lead back to what was shown")

    monkeypatch.setattr(page.exchange, "project_judgements", broken)
    with pytest.raises(LedgerError, match="do not lead back"):
        numbers(ledger)
