"""The erasure drill for talks, imports and media: no byte is left, the record stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from accord.errors import LedgerError
from accord.ledger import (
    Ledger,
    answers,
    erasure,
    judging,
    media,
    projects,
    queue,
    store,
    talks,
    withdrawals,
)
from accord.ledger.answers import Beside
from accord.ledger.assigned import Assignment
from accord.ledger.database import utc_now
from accord.ledger.erasure import Erased
from accord.ledger.media import Medium
from accord.records import Completion, Group, Message, Prompt, Question, Sampling

PHOTO = Medium("image/png", b"\x89PNG her face at the ferry " * 40)
OTHER = Medium("image/png", b"\x89PNG a ferry without anybody " * 40)
NAME = "Marguerite at the ferry in Sadec"
SAID = "my grandmother would take the noon ferry"


class World:
    """A project with two raters and questions in it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.id = self.project("p")
        for name in ("ada", "bob"):
            ledger.add_rater(name, "human")
        with ledger.writing() as connection:
            media.add_media(connection, self.id, [PHOTO, OTHER], utc_now())

    def project(self, name: str) -> str:
        with self.ledger.writing() as connection:
            return projects.add_project(connection, name, "Choose.", overlap=1, form={}, now=utc_now())

    def ask(self, questions: Sequence[Question], project: str = "") -> list[str]:
        with self.ledger.writing() as connection:
            projects.add_questions(connection, project or self.id, questions, utc_now())
        return [queue.item_id_of(question.group) for question in questions]

    def judge(self, rater: str, limit: int = 99, project: str = "") -> list[str]:
        with self.ledger.writing() as connection:
            found = projects.find_project(connection, project or self.id)
            assert found is not None
            who, now = queue.find_rater(connection, rater), utc_now()
            leased = queue.lease(
                connection, who, found.guideline_id, now,
                limit=limit, seconds=900, seed=1, project=found.id,
            )  # fmt: skip
            return [
                answers.record(
                    connection, one.id, 2, beside(one),
                    seconds=1, idempotency_key=f"{rater}{one.id}", revises=None, now=now,
                ).id
                for one in leased
            ]  # fmt: skip

    def erase(self, item_ids: Sequence[str]) -> Erased:
        with self.ledger.writing() as connection:
            done = erasure.erase_items(connection, item_ids, utc_now(), actor="boss")
        self.ledger.compact()
        assert self.ledger.verify().problems == ()
        return done

    def erase_medium(self, medium: Medium, project: str = "") -> Erased | None:
        with self.ledger.writing() as connection:
            done = erasure.erase_medium(connection, project or self.id, medium.id, utc_now())
        self.ledger.compact()
        assert self.ledger.verify().problems == ()
        return done

    def texts(self, item_id: str) -> list[str]:
        group = self.ledger.group(item_id)
        return [*(m.content for m in group.prompt.messages), *(c.text for c in group.completions)]


def beside(seen: Assignment) -> Beside:
    """A comment and a rewritten answer, which both say what they are about."""
    about = seen.group.prompt.messages[-1].content[:8]
    return Beside(comment=f"{SAID}: {about}", edit=(0, f"At noon, {SAID}: {about}"))


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger)


def question(asked: str, *texts: str, overlap: int = 1, reason: str = "photos") -> Question:
    return Question(Group.of(Prompt.of(asked), *texts), reason, overlap=overlap)


def shows(medium: Medium, alt: str = "x") -> str:
    return f"![{alt}](accord-media:{medium.id})"


def held(path: Path, *words: str | bytes) -> list[str | bytes]:
    """Those of the words that are in the database's files."""
    everything = b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))
    return [w for w in words if (w.encode() if isinstance(w, str) else w) in everything]


def photos(n: int = 2, overlap: int = 2) -> list[Question]:
    asked = (f"Who is this, {i}? {shows(PHOTO, NAME)}" for i in range(n))
    return [question(text_, f"{NAME} herself", "nobody I know", overlap=overlap) for text_ in asked]


