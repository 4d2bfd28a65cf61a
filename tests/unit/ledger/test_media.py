"""Media in both databases: whole and in parts, append-only, verified."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from accord.errors import LedgerError
from accord.ledger import Ledger, media, projects
from accord.ledger.database import utc_now
from accord.ledger.media import Medium, references

SOUND = Medium("audio/wav", bytes(range(256)) * 40)


@pytest.fixture
def project(ledger: Ledger) -> str:
    with ledger.writing() as connection:
        made = projects.add_project(connection, "Sounds", "Listen.", overlap=1, form={}, now=utc_now())
        assert media.add_media(connection, made, [SOUND, SOUND], utc_now()) == 1
        return made


@pytest.mark.parametrize(
    ("start", "length"), [(0, 10), (250, 12), (10_239, 1), (0, 10_240), (10_000, 99_999)]
)
def test_parts_are_those_of_the_bytes(ledger: Ledger, project: str, start: int, length: int) -> None:
    with ledger.reading() as connection:
        assert media.read_part(connection, SOUND.id, start, length) == SOUND.content[start : start + length]
        assert media.size_of(connection, SOUND.id) == 10_240
        assert media.size_of(connection, "0" * 64) == 0
        assert media.types_in(connection, project, [SOUND.id]) == {SOUND.id: "audio/wav"}
        assert media.types_in(connection, "another", [SOUND.id]) == {}
    assert ledger.verify().problems == ()


@pytest.mark.parametrize("table", ["media", "project_media"])
@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}"])
def test_history_stays(ledger: Ledger, project: str, table: str, statement: str) -> None:
    column = {"media": "type", "project_media": "project_id"}[table]
    with pytest.raises(LedgerError, match=f"{table} is append-only"), ledger.writing() as connection:
        connection.execute(text(statement.format(table, column)))


def test_references_are_read_from_texts() -> None:
    a, b = "a" * 64, "0" * 64
    texts = [f"![x](accord-media:{a}) accord-media:{b}", f"accord-media:{a}f", "accord-media:short", ""]
    assert references(texts) == {a, b}
