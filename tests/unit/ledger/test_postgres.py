"""What PostgreSQL must do as SQLite does: refuse to rewrite history, one writer, one state for a reader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, func, insert, select, text

from accord.errors import LedgerError
from accord.ledger import Ledger, accounts, projects, schema
from accord.ledger.database import utc_now
from accord.ledger.schema import annotator
from accord.records import Completion, Group, Prompt, Question

APPEND_ONLY = ("preference", "presentation", "release_row", "audit", "release", "message", "completion")


@pytest.fixture
def url(new_postgres: Callable[[], str]) -> str:
    return new_postgres()


@pytest.fixture
def used(url: str, pairs: Callable[..., list[Question]]) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        opened.add_policy("p0", base_model="tiny")
        opened.ask(pairs(2))
        opened.add_rater("ann", "human")
        opened.answer_many("ann", opened.add_guideline("g"), lambda _: (2, 1.0))
        opened.release("v1")
        yield opened


def test_migrations_make_the_schema_in_code(url: str) -> None:
    with Ledger.open(url) as ledger, ledger.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []


@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"])
def test_history_can_be_neither_changed_nor_removed(used: Ledger, statement: str) -> None:
    for name in APPEND_ONLY:
        column = next(iter(schema.metadata.tables[name].columns)).name
        with (
            pytest.raises(LedgerError, match=r"\w+ is append-only"),
            used.writing() as connection,
        ):
            connection.execute(text(statement.format(name, column)))
    assert used.verify().problems == ()


def test_a_judgement_changes_its_status_alone_and_not_back(used: Ledger) -> None:
    with used.writing() as connection:
        connection.execute(text("UPDATE judgement SET status = 'withdrawn'"))
    for change in ("status = 'active'", "active_seconds = 9"):
        with pytest.raises(LedgerError, match="judgement is append-only"), used.writing() as connection:
            connection.execute(text(f"UPDATE judgement SET {change}"))


def test_logins_that_look_the_same_are_the_same(used: Ledger) -> None:
    with used.writing() as connection:
        accounts.add_account(connection, "Zoë", "hash", admin=False, now=utc_now())
    with pytest.raises(LedgerError, match="login is taken"), used.writing() as connection:
        accounts.add_account(connection, "zoë", "hash", admin=False, now=utc_now())


def test_a_reader_sees_one_state_while_others_write(used: Ledger) -> None:
    count = select(func.count()).select_from(annotator)
    with used.reading() as connection:
        before = connection.execute(count).scalar_one()
        used.add_rater("ben", "human")
        assert connection.execute(count).scalar_one() == before
    with used.reading() as connection:
        assert connection.execute(count).scalar_one() == before + 1


def test_writers_of_two_processes_take_turns(url: str) -> None:
    """Two engines stand for two processes: what one checks stays true until it commits."""
    with Ledger.open(url) as first, Ledger.open(url) as second:
        done = threading.Event()

        def add() -> None:
            second.add_rater("ann", "human")
            done.set()

        with first.writing():
            other = threading.Thread(target=add)
            other.start()
            assert not done.wait(0.3)
        other.join(20)
        assert done.is_set()


def test_texts_that_the_database_cannot_hold_are_refused(used: Ledger) -> None:
    prompt = Prompt.of("zero \x00 byte")
    with pytest.raises(LedgerError, match="NUL"):
        used.add_groups([Group(prompt, (Completion(prompt.id, "a"),))])


def test_a_damaged_row_is_found(used: Ledger) -> None:
    with used.writing() as connection:
        connection.execute(text("ALTER TABLE message DISABLE TRIGGER ALL"))
        connection.execute(text("UPDATE message SET content = 'x' WHERE content = 'question 1'"))
    (first, *_) = used.verify().problems
    assert "text does not match its id" in first


def test_compacting_rewrites_the_tables_and_keeps_them(used: Ledger) -> None:
    used.compact()
    used.add_rater("after", "human")  # the connection can still be used
    assert used.verify().ok


def test_it_knows_how_large_its_tables_are_after_an_import(
    used: Ledger, pairs: Callable[..., list[Question]]
) -> None:
    """Or the first minute of a large import is slow: it joins 1,000 questions as if they were five."""
    size = text("SELECT reltuples FROM pg_class WHERE relname = 'project_item'")
    with used.writing() as connection:
        project = projects.add_project(connection, "p", "g", overlap=1, form={}, now=utc_now())
        assert connection.execute(size).scalar_one() <= 0
        projects.add_questions(connection, project, pairs(60)[2:], utc_now())
        assert connection.execute(size).scalar_one() == 58


def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(LedgerError, match="is empty, not a ledger"):
        Ledger.open(url, create=False)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE pets (name text)"))
    engine.dispose()
    with pytest.raises(LedgerError, match="is a database, but not a ledger"):
        Ledger.open(url)
    with pytest.raises(LedgerError, match=r"nowhere: .*(connect|exist|No such file)"):
        Ledger.open("postgresql://accord@/nowhere?host=/nowhere")


def test_a_row_that_points_nowhere_is_refused(used: Ledger) -> None:
    row = {"item_id": "ghost", "slot": 0, "completion_id": "ghost"}
    with pytest.raises(LedgerError, match="foreign key"), used.writing() as connection:
        connection.execute(insert(schema.item_candidate), row)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(LedgerError, match=r"pip install 'accord-rlhf\[postgres\]'"):
        Ledger.open(f"postgresql://accord@/x?host={tmp_path}")
