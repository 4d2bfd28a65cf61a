"""What raters tell about themselves, with their consent; and under which licence each source stands.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, ForeignKey, Integer, Text, UniqueConstraint

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

APPEND_ONLY = "source_licence"
# table: its columns that never change, and when a change of the others is refused
PARTLY = {
    "project_attribute": ("id, project_id, name, created_at", "ended_at", "OLD.ended_at IS NOT NULL"),
    "group_consent": (
        "id, project_id, annotator_id, statement, given_at",
        "withdrawn_at",
        "OLD.withdrawn_at IS NOT NULL",
    ),
    "attribute_choice": ("attribute_id, n, value", "given", "NEW.given < OLD.given"),
    # a value may go, and only for good
    "attribute_value": (
        "attribute_id, annotator_id, n, consent_id, value_sha256, given_at",
        "place, value, salt",
        "NEW.place IS NOT NULL OR NEW.value IS NOT NULL OR NEW.salt IS NOT NULL",
    ),
}
VALUE_KEY = "attribute_id = NEW.attribute_id AND annotator_id = NEW.annotator_id AND n = NEW.n"


def upgrade() -> None:
    _tables()
    if op.get_bind().dialect.name == "postgresql":
        _triggers_postgresql()
    else:
        _triggers_sqlite()


def downgrade() -> None:
    raise NotImplementedError("going back would lose consents and licences; restore a backup instead")


def _tables() -> None:
    op.create_table(
        "project_attribute",
        Column("id", Text, primary_key=True),
        Column("project_id", Text, ForeignKey("project.id"), nullable=False, index=True),
        Column("name", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        Column("ended_at", Text),
    )
    op.create_table(
        "attribute_choice",
        Column("attribute_id", Text, ForeignKey("project_attribute.id"), primary_key=True),
        Column("n", Integer, primary_key=True),
        Column("value", Text, nullable=False),
        Column("given", Integer, nullable=False),
        UniqueConstraint("attribute_id", "value"),
        CheckConstraint("given >= 0", name="given"),
    )
    op.create_table(
        "group_consent",
        Column("id", Text, primary_key=True),
        Column("project_id", Text, ForeignKey("project.id"), nullable=False),
        Column("annotator_id", Text, ForeignKey("annotator.id"), nullable=False, index=True),
        Column("statement", Text, nullable=False),
        Column("given_at", Text, nullable=False),
        Column("withdrawn_at", Text),
    )
    op.create_table(
        "attribute_value",
        Column("attribute_id", Text, ForeignKey("project_attribute.id"), primary_key=True),
        Column("annotator_id", Text, ForeignKey("annotator.id"), primary_key=True),
        Column("n", Integer, primary_key=True),
        Column("consent_id", Text, ForeignKey("group_consent.id"), nullable=False),
        Column("place", Integer),
        Column("value", Text),
        Column("salt", Text),
        Column("value_sha256", Text, nullable=False),
        Column("given_at", Text, nullable=False),
    )
    op.create_table(
        "source_licence",
        Column("project_id", Text, ForeignKey("project.id"), primary_key=True),
        Column("source", Text, primary_key=True),
        Column("n", Integer, primary_key=True),
        Column("licence", Text, nullable=False),
        Column("created_at", Text, nullable=False),
    )


def _triggers_sqlite() -> None:
    def refuse(table: str, name: str, when: str) -> None:
        abort = f"SELECT RAISE(ABORT, '{table} is append-only')"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} BEGIN {abort}; END")

    refuse(APPEND_ONLY, "no_update", f"UPDATE ON {APPEND_ONLY}")
    for table, (fixed, free, condition) in PARTLY.items():
        refuse(table, "no_update", f"UPDATE OF {fixed} ON {table}")
        refuse(table, "only_once", f"UPDATE OF {free} ON {table} WHEN {condition}")
    for table in (APPEND_ONLY, *PARTLY):
        refuse(table, "no_delete", f"DELETE ON {table}")
    there = f"EXISTS (SELECT 1 FROM attribute_value WHERE {VALUE_KEY})"
    refuse("attribute_value", "no_replace", f"INSERT ON attribute_value WHEN {there}")


def _triggers_postgresql() -> None:
    def refuse(table: str, name: str, when: str, each: str = "FOR EACH ROW") -> None:
        call = "EXECUTE FUNCTION accord_append_only()"
        op.execute(f"CREATE TRIGGER {table}_{name} BEFORE {when} {each} {call}")

    refuse(APPEND_ONLY, "no_update", f"UPDATE ON {APPEND_ONLY}")
    for table, (fixed, free, condition) in PARTLY.items():
        refuse(table, "no_update", f"UPDATE OF {fixed} ON {table}")
        refuse(table, "only_once", f"UPDATE OF {free} ON {table}", f"FOR EACH ROW WHEN ({condition})")
    for table in (APPEND_ONLY, *PARTLY):
        refuse(table, "no_delete", f"DELETE ON {table}")
        refuse(table, "no_truncate", f"TRUNCATE ON {table}", "FOR EACH STATEMENT")
