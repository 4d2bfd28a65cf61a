"""Gold rankings, blind repeats of rankings and disputes about them, as managers and raters meet them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accord.ledger import adjudication, known, projects, queue
from accord.ledger.database import utc_now
from accord.web import quality, quality_figures
from accord.web.auth import Site
from accord.web.quality import compute, quality_of
from web.conftest import Visits
from web.ranking_world import ranking
from web.world import Visit, World

KEYS = (f"checked-{n:06}" for n in range(10**6))


@pytest.fixture
def api(world: World) -> str:
    return f"/api/v1/projects/{world.mine.project}"


def ask(site: Site, world: World, n: int, overlap: int = 2, name: str = "q") -> list[str]:
    """Rankings of four answers whose texts end in their known place, before all pairs in the queue."""
    asked = [
        ranking(f"{name} {i}", *(f"{name} {i}: {k}" for k in range(4)), overlap=overlap) for i in range(n)
    ]
    for i in range(2):
        site.ledger.add_policy(f"shop-ppo-{i}", base_model="tiny")
    with site.ledger.writing() as connection:
        projects.add_questions(connection, world.mine.project, asked, utc_now(), priority=1)
        return projects.item_ids(connection, world.mine.project)[-n:]


def answer(visit: Visit, question: dict[str, Any], *, turned: bool = False) -> Any:
    order = [int(shown["text"][-1]) for shown in question["answers"]]
    ranks = [4 - place if turned else 1 + place for place in order]
    said = {"ranks": ranks, "seconds": 2.0, "key": next(KEYS)}
    return visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", said)


def answer_rankings(visit: Visit, lane: str, n: int, *, turned: bool = False) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []
    while len(asked) < n:
        held = visit.post(f"{lane}/lease", {"want": 2}).json()["questions"]
        question = next((each for each in held if each["kind"] == "ranking"), held[-1])
        if question["kind"] == "pair":  # a repeat of the one that the world's rater has answered
            said = {"strength": 1, "seconds": 2.0, "key": next(KEYS)}
            visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", said)
            continue
        assert answer(visit, question, turned=turned).status_code == 200
        asked.append(question)
    return asked


def imported(visit: Visit, api: str, rows: list[dict[str, Any]], query: str = "as=ranking&gold=true") -> Any:
    return visit.send(
        "POST",
        f"{api}/import?{query}",
        content="".join(json.dumps(row) + "\n" for row in rows).encode(),
        headers={"x-file-name": "r.jsonl", "content-type": "application/octet-stream"},
    ).json()


def orders_of(site: Site, api: str) -> dict[str, str]:
    """What is known of each prompt's answers, which are named by their texts."""
    found = {}
    with site.ledger.reading() as connection:
        for item_id, pairs in known.known_answers(connection).items():
            group = site.ledger.group(item_id)
            texts = [c.text for c in group.completions]
            found[group.prompt.messages[0].content] = " ".join(
                sorted(f"{texts[high]}>{texts[low]}" for high, low in pairs)
            )
    return found


def test_a_file_says_what_is_known_of_an_order(visit: Visits, site: Site, api: str) -> None:
    rows = [
        {"prompt": "own", "completions": ["x", "y", "z"], "ranking": [2, 1, 2]},
        {"prompt": "flat", "completions": ["x", "y", "z"], "ranking": [1, 1, 1]},
    ]
    scored = {"prompt": "scored", "completions": ["x", "y", "z"], "scores": [0.1, 0.9, 0.5]}
    assert imported(visit("owner"), api, [scored])["added"] == 1
    told = imported(visit("owner"), api, rows)
    assert (told["added"], told["problem_count"]) == (2, 0)
    pairs = [("pairs", "a", "b"), ("pairs", "b", "c"), ("circle", "a", "b"), ("circle", "b", "c")]
    pairs += [("circle", "c", "a")]
    told = imported(
        visit("owner"), api, [dict(zip(("prompt", "chosen", "rejected"), p, strict=True)) for p in pairs]
    )
    assert (told["added"], told["problem_count"]) == (2, 1)
    assert told["problems"] == [
        {
            "line": 3,
            "what": "asked, but no gold question: its rows contradict each other about which answer is "
            "better",
        }
    ]
    assert orders_of(site, api) == {"own": "y>x y>z", "scored": "y>x y>z z>x", "pairs": "a>b a>c b>c"}
    told = imported(visit("owner"), api, [rows[0] | {"ranking": [1, 2, 3]}, rows[1]], "as=ranking")
    assert told["known"] == 2 and orders_of(site, api)["own"] == "y>x y>z", "without gold nothing is noted"
    imported(visit("owner"), api, [rows[0] | {"ranking": [1, 2, 3]}])
    assert orders_of(site, api)["own"] == "x>y x>z y>z", "a new file corrects it"
    assert site.ledger.verify().problems == ()


