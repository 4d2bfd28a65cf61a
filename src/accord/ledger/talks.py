"""Talks of raters with policies, each turn of which is a question like any other.

A talk has no table. It begins with a row of `prompt` that records who agreed to what (its messages are the
record, and its id is the talk's, so nothing of it can be changed). Each turn is an item whose prompt is the
conversation so far and whose reason names talk, turn and the client's key. What the policy is taken to have
said is the answer that was judged better; where none was, one of the two by a coin that depends on the item
alone. The next turn's prompt then holds it for good.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from accord.errors import LedgerError
from accord.ledger import audit, erasure, projects, queue, store
from accord.ledger.prepared import LIVE_TALK
from accord.ledger.projects import Project
from accord.ledger.queue import Assignment
from accord.ledger.schema import (
    assignment,
    item,
    judgement,
    message,
    preference,
    prompt,
    prompt_message,
)
from accord.records import Completion, Group, Message, Prompt, Question, content_hash

BEGUN = "talk"  # the role of the message that records how a talk began
MOST_TURNS = 20
RECENT = 20


@dataclass(frozen=True)
class Talk:
    id: str
    project_id: str
    annotator_id: str
    opening: str  # the system message, or ""
    began_at: str

    @property
    def start(self) -> tuple[Message, ...]:
        return (Message("system", self.opening),) if self.opening else ()


@dataclass(frozen=True)
class Turn:
    """One question of a talk. `said` is the slot of the answer from which the talk goes on, once it does."""

    n: int
    key: str
    item_id: str
    assignment_id: str
    said: int | None


def begin(
    connection: Connection, project_id: str, annotator_id: str, *, opening: str, consent: str, now: str
) -> str:
    """The id of a new talk. `consent` is the text that the rater agreed to."""
    about = {
        "project": project_id,
        "annotator": annotator_id,
        "consent": consent,
        "at": now,
        "salt": secrets.token_hex(8),
    }
    first = Message(BEGUN, store.canonical_json(about))
    rest = (Message("system", opening),) if opening else ()
    made = Prompt((first, *rest), source="live talk", tags=(BEGUN,))
    store.add_groups(connection, [Group(made, ())], now)
    return made.id


def find(connection: Connection, talk_id: str) -> Talk | None:
    """None where there is no such talk, or it was erased."""
    if erasure.erased(connection, "prompt", [talk_id]):
        return None
    found = store.read_prompts(connection, [talk_id]).get(talk_id)
    if found is None or not found.messages or found.messages[0].role != BEGUN:
        return None
    about = json.loads(found.messages[0].content)
    opening = "".join(message.content for message in found.messages[1:])
    return Talk(talk_id, about["project"], about["annotator"], opening, about["at"])


# Turns


def reason_of(talk_id: str, n: int, key: str) -> str:
    return f"{LIVE_TALK}{talk_id} turn {n} key {key}"


def turns(connection: Connection, talk: Talk) -> list[Turn]:
    """In their order."""
    rows = (
        select(item.c.id, item.c.reason, assignment.c.id.label("assignment_id"), assignment.c.state)
        .select_from(assignment.join(item, assignment.c.item_id == item.c.id))
        .where(
            assignment.c.annotator_id == talk.annotator_id,
            item.c.reason.like(f"{LIVE_TALK}{talk.id} %"),
            assignment.c.purpose == "judge",
        )
        .order_by(item.c.seq, assignment.c.state == "submitted", assignment.c.attempt)
    )
    # of several attempts at one item the answered one counts, else the newest
    newest = {row.id: row for row in connection.execute(rows)}
    found = []
    for row in newest.values():
        _, n, _, key = row.reason.removeprefix(LIVE_TALK + talk.id).split()
        said = None if row.state in ("leased", "expired") else _said(connection, row.id, row.assignment_id)
        found.append(Turn(int(n), key, row.id, row.assignment_id, said))
    return found


def _said(connection: Connection, item_id: str, assignment_id: str) -> int:
    """The slot that was judged better; after a tie or a skip the coin's."""
    newest = judgement.c.status != "superseded"
    columns = select(preference.c.slot_hi, preference.c.tie).join(judgement)
    row = connection.execute(columns.where(judgement.c.assignment_id == assignment_id, newest)).first()
    return coin(item_id) if row is None or row.tie else int(row.slot_hi)


def coin(item_id: str) -> int:
    """0 or 1, at random over items, and always the same for one."""
    return int(content_hash(["coin", item_id])[0], 16) % 2


