"""Talks over the API: turns, ownership, restarts, and a policies' process that dies, hangs or is overrun."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from accord.errors import ConfigError
from accord.ledger import projects, queue, store, talks
from accord.ledger.database import utc_now
from accord.ledger.queue import later
from accord.ledger.schema import item
from accord.ledger.verify import verify
from accord.records import Question
from accord.web import api_talks, policies
from accord.web.auth import Site
from accord.web.policies import turn_seed
from accord.web.render import render_text
from web.conftest import Visits
from web.hostile import LINKS, SCRIPTS
from web.world import PASSWORD, Visit, World, open_site, stub_policies

KEYS = (f"talk-key-{n:06}" for n in range(10**6))


class Talker:
    """Somebody who talks."""

    def __init__(self, visit: Visit, project: str, **body: Any) -> None:
        self.visit = visit
        reply = visit.post(f"/api/v1/projects/{project}/talks", {"consent": True} | body)
        assert reply.status_code == 200, reply.text
        self.talk = reply.json()["talk"]
        self.path = f"/api/v1/talks/{self.talk}"

    def say(self, text: str, key: str = "") -> Any:
        return self.visit.post(f"{self.path}/turns", {"text": text, "key": key or next(KEYS)})

    def judge(self, question: dict[str, Any], strength: int) -> Any:
        body = {"strength": strength, "seconds": 1.5, "key": next(KEYS)}
        return self.visit.post(f"/api/v1/assignments/{question['assignment']}/judgement", body)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.visit.get(self.path).json()
        return state

    def history(self) -> list[tuple[str, str]]:
        return [(turn["role"], turn["text"]) for turn in self.state()["history"]]


@pytest.fixture
def talker(visit: Visits, world: World) -> Talker:
    return Talker(visit("rater"), world.mine.project)


@contextmanager
def policies_of(visit: Visits, site: Site, *names: str, **more: Any) -> Iterator[None]:
    """The app with other policies."""
    app = visit().app
    assert isinstance(app, FastAPI)
    made = stub_policies(*names, **more)
    app.state.site = replace(site, policies=made)
    try:
        yield
    finally:
        made.close()


def assert_told(reply: Any, status: int, words: str) -> None:
    assert reply.status_code == status, reply.text
    assert words in reply.json()["error"]["message"]
    assert "secret" not in reply.text
    if status == 503:
        assert int(reply.headers["retry-after"]) >= 1


# Turns


def test_a_talk_goes_on_from_the_answer_that_was_judged_better(talker: Talker, site: Site) -> None:
    said: list[tuple[str, str]] = []
    for strength in (2, -1, 3):
        question = talker.say(f"Question {strength}").json()
        assert question["kind"] == "pair"
        said.append(("user", f"Question {strength}"))
        assert [(m["role"], m["text"]) for m in question["prompt"]] == said == talker.history()
        assert talker.state()["question"]["assignment"] == question["assignment"]
        assert talker.judge(question, strength).status_code == 200
        said.append(("assistant", question["answers"][0 if strength > 0 else 1]["text"]))
        assert talker.history() == said and talker.state()["question"] is None
    assert (talker.state()["turns"], talker.state()["turns_left"]) == (3, talks.MOST_TURNS - 3)
    with site.ledger.reading() as connection:
        assert verify(connection).problems == ()


def test_after_a_tie_or_a_skip_it_goes_on_by_a_coin_that_stays(
    visit: Visits, world: World, site: Site
) -> None:
    for tie in (True, False):
        talker = Talker(visit("rater"), world.mine.project)
        question = talker.say("Hello").json()
        if tie:
            talker.judge(question, 0)
        else:
            talker.visit.post(f"/api/v1/assignments/{question['assignment']}/skip", {"reason": "unclear"})
        with site.ledger.reading() as connection:
            found, _, _ = queue.find_assignment(connection, question["assignment"])
        said = found.group.completions[talks.coin(found.item_id)].text
        assert talker.history() == [("user", "Hello"), ("assistant", said)]
        assert talker.say("And then?").json()["prompt"][1]["text"] == said


def test_the_coin_is_fair() -> None:
    heads = sum(talks.coin(f"item {i}") for i in range(1000))
    assert 440 < heads < 560  # 3.8 standard deviations, and always the same number


def test_one_policy_answers_twice_two_answer_once_each_and_the_ledger_has_it_all(
    visit: Visits, site: Site, world: World
) -> None:
    for names in (("secret-a",), ("secret-a", "secret-b"), ("secret-a", "secret-b", "secret-c")):
        with policies_of(visit, site, *names):
            talker = Talker(visit("rater"), world.mine.project, opening="Be brief.")
            question = talker.say("Hello").json()
            assert "secret" not in str(question)
            with site.ledger.reading() as connection:
                found, _, _ = queue.find_assignment(connection, question["assignment"])
        one, two = found.group.completions
        assert found.group.prompt.messages[0].content == "Be brief."
        assert len({one.policy_version, two.policy_version}) == min(len(names), 2)
        assert one.logps == two.logps == (-0.1, -0.25, -1 / 3) and one.token_ids == (1, 2, 3)
        assert one.sampling is not None and one.sampling.max_new_tokens == 256
        assert one.sampling.seed == turn_seed(talker.talk, 1, 0)
        assert (two.sampling == one.sampling) == (len(names) == 1)


def test_the_same_key_again_gives_the_same_question_and_another_has_to_wait(talker: Talker) -> None:
    question = talker.say("Hello", "the-same-key").json()
    assert talker.say("Hello", "the-same-key").json() == question
    assert_told(talker.say("Hello again"), 409, "judge the two answers first")
    talker.judge(question, 1)
    assert_told(talker.say("Hello", "the-same-key"), 409, "answered and judged")
    assert talker.state()["turns"] == 1


def test_two_requests_at_once_with_one_key_are_one_turn(talker: Talker) -> None:
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda: replies.append(talker.say("slow 0.6", "one-key-for-both")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: talker.state()["pending"] is not None)
    pending = talker.state()["pending"]
    assert (pending["text"], pending["key"], pending["ahead"]) == ("slow 0.6", "one-key-for-both", 0)
    assert_told(talker.say("Something else"), 409, "being written")
    for thread in threads:
        thread.join()
    assert replies[0].json() == replies[1].json() and talker.state()["turns"] == 1


def test_a_restart_of_the_server_loses_nothing(
    talker: Talker, site: Site, visit: Visits, world: World
) -> None:
    talker.judge(talker.say("First").json(), 2)
    question = talker.say("Second", "the-second-key").json()
    before = talker.state()
    site.ledger.close()
    assert site.policies is not None
    site.policies.close()
    again = open_site(_file_of(site))
    visit().app.state.site = again
    after = talker.state()
    after["question"]["expires_at"] = before["question"]["expires_at"]
    assert after == before
    assert talker.say("Second", "the-second-key").json()["assignment"] == question["assignment"]
    talker.judge(question, -2)
    assert talker.say("Third").json()["prompt"][3]["text"] == question["answers"][1]["text"]
    assert again.policies is not None
    again.policies.close()
    again.ledger.close()


def _file_of(site: Site) -> Path:
    return Path(str(site.ledger._database.engine.url.database))


# Whose it is


def test_nobody_else_is_asked_until_more_answers_are_wanted(talker: Talker, site: Site, world: World) -> None:
    question = talker.say("Only for me").json()

    def all_for(who: str) -> list[str]:
        with site.ledger.writing() as connection:
            project = projects.find_project(connection, world.mine.project)
            assert project is not None
            rater = queue.find_rater(connection, _annotator(connection, world, who))
            leased = queue.lease(
                connection, rater, project.guideline_id, utc_now(), limit=50, seconds=9, seed=None,
                project=project.id,
            )  # fmt: skip
        return [each.group.prompt.messages[0].content for each in leased]

    asked = all_for("adjudicator")
    assert len(asked) == 6 and "Only for me" not in asked
    mine = talker.visit.post(f"/api/v1/projects/{world.mine.project}/lease", {"want": 5}).json()
    assert question["assignment"] not in [q["assignment"] for q in mine["questions"]]
    with site.ledger.writing() as connection:
        queue.expire(connection, later(utc_now(), 10_000))  # her lease has run out
    assert "Only for me" not in all_for("manager")
    assert talker.judge(question, 1).status_code == 200, "her answer still counts"
    with site.ledger.writing() as connection:
        found, _, _ = queue.find_assignment(connection, question["assignment"])
        queue.ask(connection, [Question(found.group, "more", overlap=2)], utc_now())
    assert "Only for me" in all_for("owner")


def _annotator(connection: Any, world: World, who: str) -> str:
    from accord.ledger import accounts

    found = accounts.by_id(connection, world.accounts[who])
    assert found is not None
    return found[0].annotator_id


def test_talks_count_as_answers_and_as_nothing_that_is_left(talker: Talker, site: Site) -> None:
    first = talker.judge(talker.say("Hello").json(), 1).json()["progress"]
    second = talker.judge(talker.say("More").json(), 1).json()["progress"]
    assert second["answered"] == first["answered"] + 1 and second["left"] == first["left"]


def test_sources_name_talks_once_and_the_list_of_talks_is_mine(
    talker: Talker, site: Site, visit: Visits, world: World
) -> None:
    talker.judge(talker.say("First words").json(), 1)
    talker.say("Second words")
    with site.ledger.reading() as connection:
        rows = projects.sources(connection, world.mine.project)
    assert [row for row in rows if "live" in row["reason"]] == [
        {"reason": "live talk", "items": 2, "done": 1}
    ]
    path = f"/api/v1/projects/{world.mine.project}/talks"
    (mine,) = visit("rater").get(path).json()["talks"]
    assert (mine["id"], mine["turns"], mine["first"]) == (talker.talk, 2, "First words")
    assert visit("owner").get(path).json()["talks"] == []
    assert visit("owner").get(talker.path).status_code == 404


def test_nothing_begins_without_consent_and_the_words_agreed_to_are_kept(
    visit: Visits, world: World, site: Site
) -> None:
    path = f"/api/v1/projects/{world.mine.project}/talks"
    for body in ({}, {"consent": False}):
        assert_told(visit("rater").post(path, body), 422, "agree first")
    talk = visit("rater").post(path, {"consent": True}).json()["talk"]
    with site.ledger.reading() as connection:
        begun = store.read_prompts(connection, [talk])[talk].messages[0].content
    assert api_talks.CONSENT[2] in begun and "You can have it erased" in api_talks.CONSENT[2]


@pytest.mark.parametrize("scope", ["text", "all"])
def test_withdrawing_what_one_wrote_erases_talks(
    talker: Talker, visit: Visits, site: Site, tmp_path: Path, scope: str
) -> None:
    """As the rater was told: nothing of it is in the file, and nothing of it in later releases."""
    question = talker.say("My own words").json()
    talker.judge(question, 3)
    talker.say("And some more of mine")
    words = ["My own words", "more of mine", *(answer["text"] for answer in question["answers"])]

    def there() -> list[str]:
        held = b"".join(file.read_bytes() for file in sorted(tmp_path.glob("ledger.sqlite*")))
        return [word for word in words if word.encode() in held]

    assert there() == words
    counted = visit("rater").get("/api/v1/account/withdraw").json()
    assert counted["texts"] == 3, "a comment and two messages"
    body = {"scope": scope, "password": PASSWORD}
    reply = visit("rater").post("/api/v1/account/withdraw", body).json()
    assert reply["done"] == {"accounts": 1, "texts": 3, "judgements": 2 if scope == "all" else 1}
    assert there() == []
    assert site.ledger.verify().problems == ()
    with site.ledger.reading() as connection:
        live = select(item.c.id).where(item.c.reason.like("live talk %"))
        items = list(connection.execute(live).scalars())
    assert len(items) == 2
    with pytest.raises(Exception, match="empty"):
        site.ledger.release("later", item_ids=items)


def test_projects_without_talks_and_paused_ones(visit: Visits, world: World, talker: Talker) -> None:
    project, owner = world.mine.project, visit("owner")
    page = f"/projects/{project}/talk"
    assert f'href="{page}"' in owner.get(f"/projects/{project}/judge").text
    owner.send("PATCH", f"/api/v1/projects/{project}", json_body={"state": "paused"})
    assert_told(talker.say("Hello"), 409, "paused")
    form = {"flags": [], "attributes": [], "live": False}
    owner.send("PATCH", f"/api/v1/projects/{project}", json_body={"state": "open", "form": form})
    assert_told(talker.say("Hello"), 404, "no talks")
    assert owner.get(page).status_code == 404
    assert f'href="{page}"' not in owner.get(f"/projects/{project}/judge").text


def test_lengths_and_turns_are_limited(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "  \n ", "x" * 4001):
        assert talker.say(text).status_code == 422
    assert talker.say("Hello", "no spaces allowed").status_code == 422
    monkeypatch.setattr(api_talks, "MOST_TURNS", 1)
    talker.judge(talker.say("x" * 4000).json(), 1)
    assert talker.state()["turns_left"] == 0
    assert_told(talker.say("One more"), 409, "1 turns at most")


@pytest.mark.parametrize(
    "text", [SCRIPTS[0], SCRIPTS[2], LINKS[0], "{{ 7*7 }}\u202e", "</script>\x00\x1b[31m"]
)
def test_hostile_words_come_back_as_text(talker: Talker, text: str) -> None:
    reply = talker.say(text)
    assert reply.status_code == 200
    question = reply.json()
    assert question["prompt"][-1]["html"] == str(render_text(text))
    for shown in question["answers"]:
        assert text in shown["text"] and shown["html"] == str(render_text(shown["text"]))
        assert "<script" not in shown["html"] and "<img" not in shown["html"]
    page = talker.visit.get(f"/projects/{_project(talker)}/talk?talk={talker.talk}").text
    assert SCRIPTS[0] not in page and "<img" not in page


def _project(talker: Talker) -> str:
    projects_ = talker.visit.get("/api/v1/projects").json()["projects"]
    return str(projects_[0]["id"])


def test_half_a_character_is_refused(talker: Talker) -> None:
    assert talker.say("\ud800").status_code == 422
    assert talker.state()["turns"] == 0


# A process that fails


def test_a_folder_without_a_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    policies.check_models(["embedded"])
    for name in (str(tmp_path), str(tmp_path / "none"), "owner/model"):
        with pytest.raises(ConfigError, match=r"--policy .*no model's folder.*give the folder"):
            policies.check_models([name])
    (tmp_path / "adapter_config.json").write_text("{}")
    policies.check_models([str(tmp_path)])


def test_a_killed_process_is_replaced(talker: Talker, site: Site) -> None:
    talker.judge(talker.say("Hello").json(), 1)
    first = _process(site)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: site.policies._speaker.process.poll() is not None)  # type: ignore[union-attr]
    question = talker.say("Still there?").json()
    assert _process(site) != first
    talker.judge(question, 1)
    assert_told(talker.say("crash"), 503, "was killed")  # while it is at work
    assert talker.state()["pending"] is None and talker.state()["turns"] == 2
    assert talker.say("And now?").status_code == 200


def _process(site: Site) -> int:
    assert site.policies is not None and site.policies._speaker is not None
    return site.policies._speaker.process.pid


def test_what_a_policy_cannot_do_is_said_without_its_details(talker: Talker) -> None:
    assert_told(talker.say("memory"), 503, "out of memory")
    assert_told(talker.say("long"), 409, "too long for this model")
    assert talker.say("Hello").status_code == 200


def test_models_that_cannot_be_loaded(visit: Visits, site: Site, world: World) -> None:
    with policies_of(visit, site, "broken"):
        talker = Talker(visit("rater"), world.mine.project)
        assert_told(talker.say("Hello"), 503, "cannot be loaded")
        assert_told(talker.say("Hello"), 503, "cannot be loaded")


def test_a_policy_that_takes_too_long_is_stopped(
    visit: Visits, site: Site, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "STOPPING_SECONDS", 0.1)
    with policies_of(visit, site, "stub", patience=0.4):
        talker = Talker(visit("rater"), world.mine.project)
        assert_told(talker.say("deaf"), 503, "took longer")
        assert talker.say("Hello").status_code == 200


def in_background(*calls: Any) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def wait_for(holds: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_a_full_line_turns_people_away_and_says_for_how_long(
    visit: Visits, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "MOST_WAITING", 2)
    people = [Talker(visit(who), world.mine.project) for who in ("rater", "owner", "manager")]
    replies: dict[int, Any] = {}
    first = in_background(lambda: replies.update({0: people[0].say("slow 1")}))
    wait_for(lambda: people[0].state()["pending"])
    second = in_background(lambda: replies.update({1: people[1].say("Hello")}))
    wait_for(lambda: people[1].state()["pending"])
    assert people[1].state()["pending"]["ahead"] == 1
    assert_told(people[2].say("Hello"), 503, "2 people are waiting")
    for thread in first + second:
        thread.join()
    assert [replies[i].status_code for i in (0, 1)] == [200, 200]
    assert people[2].say("Hello").status_code == 200


@pytest.mark.parametrize("word", ["slow 60", "deaf"])
def test_waiting_can_be_ended_in_the_line_and_at_its_head(
    visit: Visits, world: World, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "STOPPING_SECONDS", 0.3)
    people = [Talker(visit(who), world.mine.project) for who in ("rater", "owner")]
    replies: dict[int, Any] = {}
    threads = in_background(lambda: replies.update({0: people[0].say(word)}))
    wait_for(lambda: people[0].state()["pending"])
    threads += in_background(lambda: replies.update({1: people[1].say("Hello")}))
    wait_for(lambda: people[1].state()["pending"])
    for talker in (people[1], people[0]):
        assert talker.visit.send("DELETE", f"{talker.path}/turns").json() == {"cancelled": True}
    for thread in threads:
        thread.join()
    for reply in replies.values():
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "cancelled")
    assert people[0].state()["turns"] == people[1].state()["turns"] == 0
    assert people[0].visit.send("DELETE", f"{people[0].path}/turns").json() == {"cancelled": False}
    assert people[0].say("Hello").status_code == 200


def test_when_the_server_stops_nobody_waits_on(visit: Visits, world: World, site: Site) -> None:
    people = [Talker(visit(who), world.mine.project) for who in ("rater", "owner")]
    replies: dict[int, Any] = {}
    threads = []
    for i in (0, 1):
        threads += in_background(lambda i=i: replies.update({i: people[i].say("slow 60")}))
        wait_for(lambda i=i: people[i].state()["pending"])
    process = site.policies._speaker.process  # type: ignore[union-attr]
    assert site.policies is not None
    site.policies.close()
    for thread in threads:
        thread.join()
    assert process.poll() is not None
    for reply in replies.values():
        assert_told(reply, 503, "being stopped")
    assert_told(people[0].say("Hello"), 503, "being stopped")


def test_a_copy_of_the_ledger_is_enough(talker: Talker, site: Site, tmp_path: Path) -> None:
    """What a talk is stands in the ledger alone."""
    talker.judge(talker.say("Hello").json(), 2)
    state = talker.state()
    site.ledger.compact()
    copied = tmp_path / "copy.sqlite"
    shutil.copyfile(_file_of(site), copied)
    other = open_site(copied)
    with other.ledger.reading() as connection:
        found = talks.find(connection, talker.talk)
        assert found is not None
        last = talks.turns(connection, found)[-1]
        said = talks.conversation(connection, found, last)
    other.ledger.close()
    assert [(m.role, m.content) for m in said] == [(t["role"], t["text"]) for t in state["history"]]
