"""A database that holds a log, as this process uses it: one small pool of connections, and as many threads, for all its lines.

Blocking work runs in threads of its own, so that a database that hangs holds up no event loop, and nobody else's threads. What a
call began is left to end when the call is cancelled; it is one transaction. Connections are made when the first line is
connected and closed when the last one is.
This module knows no changesets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from localstore.environment import Environment
from localstore.errors import Offline
from localstore.wire import MAX_CHANGESET_BYTES
from localstore_adapters._sql_errors import translated
from localstore_adapters._sql_layout import upgrade
from localstore_adapters._sql_url import Address, address_of

__all__ = ["SqlStore", "make_file"]

_T = TypeVar("_T")
_WORLD = Environment()
_CONNECTIONS = 8
_WAIT_SECONDS = 10  # for a lock, a connection, a host
_POSTGRES_OPTIONS: dict[str, Any] = {
    "connect_timeout": _WAIT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "localstore",
}
_POSTGRES_SETTINGS = f"""
    SET lock_timeout = '{_WAIT_SECONDS}s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '15s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""  # whoever stops in the middle of a transaction lets go of its lock; nothing is acknowledged that is not on the disk
_WRITES = "localstore_writes"


@dataclass
class _Open:
    """What there is while lines are connected."""

    engine: sa.Engine
    threads: ThreadPoolExecutor


@dataclass
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    stores: weakref.WeakValueDictionary[tuple[int, str], SqlStore] = field(default_factory=weakref.WeakValueDictionary)


_shared = _Shared()


class SqlStore:
    """One database.

    Args:
        url: as ``_sql_url`` reads it.
        environment: clock and randomness.
        max_changeset_bytes: larger changesets are refused; may be set at any time.
        keep_days: how long history is kept that is in a snapshot; None leaves it to the devices.
        connections: most connections at once, and threads.
    """

    def __init__(
        self,
        url: str,
        *,
        environment: Environment = _WORLD,
        max_changeset_bytes: int = MAX_CHANGESET_BYTES,
        keep_days: float | None = None,
        connections: int = _CONNECTIONS,
    ) -> None:
        self.address = address_of(url)
        self.environment = environment
        self.max_changeset_bytes = max_changeset_bytes
        self.keep_days = keep_days
        self._connections = connections
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._uses = 0
        self._open: _Open | None = None

    @classmethod
    def shared(cls, url: str) -> SqlStore:
        """The one of that URL in this process."""
        key = os.getpid(), address_of(url).key
        with _shared.lock:
            store = _shared.stores.get(key)
            if store is None:
                store = _shared.stores[key] = cls(url)
            return store

    @property
    def is_postgres(self) -> bool:
        return self.address.path is None

    @property
    def now(self) -> sa.ColumnElement[int]:
        """The clock of the log, in milliseconds: the server's where there is one, as devices' clocks differ."""
        if self.is_postgres:
            return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger)
        return sa.literal(self.environment.now_ms(), sa.BigInteger)

    # Used by lines and hints, from any thread.

    def hold(self) -> None:
        """Keep connections from now on, until ``let_go``."""
        with self._lock:
            self._uses += 1
            if self._open is None:
                threads = ThreadPoolExecutor(self._connections, thread_name_prefix="localstore-sql")
                self._open = _Open(make_engine(self.address, self._connections), threads)

    def let_go(self) -> None:
        """The opposite of ``hold``. The last one closes all connections."""
        with self._lock:
            self._uses -= 1
            if self._uses:
                return
            ending, self._open = self._open, None
        if ending is not None:
            ending.engine.dispose()
            ending.threads.shutdown(wait=False)

    def submit(self, work: Callable[..., _T], *arguments: object) -> Future[_T]:
        """Do blocking work in a thread. Connections live as long as it does."""
        self.hold()
        assert self._open is not None

        def held() -> _T:
            try:
                return work(*arguments)
            finally:
                self.let_go()

        return self._open.threads.submit(held)

    def run(self, work: Callable[..., _T], *arguments: object) -> asyncio.Future[_T]:
        """The same for an event loop. The work goes on when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def tell(job: Future[_T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
                loop.call_soon_threadsafe(_settle, done, job)

        self.submit(work, *arguments).add_done_callback(tell)
        return done

    # What follows blocks.

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for reading; on PostgreSQL each statement sees what is committed when it begins."""
        with translated(self.address), self._engine().connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT") if self.is_postgres else connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction. SQLite has one writer at a time; those of this process queue up fairly, and one connection writes."""
        turn = contextlib.nullcontext() if self.is_postgres else self._writing
        with translated(self.address), turn, self._engine().connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection
            if self.address.path is not None and connection.info["inode"] != inode_of(self.address.path):
                raise gone(self.address)  # nothing is acknowledged that went to a file that nobody finds again

    def migrate(self) -> None:
        """Make the tables, or bring them to this library's layout."""
        if self.address.path is not None:
            with translated(self.address):
                make_file(self.address.path)
        with self.writing() as connection:
            upgrade(connection, self.address.shown)

    def is_missing(self) -> bool:
        """Whether SQLite's file is not there."""
        return self.address.path is not None and inode_of(self.address.path) is None

    def _engine(self) -> sa.Engine:
        if self._open is None:
            raise Offline(f"No line to {self.address.shown} is connected.", hint="Connect first.")
        return self._open.engine


