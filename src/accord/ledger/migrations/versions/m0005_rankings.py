"""Questions of more than two answers, which raters put in order; one answer then has several preferences.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Text

from accord.ledger.migrations.rebuild import rebuild_sqlite

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KINDS = "kind IN ('pair', 'ranking')"

# Two answers are compared once in a judgement, whichever of them comes first.
COMPARED = (
    "judgement_id = NEW.judgement_id AND min(slot_hi, slot_lo) = min(NEW.slot_hi, NEW.slot_lo) "
    "AND max(slot_hi, slot_lo) = max(NEW.slot_hi, NEW.slot_lo)"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_item_kind"), "item", type_="check")
        op.create_check_constraint(op.f("ck_item_kind"), "item", KINDS)
        return
    rebuild_sqlite("item", _create)
    op.execute("DROP TRIGGER preference_no_replace")
    abort = "SELECT RAISE(ABORT, 'preference is append-only')"
    exists = f"EXISTS (SELECT 1 FROM preference WHERE {COMPARED})"
    op.execute(
        f"CREATE TRIGGER preference_no_replace BEFORE INSERT ON preference WHEN {exists} BEGIN {abort}; END"
    )


def downgrade() -> None:
    raise NotImplementedError("going back would lose rankings; restore a backup instead")


def _create() -> None:
    op.create_table(
        "item",
        Column("id", Text, primary_key=True),
        Column("seq", Integer, nullable=False, unique=True),
        Column("kind", Text, nullable=False),
        Column("prompt_id", Text, ForeignKey("prompt.id"), nullable=False),
        Column("reason", Text, nullable=False),
        Column("target_overlap", Integer, nullable=False),
        Column("state", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        CheckConstraint(KINDS, name="kind"),
        CheckConstraint("target_overlap >= 1", name="target_overlap"),
        CheckConstraint("state IN ('open', 'done')", name="state"),
        Index(None, "state", "seq"),
    )
