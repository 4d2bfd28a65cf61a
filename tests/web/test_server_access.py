"""Nobody in where they do not belong: every route, for everybody, with objects of their own and of others."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from accord.ledger import database, projects, tokens
from accord.ledger.tokens import SCOPES
from accord.web.auth import Site
from web.access import ACCESS, ADMIN, ANYONE, API, IN, SIGNED_IN, Access, address, routes
from web.conftest import Visits
from web.world import WHO, Objects, Visit, World

PAGES = sorted(r for r, a in ACCESS.items() if r.startswith("GET") and not a.tokens and a.who is not ANYONE)
OF_A_PROJECT = sorted(route for route in ACCESS if "_id}" in route and "/account/" not in route)


def ask(visit: Visit, route: str, access: Access, of: Objects, other: Objects | None = None) -> Any:
    method, path = route.split(" ")
    path = address(path, of, other=other)
    if path.endswith("/import"):
        headers: dict[str, str | None] = {
            "content-type": "application/octet-stream",
            "x-file-name": "rows.jsonl",
        }
        row = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
        return visit.send(method, path, content=row, headers=headers)
    if method == "GET":
        return visit.get(path)
    if access.page:
        return visit.post(path, form=access.body)
    return visit.send(method, path, json_body=access.body)


def outcome(response: Any, access: Access) -> int | str:
    """IN, or the status by which somebody was turned away."""
    to_login = response.status_code == 303 and response.headers["location"].startswith("/login?next=")
    if access.page and to_login:
        return 401
    return response.status_code if response.status_code >= 400 else IN


def test_every_route_says_who_may_use_it(client: TestClient) -> None:
    there = list(routes(client.app.routes))  # type: ignore[attr-defined]
    assert len(there) > 40
    missing = sorted(set(there) - set(ACCESS))
    assert not missing, f"routes that tests/web/access.py does not know: {missing}"
    assert not set(ACCESS) - set(there), "routes that are no more"
    assert len(set(there)) == len(there), "a route is there twice: the second is never reached"


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("route", sorted(ACCESS))
def test_who_may_use_a_route_on_their_own_project(visit: Visits, world: World, route: str, who: str) -> None:
    access = ACCESS[route]
    response = ask(visit(who), route, access, world.mine)
    assert outcome(response, access) == access.who[who], response.text[:300]


@pytest.mark.parametrize("who", [who for who in WHO if who not in ("admin", "outsider")])
@pytest.mark.parametrize("route", OF_A_PROJECT)
def test_another_teams_project_does_not_exist(visit: Visits, world: World, route: str, who: str) -> None:
    access = ACCESS[route]
    response = ask(visit(who), route, access, world.theirs)
    expected: int | str = 401 if who == "nobody" else 403 if access.who is ADMIN else 404
    assert outcome(response, access) == expected, response.text[:300]
    assert "Theirs" not in response.text


@pytest.mark.parametrize("who", ["admin", "owner", "rater"])
@pytest.mark.parametrize("route", [r for r in OF_A_PROJECT if "{project_id}" in r and r.count("{") > 1])
def test_ids_of_another_project_are_not_found_in_mine(
    visit: Visits, world: World, route: str, who: str
) -> None:
    access = ACCESS[route]
    if "{format}" in route:
        pytest.skip("formats belong to nobody")
    response = ask(visit(who), route, access, world.mine, world.theirs)
    assert outcome(response, access) == (403 if access.who[who] == 403 else 404)


@pytest.mark.parametrize("route", sorted(r for r, a in ACCESS.items() if a.tokens))
def test_what_tokens_of_each_scope_may_do(visit: Visits, world: World, site: Site, route: str) -> None:
    """With a token the rater (the owner for the rest) may do what the scope is for, and nothing else."""
    access = ACCESS[route]
    who = next(w for w in ("rater", "owner", "admin", "stranger") if access.who[w] == IN or w == "stranger")
    for scope in SCOPES:
        with site.ledger.writing() as connection:
            _, token, _ = tokens.add_token(
                connection, world.accounts[who], scope, [scope], seconds=60, now=database.utc_now()
            )
        browser = visit(who)
        browser.token = token  # the session's cookie comes along, and must not count
        response = ask(browser, route, access, world.mine)
        allowed = access.who[who] if scope == access.scope else 403
        assert outcome(response, access) == allowed, (scope, response.text[:300])


@pytest.mark.parametrize("who", [who for who in WHO if who != "nobody"])
@pytest.mark.parametrize("route", sorted(r for r, a in ACCESS.items() if a.scope))
def test_a_token_may_no_more_than_its_account(visit: Visits, world: World, route: str, who: str) -> None:
    access = ACCESS[route]
    response = ask(visit(who, by="token"), route, access, world.mine)
    assert outcome(response, access) == access.who[who], response.text[:300]


@pytest.mark.parametrize("route", PAGES)
def test_pages_take_no_tokens(visit: Visits, world: World, route: str) -> None:
    access = ACCESS[route]
    response = ask(visit("admin", by="token"), route, access, world.mine)
    assert outcome(response, access) == access.who["nobody"]


def test_who_is_signed_out_learns_nothing_of_what_exists(visit: Visits, world: World) -> None:
    for route, access in ACCESS.items():
        if access.who in (ANYONE, SIGNED_IN) or not route.startswith(f"GET {API}"):
            continue
        real = ask(visit(), route, access, world.mine)
        invented = visit().get(address(route.split(" ")[1], Objects(*["0" * 16] * 5, ("0" * 16,), "0" * 16)))
        assert (real.status_code, real.text) == (invented.status_code, invented.text), route


def test_importing_a_question_of_another_project_changes_nothing_there(
    visit: Visits, world: World, site: Site
) -> None:
    """Neither how many answers it gets nor the answer by which its raters are graded."""
    row = b'{"prompt": "shared?", "chosen": "a", "rejected": "b"}\n'

    def bring(who: str, project: str, gold: str) -> dict[str, Any]:
        headers: dict[str, str | None] = {
            "content-type": "application/octet-stream",
            "x-file-name": "rows.jsonl",
        }
        path = f"/api/v1/projects/{project}/import?gold={gold}"
        return dict(visit(who).send("POST", path, content=row, headers=headers).json())

    theirs = f"/api/v1/projects/{world.theirs.project}"
    assert visit("outsider").send("PATCH", theirs, json_body={"overlap": 50}).status_code == 200
    assert bring("owner", world.mine.project, "false")["added"] == 1
    assert bring("outsider", world.theirs.project, "true")["known"] == 1
    with site.ledger.reading() as connection:
        wanted = projects.counts(connection, world.mine.project)["wanted"]
        known = projects.gold_answers(connection, world.mine.project)
    assert (wanted, known) == (2 * 7, {})
    assert bring("owner", world.mine.project, "true")["known"] == 1
    with site.ledger.reading() as connection:
        assert len(projects.gold_answers(connection, world.mine.project)) == 1


def test_the_name_of_another_projects_release_tells_nothing(visit: Visits, world: World) -> None:
    def release(who: str, project: str) -> Any:
        return visit(who).post(f"/api/v1/projects/{project}/releases", {"name": "first"})

    assert release("outsider", world.theirs.project).status_code == 200
    taken = release("owner", world.mine.project)
    assert taken.json()["error"]["message"] == "there is a release of this name; choose another one"
    assert release("outsider", world.theirs.project).status_code == 200, "the same content again"
