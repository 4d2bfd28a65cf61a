"""A ledger from before assignments had a purpose is brought up to date with all that is in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, func, insert, select, text

from accord.errors import LedgerError
from accord.ledger import Ledger, schema
from accord.records import Question
from old_ledgers import copy_rows, old_ledger

BEFORE = "0003"


def test_an_old_ledger_keeps_its_rows_and_its_answers_are_votes(
    urls: tuple[str, str], pairs: Callable[..., list[Question]]
) -> None:
    with Ledger.open(urls[0]) as today:
        today.add_policy("p0", base_model="tiny")
        guideline = today.add_guideline("g")
        for name in ("ann", "ben"):
            today.add_rater(name, "human")
        today.ask(pairs(6, overlap=2))
        for name in ("ann", "ben"):
            skipped = today.lease(name, guideline)
            assert skipped is not None
            today.skip(skipped.id, "unclear")
            today.answer_many(name, guideline, lambda _: (2, 1.0), limit=3)
            today.lease(name, guideline)
        today.revise(today.judgements()[0].id, -1, seconds=2)
        today.release("v1")
        expected = today.judgements(include_superseded=True)
    engines = [create_engine(url.replace("postgresql:", "postgresql+psycopg:")) for url in urls]
    old_ledger(engines[1], BEFORE)
    copied = copy_rows(*engines)
    assert copied["assignment"] == 10 and copied["presentation"] == 20 and copied["judgement"] == 7
    for engine in engines:
        engine.dispose()
    with Ledger.open(urls[1], create=False) as brought:
        with brought.reading() as connection:
            for name, n in copied.items():
                count = select(func.count()).select_from(schema.metadata.tables[name])
                assert connection.execute(count).scalar_one() == n, name
            purposes = connection.execute(select(schema.assignment.c.purpose).distinct()).scalars().all()
        assert purposes == ["judge"]
        assert brought.judgements(include_superseded=True) == expected
        assert brought.verify().problems == ()
        assert brought.release_judgements("v1")
        with pytest.raises(LedgerError, match="assignment is append-only"), brought.writing() as connection:
            connection.execute(text("UPDATE assignment SET purpose = 'gold'"))
        with (
            pytest.raises(LedgerError, match=r"(UNIQUE constraint|duplicate key)"),
            brought.writing() as connection,
        ):
            row = connection.execute(
                select(schema.assignment).where(schema.assignment.c.state == "submitted")
            ).mappings()
            connection.execute(insert(schema.assignment), dict(row.first() or {}) | {"id": "x", "attempt": 9})
        brought.answer_many("ann", guideline, lambda _: (1, 1.0))
        assert brought.verify().problems == ()
