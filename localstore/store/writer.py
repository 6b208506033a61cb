"""The one writing connection of a file, as the driver has it and as SQLAlchemy sees it.

It stays checked out of its pool between transactions, as to fetch and return it costs as much as a small write. It knows
nothing of what is written, nor of whose turn it is: its callers hold the lock.
"""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa
from sqlalchemy.pool import PoolProxiedConnection

from localstore.store.engine import driver_connection

__all__ = ["Writer"]


class Writer:
    """Hands out the connection of an engine that has only one.

    Attributes:
        engine: the engine.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._held: PoolProxiedConnection | None = None
        self._is_spent = False

    def connection(self) -> sa.Connection:
        """The connection for one transaction. It need not be closed; options and listeners set on it end with it."""
        if self._is_spent:
            self.renew()
        if self._held is None or not self._held.is_valid:
            self._held = self.engine.raw_connection()
        return sa.Connection(self.engine, self._held)

    def driver(self) -> sqlite3.Connection:
        """The driver's connection, for a transaction without SQLAlchemy."""
        return driver_connection(self.connection())

    def spend(self) -> None:
        """Open another one for the next transaction: something was done to this one that outlives the present one."""
        self._is_spent = True

    def roll_back(self) -> None:
        """Undo what SQLAlchemy does not know it began, as when Ctrl-C came in the midst of that."""
        if self._held is not None and self._held.is_valid:
            connection = self._held.driver_connection
            if connection is not None and connection.in_transaction:
                connection.rollback()

    def renew(self) -> None:
        """Close the connection, now: SQLite rolls back what it leaves open, and lets go of the file. Twice is fine."""
        if self._held is not None and self._held.is_valid:
            self._held.invalidate()
        self._held = None
        self._is_spent = False
