"""Runs the application's migrations on one SQLite file.

What matters for a file that localstore also opens: foreign keys are off (batch mode drops tables, and with foreign keys on
that would run ``ON DELETE`` actions, which capture would send to every device), each revision is one transaction, and
localstore's own tables are left alone.
"""

import os
import sqlite3
from logging.config import fileConfig

import sqlalchemy as sa
from alembic import context
from sqlmodel import SQLModel

import examples.field_survey.models
import examples.todo.models  # noqa: F401

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

SYSTEM_PREFIX = "localstore_"
BUSY_SECONDS = 60  # how long to wait for a realm, or another migration, that is writing


def database_url() -> str:
    """``-x url=…``, the variable EXAMPLES_URL, or what alembic.ini says, in this order."""
    given = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("EXAMPLES_URL")
    return given or config.get_main_option("sqlalchemy.url", "")


def include_name(name: str | None, type_: str, parent_names: object) -> bool:
    """Whether autogenerate looks at a thing in the database."""
    return not (type_ == "table" and name is not None and name.startswith(SYSTEM_PREFIX))


def run_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(url=database_url(), target_metadata=SQLModel.metadata, literal_binds=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the revisions on the file."""
    engine = sa.create_engine(database_url(), poolclass=sa.NullPool, connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine, "connect", set_up_connection)
    sa.event.listen(engine, "begin", begin_immediate)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            include_name=include_name,
            render_as_batch=True,
            transactional_ddl=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


def set_up_connection(connection: sqlite3.Connection, record: object) -> None:
    """Transactions are ours to begin, so that table changes roll back too; foreign keys stay off."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = OFF")


def begin_immediate(connection: sa.Connection) -> None:
    """Take the write lock at once, so that a realm open elsewhere is waited for and not half overtaken."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


if context.is_offline_mode():
    run_offline()
else:
    run_online()
