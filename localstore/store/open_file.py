"""An SQLite file held open: its single writer, its readers, its transactions, and when it is let go of.

Knows nothing of what is in the file, nor of who writes it for what.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import RealmClosed
from localstore.store import memory
from localstore.store.driver import claim, release
from localstore.store.engine import begin_writing, reading_engine, translated, writing_engine
from localstore.store.failures import file_exchanged, identity_of
from localstore.store.forking import check_same_process
from localstore.store.lock import WriteLock
from localstore.store.reading import Looks, Watcher
from localstore.store.seal import SealLimits
from localstore.store.snapshot_file import attached
from localstore.store.writer import Writer
from localstore.wire import DEFAULT_CHANGESET_ROWS, MAX_CHANGESET_BYTES

__all__ = ["OpenFile", "StoreOptions"]


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How a file is used; see ``Settings`` for the meaning of each, and the configurations for ``encryption_key``."""

    busy_timeout: float = 10.0
    synchronous: str = "NORMAL"
    max_changeset_bytes: int = MAX_CHANGESET_BYTES
    max_changeset_rows: int = DEFAULT_CHANGESET_ROWS
    max_clock_drift: float = 300.0
    conflicts_max_age: float = 30 * 86_400.0
    conflicts_max_count: int = 10_000
    client_maximum_offline_time: float = 30 * 86_400.0
    encryption_key: bytes | None = field(default=None, repr=False)

    @cached_property
    def limits(self) -> SealLimits:
        """What a changeset may hold."""
        return SealLimits(self.max_changeset_bytes, self.max_changeset_rows)


