"""The ledger's tables. Migrations create them; a test holds the two to be the same.

Times are UTC text (ISO 8601, microseconds), which sorts as time does. Ids are content hashes, so the same
history in two ledgers has the same ids. Lists of numbers are little-endian blobs: exact, and quick.
"""

from __future__ import annotations

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
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = "0009"  # the newest revision in migrations/versions
VERSION_TABLE = "ledger_version"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


# Who judged, and by which instructions.

annotator = Table(
    "annotator",
    metadata,
    Column("id", Text, primary_key=True),
    Column("pseudonym", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("kind IN ('human', 'model', 'simulated')", name="kind"),
)

guideline_version = Table(
    "guideline_version",
    metadata,
    Column("id", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

# What was judged, and how it came to be.

policy_version = Table(
    "policy_version",
    metadata,
    Column("id", Text, primary_key=True),
    Column("base_model", Text, nullable=False),
    Column("weights_sha256", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("parent_id", Text, ForeignKey("policy_version.id")),
    Column("config", Text, nullable=False),  # canonical JSON
    Column("created_at", Text, nullable=False),
)

sampling = Table(
    "sampling",
    metadata,
    Column("id", Text, primary_key=True),
    Column("settings", Text, nullable=False),  # JSON, because 1 and 1.0 hash differently
)

message = Table(
    "message",
    metadata,
    Column("id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
)

prompt = Table(
    "prompt",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("tags", Text, nullable=False),  # JSON
    Column("created_at", Text, nullable=False),
)

prompt_message = Table(
    "prompt_message",
    metadata,
    Column("prompt_id", Text, ForeignKey("prompt.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("message_id", Text, ForeignKey("message.id"), nullable=False),
)

completion = Table(
    "completion",
    metadata,
    Column("id", Text, primary_key=True),
    Column("prompt_id", Text, ForeignKey("prompt.id"), nullable=False),
    Column("body", Text, nullable=False),
    Column("token_ids", LargeBinary, nullable=False),  # int32
    Column("logps", LargeBinary, nullable=False),  # float64
    Column("tokens_sha256", Text, nullable=False),  # of the two above and the finish reason
    Column("policy_id", Text, ForeignKey("policy_version.id")),
    Column("sampling_id", Text, ForeignKey("sampling.id")),
    Column("finish_reason", Text, nullable=False),
    Column("sample_index", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("finish_reason IN ('stop', 'length')", name="finish_reason"),
)

item = Table(
    "item",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", Integer, nullable=False, unique=True),  # the order of asking
    Column("kind", Text, nullable=False),
    Column("prompt_id", Text, ForeignKey("prompt.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("target_overlap", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("kind IN ('pair', 'ranking')", name="kind"),
    CheckConstraint("target_overlap >= 1", name="target_overlap"),
    CheckConstraint("state IN ('open', 'done')", name="state"),
    Index(None, "state", "seq"),
)

item_candidate = Table(  # the canonical slots, which raters never see
    "item_candidate",
    metadata,
    Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("completion_id", Text, ForeignKey("completion.id"), nullable=False),
    UniqueConstraint("item_id", "completion_id"),
)

# Who saw what, when, why, and on which side. Answers with the purpose 'judge' are votes; others are not.

_LIVE = "state IN ('leased', 'submitted')"

assignment = Table(
    "assignment",
    metadata,
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
    CheckConstraint("purpose IN ('judge', 'repeat', 'gold', 'adjudicate')", name="purpose"),
    UniqueConstraint("item_id", "annotator_id", "attempt"),
    _partial("one_live", "item_id", "annotator_id", where=f"{_LIVE} AND purpose <> 'repeat'", unique=True),
    _partial("one_repeat", "item_id", "annotator_id", where=f"{_LIVE} AND purpose = 'repeat'", unique=True),
    _partial("one_adjudication", "item_id", where=f"{_LIVE} AND purpose = 'adjudicate'", unique=True),
    _partial("ix_assignment_expiry", "lease_expires_at", where="state = 'leased'"),
    Index(None, "annotator_id", "state"),
)

presentation = Table(
    "presentation",
    metadata,
    Column("assignment_id", Text, ForeignKey("assignment.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("slot", Integer, nullable=False),
    UniqueConstraint("assignment_id", "slot"),
)

# What they said. A change is a new revision.

judgement = Table(
    "judgement",
    metadata,
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

preference = Table(  # of a pair one row, of a ranking of k answers k(k-1)/2, with strength 1 or ties
    "preference",
    metadata,
    Column("judgement_id", Text, ForeignKey("judgement.id"), primary_key=True),
    Column("slot_hi", Integer, primary_key=True),
    Column("slot_lo", Integer, primary_key=True),
    Column("strength", Integer, nullable=False),
    Column("tie", Boolean, nullable=False),
    CheckConstraint("slot_hi <> slot_lo", name="slots"),
    CheckConstraint("strength BETWEEN 0 AND 3", name="strength"),
    CheckConstraint("tie = (strength = 0)", name="tie"),
)

# Where it went.

release = Table(
    "release",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

release_row = Table(
    "release_row",
    metadata,
    Column("release_id", Text, ForeignKey("release.id"), primary_key=True),
    Column("judgement_id", Text, ForeignKey("judgement.id"), primary_key=True),
    Column("row_hash", Text, nullable=False),
    Index(None, "judgement_id"),
)

training_input = Table(
    "training_input",
    metadata,
    Column("model", Text, primary_key=True),
    Column("release_id", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("recorded_at", Text, nullable=False),
    ForeignKeyConstraint(["release_id"], ["release.id"]),
)

audit = Table(  # each row's hash covers the one before it
    "audit",
    metadata,
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
