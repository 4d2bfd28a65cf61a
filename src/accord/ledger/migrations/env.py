"""Alembic runs this file: it applies the migrations on the connection that the caller holds."""

from __future__ import annotations

from alembic import context

from accord.ledger.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
