"""Being alone with a file: what may only be done while nobody else has it open, in this process or another.

Files are never opened here but through SQLite: closing any other descriptor of a file would drop the locks that this process
holds on it.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import LocalStoreError, StoreUnusable
from localstore.store.engine import driver_connection, sole_engine, translated

__all__ = ["alone_with", "identity_of", "make", "remove", "remove_if_empty"]

_BESIDE = ("-wal", "-shm", "-journal")


@contextmanager
def alone_with(path: Path) -> Iterator[sa.Connection]:
    """The only connection to a file. Who wants to open it meanwhile waits.

    Raises:
        StoreBusy: at the first statement, when anybody has the file open.
        StoreUnusable: at the first statement, when it is not a database.
    """
    engine = sole_engine(path)
    try:
        with translated(path), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def remove(path: Path, connection: sa.Connection) -> None:
    """Remove a file and what SQLite keeps beside it, under a connection of ``alone_with`` that is in no transaction.

    Raises:
        StoreUnusable: the system does not allow it. The database is whole.
    """
    driver = driver_connection(connection)
    with suppress(sqlite3.OperationalError):  # on a full disk, where a file must still be removable
        driver.execute("PRAGMA journal_mode=DELETE").fetchall()
    with suppress(sqlite3.OperationalError):  # so that closing the connection removes nothing that is another's by then
        driver.execute("PRAGMA journal_mode=OFF").fetchall()
    if sys.platform == "win32":  # where an open file cannot be removed, which keeps it from who opens it just now
        connection.close()
        connection.engine.dispose()
    try:
        for suffix in (*_BESIDE, ""):  # the database last: until then nobody can make a new one, whose files these would be
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnusable(
            f"{path} cannot be removed ({error}).", hint="Check that its folder may be written and no other program uses it."
        ) from error


def remove_if_empty(path: Path) -> None:
    """Remove a file in which nobody has made anything, if nobody has it open; else leave it alone."""
    with suppress(LocalStoreError, sqlite3.Error, sa.exc.DBAPIError), alone_with(path) as connection:
        with connection.begin():
            is_empty = connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is None
        if is_empty:
            remove(path, connection)


def identity_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name, as long as either is open; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make(path: Path) -> None:
    """Make an empty file, unless there is one.

    Raises:
        StoreUnusable: it cannot be made there.
    """
    with translated(path):
        sqlite3.connect(path).close()