def figures_now(site: Site, world: World) -> list[dict[str, Any]]:
    found = quality_of(site.ledger, world.mine.project, patience=60)
    assert not found["pending"]
    return list(found["raters"])


def test_a_manager_writes_an_order_corrects_it_and_takes_it_back(
    visit: Visits, site: Site, api: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "IMPATIENT", 1000.0)  # no rest between two computations
    (item,) = ask(site, world, 1)
    path, owner = f"{api}/questions/{item}/order", visit("owner")
    judged = answer(visit("rater"), visit("rater").post(f"{api}/lease", {"want": 2}).json()["questions"][-1])
    page = f"{api.removeprefix('/api/v1')}/judgements/{judged.json()['judgement']}"
    assert len(figures_now(site, world)) == 1
    for sent, told in (("a>b = c", "A > B, A > C"), ("D > C > B > A", "D > C > B > A"), ("", "")):
        reply = owner.send("PUT", path, json_body={"order": sent})
        assert reply.json() == {"order": told}
        assert f'value="{told.replace(">", "&gt;")}"' in owner.get(page).text
        shares = [f["n"] for r in figures_now(site, world) for f in r["figures"] if f["key"] == "known"]
        assert shares == [told.count(">") if told.count(">") < 3 else 6], "the page knows at once"
    with site.ledger.reading() as connection:
        assert known.known_answers(connection) == {}
    for sent, why in (("A > F", "is none of the answers"), ("A > B > A", "better than itself")):
        refused = owner.send("PUT", path, json_body={"order": sent})
        assert refused.status_code == 422 and why in refused.json()["error"]["message"]
    pair = owner.send("PUT", f"{api}/questions/{world.mine.items[0]}/order", json_body={"order": "A > B"})
    assert pair.status_code == 422 and "only a ranking" in pair.json()["error"]["message"]
    theirs = owner.send("PUT", f"{api}/questions/{world.theirs.items[0]}/order", json_body={"order": "A > B"})
    assert theirs.status_code == 404
    assert site.ledger.verify().problems == ()


def test_nothing_tells_a_gold_ranking_or_a_repeat_and_each_has_its_figure(
    visit: Visits, site: Site, api: str, world: World
) -> None:
    gold = ask(site, world, 12, name="gold")
    ask(site, world, 40, overlap=1)
    with site.ledger.writing() as connection:
        slots = {i: [int(c.text[-1]) for c in site.ledger.group(i).completions] for i in gold}
        orders = {
            i: known.closed([(a, b) for a in range(4) for b in range(4) if places[a] < places[b]], 4)
            for i, places in slots.items()
        }
        known.set_orders(connection, orders, utc_now())
    visit("owner").send("PATCH", api, json_body={"checks": {"gold": 0.4, "repeat": 0.3}})
    shapes: dict[str, set[tuple[str, ...]]] = {}
    asked = answer_rankings(visit("rater"), api, 36)
    for question in asked:
        with site.ledger.reading() as connection:
            purpose = queue.find_assignment(connection, question["assignment"])[0].purpose
        told = (*sorted(question), *sorted(question["prompt"][0]), *sorted(question["answers"][0]))
        shapes.setdefault(purpose, set()).add(told)
    assert set(shapes) == {"judge", "gold", "repeat"} and len(set().union(*shapes.values())) == 1
    found = {row["pseudonym"]: row for row in compute(site.ledger, world.mine.project)["raters"]}
    (row,) = [row for row in found.values() if row["answered"] > 10]
    figures = {figure["key"]: figure for figure in row["figures"]}
    assert figures["gold"]["value"] == figures["known"]["value"] == 1.0
    assert figures["known"]["n"] == 6 * figures["gold"]["n"] and figures["known"]["low"] > 0.5
    assert row["gold"]["verdict"] == "good"
    assert figures["again"]["value"] == pytest.approx(1.0) and figures["again"]["n"] >= 1
    assert figures["tau"]["value"] is None and "two raters" in figures["tau"]["undefined_because"]
    assert figures["consistency"]["n"] <= 1, "of pairs she had one to repeat"
    page = visit("owner").get(f"{api.removeprefix('/api/v1')}/quality").text
    assert "Inside gold rankings: right" in page
    lines = visit("owner").get(f"{api}/export/rankings.jsonl").text.splitlines()
    assert not any("gold" in line for line in lines)
    votes = sum(len(json.loads(line)["ranking"]) == 4 for line in lines)
    assert votes == row["answered"] - 1, "no check is exported; one vote is on a pair"


