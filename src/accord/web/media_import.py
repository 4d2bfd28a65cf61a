"""Images, sound and video out of an uploaded file: JSON lines with data URIs, or a zip of lines and files.

Content parts, as OpenAI and Hugging Face write them, become lines of Markdown that name the medium by its
hash (`ledger.media`), so that whatever reads rows of text reads these. Nothing is fetched from an address,
and nothing of an archive is written to a disk under a name that the archive chose.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from accord.errors import DataError
from accord.ledger.media import SCHEME, Medium, references
from accord.records import Preference
from accord.web.media_types import type_of

MOST_FILES = 5_000
MOST_UNPACKED = 256 << 20
MOST_RATIO = 200  # of unpacked to packed size; pictures and sound hardly shrink
LONGEST_LINE = 48 << 20
KINDS = ("image", "audio", "video")
PARTS = {"text", "input_audio", *KINDS, *(f"{kind}_url" for kind in KINDS)}
_PART = re.compile(rb'"type"\s*:\s*"(image|audio|video|input_audio)')
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*;base64,", re.ASCII)

Files = Callable[[str], bytes]  # a file of the archive by its name; DataError when there is none


@dataclass
class Unpacked:
    """`lines` are JSON lines without parts; a line that cannot be used is empty and has a problem."""

    lines: list[bytes] = field(default_factory=list)
    media: dict[str, Medium] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


def lines_path(path: str) -> str:
    """Where `unpack` writes the lines of the file at `path`."""
    return f"{path}.jsonl"


def unpack(path: str) -> Unpacked | None:
    """The lines with their media, where a file holds media; its lines without parts go to `lines_path`.

    Raises DataError when no line can be used, or the archive is not taken.
    """
    if path.endswith(".zip"):
        made = _unpack_zip(path)
    elif path.endswith((".jsonl", ".ndjson")) and _has_parts(path):
        with open(path, "rb") as file:
            made = _unpack(file, _no_files)
    else:
        return None
    if made.problems and not any(made.lines):
        n, what = made.problems[0]
        raise DataError(f"{path}: no line can be used. Line {n}: {what}.")
    with open(lines_path(path), "wb") as out:
        out.writelines(line + b"\n" for line in made.lines)
    return made


def used(rows: Iterable[Preference], unpacked: Unpacked) -> list[Medium]:
    """The media that rows name."""
    texts = [
        text for row in rows for text in (row.chosen, row.rejected, *(m.content for m in row.prompt.messages))
    ]
    named = references(texts)
    return [medium for id_, medium in unpacked.media.items() if id_ in named]


def _has_parts(path: str) -> bool:
    with open(path, "rb") as file:
        return any(_PART.search(line) for line in file)


def _no_files(name: str) -> bytes:
    raise DataError(f"{name[:80]!r} is no data URI; a path needs the file beside it, in a zip")


def _unpack_zip(path: str) -> Unpacked:
    """One file of JSON lines, and the files that it names. DataError for an archive that is not taken."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            rows = [name for name in members if name.lower().endswith((".jsonl", ".ndjson"))]
            if len(rows) != 1:
                raise DataError(f"the zip holds {len(rows)} files of JSON lines (.jsonl); it needs one")

            def read(name: str) -> bytes:
                """By the path from the archive's top, or from beside the lines."""
                beside = str(PurePosixPath(rows[0]).parent / name)
                found = members.get(name.removeprefix("./")) or members.get(beside)
                if found is None:
                    raise DataError(f"the zip holds no file {name[:80]!r}")
                return archive.read(found)

            return _unpack(archive.read(members[rows[0]]).splitlines(), read)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise DataError(f"the zip cannot be read: {error}") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, when all of it is harmless."""
    entries = archive.infolist()
    if len(entries) > MOST_FILES:
        raise DataError(f"the zip holds {len(entries)} files; at most {MOST_FILES}")
    if (unpacked := sum(entry.file_size for entry in entries)) > MOST_UNPACKED:
        raise DataError(f"the zip unpacks to {unpacked >> 20} MB; at most {MOST_UNPACKED >> 20} MB")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.orig_filename
        path = PurePosixPath(name)
        mode = entry.external_attr >> 16
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
            raise DataError(f"the zip names a file outside of itself: {name[:80]!r}")
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise DataError(f"the zip holds a link or a device, {name[:80]!r}; put the file itself in")
        if entry.flag_bits & 1:
            raise DataError("the zip is encrypted; make one without a password")
        if entry.file_size > (1 << 20) + MOST_RATIO * entry.compress_size:
            raise DataError(f"{name[:80]!r} unpacks to far more than it holds; that is no medium")
        if name in found:
            raise DataError(f"the zip holds {name[:80]!r} twice")
        if not entry.is_dir():
            found[name] = entry
    return found


def _unpack(lines: Any, files: Files) -> Unpacked:
    made = Unpacked()
    for n, line in enumerate(lines, 1):
        if not _PART.search(line):
            made.lines.append(line.rstrip(b"\r\n"))
            continue
        found: dict[str, Medium] = {}
        try:
            if len(line) > LONGEST_LINE:
                raise DataError("the line is too long")
            row = json.loads(line)
            pictures = iter(row.get("images") or ()) if isinstance(row, dict) else iter(())
            plain = _plain(row, files, found, pictures)
            made.lines.append(json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        except (DataError, ValueError, RecursionError) as error:
            made.lines.append(b"")
            made.problems.append((n, str(error) if isinstance(error, DataError) else "the line is no JSON"))
            continue
        made.media |= found
    return made


def _plain(value: Any, files: Files, found: dict[str, Medium], pictures: Iterator[Any]) -> Any:
    """`value` with each list of content parts as one text."""
    if isinstance(value, dict):
        return {k: _plain(v, files, found, pictures) for k, v in value.items() if k != "images"}
    if not isinstance(value, list):
        return value
    types = [part.get("type") if isinstance(part, dict) else None for part in value]
    if PARTS.intersection(each for each in types if isinstance(each, str)):
        return "\n\n".join(_text_of(part, files, found, pictures) for part in value)
    return [_plain(each, files, found, pictures) for each in value]


def _text_of(part: Any, files: Files, found: dict[str, Medium], pictures: Iterator[Any]) -> str:
    if not isinstance(part, dict) or part.get("type") not in PARTS:
        named = part.get("type") if isinstance(part, dict) else part
        raise DataError(f"a part of type {str(named)[:40]!r}; known are text, image, audio and video")
    if part["type"] == "text":
        if not isinstance(part.get("text"), str):
            raise DataError("a part of type text has no text")
        return str(part["text"])
    kind = part["type"].removeprefix("input_").removesuffix("_url")
    medium = _medium(_source(part, kind, pictures), files)
    if not medium.type.startswith(f"{kind}/"):
        raise DataError(f"a part of type {kind} holds {medium.type}")
    found[medium.id] = medium
    return f"![{_alt(part, kind)}]({SCHEME}{medium.id})"


def _source(part: dict[str, Any], kind: str, pictures: Iterator[Any]) -> str:
    """A data URI or a path."""
    value = next((part[k] for k in (kind, f"{kind}_url", f"input_{kind}", "url", "path") if k in part), None)
    if value is None and kind == "image":
        value = next(pictures, None)  # Hugging Face's form: the pictures in a column of their own
    if isinstance(value, dict):
        if isinstance(value.get("data"), str):
            return f"data:;base64,{value['data']}"
        value = value.get("url") or value.get("path")
    if not isinstance(value, str) or not value:
        raise DataError(f"a part of type {kind} has no {kind}: give a data URI, or a path inside the zip")
    return value


def _medium(source: str, files: Files) -> Medium:
    if source.startswith("data:"):
        head = _DATA.match(source[:200])
        if head is None:
            raise DataError("a data URI that is not base64")
        try:
            content = base64.b64decode(source[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise DataError("a data URI whose base64 is broken") from None
    elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", source):
        raise DataError(
            f"{source[:80]!r}: nothing is fetched from an address; put the bytes in as a data URI"
        )
    else:
        content = files(source)
    return Medium(type_of(content), content)


def _alt(part: dict[str, Any], kind: str) -> str:
    """What the medium is, for who cannot see or hear it; without what Markdown would read as its own."""
    given = next((part[k] for k in ("alt", "alt_text", "description") if isinstance(part.get(k), str)), kind)
    return " ".join(re.sub(r"[\[\]()<>`*_~\\!|&]", " ", given).split())[:300] or kind
