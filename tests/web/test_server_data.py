"""Files in and out: other tools' exports, every format, and nothing that does not lead back."""

from __future__ import annotations

import io
import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest

from accord.ledger import projects
from accord.web.auth import Site
from accord.web.files import EXPORTS
from web.conftest import Visits
from web.world import Visit, World

ARGILLA = {
    "fields": {"prompt": "From Argilla?", "reply-1": "no", "reply-2": "yes"},
    "responses": {
        "preference": [
            {"value": [{"value": "reply-2", "rank": 1}, {"value": "reply-1", "rank": 2}], "status": status}
            for status in ("submitted", "draft")
        ]
    },
}
LABEL_STUDIO = {
    "data": {"prompt": "From Label Studio?", "text1": "yes", "text2": "no"},
    "annotations": [
        {"result": [{"type": "pairwise", "to_name": "text1,text2", "value": {"selected": "left"}}]}
    ],
}
ULTRAFEEDBACK = {
    "instruction": "From UltraFeedback?",
    "completions": [
        {"response": text, "overall_score": score} for text, score in (("yes", 9), ("no", 2), ("", 1))
    ],
}
FOREIGN: dict[str, tuple[dict[str, Any], str, int]] = {
    "argilla": (ARGILLA, "From Argilla?", 0),
    "label-studio": (LABEL_STUDIO, "From Label Studio?", 0),
    "ultrafeedback": (ULTRAFEEDBACK, "From UltraFeedback?", 1),  # one answer is empty
}


def bring(browser: Visit, project: str, content: bytes, name: str, query: str = "") -> Any:
    headers: dict[str, str | None] = {"content-type": "application/octet-stream", "x-file-name": name}
    return browser.send("POST", f"/api/v1/projects/{project}/import{query}", content=content, headers=headers)


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.mark.parametrize("tool", FOREIGN)
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_what_other_tools_wrote_becomes_questions(
    visit: Visits, world: World, site: Site, tool: str, ending: str
) -> None:
    row, prompt, bad = FOREIGN[tool]
    content = (
        parquet([row]) if ending == "parquet" else json.dumps([row] if ending == "json" else row).encode()
    )
    for format in ("auto", tool):
        reply = bring(visit("owner"), world.mine.project, content, f"a.{ending}", f"?format={format}&gold=1")
        assert reply.status_code == 200, reply.text
        expected = {"added": 1, "known": 0} if format == "auto" else {"added": 0, "known": 1}
        assert {name: reply.json()[name] for name in ("added", "known")} == expected
        assert reply.json()["problem_count"] == bad
    asked = visit("adjudicator").post(f"/api/v1/projects/{world.mine.project}/lease", {"want": 5}).json()
    while prompt not in (texts := [q["prompt"][0]["text"] for q in asked["questions"]]):
        for question in asked["questions"]:
            skip = f"/api/v1/assignments/{question['assignment']}/skip"
            assert visit("adjudicator").post(skip, {"reason": "other"}).status_code == 200, texts
        asked = visit("adjudicator").post(f"/api/v1/projects/{world.mine.project}/lease", {"want": 5}).json()
        assert asked["questions"]
    (question,) = (q for q in asked["questions"] if q["prompt"][0]["text"] == prompt)
    assert {answer["text"] for answer in question["answers"]} == {"yes", "no"}
    with site.ledger.reading() as connection:
        assert len(projects.gold_answers(connection, world.mine.project)) == 1


