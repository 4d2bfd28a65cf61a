"""Texts and values that try to break something, in every field, path and query; and no defect comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from accord.web.auth import Site
from web import hostile
from web.access import ACCESS, address
from web.conftest import Visits
from web.world import PASSWORD, Visit, World

SQL = [
    "' OR '1'='1",
    "'; DROP TABLE judgement; --",
    '" OR 1=1 --',
    "x' UNION SELECT password_hash FROM account --",
    "%",
    "_",
    "\\",
    "1); DELETE FROM audit; --",
]
STRANGE = ["\x00", "a\x00b", "\u202e", "\ud800", "é" * 500, "x" * 20_000]
STRANGE += ["-1", "9" * 400, "NaN", "../..", "%00", ""]
LINE = "a" * 1_000_000


@pytest.fixture
def free(site: Site) -> Site:
    """Without limits on how often: these tests ask thousands of things."""
    site.writes_per_account.limit = site.sign_ins_per_address.limit = site.sign_ins_per_login.limit = 10**9
    return site


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.mark.parametrize("route", sorted(r for r in ACCESS if "{" in r))
def test_nothing_in_a_path_breaks_anything(visit: Visits, world: World, free: Site, route: str) -> None:
    method, path = route.split(" ")
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    before = free.ledger.verify().head
    admin = visit("admin")
    for text in [*SQL, *STRANGE]:
        for name in names:
            hit = path.replace("{" + name + "}", quoted(text))
            response = admin.send(method, address(hit, world.mine), json_body=ACCESS[route].body or {})
            assert 300 <= response.status_code < 500 or text in ("", "."), (text, response.status_code)
    assert free.ledger.verify().head == before


QUERIES = [
    ("/projects/{p}/judgements", "rater"),
    ("/projects/{p}/judgements", "strength"),
    ("/projects/{p}/judgements", "page"),
    ("/login", "next"),
    ("/static/app.js", "v"),
]


@pytest.mark.parametrize(("path", "name"), QUERIES)
def test_nothing_in_a_query_breaks_anything(
    visit: Visits, world: World, free: Site, path: str, name: str
) -> None:
    admin, found = visit("admin"), set()
    for text in [*SQL, *STRANGE, *hostile.SMALL[::3]]:
        response = admin.get(f"{path.format(p=world.mine.project)}?{name}={quoted(text)}")
        assert response.status_code < 500, text
        found.add(response.text.count("/judgements/"))
        assert "<script>alert" not in response.text
    if name == "rater":
        assert 0 in found, "no filter lets everything through"


def test_a_filter_matches_what_it_says_and_no_pattern(visit: Visits, world: World) -> None:
    admin, path = visit("admin"), f"/projects/{world.mine.project}/judgements"
    row = f"{path}/{world.mine.judgement}"
    assert row in admin.get(path).text
    for text in ["%", "_", "' OR '1'='1", "r-%"]:
        assert row not in admin.get(f"{path}?rater={quoted(text)}").text
    assert row in admin.get(f"{path}?strength=2").text or row in admin.get(f"{path}?strength=-2").text
    assert row not in admin.get(f"{path}?strength=0").text


def batches(size: int) -> list[str]:
    """The hostile texts, several in one: what is done to one is done to all."""
    short = [text for text in [*SQL, *hostile.SMALL, "\x00", "a\x00b"] if "\ud800" not in text]
    joined = ["\n\n".join(short[i : i + 8]) for i in range(0, len(short), 8)]
    return [*joined, *[text[:size] for text in hostile.LARGE]]


def test_every_text_field_keeps_what_was_written_and_shows_it_harmlessly(
    visit: Visits, world: World, free: Site
) -> None:
    owner, rater, project = visit("owner"), visit("rater"), world.mine.project
    base = f"/api/v1/projects/{project}"
    question = rater.post(f"{base}/lease", {"want": 1}).json()["questions"][0]
    path, revises = f"/api/v1/assignments/{question['assignment']}/judgement", None
    for n, text in enumerate(batches(50_000)):
        beside = {"comment": text, "edit": {"position": 0, "text": f"x{text}"}}
        body = {"strength": 1, "seconds": 1.0, "key": f"hostile-{n:04}", "revises": revises, **beside}
        reply = rater.post(path, body)
        assert reply.status_code == 200, (text[:50], reply.text[:200])
        revises = reply.json()["judgement"]
        back = rater.post(f"{base}/undo", {}).json()["question"]["earlier"]
        assert (back["comment"], back["edit"]["text"]) == (text, f"x{text}")
        if n < 20:
            harmless(rater.get(f"/projects/{project}/mine").text)
            harmless(owner.get(f"/projects/{project}/judgements").text)
    assert n > 20 and owner.get(f"{base}/export/judgements.csv").status_code == 200
    surrogate = rater.post(path, {"strength": 1, "seconds": 1.0, "key": "surrogate", "comment": "\ud800"})
    assert surrogate.status_code == 422


def harmless(page: str, *, typed: bool = False) -> None:
    """Only what the templates wrote is markup (render.py's own tests look closer)."""
    lower = page.lower()
    for sign in (
        "<script>alert",
        "onerror=alert(1)>",
        "<img",
        "<iframe",
        "<svg onload",
        "javascript:alert(1)'>",
    ):
        assert sign not in lower, sign
    # what somebody typed stands in the form again as it was, for her alone
    assert typed or ("\u202e" not in page and "\x00" not in page)


def test_guidelines_names_and_forms_are_shown_harmlessly(visit: Visits, world: World, free: Site) -> None:
    owner, project = visit("owner"), world.mine.project
    base = f"/api/v1/projects/{project}"
    for text in batches(10_000):
        assert owner.post(f"{base}/guideline", {"text": text}).status_code == (200 if text.strip() else 422)
        name = text.strip()[:200] or "x"
        assert owner.send("PATCH", base, json_body={"name": name}).status_code == 200
        assert owner.post(f"{base}/releases", {"name": name[:80]}).status_code in (200, 409)
        harmless(visit("rater").get(f"/projects/{project}/judge").text)
    for label in (*SQL, *hostile.SMALL):
        form = {"flags": [label[:40]], "attributes": [label[:40]]}
        asked = owner.send("PATCH", base, json_body={"form": form}).status_code
        assert asked == 422 or not set(label[:40]) & set("<>&\"'`{}\u202e\x00"), label
    for page in ("guideline", "settings"):  # in their forms the texts stand as they were written
        harmless(owner.get(f"/projects/{project}/{page}").text, typed=True)
    harmless(owner.get(f"/projects/{project}/data").text)
    harmless(owner.get("/projects").text)


def test_hostile_logins_and_passwords(visit: Visits, world: World, free: Site) -> None:
    for text in [*SQL, *hostile.SMALL[::2], "x" * 900]:
        written = text.encode("utf-8", "replace").decode()
        refused = visit().post("/login", form={"login": written, "password": written})
        assert refused.status_code in (401, 422)
        harmless(refused.text, typed=True)
        made = visit("owner").post(f"/api/v1/projects/{world.mine.project}/invitations", {"role": "rater"})
        path = "/invite/" + made.json()["url"].rpartition("/")[2]
        joined = visit().post(path, form={"login": written, "password": PASSWORD})
        assert joined.status_code in (303, 422)
        harmless(joined.text, typed=True)
    harmless(visit("owner").get(f"/projects/{world.mine.project}/people").text)


def test_lines_of_a_megabyte_are_refused_or_cut_in_every_field(
    visit: Visits, world: World, free: Site
) -> None:
    """Just under the limit of a body, in each text field that there is."""
    admin, base = visit("admin"), f"/api/v1/projects/{world.mine.project}"
    line = LINE
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/v1/projects", {"name": line, "guideline": "g"}),
        ("POST", "/api/v1/projects", {"name": "n", "guideline": line}),
        ("PATCH", base, {"name": line}),
        ("PATCH", base, {"state": line}),
        ("PATCH", base, {"form": {"flags": [line]}}),
        ("POST", f"{base}/guideline", {"text": line}),
        ("POST", f"{base}/releases", {"name": line}),
        ("POST", f"{base}/invitations", {"role": line}),
        ("POST", f"{base}/undo", {"before": line}),
        ("POST", "/api/v1/account/password", {"old": line, "new": line[:500_000]}),
        ("POST", "/api/v1/account/tokens", {"name": line, "scopes": ["read"], "password": "x"}),
        ("POST", f"/api/v1/assignments/{world.mine.assignment}/skip", {"reason": line}),
    ]
    answer = {"strength": 1, "seconds": 1.0, "key": "0123456789"}
    beside: list[dict[str, Any]] = [
        {"key": line},
        {"comment": line},
        {"revises": line},
        {"flags": [[line], []]},
        {"ratings": {line: [1, 1]}},
        {"edit": {"position": 0, "text": line}},
        {line: 1},
    ]
    path = f"/api/v1/assignments/{world.mine.assignment}/judgement"
    bodies += [("POST", path, answer | more) for more in beside]
    for method, where, body in bodies:
        reply = (visit("rater") if "assignments" in where else admin).send(method, where, json_body=body)
        assert reply.status_code in (413, 422), (where, list(body), reply.status_code)
        assert len(reply.content) < 2000, "errors do not send it all back"


