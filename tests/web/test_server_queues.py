"""Queues per rater over the API and on the page: who gets what, what waits for whom, and letting it go."""

from __future__ import annotations

from typing import Any

from accord.web.auth import Site
from web.conftest import Visits
from web.world import REASON, World


def pseudonym(visit: Visits, world: World, role: str) -> str:
    from sqlalchemy import select

    from accord.ledger.schema import annotator
    from accord.ledger.team_schema import account

    joined = select(annotator.c.pseudonym).join(account)
    with visit(role).app.state.site.ledger.reading() as connection:
        found = connection.execute(joined.where(account.c.id == world.accounts[role])).scalar_one()
    return str(found)


def keep(visit: Visits, world: World, *roles: str, who: str = "manager", **more: Any) -> Any:
    body = {"reason": REASON, "raters": [pseudonym(visit, world, role) for role in roles]}
    return visit(who).post(f"/api/v1/projects/{world.mine.project}/queues", body | more)


def leased(visit: Visits, world: World, role: str) -> tuple[int, int]:
    """How many questions somebody gets, and how many are left to her."""
    reply = visit(role).post(f"/api/v1/projects/{world.mine.project}/lease", {"want": 5}).json()
    return len(reply["questions"]), reply["progress"]["left"]


def test_kept_questions_go_to_those_who_are_named(visit: Visits, world: World, site: Site) -> None:
    assert keep(visit, world, "adjudicator").status_code == 200
    assert leased(visit, world, "rater") == (1, 1), "what is before her stays there"
    assert leased(visit, world, "owner") == (0, 0)
    assert leased(visit, world, "adjudicator") == (5, 6)
    assert keep(visit, world, "owner", others="last").status_code == 200
    assert leased(visit, world, "owner")[0] == 4, "two have all the answers they want"
    assert site.ledger.verify().problems == ()


def test_the_page_tells_what_waits_and_lets_it_go(visit: Visits, world: World) -> None:
    where = f"/projects/{world.mine.project}/queues"
    assert "Nothing is kept" in visit("manager").get(where).text
    assert f'href="{where}"' in visit("manager").get(f"/projects/{world.mine.project}/people").text
    keep(visit, world, "adjudicator")
    text = visit("manager").get(where).text
    assert REASON in text and "nobody can give" in text, "two answers wanted, and one person named"
    (queue,) = visit("manager").get(f"/api/v1{where}").json()["queues"]
    assert (queue["reason"], queue["waiting"], queue["exclusive"]) == (REASON, 6, True)
    assert [rater["here"] for rater in queue["raters"]] == [True]
    member = f"/api/v1/projects/{world.mine.project}/members/{world.accounts['adjudicator']}"
    assert visit("owner").send("DELETE", member).status_code == 200
    assert "no longer here" in visit("manager").get(where).text
    path = f"/api/v1{where}/{queue['id']}"
    foreign = path.replace(world.mine.project, world.theirs.project)
    assert visit("outsider").send("DELETE", foreign).status_code == 404
    assert visit("manager").send("DELETE", path).status_code == 200
    assert visit("manager").send("DELETE", path).status_code == 404
    assert leased(visit, world, "owner")[0] == 5


def test_nobody_of_elsewhere_can_be_named(visit: Visits, world: World) -> None:
    reply = keep(visit, world, "outsider")
    assert reply.status_code == 409 and "may not judge in this project" in reply.text
    assert keep(visit, world, "viewer").status_code == 409
    assert keep(visit, world).status_code == 409
    assert keep(visit, world, "owner", others="sometimes").status_code == 422
