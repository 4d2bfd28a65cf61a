"""Rankings whose order is known, or a part of it: gold questions of more than two answers.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, Text

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLE = "gold_order"


def upgrade() -> None:
    op.create_table(
        TABLE,
        Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
        Column("n", Integer, primary_key=True),
        Column("pairs", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        call = "EXECUTE FUNCTION accord_append_only()"
        op.execute(f"CREATE TRIGGER {TABLE}_no_change BEFORE UPDATE OR DELETE ON {TABLE} FOR EACH ROW {call}")
        op.execute(f"CREATE TRIGGER {TABLE}_no_truncate BEFORE TRUNCATE ON {TABLE} FOR EACH STATEMENT {call}")
        return
    abort = f"BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END"
    there = f"EXISTS (SELECT 1 FROM {TABLE} WHERE item_id = NEW.item_id AND n = NEW.n)"
    for name, when in (
        ("no_update", f"UPDATE ON {TABLE}"),
        ("no_delete", f"DELETE ON {TABLE}"),
        ("no_replace", f"INSERT ON {TABLE} WHEN {there}"),
    ):
        op.execute(f"CREATE TRIGGER {TABLE}_{name} BEFORE {when} {abort}")


def downgrade() -> None:
    raise NotImplementedError("going back would lose what is known; restore a backup instead")
