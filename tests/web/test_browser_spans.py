"""Marking passages in a real browser: with the mouse, by keyboard alone, with a finger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from accord.ledger import answers, store
from accord.ledger.answers import Beside
from accord.records import Prompt
from accord.web.render import render_text
from accord.web.transcript import transcript
from web import hostile
from web.browser_world import Browse, Visitor, browsers, build_shop, question
from web.ranking_world import build_ranked_shop

pytest_plugins = ("web.browser_fixtures",)

GOOD = "It has GPS. The **Halden** lasts nine days!\n\n1. First it rings.\n2. Then it stops."
BAD = "It has GPS. It has GPS. Everybody loves it."


def asked_alone(chromium: Browser, folder: Path) -> Any:
    """One question, with the two answers above."""
    (folder / "served").mkdir()
    return browsers(
        chromium,
        build_shop(folder / "ledger.sqlite", [question(Prompt.of("Which one?"), GOOD, BAD)], judged=0),
        folder / "served",
    )


def all_saved(page: Page) -> None:
    expect(page.locator("body")).to_have_attribute("data-unsent", "0")


def said_by(visitor: Visitor) -> dict[str, Beside]:
    """By the text of the answer at the left, what `rater` said beside her newest judgement."""
    judged = visitor.judgements()[-1]
    with visitor.served.site.ledger.reading() as connection:
        parts = answers.read_answers(connection, [judged.id]).get(judged.id, [])
        texts = store.read_completions(connection, judged.completion_ids)
    by_slot = answers.from_parts(parts, range(2))
    return {texts[c].text: Beside(spans=tuple(s for s in by_slot.spans if s.position == slot))
            for slot, c in enumerate(judged.completion_ids)}  # fmt: skip


def marked(visitor: Visitor) -> set[tuple[str, str, str]]:
    """(label, the words in the text, note) of what was stored last."""
    return {
        (span.label, text[span.start : span.end], span.note)
        for text, said in said_by(visitor).items()
        for span in said.spans
    }


def go_to(page: Page, words: str) -> None:
    """Press the right arrow until the passage with these words is chosen."""
    for _ in range(20):
        if words in page.locator("#marker-quote").inner_text():
            return
        page.keyboard.press("ArrowRight")
    raise AssertionError(f"{words} is never chosen: {page.locator('#marker-quote').inner_text()}")


def select(page: Page, words: str) -> None:
    """Drag the mouse over the first occurrence of the words."""
    box = page.evaluate(
        """(words) => {
            for (const root of document.querySelectorAll(".answer .body")) {
                const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
                while (walker.nextNode()) {
                    const at = walker.currentNode.data.indexOf(words);
                    if (at < 0) continue;
                    const range = document.createRange();
                    range.setStart(walker.currentNode, at);
                    range.setEnd(walker.currentNode, at + words.length);
                    const { left, right, top, height } = range.getBoundingClientRect();
                    return { left, right, y: top + height / 2 };
                }
            }
        }""",
        words,
    )
    page.mouse.move(box["left"] + 0.5, box["y"])
    page.mouse.down()
    page.mouse.move(box["right"] - 0.5, box["y"], steps=4)
    page.mouse.up()


def test_passages_are_marked_by_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    with asked_alone(chromium, tmp_path) as browse:
        rater = browse("rater")
        page = rater.judge()
        page.keyboard.press("h")
        expect(page.locator("#marker")).to_be_focused()
        expect(page.locator("#marker-quote")).to_contain_text("It has GPS.")
        go_to(page, "Everybody loves it.")
        page.keyboard.press("b")
        expect(page.locator(".answer mark.bad")).to_have_text("Everybody loves it.")
        page.keyboard.press("n")
        page.keyboard.type("Who says so?")
        page.keyboard.press("Enter")
        expect(page.locator("#marker")).to_be_focused()
        for _ in range(20):  # back to the first sentence, and on to the other answer
            page.keyboard.press("ArrowLeft")
        go_to(page, "First it rings")
        page.keyboard.press("Shift+ArrowRight")  # over the end of the list's entry
        page.keyboard.press("g")
        page.keyboard.press("w")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("b")
        page.keyboard.press("Delete")  # not that
        page.keyboard.press("Escape")
        expect(page.locator("#title")).to_be_focused()
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        all_saved(page)
        assert marked(rater) == {
            ("bad", "Everybody loves it.", "Who says so?"),
            ("good", "First it rings.\n2. Then it stops.", ""),
        }
        # undo brings the marks back; one is removed, the other changes its label
        page.keyboard.press("u")
        expect(page.locator(".answer mark.bad")).to_have_text("Everybody loves it.")
        expect(page.get_by_label("Note on the bad passage")).to_have_value("Who says so?")
        page.get_by_role("button", name="Remove the mark on “First it rings").press("Enter")
        page.keyboard.press("h")
        go_to(page, "Everybody")
        page.keyboard.press("g")
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        all_saved(page)
        assert marked(rater) == {("good", "Everybody loves it.", "Who says so?")}


def test_words_selected_with_the_mouse_are_marked_where_they_stand(chromium: Browser, tmp_path: Path) -> None:
    with asked_alone(chromium, tmp_path) as browse:
        rater = browse("rater")
        page = rater.judge()
        expect(page.locator("#marker")).to_be_hidden()
        select(page, "Halden")
        page.get_by_role("button", name="Good", exact=True).click()
        expect(page.locator(".answer mark.good")).to_have_text("Halden")
        select(page, "loves")
        expect(page.locator("#marker-quote")).to_contain_text("“loves”")
        page.get_by_role("button", name="Bad", exact=True).click()
        page.get_by_role("button", name="Done").click()
        expect(page.locator("#marker")).to_be_hidden()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        all_saved(page)
        assert marked(rater) == {("good", "Halden", ""), ("bad", "loves", "")}


def test_the_second_of_two_like_passages_is_told_from_the_first(chromium: Browser, tmp_path: Path) -> None:
    with asked_alone(chromium, tmp_path) as browse:
        rater = browse("rater")
        page = rater.judge()
        position = 0 if "Everybody" in page.locator("#answer-0").inner_text() else 1
        page.evaluate(
            """(position) => {
                const node = document.querySelector(`#answer-${position} p`).firstChild;
                getSelection().setBaseAndExtent(node, 12, node, 23);
            }""",
            position,
        )
        page.keyboard.press("h")
        page.keyboard.press("b")
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        all_saved(page)
        (span,) = said_by(rater)[BAD].spans
        assert (span.start, span.end) == (12, 23)


def test_a_selection_that_leaves_an_answer_is_cut_at_its_end(chromium: Browser, tmp_path: Path) -> None:
    with asked_alone(chromium, tmp_path) as browse:
        page = browse("rater").judge()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#answer-0'))")
        page.evaluate(
            """() => {
                const node = document.querySelector('#answer-0 p').firstChild;
                getSelection().setBaseAndExtent(node, 3, document.querySelector('#submit'), 0);
            }"""
        )
        expect(page.locator("#marker-quote")).to_contain_text("Answer A: “has GPS.")
        assert "Submit" not in page.locator("#marker-quote").inner_text()
        assert "Answer B" not in page.locator("#marker-quote").inner_text()


def test_with_a_finger(chromium: Browser, tmp_path: Path) -> None:
    with asked_alone(chromium, tmp_path) as browse:
        rater = browse("rater", viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
        page = rater.judge()
        page.evaluate(
            """() => {
                const node = document.querySelector('#answer-0 p').firstChild;
                getSelection().setBaseAndExtent(node, 0, node, 11);
            }"""
        )
        page.get_by_role("button", name="Bad").tap()
        expect(page.locator(".answer mark.bad")).to_have_text("It has GPS.")
        page.locator(".step.a").first.tap()
        page.locator("#submit").tap()
        all_saved(page)
        assert marked(rater) == {("bad", "It has GPS.", "")}


def test_the_page_reads_as_the_server_thinks_it_does(browse: Browse) -> None:
    """Passages are counted in the page's text: it must be the same, letter by letter, on both sides."""
    page = browse("rater").judge()
    for text in [*hostile.SMALL, GOOD, BAD]:
        found = page.evaluate(
            """async (html) => {
                const { setHtml } = await import("/static/core.js");
                const holder = document.createElement("div");
                setHtml(holder, html);
                return holder.textContent;
            }""",
            str(render_text(text)),
        )
        assert found == transcript(text).shown


