"""A blind repeat in a real browser: sides swapped, and nothing on the page tells it from a question."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from accord.ledger import checks, judging, projects
from accord.ledger.database import utc_now
from web.browser_world import Browse

pytest_plugins = ("web.browser_fixtures",)

SKELETON = """() => [...document.querySelectorAll("main, main *, #judge, #judge *")]
    .filter((e) => !e.closest("#prompt, .body, #progress, #bar, #saving"))
    .map((e) => `${e.tagName} ${e.id} ${e.className} ${e.hidden} ${[...e.attributes].map((a) => a.name)}`)"""


def shown(page: Page, number: int) -> tuple[str, ...]:
    expect(page.locator("body")).to_have_attribute("data-number", str(number))
    return tuple(page.locator(f"#{name}").inner_text() for name in ("prompt", "answer-0", "answer-1"))


def test_a_repeat_has_its_sides_swapped_and_looks_like_any_question(
    browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_JUST_ANSWERED", checks._JUST_ANSWERED.offset(1))
    rater = browse("rater")
    ledger, project = rater.served.site.ledger, rater.shop.project
    with ledger.writing() as connection:
        found = projects.find_project(connection, project)
        assert found is not None
        form = dict(found.form) | {"checks": {"repeat": 0.9}}
        projects.change_project(connection, project, {"form": form}, utc_now())
    page = rater.judge()
    seen, skeletons, asked = [], [], []
    for number in range(1, 11):
        seen.append(shown(page, number))
        asked.append(page.locator("body").get_attribute("data-shown"))
        skeletons.append(page.evaluate(SKELETON))
        page.keyboard.press("2")
        page.keyboard.press("Enter")
    shown(page, 11)
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")
    with ledger.reading() as connection:
        every = judging.read_judgements(connection, purposes=judging.EVERYTHING)
        answered = {judging.assignment_of(connection, judged.id): judged for judged in every}
    said = [answered[assignment] for assignment in asked]
    repeats = [i for i, judged in enumerate(said) if judged.purpose == "repeat"]
    assert len(repeats) >= 2
    # not of the first question: there is nothing to undo yet
    ordinary = [skeletons[i] for i in range(1, 10) if said[i].purpose == "judge"]
    for i in repeats:
        first = next(j for j in range(i) if said[j].item_id == said[i].item_id)
        assert seen[i] == (seen[first][0], seen[first][2], seen[first][1])
        assert skeletons[i] in ordinary
        assert said[i].strength == -said[first].strength, "the left one twice: two different answers"
