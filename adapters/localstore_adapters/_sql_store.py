"""A database that holds a log, as this process uses it: one small pool of connections, and as many threads, for all its lines.

Blocking work runs in threads of its own, so that a database that hangs holds up no event loop, and nobody else's threads. What
a call began is left to end when the call is cancelled; it is one transaction. Connections are made when the first line is
connected and closed when the last one is.
This module knows no changesets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from localstore.environment import Environment
from localstore.errors import Offline
from localstore.wire import MAX_CHANGESET_BYTES
from localstore_adapters._sql_engine import WRITES, gone, inode_of, make_engine, make_file
from localstore_adapters._sql_errors import translated
from localstore_adapters._sql_hints import Hints
from localstore_adapters._sql_lanes import Lanes
from localstore_adapters._sql_layout import upgrade
from localstore_adapters._sql_together import Together
from localstore_adapters._sql_url import address_of

__all__ = ["SqlStore"]

_T = TypeVar("_T")
_WORLD = Environment()
_CONNECTIONS = 8
_PATIENCE_SECONDS = 70.0  # more than the minute that a statement may take
_LANE_SHARE = 2  # one of so many connections waits for one partition's lock, at most; fewer cost its writers time


@dataclass
class _Open:
    """What there is while lines are connected."""

    threads: ThreadPoolExecutor
    writers: ThreadPoolExecutor  # of an SQLite file one: who waits for another process's lock holds up no reader
    engine: sa.Engine | None = None  # made in one of the threads: it may be the first to load the driver
    making: threading.Lock = field(default_factory=threading.Lock)


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
        patience: how many seconds a server may let nothing be heard before a call to it fails.
    """

    def __init__(
        self,
        url: str,
        *,
        environment: Environment = _WORLD,
        max_changeset_bytes: int = MAX_CHANGESET_BYTES,
        keep_days: float | None = None,
        connections: int = _CONNECTIONS,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self.address = address_of(url)
        self.environment = environment
        self.max_changeset_bytes = max_changeset_bytes
        self.keep_days = keep_days
        self.hints = Hints(self, environment.random_bytes(4).hex())
        self._connections = connections
        self._patience = patience
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._lanes = Lanes(max(1, connections // _LANE_SHARE))
        self.together = Together(self.writing)
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

    # Used by lines and hints, from any thread.

    def hold(self) -> None:
        """Keep connections from now on, until ``let_go``."""
        with self._lock:
            self._uses += 1
            if self._open is None:
                threads = _threads(self._connections)
                self._open = _Open(threads, threads if self.is_postgres else _threads(1))

    def let_go(self) -> None:
        """The opposite of ``hold``. The last one closes all connections."""
        with self._lock:
            self._uses -= 1
            if self._uses:
                return
            ending, self._open = self._open, None
        if ending is not None:
            if ending.engine is not None:
                ending.engine.dispose()
            ending.threads.shutdown(wait=False)
            ending.writers.shutdown(wait=False)

    def submit(self, work: Callable[..., _T], *arguments: object, writes: bool = False, lane: int | None = None) -> Future[_T]:
        """Do blocking work in a thread. Connections live as long as it does.

        Args:
            work, arguments: what to do.
            writes: whether it is a transaction that writes.
            lane: the partition whose lock it waits for, if it does.
        """
        self.hold()
        assert self._open is not None

        def held() -> _T:
            try:
                return work(*arguments)
            finally:
                self.let_go()

        threads = self._open.writers if writes else self._open.threads
        try:
            if lane is not None and self.is_postgres:  # of a file there is one lock, and one writer
                return self._lanes.submit(threads, lane, held, self.let_go)
            return threads.submit(held)
        except RuntimeError as error:  # the interpreter is ending and starts no more threads: nobody is left to be told
            self.let_go()
            raise asyncio.CancelledError("the interpreter is ending") from error

    def run(
        self, work: Callable[..., _T], *arguments: object, writes: bool = False, lane: int | None = None
    ) -> asyncio.Future[_T]:
        """The same for an event loop. The work goes on when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def tell(job: Future[_T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is waiting
                loop.call_soon_threadsafe(_settle, done, job)

        self.submit(work, *arguments, writes=writes, lane=lane).add_done_callback(tell)
        return done

    # What follows blocks.

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for reading; on PostgreSQL each of its statements is a transaction."""
        with translated(self.address), self._engine().connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT") if self.is_postgres else connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction. SQLite has one writer at a time; those of this process queue up fairly, and one connection writes."""
        turn = contextlib.nullcontext() if self.is_postgres else self._writing
        with translated(self.address), turn, self._engine().connect() as connection:
            connection = connection.execution_options(**{WRITES: True})
            with connection.begin():
                yield connection
            if self.address.path is not None and connection.info["inode"] != inode_of(self.address.path):
                raise gone(self.address)  # nothing is acknowledged that went to a file that nobody finds again

    def connect_apart(self) -> Any:
        """A connection of the driver's that does not belong to the pool. The caller closes it."""
        with translated(self.address):
            connection = self._engine().raw_connection()
            connection.detach()
            return connection.dbapi_connection

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
        opened = self._open
        if opened is None:
            raise Offline(f"No line to {self.address.shown} is connected.", hint="Connect first.")
        with opened.making:
            if opened.engine is None:
                opened.engine = make_engine(self.address, self._connections, self.environment.now_ms, self._patience)
            return opened.engine


def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="localstore-sql")


def _settle(done: asyncio.Future[_T], job: Future[_T]) -> None:
    if done.cancelled():
        return
    if (error := job.exception()) is not None:
        done.set_exception(error)
        done.exception()  # taken note of, should nobody be left to do so
    else:
        done.set_result(job.result())
