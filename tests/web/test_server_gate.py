"""What no route sees: forged and foreign requests, oversized bodies; and the headers that every reply has."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from accord.errors import LedgerError
from accord.ledger import accounts
from accord.ledger.database import utc_now
from accord.web import listing, security
from accord.web.auth import Site
from accord.web.security import Address, csrf_token
from web.access import ACCESS, address
from web.conftest import Visits
from web.world import ADDRESS, HOST, ORIGIN, Visit, World

CHANGING = sorted(r for r in ACCESS if not r.startswith("GET"))


def changed(site: Site) -> str:
    """The audit trail's newest hash: another one when anything of weight happened."""
    return site.ledger.verify().head


# Forgeries


@pytest.mark.parametrize("route", CHANGING)
@pytest.mark.parametrize("token", ["", "0" * 64, "another session's", "é"])
def test_every_change_needs_the_csrf_token_of_its_own_session(
    visit: Visits, world: World, site: Site, route: str, token: str
) -> None:
    method, path = route.split(" ")
    path, browser = address(path, world.mine), visit("admin")
    token = csrf_token(world.sessions["owner"]) if token.startswith("another") else token
    before = changed(site)
    if path.startswith("/api/"):
        headers: dict[str, str | None] = {"x-csrf-token": token}
        response = browser.send(method, path, json_body=ACCESS[route].body or {}, headers=headers)
        assert response.json()["error"]["code"] == "csrf"
    else:
        response = browser.post(path, form={"csrf": token})
        assert "out of date" in response.text
    assert response.status_code == 403
    assert changed(site) == before


FOREIGN: list[dict[str, str | None]] = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": f"https://{HOST}"},
    {"origin": f"http://{HOST}:8000"},
    {"origin": f"http://{HOST}.evil.example"},
    {"origin": f"{ORIGIN}@evil.example"},
    {"origin": ""},
    {"origin": None, "sec-fetch-site": "cross-site"},
    {"origin": None, "sec-fetch-site": "same-site"},
    {"origin": None, "sec-fetch-site": "none"},
    {"origin": None, "sec-fetch-site": None},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_requests_from_other_sites_are_refused_even_with_the_token(
    visit: Visits, world: World, headers: dict[str, str | None]
) -> None:
    browser = visit("admin")
    response = browser.send(
        "PATCH", f"/api/v1/projects/{world.mine.project}", json_body={"overlap": 3}, headers=headers
    )
    assert (response.status_code, response.json()["error"]["code"]) == (403, "csrf")
    response = browser.post("/logout", headers=headers)
    assert response.status_code == 403
    assert browser.get("/account").status_code == 200