def test_no_byte_is_left_of_erased_questions(world: World, path: Path) -> None:
    ids = world.ask(photos())
    kept = world.ask([question("What is this?", shows(OTHER), "a boat")])
    world.judge("ada")
    world.judge("bob", limit=1)
    words = (NAME, f"{SAID}: Who", f"{SAID}: What", "nobody I know", PHOTO.content, OTHER.content, "a boat")
    assert held(path, *words) == list(words)
    assert world.erase(ids) == Erased(questions=2, judgements=3, media=1)
    assert held(path, NAME, f"{SAID}: Who", "nobody I know", PHOTO.content) == []
    stays = [f"{SAID}: What", OTHER.content, "a boat"]
    assert held(path, *stays) == stays, "they are of the other question"
    assert world.texts(ids[0]) == ["", ""] and "a boat" in world.texts(kept[0])
    assert world.erase(ids) == Erased(), "once is enough"


def test_erased_questions_count_no_longer_and_are_not_asked(world: World) -> None:
    ids = world.ask([*photos(overlap=2), question("And this?", "a", "b", overlap=2)])
    (late, other, _) = _lease(world, "bob", limit=3)
    judged = world.judge("ada")
    world.ledger.release("v1")
    world.ledger.record_training("m1", "v1")
    with world.ledger.writing() as connection:
        judging.submit(connection, other.id, 1, seconds=1, idempotency_key=None, now=utc_now())
    assert len(judged) == 3 and len(world.ledger.judgements()) == 4
    world.erase(ids[:2])
    assert [j.item_id for j in world.ledger.judgements()] == ids[2:]
    assert [p.chosen for p in world.ledger.preferences("v1")] in (["a"], ["b"])
    assert len(world.ledger.release_judgements("v1")) == 1
    with world.ledger.writing() as connection, pytest.raises(LedgerError, match="question was erased"):
        judging.submit(connection, late.id, 1, seconds=1, idempotency_key=None, now=utc_now())
    assert [one.item_id for one in _lease(world, "ada")] == []
    with world.ledger.reading() as connection:
        (todo,) = withdrawals.to_do(connection, world.id)
        assert withdrawals.erased_questions(connection, world.id) == 2
        assert projects.progress(connection, world.id, queue.find_rater(connection, "ada").id).left == 0
    assert (todo["taken_back"], todo["rows"], todo["kept"], todo["models"]) == (2, 3, 1, ["m1"])
    with world.ledger.writing() as connection:
        assert len(withdrawals.make_successor(connection, "v1", "v2", utc_now()).judgement_ids) == 1
    assert world.ledger.verify().problems == ()


def _lease(world: World, rater: str, limit: int = 99) -> list[Assignment]:
    with world.ledger.writing() as connection:
        found = projects.find_project(connection, world.id)
        assert found is not None
        who = queue.find_rater(connection, rater)
        return queue.lease(
            connection, who, found.guideline_id, utc_now(), limit=limit, seconds=900, seed=1, project=world.id
        )


def test_what_another_question_holds_stays_there(world: World) -> None:
    """The same prompt, the same answer, the same words, the same photo."""
    first, second = world.ask([question("Who?", "one", "two"), question("Who?", "one", shows(PHOTO))])
    third = world.ask([question(f"Another {shows(PHOTO)}", "Who?", "one")])[0]
    assert world.erase([first]) == Erased(questions=1)
    assert world.texts(first) == ["Who?", "one", ""] and world.texts(second) == ["Who?", "one", shows(PHOTO)]
    assert world.erase([second]) == Erased(questions=1), "the third one shows the photo too"
    assert world.texts(first) == world.texts(second) == ["", ""]
    assert world.texts(third)[1:] == ["Who?", "one"]
    assert world.erase([third]) == Erased(questions=1, media=1)


def test_a_medium_goes_with_every_question_that_shows_it(world: World, path: Path) -> None:
    ids = world.ask([*photos(1), question("A ferry?", shows(PHOTO), "no")])
    kept = world.ask([question("What is this?", shows(OTHER), "a boat")])
    assert world.erase_medium(PHOTO) == Erased(questions=2, media=1)
    assert held(path, PHOTO.content, NAME) == [] and held(path, OTHER.content)
    assert world.texts(ids[1]) == ["", ""] and world.texts(kept[0])
    assert world.erase_medium(PHOTO) is None
    assert world.erase_medium(OTHER, world.project("q")) is None, "that project never had it"


