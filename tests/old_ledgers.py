"""Ledgers of earlier schema versions, for the tests of migrations."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, MetaData, insert, select

from accord.ledger import database, schema


def old_ledger(engine: Engine, version: str) -> None:
    """The empty tables as of a schema version."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)


def copy_rows(source: Engine, target: Engine) -> dict[str, int]:
    """Everything that the old tables have columns for, parents first; how many rows of each table."""
    old = MetaData()
    old.reflect(target)
    copied = {}
    with source.connect() as reading, target.begin() as writing:
        for table in schema.metadata.sorted_tables:
            if table.name in old.tables:
                kept = old.tables[table.name]
                columns = [table.c[column.name] for column in kept.columns]
                rows = [dict(row) for row in reading.execute(select(*columns)).mappings()]
                copied[table.name] = len(rows)
                if rows:
                    writing.execute(insert(kept), rows)
    return copied
