"""Withdrawals and groups in a real browser: what people read before they decide, and what follows."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from accord.ledger import groups
from web.browser_world import PASSWORD, RATERS, Browse, Visitor

pytest_plugins = ("web.browser_fixtures",)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def no_complaints(page: Page) -> None:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def pseudonym(visitor: Visitor) -> str:
    return visitor.open("/account/withdraw").locator("main .mono").first.inner_text()


def test_somebody_withdraws_and_the_release_is_rebuilt(browse: Browse) -> None:
    manager, rater = browse("maria"), browse("ines", viewport={"width": 390, "height": 844})
    page = manager.in_project("data")
    page.locator('main [name="name"]').fill("spring")
    press(page, "Make a release")
    expect(page.get_by_role("rowheader", name="spring")).to_be_visible()
    manager.served.site.ledger.record_training("shop-reward-1", "spring")
    rows = len(manager.served.site.ledger.release_judgements("spring"))
    name = pseudonym(rater)
    leaving = rater.open("/account")
    leaving.get_by_role("link", name="What each of these means for you").click()
    expect(leaving.get_by_role("heading", name="Take back what you gave")).to_be_visible()
    everything = leaving.get_by_role("radio", name="Who I am, what I wrote, and all that I judged")
    expect(leaving.locator("#means-all")).to_contain_text("20 answers no longer count")
    expect(leaving.locator("#means-all")).to_contain_text("spring")
    expect(leaving.locator("#means-all")).to_contain_text("shop-reward-1")
    no_complaints(leaving)
    everything.check()
    leaving.locator('main [name="password"]').fill(PASSWORD)
    press(leaving, "Withdraw")
    press(leaving, "Yes")
    leaving.wait_for_url("**/login")
    page.goto(manager.served.url + f"/projects/{manager.shop.project}/withdrawals")
    expect(page.get_by_text(f"20 of its {rows} rows were taken back")).to_be_visible()
    expect(page.get_by_role("rowheader", name=name)).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("ines")
    no_complaints(page)
    press(page, "Make it without them")
    expect(
        page.get_by_text("Every release with answers that were taken back has a successor")
    ).to_be_visible()
    expect(page.get_by_text("spring-rebuilt").first).to_be_visible()
    assert len(manager.served.site.ledger.release_judgements("spring-rebuilt")) == rows - 20
    assert manager.served.site.ledger.verify().problems == ()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_rater_tells_changes_and_takes_back(browse: Browse, scheme: str) -> None:
    manager = browse("maria", color_scheme=scheme)
    asking = manager.in_project("groups")
    for name, choices in (("first language", "Arabic, German, Turkish"), ("region", "north, south")):
        asking.locator('main [name="name"]').fill(name)
        asking.locator('main [name="choices"]').fill(choices)
        with asking.expect_navigation():
            press(asking, "Ask it")
        expect(asking.locator("#asked")).to_contain_text(name)
    no_complaints(asking)
    rater = browse("ines", color_scheme=scheme)
    page = rater.open("/account")
    page.get_by_role("link", name="About me, in Shop assistant").click()
    for line in groups.STATEMENT:
        expect(page.get_by_text(line)).to_be_visible()
    page.get_by_label("first language").select_option("Turkish")
    consent = page.get_by_role("checkbox")
    expect(consent).not_to_be_checked()
    press(page, "Tell it")
    assert told(rater) == set(), "without the tick nothing is sent"
    consent.check()
    press(page, "Tell it")
    expect(page.get_by_role("button", name="Change it")).to_be_visible()
    assert told(rater) == {"Turkish"}
    page.get_by_label("first language").select_option("Arabic")
    with page.expect_navigation():  # it loads again, with what is kept
        press(page, "Change it")
    expect(page.get_by_text("Kept", exact=True)).to_be_visible()
    expect(page.get_by_label("first language")).to_have_value("Arabic")
    no_complaints(page)
    press(page, "Take it back, and erase what I told")
    press(page, "Yes")
    expect(page.get_by_role("button", name="Tell it")).to_be_visible()
    expect(page.get_by_label("first language")).to_have_value("")
    assert told(rater) == set()
    by_group = manager.in_project("quality").get_by_role("heading", name="By group")
    expect(by_group).to_be_visible(timeout=60_000)  # the page looks again by itself


def told(visitor: Visitor) -> set[str]:
    """What anybody has told."""
    from sqlalchemy import select

    from accord.ledger.team_schema import attribute_value

    with visitor.served.site.ledger.reading() as connection:
        return {value for value in connection.execute(select(attribute_value.c.value)).scalars() if value}


def test_less_than_five_people_have_no_figures_on_the_page(browse: Browse) -> None:
    """All four raters of the shop tell the same: they are still too few."""
    from accord.ledger import accounts
    from accord.ledger.database import utc_now

    manager = browse("maria")
    with manager.served.site.ledger.writing() as connection:
        asked = groups.add_attribute(
            connection, manager.shop.project, "region", ["north", "south"], utc_now()
        )
        for who in RATERS:
            found = accounts.by_login(connection, who)
            assert found is not None
            groups.tell(connection, manager.shop.project, found[0].annotator_id, {asked: "north"}, utc_now())
    from accord.web.quality import quality_of

    quality_of(manager.served.site.ledger, manager.shop.project, patience=60)
    page = manager.in_project("quality")
    expect(page.get_by_text("No group is shown yet: north, south")).to_be_visible()
