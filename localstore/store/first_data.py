"""First data of a new file: what an application writes in the transaction that makes its tables, whole or with no file left.

It knows nothing of capture and sealing, which are its caller's.
"""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from localstore.errors import CommitInsideWrite
from localstore.store.driver import driver_errors
from localstore.store.engine import driver_connection
from localstore.store.writing import fill

__all__ = ["InitialData", "check_initial_data", "first_data"]

InitialData = Callable[[Session], None]
"""Fills a new file, in the transaction that makes its tables."""

_NEVER_RUN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
"""Functions of these kinds do nothing when they are called."""


def check_initial_data(initial_data: object) -> None:
    """Refuse what cannot fill a file.

    Raises:
        TypeError: no function, or one that runs only when it is awaited or iterated over.
    """
    if not callable(initial_data):
        raise TypeError(f"initial_data is a function that takes a session, not {initial_data!r}.")
    if any(is_kind(initial_data) or is_kind(type(initial_data).__call__) for is_kind in _NEVER_RUN):
        raise _never_run(initial_data)


def first_data(connection: sa.Connection, initial_data: InitialData) -> None:
    """Let an application write, inside a transaction that our caller has begun and will end.

    Raises:
        CommitInsideWrite: it tried to end that transaction, or a statement of its has ended it.
        TypeError: it did nothing, as what it returned was to be awaited.
    """
    call: Callable[[Session], object] = initial_data

    def run(session: Session) -> None:
        returned = call(session)
        if inspect.iscoroutine(returned):
            returned.close()
            raise _never_run(initial_data)

    with _transaction_kept(driver_connection(connection)):
        fill(connection, run)


@contextmanager
def _transaction_kept(driver: sqlite3.Connection) -> Iterator[None]:
    """Let SQLite itself refuse what would end the transaction in which the block runs, whoever asks for it and how.

    What was committed could not be undone, and the file would stay. Savepoints are another matter to SQLite, and allowed.
    """
    refused: list[str | None] = []

    def authorize(action: int, what: str | None, *_: object) -> int:
        if action != sqlite3.SQLITE_TRANSACTION:
            return sqlite3.SQLITE_OK
        refused.append(what)
        return sqlite3.SQLITE_DENY

    driver.set_authorizer(authorize)
    try:
        yield
    except driver_errors("Error", also=SQLAlchemyError) as error:
        if refused:
            raise _ended(f"{refused[0]} was run inside initial_data, whose transaction ends with the opening.") from error
        if not driver.in_transaction:
            what = "A statement of initial_data has ended its transaction: ON CONFLICT ROLLBACK or RAISE(ROLLBACK)."
            raise _ended(what) from error
        raise
    finally:
        driver.set_authorizer(None)


def _ended(what: str) -> CommitInsideWrite:
    return CommitInsideWrite(f"{what} Nothing was written.", hint="Leave it out; begin_nested() makes a savepoint.")


def _never_run(initial_data: object) -> TypeError:
    return TypeError(f"initial_data is called, not awaited or iterated over: make {initial_data!r} a plain function.")