def test_a_medium_of_another_project_stays_there(world: World) -> None:
    other = world.project("q")
    with world.ledger.writing() as connection:
        media.add_media(connection, other, [PHOTO], utc_now())
    world.ask(photos(1))
    world.ask([question("Theirs", shows(PHOTO), "no")], other)
    assert world.erase_medium(PHOTO) == Erased(questions=1, kept=1)
    with world.ledger.reading() as connection:
        assert media.types_in(connection, world.id, [PHOTO.id]) == {}
        assert media.types_in(connection, other, [PHOTO.id]) == {PHOTO.id: "image/png"}
    assert world.erase_medium(PHOTO, other) == Erased(questions=1, media=1)


def test_what_was_erased_does_not_come_in_again(world: World, path: Path) -> None:
    asked = photos()
    world.erase(world.ask(asked))
    fresh = question("Unheard of", shows(PHOTO), "no")
    with world.ledger.writing() as connection:
        assert media.add_media(connection, world.id, [PHOTO], utc_now()) == 0
        found = projects.add_questions(connection, world.id, [*asked, fresh], utc_now())
        other = projects.add_project(connection, "q", "Choose.", overlap=1, form={}, now=utc_now())
        assert media.add_media(connection, other, [PHOTO], utc_now()) == 0
    assert found == (0, 3)
    again = Question(asked[0].group, "photos", overlap=9)
    world.ledger.ask([again])
    with pytest.raises(LedgerError, match="answer or a medium that was erased"):
        world.ledger.ask([fresh])
    assert world.ledger.counts()["items_open"] == 0
    assert world.ledger.verify().problems == ()
    world.ledger.compact()
    assert held(path, NAME, PHOTO.content) == []


def test_an_erasure_opens_the_way_for_nothing_else(world: World) -> None:
    ids = world.ask([*photos(1), question("Another", "a", "b")])
    world.erase(ids[:1])
    for statement in (
        "DELETE FROM message",
        "UPDATE message SET content = ''",
        "DELETE FROM prompt_message",
        "UPDATE prompt_message SET position = 9",
        "UPDATE completion SET body = ''",
        "UPDATE completion SET body = 'back' WHERE body = ''",
        "UPDATE completion SET sample_index = 7 WHERE body = ''",
        "DELETE FROM completion",
        "DELETE FROM media",
        "DELETE FROM project_media",
        "DELETE FROM erasure",
        "UPDATE erasure SET created_at = ''",
    ):
        with pytest.raises(LedgerError, match="append-only"), world.ledger.writing() as connection:
            connection.execute(text(statement))
    with world.ledger.writing() as connection:
        row = {"object": "item", "id": ids[1], "at": utc_now()}
        connection.execute(text("INSERT INTO erasure VALUES (:object, :id, :at)"), row)
    assert any(f"erasure item:{ids[1]} has no audit entry" in p for p in world.ledger.verify().problems)


# Talks


def talk(world: World, rater: str, *said: str, opening: str = "") -> str:
    """A talk whose answers repeat what was said; every turn but the last is judged."""
    with world.ledger.writing() as connection:
        who = queue.find_rater(connection, rater)
        talk_id = talks.begin(
            connection, world.id, who.id, opening=opening, consent="yes, keep it", now=utc_now()
        )
    for n, words in enumerate(said, start=1):
        turn(world, talk_id, n, words, judged=n < len(said))
    return talk_id


def turn(world: World, talk_id: str, n: int, words: str, *, judged: bool = True) -> None:
    with world.ledger.writing() as connection:
        about, project = talks.find(connection, talk_id), projects.find_project(connection, world.id)
        assert about is not None and project is not None
        past = talks.turns(connection, about)
        before = talks.conversation(connection, about, past[-1] if past else None)
        prompt = Prompt((*before, Message("user", words)), source="live talk")
        seed = int(talk_id[:6], 16)
        drawn = [
            Completion(
                prompt.id,
                f"{words}, you say? {i}",
                (n, i),
                (-0.5, -0.5),
                "p0",
                Sampling(seed=seed + i),
                index=i,
            )
            for i in range(2)
        ]
        now = utc_now()
        asked = (n, f"key-{n}-{talk_id}", prompt)
        seen = talks.add_turn(connection, about, project, asked, (drawn, {}), seconds=900, now=now)
        if judged:
            answers.record(
                connection, seen.id, 1, Beside(comment=SAID),
                seconds=1, idempotency_key=seen.id, revises=None, now=now,
            )  # fmt: skip


