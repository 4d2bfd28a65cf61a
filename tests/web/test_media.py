"""Images, sound and video: told by their bytes, brought in with questions, seen in their project alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from accord.errors import DataError, LedgerError
from accord.ledger import media, store
from accord.ledger.database import utc_now
from accord.ledger.media import Medium
from accord.ledger.schema import item
from accord.web import media_types
from accord.web.auth import RefusedError, Site
from accord.web.media import part_of
from accord.web.media_import import MOST_FILES
from accord.web.media_types import type_of
from accord.web.render import Media, render_text
from accord.web.transcript import locate, quoted, transcript
from web import hostile
from web.conftest import Visits
from web.media_files import gif, jpeg, lines, png, row, uri, wav, webp, zipped
from web.world import WHO, Visit, World

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"
OGG, WEBM = b"OggS\0\2" + bytes(40), b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm" + bytes(40)
MP4, MP3 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(40), b"ID3\4" + bytes(40)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# What bytes are


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(), "image/png"),
        (jpeg(), "image/jpeg"),
        (gif(), "image/gif"),
        (webp(), "image/webp"),
        (wav(), "audio/wav"),
        (OGG, "audio/ogg"),
        (MP3, "audio/mpeg"),
        (b"\xff\xfb\x90\x00" + bytes(40), "audio/mpeg"),
        (MP4, "video/mp4"),
        (WEBM, "video/webm"),
        (png() + HTML, "image/png"),  # a polyglot is served as what it says it is, and as nothing else
        (gif()[:-1] + b";/*" + HTML + b"*/", "image/gif"),
    ],
)
def test_bytes_say_what_they_are(content: bytes, expected: str) -> None:
    assert type_of(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        SVG,
        b"  " + SVG,
        b'<?xml version="1.0"?>' + SVG,
        HTML,
        b"",
        b"\x89PNG",
        b"%PDF-1.7",
        b"MZ\x90\0",
        b"BM" + bytes(60),
        b"RIFF\0\0\0\0AVI " + bytes(60),
        b"\0\0\0\x18ftypheic" + bytes(40),
        b"\x1aE\xdf\xa3matroska",
        b"PK\3\4" + png(),
        b"\xff\xd8",
        b"\xff\xff\xff\xff" + bytes(40),
        HTML + png(),
        b"\xff\xf1\x50\x80" + bytes(40),
    ],
)
def test_what_is_not_on_the_list_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="none of PNG, JPEG"):
        type_of(content)


@pytest.mark.parametrize(
    "content",
    [
        png(60_000, 60_000),
        png(16_385, 1),
        png(0, 5),
        png(10_000, 10_000),
        jpeg(65_500, 65_500),
        webp(16_000, 16_000),
        gif(1, 20_000, 2),
    ],
)
def test_a_header_that_names_a_huge_picture_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"a picture of \d+ x \d+ pixels"):
        type_of(content)


@pytest.mark.parametrize("content", [gif(2), webp(moves=True), png(acTL=bytes(8))])
def test_a_picture_that_moves_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="would play by itself"):
        type_of(content)


@pytest.mark.parametrize("whole", [png(), jpeg(), gif(), webp()])
def test_a_picture_cut_off_anywhere_is_a_picture_or_a_sentence(whole: bytes) -> None:
    for length in range(len(whole)):
        try:
            assert type_of(whole[:length]).startswith("image/")
        except DataError as error:
            assert "none of" in str(error) or "cut off" in str(error)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([png()[:12], jpeg()[:4], gif()[:10], webp()[:12], b"\xff\xd8\xff"]),
    st.binary(max_size=300),
)
def test_no_bytes_break_the_reader(head: bytes, rest: bytes) -> None:
    with contextlib.suppress(DataError):
        assert type_of(head + rest) in media_types.ENDINGS


def test_a_medium_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_types, "MOST_BYTES", {"image": 50, "audio": 50, "video": 50})
    with pytest.raises(DataError, match="are too many"):
        type_of(png())


# In a text


ONE = sha(b"one")
SHOWN = Media(
    "/projects/p/media/", ((ONE, "image/png"), (sha(b"two"), "audio/wav"), (sha(b"three"), "video/mp4"))
)


def reference(of: bytes = b"one", words: str = "a cat") -> str:
    return f"![{words}](accord-media:{sha(of)})"


def test_media_are_shown_where_a_text_names_them_and_nothing_plays_by_itself() -> None:
    page = str(
        render_text(
            f"Look: {reference()} {reference(b'two', 'rain')}\n\n{reference(b'three', 'a > b')}", media=SHOWN
        )
    )
    assert f'<img alt="a cat" loading="lazy" src="/projects/p/media/{ONE}">' in page
    assert re.search(r'<audio controls="" preload="metadata" aria-label="rain" src="[^"]*"></audio>', page)
    assert "<video controls" in page and "autoplay" not in page and "accord-media:" not in page
    assert page.count('<span class="caption">') == 3 and '<span class="caption">a cat</span>' in page


@pytest.mark.parametrize(
    "address",
    [
        f"accord-media:{sha(b'foreign')}",
        f"accord-media:{ONE}x",
        f"accord-media:{ONE[:-1]}",
        f"accord-media:{ONE.upper()}",
        f"accord-media:/../{ONE}",
        f"ACCORD-MEDIA:{ONE}",
        f"/projects/p/media/{ONE}",
        f"https://evil.example/accord-media:{ONE}",
        f'accord-media:{ONE} "onerror=alert(1)"',
        f"accord-media:{ONE}#x",
        f"accord-media:{ONE}?x",
    ],
)
def test_nothing_else_is_shown(address: str) -> None:
    page = str(render_text(f"![x]({address})", media=SHOWN))
    assert "<img" not in page and "[image: x" in page


@pytest.mark.parametrize(
    "text",
    [reference(), f"<img src=/projects/p/media/{ONE}>", f"<audio autoplay src=/projects/p/media/{ONE}>"],
)
def test_where_no_media_are_given_none_is_shown(text: str) -> None:
    assert not re.search("<(img|audio|video)", str(render_text(text)))


@pytest.mark.parametrize("text", [*hostile.SMALL, f"<audio autoplay src=/projects/p/media/{ONE}>"])
def test_hostile_texts_gain_nothing_from_media(text: str) -> None:
    assert str(render_text(text, media=SHOWN)) == str(render_text(text))
    page = str(render_text(reference(words=text.replace("\n", " ")), media=SHOWN))
    tags = set(re.findall(r"<(\w+)", re.sub(r'"[^"]*"', '""', page)))
    assert tags <= {"div", "p", "img", "span", "pre", "code", "strong", "em", "s", "br"}
    assert not re.search(r"<img[^>]* on\w+=", re.sub(r'"[^"]*"', '""', page))


def test_media_are_shown_in_texts_that_markdown_would_change() -> None:
    """These are shown as they stand, but a rater must still see the picture."""
    said = f"| a |\n|---|\n| b | c |\n\n{reference()}\n<b>"
    page = str(render_text(said, media=SHOWN))
    assert "plain" in page and f'src="/projects/p/media/{ONE}"' in page and "&lt;b&gt;" in page


def test_passages_are_found_around_media() -> None:
    said = f"Before it. {reference(words='a small cat')} **After** it."
    assert transcript(said, SHOWN).shown.strip() == "Before it. a small cat After it."
    for quote, expected in (("After it", "After** it"), ("small cat", "small cat"), ("it. a", None)):
        start, end = locate(said, quote, 0, SHOWN) or (0, 0)
        assert expected is None or said[start:end] == expected
        assert locate(said, *quoted(said, start, end, SHOWN), SHOWN) == (start, end)


# In the ledger


@pytest.fixture
def stored(site: Site, world: World) -> Medium:
    """A picture of the other project."""
    medium = Medium("image/png", png(colour=(1, 2, 3)))
    with site.ledger.writing() as connection:
        assert media.add_media(connection, world.theirs.project, [medium], utc_now()) == 1
        assert media.add_media(connection, world.theirs.project, [medium], utc_now()) == 0
    return medium


def test_media_are_kept_once_and_verified(site: Site, world: World, stored: Medium) -> None:
    with site.ledger.writing() as connection:
        assert media.add_media(connection, world.mine.project, [stored], utc_now()) == 1
        assert media.types_in(connection, world.mine.project, [stored.id, "0" * 64]) == {
            stored.id: "image/png"
        }
        assert media.read_part(connection, stored.id, 1, 3) == b"PNG"
        assert media.size_of(connection, stored.id) == len(stored.content)
    assert site.ledger.verify().problems == ()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE media SET bytes = x'00'",
        "DELETE FROM media",
        "UPDATE project_media SET project_id = 'x'",
        "DELETE FROM project_media",
    ],
)
def test_media_can_be_neither_changed_nor_removed(site: Site, stored: Medium, change: str) -> None:
    with pytest.raises(LedgerError, match="append-only"), site.ledger.writing() as connection:
        connection.execute(text(change))


def test_changed_bytes_are_noticed(visit: Visits, world: World, site: Site, stored: Medium) -> None:
    with site.ledger.writing() as connection:
        connection.execute(text("DROP TRIGGER media_no_update"))
        connection.execute(text("UPDATE media SET bytes = x'00'"))
    assert site.ledger.verify().problems == (f"media {stored.id}: the bytes do not match their hash",)
    refused = visit("outsider").get(f"/api/v1/projects/{world.theirs.project}/export/media.zip")
    assert refused.status_code == 409 and "is not what was brought in" in refused.json()["error"]["message"]


def test_an_attachment_that_nobody_made_is_noticed(site: Site, world: World, stored: Medium) -> None:
    with site.ledger.writing() as connection:
        connection.execute(
            media.project_media.insert().values(project_id=world.mine.project, media_id=stored.id)
        )
    (problem,) = site.ledger.verify().problems
    assert "project_media" in problem and "has no audit entry" in problem


# Bringing them in


def bring(visit: Visit, project: str, content: bytes, name: str = "media.jsonl") -> Any:
    headers: dict[str, str | None] = {"content-type": "application/octet-stream", "x-file-name": name}
    return visit.post(f"/api/v1/projects/{project}/import", content=content, headers=headers)


def picture(content: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "image", "image": uri(content)} | more


RED, BLUE = png(), png(colour=(20, 20, 200))


def newest_texts(site: Site) -> list[str]:
    """The texts of the question that was asked last."""
    with site.ledger.reading() as connection:
        last = connection.execute(item.select().order_by(item.c.seq.desc()).limit(1)).one()
        group = store.read_groups(connection, [last.id])[last.id]
    return [*(m.content for m in group.prompt.messages), *sorted(c.text for c in group.completions)]


def test_a_pair_of_pictures_goes_all_the_way(visit: Visits, site: Site, world: World) -> None:
    asked = [{"type": "text", "text": "Like this, but blue:"}, picture(RED, alt="a red [square](x)")]
    question = row([picture(BLUE, alt="blue")], [{"type": "text", "text": "Here:"}, picture(RED)], asked)
    reply = bring(visit("owner"), world.mine.project, lines(question))
    assert reply.json() == {"added": 1, "known": 0, "problems": [], "problem_count": 0}
    red, blue = f"accord-media:{sha(RED)}", f"accord-media:{sha(BLUE)}"
    assert newest_texts(site) == [
        f"Like this, but blue:\n\n![a red square x]({red})",
        *sorted([f"![blue]({blue})", f"Here:\n\n![image]({red})"]),
    ]
    lease = f"/api/v1/projects/{world.mine.project}/lease"
    questions = visit("adjudicator").post(lease, {"want": 5}).json()["questions"]
    while not any("accord-media" in q["prompt"][0]["text"] for q in questions):
        for each in questions:
            visit("adjudicator").post(f"/api/v1/assignments/{each['assignment']}/skip", {"reason": "other"})
        questions = visit("adjudicator").post(lease, {"want": 5}).json()["questions"]
        assert questions
    (found,) = (q for q in questions if "accord-media" in q["prompt"][0]["text"])
    address = f"/projects/{world.mine.project}/media/{sha(RED)}"
    assert f'src="{address}"' in found["prompt"][0]["html"]
    assert visit("adjudicator").get(address).content == RED
    assert (
        sum(f'src="/projects/{world.mine.project}/media/{sha(BLUE)}"' in a["html"] for a in found["answers"])
        == 1
    )
    archive = visit("owner").get(f"/api/v1/projects/{world.mine.project}/export/media.zip").content
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        assert {name: files.read(name) for name in files.namelist()} == {
            f"{sha(c)}.png": c for c in (RED, BLUE)
        }
    assert site.ledger.verify().ok


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": uri(BLUE)},
        {"type": "image", "url": uri(BLUE)},
        {
            "type": "image_url",
            "image_url": {"url": uri(BLUE, "image/svg+xml")},
        },  # what is declared is not believed
        {"type": "image_url", "image_url": uri(BLUE)},
        {"type": "input_audio", "input_audio": {"data": uri(wav()).partition(",")[2], "format": "mp3"}},
        {"type": "audio", "audio": uri(wav(), "audio/x-wav")},
        {"type": "video", "video": uri(MP4, "video/mp4;codecs=avc1")},
    ],
)
def test_the_usual_forms_of_parts_are_read(
    visit: Visits, site: Site, world: World, part: dict[str, Any]
) -> None:
    reply = bring(visit("owner"), world.mine.project, lines(row([part], "No picture.")))
    assert reply.status_code == 200 and reply.json()["added"] == 1, reply.text
    assert any(re.fullmatch(r"!\[\w+\]\(accord-media:[0-9a-f]{64}\)", t) for t in newest_texts(site))


def test_pictures_in_a_column_of_their_own_are_taken_in_order(
    visit: Visits, site: Site, world: World
) -> None:
    question = row([{"type": "image"}], [{"type": "image"}], [{"type": "text", "text": "Which?"}])
    bring(visit("owner"), world.mine.project, lines(question | {"images": [uri(BLUE), uri(RED)]}))
    assert set(newest_texts(site)[1:]) == {f"![image](accord-media:{sha(c)})" for c in (RED, BLUE)}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (picture(SVG), "none of PNG, JPEG"),
        ({"type": "image", "image": uri(SVG, "image/png")}, "none of PNG, JPEG"),
        ({"type": "image", "image": "https://evil.example/a.png"}, "nothing is fetched"),
        ({"type": "image", "image": "file:///etc/passwd"}, "nothing is fetched"),
        ({"type": "image", "image": "/etc/passwd"}, "no data URI"),
        ({"type": "image", "image": "a.png"}, "in a zip"),
        ({"type": "image", "image": "data:image/png,abc"}, "not base64"),
        ({"type": "image", "image": "data:image/png;base64,@@@"}, "base64 is broken"),
        ({"type": "image", "image": 7}, "has no image"),
        ({"type": "image"}, "has no image"),
        (picture(wav()), "a part of type image holds audio/wav"),
        ({"type": "audio", "audio": uri(RED)}, "a part of type audio holds image/png"),
        (picture(png(60_000, 60_000)), "a picture of 60000 x 60000"),
        (picture(gif(2)), "play by itself"),
    ],
)
def test_a_line_with_a_bad_part_is_listed_and_the_others_are_asked(
    visit: Visits, site: Site, world: World, part: dict[str, Any], message: str
) -> None:
    good = row([picture(BLUE)], "No picture.")
    content = lines(good, row([part], [picture(RED)]), {"nothing": "of use"}, row("yes", "no", "Plain?"))
    reply = bring(visit("owner"), world.mine.project, content).json()
    assert reply["added"] == 2
    assert [problem["line"] for problem in reply["problems"]] == [2, 3]
    assert message in reply["problems"][0]["what"]
    with site.ledger.reading() as connection:  # of the line that was not used, no medium is kept
        assert media.ids_in(connection, world.mine.project) == [sha(BLUE)]


def test_a_file_in_which_no_line_can_be_used_says_why(visit: Visits, world: World) -> None:
    reply = bring(visit("owner"), world.mine.project, lines(row([picture(SVG)], "x")), "bad.jsonl")
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith(
        "bad.jsonl: no line can be used. Line 1: the bytes are none"
    )


def test_a_reference_gives_no_access(visit: Visits, site: Site, world: World, stored: Medium) -> None:
    """Whoever knows the hash of another project's medium sees a reference to it, and not the medium."""
    bring(visit("owner"), world.mine.project, lines(row(f"![x](accord-media:{stored.id})", "no", "Seen?")))
    page = visit("owner").get(f"/projects/{world.mine.project}/media/{stored.id}")
    assert page.status_code == 404
    with site.ledger.reading() as connection:
        assert media.ids_in(connection, world.mine.project) == []
    reply = visit("adjudicator").post(f"/api/v1/projects/{world.mine.project}/lease", {"want": 5}).json()
    assert "<img" not in str(reply)


