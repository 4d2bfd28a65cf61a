"""The first schema: every table, and the triggers that make the records append-only.

Frozen: later changes to schema.py come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Tables whose rows never change or go.
APPEND_ONLY = [
    "guideline_version",
    "policy_version",
    "sampling",
    "message",
    "prompt",
    "prompt_message",
    "completion",
    "item_candidate",
    "presentation",
    "preference",
    "release",
    "release_row",
    "training_input",
    "audit",
]

# SQLite's INSERT OR REPLACE deletes rows without firing delete triggers, so what raters saw and said also
# refuses an insert that meets an old row on any of its unique keys. (The texts are guarded by their hashes.)
UNIQUE_KEYS = {
    "presentation": ["assignment_id, position", "assignment_id, slot"],
    "judgement": ["id", "assignment_id, revision", "supersedes_id", "idempotency_key"],
    "preference": ["judgement_id"],
    "release": ["id", "name"],
    "release_row": ["release_id, judgement_id"],
    "training_input": ["model, release_id, run"],
    "audit": ["seq", "hash"],
}

JUDGEMENT_FIXED = "id, assignment_id, revision, supersedes_id, submitted_at, active_seconds, idempotency_key"


def upgrade() -> None:
    _raters()
    _policies_and_prompts()
    _completions_and_items()
    _assignments()
    _judgements()
    _lineage()
    if op.get_bind().dialect.name == "postgresql":
        _triggers_postgresql()
    else:
        _triggers_sqlite()


def downgrade() -> None:
    raise NotImplementedError("the ledger's first schema has nothing before it")


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _raters() -> None:
    op.create_table(
        "annotator",
        Column("id", Text, primary_key=True),
        Column("pseudonym", Text, nullable=False, unique=True),
        Column("kind", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        CheckConstraint("kind IN ('human', 'model', 'simulated')", name="kind"),
    )
    op.create_table(
        "guideline_version",
        Column("id", Text, primary_key=True),
        Column("body", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )


def _policies_and_prompts() -> None:
    op.create_table(
        "policy_version",
        Column("id", Text, primary_key=True),
        Column("base_model", Text, nullable=False),
        Column("weights_sha256", Text, nullable=False),
        Column("step", Integer, nullable=False),
        Column("parent_id", Text, ForeignKey("policy_version.id")),
        Column("config", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "sampling",
        Column("id", Text, primary_key=True),
        Column("settings", Text, nullable=False),
    )
    op.create_table(
        "message",
        Column("id", Text, primary_key=True),
        Column("role", Text, nullable=False),
        Column("content", Text, nullable=False),
    )
    op.create_table(
        "prompt",
        Column("id", Text, primary_key=True),
        Column("source", Text, nullable=False),
        Column("tags", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "prompt_message",
        Column("prompt_id", Text, ForeignKey("prompt.id"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("message_id", Text, ForeignKey("message.id"), nullable=False),
    )


def _completions_and_items() -> None:
    op.create_table(
        "completion",
        Column("id", Text, primary_key=True),
        Column("prompt_id", Text, ForeignKey("prompt.id"), nullable=False),
        Column("body", Text, nullable=False),
        Column("token_ids", LargeBinary, nullable=False),
        Column("logps", LargeBinary, nullable=False),
        Column("tokens_sha256", Text, nullable=False),
        Column("policy_id", Text, ForeignKey("policy_version.id")),
        Column("sampling_id", Text, ForeignKey("sampling.id")),
        Column("finish_reason", Text, nullable=False),
        Column("sample_index", Integer, nullable=False),
        Column("created_at", Text, nullable=False),
        CheckConstraint("finish_reason IN ('stop', 'length')", name="finish_reason"),
    )
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
        CheckConstraint("kind IN ('pair')", name="kind"),
        CheckConstraint("target_overlap >= 1", name="target_overlap"),
        CheckConstraint("state IN ('open', 'done')", name="state"),
        Index(None, "state", "seq"),
    )
    op.create_table(
        "item_candidate",
        Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
        Column("slot", Integer, primary_key=True),
        Column("completion_id", Text, ForeignKey("completion.id"), nullable=False),
        UniqueConstraint("item_id", "completion_id"),
    )


def _assignments() -> None:
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
        CheckConstraint("state IN ('leased', 'submitted', 'skipped', 'expired')", name="state"),
        UniqueConstraint("item_id", "annotator_id", "attempt"),
        _partial(
            "one_live", "item_id", "annotator_id", where="state IN ('leased', 'submitted')", unique=True
        ),
        _partial("ix_assignment_expiry", "lease_expires_at", where="state = 'leased'"),
    )
    op.create_table(
        "presentation",
        Column("assignment_id", Text, ForeignKey("assignment.id"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("slot", Integer, nullable=False),
        UniqueConstraint("assignment_id", "slot"),
    )


def _judgements() -> None:
    op.create_table(
        "judgement",
        Column("id", Text, primary_key=True),
        Column("assignment_id", Text, ForeignKey("assignment.id"), nullable=False),
        Column("revision", Integer, nullable=False),
        Column("supersedes_id", Text, ForeignKey("judgement.id"), unique=True),
        Column("submitted_at", Text, nullable=False),
        Column("active_seconds", Double, nullable=False),
        Column("status", Text, nullable=False),
        Column("idempotency_key", Text, unique=True),
        CheckConstraint("active_seconds >= 0", name="active_seconds"),
        CheckConstraint("status IN ('active', 'superseded', 'withdrawn', 'invalid')", name="status"),
        UniqueConstraint("assignment_id", "revision"),
        _partial("one_active", "assignment_id", where="status = 'active'", unique=True),
    )
    op.create_table(
        "preference",
        Column("judgement_id", Text, ForeignKey("judgement.id"), primary_key=True),
        Column("slot_hi", Integer, primary_key=True),
        Column("slot_lo", Integer, primary_key=True),
        Column("strength", Integer, nullable=False),
        Column("tie", Boolean, nullable=False),
        CheckConstraint("slot_hi <> slot_lo", name="slots"),
        CheckConstraint("strength BETWEEN 0 AND 3", name="strength"),
        CheckConstraint("tie = (strength = 0)", name="tie"),
    )


def _lineage() -> None:
    op.create_table(
        "release",
        Column("id", Text, primary_key=True),
        Column("name", Text, nullable=False, unique=True),
        Column("hash", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "release_row",
        Column("release_id", Text, ForeignKey("release.id"), primary_key=True),
        Column("judgement_id", Text, ForeignKey("judgement.id"), primary_key=True),
        Column("row_hash", Text, nullable=False),
        Index(None, "judgement_id"),
    )
    op.create_table(
        "training_input",
        Column("model", Text, primary_key=True),
        Column("release_id", Text, primary_key=True),
        Column("run", Text, primary_key=True),
        Column("recorded_at", Text, nullable=False),
        ForeignKeyConstraint(["release_id"], ["release.id"]),
    )
    op.create_table(
        "audit",
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("at", Text, nullable=False),
        Column("actor", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("object", Text, nullable=False),
        Column("object_id", Text, nullable=False),
        Column("detail_hash", Text, nullable=False),
        Column("prev_hash", Text, nullable=False),
        Column("hash", Text, nullable=False, unique=True),
    )


def _triggers_sqlite() -> None:
    def refuse(table: str, name: str, when: str) -> None:
        abort = f"SELECT RAISE(ABORT, '{table} is append-only')"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} BEGIN {abort}; END")

    for table in APPEND_ONLY:
        refuse(table, "no_update", f"UPDATE ON {table}")
        refuse(table, "no_delete", f"DELETE ON {table}")
    refuse("judgement", "no_update", f"UPDATE OF {JUDGEMENT_FIXED} ON judgement")
    refuse("judgement", "no_revival", "UPDATE OF status ON judgement WHEN NEW.status = 'active'")
    refuse("judgement", "no_delete", "DELETE ON judgement")
    for table, keys in UNIQUE_KEYS.items():
        matches = (" AND ".join(f"{c} = NEW.{c}" for c in key.split(", ")) for key in keys)
        exists = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE {match})" for match in matches)
        refuse(table, "no_replace", f"INSERT ON {table} WHEN {exists}")


def _triggers_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION accord_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' is append-only'; END $$"
    )

    def refuse(table: str, name: str, when: str, each: str = "FOR EACH ROW") -> None:
        call = "EXECUTE FUNCTION accord_append_only()"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} {each} {call}")

    for table in APPEND_ONLY:
        refuse(table, "no_change", f"UPDATE OR DELETE ON {table}")
    refuse("judgement", "no_update", f"UPDATE OF {JUDGEMENT_FIXED} ON judgement")
    refuse(
        "judgement",
        "no_revival",
        "UPDATE OF status ON judgement",
        "FOR EACH ROW WHEN (NEW.status = 'active')",
    )
    refuse("judgement", "no_delete", "DELETE ON judgement")
    for table in [*APPEND_ONLY, "judgement"]:
        refuse(table, "no_truncate", f"TRUNCATE ON {table}", "FOR EACH STATEMENT")
