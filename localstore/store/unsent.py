"""Whether a file holds changes that no remote has, whatever stage they are in: logged, sealed, or in no changeset at all."""

from __future__ import annotations

import sqlite3

from localstore.store import outbox, seal

__all__ = ["has_unsent"]

_HELD_BACK = "SELECT 1 FROM localstore_unsealed"
_NEVER_OPENED = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM localstore_table WHERE id <> 0)"
"""A copy whose rows are uploaded when it is opened; until then no table of it is synced."""


def has_unsent(connection: sqlite3.Connection) -> bool:
    """Whether a synced file holds anything that is to be sent still."""
    return (
        any(connection.execute(sql).fetchone() is not None for sql in (_HELD_BACK, _NEVER_OPENED))
        or seal.has_unsealed(connection)
        or outbox.last_pending(connection) is not None
    )
