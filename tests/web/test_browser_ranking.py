"""Ranking in a real browser: by keyboard alone, dragging, touch; heard, small, dark, and in other scripts."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from accord.ledger import store
from accord.records import Judgement
from web.browser_world import Browse, Shop, Visitor

pytest_plugins = ("web.browser_fixtures",)
LETTERS = "ABCDEFGHI"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def shop(ranked_shop: Shop) -> Shop:
    return ranked_shop


def is_at(page: Page, number: int) -> None:
    expect(page.locator("body")).to_have_attribute("data-number", str(number))


def all_saved(page: Page) -> None:
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")


def order(page: Page) -> str:
    """The letters from best to worst, those that are tied with = between them."""
    rows = page.locator(".place").evaluate_all(
        "rows => rows.map(r => [r.classList.contains('tied'), r.querySelector('.letter').textContent])"
    )
    return "".join(("=" if tied else " ") + letter for tied, letter in rows).strip()


def words(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def shown(page: Page) -> dict[str, str]:
    """The texts by letter."""
    bodies = page.locator(".answer:visible .body").all_inner_texts()
    return {LETTERS[i]: words(text) for i, text in enumerate(bodies)}


def best_first(visitor: Visitor, judged: Judgement) -> list[set[str]]:
    with visitor.served.site.ledger.reading() as connection:
        found = store.read_completions(connection, judged.completion_ids)
    groups: dict[int, set[str]] = {}
    for rank, completion_id in zip(judged.ranks, judged.completion_ids, strict=True):
        groups.setdefault(rank, set()).add(words(found[completion_id].text))
    return [groups[rank] for rank in sorted(groups)]


def texts(page: Page, ordered: str) -> list[set[str]]:
    of = shown(page)
    return [{of[letter] for letter in group.split("=")} for group in ordered.split(" ")]


def row(page: Page, letter: str) -> Locator:
    return page.locator(".place", has=page.get_by_text(letter, exact=True))


def test_a_ranking_by_keyboard_alone(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    is_at(page, 1)
    expect(page.locator("#title")).to_have_text("Put these answers in order")
    for selector in (".scale", ".step.bad"):
        expect(page.locator(selector)).to_be_hidden()
    page.keyboard.press("3")  # the third answer
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Alt+ArrowUp")
    assert order(page) == "C A B D"
    page.keyboard.press("4")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("t")
    assert order(page) == "C A=D B"
    page.keyboard.press("1")
    page.keyboard.press("ArrowUp")
    assert order(page) == "C A D B", "the first step up leads out of the tie"
    page.keyboard.press("End")
    page.keyboard.press("t")
    assert order(page) == "C D B=A"
    wanted = texts(page, order(page))
    page.keyboard.press("Enter")
    is_at(page, 2)
    all_saved(page)
    assert best_first(rater, rater.judgements()[0]) == wanted
    assert sorted(rater.judgements()[0].ranks) == [1, 2, 3, 3]


def test_what_happens_is_told_to_screen_readers(browse: Browse) -> None:
    page = browse("rater").judge()
    said = page.locator("output#said")  # an output is a live region
    page.keyboard.press("2")
    focused = page.locator(".rank:focus")
    expect(focused).to_have_accessible_name("Answer B, place 2 of 4")
    page.keyboard.press("ArrowUp")
    expect(said).to_have_text("Answer B is at place 1 of 4, above A")
    expect(focused).to_have_accessible_name("Answer B, place 1 of 4")
    page.keyboard.press("ArrowUp")
    expect(said).to_have_text("Answer B stays where it is")
    page.keyboard.press("3")
    page.keyboard.press("t")
    expect(said).to_have_text("Answer C is at place 2 of 4, tied with A")
    expect(focused).to_have_accessible_name("Answer C, place 2 of 4, tied with A")


def test_an_order_that_nobody_made_is_not_sent_by_mistake(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("the order they were shown in")
    is_at(page, 1)
    wanted = texts(page, "A B C D")
    page.keyboard.press("Enter")
    is_at(page, 2)
    all_saved(page)
    assert best_first(rater, rater.judgements()[0]) == wanted


def pull(page: Page, moving: Locator, goal: Locator, share: float) -> None:
    """Drag the one to a place in the other's height, with the mouse."""
    start, end = moving.bounding_box(), goal.bounding_box()
    assert start is not None and end is not None
    page.mouse.move(start["x"] + 80, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"] + 80, start["y"] + start["height"] / 2 + 8)
    page.mouse.move(end["x"] + 80, end["y"] + share * end["height"], steps=5)
    page.mouse.up()


def test_a_ranking_by_dragging(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    page.locator("#places").scroll_into_view_if_needed()
    pull(page, row(page, "D"), row(page, "A"), 0.1)
    assert order(page) == "D A B C"
    pull(page, row(page, "A"), row(page, "C"), 0.5)
    assert order(page) == "D B C=A"
    pull(page, row(page, "D"), row(page, "A"), 0.95)
    assert order(page) == "B C=A D"
    pull(page, row(page, "B"), row(page, "A"), 0.1)
    assert order(page) == "C=B=A D", "between two that are tied it is tied with both"
    pull(page, row(page, "B"), row(page, "C"), 0.05)
    assert order(page) == "B C=A D"
    start = row(page, "D").bounding_box()
    assert start is not None
    page.mouse.move(start["x"] + 80, start["y"] + 10)
    page.mouse.down()
    page.mouse.move(start["x"] + 80, start["y"] - 100, steps=3)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert order(page) == "B C=A D", "Escape lets go"
    wanted = texts(page, order(page))
    page.locator("#submit").click()
    is_at(page, 2)
    all_saved(page)
    assert best_first(rater, rater.judgements()[0]) == wanted


def test_a_finger_drags_by_the_grip_and_taps_the_buttons(browse: Browse) -> None:
    page = browse("rater", **PHONE).judge()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    row(page, "C").get_by_role("button", name="Move answer C up").tap()
    assert order(page) == "A C B D"
    row(page, "D").get_by_role("button", name="Tie answer D with the one above").tap()
    assert order(page) == "A C B=D"
    page.locator("#places").scroll_into_view_if_needed()
    grip, goal = row(page, "A").locator(".grip").bounding_box(), row(page, "C").bounding_box()
    assert grip is not None and goal is not None
    finger = page.context.new_cdp_session(page)
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    far = goal["y"] + goal["height"] - 3
    for kind, at in (("touchStart", y), ("touchMove", y + 10), ("touchMove", far - 5), ("touchMove", far)):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": at}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator("#said")).to_contain_text("Answer A is at place 2")
    assert order(page) == "C A B=D"
    for button in page.locator(".place button:visible").all():
        box = button.bounding_box()
        assert box is not None and box["height"] >= 44 and box["width"] >= 24


def test_undo_brings_the_order_and_what_was_said_beside_it_back(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    page.keyboard.press("4")
    page.keyboard.press("Home")
    page.keyboard.press("m")
    page.get_by_role("group", name="Flags for answer D").get_by_role("checkbox", name="false").check()
    page.locator("#comment").fill("fine")
    page.get_by_role("button", name="Start from C").click()
    assert words(page.locator("#edit").input_value()) == shown(page)["C"]
    page.keyboard.press("Control+Enter")
    is_at(page, 2)
    page.keyboard.press("u")
    is_at(page, 3)
    assert order(page) == "D A B C"
    expect(page.locator("#comment")).to_have_value("fine")
    expect(page.locator('input[name="flag-3"][value="false"]')).to_be_checked()
    page.locator("#title").focus()
    page.keyboard.press("4")
    page.keyboard.press("End")
    wanted = texts(page, order(page))
    page.keyboard.press("Enter")
    is_at(page, 4)
    all_saved(page)
    old, new = sorted(rater.judgements(), key=lambda judged: judged.revision)
    assert (old.revision, new.revision) == (1, 2) and best_first(rater, new) == wanted


def test_rankings_and_pairs_follow_one_another(browse: Browse) -> None:
    rater = browse("rater")
    page = rater.judge()
    for number, answers in ((1, 4), (2, 3), (3, 9)):
        is_at(page, number)
        expect(page.locator(".place")).to_have_count(answers)
        expect(page.locator(".answer:visible")).to_have_count(answers)
        page.keyboard.press(str(answers))
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
    is_at(page, 4)
    expect(page.locator("#board")).to_be_hidden()
    expect(page.locator(".answer:visible")).to_have_count(2)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    is_at(page, 5)
    all_saved(page)
    assert [len(judged.completion_ids) for judged in rater.judgements()] == [4, 3, 9, 2]
    assert [abs(judged.strength) for judged in rater.judgements()] == [0, 0, 0, 2]


def test_letters_and_places_stand_on_their_side_in_other_scripts(browse: Browse) -> None:
    page = browse("rater").judge()
    page.evaluate("document.documentElement.dir = 'rtl'")
    first = row(page, "A")
    grip, moves = first.locator(".grip").bounding_box(), first.locator(".moves").bounding_box()
    assert grip is not None and moves is not None and grip["x"] > moves["x"]
    page.keyboard.press("1")
    page.keyboard.press("ArrowDown")
    assert order(page) == "B A C D"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browse: Browse, scheme: str) -> None:
    page = browse("rater", color_scheme=scheme).judge()
    found = []
    for keys in ((), ("4", "ArrowUp", "t"), ("m",)):
        for key in keys:
            page.keyboard.press(key)
        violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        found += [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in violations]
    assert found == []
