"""Images, sound and video, by the hash of their bytes, and the projects whose members may see them.

They stand in the database, not in files beside it: PostgreSQL has no folder, one backup holds everything, and
what was shown to raters is append-only and verified like their texts. A text refers to one by a line of
Markdown, `![what it is](accord-media:SHA256)`, so a text is all that a completion is. The reference gives no
access: a page shows it in those projects alone into which somebody brought that very medium.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, ForeignKey, LargeBinary, Table, Text, func, insert, select

from accord.ledger import audit
from accord.ledger.schema import metadata
from accord.ledger.store import chunks
from accord.ledger.team_schema import erasure

SCHEME = "accord-media:"
REFERENCE = re.compile(rf"{SCHEME}([0-9a-f]{{64}})(?![0-9a-f])")

media = Table(
    "media",
    metadata,
    Column("id", Text, primary_key=True),  # SHA-256 of the bytes
    Column("type", Text, nullable=False),  # as found in the bytes
    Column("bytes", LargeBinary, nullable=False),
    Column("created_at", Text, nullable=False),
)

project_media = Table(
    "project_media",
    metadata,
    Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
    Column("media_id", Text, ForeignKey("media.id"), primary_key=True),
)


@dataclass(frozen=True)
class Medium:
    type: str
    content: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def references(texts: Iterable[str]) -> set[str]:
    """The media that texts name, whether they exist or not."""
    return {found for text in texts if SCHEME in text for found in REFERENCE.findall(text)}


def add_media(connection: Connection, project_id: str, found: Iterable[Medium], now: str) -> int:
    """Store media and let the project's members see them; how many were new to the project.

    What was erased does not come back.
    """
    by_id = {medium.id: medium for medium in found}
    for id_ in _erased(connection, project_id, by_id):
        del by_id[id_]
    known = _known(connection, by_id)
    mine = types_in(connection, project_id, by_id)
    new: list[dict[str, Any]] = [
        {"id": id_, "type": medium.type, "bytes": medium.content, "created_at": now}
        for id_, medium in by_id.items()
        if id_ not in known
    ]
    attached = [{"project_id": project_id, "media_id": id_} for id_ in by_id if id_ not in mine]
    if new:
        connection.execute(insert(media), new)
    if attached:
        connection.execute(insert(project_media), attached)
    stored = [audit.Entry("add", "media", row["id"], [row["type"]]) for row in new]
    seen = [audit.Entry("attach", "project_media", _key(row), []) for row in attached]
    audit.append(connection, [*stored, *seen], now)
    return len(attached)


def _known(connection: Connection, ids: Iterable[str]) -> set[str]:
    return {
        id_
        for some in chunks(ids)
        for id_ in connection.execute(select(media.c.id).where(media.c.id.in_(some))).scalars()
    }


def _erased(connection: Connection, project_id: str, ids: Iterable[str]) -> set[str]:
    of = {**{id_: id_ for id_ in ids}, **{f"{project_id}:{id_}": id_ for id_ in ids}}
    return {
        of[row.object_id]
        for some in chunks(of)
        for row in connection.execute(select(erasure.c.object_id).where(erasure.c.object_id.in_(some)))
    }


def _key(row: Mapping[Any, Any]) -> str:
    return f"{row['project_id']}:{row['media_id']}"


def types_in(connection: Connection, project_id: str, ids: Iterable[str]) -> dict[str, str]:
    """The type of each of these media that belongs to the project; others are left out."""
    columns = select(media.c.id, media.c.type).join(project_media)
    mine = columns.where(project_media.c.project_id == project_id)
    return {
        row.id: row.type
        for some in chunks(ids)
        for row in connection.execute(mine.where(media.c.id.in_(some)))
    }


def ids_in(connection: Connection, project_id: str) -> list[str]:
    """Every medium of a project."""
    mine = select(project_media.c.media_id).where(project_media.c.project_id == project_id)
    return list(connection.execute(mine.order_by(project_media.c.media_id)).scalars())


def size_of(connection: Connection, media_id: str) -> int:
    """In bytes; 0 when there is no such medium."""
    size = select(func.length(media.c.bytes)).where(media.c.id == media_id)
    return int(connection.execute(size).scalar() or 0)


def read_part(connection: Connection, media_id: str, start: int, length: int) -> bytes:
    """`length` bytes from `start` on, without reading the others."""
    part = select(func.substr(media.c.bytes, start + 1, length, type_=LargeBinary))
    return bytes(connection.execute(part.where(media.c.id == media_id)).scalar_one())


# What `verify` compares


def details(connection: Connection) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for row in connection.execute(select(media.c.id, media.c.type)):
        yield ("media", row.id), [row.type]
    for seen in connection.execute(select(project_media)).mappings():
        yield ("project_media", _key(dict(seen))), []


def damaged(connection: Connection) -> Iterator[str]:
    for id_ in connection.execute(select(media.c.id)).scalars().all():
        content = connection.execute(select(media.c.bytes).where(media.c.id == id_)).scalar_one()
        if hashlib.sha256(content).hexdigest() != id_:
            yield f"media {id_}: the bytes do not match their hash"