# Archives


LINES = lines(
    row([{"type": "image", "image": "pictures/blue.png"}], [{"type": "image", "image": "./pictures/red.png"}])
)
FILES = {"rows.jsonl": LINES, "pictures/blue.png": BLUE, "pictures/red.png": RED}


@pytest.mark.parametrize("files", [FILES, {f"data/{name}": content for name, content in FILES.items()}])
def test_a_zip_of_lines_and_files_is_read(
    visit: Visits, site: Site, world: World, files: dict[str, bytes]
) -> None:
    reply = bring(visit("owner"), world.mine.project, zipped(files), "both.zip")
    assert reply.json()["added"] == 1, reply.text
    with site.ledger.reading() as connection:
        assert set(media.ids_in(connection, world.mine.project)) == {sha(RED), sha(BLUE)}


def odd_zip(**changed: Any) -> bytes:
    """A good archive, and a file in it with something about it changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        odd = zipfile.ZipInfo(changed.pop("filename", "odd.png"))
        for name, value in changed.items():
            setattr(odd, name, value)
        archive.writestr(odd, BLUE)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (odd_zip(filename="../../etc/cron.d/x"), "outside of itself"),
        (odd_zip(filename="/etc/passwd"), "outside of itself"),
        (odd_zip(filename="a\\..\\b.png"), "outside of itself"),
        (odd_zip(filename="C:x.png"), "outside of itself"),
        (odd_zip(external_attr=(stat.S_IFLNK | 0o777) << 16), "a link or a device"),
        (odd_zip(external_attr=(stat.S_IFIFO | 0o777) << 16), "a link or a device"),
        (odd_zip(filename="rows.jsonl"), "twice"),
        (zipped({**FILES, "more.jsonl": LINES}), "2 files of JSON lines"),
        (zipped({"a.png": BLUE}), "0 files of JSON lines"),
        (zipped({**FILES, "zeros.png": bytes(30 << 20)}), "unpacks to far more"),
        (zipped(FILES | {f"{i}.png": b"" for i in range(MOST_FILES)}), "files; at most"),
        (
            zipped({"rows.jsonl": lines(row([picture(BLUE) | {"image": "none.png"}], "x"))}),
            "holds no file 'none.png'",
        ),
        (zipped({"rows.jsonl": LINES, "pictures/blue.png": SVG, "pictures/red.png": RED}), "none of PNG"),
        (b"PK\3\4 no zip at all", "cannot be read"),
        (zipped(FILES)[:-30], "cannot be read"),
        (zipped(FILES, compression=zipfile.ZIP_STORED).replace(BLUE[-20:], b"\0" * 20), "cannot be read"),
    ],
)
def test_an_archive_that_could_do_harm_is_refused(
    visit: Visits, site: Site, world: World, content: bytes, message: str
) -> None:
    reply = bring(visit("owner"), world.mine.project, content, "odd.zip")
    assert reply.status_code == 422, reply.text
    assert message in reply.json()["error"]["message"]
    with site.ledger.reading() as connection:
        assert media.ids_in(connection, world.mine.project) == []


def test_sizes_of_an_archive_are_added_up_before_it_is_read(
    visit: Visits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accord.web.media_import.MOST_UNPACKED", 100)
    reply = bring(visit("owner"), world.mine.project, zipped(FILES), "odd.zip")
    assert reply.status_code == 422 and "unpacks to" in reply.json()["error"]["message"]


@pytest.fixture
def no_litter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder


def test_nothing_is_left_on_the_disk(visit: Visits, world: World, no_litter: Path) -> None:
    for content, name in (
        (zipped(FILES), "a.zip"),
        (odd_zip(filename="../x"), "b.zip"),
        (lines(row([picture(RED)], "x")), "c.jsonl"),
    ):
        bring(visit("owner"), world.mine.project, content, name)
    assert list(no_litter.iterdir()) == []


# Serving


@pytest.fixture
def mine(site: Site, world: World, stored: Medium) -> Medium:
    """A sound of the project in which everybody has a role."""
    medium = Medium("audio/wav", wav())
    with site.ledger.writing() as connection:
        media.add_media(connection, world.mine.project, [medium], utc_now())
    return medium


def test_media_are_served_as_what_they_are_and_can_do_nothing(
    visit: Visits, world: World, mine: Medium
) -> None:
    reply = visit("rater").get(f"/projects/{world.mine.project}/media/{mine.id}")
    assert reply.content == mine.content
    expected = {
        "content-type": "audio/wav",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "content-disposition": f'inline; filename="{mine.id[:12]}.wav"',
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "private, max-age=600",
        "accept-ranges": "bytes",
        "content-length": str(len(mine.content)),
    }
    assert {name: reply.headers[name] for name in expected} == expected


@pytest.mark.parametrize("who", WHO)
def test_only_who_judges_in_the_project_gets_its_media(
    visit: Visits, world: World, mine: Medium, stored: Medium, who: str
) -> None:
    may = {
        "admin": 200,
        "owner": 200,
        "manager": 200,
        "adjudicator": 200,
        "rater": 200,
        "viewer": 403,
        "nobody": 303,
    }
    path = f"/projects/{world.mine.project}/media/"
    assert visit(who).get(path + mine.id).status_code == may.get(who, 404)
    assert visit(who).get(path + stored.id).status_code == {200: 404}.get(
        may.get(who, 404), may.get(who, 404)
    )


@pytest.mark.parametrize("name", ["0" * 64, "..", "%2e%2e", "' OR 1=1 --", "x" * 5000, ""])
def test_no_other_name_finds_anything(visit: Visits, world: World, mine: Medium, name: str) -> None:
    assert visit("rater").get(f"/projects/{world.mine.project}/media/{name}").status_code in (303, 404)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=5-999999999", 5, None),
        ("bytes=0-0", 0, 1),
    ],
)
def test_players_get_the_part_that_they_ask_for(
    visit: Visits, world: World, mine: Medium, asked: str, start: int, end: int | None
) -> None:
    reply = visit("rater").get(f"/projects/{world.mine.project}/media/{mine.id}", headers={"range": asked})
    size = len(mine.content)
    first, after, _ = slice(start, end).indices(size)
    assert reply.status_code == 206 and reply.content == mine.content[start:end]
    assert reply.headers["content-range"] == f"bytes {first}-{after - 1}/{size}"


@pytest.mark.parametrize(
    "asked", ["", "bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=" + "9" * 50 + "-", "bytes=0-"]
)
def test_other_ranges_get_everything(visit: Visits, world: World, mine: Medium, asked: str) -> None:
    reply = visit("rater").get(f"/projects/{world.mine.project}/media/{mine.id}", headers={"range": asked})
    assert reply.status_code == 200 and reply.content == mine.content


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=9-3", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(asked: str) -> None:
    with pytest.raises(RefusedError) as refused:
        part_of(asked, 100)
    assert refused.value.status == 416
    assert replace(Medium("a", b"b"), type="c").id == sha(b"b")
