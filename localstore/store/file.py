"""A store: one open SQLite file, with its single writer, its readers and, when it is synced, its outbox.

Every method that touches the file is one transaction. Decisions are made elsewhere in this package; here is who holds the
lock, what commits together, and who is told.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from localstore.errors import LocalStoreError, RealmClosed
from localstore.store import apply as applying
from localstore.store import memory, outbox
from localstore.store.apply import Applied
from localstore.store.column_rules import ColumnRule
from localstore.store.conflicts import Conflict, conflicts, forget_oldest
from localstore.store.driver import claim, driver_errors, release
from localstore.store.ending import ending
from localstore.store.engine import GIVE_UP, begin_writing, driver_connection, reading_engine, translated, writing_engine
from localstore.store.failures import DISK_ERRORS, file_exchanged, identity_of, is_unread
from localstore.store.lock import WriteLock
from localstore.store.outbox import PendingChangeset
from localstore.store.purge import Purging
from localstore.store.reading import Watcher, snapshot
from localstore.store.repaired import SetAside, has_untold, take_set_aside
from localstore.store.seal import SealLimits, has_unsealed, seal_leftovers, seal_log, take_unsealed
from localstore.store.set_aside import set_aside
from localstore.store.snapshot_file import attached
from localstore.store.state import State, load_state
from localstore.store.writer import Writer
from localstore.store.writing import WriteSession, WriteWatch, load_expired
from localstore.wire import DEFAULT_CHANGESET_ROWS, MAX_CHANGESET_BYTES, SealedChangeset

__all__ = ["ACKNOWLEDGE_CHUNK", "Store", "StoreOptions"]

ACKNOWLEDGE_CHUNK = 500  # changesets that leave the outbox in one transaction
_FOLD_CHUNK = 500  # own changesets folded in one transaction, so that no writer waits long


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


class Store:
    """An open file. Made by ``store.opening``; used from any thread.

    Attributes:
        path: where the file lies.
        synced: whether writes are captured.
        declared: the tables that it was opened with.
        rules: by which their columns are merged.
    """

    def __init__(self, path: Path, *, synced: bool, options: StoreOptions, now_ms: Callable[[], int]) -> None:
        self.path = path
        self.synced = synced
        self._options = options
        self._now_ms = now_ms
        key = options.encryption_key
        timeout, self.declared = options.busy_timeout, list[sa.Table]()
        self.rules: dict[str, Mapping[str, ColumnRule]] = {}
        engine = writing_engine(path, key, busy_timeout=timeout, synchronous=options.synchronous, declared=self.declared)
        self._writer = Writer(engine, timeout)
        self._reader = reading_engine(path, key, busy_timeout=timeout, declared=self.declared)
        claim(path, encrypted=key is not None)
        self.lock = WriteLock(options.busy_timeout, path)
        self._identity: tuple[int, int] | None = None
        self._closed = threading.Event()
        self._readers = 0
        self._readers_changed = threading.Condition()
        self._let_go = memory.hold(path)
        self._watcher = Watcher(self._reader, self.check_open)
        self._on_commit: list[Callable[[], None]] = []
        self._purging = Purging(self._reading, self.transaction, offline_s=options.client_maximum_offline_time)
        self._watch = WriteWatch(self._writer, synced=synced, busy_timeout=timeout)

    @property
    def options(self) -> StoreOptions:
        """How the file is used."""
        return self._options

    def now_ms(self) -> int:
        """The wall clock."""
        return self._now_ms()

    # -- what an application does

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One write transaction as a session; sealed and committed at the end of the block, rolled back by any exception."""
        committed = False
        try:
            with self.lock.held(), self.ending(self.session()) as session:
                self.begin(session)
                with self.body():
                    yield session
                self.commit(session)
                committed = True
        finally:
            if committed:  # also when Ctrl-C came since
                self.announce()

    def ending(self, session: Session) -> AbstractContextManager[Session]:
        """Roll back what an exception of any kind left unfinished, and let go of the connection."""
        return ending(session, self._writer, self._watch.abandon)

    def begin(self, session: Session, give_up: Callable[[], bool] | None = None) -> None:
        """Start the transaction; changes that another program left in the log become a changeset of their own.

        Args:
            session: what is to be committed later.
            give_up: asked while another program keeps the file; waiting for it ends when it says True.

        Raises:
            StoreBusy: another program kept the file too long.
        """
        with translated(self.path, writing=True):
            connection = driver_connection(session.connection(execution_options={GIVE_UP: give_up} if give_up else None))
            if self.synced:
                self._seal_leftovers(connection)
            self._watch.begin(connection)

    def body(self) -> AbstractContextManager[None]:
        """Around what an application does in a transaction, which may be about other files as well: attached ones."""
        return translated(self.path, writing=True, only=DISK_ERRORS)

    def commit(self, session: Session) -> None:
        """Seal and commit."""
        with translated(self.path, writing=True):
            session.flush()
            load_expired(session)
            connection = driver_connection(session.connection())
            self._watch.end(connection)
            unsettled = False
            if self.synced:
                unsettled = seal_log(connection, now_ms=self._now_ms(), limits=self._options.limits)
            try:
                Session.commit(session)
            except DBAPIError as error:
                if is_unread(error):  # its cursor would be in the way of all later commits as long as anybody keeps it
                    self._writer.spend()
                raise
        if unsettled:
            with suppress(LocalStoreError, *driver_errors("Error")):  # it is done when the file is opened, at the latest
                self._catch_up()

    def session(self) -> Session:
        """A session that begins a write transaction at its first use; for a caller that holds ``lock``.

        Raises:
            RealmClosed: the file was closed while the caller waited for ``lock``.
            StoreUnusable: it is not at its path any more.
        """
        self.check_open()
        with translated(self.path, writing=True):
            return WriteSession(self._writer.connection(), expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the file, that of its first query, and cannot write."""
        with self._in_use(), translated(self.path), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session for several queries on the state that the file is in now."""
        with self._in_use(), snapshot(self._reader, self.path) as session:
            yield session

    def version(self) -> int:
        """A number that grows when something was committed, by whatever program."""
        return self._watcher.version()

    def pending(self, last_error: str | None = None) -> list[PendingChangeset]:
        """Unsent changesets, oldest first."""
        with self._reading() as connection:
            return outbox.pending(connection, now_ms=self._now_ms(), last_error=last_error)

    def conflicts(self) -> list[Conflict]:
        """Local values that lost against another device's, oldest first, and then what is not shown as merging left it."""
        with self._reading() as connection:
            return [*conflicts(connection), *set_aside(connection)]

    # -- what a sync session does

    def state(self) -> State:
        """What the file knows about itself and its remote."""
        with self._reading() as connection:
            return load_state(connection)

    def take_unsealed(self) -> list[tuple[str, str]]:
        """Table and reason of each row of another program that cannot be synced; each is told once."""
        with self._reading() as connection:
            if connection.execute("SELECT 1 FROM localstore_unsealed WHERE NOT told").fetchone() is None:
                return []
        with self.transaction() as connection:
            return take_unsealed(connection)

    def take_set_aside(self) -> list[SetAside]:
        """Rows that were set aside, whatever was the occasion; each is told once."""
        with self._reading() as connection:
            if not has_untold(connection):
                return []
        with self.transaction() as connection:
            return take_set_aside(connection)

    def seal(self) -> None:
        """Turn what other programs wrote into a changeset."""
        with self._reading() as connection:
            if not has_unsealed(connection):
                return
        with self.transaction() as connection:
            self._seal_leftovers(connection)

    def last_pending(self) -> int | None:
        """The highest unsent number, None when everything was acknowledged."""
        with self._reading() as connection:
            return outbox.last_pending(connection)

    def acknowledged(self) -> int:
        """The highest number that the remote has said it has."""
        with self._reading() as connection:
            return outbox.acknowledged(connection)

    def batch(self, *, max_bytes: int, max_count: int) -> list[SealedChangeset]:
        """The oldest unsent changesets, durable before they are handed out: a number once seen by a remote must never be
        given to another changeset, which a power loss under ``synchronous=NORMAL`` could otherwise do."""
        with self._reading() as connection:
            found = outbox.batch(connection, max_bytes=max_bytes, max_count=max_count)
        if found and self._options.synchronous != "FULL":
            self._make_durable()
        return found

    def fold(self, number: int | None = None) -> None:
        """Bring our own changesets into the clocks, all or at least up to ``number``, a portion a transaction."""
        more, limit = True, _FOLD_CHUNK
        while more and limit > 0:
            with self.transaction() as connection:
                if number is not None:
                    limit = min(_FOLD_CHUNK, number - load_state(connection).folded)
                more = applying.fold(connection, limit)

    def acknowledge(self, number: int) -> None:
        """The remote has everything up to ``number``; it leaves the outbox little by little, so that no writer waits long."""
        self.fold(number)
        left = True
        while left:
            with self.transaction() as connection:
                left = outbox.acknowledge(connection, number, limit=ACKNOWLEDGE_CHUNK) == ACKNOWLEDGE_CHUNK

    def refuse(self, number: int, reason: str) -> None:
        """The remote will never take ``number``: set it aside, and leave an empty changeset in its place."""
        self.fold(number)
        with self.transaction() as connection:
            outbox.refuse(connection, number, reason)

    def meet(self, remote_id: str) -> None:
        """Remember the remote at the very first connect."""
        with self.transaction() as connection:
            connection.execute("UPDATE localstore_state SET remote_id = ? WHERE remote_id IS NULL", (remote_id,))

    def apply(self, page: Sequence[SealedChangeset], *, after: bytes | None, cursor: bytes) -> Applied | None:
        """Apply a page of the remote's history.

        Args:
            after: the cursor that the page was pulled with.
            cursor: where history goes on.

        Returns:
            What was done, or None when the file's cursor is not ``after`` any more, so that the page is out of date.
        """
        if not page and cursor == after and not self._has_waiting():
            return Applied()
        self.fold()
        try:
            return self._apply(page, after, cursor, cautious=False)
        except applying.cannot_apply():
            return self._apply(page, after, cursor, cautious=True)

    def _apply(self, page: Sequence[SealedChangeset], after: bytes | None, cursor: bytes, *, cautious: bool) -> Applied | None:
        with self.transaction(unconstrained=True) as connection:
            self._seal_leftovers(connection)
            while applying.fold(connection, _FOLD_CHUNK):
                pass
            if load_state(connection).cursor != after:
                return None
            now_ms, options = self._now_ms(), self._options
            latest_ms = now_ms + int(options.max_clock_drift * 1000)
            applied = applying.apply(
                connection, page, cursor=cursor, now_ms=now_ms, latest_ms=latest_ms, rules=self.rules, cautious=cautious
            )
            if applied.conflicts:
                bounds = (options.conflicts_max_age, options.conflicts_max_count)
                applied.forgotten = forget_oldest(connection, applied.conflicts, now_ms, *bounds)
            return applied

    def catch_up(self, *, with_others: bool = True) -> None:
        """Do what was left for later: merge what came for tables and columns that are there only now, let rows come back that
        were set aside, and repair what other programs wrote; not only for that without ``with_others``."""
        with self._reading() as connection:
            if not applying.is_behind(connection, with_others=with_others):
                return
        with self.lock.held():
            self.check_open()
            self._catch_up()

    def _catch_up(self) -> None:
        with self._transaction(unconstrained=True) as connection:
            self._seal_leftovers(connection)
            applying.catch_up(connection, self._now_ms(), self.rules)

    def purge(self, remote_ms: int | None = None) -> int:
        """Forget clocks of rows that nothing can need any more, one portion; does nothing between two rounds through them.

        Args:
            remote_ms: the remote's clock, None when it has none.

        Returns:
            How many were forgotten.
        """
        return self._purging.step(self._now_ms(), remote_ms)

    # -- life

    def connect(self) -> None:
        """Take hold of the file, which nobody can remove or compact from here on; a new one is made."""
        with translated(self.path, writing=True):
            self._writer.driver()
            self._identity = identity_of(self.path, None)
            self._watcher.version()  # has a connection that stays, whatever becomes of the others

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call back after each local commit, in the committing thread."""
        self._on_commit.append(callback)

    def announce(self) -> None:
        """Tell those who asked that something was committed."""
        for callback in self._on_commit:
            callback()

    def check_open(self) -> None:
        """See that the file can be used.

        Raises:
            RealmClosed: after ``close``.
            StoreUnusable: something else, or nothing, lies at its path now, and what is written would be lost.
        """
        if self._closed.is_set():
            raise RealmClosed(f"The realm {self.path} was closed.", hint="Open it again with Realm.open().")
        if self._identity != identity_of(self.path, self._identity):
            raise file_exchanged(self.path)

    def close(self) -> None:
        """Let go of the file; a second call does nothing. Waits for a write and for reads in progress."""
        if self._closed.is_set():
            return
        with self.lock.held(closing=True):
            self._closed.set()
            with self._readers_changed:
                self._readers_changed.wait_for(lambda: not self._readers, self._options.busy_timeout)
            self._watcher.close()
            self._reader.dispose()
            self._writer.renew()
            self._let_go()
            release(self.path, encrypted=self._options.encryption_key is not None)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep ``close`` from letting go of a file that is being read."""
        with self._readers_changed:
            self.check_open()
            self._readers += 1
        try:
            yield
        finally:
            with self._readers_changed:
                self._readers -= 1
                self._readers_changed.notify_all()

    @contextmanager
    def transaction(self, *, unconstrained: bool = False, beside: Path | None = None) -> Iterator[sqlite3.Connection]:
        """One transaction of ours on the writing connection. ``unconstrained`` turns foreign keys off, as merged rows may
        break them for a while. ``beside`` is a snapshot that statements see, see ``snapshot_file.attached``."""
        with self.lock.held(), ExitStack() as stack:
            self.check_open()
            if beside is not None:
                stack.enter_context(translated(self.path, writing=True))
                stack.callback(self._writer.spend)  # a cursor that a traceback keeps would keep the snapshot attached
                stack.enter_context(attached(self._writer.driver(), beside))
            yield stack.enter_context(self._transaction(unconstrained=unconstrained))

    @contextmanager
    def _transaction(self, *, unconstrained: bool) -> Iterator[sqlite3.Connection]:
        """The same for a caller that holds ``lock``."""
        with translated(self.path, writing=True):
            connection = self._writer.driver()
            if unconstrained:
                _constrain(connection, False)
            try:
                begin_writing(connection, self._options.busy_timeout)
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
        with self._in_use(), translated(self.path), self._reader.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            yield driver_connection(connection)

    def _seal_leftovers(self, connection: sqlite3.Connection) -> None:
        seal_leftovers(connection, now_ms=self._now_ms(), limits=self._options.limits)

    def _has_waiting(self) -> bool:
        with self._reading() as connection:
            return applying.has_waiting(connection)

    def _make_durable(self) -> None:
        """Sync the WAL to disk, by a commit that waits for it."""
        with self.lock.held():
            self.check_open()
            with translated(self.path, writing=True):
                connection = self._writer.driver()
                connection.execute("PRAGMA synchronous=FULL")
                try:
                    begin_writing(connection, self._options.busy_timeout)
                    connection.execute("UPDATE localstore_state SET capturing = capturing")
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    connection.execute(f"PRAGMA synchronous={self._options.synchronous}")


def _constrain(connection: sqlite3.Connection, on: bool) -> None:
    connection.execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