def test_rows_that_another_tool_left_unfinished_are_named(visit: Visits, world: World) -> None:
    draft = ARGILLA | {"responses": {}}
    broken = ARGILLA | {"responses": {"preference": [{"value": [{"value": "reply-9", "rank": 1}] * 2}]}}
    rows = [ARGILLA, draft, broken, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    content = b"\n".join(json.dumps(row).encode() for row in rows) + b'\n{"fields": \n'
    reply = bring(visit("owner"), world.mine.project, content, "a.jsonl").json()
    assert (reply["added"], reply["problem_count"]) == (1, 4)
    lines, whats = zip(*((problem["line"], problem["what"]) for problem in reply["problems"]), strict=True)
    assert lines == (2, 3, 4, 5)
    for what, expected in zip(
        whats, ("no pair", "speaks of 'reply-9'", "no row of argilla", "JSON"), strict=True
    ):
        assert expected in what and "/" not in what, "no path of this server"


@pytest.mark.parametrize(
    ("format", "row", "said"),
    [
        ("argilla", LABEL_STUDIO, "a.jsonl: no row of argilla that can be used. Line 1: no row of argilla"),
        ("ultrafeedback", {"instruction": "a", "completions": [1]}, "not as ultrafeedback writes it"),
        ("pairs", ARGILLA, "fields, responses"),
        ("csv", ARGILLA, "format: Input should be 'auto'"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_than_was_said_is_refused(
    visit: Visits, world: World, format: str, row: dict[str, Any], said: str
) -> None:
    content = json.dumps(row).encode()
    reply = bring(visit("owner"), world.mine.project, content, "a.jsonl", f"?format={format}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid")
    assert said in reply.json()["error"]["message"]


# Out


@pytest.fixture
def rewritten(visit: Visits, world: World) -> None:
    """A second judgement, with a better answer; the first is the world's."""
    body = {"strength": 0, "seconds": 1.0, "key": "rewritten", "edit": {"position": 0, "text": "better"}}
    path = f"/api/v1/assignments/{world.mine.assignment}/judgement"
    assert visit("rater").post(path, body).status_code == 200


def export(visit: Visits, world: World, key: str) -> Any:
    return visit("owner").get(f"/api/v1/projects/{world.mine.project}/export/{key}")


ROWS = {"preferences": 2, "unpaired": 2, "rankings": 2, "demonstrations": 1, "judgements": 2}


@pytest.mark.parametrize("key", EXPORTS)
def test_every_export_holds_the_answers(visit: Visits, world: World, rewritten: None, key: str) -> None:
    reply = export(visit, world, key)
    assert reply.status_code == 200
    assert reply.headers["content-disposition"] == f'attachment; filename="{key}"'
    name, _, ending = key.rpartition(".")
    if ending == "jsonl":
        assert len([json.loads(line) for line in reply.text.splitlines()]) == ROWS[name]
    elif ending == "csv":
        assert reply.text.count("\r\n") == ROWS[name] + 1
    elif ending == "parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(io.BytesIO(reply.content)).to_pylist()
        lines = export(visit, world, f"{name}.jsonl").text.splitlines()
        whole = [{k: v for k, v in row.items() if v is not None} for row in rows]
        assert len(whole) == ROWS[name]
        assert [w | json.loads(line) for w, line in zip(whole, lines, strict=True)] == whole
    elif ending == "zip":  # of media, which this project has none of
        assert zipfile.ZipFile(io.BytesIO(reply.content)).namelist() == []
    elif ending == "json":
        (source,) = reply.json()
        assert source["source"] == "secret-source.jsonl" and source["licence"] == ""
    else:
        assert reply.text.startswith("# Mine\n") and "| Judgements | 2 of 2 questions |" in reply.text


def test_the_page_offers_every_export(visit: Visits, world: World) -> None:
    page = visit("owner").get(f"/projects/{world.mine.project}/data").text
    for key in EXPORTS:
        assert page.count(f'href="/api/v1/projects/{world.mine.project}/export/{key}"') == 1
    assert export(visit, world, "preferences.pkl").status_code == 404
    assert export(visit, world, "demonstrations.parquet").status_code == 409, "there are none yet"


TAMPERED = {
    "strength": ("UPDATE preference SET strength = 1", "it is not what the rater said"),
    "side": ("UPDATE presentation SET slot = 9 - slot; UPDATE presentation SET slot = slot - 8", "not what"),
    "seconds": ("UPDATE judgement SET active_seconds = 9", "it is not what the rater said"),
    "question": ("UPDATE item SET reason = 'x'", "its question is not what was asked"),
    "text of an answer": ("UPDATE completion SET body = 'x' || id", "one of its answers is not"),
    "origin of an answer": ("UPDATE completion SET policy_id = NULL", "one of its answers is not"),
    "prompt": ("UPDATE message SET content = 'x' || id", "its prompt is not what was shown"),
    "guideline": ("UPDATE guideline_version SET body = 'x'", "its guideline is not what was shown"),
    "comment": ("UPDATE answer SET body = 'x'", "what stands beside it is not what the rater wrote"),
    "no comment": ("DELETE FROM answer", "what stands beside it is not what the rater wrote"),
    "no sides": ("DELETE FROM presentation", "what was shown is not on record"),
    "no question": ("DELETE FROM item", "what was shown is not on record"),
    "no answer": ("DELETE FROM completion", "one of its answers is not what was shown"),
    "no trail": ("DELETE FROM audit", "it is not what the rater said"),
}  # fmt: skip


def tamper(path: Path, statements: str) -> None:
    """As somebody who may write to the file can: the triggers that forbid it are dropped first."""
    connection = sqlite3.connect(path)
    triggers = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    connection.executescript(";".join([*(f"DROP TRIGGER {trigger}" for trigger in triggers), statements]))
    connection.close()


@pytest.mark.parametrize("name", TAMPERED)
def test_what_does_not_lead_back_is_not_exported(
    visit: Visits, world: World, site: Site, tmp_path: Path, name: str
) -> None:
    statements, reason = TAMPERED[name]
    tamper(tmp_path / "ledger.sqlite", statements)
    for key in EXPORTS:
        reply = export(visit, world, key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict"), key
        said = reply.json()["error"]["message"]
        assert said.startswith("1 of 1 judgements do not lead back") and reason in said
        assert world.mine.judgement in said and world.theirs.judgement not in said
    release = visit("owner").post(f"/api/v1/projects/{world.mine.project}/releases", {"name": "r"})
    assert release.status_code == 409 and world.mine.judgement in release.text


def test_another_projects_damage_keeps_nobody_from_their_answers(
    visit: Visits, world: World, site: Site, tmp_path: Path
) -> None:
    statement = f"UPDATE preference SET strength = 1 WHERE judgement_id = '{world.theirs.judgement}'"
    tamper(tmp_path / "ledger.sqlite", statement)
    assert export(visit, world, "preferences.jsonl").status_code == 200
    theirs = visit("outsider").get(f"/api/v1/projects/{world.theirs.project}/export/preferences.jsonl")
    assert theirs.status_code == 409
