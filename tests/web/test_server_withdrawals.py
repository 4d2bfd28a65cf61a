"""Withdrawing on the pages: what it means before, what it leaves to do after, and who may do that."""

from __future__ import annotations

from accord.ledger import accounts, projects
from accord.ledger.database import utc_now
from accord.web.auth import Site
from web.conftest import Visits
from web.world import PASSWORD, World


def withdraw(visit: Visits, who: str, scope: str) -> None:
    reply = visit(who).post("/api/v1/account/withdraw", {"scope": scope, "password": PASSWORD})
    assert reply.status_code == 200, reply.text


def release(visit: Visits, world: World, name: str) -> None:
    path = f"/api/v1/projects/{world.mine.project}/releases"
    assert visit("owner").post(path, {"name": name}).status_code == 200


def successor(visit: Visits, world: World, who: str, of: str, name: str) -> tuple[int, str]:
    path = f"/api/v1/projects/{world.mine.project}/withdrawals/successor"
    reply = visit(who).post(path, {"release": of, "name": name})
    return reply.status_code, reply.text


def second_rater(site: Site, world: World) -> None:
    """The adjudicator answers a question, so that something is left when the rater goes."""
    from accord.ledger import answers, queue
    from accord.ledger.answers import Beside

    with site.ledger.writing() as connection:
        found = accounts.by_id(connection, world.accounts["adjudicator"])
        project = projects.find_project(connection, world.mine.project)
        assert found is not None and project is not None
        who, now = queue.find_rater(connection, found[0].annotator_id), utc_now()
        (seen,) = queue.lease(
            connection, who, project.guideline_id, now, limit=1, seconds=60, seed=3, project=project.id
        )
        answers.record(
            connection, seen.id, 1, Beside(), seconds=1, idempotency_key="second", revises=None, now=now
        )


def test_the_page_says_what_each_level_means_before_anything_is_done(visit: Visits, world: World) -> None:
    release(visit, world, "first")
    text = visit("rater").get("/account/withdraw").text
    for words in ("Who I am", "1 answer", "1 text", "no longer counts", "first", "There is no way back"):
        assert words in text
    counted = visit("rater").get("/api/v1/account/withdraw").json()
    assert counted == {"answers": 1, "texts": 1, "releases": ["first"], "models": []}
    assert visit("stranger").get("/api/v1/account/withdraw").json()["answers"] == 0
    assert 'href="/account/withdraw"' in visit("rater").get("/account").text


def test_managers_see_what_was_taken_back_and_rebuild_the_release(
    visit: Visits, world: World, site: Site
) -> None:
    second_rater(site, world)
    release(visit, world, "first")
    site.ledger.record_training("model-1", "first")
    where = f"/projects/{world.mine.project}/withdrawals"
    assert "Nobody has taken anything back" in visit("manager").get(where).text
    withdraw(visit, "rater", "all")
    found = visit("manager").get(f"/api/v1{where}").json()
    (row,), (open_,) = found["withdrawals"], found["to_do"]
    assert (row["scope"], row["answers"], row["releases"], row["models"]) == (
        "all",
        1,
        ["first"],
        ["model-1"],
    )
    assert (open_["taken_back"], open_["rows"], open_["suggestion"]) == (1, 2, "first-rebuilt")
    text = visit("manager").get(where).text
    assert "Make it without them" in text and "stop using" in text and row["pseudonym"] in text
    assert "rater" not in [cell.strip() for cell in text.replace("<", ">").split(">")]  # the login is gone
    assert successor(visit, world, "manager", "first", "first-rebuilt")[0] == 200
    after = visit("manager").get(where).text
    assert "Make it without them" not in after and "first-rebuilt" in after
    assert site.ledger.verify().problems == ()


def test_only_releases_with_rows_that_were_taken_back_are_rebuilt(
    visit: Visits, world: World, site: Site
) -> None:
    release(visit, world, "first")
    assert successor(visit, world, "owner", "first", "x")[0] == 404, "nothing was taken back"
    withdraw(visit, "rater", "all")
    status, said = successor(visit, world, "owner", "first", "x")
    assert status == 409 and "nothing is left" in said
    assert successor(visit, world, "owner", "no such release", "x")[0] == 404


def test_a_release_of_several_projects_is_rebuilt_by_administrators(
    visit: Visits, world: World, site: Site
) -> None:
    site.ledger.release("of both")
    withdraw(visit, "rater", "all")
    status, said = successor(visit, world, "owner", "of both", "x")
    assert status == 403 and "ask an administrator" in said
    path = f"/projects/{world.mine.project}/withdrawals"
    assert "ask an administrator to rebuild it" in visit("owner").get(path).text
    assert successor(visit, world, "admin", "of both", "x")[0] == 200
    theirs = visit("outsider").get(f"/api/v1/projects/{world.theirs.project}/withdrawals").json()
    assert theirs == {"withdrawals": [], "to_do": []}, "who withdrew elsewhere is not theirs to see"


def test_tokens_of_programs_are_erased_with_the_account(visit: Visits, site: Site, world: World) -> None:
    from sqlalchemy import func, select

    from accord.ledger.team_schema import api_token

    withdraw(visit, "rater", "identity")
    with site.ledger.reading() as connection:
        mine = api_token.c.account_id == world.accounts["rater"]
        assert connection.execute(select(func.count()).where(mine)).scalar() == 0
