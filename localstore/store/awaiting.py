"""The mark of a new file whose first download is not complete: a table of ours that is there until then.

It is made in the transaction that makes the file's tables, and goes in the one that writes the first data. So a file is never
taken for complete, whatever moment a process is killed at, and first data is written once, however many open the
file. It knows nothing of who downloads, and how.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from localstore.errors import LocalStoreError
from localstore.store import outbox, seal
from localstore.store.alone import alone_with, remove
from localstore.store.driver import driver_errors
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.first_data import InitialData, first_data

__all__ = ["check_off", "delete_unfinished", "is_awaiting", "marking"]

_TABLE = "localstore_awaited"
_OTHERS = """SELECT 1 FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'localstore\\_%' ESCAPE '\\'
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT IN (SELECT name FROM localstore_table) LIMIT 1"""


def marking(initial_data: InitialData | None) -> Callable[[Session], None]:
    """First data for the opening of a file that is to wait for its remote's: the mark instead of what an application gives.

    A file in which there is something already gets no mark, as it is not new, and the application's data at once.
    """

    def mark(session: Session) -> None:
        connection = session.connection()
        if connection.exec_driver_sql(_OTHERS).first() is None:
            connection.exec_driver_sql(f"CREATE TABLE {_TABLE} (id INTEGER PRIMARY KEY)")
        elif initial_data is not None:
            initial_data(session)

    return mark


def is_awaiting(store: Store) -> bool:
    """Whether the file's first download is not complete."""
    with store.read() as session:
        return _is_marked(session.connection())


def check_off(store: Store, initial_data: InitialData | None) -> None:
    """The first download is complete: write the first data, unless somebody else has.

    Raises:
        What ``initial_data`` raises. Nothing was written then, and the mark stays.
    """
    with store.write() as session:
        connection = session.connection()
        if _is_marked(connection):
            if initial_data is not None:
                first_data(connection, initial_data)
            connection.exec_driver_sql(f"DROP TABLE {_TABLE}")


def delete_unfinished(path: Path, key: bytes | None) -> None:
    """Remove a file whose first download did not come to its end, if nobody has it open or wrote to it; else leave it alone."""
    with (
        suppress(LocalStoreError, OSError, *driver_errors("Error", also=DBAPIError)),
        alone_with(path, key, to_remove=True) as connection,
    ):
        with connection.begin():
            is_unfinished = _is_marked(connection) and not _holds_more(connection)
        if is_unfinished:
            remove(path, connection)


def _is_marked(connection: sa.Connection) -> bool:
    return connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = ?", (_TABLE,)).first() is not None


def _holds_more(connection: sa.Connection) -> bool:
    """Whether there is anything in the file that nobody else has."""
    driver = driver_connection(connection)
    return (
        seal.has_unsealed(driver)
        or outbox.last_pending(driver) is not None
        or connection.exec_driver_sql(_OTHERS).first() is not None
    )
