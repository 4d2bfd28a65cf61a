"""Why a rater sees a question: an ordinary answer, a blind repeat, a gold question, or to settle it.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    text,
)

from accord.ledger.migrations.rebuild import rebuild_sqlite

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PURPOSES = "purpose IN ('judge', 'repeat', 'gold', 'adjudicate')"
LIVE = "state IN ('leased', 'submitted')"
UNIQUE = (  # the name, what is live once at a time, and of which assignments
    ("one_live", ("item_id", "annotator_id"), f"{LIVE} AND purpose <> 'repeat'"),
    ("one_repeat", ("item_id", "annotator_id"), f"{LIVE} AND purpose = 'repeat'"),
    ("one_adjudication", ("item_id",), f"{LIVE} AND purpose = 'adjudicate'"),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _postgresql()
    else:
        rebuild_sqlite("assignment", _create)
        abort = "SELECT RAISE(ABORT, 'assignment is append-only')"
        op.execute(f"CREATE TRIGGER assignment_no_update BEFORE {FIXED} BEGIN {abort}; END")


def downgrade() -> None:
    raise NotImplementedError("going back would make votes of repeats; restore a backup instead")


FIXED = "UPDATE OF purpose ON assignment"


def _postgresql() -> None:
    op.add_column("assignment", Column("purpose", Text, nullable=False, server_default="judge"))
    op.create_check_constraint(op.f("ck_assignment_purpose"), "assignment", PURPOSES)
    op.drop_index("one_live", "assignment")
    for name, columns, where in UNIQUE:
        op.create_index(name, "assignment", list(columns), unique=True, postgresql_where=text(where))
    call = "FOR EACH ROW EXECUTE FUNCTION accord_append_only()"
    op.execute(f"CREATE TRIGGER assignment_no_update BEFORE {FIXED} {call}")


def _create() -> None:
    op.create_table(
        "assignment",
        Column("id", Text, primary_key=True),
        Column("item_id", Text, ForeignKey("item.id"), nullable=False),
        Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("guideline_id", Text, ForeignKey("guideline_version.id"), nullable=False),
        Column("state", Text, nullable=False),
        Column("skip_reason", Text),
        Column("leased_at", Text, nullable=False),
        Column("lease_expires_at", Text, nullable=False),
        Column("shown_seed", BigInteger, nullable=False),
        Column("purpose", Text, nullable=False, server_default="judge"),
        CheckConstraint("state IN ('leased', 'submitted', 'skipped', 'expired')", name="state"),
        CheckConstraint(PURPOSES, name="purpose"),
        UniqueConstraint("item_id", "annotator_id", "attempt"),
        *(Index(name, *columns, unique=True, sqlite_where=text(where)) for name, columns, where in UNIQUE),
        Index("ix_assignment_expiry", "lease_expires_at", sqlite_where=text("state = 'leased'")),
        Index(None, "annotator_id", "state"),
    )
