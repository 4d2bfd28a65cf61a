"""Every page: nothing for axe to complain about, and nothing that hostile text can do."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from accord.ledger import accounts, answers, projects, queue
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.records import Prompt, Question
from accord.web.quality import quality_of
from accord.web.security import CSP
from web.browser_world import Browse, Served, Shop, Visitor, browsers, build_shop, question
from web.hostile import SMALL

pytest_plugins = ("web.browser_fixtures",)
IN_PROJECT = (
    "quality",
    "people",
    "guideline",
    "data",
    "judgements",
    "mine",
    "settings",
    "withdrawals",
    "groups",
    "about-me",
)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def why_path(visitor: Visitor) -> str:
    with visitor.served.site.ledger.reading() as connection:
        newest = projects_judgement(connection, visitor.shop.project)
    return f"/projects/{visitor.shop.project}/judgements/{newest}"


def projects_judgement(connection: object, project: str) -> str:
    from accord.web.listing import chosen_judgements

    return chosen_judgements(connection, project, "", None)[0]  # type: ignore[arg-type]


def every_path(visitor: Visitor) -> list[str]:
    quality_of(
        visitor.served.site.ledger, visitor.shop.project, patience=60.0
    )  # all of its figures are there
    inside = [f"/projects/{visitor.shop.project}/{name}" for name in IN_PROJECT]
    return ["/projects", "/account", "/runs", "/nothing-here", why_path(visitor), *inside]


def complaints(page: Page, scheme: str) -> str:
    """What axe finds in the page, one line for each violation. In the dark only colours differ."""
    rules = {"runOnly": {"type": "tag", "values": ["cat.color"]}} if scheme == "dark" else {}
    found = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
    return "\n".join(f"{page.url}: {v['id']}: {v['nodes'][0]['html'][:200]}" for v in found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browse: Browse, scheme: str) -> None:
    somebody, manager, rater = (browse(who, color_scheme=scheme) for who in ("", "maria", "rater"))
    manager.tolerate("404")
    found = [complaints(somebody.open("/login"), scheme)]
    page = manager.open("/projects")
    for path in every_path(manager):
        page.goto(manager.served.url + path)
        found.append(complaints(page, scheme))
    link = invitation(manager)
    found.append(complaints(somebody.open(link), scheme))
    page = rater.in_project("judge")
    expect(page.locator("#guideline")).to_be_visible()
    found.append(complaints(page, scheme))
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    page.get_by_role("button", name="Start from A").click()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    found.append(complaints(page, scheme))
    for key in "s?":
        page.keyboard.press(key)
        expect(page.locator("dialog[open]")).to_be_visible()
        found.append(complaints(page, scheme))
        page.keyboard.press("Escape")
    assert "\n".join(filter(None, found)) == ""


def invitation(manager: Visitor) -> str:
    page = manager.in_project("people")
    page.get_by_role("button", name="Make a link").click()
    link = page.get_by_role("textbox", name="Invitation link")
    expect(link).to_be_visible()
    return link.input_value().removeprefix(manager.served.url)


def test_no_page_is_wider_than_a_phone(browse: Browse) -> None:
    manager = browse("maria", **PHONE)
    manager.tolerate("404")
    page = manager.open("/login")
    for path in every_path(manager):
        page.goto(manager.served.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


# ----------------------------------------------------------------------------------------- hostile text


def stored(text: str) -> str:
    """What of it a ledger takes: half a character is refused, which the tests of the server show."""
    return text.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def hostile_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Every field that a person or a model can fill is filled with hostile text."""
    asked: list[Question] = [
        question(Prompt.of(stored(text), system=stored(text)), stored(text), stored(text) + " ")
        for text in SMALL
    ]
    everything = "\n\n".join(map(stored, SMALL))
    return build_shop(
        tmp_path_factory.mktemp("hostile") / "ledger.sqlite",
        asked,
        judged=10,
        guideline=everything,
        name="<img src=x onerror=alert(1)>\u202e</title><script>alert(2)</script>",
    )


def say_hostile_things(served: Served, shop: Shop) -> None:
    """Comments, flags and rewritten answers, as the API would store them."""
    with served.site.ledger.writing() as connection:
        project = projects.find_project(connection, shop.project)
        found = accounts.by_login(connection, "rater")
        assert project is not None and found is not None
        rater, now = queue.find_rater(connection, found[0].annotator_id), utc_now()
        leased = queue.lease(
            connection, rater, project.guideline_id, now, limit=len(SMALL), seconds=900, seed=1,
            project=project.id,
        )  # fmt: skip
        for each, text in zip(leased, SMALL, strict=False):
            beside = Beside(comment=stored(text), flags=((), (stored(text)[:40],)), edit=(0, stored(text)))
            answers.record(
                connection, each.id, 1, beside, seconds=1.0, idempotency_key=each.id, revises=None, now=now
            )


@pytest.fixture
def browse_hostile(chromium: Browser, hostile_shop: Shop, tmp_path: Path) -> object:
    with browsers(chromium, hostile_shop, tmp_path) as browse:
        yield browse


def test_hostile_text_does_nothing_on_any_page(browse_hostile: Browse) -> None:
    manager = browse_hostile("maria")
    manager.tolerate("404")
    say_hostile_things(manager.served, manager.shop)
    page = manager.open("/login")
    for path in every_path(manager):
        reply = page.goto(manager.served.url + path)
        assert reply is not None and reply.headers["content-security-policy"] == CSP
        assert (
            page.locator("main img, main iframe, main object, main script:not([type]), main base").count()
            == 0
        )
    policy = CSP.split("; ")
    assert "default-src 'none'" in policy and not any("unsafe" in part or "*" in part for part in policy)


def test_hostile_questions_are_judged_like_others(browse_hostile: Browse) -> None:
    rater = browse_hostile("rater")
    page = rater.judge()
    for number in range(1, len(SMALL) - 9):
        expect(page.locator("body")).to_have_attribute("data-number", str(number))
        assert page.locator("#question :is(img, a, script, iframe, form, input[autofocus])").count() == 0
        page.keyboard.press("4")
        page.keyboard.press("Enter")
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")
    assert len(rater.judgements()) == len(SMALL) - 10
