"""Checks and adjudication over the API: nothing tells a check, and what raters dispute is settled blind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from accord.ledger import judging, projects
from accord.ledger.database import utc_now
from accord.ledger.schema import assignment
from accord.web import api_rater
from accord.web.auth import Site
from accord.web.quality import compute
from web.conftest import Visits
from web.world import Visit, World, form, questions

KEYS = (f"settle-{n:06}" for n in range(10**6))


def answer(visit: Visit, question: dict[str, Any], strength: int = 1, comment: str = "") -> Any:
    body = {"strength": strength, "seconds": 2.0, "key": next(KEYS), "comment": comment}
    return visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", body)


def purpose(site: Site, question: dict[str, Any]) -> str:
    with site.ledger.reading() as connection:
        found = select(assignment.c.purpose).where(assignment.c.id == question["assignment"])
        return str(connection.execute(found).scalar_one())


@pytest.fixture
def api(world: World) -> str:
    return f"/api/v1/projects/{world.mine.project}"


@pytest.fixture
def checked(
    visit: Visits, world: World, site: Site, api: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Visit]:
    """The rater, in a project where half of the questions are gold and half of the rest repeats."""
    monkeypatch.setattr(projects, "REPEAT_AFTER", 3)
    monkeypatch.setattr(api_rater.checks, "_JUST_ANSWERED", api_rater.checks._JUST_ANSWERED.offset(2))
    with site.ledger.writing() as connection:
        now = utc_now()
        projects.add_questions(connection, world.mine.project, questions("More", 30), now)
        known = questions("Gold", 12)
        projects.add_questions(connection, world.mine.project, known, now)
        ids = projects.item_ids(connection, world.mine.project)[-12:]
        projects.set_gold(connection, dict.fromkeys(ids, 2), now)
    changed = visit("owner").send("PATCH", api, json_body={"checks": {"gold": 0.5, "repeat": 0.5}})
    assert changed.status_code == 200
    yield visit("rater")


def test_nothing_in_the_replies_tells_a_check(checked: Visit, site: Site, api: str) -> None:
    shapes: dict[str, set[tuple[str, ...]]] = {}
    before = None
    for _ in range(40):
        reply = checked.post(f"{api}/lease", {"want": 1}).json()
        (question,) = reply["questions"]
        kind = purpose(site, question)
        told = (*sorted(question), *sorted(question["prompt"][0]), *sorted(question["answers"][0]))
        shapes.setdefault(kind, set()).add(told)
        assert {question["kind"], question["earlier"]} == {"pair", None}
        said = answer(checked, question)
        assert said.status_code == 200
        progress = said.json()["progress"]
        if before is not None:
            assert progress["answered"] == before["answered"] + 1
            assert progress["left"] % projects.ROUNDED_TO == 0
        before = progress
        undone = checked.post(f"{api}/undo", {}).json()["question"]
        assert undone["assignment"] == question["assignment"], "a check can be changed like any answer"
    assert set(shapes) == {"judge", "gold", "repeat"}
    assert shapes["judge"] == shapes["gold"] == shapes["repeat"]
    mine = checked.get(f"{api.removeprefix('/api/v1')}/mine").text
    assert "gold" not in mine.lower().replace("gold: what is", "") and "repeat" not in mine
    assert site.ledger.verify().problems == ()


def test_checks_leave_by_no_export_and_enter_no_release(
    checked: Visit, visit: Visits, site: Site, api: str
) -> None:
    for _ in range(30):
        (question,) = checked.post(f"{api}/lease", {"want": 1}).json()["questions"]
        answer(checked, question, 2)
    with site.ledger.reading() as connection:
        every = judging.read_judgements(connection, purposes=judging.EVERYTHING)
    kept = {judged.id for judged in every if judged.purpose == "judge" and judged.rater != "their-rater"}
    dropped = {judged.id for judged in every} - kept
    assert len(dropped) >= 10
    text = visit("owner").get(f"{api}/export/judgements.jsonl").text
    assert not any(id_ in text for id_ in dropped)
    rows = visit("owner").get(f"{api}/export/preferences.jsonl").text.splitlines()
    assert len(rows) == text.count('"judgement"') > 0
    release = visit("owner").post(f"{api}/releases", {"name": "r"}).json()
    assert release["rows"] == len(rows)
    strengths = visit("owner").get(f"{api}/quality").json()["strengths"]
    assert sum(row["count"] for row in strengths) == len(rows)


def test_settings_keep_checks_and_form_apart(visit: Visits, site: Site, world: World, api: str) -> None:
    owner = visit("owner")

    def kept() -> dict[str, Any]:
        with site.ledger.reading() as connection:
            found = projects.find_project(connection, world.mine.project)
        assert found is not None
        return dict(found.form)

    assert owner.send("PATCH", api, json_body={"checks": {"gold": 0.2, "repeat": 0}}).status_code == 200
    assert kept() == form() | {"checks": {"gold": 0.2, "repeat": 0.0}}
    assert owner.send("PATCH", api, json_body={"form": {"flags": ["rude"]}}).status_code == 200
    assert kept()["checks"] == {"gold": 0.2, "repeat": 0.0} and kept()["flags"] == ["rude"]
    assert owner.send("PATCH", api, json_body={"checks": {"gold": 0.9}}).status_code == 422
    assert 'value="0.2"' in owner.get(f"/projects/{world.mine.project}/settings").text


@pytest.fixture
def disputed(visit: Visits, api: str) -> None:
    """Every question but the first has two answers, which oppose each other."""
    for who, strength in (("rater", 2), ("manager", -2)):
        seen = 0
        while held := visit(who).post(f"{api}/lease", {"want": 5}).json()["questions"]:
            for question in held:
                right = "right" in question["answers"][0]["text"]
                answer(visit(who), question, strength if right else -strength, f"because {strength}")
                seen += 1
        assert seen >= 5


def test_what_raters_dispute_is_settled_blind_by_somebody_else(
    visit: Visits, site: Site, world: World, api: str, disputed: None
) -> None:
    lane = f"{api}/adjudication"
    assert visit("manager").post(f"{lane}/lease", {}).json()["questions"] == [], "she judged them all"
    judge = visit("adjudicator")
    reply = judge.post(f"{lane}/lease", {"want": 2}).json()
    left = reply["progress"]["left"]  # of the first question the world's rater said something on some side
    assert left in (5, 6) and reply["progress"] == {"answered": 0, "skipped": 0, "left": left}
    ordinary = judge.post(f"{api}/lease", {"want": 1}).json()
    assert ordinary["questions"] == [], "what is held to be settled is not in the judge's queue"
    for question in reply["questions"]:
        assert "because" not in str(question), "nothing of what raters said"
        right = "right" in question["answers"][0]["text"]
        said = answer(judge, question, 3 if right else -3)
    assert said.json()["progress"] == {"answered": 2, "skipped": 0, "left": left - 2}
    undone = judge.post(f"{lane}/undo", {}).json()["question"]
    assert undone["earlier"]["judgement"] == said.json()["judgement"]
    assert judge.post(f"{api}/undo", {}).status_code == 404, "no answer of the ordinary queue"
    page = judge.get(f"/projects/{world.mine.project}/adjudicated").text
    assert page.count("A much better") == 2 and page.count("B better") == 2
    assert page.count("because -2") == 2, "comments are shown afterwards"
    assert page.count("because 2") == 7 - left  # of the first question the world's rater said "fine"
    quality = visit("owner").get(f"{api}/quality").json()
    computed = compute(site.ledger, world.mine.project)
    figures = {figure["key"]: figure for figure in computed["summary"]}
    assert figures["adjudicated"]["value"] == 2
    assert figures["majority_right"]["value"] is None, "two against each other are no majority"
    assert sum(row["count"] for row in quality["strengths"]) == 12
    assert site.ledger.verify().problems == ()


def test_who_lost_the_role_cannot_settle_what_she_holds(
    visit: Visits, world: World, api: str, disputed: None
) -> None:
    judge = visit("adjudicator")
    (question,) = judge.post(f"{api}/adjudication/lease", {"want": 1}).json()["questions"]
    path = f"{api}/members/{world.accounts['adjudicator']}"
    assert visit("owner").send("PATCH", path, json_body={"role": "rater"}).status_code == 200
    assert answer(judge, question).status_code == 403
    assert judge.get(f"/projects/{world.mine.project}/adjudicate").status_code == 403
