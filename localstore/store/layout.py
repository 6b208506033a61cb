"""The system tables' layout in one file: made and upgraded by packaged Alembic revisions when a realm is opened.

Alembic is imported only when something is to be done. The version table is our own, so that the application's Alembic
and ours never meet.
"""

from __future__ import annotations

import threading

import sqlalchemy as sa

from localstore.errors import StoreUnusable

__all__ = ["LAYOUT", "LAYOUTS", "VERSION_TABLE", "layout_of", "upgrade"]

VERSION_TABLE = "localstore_version"
LAYOUTS = ("layout_0001",)
"""Every revision there is, oldest first."""
LAYOUT = LAYOUTS[-1]
_running = threading.Lock()  # of the process, as what Alembic calls its context is


def layout_of(connection: sa.Connection) -> str | None:
    """The layout of an open file; None when it has no system tables.

    Raises:
        StoreUnusable: the layout is newer than this library.
    """
    exists = connection.exec_driver_sql(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (VERSION_TABLE,)
    ).first()
    row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").first() if exists else None
    if row is None:
        return None
    layout = str(row[0])
    if layout not in LAYOUTS:
        raise StoreUnusable(
            f"The file has layout {layout}; this localstore knows up to {LAYOUT}. The file was not touched.",
            hint="Upgrade localstore on this device (pip install -U localstore-sync).",
        )
    return layout


def upgrade(connection: sa.Connection) -> bool:
    """Bring the system tables to this library's layout, inside the connection's transaction.

    Returns:
        Whether they were made just now.
    """
    layout = layout_of(connection)
    if layout != LAYOUT:
        _run_revisions(connection)
    return layout is None


def _run_revisions(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "localstore.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _running:
        command.upgrade(config, "head")
