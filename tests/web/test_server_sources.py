"""Sources, licences, the card of a release, and who may take in the ledger's questions."""

from __future__ import annotations

import json
from typing import Any

from accord.ledger import projects
from accord.web.auth import Site
from web.conftest import Visits
from web.world import World, questions

ROW = b'{"prompt": "What is a leap second?", "chosen": "A second.", "rejected": "A minute."}\n'


def path(world: World, rest: str) -> str:
    return f"/api/v1/projects/{world.mine.project}/{rest}"


def bring(visit: Visits, world: World, query: str) -> Any:
    headers: dict[str, str | None] = {
        "content-type": "application/octet-stream",
        "x-file-name": "time.jsonl",
    }
    return visit("manager").send("POST", path(world, f"import{query}"), content=ROW, headers=headers)


def sources(visit: Visits, world: World) -> dict[str, str]:
    found = visit("manager").get(path(world, "sources")).json()["sources"]
    return {row["source"]: row["licence"] for row in found}


def test_a_licence_comes_with_the_file_and_can_be_changed(visit: Visits, world: World) -> None:
    assert bring(visit, world, "?license=CC-BY-4.0").json()["added"] == 1
    assert sources(visit, world) == {"secret-source.jsonl": "", "time.jsonl": "CC-BY-4.0"}
    assert bring(visit, world, "").status_code == 200
    assert sources(visit, world)["time.jsonl"] == "CC-BY-4.0", "an import that says none changes none"
    shown = visit("manager").get(f"/projects/{world.mine.project}/data").text
    assert 'value="CC-BY-4.0"' in shown and "none on record" in shown
    change = {"source": "time.jsonl", "licence": "ODC-By-1.0"}
    assert visit("manager").send("PUT", path(world, "sources/licence"), json_body=change).status_code == 200
    assert sources(visit, world)["time.jsonl"] == "ODC-By-1.0"
    exported = json.loads(visit("manager").get(path(world, "export/licences.json")).text)
    assert {row["source"]: row["licence"] for row in exported} == sources(visit, world)
    elsewhere = visit("outsider").get(f"/api/v1/projects/{world.theirs.project}/sources").json()["sources"]
    assert [row["licence"] for row in elsewhere] == [""]


def test_the_card_of_a_release_and_its_link(visit: Visits, world: World) -> None:
    assert visit("owner").post(path(world, "releases"), {"name": "first & best"}).status_code == 200
    page = visit("owner").get(f"/projects/{world.mine.project}/data").text
    link = f"/api/v1/projects/{world.mine.project}/releases/card?release=first%20%26%20best"
    assert link in page
    card = visit("owner").get(link)
    assert card.headers["content-type"].startswith("text/markdown")
    assert card.text.startswith("# first & best, a release of Mine")
    assert "No source here has a licence on record" in card.text
    theirs = f"/api/v1/projects/{world.theirs.project}/releases/card?release=first%20%26%20best"
    assert visit("outsider").get(theirs).status_code == 404


def test_only_administrators_take_in_the_ledgers_questions(visit: Visits, world: World, site: Site) -> None:
    """They may belong to a team that has not made its project yet."""
    site.ledger.ask(questions("Loose", 3))
    data = f"/projects/{world.mine.project}/data"
    for who in ("owner", "manager"):
        assert "Take them in" not in visit(who).get(data).text
        refused = visit(who).post(path(world, "adopt"), {})
        assert refused.status_code == 403 and "administrator" in refused.text
    assert "3 questions of this ledger belong to no project" in visit("admin").get(data).text
    assert visit("admin").post(path(world, "adopt"), {}).json() == {"added": 3}
    with site.ledger.reading() as connection:
        assert projects.unassigned(connection) == []
