"""API tokens, and the Python client, over a real socket."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from accord.client import ApiError, connect
from accord.errors import AccordError, LedgerError
from accord.ledger import Ledger, database, tokens
from accord.ledger.database import utc_now
from accord.web.auth import Site
from web.conftest import Visits
from web.serving import serving
from web.world import PASSWORD, World


@pytest.fixture(scope="module")
def served(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("served") / "ledger.sqlite"
    shutil.copyfile(world.path, path)
    with pytest.MonkeyPatch.context() as patch, serving(path) as (url, _):
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        yield url


# Tokens


def test_a_token_is_made_shown_once_used_listed_and_revoked(visit: Visits, world: World) -> None:
    browser, program = visit("rater"), visit("new")
    body = {"name": "my <b>script</b>", "scopes": ["judge", "read"], "days": 1, "password": PASSWORD}
    made = browser.post("/api/v1/account/tokens", body).json()
    assert set(made) == {"id", "token", "expires_at"} and made["token"].startswith("accord_")
    program.token = made["token"]
    assert program.get("/api/v1/projects").json()["projects"][0]["role"] == "rater"
    assert made["token"] not in browser.get("/account").text
    assert visit("owner").send("DELETE", f"/api/v1/account/tokens/{made['id']}").status_code == 404
    assert browser.send("DELETE", f"/api/v1/account/tokens/{made['id']}").status_code == 200
    assert program.get("/api/v1/projects").status_code == 401


def test_the_account_page_gets_what_it_needs_about_tokens(
    visit: Visits, world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accord.web import pages

    seen = {}
    real = pages.page

    def spy(*given: object, **context: object) -> object:
        seen.update(context)
        return real(*given, **context)  # type: ignore[arg-type]

    monkeypatch.setattr(pages, "page", spy)
    visit("rater", by="token").get("/api/v1/projects")
    assert visit("rater").get("/account").status_code == 200
    (shown,) = seen["tokens"]  # type: ignore[misc]
    assert shown["scopes"] == ["read", "judge", "manage"] and shown["last_used_at"]
    assert {scope["key"] for scope in seen["scopes"]} == set(tokens.SCOPES)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["admin"]},
        {"scopes": "read"},
        {"name": ""},
        {"name": " "},
        {"name": "a\nb"},
        {"name": "x" * 65},
        {"days": 0},
        {"days": 367},
        {"days": 1.5},
    ],
    ids=str,
)
def test_tokens_that_make_no_sense_are_refused(visit: Visits, wrong: dict[str, object]) -> None:
    body = {"name": "t", "scopes": ["read"], "days": 1, "password": PASSWORD} | wrong
    assert visit("rater").post("/api/v1/account/tokens", body).status_code in (409, 422)


def test_tokens_end_by_themselves_and_there_are_not_too_many(world: World, site: Site) -> None:
    account = world.accounts["stranger"]
    with site.ledger.writing() as connection:
        _, ended, _ = tokens.add_token(connection, account, "old", ["read"], seconds=0, now=utc_now())
        assert tokens.read_token(connection, ended, utc_now()) is None
        for n in range(tokens.MOST_TOKENS - 1):  # the world made one
            tokens.add_token(connection, account, f"t{n}", ["read"], seconds=60, now=utc_now())
        with pytest.raises(LedgerError, match="revoke one first"):
            tokens.add_token(connection, account, "too many", ["read"], seconds=60, now=utc_now())
        assert tokens.end_tokens(connection, account) == tokens.MOST_TOKENS
    assert site.ledger.verify().ok


# The client


def test_the_client_imports_judges_measures_and_exports(served: str, world: World, tmp_path: Path) -> None:
    owner = connect(served, world.tokens["owner"])
    (project,) = owner.projects()
    assert (project["name"], project["role"]) == ("Mine", "owner")
    rows = tmp_path / "née rows.jsonl"
    row = {"prompt": "From a file?", "chosen": "yes", "rejected": "no"}
    rows.write_text(json.dumps(row) + '\n{"prompt": 1}\n', encoding="utf-8")
    done = owner.import_file(project["id"], rows, gold=True)
    assert (done["added"], done["known"], done["problem_count"]) == (1, 0, 1)
    rater = connect(served, world.tokens["rater"])
    held = rater.lease(project["id"], 3)
    assert len(held) == 3
    first = rater.judge(held[0], 2, seconds=1.5, key="my-own-key", comment="good")
    assert rater.judge(held[0], 2, seconds=1.5, key="my-own-key")["judgement"] == first["judgement"]
    assert rater.skip(held[1], "unclear")["progress"]["skipped"] == 1
    lines = owner.export(project["id"]).decode().splitlines()
    assert len(lines) == 2 and set(json.loads(lines[0])) >= {"prompt", "chosen", "rejected", "margin"}
    assert b"my-own-key" not in owner.export(project["id"], "judgements.csv")
    assert owner.quality(project["id"])["summary"]


def test_the_client_says_what_was_refused_and_why(served: str, world: World) -> None:
    rater = connect(served, world.tokens["rater"])
    for status, code, call in (
        (403, "forbidden", lambda: rater.export(world.mine.project)),
        (404, "not_found", lambda: rater.lease(world.theirs.project)),
        (404, "not_found", lambda: rater.lease("../account")),
        (422, "invalid", lambda: rater.lease(world.mine.project, 99)),
    ):
        with pytest.raises(ApiError) as refused:
            call()
        assert (refused.value.status, refused.value.code) == (status, code)
        assert isinstance(refused.value, AccordError) and str(refused.value)


def test_connecting_fails_at_once_and_says_why(served: str, world: World) -> None:
    for url, token, word in (
        (served, "accord_wrong", "revoked"),
        (served, "", "account page"),
        (served, "a\nb", "garbled"),
        ("http://feedback.example.org", "x", "https"),
        ("ftp://127.0.0.1", "x", "https"),
        ("http://127.0.0.1:9", "x", "running"),
    ):
        with pytest.raises(ApiError, match=word):
            connect(url, token)
    assert world.tokens["rater"] not in repr(connect(served, world.tokens["rater"]))


def test_a_redirect_does_not_carry_the_token_elsewhere(world: World) -> None:
    seen: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/stolen")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ApiError, match="HTTP 302"):
            connect(f"http://127.0.0.1:{server.server_port}", "token")
        server.shutdown()
    assert seen == ["/api/v1/projects"]


def test_the_client_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, accord.client; "
        "print([m for m in ('torch', 'fastapi', 'sqlalchemy', 'pydantic', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_ledger_made_before_tokens_gets_them(tmp_path: Path) -> None:
    """From schema 0002 as it was released."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine

    path = tmp_path / "old.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    engine.dispose()
    with Ledger.open(path) as ledger, ledger.reading() as connection:
        assert tokens.tokens_of(connection, "nobody", utc_now()) == []
