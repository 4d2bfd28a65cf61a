"""Rankings through the API: what a rater gets, what she may say, undo; and that sides never matter."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from accord.client import Client
from accord.ledger import judging, projects
from accord.ledger.database import utc_now
from accord.ledger.rankings import in_words
from accord.records import Judgement
from accord.web.auth import Site
from accord.web.quality import _counts as quality_counts
from accord.web.quality import compute
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


# In and out


def imported(
    visit: Visit, world: World, name: str, rows: list[dict[str, Any]], query: str = "as=ranking"
) -> Any:
    return visit.send(
        "POST",
        f"/api/v1/projects/{world.mine.project}/import?{query}",
        content="".join(json.dumps(row) + "\n" for row in rows).encode(),
        headers={"x-file-name": name, "content-type": "application/octet-stream"},
    )


def rated(k: int) -> dict[str, Any]:
    answers = [{"response": f"answer {i}", "overall_score": float(i)} for i in range(k)]
    return {"instruction": f"with {k}", "completions": answers}


def test_rows_of_several_answers_become_one_ranking(visit: Visits, world: World, site: Site) -> None:
    told = imported(visit("owner"), world, "u.jsonl", [rated(4), rated(2), rated(9), rated(10)]).json()
    assert (told["added"], told["known"], told["problem_count"]) == (2, 0, 2)
    assert told["problems"] == [
        {"line": 2, "what": "a ranking takes 3 to 9 different answers, here are 2"},
        {"line": 4, "what": "a ranking takes 3 to 9 different answers, here are 10"},
    ]
    own = {"prompt": "own", "completions": ["x", "y", "z"], "ranking": [1, 2, 2]}
    assert imported(visit("owner"), world, "r.jsonl", [own, own]).json()["added"] == 1
    pairs = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a", "rejected": "c"}]
    assert imported(visit("owner"), world, "p.jsonl", pairs).json()["added"] == 1
    with site.ledger.reading() as connection:
        ids = projects.item_ids(connection, world.mine.project)
    sizes = [len(site.ledger.group(item_id).completions) for item_id in ids]
    assert sorted(sizes)[-4:] == [3, 3, 4, 9]


def test_every_file_and_page_takes_rankings(visit: Visits, world: World, site: Site, lease: str) -> None:
    question = leased(visit("rater"), lease)
    judgement = rank(visit("rater"), question, places(question), comment="=fine").json()["judgement"]
    manager, project = visit("manager"), world.mine.project

    def file(name: str) -> str:
        reply = manager.get(f"/api/v1/projects/{project}/export/{name}")
        assert reply.status_code == 200, reply.text
        return str(reply.text)

    told = [json.loads(line) for line in file("judgements.jsonl").splitlines()]
    mine = next(row for row in told if row["judgement"] == judgement)
    assert mine["strength"] is None and [ORDER[text] for text in mine["answers"]] == mine["ranks"]
    assert all(row["ranks"] is None for row in told if row is not mine)
    rankings = [json.loads(line) for line in file("rankings.jsonl").splitlines()]
    row = next(row for row in rankings if len(row["ranking"]) == 4)
    assert {
        c[0]["content"]: rank for c, rank in zip(row["completions"], row["ranking"], strict=True)
    } == ORDER
    pairs = [json.loads(line) for line in file("preferences.jsonl").splitlines()]
    weights = [pair["weight"] for pair in pairs if pair["chosen"][0]["content"] in ORDER]
    assert weights == [pytest.approx(1 / 3)] * 6
    assert not any(text in file("unpaired.jsonl") for text in RANKED)
    header, *lines = list(csv.reader(io.StringIO(file("judgements.csv"))))
    cells = next(dict(zip(header, line, strict=True)) for line in lines if line[0] == judgement)
    assert (cells["strength"], cells["ranks"].split(), cells["comment"]) == (
        "", [str(r) for r in mine["ranks"]], "'=fine",
    )  # fmt: skip
    assert cells["answer_3"] == mine["answers"][3]
    assert "| Rankings | 1; two raters' word on two of the answers: unknown" in file("card.md")
    words = in_words(tuple(mine["ranks"])).replace(">", "&gt;")
    assert words in manager.get(f"/projects/{project}/judgements").text
    why = manager.get(f"/projects/{project}/judgements/{judgement}").text
    assert "Answer D" in why and "place 4" in why and "Stood at place" in why
    answered = visit("rater").get(f"/projects/{project}/mine").text
    assert in_words(places(question)).replace(">", "&gt;") in answered, "by the letters that she saw"
    assert manager.get(f"/projects/{project}/judgements?strength=0").text.count(judgement) == 0
    assert visit("manager").get(f"/api/v1/judgements/{judgement}/why").json()["ranks"] == mine["ranks"]


def test_quality_counts_rankings_apart_from_pairs(
    visit: Visits, world: World, site: Site, lease: str
) -> None:
    with site.ledger.reading() as connection:
        before = quality_counts(connection, world.mine.project)
    for who in ("rater", "manager"):
        question = leased(visit(who), lease)
        assert rank(visit(who), question, places(question)).status_code == 200
    with site.ledger.reading() as connection:
        after = quality_counts(connection, world.mine.project)
    assert after["strengths"] == before["strengths"]
    assert sum(day["answered"] for day in after["days"]) == sum(day["answered"] for day in before["days"]) + 2
    found = compute(site.ledger, world.mine.project)
    figures = {figure["key"]: figure for figure in found["summary"]}
    assert figures["tau"]["value"] == pytest.approx(1.0) and figures["tau"]["n"] == 1
    assert figures["ranked_alike"]["value"] == 1.0 and figures["ranked_alike"]["n"] == 6