def test_an_old_browser_without_origin_may_say_where_it_stands(visit: Visits, world: World) -> None:
    headers: dict[str, str | None] = {"origin": None, "sec-fetch-site": "same-origin"}
    path = f"/api/v1/projects/{world.mine.project}"
    assert visit("owner").send("PATCH", path, json_body={"overlap": 3}, headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", f"{HOST}.evil.example", f"{HOST}:81", "", "[::1]", "a b"])
def test_other_host_names_are_refused_so_that_dns_rebinding_gains_nothing(visit: Visits, host: str) -> None:
    for path in ("/login", "/api/v1/projects", "/static/app.js"):
        assert visit("owner").get(path, headers={"host": host}).status_code == 400


def test_a_token_makes_csrf_and_origin_needless_and_cookies_worthless(visit: Visits, world: World) -> None:
    """Forgeries cannot carry a token; and one that does not work is not mended by a cookie."""
    path = f"/api/v1/projects/{world.mine.project}"
    headers: dict[str, str | None] = {"origin": None, "sec-fetch-site": None, "x-csrf-token": None}
    program = visit("owner", by="token")
    assert program.send("PATCH", path, json_body={"overlap": 3}, headers=headers).status_code == 200
    browser = visit("owner")
    for wrong in ("Bearer wrong", "Bearer ", "bearer x", "BEARER\tx"):
        response = browser.send("PATCH", path, json_body={"overlap": 3}, headers={"authorization": wrong})
        assert response.status_code in (401, 403) or wrong.startswith("BEARER\t")
    foreign: dict[str, str | None] = {"authorization": "Basic x", "origin": "http://evil.example"}
    assert browser.send("PATCH", path, json_body={"overlap": 3}, headers=foreign).status_code == 403
    form: dict[str, str | None] = {"authorization": "Bearer x", "origin": "http://evil.example"}
    assert browser.post("/logout", headers=form).status_code == 403  # no token opens a form


def test_the_api_takes_json_alone(visit: Visits, world: World) -> None:
    """Forms of other sites can send these types without asking."""
    path = f"/api/v1/projects/{world.mine.project}"
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        response = visit("owner").send(
            "PATCH", path, content=b'{"overlap": 3}', headers={"content-type": media}
        )
        assert response.status_code == 415, media


def test_a_strange_cookie_of_another_app_locks_nobody_out(visit: Visits, world: World) -> None:
    """Programs on other ports of the same host share its cookies."""
    browser = visit("owner")
    browser.cookies = {'we[ird"': '{"a": "b, c"}', **browser.cookies, "last": "\\"}
    path = f"/api/v1/projects/{world.mine.project}"
    assert browser.send("PATCH", path, json_body={"overlap": 3}).status_code == 200


# Sizes


def test_bodies_are_limited_whatever_length_they_announce(visit: Visits, world: World) -> None:
    browser = visit("owner")
    path = f"/api/v1/projects/{world.mine.project}/guideline"
    large = b'{"text": "' + b"x" * security.JSON_BYTES + b'"}'
    assert browser.send("POST", path, content=large).status_code == 413
    for length in ("9" * 5000, "-1", "1e3", "²", "0x10", " ", str(security.JSON_BYTES + 1)):
        response = browser.send("POST", path, content=b"{}", headers={"content-length": length})
        assert response.status_code == 413, length
    form = {"login": "x" * security.FORM_BYTES, "password": "y"}
    assert visit().post("/login", form=form).status_code == 413


def test_bodies_that_do_not_announce_their_length_are_counted(
    client: TestClient, visit: Visits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accord.web.api_manager.IMPORT_BYTES", 1000)
    browser = visit("owner")
    usual = {"cookie": f"{ADDRESS.cookie('session')}={world.sessions['owner']}", "origin": ORIGIN}
    for path, size, media in (
        ("guideline", security.JSON_BYTES + 1, "application/json"),
        ("import", 1001, "application/octet-stream"),
    ):
        headers = usual | {"x-csrf-token": browser.csrf, "content-type": media, "x-file-name": "a.jsonl"}
        client.cookies.clear()
        response = client.post(
            f"/api/v1/projects/{world.mine.project}/{path}",
            content=(b"x" * 100 for _ in range(size // 100 + 1)),
            headers=headers | {"host": HOST},
        )
        assert response.status_code == 413, path


# Headers


def every_kind_of_reply(visit: Visits, world: World) -> list[Any]:
    owner, path = visit("owner"), f"/projects/{world.mine.project}"
    return [
        owner.get("/projects"),
        owner.get(f"/api/v1{path}/quality"),
        owner.get(f"/api/v1{path}/export/judgements.csv"),
        owner.get("/static/app.js"),
        owner.get("/static/accord.css?v=0"),
        owner.get("/static/none.js"),
        owner.get("/nothing"),
        owner.get("/api/v1/nothing"),
        owner.send("PUT", "/api/v1/projects", json_body={}),
        owner.get(f"/projects/{world.theirs.project}"),
        visit("rater").get(f"{path}/people"),
        visit().get("/projects"),
        visit().get("/login"),
        visit().get("/api/v1/projects"),
        visit().sign_in("owner", "wrong password"),
        owner.post(f"/api/v1{path}/guideline", {}),
        owner.post(f"/api/v1{path}/guideline", {"text": "x" * (1 << 20)}),
        owner.send(
            "POST", f"/api/v1{path}/guideline", json_body={}, headers={"origin": "http://evil.example"}
        ),
        owner.send("POST", f"/api/v1{path}/guideline", content=b"x", headers={"content-type": "text/plain"}),
        owner.get("/login", headers={"host": "evil.example"}),
        owner.send("OPTIONS", "/login"),
        owner.send("HEAD", "/login"),
        owner.send("TRACE", "/login"),
    ]


def test_every_reply_has_the_strict_headers(visit: Visits, world: World) -> None:
    statuses = set()
    for response in every_kind_of_reply(visit, world):
        statuses.add(response.status_code)
        for name, value in security.HEADERS.items():
            assert response.headers[name] == value, (response.request.url, name)
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        if "/static/" not in str(response.request.url):
            assert response.headers["cache-control"] == "no-store", response.request.url
        assert "server" not in response.headers
    assert statuses >= {200, 303, 400, 401, 403, 404, 405, 413, 415, 422}


def test_static_files_may_be_kept_where_the_address_has_the_version(visit: Visits) -> None:
    from accord import __version__

    kept = visit().get(f"/static/app.js?v={__version__}")
    assert kept.headers["cache-control"] == "public, max-age=3600"
    again = visit().get("/static/app.js")
    assert again.headers["cache-control"] == "no-cache"
    same = visit().get("/static/app.js", headers={"if-none-match": again.headers["etag"]})
    assert same.status_code == 304


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a defect with secrets in it")


def test_a_defect_gives_a_reply_with_headers_and_without_insides(
    client: TestClient, visit: Visits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "project_rows", broken)
    quiet = Visit(TestClient(client.app, raise_server_exceptions=False, follow_redirects=False))
    quiet.cookies = visit("owner").cookies
    for path in ("/projects", "/api/v1/projects"):
        response = quiet.get(path)
        assert response.status_code == 500
        assert response.headers["content-security-policy"] == security.CSP
        assert "secret" not in response.text and "Traceback" not in response.text
    assert response.json()["error"]["code"] == "defect"


def test_what_the_database_says_is_not_for_visitors(
    visit: Visits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> Any:
        raise LedgerError("ledger /home/secret/ledger.sqlite: database is locked") from OSError("locked")

    monkeypatch.setattr(listing, "project_rows", locked)
    response = visit("owner").get("/api/v1/projects")
    assert response.status_code == 503
    assert "secret" not in response.text and response.headers["retry-after"]


def test_gate_errors_of_a_browser_are_pages_and_those_of_programs_json(visit: Visits) -> None:
    page = visit("owner").post("/logout", form={"csrf": "wrong"})
    assert page.headers["content-type"].startswith("text/html") and "<h1" in page.text
    reply = visit("owner").post("/api/v1/projects", {}, headers={"x-csrf-token": "wrong"})
    assert reply.json()["error"]["code"] == "csrf"


# Cookies


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(visit: Visits) -> None:
    browser = visit("new")
    lines = [browser.get("/login").headers["set-cookie"]]
    lines.append(browser.sign_in("owner").headers["set-cookie"])
    for line in lines:
        words = {word.strip().lower() for word in line.split(";")}
        assert {"httponly", "samesite=lax", "path=/"} <= words
        assert not any(word.startswith("domain") for word in words)


def test_behind_https_cookies_travel_over_nothing_else(site: Site, world: World) -> None:
    from accord.web.app import make_app

    secure = Address(frozenset({"accord.example"}), secure=True)
    behind = Site(site.ledger, secure, hasher=site.hasher)
    with TestClient(make_app(behind), base_url="https://accord.example", follow_redirects=False) as client:
        response = client.get("/login")
    assert "__Host-accord-visit=" in response.headers["set-cookie"]
    assert "secure" in response.headers["set-cookie"].lower()
    assert response.headers["strict-transport-security"]


def test_a_page_does_not_load_anything_from_elsewhere(visit: Visits, world: World) -> None:
    for route in ACCESS:
        if route.startswith("GET /") and "/api/" not in route and "static" not in route:
            text = visit("admin").get(address(route.split(" ")[1], world.mine)).text
            assert "://" not in text.replace(ORIGIN, "").replace("http://www.w3.org/2000/svg", ""), route
            assert "<style" not in text and " style=" not in text and "<script>" not in text, route


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static/%252e%252e%252fapp.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/app.js%00.css",
        "/static/" + "a/" * 2000,
        "/static/../static_secret/x",
        "/static/.",
        "/static/",
    ],
)
def test_static_serves_its_folder_alone(visit: Visits, path: str) -> None:
    response = visit().get(path)
    assert response.status_code in (307, 404, 405), response.status_code
    assert "def make_app" not in response.text and "root:" not in response.text


def test_the_app_knows_no_documentation_pages_that_load_from_other_hosts(client: TestClient) -> None:
    assert isinstance(client.app, FastAPI)
    paths = [getattr(route, "path", "") for route in client.app.routes]
    assert not {"/docs", "/redoc", "/openapi.json"} & set(paths)
    description = client.app.openapi()
    assert "/api/v1/projects/{project_id}/lease" in description["paths"]


def test_a_session_that_has_ended_is_signed_out_everywhere(visit: Visits, world: World, site: Site) -> None:
    with site.ledger.writing() as connection:
        accounts.end_sessions(connection, world.accounts["owner"])
        accounts.start_session(connection, world.accounts["owner"], utc_now())
    browser = visit("owner")
    assert browser.get("/api/v1/projects").status_code == 401
    assert browser.get("/projects").headers["location"] == "/login?next=/projects"