def test_drafts_keep_their_marks(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    asked = [question(Prompt.of(f"Question {i}?"), GOOD, BAD) for i in range(2)]
    shop = build_shop(tmp_path / "ledger.sqlite", asked, judged=0)
    with browsers(chromium, shop, tmp_path / "served") as browse:
        page = browse("rater").judge()
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        expect(page.locator("body")).to_have_attribute("data-number", "2")
        page.keyboard.press("h")
        page.keyboard.press("g")
        page.keyboard.press("Escape")
        expect(page.locator(".answer mark.good")).to_have_count(1)
        page.keyboard.press("u")
        expect(page.locator("body")).to_have_attribute("data-number", "3")
        expect(page.locator(".answer mark")).to_have_count(0)
        page.keyboard.press("Escape")
        expect(page.locator(".answer mark.good")).to_have_text("It has GPS.")


def test_passages_of_a_ranking_are_marked_too(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with browsers(chromium, build_ranked_shop(tmp_path / "ledger.sqlite"), tmp_path / "served") as browse:
        rater = browse("rater")
        page = rater.judge()
        page.keyboard.press("h")
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("b")
        marked_text = page.locator("#answer-3 mark.bad").inner_text()
        expect(page.locator("#marker-quote")).to_contain_text("Answer D")
        page.keyboard.press("Escape")
        page.keyboard.press("3")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        all_saved(page)
        judged = rater.judgements()[-1]
        with rater.served.site.ledger.reading() as connection:
            parts = answers.read_answers(connection, [judged.id])[judged.id]
            texts = store.read_completions(connection, judged.completion_ids)
        (span,) = answers.from_parts(parts, range(4)).spans
        text = texts[judged.completion_ids[span.position]].text
        assert text[span.start : span.end] == marked_text and judged.shown[3] == span.position


def test_marking_is_accessible(chromium: Browser, tmp_path: Path) -> None:
    with asked_alone(chromium, tmp_path) as browse:
        page = browse("rater").judge()
        found = []
        for keys in ((), ("h", "g"), ("ArrowRight", "b", "n")):
            for key in keys:
                page.keyboard.press(key)
            violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            found += [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in violations]
        assert found == []
