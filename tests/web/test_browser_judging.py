"""Judging in a real browser: by keyboard alone, over a network that fails, on a phone, in other scripts."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Page, Request, Route, expect

from accord.ledger import answers
from accord.web.render import render_text
from web.browser_world import PASSWORD, RICH, Browse, Visitor

pytest_plugins = ("web.browser_fixtures",)


def is_at(page: Page, number: int) -> None:
    """Wait until the page shows its so-manieth question."""
    expect(page.locator("body")).to_have_attribute("data-number", str(number))


def all_saved(page: Page) -> None:
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")


def shown(page: Page) -> tuple[str, str]:
    return page.locator("#answer-0").inner_text(), page.locator("#answer-1").inner_text()


def preferred_text(visitor: Visitor, judged: Any) -> str:
    """The text that a stored row calls better."""
    from accord.ledger import store

    with visitor.served.site.ledger.reading() as connection:
        found = store.read_completions(connection, judged.completion_ids)
    return found[judged.completion_ids[0 if judged.strength > 0 else 1]].text


def words(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def test_ten_questions_by_keyboard_alone(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.in_project("judge")
    expect(page.locator("#guideline-new")).to_be_visible()  # the guideline is new: it opens by itself
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    preferred = []
    for number, key in enumerate("1726354b11", 1):
        is_at(page, number)
        page.keyboard.press(key)
        preferred.append(shown(page)[0] if key in "123" else shown(page)[1] if key in "567" else "")
        page.keyboard.press("Enter")
    is_at(page, 11)
    all_saved(page)
    stored = rater.judgements()
    assert [abs(judged.strength) for judged in stored] == [3, 3, 2, 2, 1, 1, 0, 0, 3, 3]
    for judged, text in zip(stored, preferred, strict=True):
        assert not text or words(preferred_text(rater, judged)) == words(text)
    assert sum(judged.seconds for judged in stored) > 0


def test_enter_without_a_choice_says_what_is_missing(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Choose from 1 to 7 first")
    is_at(page, 1)
    assert rater.judgements() == []


def test_undo_makes_a_revision_and_escape_leaves_it(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    first = shown(page)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    is_at(page, 2)
    second = shown(page)
    page.keyboard.press("u")
    is_at(page, 3)
    assert shown(page) == first
    expect(page.locator('input[name="strength"][value="2"]')).to_be_checked()
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    is_at(page, 4)
    assert shown(page) == second
    all_saved(page)
    old, new = sorted(rater.judgements(), key=lambda judged: judged.revision)
    assert (old.revision, new.revision) == (1, 2) and old.item_id == new.item_id
    assert (new.strength > 0) != (old.strength > 0) and abs(new.strength) == 3
    page.keyboard.press("u")
    is_at(page, 5)
    page.keyboard.press("Escape")
    is_at(page, 6)
    assert shown(page) == second
    assert len(rater.judgements()) == 2


def test_a_question_is_skipped_with_a_reason(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    first = shown(page)
    page.keyboard.press("s")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    is_at(page, 2)
    all_saved(page)
    expect(page.locator("#progress")).to_contain_text("1 skipped")
    page.reload()
    is_at(page, 1)
    assert shown(page) != first
    assert rater.judgements() == []


def test_everything_beside_the_preference_is_stored(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    page.keyboard.press("m")
    page.get_by_role("group", name="Flags for answer A").get_by_role("checkbox", name="unsafe").check()
    page.get_by_role("radio", name="Answer B, helpful: 4 of 5").check()
    page.locator("#comment").fill("Made up.")
    page.get_by_role("button", name="Start from B").click()
    assert words(page.locator("#edit").input_value()) == words(shown(page)[1])
    page.locator("#edit").fill("What it should have said.")
    page.keyboard.press("Escape")
    page.keyboard.press("6")
    page.keyboard.press("Enter")
    is_at(page, 2)
    expect(page.locator("#comment")).to_have_value("")  # nothing of it stays for the next question
    all_saved(page)
    (judged,) = rater.judgements()
    with rater.served.site.ledger.reading() as connection:
        said = answers.from_parts(answers.read_answers(connection, [judged.id])[judged.id], judged.shown)
    assert said.flags[0] == ("unsafe",) and not said.flags[1]
    assert list(said.ratings["helpful"]) == [None, 4]
    assert (said.comment, said.edit) == ("Made up.", (1, "What it should have said."))


def test_a_reload_loses_nothing(browse: Browse) -> None:
    rater = browse("rater")
    rater.tolerate("ERR_FAILED", "beforeunload")
    page = rater.judge()
    first = shown(page)
    page.reload()
    is_at(page, 1)
    assert shown(page) == first
    page.route("**/judgement", lambda route: route.abort())
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    is_at(page, 2)
    expect(page.locator("#saving")).to_have_text("Not saved yet, trying again")
    page.unroute("**/judgement")
    second = shown(page)
    page.reload()
    is_at(page, 1)
    assert shown(page) == second
    all_saved(page)
    assert len(rater.judgements()) == 1


def test_answers_given_offline_are_sent_once(browse: Browse) -> None:
    rater = browse("rater")
    rater.tolerate("ERR_INTERNET_DISCONNECTED")
    page = rater.judge()
    page.wait_for_load_state("networkidle")  # three questions are here
    rater.context.set_offline(True)
    for number in (1, 2):
        is_at(page, number)
        page.keyboard.press("3")
        page.keyboard.press("Enter")
    is_at(page, 3)
    expect(page.locator("#saving")).to_have_text("Not saved yet, trying again")
    assert rater.judgements() == []
    rater.context.set_offline(False)
    all_saved(page)
    expect(page.locator("#saving")).to_have_text("")
    assert len(rater.judgements()) == 2


def test_an_answer_outlives_the_session(browse: Browse) -> None:
    rater = browse("rater")
    rater.tolerate("401", "403")
    page = rater.judge()
    rater.context.clear_cookies()
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/login.next="))
    page.locator('[name="login"]').fill("rater")
    page.locator('[name="password"]').fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/judge")
    is_at(page, 1)
    all_saved(page)
    assert len(rater.judgements()) == 1


def test_a_lost_reply_doubles_nothing(browse: Browse) -> None:
    rater = browse("rater")
    rater.tolerate("ERR_FAILED")
    page = rater.judge()
    lost: list[str] = []

    def lose_the_first(route: Route) -> None:
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch().text())
            route.abort()

    page.route("**/judgement", lose_the_first)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    is_at(page, 2)
    all_saved(page)
    assert "judgement" in lost[0]
    assert len(rater.judgements()) == 1


def test_the_next_question_waits_for_no_reply(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    page.wait_for_load_state("networkidle")
    asked: list[Request] = []
    held: list[Route] = []
    page.on("request", lambda request: asked.append(request))
    page.route("**/judgement", lambda route: held.append(route))
    for number in (1, 2):
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        is_at(page, number + 1)
    assert len(held) == 1  # the first answer is still on its way, and nothing else was asked of the server
    assert [request.url.rpartition("/")[2] for request in asked] == ["judgement"]
    held[0].continue_()
    page.unroute("**/judgement")
    all_saved(page)
    assert len(rater.judgements()) == 2


def test_right_to_left_text_runs_from_right_to_left(browse: Browse) -> None:
    rater = browse("maria")
    page = rater.judge()
    html = str(render_text(f"{RICH[2][1]}\n\n```\nx = 1\n```"))
    page.evaluate(
        """async (html) => {
            const sheet = await import("/static/sheet.js");
            sheet.lay({ prompt: [{ role: "user", html }], answers: [{ html }, { html }] });
        }""",
        html,
    )
    shown_parts = page.locator("#answer-0 p, #answer-0 pre")
    assert shown_parts.evaluate_all("(all) => all.map((each) => getComputedStyle(each).direction)") == [
        "rtl",
        "ltr",
    ]


def test_on_a_phone_answers_are_stacked_and_the_scale_is_in_reach(browse: Browse) -> None:
    rater = browse("rater", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = rater.in_project("judge")
    page.get_by_role("button", name="Close").first.tap()
    first, second = (page.locator(f".answer.{side}").bounding_box() for side in "ab")
    assert first and second and second["y"] >= first["y"] + first["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    dock = page.locator("#judge").bounding_box()
    assert dock and dock["y"] + dock["height"] <= 741
    page.locator(".step.b").first.tap()
    page.get_by_role("button", name="Submit").tap()
    is_at(page, 2)
    all_saved(page)
    assert len(rater.judgements()) == 1
