"""Claims: a task that one process at a time does for a partition, of all that use a database.

On PostgreSQL it is an advisory lock of a transaction that stays open, on a connection of its own: it goes with its process,
also behind a pooler. Processes on one SQLite file are on one computer, and agree there by other means.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import Any

from localstore_adapters._sql_errors import translated
from localstore_adapters._sql_store import SqlStore

__all__ = ["Claim"]

_SETTINGS = "SET LOCAL idle_in_transaction_session_timeout = 0"  # it is idle on purpose
_TRY = "SELECT pg_try_advisory_xact_lock(%s)"


class Claim:
    """One claim, made and let go of in threads, in whatever order these come to it.

    Args:
        store: the database.
        task: what is claimed, in words that all processes have in common.
    """

    def __init__(self, store: SqlStore, task: str) -> None:
        self._store = store
        digest = hashlib.sha256(f"localstore {task}".encode()).digest()
        self._number = int.from_bytes(digest[:8], "big", signed=True)
        self._turn = threading.Lock()
        self._is_over = False
        self._connection: Any = None

    def take(self) -> bool:
        """Whether it is ours now."""
        with self._turn:
            return not self._is_over and (not self._store.is_postgres or self._lock())

    def let_go(self) -> None:
        """Let others have it; does nothing when it is not ours."""
        with self._turn:
            self._is_over = True
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()

    def _lock(self) -> bool:
        connection = self._store.connect_apart()
        try:
            with translated(self._store.address):
                connection.execute(_SETTINGS)
                is_ours: bool = connection.execute(_TRY, (self._number,)).fetchone()[0]
        except BaseException:
            connection.close()
            raise
        if is_ours:
            self._connection = connection
        else:
            connection.close()
        return is_ours
