"""A manager's way through the app in a real browser, from the first link to the export."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from web.browser_world import PASSWORD, Browse, Shop, Visitor, browsers

pytest_plugins = ("web.browser_fixtures",)


def fill(page: Page, **fields: str) -> None:
    for name, text in fields.items():
        page.locator(f'main [name="{name}"]').fill(text)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def rows_file(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "chosen": f"{2 * i}", "rejected": "No idea."} for i in range(4)]
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines, '{"prompt": "Nothing else"}']) + "\n")
    return path


def test_from_the_first_link_to_the_export(chromium: object, tmp_path: Path) -> None:
    """Set up, make a project, import, invite; the rater joins and judges; watch, release, export."""
    from accord.ledger import Ledger

    with Ledger.open(tmp_path / "empty.sqlite"):
        pass
    (tmp_path / "served").mkdir()
    shop = Shop(tmp_path / "empty.sqlite", "", {})
    with browsers(chromium, shop, tmp_path / "served") as browse:  # type: ignore[arg-type]
        maria, ines = browse(), browse()
        page = set_up(maria)
        make_project(page, tmp_path)
        join_and_judge(ines, invite(page))
        watch_and_export(page)
        ledger = maria.served.site.ledger
        assert [(j.rater_kind, abs(j.strength)) for j in ledger.judgements()] == 4 * [("human", 3)]
        assert ledger.verify().ok


def set_up(maria: Visitor) -> Page:
    page = maria.open(maria.served.set_up.removeprefix(maria.served.url))
    fill(page, login="maria", password=PASSWORD)
    press(page, "Make the account")
    expect(page.get_by_role("heading", name="New project")).to_be_visible()
    return page


def make_project(page: Page, folder: Path) -> None:
    fill(page, name="Sums", guideline="Which answer is **right**?")
    press(page, "Make the project")
    page.wait_for_url("**/data")
    page.locator("#file").set_input_files(rows_file(folder))
    press(page, "Bring in")
    report = page.locator("[data-report]")
    expect(report).to_contain_text("4 added, 0 known already, 1 could not be used")
    expect(report).to_contain_text("line 5")
    expect(page.get_by_text("4 questions wait")).to_be_visible()  # without a reload


def invite(page: Page) -> str:
    page.get_by_role("link", name="People").click()
    press(page, "Make a link")
    link = page.get_by_role("textbox", name="Invitation link")
    expect(link).to_have_value(re.compile("/invite/"))
    expect(page.get_by_text("open", exact=True)).to_be_visible()
    return link.input_value()


def join_and_judge(ines: Visitor, link: str) -> None:
    page = ines.open(link.removeprefix(ines.served.url))
    expect(page.get_by_role("heading", name="Join Sums")).to_be_visible()
    fill(page, login="ines", password=PASSWORD)
    press(page, "Join")
    page.wait_for_url("**/judge")
    page.keyboard.press("Escape")
    for number in range(1, 5):
        expect(page.locator("body")).to_have_attribute("data-number", str(number))
        right = re.fullmatch(r"\d+", page.locator("#answer-0").inner_text()) is not None
        page.keyboard.press("1" if right else "7")
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="That is all for now")).to_be_visible()
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")
    page.get_by_role("link", name="My answers").click()
    expect(page.locator("tbody tr")).to_have_count(4)


def watch_and_export(page: Page) -> None:
    page.get_by_role("link", name="Quality").click()
    expect(page.get_by_role("img", name="How often each strength was chosen")).to_be_visible()
    page.get_by_role("link", name="Judgements").click()
    expect(page.locator("tbody tr")).to_have_count(4)
    page.locator("tbody a").first.click()
    expect(page.get_by_text("preferred")).to_be_visible()
    page.get_by_role("link", name="Data").click()
    fill(page, name="first")
    press(page, "Make a release")
    expect(page.get_by_role("rowheader", name="first")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Preferences for training").click()
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert len(rows) == 4
    assert all("No idea." in json.dumps(row["rejected"]) for row in rows)


def test_a_wrong_password_is_told_and_a_right_one_leads_back(browse: Browse) -> None:
    somebody = browse()
    somebody.tolerate("401")
    page = somebody.in_project("mine")
    fill(page, login="ines", password="not the password")
    press(page, "Sign in")
    expect(page.get_by_role("alert")).to_be_visible()
    fill(page, password=PASSWORD)
    press(page, "Sign in")
    page.wait_for_url("**/mine")
    press(page, "Sign out")
    page.wait_for_url("**/login")


def test_a_pause_reaches_the_raters(browse: Browse) -> None:
    manager, rater = browse("maria"), browse("rater")
    page = manager.in_project("settings")
    press(page, "Pause")
    expect(page.get_by_text("The project is paused.")).to_be_visible()
    judging = rater.in_project("judge")
    expect(judging.get_by_role("heading", name="The project is paused")).to_be_visible()
    press(page, "Go on")
    expect(page.get_by_text("Raters are being asked.")).to_be_visible()
    judging.reload()
    expect(judging.locator("#question")).to_be_visible()


def test_a_new_guideline_is_shown_to_raters_and_dated(browse: Browse) -> None:
    manager, rater = browse("maria"), browse("rater")
    page = manager.in_project("guideline")
    fill(page, text="# Take care\n\nThe **shorter** answer.")
    press(page, "Publish version 2")
    expect(page.get_by_text("version 2", exact=True)).to_be_visible()
    expect(page.locator("article strong")).to_have_text("shorter")
    judging = rater.in_project("judge")
    expect(judging.locator("#guideline-new")).to_be_visible()
    expect(judging.locator("#guideline")).to_contain_text("Take care")
    judging.keyboard.press("Escape")
    judging.reload()
    expect(judging.locator("#question")).to_be_visible()
    expect(judging.locator("#guideline")).to_be_hidden()  # read once is enough


def test_the_form_of_the_project_is_what_raters_see(browse: Browse) -> None:
    manager, rater = browse("maria"), browse("rater")
    page = manager.in_project("settings")
    fill(page, flags="made up, too long", attributes="")
    page.get_by_role("checkbox", name="A better answer").uncheck()
    page.get_by_role("button", name="Save").nth(1).click()
    expect(page.get_by_text("Saved")).to_be_visible()
    judging = rater.judge()
    judging.keyboard.press("m")
    expect(judging.get_by_role("checkbox", name="too long")).to_have_count(2)
    expect(judging.locator("#edit")).to_have_count(0)
    expect(judging.locator("[data-attribute]")).to_have_count(0)


def test_roles_are_given_and_taken_and_links_revoked(browse: Browse) -> None:
    manager = browse("maria")
    page = manager.in_project("people")
    page.get_by_role("combobox", name="Role of ines").select_option("viewer")
    press(page, "Change the role of ines")
    expect(page.get_by_role("combobox", name="Role of ines")).to_have_value("viewer")
    press(page, "Remove jonas")
    press(page, "Yes")
    expect(page.get_by_role("rowheader", name="jonas")).to_have_count(0)
    press(page, "Make a link")
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()


def test_a_token_is_shown_once_and_ended(browse: Browse) -> None:
    page = browse("maria").open("/account")
    page.locator("#token-name").fill("nightly export")
    page.locator("#token-password").fill(PASSWORD)
    press(page, "Make a token")
    expect(page.get_by_role("textbox", name="Token")).to_have_value(re.compile(".{20}"))
    page.reload()
    expect(page.get_by_role("textbox", name="Token")).to_have_count(0)
    press(page, "End the token nightly export")
    expect(page.get_by_text("You have none.")).to_be_visible()
