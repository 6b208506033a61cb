"""SQLAlchemy engines over one SQLite file: explicit transactions, our pragmas, and errors that say what to do.

The sqlite3 driver is told to leave transactions alone (``isolation_level=None``) and SQLAlchemy begins them, as the
driver's own ways lose savepoints, DDL rollback or the busy timeout. One engine writes (``BEGIN IMMEDIATE``, one
connection, so that SQLite's WAL-reset bug of two writers in one process cannot strike), the other only reads.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from localstore.errors import DiskFull, LocalStoreError, ReadOnlyRealm, SchemaError, StoreBusy, StoreUnusable
from localstore.schema import SYSTEM_PREFIX, class_of
from localstore.store.driver import driver_errors, driver_module, unlock, unreadable

_WRITER_CACHE_KIB = 16 * 1024  # a large transaction that outgrows it is written twice

__all__ = ["driver_connection", "quote", "reading_engine", "sole_engine", "translated", "writing_engine"]

_NO_SUCH_TABLE = re.compile(r"no such table: (?:main\.)?(?P<name>.+)", re.DOTALL)


def writing_engine(path: Path, key: bytes | None = None, *, busy_timeout: float, synchronous: str) -> sa.Engine:
    """The one writer of a file. ``busy_timeout`` is in seconds; ``synchronous`` is SQLite's setting; ``key`` is the file's
    encryption key, None for a plain file."""
    pragmas = (
        "journal_mode=WAL",
        f"synchronous={synchronous}",
        "foreign_keys=ON",
        "recursive_triggers=ON",
        f"cache_size=-{_WRITER_CACHE_KIB}",
    )
    return _engine(path, key, busy_timeout, pragmas, "BEGIN IMMEDIATE", pool_size=1, max_overflow=0)


def reading_engine(path: Path, key: bytes | None = None, *, busy_timeout: float) -> sa.Engine:
    """Readers of a file, which cannot write: what tries to is told so by the statement that does."""
    engine = _engine(path, key, busy_timeout, ("query_only=ON",), "BEGIN", pool_size=5, max_overflow=-1)

    @event.listens_for(engine, "handle_error")
    def _failed(context: sa.ExceptionContext) -> BaseException | None:
        error = context.original_exception
        ours = _translation(error, path) if isinstance(error, driver_errors("Error")) else None
        return ours if isinstance(ours, ReadOnlyRealm) else None

    return engine


def sole_engine(path: Path, key: bytes | None = None) -> sa.Engine:
    """The one and only connection to a file: SQLITE_BUSY when it connects or begins if there is any other, be it idle, in this
    process or another. Nobody else gets in until the engine is disposed of.

    It rests on files being in WAL mode, where every connection that has ever read holds a shared lock until it is closed.
    """
    pragmas = ("locking_mode=EXCLUSIVE", "schema_version")  # the second reads
    return _engine(path, key, 0, pragmas, "BEGIN EXCLUSIVE", pool_size=1, max_overflow=0)


def driver_connection(connection: sa.Connection) -> sqlite3.Connection:
    """The driver's connection below a SQLAlchemy one, in the same transaction; SQLCipher's has the same methods."""
    driver = connection.connection.driver_connection
    assert driver is not None
    return cast("sqlite3.Connection", driver)


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def translated(path: Path, only: type[LocalStoreError] = LocalStoreError) -> Iterator[None]:
    """Turn SQLite's errors that have a remedy into ours; others pass as they are.

    Args:
        path: the file that they are about.
        only: leave those alone that would become another kind; around statements that may be about another file.
    """
    try:
        yield
    except driver_errors("Error", also=DBAPIError) as error:
        ours = _translation(error, path)
        if not isinstance(ours, only):
            raise
        raise ours from error


def _engine(path: Path, key: bytes | None, busy_timeout: float, pragmas: tuple[str, ...], begin: str, **pool: int) -> sa.Engine:
    connect_args: dict[str, Any] = {"timeout": busy_timeout, "check_same_thread": False}
    if key is None and sys.version_info >= (3, 12):
        connect_args["autocommit"] = sqlite3.LEGACY_TRANSACTION_CONTROL
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, module=driver_module(key), connect_args=connect_args, poolclass=sa.QueuePool, **pool)

    @event.listens_for(engine, "connect")
    def _connected(driver: sqlite3.Connection, _record: object) -> None:
        driver.isolation_level = None
        if key is not None:
            unlock(driver, key)
        try:
            for pragma in pragmas:
                driver.execute(f"PRAGMA {pragma}")
        except driver_errors("DatabaseError") as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_NOTADB":
                raise
            driver.close()  # before we ask what it is instead
            raise unreadable(path, key) from error

    @event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    @event.listens_for(engine, "handle_error")
    def _failed(context: sa.ExceptionContext) -> None:
        missing = _NO_SUCH_TABLE.fullmatch(str(context.original_exception))
        if missing and not missing["name"].startswith(SYSTEM_PREFIX):
            raise _no_table(missing["name"], path) from context.original_exception

    return engine


def _no_table(name: str, path: Path) -> SchemaError:
    model = class_of(name)
    if model is None:
        return SchemaError(
            f"There is no table {name} in {path}.", hint="Add the class or table to the schema that the realm is opened with."
        )
    return SchemaError(
        f"{model.__name__} has no table {name} in {path}.",
        hint=f"Add {model.__name__} to the schema that the realm is opened with.",
    )


def _translation(error: Exception, path: Path) -> LocalStoreError | None:
    original = error.orig if isinstance(error, DBAPIError) else error
    code = str(getattr(original, "sqlite_errorname", ""))
    text = str(original)
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreBusy(
            f"{path} is being written by another thread or process. Nothing was written.",
            hint="Try again, keep write() blocks short, or raise the setting busy_timeout.",
        )
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return StoreUnusable(
            f"{path} is not a usable SQLite database ({text}). It was not changed.", hint="Restore it from a backup."
        )
    if code.startswith("SQLITE_CANTOPEN"):
        return StoreUnusable(f"{path} cannot be opened ({text}).", hint="Check that its folder exists and may be written.")
    if code.startswith("SQLITE_FULL"):
        return DiskFull(
            f"The disk that holds {path} is full. The transaction was rolled back.", hint="Make room and try again."
        )
    if code == "SQLITE_READONLY" and "readonly database" in text:
        return ReadOnlyRealm(
            "Something was written through a read. Nothing was changed.", hint="Write inside `with realm.write() as tx:`."
        )
    return None
