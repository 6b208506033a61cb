"""What has to hold inside a ``write()``: one transaction from its first statement to its commit, on tables as they were.

It watches statements and says what capture is to do meanwhile. It knows neither locks nor sealing.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm.exc import ObjectDeletedError
from sqlmodel import Session

from localstore.errors import CommitInsideWrite
from localstore.store.capture import Capturing, check_captured, set_capturing
from localstore.store.engine import begin_writing, driver_connection
from localstore.store.writer import Writer

__all__ = ["WriteSession", "WriteWatch", "fill", "load_expired"]

_WRITING = {"UPDATE", "DELETE"}
_START = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*+(\w{0,6})", re.DOTALL)
_WRITING_MANY = {*_WRITING, "INSERT", "REPLAC"}
_FOREIGN_TRIGGERS = """SELECT EXISTS (SELECT 1 FROM main.sqlite_master
    WHERE type = 'trigger' AND name NOT LIKE 'localstore\\_%' ESCAPE '\\')
    OR EXISTS (SELECT 1 FROM temp.sqlite_master WHERE type = 'trigger')"""


class WriteSession(Session):
    """The session of a ``write()``. What is committed in the middle of the block could not be rolled back at its end."""

    def commit(self) -> None:
        raise CommitInsideWrite(
            "commit() was called inside write(), which commits once, at the end of its block. Nothing was committed.",
            hint="Leave the call out; flush() sends what is pending to the database, begin_nested() makes a savepoint.",
        )

    def close(self) -> None:
        raise _ended_inside("close()")

    def reset(self) -> None:
        raise _ended_inside("reset()")

    def invalidate(self) -> None:
        raise _ended_inside("invalidate()")


class WriteWatch:
    """Watches the one writing connection of a file during a ``write()``, and does nothing between."""

    def __init__(self, writer: Writer, *, synced: bool, busy_timeout: float) -> None:
        self._writer = writer
        self._synced = synced
        self._busy_timeout = busy_timeout
        self._capturing: Capturing | None = None  # None between writes
        self._has_switched = False
        self._schema = 0
        event.listen(writer.engine, "before_cursor_execute", self._before_statement)
        event.listen(writer.engine, "commit", self._before_commit)

    def begin(self, connection: sqlite3.Connection) -> None:
        """The block's transaction has begun."""
        self._schema = _schema_version(connection)
        if self._has_switched:  # what was abandoned could not
            set_capturing(connection, Capturing.BY_KEY)
        self._capturing, self._has_switched = Capturing.BY_KEY, False

    def end(self, connection: sqlite3.Connection) -> None:
        """The block is over and its transaction about to be sealed.

        Raises:
            CommitInsideWrite: the transaction is not the one that the block began.
            SchemaError: a synced table was changed so that it is not captured any more.
        """
        _check_in_transaction(connection)
        if self._synced and _schema_version(connection) != self._schema:
            check_captured(connection)
        if self._has_switched:  # whatever savepoints were taken back since
            set_capturing(connection, Capturing.BY_KEY)
        self._capturing, self._has_switched = None, False

    def abandon(self) -> None:
        """The block was rolled back, except for what was committed behind our back: others must not log rowids then. Where the
        file cannot be read or written now, which is why it was rolled back, the next block sees to it."""
        self._capturing = None
        if not self._has_switched:
            return
        with suppress(Exception):  # that exception is on its way already, and tells more
            connection = self._writer.driver()
            if connection.execute("SELECT capturing FROM localstore_state").fetchone()[0] != Capturing.BY_KEY:
                begin_writing(connection, self._busy_timeout)
                set_capturing(connection, Capturing.BY_KEY)
                connection.execute("COMMIT")
            self._has_switched = False

    def _before_commit(self, outer: sa.Connection) -> None:
        """Refuse a commit that does not come from the end of the block."""
        if self._capturing is not None:
            raise _commit_inside("A transaction or connection was used inside write() to commit. Nothing was committed.")

    def _before_statement(
        self, outer: sa.Connection, cursor: object, statement: str, parameters: object, context: object, many: bool
    ) -> None:
        """Let triggers log rowids from the first statement on that may write many rows; ``store.capture`` says why only here.
        For one row it would cost more than it saves."""
        start = statement[:6].upper() if statement[:1].isalpha() else _first_word(statement)
        if self._capturing is None and start != "ATTACH":
            return
        connection = driver_connection(outer)
        _check_in_transaction(connection)
        if start.startswith(("COMMIT", "END")):
            raise _commit_inside("A statement that commits was run inside write(). Nothing was committed.")
        if start == "ATTACH":
            self._writer.spend()  # lest the next block find it there
            connection.execute(f"PRAGMA busy_timeout={int(self._busy_timeout * 1000)}")  # others may be writing to that file
        if not self._synced:
            return
        if self._capturing is Capturing.BY_KEY and start in (_WRITING_MANY if many else _WRITING):
            self._log_rowids(connection)
        elif self._capturing is Capturing.BY_ROWID and start == "CREATE":  # maybe a trigger
            set_capturing(connection, Capturing.BY_KEY)
            self._capturing = Capturing.BY_KEY

    def _log_rowids(self, connection: sqlite3.Connection) -> None:
        """Unless there are triggers of others: one that runs before ours may give the rowid of a row that is being deleted to
        another, and the log could not tell the two apart."""
        if not connection.execute(_FOREIGN_TRIGGERS).fetchone()[0]:
            self._capturing, self._has_switched = Capturing.BY_ROWID, True
            set_capturing(connection, Capturing.BY_ROWID)


def load_expired(session: Session) -> None:
    """Read again what SQL computed, such as ``task.count = Task.count + 1``: after the block it could not be any more."""
    for state in session.identity_map.all_states():
        if state.expired_attributes and (found := state.obj()) is not None:
            with suppress(ObjectDeletedError):  # a statement deleted its row
                getattr(found, next(iter(state.expired_attributes)))  # one loads them all


def fill(connection: sa.Connection, initial_data: Callable[[Session], None]) -> None:
    """Let an application write as in a ``write()``, inside a transaction that our caller has begun and will end."""
    session = WriteSession(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
    try:
        initial_data(session)
        session.flush()
        load_expired(session)
        Session.commit(session)  # releases the session's savepoint; the transaction goes on
    finally:
        Session.close(session)


def _check_in_transaction(connection: sqlite3.Connection) -> None:
    """SQLite ends a transaction by itself at some errors, and what follows would be written without one."""
    if not connection.in_transaction:
        raise _commit_inside(
            "The transaction of this write() has ended before its block: a statement failed with ON CONFLICT ROLLBACK or"
            " RAISE(ROLLBACK), or the driver's connection was used to commit. Nothing more was written."
        )


def _ended_inside(call: str) -> CommitInsideWrite:
    return _commit_inside(f"{call} was called inside write(), which would have dropped what was written. It was rolled back.")


def _first_word(statement: str) -> str:
    """The beginning of a statement behind white space and comments, as much of it as names what it does."""
    found = _START.match(statement)
    return found[1].upper() if found else ""


def _commit_inside(message: str) -> CommitInsideWrite:
    return CommitInsideWrite(message, hint="Let the block end the transaction; begin_nested() makes a savepoint.")


def _schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])
