"""Run by Alembic, over the connection that `store/upgrade.py` gives it."""

from alembic import context

from forebay.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
