"""Opening, creating, refusing; migrations; what survives a killed writer."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from accord.errors import LedgerError
from accord.ledger import Ledger, database, schema


def raw(path: Path, *statements: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        with connection:
            return [row for statement in statements for row in connection.execute(statement)]
    finally:
        connection.close()


def test_migrations_make_exactly_the_schema_in_code(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "migrated.sqlite").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'created.sqlite'}")
    schema.metadata.create_all(engine)
    engine.dispose()
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') "
        f"AND tbl_name <> '{schema.VERSION_TABLE}' ORDER BY name"
    )
    created = raw(tmp_path / "created.sqlite", query)
    assert len(created) > 20
    assert raw(tmp_path / "migrated.sqlite", query) == created


def test_schema_version_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.SCHEMA_VERSION


def test_reopening_keeps_everything_and_a_url_opens_the_same_file(ledger: Ledger, path: Path) -> None:
    ledger.add_rater("ann", "human")
    ledger.close()
    with Ledger.open(f"sqlite:///{path}", create=False) as again:
        assert again.counts()["raters"] == 1
    assert raw(path, "PRAGMA journal_mode") == [("wal",)]


def test_many_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    """All succeed, one of them made the tables, and each one's rater is there."""
    path = tmp_path / "ledger.sqlite"

    def open_often(worker: int) -> None:
        for turn in range(3):
            with Ledger.open(path) as ledger:
                ledger.add_rater(f"{worker}.{turn}", "human")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_often, range(4)))
    with Ledger.open(path, create=False) as ledger:
        assert ledger.verify().ok
        assert ledger.counts()["raters"] == 12
    assert raw(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.SCHEMA_VERSION,)]
    assert raw(path, "PRAGMA journal_mode") == [("wal",)]


def test_what_is_locked_is_tried_again_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite may refuse at once, so seldom that the test above would not show it."""
    now = [0.0]

    def locked(until: float) -> None:
        if now[0] < until:
            raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(database.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(database.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    database._retry_locked(lambda: locked(until=1.0))
    assert now[0] == pytest.approx(1.0, abs=0.1)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        database._retry_locked(lambda: locked(until=1e9))
    assert now[0] == pytest.approx(1.0 + database.BUSY_SECONDS, abs=0.2)

    def broken() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    began = now[0]
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        database._retry_locked(broken)
    assert now[0] == began


def test_folders_are_made_and_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "a 100%" / "b" / "ledger.sqlite").close()
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    with pytest.raises(LedgerError, match="is empty, not a ledger"):
        Ledger.open(empty, create=False)
    with Ledger.open(empty) as ledger:
        assert ledger.verify().ok


def test_missing_file_is_not_created_when_told_not_to(path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger at .*ledger\.sqlite; check the path"):
        Ledger.open(path, create=False)
    assert not path.exists()


def test_newer_schema_is_refused_by_naming_both_versions(ledger: Ledger, path: Path) -> None:
    ledger.close()
    raw(path, f"UPDATE {schema.VERSION_TABLE} SET version_num = '0099'")
    with pytest.raises(LedgerError, match=rf"version 0099.*up to {schema.SCHEMA_VERSION}.*pip install"):
        Ledger.open(path)


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    note = tmp_path / "notes.txt"
    note.write_text("not a database, but longer than a header")
    other = tmp_path / "other.sqlite"
    raw(other, "CREATE TABLE pets (name)")
    before = other.read_bytes()
    with pytest.raises(LedgerError, match=r"notes\.txt is not a ledger"):
        Ledger.open(note)
    with pytest.raises(LedgerError, match=r"other\.sqlite is a database, but not a ledger"):
        Ledger.open(other)
    assert other.read_bytes() == before
    with pytest.raises(LedgerError, match="is a folder"):
        Ledger.open(tmp_path)
    with pytest.raises(LedgerError, match="in memory"):
        Ledger.open(":memory:")
    with pytest.raises(LedgerError, match="neither a path nor a database URL"):
        Ledger.open("://")


def test_a_ledger_cut_short_is_refused_or_reported(ledger: Ledger, path: Path) -> None:
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(LedgerError, match=r"ledger\.sqlite.*(damaged|not a ledger)"):
        Ledger.open(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError, match=r"ledger\.sqlite: .*restore a backup"):
        Ledger.open(path).add_rater("ann", "human")


def test_a_write_inside_a_write_is_an_error_and_not_a_hang(
    ledger: Ledger, guideline: str, pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    ledger.add_rater("sim", "simulated")
    ledger.ask(pairs(1))

    def writes(_: object) -> tuple[int, float]:
        ledger.add_rater("other", "human")
        return 1, 1.0

    with pytest.raises(LedgerError, match="writes inside a write"):
        ledger.answer_many("sim", guideline, writes)
    assert ledger.counts()["raters"] == 1


WRITER = """
import sys
from accord.ledger import Ledger
ledger = Ledger.open(sys.argv[1], create=False)
while (found := ledger.lease("ann", sys.argv[2])) is not None:
    print(ledger.submit(found.id, 2, seconds=1.0).id, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_was_told_is_stored(
    ledger: Ledger, guideline: str, pairs, path: Path
) -> None:
    ledger.add_rater("ann", "human")
    ledger.ask(pairs(2000))
    command = [sys.executable, "-c", WRITER, str(path), guideline]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split()  # said before it died, or cut off in the middle
    stored = {judged.id for judged in ledger.judgements()}
    assert {line for line in acknowledged if len(line) == 32} <= stored
    assert 20 <= len(stored) < 2000
    assert ledger.verify().problems == ()


def test_the_ledger_loads_no_torch_and_opens_without_alembic(path: Path) -> None:
    Ledger.open(path).close()
    script = (
        "import sys; from accord.ledger import Ledger; Ledger.open(sys.argv[1]).close(); "
        "sys.exit(', '.join({'torch', 'transformers', 'alembic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