def conversation(connection: Connection, talk: Talk, last: Turn | None) -> tuple[Message, ...]:
    """All that was said: with an open turn it ends with the rater's message, else with the policy's."""
    if last is None:
        return talk.start
    group = store.read_groups(connection, [last.item_id])[last.item_id]
    if last.said is None:
        return group.prompt.messages
    return (*group.prompt.messages, Message("assistant", group.completions[last.said].text))


def add_turn(
    connection: Connection,
    talk: Talk,
    project: Project,
    turn: tuple[int, str, Prompt],  # its number, the client's key, and the conversation
    drawn: tuple[Sequence[Completion], Mapping[str, str]],  # answers; the base model of each policy version
    *,
    seconds: float,
    now: str,
) -> Assignment:
    """Store two answers as a question to the rater of this talk, who holds it for `seconds`.

    Raises LedgerError when the talk has gone on in the meantime.
    """
    n, key, said = turn
    completions, base_models = drawn
    if find(connection, talk.id) is None:
        raise LedgerError("this talk was erased")
    before = turns(connection, talk)
    if len(before) != n - 1 or (before and before[-1].said is None):
        raise LedgerError("this talk went on in another window; load the page again")
    for version, base_model in base_models.items():
        row: dict[str, Any] = {"id": version, "base_model": base_model, "weights_sha256": "", "step": 0}
        store.add_policy(connection, row | {"parent_id": None, "config": "{}"}, now)
    question = Question(Group(said, tuple(completions)), reason_of(talk.id, n, key), overlap=1)
    projects.add_questions(connection, project.id, [question], now)
    rater = queue.find_rater(connection, talk.annotator_id)
    item_id = queue.item_id_of(question.group)
    return queue.lease(
        connection, rater, project.guideline_id, now, limit=1, seconds=seconds, seed=None, items=[item_id]
    )[0]


def talks_of(connection: Connection, project_id: str, annotator_id: str) -> list[dict[str, Any]]:
    """A rater's newest talks in a project: id, when it began, turns, and her first words."""
    rows = (
        select(item.c.reason, item.c.prompt_id, prompt.c.created_at)
        .select_from(assignment.join(item).join(prompt, prompt.c.id == item.c.prompt_id))
        .join(projects.project_item, projects.project_item.c.item_id == item.c.id)
        .where(
            assignment.c.annotator_id == annotator_id,
            item.c.reason.like(f"{LIVE_TALK}%"),
            projects.project_item.c.project_id == project_id,
        )
        .order_by(item.c.seq)
    )
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute(rows):
        talk_id, _, n, *_ = row.reason.removeprefix(LIVE_TALK).split()
        about = found.setdefault(talk_id, {"id": talk_id, "turns": 0, "first": row.prompt_id})
        about["turns"] = max(about["turns"], int(n))
    newest = list(reversed(found.values()))[:RECENT]
    prompts = store.read_prompts(connection, [about["first"] for about in newest])
    for about in newest:
        talk = find(connection, about["id"])
        about["began_at"] = talk.began_at if talk else ""
        words = (m.content for m in prompts[about["first"]].messages if m.role == "user")
        about["first"] = next(words, "")
    return [about for about in newest if about["began_at"]]


# Erasing


def begun_by(connection: Connection, annotator_id: str) -> list[str]:
    """The talks of a person, with a turn or without."""
    said = f'"annotator":{store.canonical_json(annotator_id)}'
    joined = prompt_message.join(message, message.c.id == prompt_message.c.message_id)
    rows = (
        select(prompt_message.c.prompt_id)
        .select_from(joined)
        .where(prompt_message.c.position == 0, message.c.role == BEGUN, message.c.content.contains(said))
    )
    return sorted(connection.execute(rows).scalars())


def turns_of(connection: Connection, talk_ids: Iterable[str]) -> list[str]:
    """The questions of talks."""
    return [
        id_
        for talk_id in talk_ids
        for id_ in connection.execute(
            select(item.c.id).where(item.c.reason.like(f"{LIVE_TALK}{talk_id} %"))
        ).scalars()
    ]


def erase(
    connection: Connection, talk_ids: Iterable[str], now: str, *, actor: str = audit.SYSTEM
) -> erasure.Erased:
    """Erase all that was said in talks. The record of who agreed to which words stays."""
    ids = list(talk_ids)
    erasure.erase_prompts(connection, ids, now, first=1, actor=actor)
    return erasure.erase_items(connection, turns_of(connection, ids), now, actor=actor)


__all__ = [
    "MOST_TURNS",
    "Talk",
    "Turn",
    "add_turn",
    "begin",
    "begun_by",
    "conversation",
    "erase",
    "find",
    "talks_of",
    "turns",
    "turns_of",
]
