"""Runs the packaged revisions on the connection that ``store.layout`` hands over, inside its transaction."""

from alembic import context

from localstore.store.layout import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
