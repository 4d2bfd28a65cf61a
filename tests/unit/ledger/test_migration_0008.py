"""A ledger from before reservations and erasures keeps all that is in it, and can do both from then on."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, func, select, text

from accord.errors import LedgerError
from accord.ledger import Ledger, accounts, erasure, media, projects, queue, reservations, schema
from accord.ledger.database import utc_now
from accord.ledger.media import Medium
from accord.records import Group, Prompt, Question
from old_ledgers import copy_rows, old_ledger

BEFORE = "0007"
PHOTO = Medium("image/png", b"\x89PNG a photo")


def fill(url: str) -> tuple[str, str, list[str]]:
    """A project with a rater, questions and a photo: the project, her pseudonym, the questions."""
    with Ledger.open(url) as today, today.writing() as connection:
        now = utc_now()
        project = projects.add_project(connection, "p", "Choose.", overlap=1, form={}, now=now)
        account = accounts.add_account(connection, "ada", "hash", admin=False, now=now)
        accounts.set_role(connection, project, account, "rater", now)
        found = accounts.by_id(connection, account)
        assert found is not None
        media.add_media(connection, project, [PHOTO], now)
        asked = [
            Question(Group.of(Prompt.of(f"{i}? ![x](accord-media:{PHOTO.id})"), "yes", "no"), "photos")
            for i in range(3)
        ]
        projects.add_questions(connection, project, asked, now)
    with Ledger.open(url) as today:
        today.answer_many(found[0].pseudonym, today.add_guideline("g"), lambda _: (2, 1.0), limit=2)
        today.release("v1")
    return project, found[0].pseudonym, [queue.item_id_of(question.group) for question in asked]


def test_an_old_ledger_keeps_its_rows_and_learns_to_keep_and_to_erase(urls: tuple[str, str]) -> None:
    project, ada, items = fill(urls[0])
    engines = [create_engine(url.replace("postgresql:", "postgresql+psycopg:")) for url in urls]
    old_ledger(engines[1], BEFORE)
    copied = copy_rows(*engines)
    assert copied["message"] == 3 and copied["media"] == 1 and copied["judgement"] == 2
    for engine in engines:
        engine.dispose()
    with Ledger.open(urls[1], create=False) as brought:
        with brought.reading() as connection:
            for name, n in copied.items():
                count = select(func.count()).select_from(schema.metadata.tables[name])
                assert connection.execute(count).scalar_one() == n, name
        assert brought.verify().problems == ()
        for table in ("message", "prompt_message", "completion", "media", "project_media"):
            with pytest.raises(LedgerError, match="append-only"), brought.writing() as connection:
                connection.execute(text(f"DELETE FROM {table}"))
        with brought.writing() as connection:
            reservations.reserve(connection, project, "photos", [ada], exclusive=True, now=utc_now())
            done = erasure.erase_items(connection, items, utc_now())
        assert (done.questions, done.judgements, done.media) == (3, 2, 1)
        assert brought.verify().problems == ()
        with brought.reading() as connection:
            assert connection.execute(select(func.count()).select_from(schema.message)).scalar_one() == 0
