"""Text that a model or a person wrote, as HTML that can do nothing and hides nothing.

Everything shown in the app passes through here; all of it is taken to be hostile. The result has no link,
no image, no attribute but those in `_ATTRIBUTES`, so that nothing loads, nothing runs and nobody learns
that a rater looked. Addresses are shown as text.

It also shows what was written: a rater must not judge a text that reads differently from what the model
said. Characters that cannot be seen, or that reorder others, are shown as their code. And where Markdown
would swallow or change a letter or a digit (link definitions, cells beyond a table's last column,
quotations nested too deep, entities), the text is shown as it stands instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

from accord.ledger.media import SCHEME

RENDER_VERSION = "1"  # raise it when the same text would look different

LONGEST = 200_000  # characters shown; a note says how many more there are
LONGEST_MARKDOWN = (
    20_000  # longer texts are shown as they stand: parsing takes time that grows faster than they
)
MOST_TOKENS = 5_000
MOST_MARKS = 4  # combining marks on one character; Vietnamese needs 2, Tibetan and Biblical Hebrew 4

_BLANK = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters that look like nothing
_TAGS = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong"),
    *("s", "table", "thead", "tbody", "tr", "th", "td", "div", "span"),
}
_ATTRIBUTES = {"ol": {"start"}, "li": {"value"}, "div": {"tabindex"}, "pre": {"tabindex"}}
_DIRECTED = ("p", "h3", "h4", "h5", "h6", "li", "blockquote", "th", "td")
_CLASSES = {"span": {"link", "address", "language"}, "div": {"scroll"}}
_MEDIA_ATTRIBUTES = {
    "img": {"src", "alt", "loading"},
    "audio": {"src", "controls", "preload", "aria-label"},
    "video": {"src", "controls", "preload", "aria-label", "playsinline"},
}
_MEDIA_CLASSES = {"span": {*_CLASSES["span"], "medium", "caption"}, "div": _CLASSES["div"]}
_MEDIUM = re.compile(rf"!\[([^\]\n]*)\]\(({SCHEME}[0-9a-f]{{64}})\)")


@dataclass(frozen=True)
class Media:
    """What may be shown where a text names it: types by hash. `base` is the address that they stand under."""

    base: str = ""
    types: tuple[tuple[str, str], ...] = ()

    def find(self, address: str) -> tuple[str, str] | None:
        """The hash and type of what an image's address names."""
        named = address.removeprefix(SCHEME) if address.startswith(SCHEME) else ""
        return next((pair for pair in self.types if pair[0] == named), None)


NO_MEDIA = Media()


def render_text(text: str, *, wrapped: bool = False, media: Media = NO_MEDIA) -> Markup:
    """`text` as safe HTML: Markdown where that shows every letter of it, otherwise just as it stands.

    Line ends inside a paragraph are kept, unless the text is `wrapped` (a guideline from somebody's editor).
    Of images, sound and video those of `media` are shown, and no other.
    """
    shown = visible(text)
    tokens = parse(shown) if len(shown) <= LONGEST_MARKDOWN else None
    if tokens is None:
        return Markup('<div class="text plain" dir="auto">{}</div>').format(_with_media(shown, media))
    attributes = _ATTRIBUTES | _MEDIA_ATTRIBUTES if media.types else _ATTRIBUTES
    html = nh3.clean(
        _MARKDOWN.renderer.render(tokens, _WRAPPED if wrapped else _MARKDOWN.options, {"media": media}),
        tags=_TAGS | set(_MEDIA_ATTRIBUTES) if media.types else _TAGS,
        attributes={tag: set(names) for tag, names in attributes.items()},
        allowed_classes={
            tag: set(names) for tag, names in (_MEDIA_CLASSES if media.types else _CLASSES).items()
        },
        set_tag_attribute_values={tag: {"dir": "auto"} for tag in _DIRECTED},
        url_schemes=set(),
        link_rel=None,
    )
    # A second time: unescaping inside Markdown may have made characters that the first pass would have shown.
    return Markup('<div class="text" dir="auto">' + visible(html, longest=len(html)) + "</div>")


def visible(text: str, *, longest: int = LONGEST) -> str:
    """`text` with every character that cannot be seen or reorders others shown as its code, cut at `longest`.

    A single joiner or variation selector after a letter outside ASCII stays: Persian, Hindi, emoji need it.
    """
    cut = (
        text[:longest]
        .replace("\r\n", "\n")
        .replace("\r", "\n")
        .replace("\u2028", "\n")
        .replace("\u2029", "\n")
    )
    if not cut.isascii() or not cut.isprintable():
        cut = "".join(visible_characters(cut))
    return cut if len(text) <= longest else f"{cut} … [{len(text) - longest} more characters]"


def visible_characters(text: str) -> Iterator[str]:
    before, marks = "", 0
    for c in text:
        kind = unicodedata.category(c)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        hidden = (
            (_is_joiner(c) and (before.isascii() or _is_joiner(before)))
            or (not _is_joiner(c) and kind in ("Cc", "Cf", "Co", "Cs") and c not in "\n\t")
            or (kind == "Cn" and (ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF))
            or c in _BLANK
            or marks > MOST_MARKS
        )
        yield f"⟨U+{ord(c):04X}⟩" if hidden else c
        before = c


