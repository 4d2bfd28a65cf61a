"""The annotation app: accounts, projects, invitations, gold questions, answers beside the preference.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Integer, Text, UniqueConstraint

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROLES = ("owner", "manager", "adjudicator", "rater", "viewer")

APPEND_ONLY = ["project_guideline", "withdrawal"]

# Of an answer only the text may go, and only for good.
ANSWER_FIXED = "judgement_id, key, slot, number, body_sha256"
ANSWER_KEY = "judgement_id = NEW.judgement_id AND key = NEW.key AND slot = NEW.slot"
TEXT_CHANGED = "NEW.body IS NOT NULL OR NEW.salt IS NOT NULL"


def upgrade() -> None:
    _people()
    _projects()
    _answers()
    op.create_index("ix_assignment_annotator_id_state", "assignment", ["annotator_id", "state"])
    if op.get_bind().dialect.name == "postgresql":
        _triggers_postgresql()
    else:
        _triggers_sqlite()


def downgrade() -> None:
    raise NotImplementedError("going back would lose what raters said; restore a backup instead")


def _people() -> None:
    op.create_table(
        "account",
        Column("id", Text, primary_key=True),
        Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False, unique=True),
        Column("login", Text),
        Column("login_key", Text, unique=True),
        Column("password_hash", Text),
        Column("admin", Boolean, nullable=False),
        Column("created_at", Text, nullable=False),
        Column("disabled_at", Text),
    )
    op.create_table(
        "session",
        Column("token_sha256", Text, primary_key=True),
        Column("id", Text, nullable=False, unique=True),
        Column("account_id", Text, ForeignKey("account.id"), nullable=False, index=True),
        Column("created_at", Text, nullable=False),
        Column("last_seen_at", Text, nullable=False),
    )


def _projects() -> None:
    op.create_table(
        "project",
        Column("id", Text, primary_key=True),
        Column("name", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("overlap", Integer, nullable=False),
        Column("form", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        CheckConstraint("state IN ('open', 'paused')", name="state"),
        CheckConstraint("overlap >= 1", name="overlap"),
    )
    op.create_table(
        "project_guideline",
        Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
        Column("n", Integer, primary_key=True),
        Column("guideline_id", Text, ForeignKey("guideline_version.id"), nullable=False),
        Column("created_at", Text, nullable=False),
    )
    op.create_table(
        "project_item",
        Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
        Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
        Column("priority", Integer, nullable=False),
    )
    op.create_table(
        "membership",
        Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
        Column("account_id", Text, ForeignKey("account.id"), primary_key=True),
        Column("role", Text),
        CheckConstraint(f"role IN {ROLES}", name="role"),
    )
    op.create_table(
        "invitation",
        Column("id", Text, primary_key=True),
        Column("token_sha256", Text, nullable=False, unique=True),
        Column("project_id", Text, ForeignKey("project.id")),
        Column("role", Text, nullable=False),
        Column("created_by", Text, ForeignKey("account.id")),
        Column("created_at", Text, nullable=False),
        Column("expires_at", Text, nullable=False),
        Column("used_by", Text, ForeignKey("account.id")),
        Column("revoked_at", Text),
        CheckConstraint(f"role IN {(*ROLES, 'admin')}", name="role"),
        CheckConstraint("(role = 'admin') = (project_id IS NULL)", name="project"),
    )


def _answers() -> None:
    op.create_table(
        "gold",
        Column("item_id", Text, ForeignKey("item.id"), primary_key=True),
        Column("strength", Integer, nullable=False),
        Column("created_at", Text, nullable=False),
        CheckConstraint("strength BETWEEN -3 AND 3 AND strength <> 0", name="strength"),
    )
    op.create_table(
        "answer",
        Column("judgement_id", Text, ForeignKey("judgement.id"), primary_key=True),
        Column("key", Text, primary_key=True),
        Column("slot", Integer, primary_key=True),
        Column("number", Integer),
        Column("body", Text),
        Column("salt", Text),
        Column("body_sha256", Text),
    )
    op.create_table(
        "withdrawal",
        Column("id", Text, primary_key=True),
        Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False),
        Column("scope", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        CheckConstraint("scope IN ('identity', 'text', 'all')", name="scope"),
        UniqueConstraint("annotator_id", "scope"),
    )


def _triggers_sqlite() -> None:
    def refuse(table: str, name: str, when: str) -> None:
        abort = f"SELECT RAISE(ABORT, '{table} is append-only')"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} BEGIN {abort}; END")

    for table in APPEND_ONLY:
        refuse(table, "no_update", f"UPDATE ON {table}")
        refuse(table, "no_delete", f"DELETE ON {table}")
    refuse("answer", "no_update", f"UPDATE OF {ANSWER_FIXED} ON answer")
    refuse("answer", "no_new_text", f"UPDATE OF body, salt ON answer WHEN {TEXT_CHANGED}")
    refuse("answer", "no_delete", "DELETE ON answer")
    refuse("answer", "no_replace", f"INSERT ON answer WHEN EXISTS (SELECT 1 FROM answer WHERE {ANSWER_KEY})")


def _triggers_postgresql() -> None:
    def refuse(table: str, name: str, when: str, each: str = "FOR EACH ROW") -> None:
        call = "EXECUTE FUNCTION accord_append_only()"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} {each} {call}")

    for table in APPEND_ONLY:
        refuse(table, "no_change", f"UPDATE OR DELETE ON {table}")
    refuse("answer", "no_update", f"UPDATE OF {ANSWER_FIXED} ON answer")
    refuse("answer", "no_new_text", "UPDATE OF body, salt ON answer", f"FOR EACH ROW WHEN ({TEXT_CHANGED})")
    refuse("answer", "no_delete", "DELETE ON answer")
    for table in [*APPEND_ONLY, "answer"]:
        refuse(table, "no_truncate", f"TRUNCATE ON {table}", "FOR EACH STATEMENT")