def make_engine(address: Address, connections: int) -> sa.Engine:
    """A pool of connections, none of which is made yet."""
    options: dict[str, Any] = {
        "poolclass": QueuePool,
        "pool_size": connections,
        "max_overflow": 2,  # whoever holds the connections while others are at work
        "pool_timeout": _WAIT_SECONDS,
        "pool_use_lifo": True,
        "hide_parameters": True,
        "enable_from_linting": False,  # every partition belongs to the one remote there is
    }
    if address.path is None:
        given = address.url.query
        arguments = {name: value for name, value in _POSTGRES_OPTIONS.items() if name not in given}
        engine = sa.create_engine(address.url, connect_args=arguments, **options)
        sa.event.listen(engine, "connect", _prepare_postgres)
        return engine
    path = address.path
    engine = sa.create_engine(address.url, creator=lambda: open_file(path), **options)

    def note_file(connection: Any, record: Any) -> None:
        record.info["inode"] = connection.inode

    def check_file(_: object, record: Any, __: object) -> None:
        inode = inode_of(path)
        if inode is None:
            raise gone(address)
        if inode != record.info["inode"]:
            raise sa.exc.InvalidatePoolError("The file was exchanged.")  # all are made anew

    sa.event.listen(engine, "connect", note_file)
    sa.event.listen(engine, "checkout", check_file)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def inode_of(path: Path) -> tuple[int, int] | None:
    """Which file is at a path; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def gone(address: Address) -> Offline:
    return Offline(
        f"The file {address.shown} is not there. Local data is safe, and what is unsent stays in the outbox.",
        hint="Bring it back; sync then goes on by itself.",
    )


class _File(sqlite3.Connection):
    """A connection that knows which file it has open."""

    inode: tuple[int, int] | None = None


def open_file(path: Path, mode: str = "rw") -> _File:
    """A connection to a file that is there; nothing is made in its place."""
    before = inode_of(path)
    options: dict[str, Any] = {"timeout": _WAIT_SECONDS, "isolation_level": None, "check_same_thread": False, "factory": _File}
    connection: _File = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, **options)
    connection.execute("PRAGMA synchronous = FULL")
    connection.inode = inode_of(path)
    if before not in (None, connection.inode):
        connection.close()
        raise sqlite3.OperationalError("it was exchanged while it was opened")
    return connection


def make_file(path: Path) -> None:
    """An SQLite file that is ready for readers beside a writer, if there is none."""
    with contextlib.closing(open_file(path, "rwc")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def _prepare_postgres(connection: Any, _: object) -> None:
    was, connection.autocommit = connection.autocommit, True
    connection.execute(_POSTGRES_SETTINGS)
    connection.autocommit = was


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")


def _settle(done: asyncio.Future[_T], job: Future[_T]) -> None:
    if done.cancelled():
        return
    if (error := job.exception()) is not None:
        done.set_exception(error)
        done.exception()  # taken note of, should nobody be left to do so
    else:
        done.set_result(job.result())
