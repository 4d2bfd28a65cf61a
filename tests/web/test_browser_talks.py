"""Talks in a real browser: by keyboard alone, over reloads and a restart, on a phone, with hostile words."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from accord.ledger import Ledger, database, projects, store
from accord.ledger.database import utc_now
from web.browser_world import FORM, Served, Shop, Visitor, serving
from web.hostile import LINKS, SCRIPTS
from web.world import stub_policies

pytest_plugins = ("web.browser_fixtures",)


class Talks:
    """A server whose policies are stubs, which can be restarted, and the browsers of `rater` before it."""

    def __init__(self, chromium: Browser, shop: Shop, path: Path) -> None:
        self.chromium, self.shop, self.path = chromium, shop, path
        self.visitors: list[Visitor] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        self.stack = ExitStack()
        policies = stub_policies("left", "right")
        self.served: Served = self.stack.enter_context(serving(self.path, self.port, policies))
        self.stack.callback(policies.close)  # before the server, which waits for what is under way
        self.port = int(self.served.url.rpartition(":")[2])

    def restart(self) -> None:
        self.stack.close()
        self.start()

    def open(self, query: str = "", **options: Any) -> tuple[Visitor, Page]:
        context = self.chromium.new_context(**options)
        token = self.shop.sessions["rater"]
        context.add_cookies([{"name": self.served.cookie("session"), "value": token, "url": self.served.url}])
        visitor = Visitor(context, self.served, self.shop)
        self.visitors.append(visitor)
        return visitor, visitor.in_project(f"talk{query}")


@pytest.fixture
def talks(
    chromium: Browser, built_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Talks]:
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")
    path = tmp_path / "ledger.sqlite"
    shutil.copyfile(built_shop.path, path)
    with Ledger.open(path) as ledger, ledger.writing() as connection:
        changes = {"form": FORM | {"live": True}}
        projects.change_project(connection, built_shop.project, changes, utc_now())
    made = Talks(chromium, built_shop, path)
    yield made
    for visitor in made.visitors:
        visitor.context.close()
    made.stack.close()
    wrong = [problem for visitor in made.visitors for problem in visitor.unexpected()]
    assert not wrong, wrong


def at(page: Page, phase: str) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", phase, timeout=30_000)


def begun(page: Page) -> None:
    page.locator("#consent").check()
    page.get_by_role("button", name="Begin").click()
    at(page, "write")


def say(page: Page, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Control+Enter")


def turns_of(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("#prompt .turn > .text").all_inner_texts()]


def tab_to(page: Page, where: str) -> None:
    for _ in range(30):
        if page.evaluate("where => document.activeElement.matches(where)", where):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{where} is not reached by Tab")


def test_three_turns_by_keyboard_alone(talks: Talks) -> None:
    visitor, page = talks.open()
    at(page, "start")
    tab_to(page, "#consent")
    page.keyboard.press("Space")
    tab_to(page, "#begin button")
    page.keyboard.press("Enter")
    expected: list[str] = []
    for key, text in (("1", "Hello there"), ("6", "And then?"), ("2", "Thank you")):
        at(page, "write")
        expect(page.locator("#message")).to_be_focused()
        page.keyboard.type(text)
        page.keyboard.press("Control+Enter")
        at(page, "judge")
        expect(page.locator("#title")).to_be_focused()
        assert turns_of(page) == [*expected, text]
        page.keyboard.press(key)
        expected += [text, page.locator(f"#answer-{0 if key in '123' else 1}").inner_text().strip()]
        page.keyboard.press("Enter")
    at(page, "write")
    assert turns_of(page) == expected
    assert [abs(judged.strength) for judged in visitor.judgements()] == [3, 2, 2]
    with talks.served.site.ledger.reading() as connection:
        prompt_id = visitor.judgements()[-1].prompt_id
        kept = store.read_prompts(connection, [prompt_id])[prompt_id]
    assert [message.content for message in kept.messages] == expected[:-1]


def test_reloads_lose_nothing(talks: Talks) -> None:
    visitor, page = talks.open()
    begun(page)
    page.locator("#message").fill("half a thou")
    page.reload()
    at(page, "write")
    expect(page.locator("#message")).to_have_value("half a thou")
    visitor.tolerate("net::ERR")
    say(page, "slow 2")
    at(page, "wait")
    page.reload()
    at(page, "wait")
    assert turns_of(page) == ["slow 2"]
    at(page, "judge")
    answers = page.locator(".answers").inner_text()
    page.reload()
    at(page, "judge")
    assert page.locator(".answers").inner_text() == answers
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    at(page, "write")
    page.reload()
    at(page, "write")
    assert len(turns_of(page)) == 2 and len(visitor.judgements()) == 1


def test_a_restart_of_the_server_only_takes_longer(talks: Talks) -> None:
    visitor, page = talks.open()
    visitor.tolerate("Failed to load resource", "net::ERR")
    begun(page)
    say(page, "slow 1.5")
    at(page, "wait")
    expect(page.locator("#wait-what")).to_have_text("Two answers are being written")
    talks.restart()
    at(page, "judge")
    assert turns_of(page) == ["slow 1.5"]
    page.keyboard.press("1")
    talks.restart()
    page.keyboard.press("Enter")
    at(page, "write")
    visitor.served = talks.served
    assert len(visitor.judgements()) == 1 and len(turns_of(page)) == 2


def test_waiting_is_told_and_can_be_cancelled(talks: Talks) -> None:
    visitor, page = talks.open()
    visitor.tolerate("409")
    begun(page)
    say(page, "slow 60")
    at(page, "wait")
    expect(page.locator("#wait-said")).to_have_attribute("role", "status")
    expect(page.locator("#wait-time")).to_have_text("1 s")
    page.keyboard.press("Escape")
    at(page, "write")
    expect(page.locator("#message")).to_have_value("slow 60")
    assert turns_of(page) == []
    say(page, "long")
    expect(page.locator("#say-problem")).to_contain_text("too long for this model")
    expect(page.locator("#message")).to_have_value("long")
    say(page, "better now")
    at(page, "judge")


def test_a_skipped_turn_goes_on_and_says_so(talks: Talks) -> None:
    visitor, page = talks.open()
    begun(page)
    say(page, "Hello")
    at(page, "judge")
    page.keyboard.press("s")
    expect(page.locator("#skip-dialog")).to_contain_text("goes on from one of the two, by chance")
    page.keyboard.press("Enter")
    at(page, "write")
    assert len(turns_of(page)) == 2 and visitor.judgements() == []


def test_hostile_words_of_rater_and_model_stay_words(talks: Talks) -> None:
    _, page = talks.open()
    begun(page)
    for text in ("\n\n".join(SCRIPTS), "\n\n".join(LINKS[:12])):
        say(page, text)
        at(page, "judge")
        for place in ("#prompt", ".answers"):
            inside = page.locator(place).locator("script, img, iframe, form, a[href], style, object, svg")
            assert inside.count() == 0
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        at(page, "write")
    assert page.evaluate("document.title").startswith("Talk")


def wide(page: Page) -> Callable[[], bool]:
    return lambda: page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_on_a_phone_in_arabic(talks: Talks) -> None:
    _, page = talks.open(viewport={"width": 360, "height": 740}, is_mobile=True, color_scheme="dark")
    begun(page)
    assert not wide(page)()
    say(page, "هل الساعة مقاومة للماء؟ " + "طويل" * 60)
    at(page, "judge")
    assert not wide(page)()
    left, right = (page.locator(f".answer.{side}").bounding_box() for side in "ab")
    assert left is not None and right is not None and right["y"] >= left["y"] + left["height"]
    direction = "e => getComputedStyle(e.querySelector('p') ?? e).direction"
    assert page.locator("#prompt .turn > .text").evaluate(direction) == "rtl"


def test_my_talks_are_listed_and_go_on(talks: Talks) -> None:
    _, page = talks.open()
    begun(page)
    say(page, "My <b>first</b> words")
    at(page, "judge")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    at(page, "write")
    page.get_by_role("link", name="Begin another talk").click()
    at(page, "start")
    page.get_by_role("link", name="My <b>first</b> words").click()
    at(page, "write")
    assert len(turns_of(page)) == 2
