"""The realm: an open handle on one SQLite file, which an application reads, writes and, when it is synced, watches sync.

Any thread may use it. Writing and reading go to the store, everything about sync to the session.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, overload

from sqlalchemy import Executable, ScalarResult, Table
from sqlalchemy.engine import TupleResult
from sqlalchemy.orm import Session as OrmSession
from sqlmodel import Session, SQLModel
from sqlmodel.sql.expression import Select, SelectOfScalar

from localstore.app_sync import AppSync
from localstore.configuration import (
    LocalConfiguration,
    SyncConfiguration,
    check_configuration,
    existing,
    located,
    owner_of,
    path_of,
    worth_compacting,
)
from localstore.copies import write_copy
from localstore.environment import Environment
from localstore.errors import LocalStoreError, RealmClosed
from localstore.first_download import FirstDownload, data_at_opening, opened_async
from localstore.options import store_options
from localstore.schema import check_key, check_synced, tables_of
from localstore.store import files, restoring
from localstore.store.conflicts import Conflict
from localstore.store.file import Store
from localstore.store.frozen import frozen
from localstore.store.in_loop import WriteInLoop
from localstore.store.opening import open_local
from localstore.store.outbox import PendingChangeset
from localstore.sync.parts import ResetParts
from localstore.sync.session import SyncSession
from localstore.sync.synced_file import Hold, SyncedFile
from localstore.types import recognise_text, warn_of_lossy

__all__ = ["Realm"]

T = TypeVar("T")
Columns = TypeVarTuple("Columns")
Model = TypeVar("Model", bound=SQLModel)


class Realm:
    """An open file. Get one from ``Realm.open`` and ``close`` it, or use it in a ``with`` statement."""

    def __init__(
        self, configuration: SyncConfiguration | LocalConfiguration, store: Store, file: SyncedFile | None, sync: AppSync | None
    ) -> None:
        self._configuration = configuration
        self._store = store
        self._file = file
        self._sync = sync
        self._closed = False
        self._closing = threading.RLock()  # a signal handler may close it in the midst of that
        self._hold = Hold()

    @classmethod
    def open(cls, configuration: SyncConfiguration | LocalConfiguration) -> Realm:
        """Open a file, making it and its tables when they do not exist. A synced realm's session starts here.

        Never waits for the network, unless the file is new and ``wait_for_initial_remote_data`` says so. What ``initial_data``
        raises is raised again, and leaves no new file behind.

        Raises:
            InitialDataTimeout: what the remote has did not arrive in time; so do its errors that are fatal.
            SchemaError, SchemaMismatch: a class cannot be opened as declared; the file needs a migration.
            StoreUnusable, StoreBusy: it cannot be opened so, or not with this encryption key; another program kept it locked.
            ImportError: the configuration needs an extra that is not installed.
        """
        realm = cls._opened(configuration, stacklevel=3)
        realm._first_download().wait()
        return realm

    @classmethod
    async def open_async(cls, configuration: SyncConfiguration | LocalConfiguration) -> Realm:
        """``open`` for any event loop. Cancelled, it leaves no open realm behind, nor a new file that it waited with."""
        return await opened_async(lambda: cls._opened(configuration, stacklevel=2), Realm._first_download)

    def _first_download(self) -> FirstDownload:
        return FirstDownload(self._configuration, self._file, partial(self._close, after_upload=False))

    @classmethod
    def _opened(cls, configuration: SyncConfiguration | LocalConfiguration, *, stacklevel: int) -> Realm:
        """The open realm, however much of the remote's data is in it."""
        check_configuration(configuration)
        tables = tables_of(configuration.schema)
        warn_of_lossy(tables, stacklevel=stacklevel)
        recognise_text(configuration.schema)
        if isinstance(configuration, SyncConfiguration):
            check_synced(tables)
        with located(configuration) as path:
            is_worthwhile = worth_compacting(configuration)
            if is_worthwhile is not None:
                files.compact_at_launch(path, owner_of(configuration), is_worthwhile, key=configuration.encryption_key)
            if isinstance(configuration, LocalConfiguration):
                return cls(configuration, _open_local(configuration, path, tables), None, None)
            sync = configuration.user.app.sync
            file = sync.open_file(
                path,
                tables,
                user=configuration.user,
                partition=configuration.partition,
                error_handler=configuration.error_handler,
                initial_data=data_at_opening(configuration),
                encryption_key=configuration.encryption_key,
                reset=ResetParts(strategy=configuration.client_reset, view=partial(_as_it_was, configuration, tables)),
            )
            return cls(configuration, file.store, file, sync)

    # -- reading and writing

    def write(self) -> AbstractContextManager[Session]:
        """One write transaction, as a ``sqlmodel.Session``: committed when the block ends, rolled back by any exception.

        Objects stay readable after the block. One writer at a time; others wait for their turn.

        Raises:
            NestedWrite: this thread is inside a write already.
            StoreBusy: another writer did not finish in time.
            ChangesetTooLarge: more was changed than one changeset may carry; everything was rolled back.
            SchemaError: a class that was used has no table in the file; raised where it was used.
        """
        self._check_open()
        return self._store.write()

    def write_async(self) -> AbstractAsyncContextManager[Session]:
        """``write`` for any event loop: tasks take turns, and waiting stops none of the others.

        A cancellation rolls everything back, or comes too late: when it is raised during the commit, that was carried out
        whole or not at all.
        """
        self._check_open()
        return WriteInLoop(self._store)

    @overload
    def exec(self, statement: SelectOfScalar[T]) -> ScalarResult[T]: ...
    @overload
    def exec(self, statement: Select[*Columns]) -> TupleResult[tuple[*Columns]]: ...
    def exec(self, statement: Any) -> Any:
        """Run a query on one state of the file. The result is in memory: nothing stays open behind it.

        Raises:
            ReadOnlyRealm: the statement writes.
            SchemaError: a class in it has no table in the file.
        """
        self._check_open()
        with self._store.read() as session:
            result = OrmSession.execute(session, _readable(statement)).freeze()()
        return result.scalars() if isinstance(statement, SelectOfScalar) else result

    def get(self, model: type[Model], key: Any) -> Model | None:
        """The object with a primary key, None when there is none. A composite key is a tuple.

        Raises:
            TypeError: the key, or a part of it, is of another type than the class declares.
            ValueError: it has another number of parts.
            SchemaError: the class has no table in the file.
        """
        self._check_open()
        check_key(model, key)
        with self._store.read() as session:
            return session.get(model, key)

    def read(self) -> AbstractContextManager[Session]:
        """Several queries on one state of the file: that of the beginning of the block, whatever is written meanwhile.

        Objects stay readable after the block. Inside a ``write()`` it shows the state before that write. Keep the block short:
        the write-ahead log grows as long as it is open.

        Raises:
            ReadOnlyRealm: something in the block writes, at the latest when the block ends with changed objects.
        """
        self._check_open()
        return self._store.snapshot()

    @property
    def version(self) -> int:
        """A number that grows with every commit to the file, by whatever program: the cheap way to see that nothing changed.

        It stays the same when nothing is committed or a write is rolled back. Compare it within this open realm only: another
        realm, and this one opened again, count from elsewhere. What sync notes for itself counts as well.
        """
        self._check_open()
        return self._store.version()

    # -- sync

    @property
    def sync_session(self) -> SyncSession:
        """The session that syncs this file; the same object every time.

        Raises:
            RealmClosed: the realm was closed.
            LocalStoreError: it is a local realm.
        """
        self._check_open()
        return self._synced().session

    @property
    def device_id(self) -> str:
        """This file's identity as a device: 32 hexadecimal digits."""
        self._check_open()
        return self._synced().store.state().device.hex()

    def pending(self) -> list[PendingChangeset]:
        """Changesets that the remote has not acknowledged, oldest first; none for a local realm."""
        self._check_open()
        if self._file is None:
            return []
        error = self._file.session.last_error
        return self._store.pending(str(error) if error else None)

    def conflicts(self) -> list[Conflict]:
        """Values written here that lost against another device's, oldest first, and rows that are set aside or shown without
        a reference, as what they refer to was deleted; none for a local realm.

        The settings ``conflicts_max_age`` and ``conflicts_max_count`` say how long and how many are kept.
        """
        self._check_open()
        return self._store.conflicts() if self._store.synced else []

    def restore(self, conflict: Conflict) -> None:
        """Write a value that lost back where it was, as a new write, and take its conflict off the list.

        Where the row was deleted, it is inserted again with all values that lost against the same delete; their conflicts
        leave the list together.

        Raises:
            CannotRestore: the conflict is not in the list any more; its table or column is gone; its row was deleted and too
                little is known of it; or the value breaks a constraint. Nothing was written, and the list is as it was.
            NestedWrite: this thread is inside a write.
            StoreBusy: another writer did not finish in time.
        """
        self._check_open()
        restoring.restore(self._store, conflict)

    async def restore_async(self, conflict: Conflict) -> None:
        """``restore`` for any event loop."""
        self._check_open()
        await restoring.restore_async(self._store, conflict)

    # -- the file

    def write_copy_to(self, configuration: LocalConfiguration | SyncConfiguration, *, with_unsent: bool = False) -> None:
        """Copy the file, as it is at this moment, to where nothing is yet: compact, whole or not at all, encrypted with the
        configuration's key, whatever the key of this realm is. Others may go on writing. What a ``write()`` has not
        committed is not in it.

        * With a ``LocalConfiguration``: all tables and nothing of sync, the way to leave sync for good.
        * With a ``SyncConfiguration`` of the same app and partition: a new device that has what this one has; opening the copy,
          once or many times in further copies, downloads only what came since.
        * With any other ``SyncConfiguration``, and from a local realm: opening the copy uploads all rows of its schema.

        Args:
            configuration: of the copy.
            with_unsent: whether a new device may be made of a realm with unsent changes. The copy has them in its tables, and
                uploads them as its own; so does this realm, and it does not matter who is first.

        Raises:
            TargetExists: something is there already; it was left as it is.
            UnsentChanges: the remote has not acknowledged all changes, and ``with_unsent`` is not set.
            SchemaError, SchemaMismatch: the tables cannot be synced, or are not as the classes declare them.
            StoreUnusable: the copy cannot be written there; ``DiskFull`` when there is no room, ``StoreDamaged`` when this
                file cannot be read.
            ImportError: the configuration needs an extra that is not installed.
        """
        self._check_open()
        write_copy(self._store, self._configuration, configuration, with_unsent=with_unsent)

    async def write_copy_to_async(
        self, configuration: LocalConfiguration | SyncConfiguration, *, with_unsent: bool = False
    ) -> None:
        """``write_copy_to`` for any event loop."""
        await asyncio.to_thread(self.write_copy_to, configuration, with_unsent=with_unsent)

    @classmethod
    def compact(cls, configuration: SyncConfiguration | LocalConfiguration) -> bool:
        """Give back the room in a file that deleted rows left. Broken off at any point, the file is as it was.

        Returns:
            False when the file is open, in this process or another; nothing was done then.

        Raises:
            FileNotFoundError: there is no such file.
            StoreUnusable: it is no database, or another application's. It was not changed.
            DiskFull: there is no room for the copy that it takes.
            NotWritable: it may only be read.
        """
        path = existing(configuration)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path_of(configuration)))
        return files.compact(path, owner_of(configuration), key=configuration.encryption_key)

    @classmethod
    async def compact_async(cls, configuration: SyncConfiguration | LocalConfiguration) -> bool:
        """``compact`` for any event loop."""
        return await asyncio.to_thread(cls.compact, configuration)

    @classmethod
    def delete_files(cls, configuration: SyncConfiguration | LocalConfiguration, *, discard_unsent: bool = False) -> bool:
        """Delete a file and all that belongs to it from this device; other devices keep their data.

        Args:
            discard_unsent: also when it holds changes that the remote has not acknowledged, which are lost for good then.

        Returns:
            False when there was none.

        Raises:
            StoreBusy: it is open in this process or another, perhaps by a session that still uploads for a closed realm.
            UnsentChanges: it holds changes that the remote has not acknowledged.
            StoreUnusable: it is no database, another application's, or the system does not let it be removed; ``NotWritable``
                when it may only be read.
        """
        path = existing(configuration)
        if path is None:
            return False
        files.delete(path, owner_of(configuration), key=configuration.encryption_key, discard_unsent=discard_unsent)
        return True

    @classmethod
    async def delete_files_async(
        cls, configuration: SyncConfiguration | LocalConfiguration, *, discard_unsent: bool = False
    ) -> bool:
        """``delete_files`` for any event loop."""
        return await asyncio.to_thread(cls.delete_files, configuration, discard_unsent=discard_unsent)

    @property
    def configuration(self) -> SyncConfiguration | LocalConfiguration:
        """What the realm was opened with."""
        return self._configuration

    @property
    def path(self) -> Path:
        """Where the file lies; for a realm in memory, its place of the moment."""
        return self._store.path

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def close(self) -> None:
        """Let go of the file; a second call does nothing. Unsent changes stay in it, and go out first when the
        configuration's stop policy says so and the remote can be reached. What sync is writing into the file at this moment is
        not waited for; ``app.sync.wait_for_sessions_to_terminate()`` does.

        Raises:
            NestedWrite: this thread is inside a write. The realm stays open.
            StoreBusy: another writer did not finish in time. The realm stays open.
        """
        self._close(after_upload=getattr(self._configuration, "stop_policy", "") == "after_changes_uploaded")

    def _close(self, *, after_upload: bool) -> None:
        if self._store.is_inherited:  # by a forked child, in which a block around the fork ends
            self._closed = True
            return
        with self._closing:
            if self._closed:
                return
            if self._sync is None or self._file is None:
                self._store.close()
            else:
                self._sync.close_realm(self._file, self._hold, after_upload=after_upload)
            self._closed = True

    async def close_async(self) -> None:
        """``close`` for any event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _synced(self) -> SyncedFile:
        if self._file is None:
            raise LocalStoreError(
                f"The realm {self.path} is local: it has no sync session.", hint="Open it with SyncConfiguration."
            )
        return self._file

    def _check_open(self) -> None:
        self._store.check_process()
        if self._closed:
            raise RealmClosed(f"The realm {self.path} was closed.", hint="Open it again with Realm.open().")


def _open_local(configuration: LocalConfiguration, path: Path, tables: Sequence[Table]) -> Store:
    from localstore.settings import Settings

    options = store_options(configuration.settings or Settings(), configuration.encryption_key)
    return open_local(path, tables, options=options, environment=Environment(), initial_data=configuration.initial_data)


@contextmanager
def _as_it_was(configuration: SyncConfiguration, tables: Sequence[Table], path: Path) -> Iterator[Realm]:
    """A realm on the backup of a synced file, for the callbacks of a client reset: it can only be read."""
    app = configuration.user.app
    options = store_options(app.settings, configuration.encryption_key)
    with frozen(path, tables, options, app.environment.now_ms) as store:
        realm = Realm(configuration, store, None, None)
        try:
            yield realm
        finally:
            realm._closed = True


def _readable(statement: Any) -> Executable:
    if not isinstance(statement, Executable):
        raise TypeError(f"exec takes a statement, such as select(Task), not {statement!r}.")
    return statement
