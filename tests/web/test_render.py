from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accord.web.render import LONGEST, LONGEST_MARKDOWN, MOST_MARKS, render_text, visible
from web import hostile

TAGS = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong"),
    *("s", "table", "thead", "tbody", "tr", "th", "td", "div", "span"),
}
VOID = {"br", "hr"}
ATTRIBUTES = {
    ("dir", "auto"),
    ("tabindex", "0"),
    ("class", "text"),
    ("class", "text plain"),
    ("class", "scroll"),
    ("class", "link"),
    ("class", "address"),
    ("class", "language"),
}
UNSEEN = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


class Page(HTMLParser):
    """Collects what a browser would make of a fragment; complains about what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def assert_only_listed(text: str) -> str:
    """Its HTML holds nothing that is not on the lists above; returns what a reader sees of it."""
    page = Page(render_text(text))
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag in TAGS, tag
        for name, value in attributes:
            number = (tag, name) in {("ol", "start"), ("li", "value")} and re.fullmatch(
                r"\d{1,9}", value or ""
            )
            assert number or (name, value) in ATTRIBUTES, (tag, name, value)
    seen = "".join(page.text)
    assert not UNSEEN.search(seen), UNSEEN.findall(seen)
    return seen


read = assert_only_listed  # where what is seen is asserted too


def letters(text: str) -> str:
    return "".join(c for c in text if c.isalnum())


@pytest.mark.parametrize("text", hostile.EVERYTHING, ids=range(len(hostile.EVERYTHING)))
def test_only_listed_tags_and_attributes_come_out_of_hostile_text(text: str) -> None:
    assert_only_listed(text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*hostile.SMALL, "\n", "\n\n", "> ", "- ", "    ", "|", "**", "`", "\\"]), max_size=6
    )
)
def test_nor_out_of_hostile_texts_put_together(parts: list[str]) -> None:
    assert_only_listed("".join(parts))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_nor_out_of_any_text(text: str) -> None:
    assert_only_listed(text)


PIECES = [
    *(
        "word1",
        "zwei2",
        "trois",
        "٣ثلاثة",
        "四",
        " ",
        "\n",
        "\n\n",
        "    ",
        "> ",
        "- ",
        "1. ",
        "7) ",
        "# ",
        "|",
        "|-|",
    ),
    *(
        "*",
        "**",
        "_",
        "~~",
        "`",
        "```",
        "[",
        "](",
        ")",
        "!",
        "<",
        ">",
        "&amp;",
        "&#65;",
        '"',
        "\\",
        ": ",
        "---",
        "===",
    ),
    *("http://h.example/p?q=1", "[d]: ", "<!--", "-->", "<b>"),
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("[d]: http://h.example 'title'\nword")
@example("|a|\n|-|\n|one|swallowed|\n")
@example(">" * 60 + " deep")
@example("```info string\ncode\n```")
@example("[a](http://h.example 'title') ![b](http://h.example 'title')")
@example("&#65;&copy;")
def test_every_letter_and_digit_is_shown_in_order(text: str) -> None:
    """Except the numbers of list items, which the browser draws from `value`, and nothing is added."""
    page = Page(render_text(text))
    shown = letters("".join(page.text)).replace("image", "")
    numbers = sorted(
        v or "" for tag, attributes in page.tags if tag == "li" for _, v in attributes if v != "auto"
    )
    written = letters(text)
    for number in numbers:
        written = written.replace(str(int(number)), "", 1)
        shown = shown.replace(str(int(number)), "", 1) if len(shown) > len(written) else shown
    assert sorted(shown) == sorted(written) if numbers else shown == written


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**bold** and `x < 1`", "<strong>bold</strong> and <code>x &lt; 1</code>"),
        ("# Title", '<h3 dir="auto">Title</h3>'),
        ("###### small", '<h6 dir="auto">small</h6>'),
        ("5. five\n3. three", '<li value="5" dir="auto">five</li>\n<li value="3" dir="auto">three</li>'),
        ("a\nb", "a<br>\nb"),
        (
            "```py\n1 < 2\n```",
            '<span class="language">py</span><pre tabindex="0"><code>1 &lt; 2\n</code></pre>',
        ),
        ("[here](https://e.example)", 'here</span> <span class="address">(https://e.example)</span>'),
        ("<https://e.example>", '<span class="link">https://e.example</span></p>'),
        ("![cat](https://e.example/c.png)", "[image: cat https://e.example/c.png]"),
        (r"\(x\)", r"\(x\)"),
        ("|a|\n|-|\n|1|", '<div class="scroll" tabindex="0"><table>'),
    ],
)
def test_markdown(text: str, html: str) -> None:
    assert html in render_text(text)


def test_markdown_that_would_swallow_words_is_shown_as_it_stands() -> None:
    assert read("|a|\n|-|\n|one|two|\n") == "|a|\n|-|\n|one|two|\n"
    assert read("[x]: http://h.example hidden") == "[x]: http://h.example hidden\n"
    assert read(">" * 60 + " deep") == ">" * 60 + " deep"


def test_persian_hindi_and_emoji_keep_their_joiners() -> None:
    for text in ("می\u200cخواهم", "क्\u200dष", "👩\u200d💻", "❤\ufe0f"):
        assert visible(text) == text


def test_vietnamese_and_hebrew_keep_their_marks() -> None:
    for text in ("Vie\u0323\u0302t", "בְּרֵאשִׁ֖ית"):
        assert visible(text) == text


def test_hidden_characters_are_shown_as_codes() -> None:
    assert visible("a\u202eb\x00c\u200bd") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+200B⟩d"
    assert visible("a\u200db") == "a⟨U+200D⟩b"  # no script written in ASCII needs a joiner
    assert visible("\U000e0041") == "⟨U+E0041⟩"
    assert visible("tab\tline\nend") == "tab\tline\nend"


@given(st.text())
def test_what_is_visible_is_left_alone(text: str) -> None:
    once = visible(text)
    assert visible(once) == once
    assert not UNSEEN.search(once)
    run = 0
    for c in once:
        run = run + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        assert run <= MOST_MARKS


def test_long_texts_are_cut_and_say_so() -> None:
    assert read("x" * (LONGEST + 5)) == "x" * LONGEST + " … [5 more characters]"
    assert "plain" in render_text("x" * (LONGEST_MARKDOWN + 1))
    assert "plain" not in render_text("x" * LONGEST_MARKDOWN)


def test_line_ends_are_kept_unless_an_editor_made_them() -> None:
    text = "Take care:\nread both."
    assert "<br>" in render_text(text)
    flowing = render_text(text, wrapped=True)
    assert "<br>" not in flowing and "Take care:\nread both." in flowing
