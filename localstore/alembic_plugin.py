"""What Alembic finds by its entry point: with it, an application's migrations keep synced files in step (``alembic_sqlite``).

This module must not import Alembic, which is in the middle of its own import when it comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.runtime.plugins import Plugin

__all__ = ["setup"]


def setup(plugin: Plugin) -> None:
    """Put our implementation in the place of Alembic's own for SQLite, which happens when its class is made."""
    import localstore.alembic_sqlite  # noqa: F401