WRONG = [None, True, 0, -1, 10**30, 1.5, "", "x", [], {}, [[]], {"a": {}}, ["x"] * 2_000]


def fields_of(client: TestClient) -> list[tuple[str, str, str]]:
    """(method, path, field) of every JSON field that the API takes."""
    assert isinstance(client.app, FastAPI)
    described = client.app.openapi()
    found = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                name = content["schema"]["$ref"].rpartition("/")[2]
                fields = described["components"]["schemas"][name].get("properties", {})
                found += [(method.upper(), path, field) for field in fields]
    return found


def test_wrong_types_in_every_field_are_refused_and_never_a_defect(
    client: TestClient, visit: Visits, world: World, free: Site
) -> None:
    fields = fields_of(client)
    assert len(fields) > 30
    for method, path, field in fields:
        body = ACCESS[f"{method} {path}"].body or {}
        for value in WRONG:
            who = "rater" if "/assignments/" in path else "owner"
            where = address(path, world.mine)
            reply = visit(who).send(method, where, json_body=body | {field: value})
            assert reply.status_code < 500, (path, field, value)
            if value in ({"a": {}}, ["x"] * 2_000):
                assert reply.status_code in (403, 404, 409, 422), (path, field, value, reply.status_code)


DEEP = 50_000
RAW = {
    "deep list": b"[" * DEEP + b"]" * DEEP,
    "deep object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep in a field": b'{"text": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "cut short": b'{"text": "x',
    "not text": b"\xff\xfe\x00",
    "huge number": b'{"text": ' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"text": 1e999999}',
    "nan": b'{"text": NaN}',
    "lone surrogate": b'{"text": "\\ud800"}',
    "lone surrogate as a name": b'{"\\ud800": 1, "text": "x"}',
    "name twice": b'{"text": 1, "text": []}',
    "many names": json.dumps({f"n{i}": i for i in range(50_000)}).encode(),
    "null": b"null",
    "number": b"1",
    "string": b'"x"',
    "list": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("name", RAW)
def test_bodies_that_are_no_body_are_refused(visit: Visits, world: World, site: Site, name: str) -> None:
    before = site.ledger.verify().head
    path = f"/api/v1/projects/{world.mine.project}/guideline"
    reply = visit("owner").send("POST", path, content=RAW[name])
    assert reply.status_code in (400, 413, 422), reply.status_code
    assert reply.json()["error"]["message"]
    assert len(reply.content) < 2000
    assert site.ledger.verify().head == before


FILES = {
    "deep": b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}\n",
    "binary": bytes(range(256)) * 100,
    "one line": b'{"prompt": "' + b"a" * 1_000_000 + b'", "chosen": "b", "rejected": "c"}\n',
    "empty": b"",
    "nulls": b'{"prompt": "a\\u0000", "chosen": "b", "rejected": "c"}\n',
    "surrogates": b'{"prompt": "a\\ud800", "chosen": "b", "rejected": "c"}\n',
    "types": b'{"prompt": 1, "chosen": [], "rejected": {}}\n[]\n1\nnull\n"x"\n',
    "huge numbers": b'{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1e999, "x": '
    + b"9" * 5000
    + b"}\n",
    "same twice": b'{"prompt": "a", "chosen": "b", "rejected": "b"}\n',
}
SUFFIXES = ("jsonl", "json", "csv", "tsv", "parquet")


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read_are_refused_and_leave_nothing(
    visit: Visits, world: World, site: Site, name: str
) -> None:
    for suffix in SUFFIXES:
        reply = send_file(visit("owner"), world, FILES[name], f"rows.{suffix}")
        assert reply.status_code in (200, 409, 422), (suffix, reply.text[:200])
        assert "/tmp" not in reply.text and "accord-import" not in reply.text
        if reply.status_code == 200:
            harmless(visit("owner").get(f"/projects/{world.mine.project}/data").text)
    assert visit("rater").get(f"/projects/{world.mine.project}/judge").status_code == 200
    assert site.ledger.verify().ok


