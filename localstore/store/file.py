"""A store: one open SQLite file, with its single writer, its readers and, when it is synced, its outbox.

Every method that touches the file is one transaction. Decisions are made elsewhere in this package; here is who holds the
lock, what commits together, and who is told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from localstore.clock import latest_believed_ms
from localstore.errors import LocalStoreError
from localstore.store import apply as applying
from localstore.store import outbox
from localstore.store.apply import Applied
from localstore.store.column_rules import ColumnRule
from localstore.store.conflicts import Conflict, conflicts, forget_oldest
from localstore.store.driver import driver_errors
from localstore.store.ending import ending
from localstore.store.engine import GIVE_UP, driver_connection, translated
from localstore.store.failures import DISK_ERRORS, is_unread
from localstore.store.identity import read_again
from localstore.store.open_file import OpenFile, StoreOptions
from localstore.store.outbox import Pending, PendingChangeset
from localstore.store.purge import Purging
from localstore.store.reading import snapshot
from localstore.store.repaired import SetAside, has_untold, take_set_aside
from localstore.store.seal import has_unsealed, seal_leftovers, seal_log, take_unsealed
from localstore.store.set_aside import set_aside
from localstore.store.state import State, load_state
from localstore.store.writing import WriteSession, WriteWatch, load_expired
from localstore.wire import SealedChangeset

__all__ = ["ACKNOWLEDGE_CHUNK", "Store"]

ACKNOWLEDGE_CHUNK = 500  # changesets that leave the outbox in one transaction
_FOLD_CHUNK = 500  # own changesets folded in one transaction, so that no writer waits long


class Store(OpenFile):
    """An open file and what is done to it. Made by ``store.opening``; used from any thread.

    Attributes:
        rules: by which columns are merged.
    """

    def __init__(self, path: Path, *, synced: bool, options: StoreOptions, now_ms: Callable[[], int]) -> None:
        super().__init__(path, synced=synced, options=options, now_ms=now_ms)
        self.rules: dict[str, Mapping[str, ColumnRule]] = {}
        self._on_commit: list[Callable[[], None]] = []
        self._purging = Purging(self._reading, self.transaction, offline_s=options.client_maximum_offline_time)
        self._watch = WriteWatch(self._writer, synced=synced, busy_timeout=options.busy_timeout)

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
        return ending(session, self._writer, self._abandoned)

    def _abandoned(self) -> None:
        if not self.is_inherited:
            self._watch.abandon()

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

    def pending(self, last_error: str | None = None) -> list[PendingChangeset]:
        """Unsent changesets, oldest first."""
        with self._reading() as connection:
            return outbox.pending(connection, now_ms=self._now_ms(), last_error=last_error)

    def conflicts(self) -> list[Conflict]:
        """Local values that lost against another device's, oldest first, and then what is not shown as merging left it."""
        with self._reading() as connection:
            return [*conflicts(connection), *set_aside(connection)]

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call back after each local commit, in the committing thread."""
        self._on_commit.append(callback)

    def announce(self) -> None:
        """Tell those who asked that something was committed."""
        for callback in self._on_commit:
            callback()

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

    def seal(self, *, at_most: float | None = None) -> None:
        """Turn what other programs wrote into a changeset, waiting for who writes at most so many seconds.

        Raises:
            StoreBusy: somebody wrote for longer, or than anybody waits for.
        """
        with self._reading() as connection:
            if not has_unsealed(connection):
                return
        with self.transaction(at_most=at_most) as connection:
            self._seal_leftovers(connection)

    def totals(self) -> Pending:
        """How much is unsent."""
        with self._reading() as connection:
            return outbox.totals(connection, unsealed=has_unsealed(connection))

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
        given to another changeset, which a power loss under ``synchronous=NORMAL`` could otherwise do.

        Raises:
            StoreDamaged: one is not as it was sealed.
        """
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

    def acknowledge(self, number: int, device: bytes | None = None) -> None:
        """The remote has everything up to ``number``; it leaves the outbox little by little, so that no writer waits long.

        Args:
            device: whose number it is: when the file is another device by now, it says nothing about what is unsent.
        """
        self.fold(number)
        left = True
        while left:
            with self.transaction() as connection:
                if _is_another(connection, device):
                    return
                left = outbox.acknowledge(connection, number, limit=ACKNOWLEDGE_CHUNK) == ACKNOWLEDGE_CHUNK

    def refuse(self, number: int, reason: str, device: bytes | None = None) -> None:
        """The remote will never take ``number``: set it aside, and leave an empty changeset in its place.

        Args:
            device: as for ``acknowledge``.
        """
        self.fold(number)
        with self.transaction() as connection:
            if not _is_another(connection, device):
                outbox.refuse(connection, number, reason)

    def meet(self, remote_id: str) -> None:
        """Remember the remote at the very first connect."""
        with self.transaction() as connection:
            connection.execute("UPDATE localstore_state SET remote_id = ? WHERE remote_id IS NULL", (remote_id,))

    def read_again(self) -> None:
        """Go back in the remote's history where ``State.reads_again`` says so, now that the remote has been met."""
        with self.transaction() as connection:
            read_again(connection)

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
            state = load_state(connection)
            if state.cursor != after:
                return None
            now_ms, options = self._now_ms(), self._options
            latest_ms = latest_believed_ms(state.last_stamp, now_ms, options.max_clock_drift)
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

    def _seal_leftovers(self, connection: sqlite3.Connection) -> None:
        seal_leftovers(connection, now_ms=self._now_ms(), limits=self._options.limits)

    def _has_waiting(self) -> bool:
        with self._reading() as connection:
            return applying.has_waiting(connection)


def _is_another(connection: sqlite3.Connection, device: bytes | None) -> bool:
    return device is not None and load_state(connection).device != device
