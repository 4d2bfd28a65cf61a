"""Images, sound and video that texts refer to, and the projects in which they may be seen.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, LargeBinary, Text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

APPEND_ONLY = ("media", "project_media")


def upgrade() -> None:
    op.create_table(
        "media",
        Column("id", Text, primary_key=True),
        Column("type", Text, nullable=False),
        Column("bytes", LargeBinary, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "project_media",
        Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
        Column("media_id", Text, ForeignKey("media.id"), primary_key=True),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in APPEND_ONLY:
            _refuse_postgresql(table, "no_change", f"UPDATE OR DELETE ON {table}", "FOR EACH ROW")
            _refuse_postgresql(table, "no_truncate", f"TRUNCATE ON {table}", "FOR EACH STATEMENT")
        return
    for table in APPEND_ONLY:
        _refuse_sqlite(table, "no_update", f"UPDATE ON {table}")
        _refuse_sqlite(table, "no_delete", f"DELETE ON {table}")
    there = "EXISTS (SELECT 1 FROM media WHERE id = NEW.id)"
    _refuse_sqlite("media", "no_replace", f"INSERT ON media WHEN {there}")


def downgrade() -> None:
    raise NotImplementedError("going back would lose what was shown; restore a backup instead")


def _refuse_sqlite(table: str, name: str, when: str) -> None:
    abort = f"SELECT RAISE(ABORT, '{table} is append-only')"
    op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} BEGIN {abort}; END")


def _refuse_postgresql(table: str, name: str, when: str, each: str) -> None:
    call = "EXECUTE FUNCTION accord_append_only()"
    op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} {each} {call}")
