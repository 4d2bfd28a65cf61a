"""Questions that are kept for some raters; and texts and media that leave the ledger at somebody's request.

An erasure is a row that stays. It opens the way for what it names: links of a prompt to its messages and of a
project to a medium may be deleted, and then messages and media to which nothing links; an answer's text may
become empty. Nothing else of those tables changes.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, Text, text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OBJECTS = ("item", "prompt", "completion", "media", "project_media")
APPEND_ONLY = ("reservation_rater", "erasure")
RESERVATION_FIXED = "id, project_id, reason, exclusive, created_at"
COMPLETION_FIXED = (
    "id, prompt_id, tokens_sha256, policy_id, sampling_id, finish_reason, sample_index, created_at"
)
# Table: when a row must not go. What was erased is on record first.
KEPT = {
    "message": "EXISTS (SELECT 1 FROM prompt_message WHERE message_id = OLD.id)",
    "prompt_message": "NOT EXISTS (SELECT 1 FROM erasure WHERE object = 'prompt' "
    "AND object_id = OLD.prompt_id)",
    "media": "EXISTS (SELECT 1 FROM project_media WHERE media_id = OLD.id) OR NOT EXISTS "
    "(SELECT 1 FROM erasure WHERE object = 'media' AND object_id = OLD.id)",
    "project_media": "NOT EXISTS (SELECT 1 FROM erasure WHERE object = 'project_media' "
    "AND object_id = OLD.project_id || ':' || OLD.media_id)",
}
COMPLETION_KEPT = (
    "length(NEW.body) > 0 OR length(NEW.token_ids) > 0 OR length(NEW.logps) > 0 OR NOT EXISTS "
    "(SELECT 1 FROM erasure WHERE object = 'completion' AND object_id = OLD.id)"
)


def upgrade() -> None:
    _tables()
    if op.get_bind().dialect.name == "postgresql":
        _triggers_postgresql()
    else:
        _triggers_sqlite()


def downgrade() -> None:
    raise NotImplementedError("going back would forget what was erased; restore a backup instead")


def _tables() -> None:
    op.create_table(
        "reservation",
        Column("id", Text, primary_key=True),
        Column("project_id", Text, ForeignKey("project.id"), nullable=False),
        Column("reason", Text, nullable=False),
        Column("exclusive", Boolean, nullable=False),
        Column("created_at", Text, nullable=False),
        Column("ended_at", Text),
        Index(
            "one_reservation",
            "project_id",
            "reason",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )
    op.create_table(
        "reservation_rater",
        Column("reservation_id", Text, ForeignKey("reservation.id"), primary_key=True),
        Column("annotator_id", Text, ForeignKey("annotator.id"), primary_key=True),
    )
    op.create_table(
        "erasure",
        Column("object", Text, primary_key=True),
        Column("object_id", Text, primary_key=True),
        Column("created_at", Text, nullable=False),
        CheckConstraint(f"object IN {OBJECTS}", name="object"),
    )


def _triggers_sqlite() -> None:
    def refuse(table: str, name: str, when: str) -> None:
        abort = f"SELECT RAISE(ABORT, '{table} is append-only')"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} BEGIN {abort}; END")

    for table in APPEND_ONLY:
        refuse(table, "no_update", f"UPDATE ON {table}")
        refuse(table, "no_delete", f"DELETE ON {table}")
    refuse("reservation", "no_update", f"UPDATE OF {RESERVATION_FIXED} ON reservation")
    refuse("reservation", "only_once", "UPDATE OF ended_at ON reservation WHEN OLD.ended_at IS NOT NULL")
    refuse("reservation", "no_delete", "DELETE ON reservation")
    for table, condition in KEPT.items():
        op.execute(f"DROP TRIGGER {table}_no_delete")
        refuse(table, "no_delete", f"DELETE ON {table} WHEN {condition}")
    op.execute("DROP TRIGGER completion_no_update")
    refuse("completion", "no_update", f"UPDATE OF {COMPLETION_FIXED} ON completion")
    refuse(
        "completion",
        "only_erased",
        f"UPDATE OF body, token_ids, logps ON completion WHEN {COMPLETION_KEPT}",
    )


def _triggers_postgresql() -> None:
    def refuse(table: str, name: str, when: str, each: str = "FOR EACH ROW") -> None:
        call = "EXECUTE FUNCTION accord_append_only()"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} {each} {call}")

    def refuse_where(table: str, name: str, when: str, condition: str, result: str) -> None:
        """As above under a condition, which only a function of its own may look up."""
        error = f"RAISE EXCEPTION USING MESSAGE = '{table} is append-only'"
        op.execute(
            f"CREATE FUNCTION accord_{table}_{name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF {condition} THEN {error}; END IF; RETURN {result}; END $$"
        )
        call = f"EXECUTE FUNCTION accord_{table}_{name}()"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} FOR EACH ROW {call}")

    for table in APPEND_ONLY:
        refuse(table, "no_change", f"UPDATE OR DELETE ON {table}")
    refuse("reservation", "no_update", f"UPDATE OF {RESERVATION_FIXED} ON reservation")
    once = "FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL)"
    refuse("reservation", "only_once", "UPDATE OF ended_at ON reservation", once)
    refuse("reservation", "no_delete", "DELETE ON reservation")
    for table in ("reservation", *APPEND_ONLY):
        refuse(table, "no_truncate", f"TRUNCATE ON {table}", "FOR EACH STATEMENT")
    for table, condition in KEPT.items():
        op.execute(f"DROP TRIGGER {table}_no_change ON {table}")
        refuse(table, "no_update", f"UPDATE ON {table}")
        refuse_where(table, "no_delete", f"DELETE ON {table}", condition, "OLD")
    op.execute("DROP TRIGGER completion_no_change ON completion")
    refuse("completion", "no_update", f"UPDATE OF {COMPLETION_FIXED} ON completion")
    refuse("completion", "no_delete", "DELETE ON completion")
    texts = "UPDATE OF body, token_ids, logps ON completion"
    refuse_where("completion", "only_erased", texts, COMPLETION_KEPT, "NEW")