def test_a_disputed_ranking_is_settled_and_the_manager_sees_how_alike_raters_are(
    visit: Visits, site: Site, api: str, world: World
) -> None:
    first, second = ask(site, world, 2)
    answer_rankings(visit("rater"), api, 2)
    answer_rankings(visit("manager"), api, 1, turned=True)
    answer_rankings(visit("manager"), api, 1)
    told = quality_of(site.ledger, world.mine.project, patience=60)["disputes"]
    assert [(d["item"], d["tau"], d["disputed"], d["settled"]) for d in told] == [
        (first, -1.0, True, False), (second, 1.0, False, False),
    ]  # fmt: skip
    assert "Rankings, by how alike raters order" in visit("viewer").get(f"{api[7:]}/quality").text
    judge = visit("adjudicator")
    (question,) = judge.post(f"{api}/adjudication/lease", {"want": 5}).json()["questions"]
    assert answer(judge, question).status_code == 200
    page = judge.get(f"{api[7:]}/adjudicated").text
    assert "tau -1.00" in page and page.count(" &gt; ") == 9, "her order and both votes"
    computed = compute(site.ledger, world.mine.project)
    assert computed["disputes"][0]["settled"]
    summary = {figure["key"]: figure for figure in computed["summary"]}
    assert summary["settled_rankings"]["value"] == 1
    assert summary["settled_tau"]["value"] == pytest.approx(0.0), "one vote the same, one reversed"
    lines = visit("owner").get(f"{api}/export/rankings.jsonl").text.splitlines()
    ranked = [row for row in map(json.loads, lines) if len(row["ranking"]) == 4]
    assert len(ranked) == 3, "the adjudicator's, and two votes on the other"
    for row in ranked:
        assert row["ranking"] == [1 + int(text[0]["content"][-1]) for text in row["completions"]]
    changed = visit("owner").send("PATCH", api, json_body={"disputes": {"below": -1}})
    assert changed.status_code == 200
    with site.ledger.reading() as connection:
        project = projects.find_project(connection, world.mine.project)
        assert project is not None and adjudication.disputed(connection, project) == []
    assert visit("owner").send("PATCH", api, json_body={"disputes": {"below": 2}}).status_code == 422
    visit("owner").send("PATCH", api, json_body={"form": {"flags": ["rude"]}})
    assert 'value="-1.0"' in visit("owner").get(f"{api[7:]}/settings").text, "kept when the form changes"
    assert site.ledger.verify().problems == ()


def test_every_figure_of_rankings_says_what_it_means() -> None:
    estimate = {"value": 0.5, "low": 0.1, "high": 0.9, "n": 3, "meaning": "m"}
    found = {"n": 3} | dict.fromkeys(("tau", "same", "known", "again", "seconds"), estimate)
    units = {figure["key"]: figure["unit"] for figure in quality_figures._orders(found)}
    assert units == {
        **dict.fromkeys(("tau", "again"), "alpha"),
        **dict.fromkeys(("ranked_alike", "known"), "share"),
        "ranked_seconds": "seconds",
    }
