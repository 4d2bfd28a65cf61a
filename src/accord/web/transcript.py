"""Between a text and how it is shown: where each character that a reader sees stands in the text.

Markdown leaves characters out and adds some, so a passage that somebody selects on the page is not always a
part of the text. The renderer keeps every letter and digit in order, and these carry the rest.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from markdown_it.token import Token

from accord.web.render import (
    LONGEST,
    LONGEST_MARKDOWN,
    NO_MEDIA,
    Media,
    is_shown,
    parse,
    render_text,
    visible,
    visible_characters,
    written,
)

_TAG = re.compile(r"""<(?:[^">]|"[^"]*")*>""")
_CHARACTER = re.compile(r"&[a-z]+;|.", re.DOTALL)

Place = int | None


@dataclass(frozen=True)
class Transcript:
    """`shown` is the text content of the page's HTML; `source[i]` is where `shown[i]` stands in the text, or
    None for what rendering added."""

    shown: str
    source: tuple[Place, ...]


@lru_cache(maxsize=64)
def transcript(text: str, media: Media = NO_MEDIA) -> Transcript:
    shown = html.unescape(_TAG.sub("", str(render_text(text, media=media))))
    plain = visible(text)
    places: list[Place] = [*_places(text)]
    places += [None] * (len(plain) - len(places))  # the note on how many characters are left out
    tokens = parse(plain) if len(plain) <= LONGEST_MARKDOWN else None
    if tokens is None:
        return Transcript(shown, tuple(places) if shown == plain else (None,) * len(shown))
    anchors = _anchors(shown, plain, tokens, media)
    if anchors is None:
        return Transcript(shown, (None,) * len(shown))
    found = _between(shown, plain, anchors)
    return Transcript(shown, tuple(None if at is None else places[at] for at in found))


def _places(text: str) -> Iterator[int]:
    """For each character of `visible(text)`, where it stands in `text`."""
    cut = text[:LONGEST]
    kept = [i for i, c in enumerate(cut) if c != "\n" or cut[i - 1 : i] != "\r"]
    lines = "".join("\n" if cut[i] in "\r\u2028\u2029" else cut[i] for i in kept)
    for i, piece in zip(kept, visible_characters(lines), strict=True):
        yield from [i] * len(piece)


def _anchors(shown: str, plain: str, tokens: Sequence[Token], media: Media) -> list[Place] | None:
    """For each character of `shown` the letter or digit of `plain` that it is, else None; None on doubt."""
    letters = [i for i, c in enumerate(plain) if c.isalnum()]
    expected: list[Place] = []
    n = 0
    for token in (t for top in tokens for t in (top, *(top.children or ()))):
        here = letters[n : n + sum(map(str.isalnum, written(token)))]
        n += len(here)
        if token.type == "list_item_open":  # the browser writes the number, outside of the text
            continue
        if is_shown(token, media):  # of which the page has the words, and no address
            here = here[: sum(map(str.isalnum, token.content))]
        elif token.type == "image":
            expected += [None] * len("image")
        expected += here
    found = [i for i, c in enumerate(shown) if c.isalnum()]
    if len(found) != len(expected):
        return None
    anchors: list[Place] = [None] * len(shown)
    for i, at in zip(found, expected, strict=True):
        if at is not None and plain[at] != shown[i]:
            return None
        anchors[i] = at
    return anchors


def _between(shown: str, plain: str, anchors: Sequence[Place]) -> list[Place]:
    """The other characters too, each at the next like it before the next letter of the text."""
    ends: list[int] = [len(plain)] * len(shown)
    end = len(plain)
    for i in range(len(shown) - 1, -1, -1):
        ends[i] = end
        end = end if (at := anchors[i]) is None else at
    found = list(anchors)
    start = 0
    for i, c in enumerate(shown):
        if found[i] is None and (at := plain.find(c, start, ends[i])) >= 0:
            found[i] = at
        if (place := found[i]) is not None:
            start = place + 1
    return found


# Passages


def locate(text: str, quote: str, occurrence: int = 0, media: Media = NO_MEDIA) -> tuple[int, int] | None:
    """Where the given occurrence of a passage begins and ends in `text`; None when it is not there.

    The passage is as the page shows it, or else as the text has it, or else as the page shows it with other
    spaces and line ends.
    """
    seen = transcript(text, media)
    at = _find(seen.shown, quote, occurrence)
    found = None if at is None else _span(seen.source[at : at + len(quote)])
    if found is not None:
        return found
    if (at := _find(text, quote, occurrence)) is not None:
        return at, at + len(quote)
    words = " ".join(quote.split())
    starts = [
        i for i, c in enumerate(seen.shown) if not (c.isspace() and seen.shown[i + 1 : i + 2].isspace())
    ]
    loose = "".join(" " if seen.shown[i].isspace() else seen.shown[i] for i in starts)
    if (at := _find(loose, words, occurrence)) is None:
        return None
    return _span(seen.source[starts[at] : starts[at + len(words) - 1] + 1])


MOST_SEARCHED = 2_000_000  # characters compared; a passage that overlaps itself could take long to count


def _find(text: str, quote: str, occurrence: int) -> int | None:
    """Occurrences may overlap."""
    if not quote or occurrence * len(quote) > MOST_SEARCHED:
        return None
    at = -1
    for _ in range(occurrence + 1):
        at = text.find(quote, at + 1)
        if at < 0:
            return None
    return at


def _span(places: Sequence[Place]) -> tuple[int, int] | None:
    inside = [place for place in places if place is not None]
    return (min(inside), max(inside) + 1) if inside else None


def quoted(text: str, start: int, end: int, media: Media = NO_MEDIA) -> tuple[str, int]:
    """A passage as the page shows it, and how many like it begin before it: what `locate` takes."""
    where = shown_at(text, start, end, media)
    before, at, stop = (transcript(text, media).shown, *where) if where else (text, start, end)
    quote = before[at:stop]
    count, found = 0, before.find(quote)
    while 0 <= found < at:
        count, found = count + 1, before.find(quote, found + 1)
    return quote, count


def shown_at(text: str, start: int, end: int, media: Media = NO_MEDIA) -> tuple[int, int] | None:
    """Where a passage of `text` begins and ends in what the page shows."""
    source = transcript(text, media).source
    inside = [i for i, at in enumerate(source) if at is not None and start <= at < end]
    return (inside[0], inside[-1] + 1) if inside else None


def marked(text: str, passages: Sequence[tuple[int, int, str]], media: Media = NO_MEDIA) -> str:
    """The HTML of `text` with <mark class="label"> around passages (start, end, label)."""
    labels = [""] * len(transcript(text, media).shown)
    for start, end, label in passages:
        at, stop = shown_at(text, start, end, media) or (0, 0)
        for i in range(at, stop):
            labels[i] = " ".join(dict.fromkeys((*labels[i].split(), label)))
    out, n = [], 0
    for piece in re.split(f"({_TAG.pattern})", str(render_text(text, media=media))):
        if piece.startswith("<"):
            out.append(piece)
            continue
        characters = _CHARACTER.findall(piece)
        for label, run in groupby(zip(labels[n:], characters, strict=False), key=lambda each: each[0]):
            words = "".join(character for _, character in run)
            bare = not label or words.isspace()  # between the rows of a table nothing else may stand
            out.append(words if bare else f'<mark class="{html.escape(label)}">{words}</mark>')
        n += len(characters)
    return "".join(out)