class OpenFile:
    """A file and its connections; used from any thread.

    Attributes:
        path: where the file lies.
        synced: whether writes are captured.
        declared: the tables that it was opened with.
        lock: held by whoever writes.
    """

    def __init__(self, path: Path, *, synced: bool, options: StoreOptions, now_ms: Callable[[], int]) -> None:
        self.path = path
        self.synced = synced
        self._process = os.getpid()
        self._options = options
        self._now_ms = now_ms
        key = options.encryption_key
        timeout, self.declared = options.busy_timeout, list[sa.Table]()
        engine = writing_engine(path, key, busy_timeout=timeout, synchronous=options.synchronous, declared=self.declared)
        self._writer = Writer(engine, timeout)
        self._reader = reading_engine(path, key, busy_timeout=timeout, declared=self.declared)
        claim(path, encrypted=key is not None)
        self.lock = WriteLock(options.busy_timeout, path)
        self._identity: tuple[int, int] | None = None
        self._closed = threading.Event()
        self._works = False
        self._readers = deque[object]()
        # by itself in each ``with``: Ctrl-C could come between a Condition's and its block
        self._reading_lock = threading.RLock()
        self._readers_changed = threading.Condition(self._reading_lock)
        self._let_go = memory.hold(path)
        self._looks = Looks(self._reader)
        self._watcher = Watcher(self._reader, self.check_open)

    @property
    def options(self) -> StoreOptions:
        """How the file is used."""
        return self._options

    def now_ms(self) -> int:
        """The wall clock."""
        return self._now_ms()

    def version(self) -> int:
        """A number that grows when something was committed, by whatever program."""
        self.check_process()
        return self._watcher.version()

    def connect(self) -> None:
        """Take hold of the file, which nobody can remove or compact from here on; a new one is made."""
        with translated(self.path, writing=True):
            self._writer.driver()
            self._identity = identity_of(self.path, None)
            self._watcher.version()  # has a connection that stays, whatever becomes of the others

    def forget_statements(self) -> None:
        """Let go of what making a file's tables left behind: SQLite keeps statements for another time, here hundreds of
        kilobytes that there is no other time for."""
        with self.lock.held():
            self._writer.renew()

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked while the file was open, which is its parent's."""
        return self._process != os.getpid()

    def check_process(self) -> None:
        """Raise ``ForkedProcess`` where the file is the parent's. To be called before any lock is taken."""
        check_same_process(self._process, self.path)

    def check_open(self) -> None:
        """See that the file can be used.

        Raises:
            ForkedProcess: in a forked child.
            RealmClosed: after ``close``.
            StoreUnusable: something else, or nothing, lies at its path now, and what is written would be lost.
        """
        self.check_process()
        if self._closed.is_set():
            raise RealmClosed(f"The realm {self.path} was closed.", hint="Open it again with Realm.open().")
        if self._identity != identity_of(self.path, self._identity):
            raise file_exchanged(self.path)

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be done with it any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let go of the file; a second call does nothing. Waits for a write and for reads in progress."""
        if self.is_inherited or self._closed.is_set():
            return
        with self.lock.held(closing=True):
            self._closed.set()
            with self._reading_lock:
                self._readers_changed.wait_for(lambda: not self._readers, self._options.busy_timeout)
            self._watcher.close()
            self._looks.close()
            self._reader.dispose()
            self._writer.renew()
            self._let_go()
            release(self.path, encrypted=self._options.encryption_key is not None)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep ``close`` from letting go of a file that is being read."""
        self.check_process()
        reader = object()
        try:
            try:
                with self._reading_lock:
                    self.check_open()
                    self._readers.append(reader)
                yield
            finally:
                self._end_reading(reader)
        finally:
            self._end_reading(reader)  # again, should Ctrl-C have come in the middle

    def _end_reading(self, reader: object) -> None:
        with self._reading_lock:
            if reader in self._readers:
                self._readers.remove(reader)
                self._readers_changed.notify_all()

    @contextmanager
    def transaction(
        self,
        *,
        unconstrained: bool = False,
        beside: Path | None = None,
        key: bytes | None = None,
        at_most: float | None = None,
    ) -> Iterator[sqlite3.Connection]:
        """One transaction of ours on the writing connection. ``unconstrained`` turns foreign keys off, as merged rows may
        break them for a while. ``beside`` is a file that statements see, with its ``key``: see ``snapshot_file.attached``.
        ``at_most`` is how many seconds to wait for who writes, if less than usual."""
        with self.lock.held(at_most=at_most), ExitStack() as stack:
            stack.enter_context(self._working())
            self.check_open()
            if beside is not None:
                stack.enter_context(translated(self.path, writing=True))
                stack.callback(self._writer.spend)  # a cursor that a traceback keeps would keep the snapshot attached
                stack.enter_context(attached(self._writer.driver(), beside, key))
            yield stack.enter_context(self._transaction(unconstrained=unconstrained, at_most=at_most))

    @property
    def is_held_by_us_alone(self) -> bool:
        """Whether a transaction of ours is under way, such as merging a large page, and nobody waits to write."""
        return self._works and len(self.lock) == 1

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._works = True
        try:
            yield
        finally:
            self._works = False

    @contextmanager
    def _transaction(self, *, unconstrained: bool, at_most: float | None = None) -> Iterator[sqlite3.Connection]:
        """The same for a caller that holds ``lock``."""
        with translated(self.path, writing=True):
            connection = self._writer.driver()
            if unconstrained:
                _constrain(connection, False)
            try:
                busy_timeout = self._options.busy_timeout
                begin_writing(connection, busy_timeout if at_most is None else min(at_most, busy_timeout))
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if unconstrained:
                    _constrain(connection, True)

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """The writing connection in a transaction, for opening the file and its migrations."""
        with self.lock.held(), translated(self.path, writing=True):
            self.check_open()
            connection = self._writer.connection()
            try:
                with connection.begin():
                    yield connection
            finally:
                self._writer.retire()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._in_use(), translated(self.path), self._looks.look() as connection:
            yield connection

    def _make_durable(self) -> None:
        """Sync the WAL to disk, by a commit that waits for it: as one does only if it wrote something, a value is changed and
        changed back."""
        with self.lock.held():
            self.check_open()
            with translated(self.path, writing=True):
                connection = self._writer.driver()
                connection.execute("PRAGMA synchronous=FULL")
                try:
                    begin_writing(connection, self._options.busy_timeout)
                    connection.execute("UPDATE localstore_state SET capturing = capturing + 1")
                    connection.execute("UPDATE localstore_state SET capturing = capturing - 1")
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    connection.execute(f"PRAGMA synchronous={self._options.synchronous}")


def _constrain(connection: sqlite3.Connection, on: bool) -> None:
    connection.execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
