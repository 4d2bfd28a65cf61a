"""Groups over the API and on the pages: consent first, nobody sees another's value, figures from five on."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from accord.ledger import groups
from accord.ledger.database import utc_now
from accord.ledger.team_schema import attribute_value, group_consent
from accord.web import grouping, quality
from accord.web.auth import Site
from accord.web.quality_figures import figures_of_groups
from web.conftest import Visits
from web.world import World

VALUE = "Basque of Zuberoa"


@pytest.fixture(autouse=True)
def ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "FIRST_ANSWERS", 1)
    monkeypatch.setitem(grouping.WORDS, "first", 1)


def path(world: World, rest: str) -> str:
    return f"/api/v1/projects/{world.mine.project}/{rest}"


def ask(visit: Visits, world: World) -> str:
    reply = visit("owner").post(path(world, "attributes"), {"name": "language", "choices": [VALUE, "French"]})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


def tell(visit: Visits, world: World, values: dict[str, str], *, consent: bool = True) -> Any:
    body = {"consent": consent, "values": values}
    return visit("rater").send("PUT", path(world, "about-me"), json_body=body)


def test_owners_ask_and_everybody_reads_what_is_asked(visit: Visits, world: World) -> None:
    attribute = ask(visit, world)
    for who in ("rater", "viewer", "manager"):
        found = visit(who).get(path(world, "attributes")).json()["attributes"]
        assert found == [{"id": attribute, "name": "language", "choices": [VALUE, "French"]}]
    again = visit("owner").post(path(world, "attributes"), {"name": "language", "choices": ["a", "b"]})
    assert again.status_code == 409 and "asked already" in again.text
    assert "Ask it" in visit("owner").get(f"/projects/{world.mine.project}/groups").text
    assert "Ask it" not in visit("manager").get(f"/projects/{world.mine.project}/groups").text
    ended = visit("owner").send("DELETE", path(world, f"attributes/{attribute}"))
    assert ended.status_code == 200
    assert visit("rater").get(path(world, "attributes")).json() == {"attributes": []}


def test_nothing_is_kept_without_consent(visit: Visits, world: World, site: Site) -> None:
    attribute = ask(visit, world)
    refused = tell(visit, world, {attribute: VALUE}, consent=False)
    assert refused.status_code == 422 and "consent" in refused.text
    with site.ledger.reading() as connection:
        assert connection.execute(select(group_consent)).first() is None
    assert tell(visit, world, {attribute: VALUE}).status_code == 200
    with site.ledger.reading() as connection:
        kept = connection.execute(select(group_consent)).one()
    assert kept.statement == "\n\n".join(groups.STATEMENT), "the words she agreed to"
    shown = visit("rater").get(f"/projects/{world.mine.project}/about-me").text
    assert all(line[:40] in shown for line in groups.STATEMENT)


def test_nobody_else_is_shown_what_somebody_told(visit: Visits, world: World, site: Site) -> None:
    attribute = ask(visit, world)
    tell(visit, world, {attribute: VALUE})
    chosen = f'value="{VALUE}" selected'
    assert chosen in visit("rater").get(f"/projects/{world.mine.project}/about-me").text
    for who in ("admin", "owner", "manager", "viewer", "adjudicator"):
        assert chosen not in visit(who).get(f"/projects/{world.mine.project}/about-me").text
    for name in ("people", "data", "judgements", "settings", "withdrawals"):
        assert VALUE not in visit("admin").get(f"/projects/{world.mine.project}/{name}").text
    for name in ("judgements.jsonl", "judgements.csv", "preferences.jsonl", "card.md"):
        assert VALUE not in visit("admin").get(path(world, f"export/{name}")).text
    quality.quality_of(site.ledger, world.mine.project, patience=60)
    found = visit("owner").get(path(world, "quality")).json()
    assert found["groups"] == [{"name": "language", "groups": [], "withheld": [VALUE, "French"]}]


@pytest.mark.parametrize("how", ["takes it back", "would rather not say", "is removed", "withdraws"])
def test_what_was_told_is_erased(visit: Visits, world: World, site: Site, how: str) -> None:
    from web.world import PASSWORD

    attribute = ask(visit, world)
    tell(visit, world, {attribute: VALUE})
    if how == "takes it back":
        taken = visit("rater").send("DELETE", path(world, "about-me"))
        assert taken.json() == {"erased": 1}
        assert visit("rater").send("DELETE", path(world, "about-me")).json() == {"erased": 0}
    elif how == "would rather not say":
        assert tell(visit, world, {attribute: ""}).status_code == 200
    elif how == "is removed":
        member = path(world, f"members/{world.accounts['rater']}")
        assert visit("owner").send("DELETE", member).status_code == 200
    else:
        body = {"scope": "identity", "password": PASSWORD}
        assert visit("rater").post("/api/v1/account/withdraw", body).status_code == 200
    with site.ledger.reading() as connection:
        rows = connection.execute(select(attribute_value)).all()
    assert [(row.value, row.salt, row.place) for row in rows] == [(None, None, None)]
    assert site.ledger.verify().problems == ()


def test_who_has_hardly_judged_is_not_asked_yet(
    visit: Visits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "FIRST_ANSWERS", 2)
    monkeypatch.setitem(grouping.WORDS, "first", 2)
    attribute = ask(visit, world)
    refused = tell(visit, world, {attribute: VALUE})
    assert refused.status_code == 409 and "after your first 2 answers" in refused.text
    assert "so far you have given 1" in visit("rater").get(f"/projects/{world.mine.project}/about-me").text


def test_what_is_taken_back_leaves_the_page_at_once(
    visit: Visits, world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where new statistics are not there yet."""
    who: dict[str, dict[str, list[tuple[str, ...]]]] = {"a": {VALUE: [("x",) * 5]}}
    monkeypatch.setattr(groups, "batches", lambda connection, project: who)
    ask(visit, world)
    first = quality.quality_of(site.ledger, world.mine.project, patience=60)
    assert first["groups"] and not first["pending"]
    monkeypatch.setattr(quality, "_start", lambda *given: None)
    who.clear()
    after = visit("owner").get(path(world, "quality")).json()
    assert after["pending"] and after["groups"] == []


def test_shown_groups_and_withheld_ones_are_told_apart() -> None:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20, "meaning": "m"}
    group = {"value": "a", "n_people": 5, "n_votes": 50} | dict.fromkeys(
        ("within", "across", "ties", "longer"), estimate
    )
    asked = [groups.Attribute("id", "language", ("a", "b"), utc_now())]
    (row,) = figures_of_groups(asked, {"id": [group]})
    assert [(one["name"], one["answered"]) for one in row["groups"]] == [("a", 50)]
    assert row["withheld"] == ["b"]
    assert [figure["key"] for figure in row["groups"][0]["figures"]] == [
        "people", "within", "across", "ties", "longer",
    ]  # fmt: skip
