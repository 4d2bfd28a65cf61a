"""Passages marked good or bad: found in the text behind the page, stored by slot, shown, exported, erased."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from accord.errors import LedgerError
from accord.ledger import answers, projects
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.ledger.spans import MOST_SPANS, Span
from accord.ledger.team_schema import answer, project
from accord.records import Group, Prompt, Question
from accord.web import transcript
from accord.web.auth import Site
from accord.web.render import render_text
from accord.web.transcript import locate, marked, quoted
from web import hostile
from web.conftest import Visits
from web.world import Visit, World

RICH = """# Watches

1. The **Halden Sport** lasts `9 days`!
2. The Skerry does *not*.

| Watch | Price |
|---|--:|
| Halden & son | 249 € 👍 |

See [the page](https://shop.example/h "now") ![a picture](x.png).
A hidden\u200bletter, and a line\r\nend."""
KEYS = (f"span-key-{n:06}" for n in range(10**6))


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page))


# Finding a passage


@pytest.mark.parametrize(
    ("quote", "occurrence", "expected"),
    [
        ("Halden Sport", 0, "Halden Sport"),
        ("Sport lasts 9", 0, "Sport** lasts `9"),  # over marks that the page does not show
        ("9 days!\nThe Skerry", 0, "9 days`!\n2. The Skerry"),  # over the number of a list
        ("Halden", 1, "Halden"),
        ("249 € 👍", 0, "249 € 👍"),
        ("👍", 0, "👍"),
        ("the page (https://shop.example/h “now”)", 0, 'the page](https://shop.example/h "now")'),
        ("hidden⟨U+200B⟩letter", 0, "hidden\u200bletter"),  # as the page shows it
        ("hidden\u200bletter", 0, "hidden\u200bletter"),  # as the text has it
        ("a line\nend", 0, "a line\r\nend"),
        ("**Halden Sport**", 0, "**Halden Sport**"),
        ("The   Skerry\tdoes not.", 0, "The Skerry does *not*."),  # other spaces
    ],
)
def test_a_passage_is_found_in_the_text(quote: str, occurrence: int, expected: str) -> None:
    start, end = locate(RICH, quote, occurrence) or (0, 0)
    assert RICH[start:end] == expected


def test_the_right_one_of_several_is_found() -> None:
    text = "**no** yes no *no* hahaha"
    assert [locate(text, "no", n) for n in range(4)] == [(2, 4), (11, 13), (15, 17), None]
    assert [locate(text, "haha", n) for n in range(3)] == [(19, 23), (21, 25), None]


@pytest.mark.parametrize("quote", ["not there", "sport", " ", "9 days? The", "Halden Sport\x00"])
def test_what_is_not_in_the_text_is_not_found(quote: str) -> None:
    assert locate("The **Halden Sport** lasts 9 days.\nThe Skerry", quote) in (None, (3, 4))


@pytest.mark.parametrize("text", [*hostile.SMALL, RICH])
def test_every_passage_of_hostile_texts_is_found_again(text: str) -> None:
    """What the page shows is found in the text by the words on the page, and back."""
    seen = transcript.transcript(text)
    assert seen.shown == text_of(str(render_text(text)))
    assert text.isspace() or any(at is not None for at in seen.source)
    for start in range(0, len(seen.shown), 5):
        for end in (start + 1, start + 4, start + 13):
            quote = seen.shown[start:end]
            if all(at is None for at in seen.source[start:end]):
                continue
            occurrence = sum(seen.shown.startswith(quote, i) for i in range(start))
            place = locate(text, quote, occurrence)
            assert place is not None
            assert 0 <= place[0] < place[1] <= len(text)
            assert locate(text, *quoted(text, *place)) == place


words = st.sampled_from(
    ["no", "**", "*", "`", "\n", " ", "| a |", "1. ", "- ", "é", "👍", "[x](y)", "\u200b", "#", "&amp;"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(words, min_size=1, max_size=30).map("".join))
def test_letters_stand_where_they_are_said_to_stand(text: str) -> None:
    seen = transcript.transcript(text)
    for c, at in zip(seen.shown, seen.source, strict=True):
        if at is not None and c.isalnum() and text[at].isalnum():
            assert text[at] == c
    places = [at for at in seen.source if at is not None]
    assert places == sorted(places)
    assert sum(c.isalnum() for c in text) <= sum(c.isalnum() for c in seen.shown) + text.count("1. ")


@pytest.mark.parametrize("text", [*hostile.SMALL, RICH])
def test_marks_on_a_page_change_no_letter_and_add_nothing_else(text: str) -> None:
    page = marked(text, [(0, len(text), "bad"), (3, 9, "good")])
    assert text_of(page) == text_of(str(render_text(text)))
    added = {*re.findall(r"<[^>]*>", page)} - {*re.findall(r"<[^>]*>", str(render_text(text)))}
    assert added <= {'<mark class="bad">', '<mark class="good">', '<mark class="bad good">', "</mark>"}


def test_a_mark_stands_around_its_words() -> None:
    start, end = locate(RICH, "Sport lasts 9") or (0, 0)
    page = marked(RICH, [(start, end, "bad")])
    pieces = re.findall(r'<mark class="bad">(.*?)</mark>', page)
    assert pieces == ["Sport", " lasts ", "9"]


def test_a_very_long_text_takes_little_time_to_search() -> None:
    text = "a" * 150_000
    assert locate(text, "a" * 5000, 300) == (300, 5300)
    assert locate(text, "a" * 5000, 100_000) is None  # more than is searched for


# In the ledger


def test_spans_are_kept_by_slot_and_come_back_in_displayed_positions() -> None:
    said = Beside(spans=(Span(0, 2, 5, "bad", "why"), Span(1, 0, 3, "good")))
    for shown in ((0, 1), (1, 0)):
        parts = answers.to_parts(said, shown)
        assert {(p.key, p.slot, p.body) for p in parts} == {
            ("span:bad:2:5", shown[0], "why"),
            ("span:good:0:3", shown[1], None),
        }
        assert answers.from_parts(parts, shown) == Beside(flags=((), ()), spans=said.spans)


@pytest.mark.parametrize(
    "span",
    [
        Span(2, 0, 1, "bad"),
        Span(-1, 0, 1, "bad"),
        Span(0, 3, 3, "bad"),
        Span(0, -1, 3, "bad"),
        Span(0, 0, 1, "ugly"),
    ],
)
def test_a_span_that_cannot_be_is_refused(span: Span) -> None:
    with pytest.raises(LedgerError, match="a marked passage needs"):
        answers.check(Beside(spans=(span,)), 1)


def test_a_span_is_marked_once_and_not_too_often() -> None:
    with pytest.raises(LedgerError, match="marked twice"):
        answers.check(Beside(spans=(Span(0, 1, 2, "bad"), Span(0, 1, 2, "good"))), 1)
    many = tuple(Span(0, i, i + 1, "bad") for i in range(MOST_SPANS + 1))
    answers.check(Beside(spans=many[:-1]), 1)
    with pytest.raises(LedgerError, match="at most 50"):
        answers.check(Beside(spans=many), 1)


# Over the API


@pytest.fixture
def texts() -> tuple[str, str]:
    return RICH, '=cmd|"/c calc"!A1 is a **formula** <img src=x onerror=alert(1)> of no use'


@pytest.fixture
def question(visit: Visits, site: Site, world: World, texts: tuple[str, str]) -> dict[str, Any]:
    """A question whose answers are `texts`, leased by the adjudicator, who has answered nothing before."""
    with site.ledger.writing() as connection:
        asked = Question(Group.of(Prompt.of("Which watch?"), *texts), "spans")
        projects.add_questions(connection, world.mine.project, [asked], utc_now(), priority=9)
    lease = f"/api/v1/projects/{world.mine.project}/lease"
    found = visit("adjudicator").post(lease, {"want": 1}).json()["questions"][0]
    assert {each["text"] for each in found["answers"]} == set(texts)
    return found


def span(question: dict[str, Any], text: str, quote: str, **more: Any) -> dict[str, Any]:
    """A mark on the answer with this text, wherever it stands."""
    position = next(a["position"] for a in question["answers"] if a["text"] == text)
    return {"position": position, "quote": quote, "label": "bad"} | more


def send(visit: Visit, question: dict[str, Any], spans: list[Any], **more: Any) -> Any:
    body = {"strength": 1, "seconds": 2.0, "key": next(KEYS), "spans": spans} | more
    return visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", body)


def rows_of(site: Site, judgement_id: str) -> list[Any]:
    with site.ledger.reading() as connection:
        return list(connection.execute(select(answer).where(answer.c.judgement_id == judgement_id)))


def test_a_mark_goes_all_the_way(
    visit: Visits, site: Site, world: World, question: dict[str, Any], texts: tuple[str, str]
) -> None:
    note = "=HYPERLINK(1) <script>alert(1)</script>"
    spans = [
        span(question, RICH, "Halden", occurrence=1, note=note),
        span(question, texts[1], "formula", label="good"),
    ]
    judged = send(visit("adjudicator"), question, spans)
    assert judged.status_code == 200, judged.text
    start = RICH.index("Halden", RICH.index("Halden") + 1)
    keys = {row.key: row for row in rows_of(site, judged.json()["judgement"])}
    assert set(keys) == {
        f"span:bad:{start}:{start + 6}",
        f"span:good:{texts[1].index('formula')}:{texts[1].index('formula') + 7}",
    }
    assert keys[f"span:bad:{start}:{start + 6}"].body == note
    # undo: as it was said
    project = world.mine.project
    earlier = visit("adjudicator").post(f"/api/v1/projects/{project}/undo", {}).json()["question"]["earlier"]
    told = sorted(earlier["spans"], key=lambda s: s["label"])
    assert told == [{"occurrence": 0, "note": "", **s} for s in sorted(spans, key=lambda s: s["label"])]
    # the pages
    shown = visit("owner").get(f"/projects/{project}/judgements/{judged.json()['judgement']}").text
    assert '<mark class="bad">Halden</mark>' in shown and '<mark class="good">formula</mark>' in shown
    assert "&lt;script&gt;alert(1)" in shown and "<script>alert" not in shown
    for path, who in (("mine", "adjudicator"), ("judgements", "owner")):
        listed = visit(who).get(f"/projects/{project}/{path}").text
        assert "“Halden”" in listed and "&lt;script&gt;" in listed and "<script>alert" not in listed
    # the files
    export = f"/api/v1/projects/{project}/export/judgements"
    rows = [json.loads(line) for line in visit("owner").get(f"{export}.jsonl").text.splitlines()]
    (row,) = (row for row in rows if row["judgement"] == judged.json()["judgement"])
    by_text = dict(zip(row["answers"], row["spans"], strict=True))
    assert by_text[RICH] == [
        {"start": start, "end": start + 6, "quote": "Halden", "label": "bad", "note": note}
    ]
    lines = [*csv.DictReader(io.StringIO(visit("owner").get(f"{export}.csv").text, newline=""))]
    (line,) = (line for line in lines if line["judgement"] == judged.json()["judgement"])
    assert f"bad {start}-{start + 6}: Halden ({note})" in (line["spans_0"], line["spans_1"])
    assert not any(cell.startswith(("=", "+", "@")) for each in lines for cell in each.values())
    assert site.ledger.verify().ok


def test_a_mark_that_changes_is_a_revision(visit: Visits, site: Site, question: dict[str, Any]) -> None:
    first = send(visit("adjudicator"), question, [span(question, RICH, "Skerry")]).json()["judgement"]
    again = send(visit("adjudicator"), question, [], revises=first).json()
    assert again["revision"] == 2
    assert len(rows_of(site, first)) == 1 and rows_of(site, again["judgement"]) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quote": "Haldenn"}, "does not hold the marked passage 'Haldenn'"),
        ({"occurrence": 7}, "does not hold, 8 times, the marked passage"),
        ({"position": 2}, "no answer at position 2"),
        ({"label": "ugly"}, "label"),
        ({"quote": ""}, "quote"),
        ({"quote": "a" * 5001}, "quote"),
        ({"note": "a" * 5001}, "note"),
        ({"occurrence": -1}, "occurrence"),
        ({"start": 3}, "start"),
        ({"quote": "<img src=x onerror=alert(1)>" * 9}, "does not hold the marked passage"),
    ],
)
def test_a_mark_that_is_not_in_the_answer_is_refused(
    visit: Visits, site: Site, question: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    before = site.ledger.counts()["judgements"]
    reply = send(visit("adjudicator"), question, [span(question, RICH, "Halden") | changed])
    assert reply.status_code == 422 and reply.json()["error"]["code"] == "invalid"
    assert message in reply.json()["error"]["message"] and len(reply.json()["error"]["message"]) < 300
    assert site.ledger.counts()["judgements"] == before


def test_two_marks_on_one_place_are_refused(visit: Visits, question: dict[str, Any]) -> None:
    twice = [span(question, RICH, "Skerry"), span(question, RICH, "Skerry", label="good")]
    reply = send(visit("adjudicator"), question, twice)
    assert reply.status_code == 422 and "marked twice" in reply.json()["error"]["message"]


def test_only_a_project_that_asks_for_marks_takes_them(
    visit: Visits, world: World, site: Site, question: dict[str, Any]
) -> None:
    page = f"/projects/{world.mine.project}/judge"
    assert 'id="marker"' in visit("adjudicator").get(page).text
    form = {"flags": [], "attributes": [], "spans": False}
    changed = visit("owner").send("PATCH", f"/api/v1/projects/{world.mine.project}", json_body={"form": form})
    assert changed.status_code == 200
    reply = send(visit("adjudicator"), question, [span(question, RICH, "Halden")])
    assert reply.status_code == 422 and "does not ask for 'spans'" in reply.json()["error"]["message"]
    assert 'id="marker"' not in visit("adjudicator").get(page).text
    with site.ledger.writing() as connection:  # a project from before there were marks
        connection.execute(update(project).values(form='{"comment":true}'))
    assert 'id="marker"' not in visit("adjudicator").get(page).text


def test_somebody_elses_question_cannot_be_searched(visit: Visits, question: dict[str, Any]) -> None:
    for quote in ("Halden", "nothing like it"):
        reply = send(visit("manager"), question, [span(question, RICH, quote)])
        assert reply.status_code == 404


def test_a_withdrawn_note_is_gone_and_the_place_stays(
    visit: Visits, site: Site, world: World, question: dict[str, Any]
) -> None:
    spans = [span(question, RICH, "Halden", note="my grandmother says so")]
    judged = send(visit("adjudicator"), question, spans).json()["judgement"]
    with site.ledger.writing() as connection:
        mine = "SELECT annotator_id FROM account WHERE id = ?"
        annotator = connection.exec_driver_sql(mine, (world.accounts["adjudicator"],)).scalar_one()
        assert answers.withdraw(connection, annotator, "text", utc_now())["texts"] == 1
    (row,) = rows_of(site, judged)
    assert row.body is None and row.salt is None and row.key.startswith("span:bad:")
    export = visit("owner").get(f"/api/v1/projects/{world.mine.project}/export/judgements.jsonl").text
    row = next(json.loads(line) for line in export.splitlines() if judged in line)
    (kept,) = [s for of_slot in row["spans"] for s in of_slot]
    assert (kept["quote"], kept["label"], kept["note"]) == ("Halden", "bad", "")
    assert site.ledger.verify().ok


def test_a_mark_beyond_the_answer_never_gets_into_the_ledger(site: Site, question: dict[str, Any]) -> None:
    said = Beside(spans=(Span(0, 0, 10_000, "bad"),))
    with pytest.raises(LedgerError, match="beyond the answer"), site.ledger.writing() as connection:
        answers.record(
            connection,
            question["assignment"],
            1,
            said,
            seconds=1,
            idempotency_key="x",
            revises=None,
            now=utc_now(),
        )
