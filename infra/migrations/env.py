"""Run by Alembic, on the connection that `infra.migrations.migrate` hands over."""

from alembic import context

from shared.models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
