"""Alembic's entry: migrates over the connection that ``upgrade`` hands in, or prints SQL for a dialect (``--sql``)."""

from __future__ import annotations

from alembic import context

from tunesmith.storage.tables import Table

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(
        dialect_name=context.config.attributes["dialect"], target_metadata=Table.metadata, literal_binds=True
    )
else:
    # SQLite cannot alter a table in place: batch mode copies it.
    context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)

with context.begin_transaction():
    context.run_migrations()
