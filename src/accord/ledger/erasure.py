"""Erasing questions with their texts and media, at somebody's request, while the record stays whole.

What is erased is first put on record by its id (table `erasure`, in the audit trail), which opens the way in
the triggers. Then the texts go: links of prompts to messages, messages and media to which nothing else links,
and the bodies of answers. Ids, assignments and judgements stay, and all judgements of such a question count
as taken back, so they leave every later figure, export and release. A text that another question still holds
stays there. Of a text the hash remains in ids: whoever guesses the very words can confirm the guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, insert, select, update

from accord.ledger import audit
from accord.ledger.media import SCHEME, media, project_media, references
from accord.ledger.schema import (
    assignment,
    completion,
    item,
    item_candidate,
    judgement,
    message,
    prompt_message,
)
from accord.ledger.store import chunks
from accord.ledger.team_schema import answer, erasure, project_item
from accord.records import Question


@dataclass(frozen=True)
class Erased:
    """How many of each are gone; `kept` media stay, because another project has them too."""

    questions: int = 0
    judgements: int = 0
    media: int = 0
    kept: int = 0


NOTHING = Erased()


def ids_of(object_: str) -> Select[Any]:
    """The ids on record as erased of one kind."""
    return select(erasure.c.object_id).where(erasure.c.object == object_)


def erased(connection: Connection, object_: str, among: Iterable[str] | None = None) -> set[str]:
    """Ids of one kind that were erased."""
    found = ids_of(object_)
    if among is None:
        return set(connection.execute(found).scalars())
    return {
        id_
        for some in chunks(among)
        for id_ in connection.execute(found.where(erasure.c.object_id.in_(some))).scalars()
    }


def _record(connection: Connection, object_: str, ids: Iterable[str], now: str, actor: str) -> list[str]:
    """Put them on record; those that were not yet."""
    wanted = list(dict.fromkeys(ids))
    known = erased(connection, object_, wanted)
    new = [id_ for id_ in wanted if id_ not in known]
    if new:
        rows = [{"object": object_, "object_id": id_, "created_at": now} for id_ in new]
        connection.execute(insert(erasure), rows)
        entries = [audit.Entry("erase", "erasure", f"{object_}:{id_}", [object_, id_], actor) for id_ in new]
        audit.append(connection, entries, now)
    return new


# Questions


def erase_items(
    connection: Connection, item_ids: Iterable[str], now: str, *, actor: str = audit.SYSTEM
) -> Erased:
    """Erase these questions: their texts, what raters wrote about them, and media that they alone hold."""
    new = _record(connection, "item", item_ids, now, actor)
    named = set[str]()
    homes = set[str]()
    prompts, candidates, taken_back = set[str](), set[str](), 0
    for some in chunks(new):
        taken_back += _take_back(connection, some)
        prompts |= _ids(connection, select(item.c.prompt_id).where(item.c.id.in_(some)))
        candidates |= _ids(
            connection, select(item_candidate.c.completion_id).where(item_candidate.c.item_id.in_(some))
        )
        homes |= _ids(connection, select(project_item.c.project_id).where(project_item.c.item_id.in_(some)))
    live = item.c.id.not_in(ids_of("item"))
    for some in chunks(prompts):
        prompts -= _ids(connection, select(item.c.prompt_id).where(item.c.prompt_id.in_(some), live))
    for some in chunks(prompts):
        candidates |= _ids(connection, select(completion.c.id).where(completion.c.prompt_id.in_(some)))
    shared = select(item_candidate.c.completion_id).join(item).where(live)
    for some in chunks(candidates):
        candidates -= _ids(connection, shared.where(item_candidate.c.completion_id.in_(some)))
    named |= _erase_completions(connection, candidates, now, actor)
    named |= erase_prompts(connection, prompts, now, actor=actor)
    gone = kept = 0
    for media_id in sorted(named):
        for project_id in sorted(homes):
            if not items_with(connection, project_id, media_id):
                one = _unlink(connection, project_id, media_id, now, actor)
                gone, kept = gone + one.media, kept + one.kept
    return Erased(len(new), taken_back, gone, kept)


def _ids(connection: Connection, query: Select[Any]) -> set[str]:
    return set(connection.execute(query).scalars())


def _take_back(connection: Connection, item_ids: Sequence[str]) -> int:
    """Close the items; their judgements count no longer, and what was written beside them goes."""
    mine = select(judgement.c.id).join(assignment).where(assignment.c.item_id.in_(item_ids))
    written = update(answer).where(answer.c.judgement_id.in_(mine), answer.c.body.is_not(None))
    connection.execute(written.values(body=None, salt=None))
    active = update(judgement).where(judgement.c.id.in_(mine), judgement.c.status == "active")
    count = connection.execute(active.values(status="withdrawn")).rowcount
    leased = update(assignment).where(assignment.c.item_id.in_(item_ids), assignment.c.state == "leased")
    connection.execute(leased.values(state="expired"))
    connection.execute(update(item).where(item.c.id.in_(item_ids)).values(state="done"))
    return count


def _erase_completions(connection: Connection, ids: Iterable[str], now: str, actor: str) -> set[str]:
    """The media that they named."""
    named = set[str]()
    for some in chunks(_record(connection, "completion", ids, now, actor)):
        bodies = connection.execute(select(completion.c.body).where(completion.c.id.in_(some))).scalars()
        named |= references(bodies)
        empty = update(completion).where(completion.c.id.in_(some))
        connection.execute(empty.values(body="", token_ids=b"", logps=b""))
    return named


def erase_prompts(
    connection: Connection, ids: Iterable[str], now: str, *, first: int = 0, actor: str = audit.SYSTEM
) -> set[str]:
    """Erase the messages of prompts from the one at position `first` on; the media that they named."""
    _record(connection, "prompt", wanted := list(ids), now, actor)
    named = set[str]()
    for some in chunks(wanted):
        mine = prompt_message.c.prompt_id.in_(some) & (prompt_message.c.position >= first)
        messages = _ids(connection, select(prompt_message.c.message_id).where(mine))
        connection.execute(delete(prompt_message).where(mine))
        unused = ~exists().where(prompt_message.c.message_id == message.c.id)
        for part in chunks(messages):
            texts = select(message.c.content).where(message.c.id.in_(part))
            named |= references(connection.execute(texts).scalars())
            connection.execute(delete(message).where(message.c.id.in_(part), unused))
    return named


# Media


def items_with(connection: Connection, project_id: str, media_id: str) -> list[str]:
    """Questions of a project whose texts name a medium."""
    word = SCHEME + media_id
    asked = exists().where(
        prompt_message.c.prompt_id == item.c.prompt_id,
        prompt_message.c.message_id == message.c.id,
        message.c.content.contains(word),
    )
    answered = exists().where(
        item_candidate.c.item_id == item.c.id,
        item_candidate.c.completion_id == completion.c.id,
        completion.c.body.contains(word),
    )
    here = select(item.c.id).join(project_item).where(project_item.c.project_id == project_id)
    live = here.where(item.c.id.not_in(ids_of("item")), asked | answered)
    return list(connection.execute(live.order_by(item.c.seq)).scalars())


def erase_medium(
    connection: Connection, project_id: str, media_id: str, now: str, *, actor: str = audit.SYSTEM
) -> Erased | None:
    """Erase a medium of a project and every question of it that shows it; None when it has no such one."""
    mine = (project_media.c.project_id == project_id) & (project_media.c.media_id == media_id)
    if connection.execute(select(project_media).where(mine)).first() is None:
        return None
    done = erase_items(connection, items_with(connection, project_id, media_id), now, actor=actor)
    last = _unlink(connection, project_id, media_id, now, actor)
    return Erased(done.questions, done.judgements, done.media + last.media, done.kept + last.kept)


def _unlink(connection: Connection, project_id: str, media_id: str, now: str, actor: str) -> Erased:
    """Take a medium from a project, and its bytes from the ledger when no other project has it."""
    mine = (project_media.c.project_id == project_id) & (project_media.c.media_id == media_id)
    if connection.execute(select(project_media).where(mine)).first() is None:
        return NOTHING
    _record(connection, "project_media", [f"{project_id}:{media_id}"], now, actor)
    connection.execute(delete(project_media).where(mine))
    others = select(project_media.c.project_id).where(project_media.c.media_id == media_id)
    if connection.execute(others).first() is not None:
        return Erased(kept=1)
    _record(connection, "media", [media_id], now, actor)
    connection.execute(delete(media).where(media.c.id == media_id))
    return Erased(media=1)


# What was erased does not come in again


def refused(connection: Connection, questions: Sequence[Question], item_ids: Sequence[str]) -> set[str]:
    """Of these questions, by item id, those that were erased or hold an answer or medium that was."""
    gone = erased(connection, "item", item_ids)
    answers_ = {c.id for question in questions for c in question.group.completions}
    gone_answers = erased(connection, "completion", answers_)
    texts = {
        id_: references(
            [*(m.content for m in q.group.prompt.messages), *(c.text for c in q.group.completions)]
        )
        for id_, q in zip(item_ids, questions, strict=True)
    }
    gone_media = erased(connection, "media", set().union(*texts.values()) if texts else ())
    return gone | {
        id_
        for id_, question in zip(item_ids, questions, strict=True)
        if texts[id_] & gone_media or any(c.id in gone_answers for c in question.group.completions)
    }


# Verification


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """What `verify` compares with the audit trail."""
    for row in connection.execute(select(erasure)):
        yield ("erasure", f"{row.object}:{row.object_id}"), [row.object, row.object_id]


def left_over(connection: Connection) -> Iterator[str]:
    """Texts and media that were erased and are there."""
    texts = select(completion.c.id).where(completion.c.id.in_(ids_of("completion")), completion.c.body != "")
    bytes_ = select(media.c.id).where(media.c.id.in_(ids_of("media")))
    for table, there in (("completion", texts), ("media", bytes_)):
        for id_ in connection.execute(there).scalars():
            yield f"{table} {id_} was erased and is there"
