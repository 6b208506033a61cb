"""The layout of the accounts' tables in one database: made and upgraded by packaged Alembic revisions.

A fresh database is filled when it is first opened; an older layout is upgraded only when somebody says so, as other processes
may be running on it. None of Alembic's globals is used, so that any thread may migrate while another one does, and the version
table is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from localstore.errors import StoreUnusable

__all__ = ["LAYOUT", "LAYOUTS", "VERSION_TABLE", "check", "layout_of", "upgrade"]

VERSION_TABLE = "localstore_accounts_version"
LAYOUTS = ("accounts_0001",)
"""Every revision there is, oldest first."""
LAYOUT = LAYOUTS[-1]
_LOCK = 0x6C6F63616C686F75  # "localhou"; on PostgreSQL whoever migrates holds it
_HAS_TABLE = {
    "sqlite": f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{VERSION_TABLE}'",
    "postgresql": f"SELECT 1 WHERE to_regclass('{VERSION_TABLE}') IS NOT NULL",
}


def layout_of(connection: sa.Connection, layouts: Sequence[str] = LAYOUTS) -> str | None:
    """The layout of the accounts in a database; None when there are none.

    Raises:
        StoreUnusable: the layout is newer than this library.
    """
    exists = connection.exec_driver_sql(_HAS_TABLE[connection.dialect.name]).first()
    row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").first() if exists else None
    if row is None:
        return None
    layout = str(row[0])
    if layout not in layouts:
        raise StoreUnusable(
            f"The accounts have layout {layout}; this localstore knows up to {layouts[-1]}. Nothing was read or written.",
            hint="Upgrade localstore here (pip install -U localstore-sync).",
        )
    return layout


def check(connection: sa.Connection, layouts: Sequence[str] = LAYOUTS) -> None:
    """Make the tables where there are none.

    Raises:
        StoreUnusable: the layout is older or newer than this library's.
    """
    layout = layout_of(connection, layouts)
    if layout is not None and layout != layouts[-1]:
        raise StoreUnusable(
            f"The accounts have layout {layout}, which is older than {layouts[-1]}. Nothing was read or written.",
            hint="Make a backup, then run: localstore hub migrate",
        )
    if layout is None:
        upgrade(connection)


def upgrade(connection: sa.Connection) -> bool:
    """Bring the tables to this library's layout, inside the connection's write transaction. Several processes may at once.

    Returns:
        Whether anything was to be done.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if layout_of(connection) == LAYOUT:
        return False
    _run_revisions(connection)
    return True


def _run_revisions(connection: sa.Connection) -> None:
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "localstore.hub.accounts:migrations")
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    options = {
        "version_table": VERSION_TABLE,
        "transactional_ddl": True,
        "fn": lambda revision, _: script._upgrade_revs("head", revision),
    }
    context = MigrationContext.configure(connection, opts=options)
    context.run_migrations(op=Operations(context))
