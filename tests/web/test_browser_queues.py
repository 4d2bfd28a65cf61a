"""A manager keeps questions for some people, sees what waits, releases them, and erases one, by hand."""

from __future__ import annotations

import json
import os

from playwright.sync_api import Page, expect

from web.browser_world import PASSWORD, Browse

pytest_plugins = ("web.browser_fixtures",)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_questions_are_kept_and_released(browse: Browse) -> None:
    page = browse("maria").in_project("people")
    page.get_by_role("link", name="Queues").click()
    expect(page.get_by_text("Nothing is kept")).to_be_visible()
    page.get_by_label("Questions that came in as").select_option("round 1")
    page.locator("label.check", has_text="ines").click()
    press(page, "Keep them")
    row = page.locator("#queues tbody tr")
    expect(row).to_contain_text("round 1")
    expect(row).to_contain_text("ines")
    expect(page.locator("#queues .notice.warn")).to_contain_text("nobody can give")
    if folder := os.environ.get("ACCORD_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/queues.png", full_page=True)
    boot = json.loads(browse("rater").in_project("judge").locator("#boot").text_content() or "")
    assert boot["questions"] == [] and boot["progress"]["left"] == 0
    press(page, "Release round 1")
    press(page, "Yes")
    expect(page.get_by_text("Nothing is kept")).to_be_visible()


def test_a_question_is_erased(browse: Browse) -> None:
    page = browse("maria").in_project("judgements")
    page.locator("main table a").first.click()
    page.get_by_text("Erase this question").click()
    page.get_by_label("Your password").fill(PASSWORD)
    press(page, "Erase it")
    press(page, "Yes")
    expect(page.get_by_text("Its texts were erased at somebody’s request")).to_be_visible()
    where = browse("maria").in_project("withdrawals")
    expect(where.get_by_text("So far 1 question was erased.")).to_be_visible()
    if folder := os.environ.get("ACCORD_SCREENSHOTS"):
        where.screenshot(path=f"{folder}/withdrawals.png", full_page=True)
