"""Opening the ledger's database, bringing its schema up to date, and the two kinds of transaction.

SQLite is the default and PostgreSQL the choice for a server that has it; the tests run on both.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from accord.errors import LedgerError
from accord.ledger.schema import SCHEMA_VERSION, VERSION_TABLE

MIGRATIONS = Path(__file__).parent / "migrations"
SQLITE_MAGIC = b"SQLite format 3\x00"
BUSY_SECONDS = 30
SYNCHRONOUS = "FULL"  # what was acknowledged survives a power cut, not only a crash
WRITES = "accord_writes"
MANY = 50  # rows
POOL = 20  # connections that are kept: opening one costs PostgreSQL a process, and its prepared statements
ADVISORY_LOCK = 0x4143434F5244  # "ACCORD": PostgreSQL's stand-in for SQLite's one writer

# Alembic keeps the migration under way in module globals.
_migrating = threading.Lock()


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Database:
    """An engine with the two transactions that the ledger uses."""

    engine: Engine
    name: str  # the path or URL, for messages
    # Threads queue here instead of polling SQLite's lock, which is slow and unfair.
    _turn: Any = field(default_factory=threading.Lock)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the ledger."""
        with _explained(self.name), self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":  # each statement would see its own
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start, so that what it checks stays true."""
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise LedgerError(
                f"ledger {self.name}: another thread has been writing for {BUSY_SECONDS} s, or this one "
                "writes inside a write; try again"
            )
        try:
            with _explained(self.name), self.engine.connect() as connection:
                connection.execution_options(**{WRITES: True})
                with connection.begin():
                    yield connection
        finally:
            self._turn.release()

    def compact(self) -> None:
        """Rewrite the file or the tables, so that nothing erased is left in free pages.

        SQLite's log is emptied too. Of PostgreSQL's log, its archives and all backups the administrator
        must take care.
        """
        sqlite = self.engine.dialect.name == "sqlite"
        statements = ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)") if sqlite else ("VACUUM FULL",)
        with _explained(self.name):
            connection = self.engine.raw_connection()  # VACUUM cannot run inside a transaction
            driver: Any = connection.driver_connection
            try:
                if not sqlite:
                    driver.autocommit = True
                for statement in statements:
                    connection.cursor().execute(statement)
            finally:
                if not sqlite:
                    driver.autocommit = False
                connection.close()


def learn_sizes(connection: Connection, tables: Sequence[Table], new_rows: int) -> None:
    """After many new rows tell PostgreSQL how large its tables are, a minute before it looks by itself.

    Until it knows, it takes every join for one of a few rows: with 1,000 questions 90 ms instead of 0.4.
    """
    if connection.dialect.name == "postgresql" and new_rows >= MANY:
        names = ", ".join(table.name for table in tables)
        connection.exec_driver_sql(f"ANALYZE {names}")


def open_database(where: str | Path, *, create: bool) -> Database:
    """Connect, create or migrate the schema, and switch SQLite to WAL.

    Raises LedgerError when there is no ledger (and `create` is False), when the file is something else or
    is damaged, or when a newer Accord wrote it.
    """
    url = _url(where)
    if url.get_backend_name() == "sqlite":
        _check_file(Path(url.database or ""), create)
    try:
        engine = create_engine(url, pool_size=POOL, pool_use_lifo=True)
    except ModuleNotFoundError as missing:
        raise LedgerError(
            f"ledger {url}: the driver {missing.name!r} is not installed; for PostgreSQL: "
            "pip install 'accord-rlhf[postgres]'"
        ) from missing
    name = url.database if url.get_backend_name() == "sqlite" and url.database else str(url)
    _listen(engine)
    database = Database(engine, name)
    try:
        _bring_up_to_date(database, create)
        _use_wal(database)
    except BaseException:
        engine.dispose()
        raise
    return database


def _url(where: str | Path) -> URL:
    if "://" not in str(where):
        return URL.create("sqlite", database=str(Path(where).expanduser()))
    try:
        url = make_url(str(where))
        # Which driver SQLAlchemy takes without being told depends on its version.
        return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    except ArgumentError as error:
        raise LedgerError(f"{where!r} is neither a path nor a database URL") from error


def _check_file(path: Path, create: bool) -> None:
    if str(path) in ("", ".", ":memory:"):
        raise LedgerError("a ledger in memory would lose what raters said; give the path of a file")
    if path.is_dir():
        raise LedgerError(f"{path} is a folder; give the path of the ledger file in it")
    if not path.exists():
        if not create:
            raise LedgerError(f"there is no ledger at {path}; check the path")
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    with path.open("rb") as file:
        start = file.read(len(SQLITE_MAGIC))
    if start and start != SQLITE_MAGIC:
        raise LedgerError(
            f"{path} is not a ledger (not a SQLite file, or its start is damaged); check the path or restore "
            "a backup"
        )


def _listen(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":

        @event.listens_for(engine, "connect")
        def limit(dbapi_connection: Any, _record: Any) -> None:
            dbapi_connection.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
            dbapi_connection.commit()

        @event.listens_for(engine, "begin")
        def lock(connection: Connection) -> None:
            if connection.get_execution_options().get(WRITES):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")

        return

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # the driver must not begin transactions by itself
        dbapi_connection.create_function("sqrt", 1, math.sqrt, deterministic=True)  # not every SQLite has it
        cursor = dbapi_connection.cursor()
        for pragma in (
            f"busy_timeout = {1000 * BUSY_SECONDS}",
            "foreign_keys = ON",
            f"synchronous = {SYNCHRONOUS}",
            "secure_delete = ON",  # what a withdrawal erases is overwritten
            "recursive_triggers = ON",  # INSERT OR REPLACE fires delete triggers too
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_wal(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        with _explained(database.name):
            connection = database.engine.raw_connection()  # WAL cannot be set inside a transaction
            try:
                _retry_locked(lambda: connection.cursor().execute("PRAGMA journal_mode = WAL"))
            finally:
                connection.close()


def _retry_locked(action: Callable[[], object]) -> None:
    """Two who switch a new file to WAL at once: SQLite may refuse one at once, whatever its busy_timeout."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _bring_up_to_date(database: Database, create: bool) -> None:
    with database.reading() as connection:
        version = _version(connection, database.name)
    if version == SCHEMA_VERSION:
        return
    if version is None and not create:
        raise LedgerError(f"{database.name} is empty, not a ledger; check the path")
    with _migrating, database.writing() as connection:  # another process may have been quicker
        version = _version(connection, database.name)
        if version != SCHEMA_VERSION:
            _upgrade(connection, version, database.name)


