"""The rater's protocol: lease, answer, skip, undo; blindness; and that sides never matter."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from accord.ledger import answers, judging, projects
from accord.ledger.answers import Beside
from accord.ledger.database import utc_now
from accord.ledger.queue import later
from accord.ledger.schema import annotator, assignment
from accord.records import Judgement
from accord.web.auth import Site
from web.conftest import Visits
from web.world import POLICY, REASON, SOURCE, Visit, World

KEYS = (f"key-{n:06}" for n in range(10**6))


@pytest.fixture
def lease(world: World) -> str:
    return f"/api/v1/projects/{world.mine.project}/lease"


@pytest.fixture
def undo(world: World) -> str:
    return f"/api/v1/projects/{world.mine.project}/undo"


def answer(visit: Visit, question: dict[str, Any], strength: int = 1, **more: Any) -> Any:
    body = {"strength": strength, "seconds": 2.0, "key": next(KEYS)} | more
    return visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", body)


def stored(site: Site, judgement_id: str) -> Judgement:
    with site.ledger.reading() as connection:
        return judging.read_judgements(connection, ids=[judgement_id], include_superseded=True)[0]


# Leases


def test_held_questions_come_first_and_a_reload_loses_nothing(
    visit: Visits, world: World, lease: str
) -> None:
    rater = visit("rater")
    first = rater.post(lease, {"want": 3}).json()
    assert len(first["questions"]) == 3
    assert first["questions"][0]["assignment"] == world.mine.assignment
    again = rater.post(lease, {"want": 3}).json()
    ids = [[q["assignment"] for q in reply["questions"]] for reply in (first, again)]
    assert sorted(ids[0]) == sorted(ids[1])
    assert first["progress"] == {"answered": 1, "skipped": 0, "left": 5}
    assert again["questions"][0]["expires_at"] > first["questions"][0]["expires_at"], "the lease is renewed"
    assert [m["text"] for m in first["questions"][0]["prompt"]] == ["Mine: what is 1 + 1?"]


def test_a_rater_gets_every_question_once_and_then_none(visit: Visits, lease: str, site: Site) -> None:
    rater, seen = visit("rater"), []
    while questions := rater.post(lease, {"want": 2}).json()["questions"]:
        seen.append(questions[0]["prompt"][0]["text"])
        reply = answer(rater, questions[0], strength=random.choice([-2, 0, 3]))
        assert reply.status_code == 200
    assert len(seen) == len(set(seen)) == 5
    assert reply.json()["progress"] == {"answered": 6, "skipped": 0, "left": 0}
    assert site.ledger.verify().ok


def test_as_many_answers_as_were_wanted_and_no_more(visit: Visits, lease: str) -> None:
    """Overlap 2: two other people answer everything, so the rater finds nothing new."""
    for who in ("owner", "manager"):
        member = visit(who)
        while questions := member.post(lease, {"want": 5}).json()["questions"]:
            for question in questions:
                answer(member, question)
    left = visit("adjudicator").post(lease, {"want": 5}).json()
    assert left["questions"] == []
    assert left["progress"]["left"] == 1, "a place that the rater holds may come free"


def test_a_paused_project_hands_out_nothing_and_still_takes_what_is_held(
    visit: Visits, world: World, lease: str
) -> None:
    path = f"/api/v1/projects/{world.mine.project}"
    held = visit("rater").post(lease, {"want": 1}).json()["questions"][0]
    assert visit("owner").send("PATCH", path, json_body={"state": "paused"}).status_code == 200
    refused = visit("rater").post(lease, {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "paused")
    assert '"questions": []' in visit("rater").get(f"/projects/{world.mine.project}/judge").text
    assert answer(visit("rater"), held).status_code == 200


def run_out(site: Site, assignment_id: str) -> None:
    with site.ledger.writing() as connection:
        gone = update(assignment).where(assignment.c.id == assignment_id)
        connection.execute(gone.values(lease_expires_at=later(utc_now(), -1)))


def test_a_lost_lease_is_a_conflict_and_nothing_is_stored(
    visit: Visits, world: World, site: Site, lease: str
) -> None:
    rater, held = visit("rater"), visit("rater").post(lease, {"want": 1}).json()["questions"][0]
    run_out(site, held["assignment"])
    for who in ("owner", "manager"):  # they take both places
        for question in visit(who).post(lease, {"want": 5}).json()["questions"]:
            answer(visit(who), question)
    before = site.ledger.counts()["judgements"]
    late = answer(rater, held)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
    assert "lease the next" in late.json()["error"]["message"]
    assert site.ledger.counts()["judgements"] == before
    assert site.ledger.verify().ok


def test_an_answer_after_the_lease_counts_while_its_place_is_free(
    visit: Visits, world: World, site: Site, lease: str
) -> None:
    held = visit("rater").post(lease, {"want": 1}).json()["questions"][0]
    run_out(site, held["assignment"])
    assert answer(visit("rater"), held).status_code == 200
    assert site.ledger.verify().ok


def test_the_guideline_is_the_one_that_was_in_force_at_the_lease(
    visit: Visits, world: World, site: Site, lease: str
) -> None:
    held = visit("rater").post(lease, {"want": 1}).json()["questions"][0]
    path = f"/api/v1/projects/{world.mine.project}/guideline"
    assert visit("owner").post(path, {"text": "A new one."}).json() == {"n": 2}
    assert visit("owner").post(path, {"text": "A new one."}).json() == {"n": 2}
    new = visit("rater").post(lease, {"want": 2}).json()["questions"]
    assert [question["guideline"] for question in new] == [held["guideline"], 2] == [1, 2]


# Answers


def test_a_retry_or_a_double_click_is_one_judgement(visit: Visits, site: Site, lease: str) -> None:
    rater = visit("rater")
    question = rater.post(lease, {"want": 1}).json()["questions"][0]
    before = site.ledger.counts()["judgements"]
    replies = [answer(rater, question, key="the-same-key") for _ in range(3)]
    assert {reply.status_code for reply in replies} == {200}
    assert len({json.dumps(reply.json(), sort_keys=True) for reply in replies}) == 1
    assert site.ledger.counts()["judgements"] == before + 1
    other = answer(rater, question)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert site.ledger.counts()["judgements"] == before + 1


def test_many_clicks_at_the_same_moment_are_one_judgement(
    visit: Visits, world: World, site: Site, lease: str
) -> None:
    question = visit("rater").post(lease, {"want": 1}).json()["questions"][0]
    before, made, gate = site.ledger.counts()["judgements"], [], threading.Barrier(6)

    def click() -> None:
        gate.wait()
        with site.ledger.writing() as connection:
            judged = answers.record(
                connection, question["assignment"], 1, Beside(), seconds=1.0, idempotency_key="burst",
                revises=None, now=utc_now(),
            )  # fmt: skip
        made.append(judged.id)

    threads = [threading.Thread(target=click) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1
    assert site.ledger.counts()["judgements"] == before + 1


def test_a_key_belongs_to_one_answer_of_one_person(visit: Visits, lease: str) -> None:
    rater, owner = visit("rater"), visit("owner")
    first, second = rater.post(lease, {"want": 2}).json()["questions"]
    assert answer(rater, first, key="my-only-key").status_code == 200
    reused = answer(rater, second, key="my-only-key")
    assert reused.status_code == 409 and "another question" in reused.json()["error"]["message"]
    other = owner.post(lease, {"want": 1}).json()["questions"][0]
    assert answer(owner, other, key="my-only-key").status_code == 200


def test_undo_shows_the_answer_again_and_stores_a_revision(
    visit: Visits, site: Site, lease: str, undo: str
) -> None:
    rater = visit("rater")
    question = rater.post(lease, {"want": 1}).json()["questions"][0]
    more = {
        "flags": [[], ["unsafe"]],
        "ratings": {"helpful": [4, None]},
        "comment": "hm",
        "edit": {"position": 1, "text": "better"},
        "spans": [{"position": 0, "quote": "Mine", "occurrence": 0, "label": "good", "note": "so"}],
    }
    first = answer(rater, question, 2, **more).json()
    shown = rater.post(undo, {}).json()["question"]
    assert shown["earlier"] == {"judgement": first["judgement"], "strength": 2, "both_bad": False, **more}
    assert shown["answers"] == question["answers"], "on the same sides"
    revised = answer(rater, shown, -1, revises=first["judgement"])
    assert revised.json()["revision"] == 2
    stale = answer(rater, shown, -2, revises=first["judgement"])
    assert stale.status_code == 409 and "newest" in stale.json()["error"]["message"]
    again = rater.post(undo, {}).json()["question"]["earlier"]
    assert (again["strength"], again["flags"], again["edit"]) == (-1, [[], []], None)
    before = rater.post(undo, {"before": again["judgement"]}).json()["question"]
    assert before["assignment"] != question["assignment"]
    none = rater.post(undo, {"before": before["earlier"]["judgement"]})
    assert none.status_code == 404
    assert site.ledger.verify().ok


def test_nobody_revises_the_answers_of_others(visit: Visits, world: World, lease: str) -> None:
    owner = visit("owner")
    held = owner.post(lease, {"want": 1}).json()["questions"][0]
    taken = answer(owner, held, revises=world.mine.judgement)
    assert taken.status_code == 409
    shown = owner.post(f"/api/v1/projects/{world.mine.project}/undo", {"before": world.mine.judgement})
    assert shown.status_code == 404


def test_a_skip_gives_the_place_to_somebody_else(visit: Visits, world: World, site: Site, lease: str) -> None:
    rater = visit("rater")
    held = rater.post(lease, {"want": 1}).json()["questions"][0]
    path = f"/api/v1/assignments/{held['assignment']}/skip"
    for _ in range(2):
        reply = rater.post(path, {"reason": "cannot-judge"})
        assert reply.json() == {"progress": {"answered": 1, "skipped": 1, "left": 4}}
    assert answer(rater, held).status_code == 409
    later_on = rater.post(lease, {"want": 5}).json()["questions"]
    assert held["assignment"] not in [question["assignment"] for question in later_on]
    answered = rater.post(f"/api/v1/assignments/{world.mine.judgement}/skip", {"reason": "other"})
    assert answered.status_code == 404
    assert site.ledger.verify().ok


def test_an_answered_question_cannot_be_skipped(visit: Visits, lease: str) -> None:
    rater = visit("rater")
    held = rater.post(lease, {"want": 1}).json()["questions"][0]
    answer(rater, held)
    late = rater.post(f"/api/v1/assignments/{held['assignment']}/skip", {"reason": "other"})
    assert late.status_code == 409


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"strength": 4}, "strength"),
        ({"strength": 1.0}, "strength"),
        ({"strength": True}, "strength"),
        ({"strength": "1"}, "strength"),
        ({"strength": None}, "strength"),
        ({"strength": 10**400}, "strength"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"seconds": 86_401}, "seconds"),
        ({"key": "short"}, "key"),
        ({"key": "x" * 101}, "key"),
        ({"both_bad": True}, "strength 0"),
        ({"flags": [[], ["rude"]]}, "rude"),
        ({"flags": [["unsafe"]]}, "2 lists"),
        ({"ratings": {"pretty": [1, 2]}}, "pretty"),
        ({"ratings": {"helpful": [6, 1]}}, "1 to 5"),
        ({"ratings": {"helpful": [1]}}, "2 whole numbers"),
        ({"edit": {"position": 2, "text": "x"}}, "position"),
        ({"edit": {"position": 0, "text": "  "}}, "text"),
        ({"comment": "x" * 100_001}, "comment"),
        ({"rater": "somebody else"}, "rater"),
        ({"slot": 0}, "slot"),
    ],
    ids=str,
)
def test_answers_that_make_no_sense_are_refused_with_a_reason(
    visit: Visits, world: World, site: Site, more: dict[str, Any], word: str
) -> None:
    before = site.ledger.verify().head
    reply = answer(visit("rater"), {"assignment": world.mine.assignment}, **more)
    assert reply.status_code == 422 and word in reply.json()["error"]["message"]
    assert site.ledger.verify().head == before


def test_what_the_form_does_not_ask_for_is_refused(visit: Visits, world: World) -> None:
    form = {"flags": [], "attributes": [], "comment": False, "edit": False, "both_bad": False}
    path = f"/api/v1/projects/{world.mine.project}"
    assert visit("owner").send("PATCH", path, json_body={"form": form}).status_code == 200
    held = {"assignment": world.mine.assignment}
    for more in ({"comment": "x"}, {"edit": {"position": 0, "text": "x"}}, {"flags": [["unsafe"], []]}):
        assert answer(visit("rater"), held, **more).status_code == 422
    assert answer(visit("rater"), held, 0, both_bad=True).status_code == 422
    assert answer(visit("rater"), held).status_code == 200


# Blindness


def test_no_reply_to_a_rater_tells_the_model_the_slot_or_the_source(
    visit: Visits, world: World, site: Site, lease: str, undo: str
) -> None:
    rater, project = visit("rater"), world.mine.project
    leased = rater.post(lease, {"want": 5})
    replies = [leased, answer(rater, leased.json()["questions"][0], 2), rater.post(undo, {})]
    replies += [rater.get(f"/projects/{project}/{page}") for page in ("judge", "mine", "guideline")]
    replies += [rater.get("/projects"), rater.get("/account"), rater.get("/api/v1/projects")]
    with site.ledger.reading() as connection:
        others = connection.execute(select(annotator.c.pseudonym)).scalars().all()
        items = projects.item_ids(connection, project)
        mine = {judged.rater for judged in judging.read_judgements(connection)}
    hidden = [POLICY, SOURCE, REASON, "secret", '"slot"', '"policy"', "completion_id", "item_id", *items]
    hidden += [name for name in others if name not in mine]
    for reply in replies:
        assert reply.status_code == 200
        assert not [word for word in hidden if word in reply.text], reply.request.url
    question = leased.json()["questions"][0]
    assert set(question) == {"assignment", "kind", "prompt", "answers", "guideline", "expires_at", "earlier"}
    assert all(set(shown) == {"position", "text", "html"} for shown in question["answers"])
    assert all(set(turn) == {"role", "text", "html"} for turn in question["prompt"])


def test_a_raters_own_list_speaks_of_sides_and_not_of_slots(
    visit: Visits, world: World, site: Site, lease: str
) -> None:
    """Else she could work out which slot stood left, and slots say which model answered."""
    rater, texts = visit("rater"), {}
    for question in rater.post(lease, {"want": 5}).json()["questions"]:
        answer(rater, question, 3)  # always the left one
        texts[question["prompt"][0]["text"]] = question
    with site.ledger.reading() as connection:
        shown = {judged.shown for judged in judging.read_judgements(connection)}
    assert shown == {(0, 1), (1, 0)}, "the world has both, or this test shows nothing"
    page = rater.get(f"/projects/{world.mine.project}/mine").text
    assert page.count("much better") == 5
    assert page.count("A much better") == 5
