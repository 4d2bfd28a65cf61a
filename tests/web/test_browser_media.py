"""Pictures and sounds in a real browser: seen, heard by keyboard, and silent until somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from accord.ledger import Ledger, media
from accord.ledger.database import utc_now
from accord.ledger.media import Medium
from accord.records import Prompt
from web.browser_world import Browse, browsers, build_shop, question
from web.media_files import png, wav

pytest_plugins = ("web.browser_fixtures",)

RED, BLUE = Medium("image/png", png(320, 200)), Medium("image/png", png(320, 200, (30, 60, 200)))
LOW, HIGH = Medium("audio/wav", wav(220, 2.0)), Medium("audio/wav", wav(880, 2.0))
FOREIGN = Medium("image/png", png(colour=(9, 9, 9)))


def shown(medium: Medium, words: str) -> str:
    return f"![{words}](accord-media:{medium.id})"


@pytest.fixture
def gallery(chromium: Browser, tmp_path: Path) -> Iterator[Browse]:
    """A pair of pictures, then one of sounds; one text names a picture of no project."""
    asked = [
        question(Prompt.of("Draw the sea."), shown(BLUE, "a blue field"), shown(RED, "a red field")),
        question(Prompt.of("Play something low."), shown(LOW, "a low tone"), shown(HIGH, "a high tone")),
        question(Prompt.of("And now?"), shown(FOREIGN, "not here"), "Nothing."),
    ]
    shop = build_shop(tmp_path / "ledger.sqlite", asked, judged=0)
    with Ledger.open(shop.path) as ledger, ledger.writing() as connection:
        media.add_media(connection, shop.project, [RED, BLUE, LOW, HIGH], utc_now())
    (tmp_path / "served").mkdir()
    with browsers(chromium, shop, tmp_path / "served") as browse:
        yield browse


def next_question(page: Page, key: str, number: int) -> None:
    page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_have_attribute("data-number", str(number))


def test_pictures_are_shown_and_judged(gallery: Browse) -> None:
    page = gallery("rater").judge()
    for words in ("a blue field", "a red field"):
        picture = page.get_by_role("img", name=words)
        expect(picture).to_be_visible()
        page.wait_for_function(
            "(image) => image.complete && image.naturalWidth === 320", arg=picture.element_handle()
        )
    next_question(page, "1", 2)
    expect(page.get_by_role("img")).to_have_count(0)


def test_sounds_are_silent_until_a_key_is_pressed(gallery: Browse) -> None:
    page = gallery("rater").judge()
    next_question(page, "1", 2)
    sounds = page.locator("audio")
    expect(sounds).to_have_count(2)
    first = sounds.first.element_handle()
    page.wait_for_function("(sound) => sound.readyState > 0", arg=first)
    assert [page.evaluate("(s) => s.paused", s) for s in sounds.element_handles()] == [True, True]
    expect(page.locator("#answer-0 audio")).to_have_attribute(
        "aria-label", page.locator("#answer-0 .caption").inner_text()
    )
    sounds.first.focus()
    page.keyboard.press("Space")
    page.wait_for_function("(sound) => !sound.paused", arg=first)
    page.keyboard.press("Enter")  # belongs to the player, and does not submit
    expect(page.locator("body")).to_have_attribute("data-number", "2")
    page.keyboard.press("6")  # the scale is still one key away
    expect(page.locator('input[name="strength"][value="-2"]')).to_be_checked()
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_have_attribute("data-number", "3")
    page.wait_for_function("(sound) => sound.paused", arg=first)  # what is out of sight is not heard
    expect(page.locator("audio")).to_have_count(0)


def test_a_picture_of_no_project_stays_words(gallery: Browse) -> None:
    page = gallery("rater").judge()
    next_question(page, "1", 2)
    next_question(page, "1", 3)
    expect(page.get_by_role("img")).to_have_count(0)
    expect(page.locator(".answers")).to_contain_text("[image: not here accord-media:")


def test_the_caption_of_a_picture_can_be_marked(gallery: Browse) -> None:
    page = gallery("rater").judge()
    page.keyboard.press("h")
    page.keyboard.press("b")
    expect(page.locator(".caption mark.bad")).to_have_count(1)
    page.keyboard.press("Escape")
    next_question(page, "1", 2)
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")
    page.keyboard.press("u")
    expect(page.locator(".caption mark.bad")).to_have_count(1)
    expect(page.get_by_role("img")).to_have_count(2)


def test_on_a_phone_pictures_fit(gallery: Browse) -> None:
    page = gallery("rater", viewport={"width": 320, "height": 700}, is_mobile=True).judge()
    expect(page.get_by_role("img").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
