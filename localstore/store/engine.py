"""SQLAlchemy engines over one SQLite file: explicit transactions, our pragmas, and errors that say what to do.

The sqlite3 driver is told to leave transactions alone (``isolation_level=None``) and SQLAlchemy begins them, as the
driver's own ways lose savepoints, DDL rollback or the busy timeout. One engine writes (``BEGIN IMMEDIATE``, one
connection, so that SQLite's WAL-reset bug of two writers in one process cannot strike), the other only reads. The writer's
pool counts nothing, as our own lock lets one in at a time: so no interruption can make it believe that it is in use.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from localstore.errors import ForkedProcess, LocalStoreError, ReadOnlyRealm, SchemaError
from localstore.schema import SYSTEM_PREFIX, class_of
from localstore.store.driver import driver_errors, driver_module, unlock, unreadable
from localstore.store.failures import failure
from localstore.store.forking import connection_class
from localstore.store.outdated import check_not_migrated

__all__ = [
    "GIVE_UP",
    "begin_writing",
    "driver_connection",
    "quote",
    "reading_engine",
    "sole_engine",
    "translated",
    "writing_engine",
]

GIVE_UP = "localstore_give_up"
"""Execution option of a connection that is about to begin a write transaction: see ``begin_writing``."""

_BEGIN_WRITING = "BEGIN IMMEDIATE"
_LOOK_MS = 8  # SQLite looks at once and after 1, 3 and 8 milliseconds
_CHECKPOINT_PAGES = 4000  # of the write-ahead log, 16 MB: each checkpoint waits for the disk twice
_WRITER_CACHE_KIB = 16 * 1024  # a large transaction that outgrows it is written twice
_NO_SUCH_TABLE = re.compile(r"no such table: (?:main\.)?(?P<name>.+)", re.DOTALL)


def writing_engine(
    path: Path, key: bytes | None = None, *, busy_timeout: float, synchronous: str, declared: Collection[sa.Table] = ()
) -> sa.Engine:
    """The one writer of a file, whose transactions ``store.writer`` begins. ``busy_timeout`` is in seconds; ``synchronous`` is
    SQLite's setting; ``key`` is the file's encryption key, None for a plain file; ``declared`` are the tables that it had when
    it was opened, for messages."""
    pragmas = (
        "journal_mode=WAL",
        f"synchronous={synchronous}",
        "foreign_keys=ON",
        "recursive_triggers=ON",
        f"cache_size=-{_WRITER_CACHE_KIB}",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
        f"busy_timeout={_LOOK_MS}",  # from here on: see begin_writing
    )
    engine = _engine(path, key, busy_timeout, pragmas, None, poolclass=sa.StaticPool)
    return _explained(engine, path, declared)


def reading_engine(
    path: Path, key: bytes | None = None, *, busy_timeout: float, declared: Collection[sa.Table] = ()
) -> sa.Engine:
    """Readers of a file, which cannot write: what tries to is told so by the statement that does."""
    engine = _engine(path, key, busy_timeout, ("query_only=ON",), "BEGIN", pool_size=5, max_overflow=-1)

    @event.listens_for(engine, "handle_error")
    def _failed(context: sa.ExceptionContext) -> BaseException | None:
        error = context.original_exception
        ours = _translation(error, path) if isinstance(error, driver_errors("Error")) else None
        return ours if isinstance(ours, ReadOnlyRealm) else None

    return _explained(engine, path, declared)


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


def begin_writing(connection: sqlite3.Connection, busy_timeout: float, give_up: Callable[[], bool] | None = None) -> None:
    """Begin a write transaction, waiting for other processes that write.

    SQLite waits by looking again and again, in the end ten times a second, and whoever comes at the right moment is served:
    beside processes that write without a pause, one could starve. Looking every few milliseconds makes that unlikely, and
    lets Ctrl-C in between.

    Args:
        connection: the writing one, which by itself waits a few milliseconds.
        busy_timeout: seconds to wait.
        give_up: asked in between; waiting ends when it says True.

    Raises:
        The driver's error SQLITE_BUSY: the time is up, or nobody wants it any more.
    """
    if connection.in_transaction:  # left open by what was broken off, as by Ctrl-C in a rollback
        connection.execute("ROLLBACK")
    for rounds_left in range(int(busy_timeout * 1000) // _LOOK_MS, -1, -1):
        try:
            connection.execute(_BEGIN_WRITING)
            break
        except Exception as error:
            busy = str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")
            if not busy or not rounds_left or (give_up is not None and give_up()):
                raise


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class translated:  # noqa: N801  reads as a statement; and a generator would cost three times as much, thrice a write
    """Turn SQLite's errors that have a remedy into ours, inside a ``with``; others pass as they are.

    Args:
        path: the file that they are about.
        writing: whether this is a transaction that may write.
        only: leave those alone that would become another kind; around statements that may be about another file.
    """

    __slots__ = ("_only", "_path", "_writing")

    def __init__(
        self,
        path: Path,
        *,
        writing: bool = False,
        only: type[LocalStoreError] | tuple[type[LocalStoreError], ...] = LocalStoreError,
    ) -> None:
        self._path, self._writing, self._only = path, writing, only

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or not isinstance(error, driver_errors("Error", also=DBAPIError)):
            return
        ours = _translation(error, self._path, writing=self._writing)
        if isinstance(ours, self._only):
            raise ours from error


def _engine(
    path: Path, key: bytes | None, busy_timeout: float, pragmas: tuple[str, ...], begin: str | None, **pool: Any
) -> sa.Engine:
    connect_args: dict[str, Any] = {"timeout": busy_timeout, "check_same_thread": False}
    if key is None and sys.version_info >= (3, 12):
        connect_args["autocommit"] = sqlite3.LEGACY_TRANSACTION_CONTROL
    module = driver_module(key)
    connect_args["factory"] = connection_class(module)
    url = sa.URL.create("sqlite", database=str(path))
    pool = {"poolclass": sa.QueuePool, **pool}
    engine = sa.create_engine(url, module=module, connect_args=connect_args, **pool)

    @event.listens_for(engine, "connect")
    def _connected(driver: sqlite3.Connection, _record: object) -> None:
        _set_up(driver, path, key, pragmas)

    @event.listens_for(engine, "close")
    def _closing(driver: sqlite3.Connection, _record: object) -> None:
        """Roll back now: SQLite would wait with that, and with its locks, for cursors which a traceback may keep alive."""
        with suppress(Exception):
            driver.rollback()

    if begin is not None:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _explained(engine: sa.Engine, path: Path, declared: Collection[sa.Table]) -> sa.Engine:
    """Let statements about what is not there say why."""

    @event.listens_for(engine, "handle_error")
    def _failed(context: sa.ExceptionContext) -> None:
        if isinstance(context.original_exception, ForkedProcess):  # as it is: SQLAlchemy would wrap it
            raise context.original_exception
        check_not_migrated(context, declared, path)
        missing = _NO_SUCH_TABLE.fullmatch(str(context.original_exception))
        if missing and not missing["name"].startswith(SYSTEM_PREFIX):
            raise _no_table(missing["name"], path) from context.original_exception

    return engine


def _set_up(driver: sqlite3.Connection, path: Path, key: bytes | None, pragmas: tuple[str, ...]) -> None:
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


def _translation(error: Exception, path: Path, *, writing: bool = False) -> LocalStoreError | None:
    original = error.orig if isinstance(error, DBAPIError) else error
    code = str(getattr(original, "sqlite_errorname", ""))
    text = str(original)
    return failure(code, text, path, writing=writing)
