"""Rankings through the API: what a rater gets, what she may say, undo; and that sides never matter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accord.client import Client
from accord.ledger import judging, projects
from accord.ledger.database import utc_now
from accord.records import Judgement
from accord.web.auth import Site
from web.conftest import Visits
from web.ranking_world import RANKED, ranking
from web.world import Visit, World

KEYS = (f"ranked-{n:06}" for n in range(10**6))
ORDER = dict(zip(RANKED, (1, 2, 2, 4), strict=True))


@pytest.fixture
def lease(world: World, site: Site) -> str:
    """Of a project whose first question is a ranking."""
    for i in range(2):
        site.ledger.add_policy(f"shop-ppo-{i}", base_model="tiny")
    with site.ledger.writing() as connection:
        projects.add_questions(
            connection, world.mine.project, [ranking("ask", *RANKED)], utc_now(), priority=1
        )
    return f"/api/v1/projects/{world.mine.project}/lease"


def leased(visit: Visit, lease: str) -> dict[str, Any]:
    found = visit.post(lease, {"want": 5}).json()["questions"]
    return next(question for question in found if question["kind"] == "ranking")


def rank(visit: Visit, question: dict[str, Any], ranks: Any, **more: Any) -> Any:
    body = {"ranks": ranks, "seconds": 2.0, "key": next(KEYS)} | more
    return visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", body)


def places(question: dict[str, Any]) -> list[int]:
    return [ORDER[shown["text"]] for shown in question["answers"]]


def stored(site: Site, judgement_id: str) -> Judgement:
    with site.ledger.reading() as connection:
        return judging.read_judgements(connection, ids=[judgement_id], include_superseded=True)[0]


def test_a_ranking_is_shown_blind_and_its_order_stored_by_slot(
    visit: Visits, site: Site, lease: str, world: World
) -> None:
    said = []
    for who in ("rater", "manager", "owner"):
        question = leased(visit(who), lease)
        assert [shown["position"] for shown in question["answers"]] == [0, 1, 2, 3]
        assert "shop-ppo" not in json.dumps(question) and question["earlier"] is None
        reply = rank(visit(who), question, places(question))
        assert reply.status_code == 200, reply.text
        said.append(stored(site, reply.json()["judgement"]))
    assert len({judged.ranks for judged in said}) == 1
    texts = [site.ledger.completion(c).text for c in said[0].completion_ids]
    assert list(said[0].ranks) == [ORDER[text] for text in texts]
    assert site.ledger.verify().ok


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"ranks": [1, 2, 3]}, "do not order 4 answers: give each displayed answer a whole number"),
        ({"ranks": [1, 2, 3, 5]}, "from 1 (best) to 4"),
        ({"ranks": [0, 1, 2, 3]}, "greater than or equal to 1"),
        ({"ranks": None, "strength": 2}, "a ranking of 4 answers: give their ranks, not a strength"),
        ({"ranks": [1, 2, 3, 4], "strength": 2}, "and not both"),
        ({"ranks": None}, "give a pair's strength, or a ranking's ranks"),
        ({"ranks": [1, 1, 1, 1], "both_bad": True}, "neither of a pair is better"),
        ({"ranks": [1, 2, 3, 4], "flags": [[], ["unsafe"]]}, "so 4 lists"),
        ({"ranks": [1, 2, 3, 4], "edit": {"position": 4, "text": "x"}}, "displayed position of the answer"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(
    visit: Visits, site: Site, lease: str, body: dict[str, Any], why: str
) -> None:
    before = site.ledger.counts()["judgements"]
    reply = rank(visit("rater"), leased(visit("rater"), lease), **body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid")
    assert why in reply.json()["error"]["message"]
    assert site.ledger.counts()["judgements"] == before


def test_ranks_for_a_pair_are_refused(visit: Visits, lease: str) -> None:
    found = visit("rater").post(lease, {"want": 5}).json()["questions"]
    pair = next(question for question in found if question["kind"] == "pair")
    reply = rank(visit("rater"), pair, [1, 2])
    assert reply.status_code == 422 and "strength [1, 2] is not" in reply.json()["error"]["message"]


def test_the_same_key_again_gives_the_same_reply(visit: Visits, site: Site, lease: str) -> None:
    question = leased(visit("rater"), lease)
    first = rank(visit("rater"), question, places(question), key="one-answer")
    again = rank(visit("rater"), question, places(question), key="one-answer")
    assert first.json()["judgement"] == again.json()["judgement"]
    assert site.ledger.verify().ok


def test_undo_shows_the_order_as_it_was_given_and_a_change_is_a_revision(
    visit: Visits, site: Site, lease: str, world: World
) -> None:
    rater = visit("rater")
    question = leased(rater, lease)
    beside = {
        "flags": [[], ["false"], [], ["unsafe"]],
        "ratings": {"helpful": [5, None, 3, 1]},
        "comment": "c",
    }
    first = rank(rater, question, [3, 3, 1, 2], **beside).json()
    back = rater.post(f"/api/v1/projects/{world.mine.project}/undo", {}).json()["question"]
    assert back["kind"] == "ranking" and back["earlier"]["ranks"] == [3, 3, 1, 2]
    assert {name: back["earlier"][name] for name in beside} == beside
    assert "strength" not in back["earlier"]
    second = rank(rater, back, places(back), revises=first["judgement"]).json()
    assert second["revision"] == 2
    assert sorted(stored(site, second["judgement"]).ranks) == [1, 2, 2, 4]
    assert site.ledger.verify().ok


def test_a_ranking_is_skipped_and_goes_to_somebody_else(visit: Visits, lease: str) -> None:
    question = leased(visit("rater"), lease)
    reply = visit("rater").post(f"/api/v1/assignments/{question['assignment']}/skip", {"reason": "language"})
    assert reply.json()["progress"]["skipped"] == 1
    assert leased(visit("manager"), lease)["kind"] == "ranking"


def test_the_client_and_the_description_know_rankings(visit: Visits) -> None:
    sent = []

    class Recorder(Client):
        def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
            sent.append((method, path, body))
            return {}

    Recorder("http://localhost", "t").rank(
        {"assignment": "a1"}, (1, 2, 2), seconds=3.0, comment="c", key="kkkkkkkk"
    )
    assert sent == [
        (
            "POST",
            "/assignments/a1/judgement",
            {"ranks": [1, 2, 2], "seconds": 3.0, "key": "kkkkkkkk", "comment": "c"},
        )
    ]
    described = visit("rater").get("/api/v1/openapi.json").json()["components"]["schemas"]["JudgementBody"]
    assert "each displayed answer's place" in described["properties"]["ranks"]["description"]
    assert "strength" not in described["required"]