def _version(connection: Connection, name: str) -> str | None:
    """The ledger's schema version; None when the database is empty."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if VERSION_TABLE not in tables:
        raise LedgerError(f"{name} is a database, but not a ledger (it has no table {VERSION_TABLE})")
    version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if version is None:
        raise LedgerError(f"{name} does not say its schema version (it is damaged); restore a backup")
    return str(version)


def _upgrade(connection: Connection, version: str | None, name: str) -> None:
    from alembic import command  # slow to import, and seldom needed
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version is not None and version not in known:
        raise LedgerError(
            f"{name} has schema version {version}, and this Accord knows versions up to {SCHEMA_VERSION}: "
            "a newer Accord wrote it; install that or a later one (pip install --upgrade accord-rlhf)"
        )
    command.upgrade(config, "head")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the database raises into a LedgerError that says what to do."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        raise LedgerError(f"ledger {name}: {cause}{_advice(cause)}") from error
    except UnicodeEncodeError as error:
        around = error.object[max(error.start - 20, 0) : error.end + 20]
        raise LedgerError(
            f"ledger {name}: the text {around!r} holds a lone surrogate, which cannot be stored; clean it"
        ) from error


def _advice(cause: str) -> str:
    if "locked" in cause or "lock timeout" in cause:
        return f"; another process has been writing for {BUSY_SECONDS} s, try again"
    if "malformed" in cause or "not a database" in cause or "corrupt" in cause:
        return "; the file is damaged, restore a backup"
    if "readonly" in cause:
        return "; give the file and its folder write permission"
    return ""
