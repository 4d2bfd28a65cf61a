"""What managers do about rankings, in a real browser: say what is known, set what is disputed, see both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from accord.ledger import adjudication, answers, known, projects, queue
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from web.browser_world import Browse, Shop, Visitor

pytest_plugins = ("web.browser_fixtures",)


@pytest.fixture
def shop(ranked_shop: Shop) -> Shop:
    return ranked_shop


def judged(visitor: Visitor) -> str:
    """The first ranking has the answers of three people, one of whom turns it round; one of their ids."""
    said = ""
    with visitor.served.site.ledger.writing() as connection:
        project = projects.find_project(connection, visitor.shop.project)
        assert project is not None
        for n, ranks in enumerate(((1, 2, 3, 4), (1, 2, 4, 3), (4, 3, 2, 1))):
            queue.add_rater(connection, f"p{n}", "human", utc_now())
            who = queue.find_rater(connection, f"p{n}")
            (seen,) = queue.lease(
                connection,
                who,
                project.guideline_id,
                utc_now(),
                limit=1,
                seconds=9.0,
                seed=n,
                project=project.id,
            )
            displayed = [ranks[slot] for slot in seen.shown]
            said = answers.record(
                connection, seen.id, displayed, Beside(), seconds=3.0, idempotency_key=f"k{n}", revises=None,
                now=utc_now(),
            ).id  # fmt: skip
    return said


def no_violations(page: Page, name: str) -> None:
    if folder := os.environ.get("ACCORD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in violations] == []


def test_a_manager_says_what_is_known_and_what_is_disputed(browse: Browse) -> None:
    owner = browse("maria")
    ledger, said = owner.served.site.ledger, judged(owner)
    page = owner.in_project(f"judgements/{said}")
    page.get_by_text("What is known of the order").click()
    page.get_by_label("Known order").fill("A > C = B, C > F")
    owner.tolerate("422")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_text("'F' is none of the answers A, B, C, D")).to_be_visible()
    page.get_by_label("Known order").fill("a > c, b > c")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_label("Known order")).to_have_value("A > C, B > C")
    no_violations(page, "judgement")
    with ledger.reading() as connection:
        assert list(known.known_answers(connection).values()) == [((0, 2), (1, 2))]
    page = owner.in_project("quality")
    page.get_by_text("Rankings, by how alike raters order the answers").click()
    expect(page.get_by_role("region", name="Rankings, the least alike first")).to_contain_text("disputed")
    expect(page.get_by_role("columnheader", name="Inside gold rankings: right")).to_be_visible()
    no_violations(page, "quality")
    page = owner.in_project("settings")
    page.get_by_label("Settled by an adjudicator below").fill("-0.9")
    form = page.locator("form", has=page.get_by_label("Settled by an adjudicator below"))
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved")).to_be_visible()
    no_violations(page, "settings")
    with ledger.reading() as connection:
        project = projects.find_project(connection, owner.shop.project)
        assert project is not None and project.disputed_below == -0.9
        assert adjudication.disputed(connection, project) == []
