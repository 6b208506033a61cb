"""The layout of a log's tables in an SQL database: made and upgraded by packaged Alembic revisions.

Alembic is imported only when something is to be done, and none of its globals is used, so that any thread may migrate while
another one does. The version table is our own: the application's Alembic and ours never meet.
"""

from __future__ import annotations

import sqlalchemy as sa

from localstore.errors import NewerFormat

__all__ = ["LAYOUT", "LAYOUTS", "VERSION_TABLE", "layout_of", "upgrade"]

VERSION_TABLE = "localstore_log_version"
LAYOUTS = ("log_0001",)
"""Every revision there is, oldest first."""
LAYOUT = LAYOUTS[-1]
_LOCK = 0x6C6F63616C6C6F67  # "locallog"; on PostgreSQL whoever migrates holds it
_HAS_TABLE = {
    "sqlite": f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{VERSION_TABLE}'",
    "postgresql": f"SELECT 1 WHERE to_regclass('{VERSION_TABLE}') IS NOT NULL",
}


def layout_of(connection: sa.Connection, where: str) -> str | None:
    """The layout of a database's log; None when it has none.

    Args:
        connection: to the database.
        where: its URL, for messages.

    Raises:
        NewerFormat: the layout is newer than this library.
    """
    exists = connection.exec_driver_sql(_HAS_TABLE[connection.dialect.name]).first()
    row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").first() if exists else None
    if row is None:
        return None
    layout = str(row[0])
    if layout not in LAYOUTS:
        raise NewerFormat(
            f"The log in {where} has layout {layout}; this localstore knows up to {LAYOUT}. Nothing was read or written.",
            hint="Upgrade localstore here (pip install -U localstore-sync).",
        )
    return layout


def upgrade(connection: sa.Connection, where: str) -> None:
    """Bring the tables to this library's layout, inside the connection's transaction. Any number of processes may at once."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if layout_of(connection, where) != LAYOUT:
        _run_revisions(connection)


def _run_revisions(connection: sa.Connection) -> None:
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "localstore_adapters:_sql_revisions")
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    options = {
        "version_table": VERSION_TABLE,
        "transactional_ddl": True,
        "fn": lambda revision, _: script._upgrade_revs("head", revision),
    }
    context = MigrationContext.configure(connection, opts=options)
    context.run_migrations(op=Operations(context))