def send_file(browser: Visit, world: World, content: bytes, name: str, query: str = "") -> Any:
    headers: dict[str, str | None] = {"content-type": "application/octet-stream", "x-file-name": quoted(name)}
    path = f"/api/v1/projects/{world.mine.project}/import{query}"
    return browser.send("POST", path, content=content, headers=headers)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.jsonl", "a\x00b.jsonl", "\u202ejsonl.jsonl", "x" * 5000 + ".jsonl", "%.jsonl"]
)
def test_names_of_files_are_names_and_not_paths(visit: Visits, world: World, site: Site, name: str) -> None:
    row = b'{"prompt": "new", "chosen": "b", "rejected": "c"}\n'
    reply = send_file(visit("owner"), world, row, name)
    assert reply.status_code == 200 and reply.json()["added"] == 1
    harmless(visit("owner").get(f"/projects/{world.mine.project}/data").text)


@pytest.mark.parametrize("name", ["rows", "rows.exe", "", "rows.jsonl/", "rows.jsonl\x00.png", "rows.pkl"])
def test_other_kinds_of_files_are_refused(visit: Visits, world: World, name: str) -> None:
    assert send_file(visit("owner"), world, b"x", name).status_code == 422


def test_hostile_texts_of_models_are_imported_and_shown_harmlessly(
    visit: Visits, world: World, free: Site
) -> None:
    wanted = [text for text in hostile.SMALL if "\ud800" not in text]
    rows = [
        {"prompt": f"{i} {text}", "chosen": text, "rejected": f"{text}!"} for i, text in enumerate(wanted)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    reply = send_file(visit("owner"), world, content, "<b>rows.jsonl").json()
    assert reply["added"] > len(rows) - 5
    member = visit("adjudicator")
    lease = f"/api/v1/projects/{world.mine.project}/lease"
    seen = 0
    while questions := member.post(lease, {"want": 5}).json()["questions"]:
        for question in questions:
            for shown in (*question["answers"], *question["prompt"]):
                harmless(shown["html"])
            body = {"strength": 1, "seconds": 1.0, "key": f"key-of-{seen:05}"}
            judged = member.post(f"/api/v1/assignments/{question['assignment']}/judgement", body).json()
            page = f"/projects/{world.mine.project}/judgements/{judged['judgement']}"
            if seen % 10 == 0:
                harmless(visit("owner").get(page).text)
            seen += 1
        harmless(member.get(f"/projects/{world.mine.project}/judge").text)
    assert seen >= len(rows)
    table = visit("owner").get(f"/api/v1/projects/{world.mine.project}/export/judgements.csv").text
    assert table.count("\r\n") > seen


def test_no_cell_of_an_exported_table_is_a_formula(visit: Visits, world: World, free: Site) -> None:
    import csv
    import io

    rater, n = visit("rater"), 0
    lease = f"/api/v1/projects/{world.mine.project}/lease"
    for formula in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "\n=1", '="x"&cmd'):
        question = rater.post(lease, {"want": 1}).json()["questions"]
        if not question:
            break
        body = {"strength": 1, "seconds": 1.0, "key": f"formula-{n}", "comment": formula}
        path = f"/api/v1/assignments/{question[0]['assignment']}/judgement"
        assert rater.post(path, body).status_code == 200
        n += 1
    text = visit("owner").get(f"/api/v1/projects/{world.mine.project}/export/judgements.csv").text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    comments = [row["comment"] for row in rows]
    assert n == 5 and sum(comment.startswith("'") for comment in comments) == 5
    for row in rows:
        for name, cell in row.items():
            assert name in ("strength", "seconds") or not cell.lstrip().startswith(("=", "+", "-", "@", "＝"))