def _is_joiner(c: str) -> bool:
    return c in ("\u200c", "\u200d") or "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef"


# ----------------------------------------------------------------------------------------- Markdown


def parse(text: str) -> list[Token] | None:
    """Tokens of `text`, or None where they would not show every letter and digit of it in order."""
    tokens = _MARKDOWN.parse(text)
    flat = [t for token in tokens for t in (token, *(token.children or ()))]
    if len(flat) > MOST_TOKENS or _alphanumeric("".join(map(written, flat))) != _alphanumeric(text):
        return None
    return tokens


def _alphanumeric(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def written(token: Token) -> str:
    """What the rendered token lets a reader see, in the order of the source."""
    match token.type:
        case "text" | "code_inline" | "code_block":
            return token.content
        case "fence":
            return f"{token.info} {token.content}"
        case "image":
            return f"{token.content} {_address(token)}"
        case "link_close" if token.meta:
            return str(token.meta["address"])
        case "list_item_open":
            return token.info
    return ""


def _address(token: Token) -> str:
    target = token.attrs.get("src") or token.attrs.get("href") or ""
    title = token.attrs.get("title")
    return f"{target} “{title}”" if title else str(target)


def _carry_addresses(state: Any) -> None:
    """Give each link's closing token the address, so that it can be shown behind the link's words."""
    for block in state.tokens:
        opened: list[Token] = []
        for token in block.children or ():
            if token.type == "link_open":
                opened.append(token)
            elif token.type == "link_close":
                start = opened.pop()
                if start.info != "auto":  # <https://…> shows its address already
                    token.meta = {"address": _address(start)}


def _render_link_open(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    return '<span class="link">'


def _render_link_close(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    address = tokens[i].meta.get("address", "")
    return f'</span> <span class="address">({escape(address)})</span>' if address else "</span>"


def _render_image(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    media: Media = env.get("media", NO_MEDIA)
    if (medium := media.find(_address(tokens[i]))) is not None:
        return _medium_html(media.base, medium, tokens[i].content)
    return f'<span class="address">[image: {escape(tokens[i].content)} {escape(_address(tokens[i]))}]</span>'


def _medium_html(base: str, medium: tuple[str, str], words: str) -> Markup:
    """Nothing plays by itself. The words are shown too, because they are a part of the text."""
    attributes = {
        "image": Markup('img alt="{}" loading="lazy"').format(words),
        "audio": Markup('audio controls preload="metadata" aria-label="{}"').format(words),
        "video": Markup('video controls playsinline preload="metadata" aria-label="{}"').format(words),
    }
    id_, type_ = medium
    kind = type_.partition("/")[0]
    end = "" if kind == "image" else Markup("</{}>").format(kind)
    return Markup('<span class="medium"><{} src="{}">{}<span class="caption">{}</span></span>').format(
        attributes[kind], f"{base}{id_}", end, words
    )


def _with_media(text: str, media: Media) -> Markup:
    """A text as it stands, but with its media."""
    pieces, at = [], 0
    for found in _MEDIUM.finditer(text) if media.types else ():
        if (medium := media.find(found[2])) is not None:
            pieces += [escape(text[at : found.start()]), _medium_html(media.base, medium, found[1])]
            at = found.end()
    return Markup("").join([*pieces, escape(text[at:])])


def is_shown(token: Token, media: Media) -> bool:
    """Whether a medium stands where this token's address would."""
    return token.type == "image" and media.find(_address(token)) is not None


def _render_fence(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    info = tokens[i].info.strip()
    language = f'<span class="language">{escape(info)}</span>' if info else ""
    return f'{language}<pre tabindex="0"><code>{escape(tokens[i].content)}</code></pre>\n'


def _render_heading(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    """Two levels down, so that a model's headings stay below those of the page."""
    level = min(int(tokens[i].tag[1]) + 2, 6)
    return f"<{'/' if tokens[i].nesting < 0 else ''}h{level}>"


def _render_item_open(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    """With the number that was written: browsers would count 1, 2, 3 whatever the model said."""
    number = tokens[i].info
    return f'<li value="{int(number)}">' if number.isdecimal() and len(number) <= 9 else "<li>"


def _render_table_open(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    return '<div class="scroll" tabindex="0"><table>'


def _render_table_close(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any
) -> str:
    return "</table></div>"


def _markdown(*, breaks: bool = True) -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": breaks, "linkify": False})
    markdown.enable(["table", "strikethrough"])
    # These hide what was written (a backslash is part of \\(x\\)); entities could also bring back characters
    # that were made visible.
    markdown.disable(["reference", "entity", "escape", "html_block", "html_inline"])
    markdown.normalizeLink = lambda url: url  # type: ignore[method-assign]
    markdown.core.ruler.push("carry_addresses", _carry_addresses)
    for name, rule in (
        ("link_open", _render_link_open),
        ("link_close", _render_link_close),
        ("image", _render_image),
        ("fence", _render_fence),
        ("code_block", _render_fence),
        ("heading_open", _render_heading),
        ("heading_close", _render_heading),
        ("list_item_open", _render_item_open),
        ("table_open", _render_table_open),
        ("table_close", _render_table_close),
    ):
        markdown.add_render_rule(name, rule)
    return markdown


_MARKDOWN = _markdown()
_WRAPPED = _markdown(breaks=False).options
