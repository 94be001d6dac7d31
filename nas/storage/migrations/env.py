"""Alembic's entry: migrate the connection that `nas.storage.migrations` hands over, in its transaction."""

from alembic import context

from nas.storage.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
