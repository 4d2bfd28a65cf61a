"""SQLite cannot change the constraints of a table that stands: it is made anew, and its rows are copied."""

from __future__ import annotations

from collections.abc import Callable

from alembic import op
from sqlalchemy import inspect


def rebuild_sqlite(table: str, create: Callable[[], None]) -> None:
    """Replace `table` by the one of the same name that `create` makes, with the same rows.

    The new table has at least the old columns; other new ones take their defaults. Triggers on the table go
    with the old one: make them again. Rows that point to it are checked when the migration commits.
    """
    columns = ", ".join(f'"{column["name"]}"' for column in inspect(op.get_bind()).get_columns(table))
    # Dropping a table deletes its rows first, to which others point until they are back.
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute(f"CREATE TABLE {table}_before AS SELECT * FROM {table} ORDER BY rowid")
    op.execute(f"DROP TABLE {table}")
    create()
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before ORDER BY rowid")
    op.execute(f"DROP TABLE {table}_before")
