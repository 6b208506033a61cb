"""The one writing connection of a file, as the driver has it and as SQLAlchemy sees it.

It stays checked out of its pool between transactions, as to fetch and return it costs as much as a small write. It knows
nothing of what is written, nor of whose turn it is: its callers hold the lock. Who kept a session or connection from a turn
that is over does not, and is refused: it would write into, or end, whatever transaction is going on.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import PoolProxiedConnection

from localstore.errors import WriteEnded
from localstore.store.engine import GIVE_UP, begin_writing

__all__ = ["Writer"]


class Writer:
    """Hands out the connection of an engine that has only one.

    Args:
        engine: the engine.
        busy_timeout: how many seconds a transaction waits for other processes that write.
    """

    def __init__(self, engine: sa.Engine, busy_timeout: float) -> None:
        self.engine = engine
        self._busy_timeout = busy_timeout
        self._held: PoolProxiedConnection | None = None
        self._driver: sqlite3.Connection | None = None
        self._is_spent = False
        self._turn: _Turn | None = None
        event.listen(engine, "begin", self._begin)

    def connection(self) -> sa.Connection:
        """The connection for one turn, until ``retire``. It need not be closed; options and listeners set on it end with it."""
        self.retire()
        self._turn = _Turn(self._hold())
        return sa.Connection(self.engine, cast("PoolProxiedConnection", self._turn))

    def driver(self) -> sqlite3.Connection:
        """The driver's connection, for a transaction without SQLAlchemy."""
        return cast("sqlite3.Connection", self._hold().driver_connection)

    def retire(self) -> None:
        """The turn is over: what ``connection`` returned can begin nothing any more."""
        if self._turn is not None:
            self._turn.held = None
        self._turn = None

    def spend(self) -> None:
        """Open another one for the next transaction: something was done to this one that outlives the present one."""
        self._is_spent = True

    def roll_back(self) -> None:
        """Undo what SQLAlchemy does not know it began, as when Ctrl-C came in the midst of that."""
        if self._driver is not None and self._held is not None and self._held.is_valid and self._driver.in_transaction:
            self._driver.rollback()

    def renew(self) -> None:
        """Close the connection, now: SQLite rolls back what it leaves open, and lets go of the file. Twice is fine."""
        if self._held is not None and self._held.is_valid:
            with suppress(Exception):
                self._held.invalidate()
        self.engine.dispose()  # which closes one that a block has put back, but not one that it took out for good
        if self._driver is not None:
            with suppress(Exception):
                self._driver.rollback()
            self._driver.close()
        self._held = self._driver = None
        self._is_spent = False

    def _hold(self) -> PoolProxiedConnection:
        if self._is_spent or (self._held is not None and not (self._held.is_valid and not self._held.is_detached)):
            self.renew()
        if self._held is None:
            self._held = self.engine.raw_connection()
            self._driver = cast("sqlite3.Connection", self._held.driver_connection)
        return self._held

    def _begin(self, connection: sa.Connection) -> None:
        if not connection.connection.is_valid:
            raise _ended()
        begin_writing(self.driver(), self._busy_timeout, connection.get_execution_options().get(GIVE_UP))


class _Turn:
    """What SQLAlchemy takes for its pooled connection: the real one until the turn is over, and then nothing.

    It cannot be put back into the pool, as it stays ours.
    """

    __slots__ = ("held",)

    def __init__(self, held: PoolProxiedConnection) -> None:
        self.held: PoolProxiedConnection | None = held

    @property
    def is_valid(self) -> bool:
        return self.held is not None and self.held.is_valid

    # These by themselves, as each write asks for them:

    @property
    def driver_connection(self) -> Any:
        return self._real().driver_connection

    def cursor(self) -> Any:
        return self._real().cursor()

    def commit(self) -> None:
        self._real().commit()

    def close(self) -> None:
        pass

    def _close_special(self, *, transaction_reset: bool = False) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def _real(self) -> PoolProxiedConnection:
        if self.held is None:
            raise _ended()
        return self.held


def _ended() -> WriteEnded:
    return WriteEnded(
        "The session or connection of a write() was used after its block. Nothing was read or written.",
        hint="Read with realm.exec(), realm.get() or realm.read(), and write in a new write().",
    )
