"""Tokens by which programs use the annotation app's API.

Frozen: later changes to the tables come with a migration of their own.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, Text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_token",
        Column("token_sha256", Text, primary_key=True),
        Column("id", Text, nullable=False, unique=True),
        Column("account_id", Text, ForeignKey("account.id"), nullable=False, index=True),
        Column("name", Text, nullable=False),
        Column("scopes", Text, nullable=False),
        Column("created_at", Text, nullable=False),
        Column("expires_at", Text, nullable=False),
        Column("last_used_at", Text),
    )


def downgrade() -> None:
    raise NotImplementedError("going back would lock programs out; restore a backup instead")
