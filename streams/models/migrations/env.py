"""Runs migrations on the connection it is handed; `streams.models.database.migrate` calls it."""

from alembic import context

from streams.models.database import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite changes a table by making it anew
    transaction_per_migration=False,
)
context.run_migrations()