@pytest.mark.parametrize("scope", ["text", "all"])
def test_no_byte_is_left_of_a_talk(world: World, path: Path, scope: str) -> None:
    opening = "You are my late aunt Hélène"
    mine = talk(world, "ada", "I am Marguerite", "I live in Sadec", opening=opening)
    silent = talk(world, "ada", opening="Nobody has heard this opening")
    theirs = talk(world, "bob", "I am Bob", "I live in Hull")
    gone = (opening, "I am Marguerite", "I live in Sadec", "Nobody has heard")
    stays = ("I am Bob", "I live in Hull", "yes, keep it", SAID)
    assert held(path, *gone, *stays) == [*gone, *stays]
    with world.ledger.writing() as connection:
        ada = queue.find_rater(connection, "ada").id
        assert talks.begun_by(connection, ada) == sorted((mine, silent))
        assert withdrawals.preview(connection, ada)["texts"] == 3
        done = answers.withdraw(connection, ada, scope, utc_now())
    assert done == {"accounts": 0, "texts": 3, "judgements": 1}
    world.ledger.compact()
    assert held(path, *gone) == [] and held(path, *stays) == list(stays)
    assert world.ledger.verify().problems == ()
    with world.ledger.reading() as connection:
        assert talks.find(connection, mine) is None and talks.find(connection, silent) is None
        assert talks.talks_of(connection, world.id, ada) == []
        assert talks.find(connection, theirs) is not None
        begun = store.read_prompts(connection, [mine])[mine].messages
    assert [message.role for message in begun] == [talks.BEGUN], "who agreed to which words stays"
    with world.ledger.writing() as connection:
        assert answers.withdraw(connection, ada, scope, utc_now())["texts"] == 0


def test_identity_leaves_talks_as_they_are(world: World) -> None:
    mine = talk(world, "ada", "I am Marguerite")
    with world.ledger.writing() as connection:
        answers.withdraw(connection, queue.find_rater(connection, "ada").id, "identity", utc_now())
        assert talks.find(connection, mine) is not None
    assert world.ledger.verify().problems == ()


def test_an_answer_that_comes_after_a_withdrawal_is_not_stored(world: World) -> None:
    mine = talk(world, "ada", "I am Marguerite")
    with world.ledger.writing() as connection:
        about, project = talks.find(connection, mine), projects.find_project(connection, world.id)
        assert about is not None and project is not None
        answers.withdraw(connection, about.annotator_id, "text", utc_now())
        with pytest.raises(LedgerError, match="this talk was erased"):
            late = (2, "key-2", Prompt.of("too late"))
            talks.add_turn(connection, about, project, late, ([], {}), seconds=9, now=utc_now())


def test_others_may_say_the_same_words(world: World) -> None:
    """Before and after: "Hello" is nobody's, and the other person's talk is whole."""
    first = talk(world, "bob", "Hello", "How are you?")
    mine = talk(world, "ada", "Hello", "Mine alone")
    with world.ledger.writing() as connection:
        answers.withdraw(connection, queue.find_rater(connection, "ada").id, "text", utc_now())
    after = talk(world, "bob", "Mine alone", "and more")
    for talk_id, words in ((first, "Hello"), (after, "Mine alone")):
        with world.ledger.reading() as connection:
            about = talks.find(connection, talk_id)
            assert about is not None
            said = talks.conversation(connection, about, talks.turns(connection, about)[-1])
        assert said[0].content == words and said[1].content.startswith(f"{words}, you say?")
    assert world.ledger.verify().problems == ()
    with world.ledger.reading() as connection:
        assert talks.find(connection, mine) is None
