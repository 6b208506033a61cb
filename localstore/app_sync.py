"""All sync sessions of an application: which files are open, who holds them, and when each is closed.

It knows nothing of realms, which hold files, nor of how users log in.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from localstore.errors import LocalStoreError, RealmClosed, StoreBusy, StoreUnusable, SyncError
from localstore.options import store_options
from localstore.registry import AdapterFactory
from localstore.store.file import Store
from localstore.store.first_data import InitialData
from localstore.store.forking import begins_anew
from localstore.store.opening import open_synced, prepare
from localstore.sync.bell import Bell
from localstore.sync.letting_go import Lingering
from localstore.sync.loop import BackgroundLoop
from localstore.sync.network import NetworkWatch
from localstore.sync.parts import Limits, ResetParts, SessionParts
from localstore.sync.retry import BackoffPolicy
from localstore.sync.session import ErrorHandler, SyncSession
from localstore.sync.state import Event, SessionState
from localstore.sync.synced_file import Hold, SyncedFile
from localstore.timeouts import at_most
from localstore.user import User, UserState, removed

if TYPE_CHECKING:
    from localstore.app import App

__all__ = ["AppSync"]

_STOP_SECONDS = 5.0  # how long closing an app waits for its background thread


class AppSync:
    """All sync sessions of an app."""

    def __init__(self, app: App, make_adapter: AdapterFactory) -> None:
        self._app = app
        self._make_adapter = make_adapter
        make_loop = app.environment.make_loop or BackgroundLoop
        self.loop = self._loop = make_loop(f"localstore-{app.id}")
        self._begin()
        self._closed = False
        self._network = NetworkWatch(self._loop, app.environment, self.reconnect) if app.settings.watch_network else None
        begins_anew(self)

    def _begin(self) -> None:
        """With no sessions, and locks that nobody holds: also in a forked child, whose parent keeps those that were."""
        self._files: dict[Path, SyncedFile] = {}
        self._lock = threading.RLock()  # by itself in each ``with``: Ctrl-C could come between a Condition's and its block
        self._changed = threading.Condition(self._lock)
        self._emptied = Bell()
        self._lingering = Lingering(self._app.settings.linger, self._app.environment, self._loop)

    def leave_to_parent(self) -> None:
        """In a forked child: begin anew."""
        self._begin()
        if self._network is not None:
            self._network.leave_to_parent()

    @property
    def has_sync_sessions(self) -> bool:
        """Whether any session is left, also a paused one, and one that still uploads for a closed realm."""
        return any(file.has_session for file in list(self._files.values()))

    def reconnect(self) -> None:
        """Let all active sessions try to reach the remote now, and forget how often they failed before."""
        files = list(self._files.values())
        for file in files:
            file.session.reconnect()
        for user in {file.user for file in files}:
            user.tokens.try_anew()

    def wait_for_sessions_to_terminate(self, timeout: float | None = None) -> bool:
        """Wait until no session is left, as before deleting files of realms that were closed just now.

        Args:
            timeout: seconds to wait at most, 0 to look; None waits as long as it takes.

        Returns:
            False when the time was up before.

        Raises:
            ValueError: the timeout is negative or no number.
            LocalStoreError: this is the background thread, as in an error handler, which would wait for itself.
        """
        seconds = at_most(timeout, may_be_zero=True)
        if self._loop.is_current():
            raise LocalStoreError(
                "The background thread cannot wait for its own sessions to end.", hint="Wait in another thread."
            )
        with self._lock:
            return self._changed.wait_for(lambda: not self.has_sync_sessions, seconds)

    async def wait_for_sessions_to_terminate_async(self, timeout: float | None = None) -> bool:
        """``wait_for_sessions_to_terminate`` for any event loop."""
        return await self._emptied.wait(lambda: not self.has_sync_sessions, at_most(timeout, may_be_zero=True))

    def open_file(  # noqa: PLR0913  what a file is opened with, and no more
        self,
        path: Path,
        tables: Sequence[sa.Table],
        *,
        user: User,
        partition: str,
        error_handler: ErrorHandler | None,
        initial_data: InitialData | None = None,
        encryption_key: bytes | None = None,
        reset: ResetParts | None = None,
    ) -> SyncedFile:
        """The open file at a path, and a running session for it. For ``Realm.open``."""
        with self._lock:
            self._changed.wait_for(lambda: path not in self._files or not self._files[path].closing)
            if self._closed:
                raise ValueError(f"The app {self._app.id!r} was closed. Create a new one with App.create().")
            if user.state is UserState.REMOVED:  # since the configuration was made
                raise removed(user)
            file = self._files.get(path)
            names = {table.name for table in tables}
            if file is None:
                file = self._open(path, tables, user, partition, error_handler, initial_data, encryption_key, reset)
                self._files[path] = file
                self._watch_network()
            elif user is not file.user:
                raise StoreUnusable(
                    f"{path} is open for the user {file.user.id!r}, and cannot be opened for {user.id!r}. It was not changed.",
                    hint="Give each user a file of their own, and close the realms of one who was removed.",
                )
            elif partition != file.partition:
                raise ValueError(f"{path} is open for the partition {file.partition!r} and cannot hold {partition!r} as well.")
            elif encryption_key != file.encryption_key:
                raise StoreUnusable(
                    f"{path} is already open in this process with {_named(file.encryption_key)},"
                    f" and cannot be opened with {_named(encryption_key)} as well. It was not changed.",
                    hint="Give every realm on a file the same encryption_key.",
                )
            elif not names <= file.tables:
                options = store_options(self._app.settings)
                prepare(
                    file.store,
                    tables,
                    app=self._app.id,
                    partition=partition,
                    user=user.id,
                    options=options,
                    environment=self._app.environment,
                )
            file.tables |= names
            file.realms += 1
            file.session.enter(Event.OPEN)
        file.session.settle()
        return file

    def close_realm(self, file: SyncedFile, hold: Hold, *, after_upload: bool) -> None:
        """One realm less on a file; the last one ends its session, at once or when everything is uploaded. What the session is
        writing at this moment, such as a large page, is not waited for: the file is closed behind it.

        Broken off by Ctrl-C at any moment, it may be called again.

        Raises:
            NestedWrite, StoreBusy: somebody writes; nothing was changed.
        """
        is_ours = file.store.is_held_by_us_alone
        if file.realms == 1 and not is_ours:
            with file.store.lock.held(closing=True):
                pass  # whoever writes has come to the end
        with self._lock:
            if not hold.is_released:
                hold.is_released, file.realms = True, file.realms - 1  # in one, as no signal comes between
            if file.realms:
                return
            unsent = after_upload and not self._closed and _has_unsent(file.store)
            file.session.enter(Event.CLOSE_AFTER_UPLOAD if unsent else Event.CLOSE)
        file.session.settle()
        if is_ours:
            self._died(file)
        else:
            self._close_now_or_later(file)

    def wait_until_closed(self, path: Path, timeout: float) -> bool:
        """Wait until nobody has a file any more, as its session may still be writing to it; False when the time was up."""
        if self._loop.is_current():
            return False
        with self._lock:
            return self._changed.wait_for(lambda: path not in self._files or self._files[path].realms > 0, timeout)

    def tell(self, user: User, event: Event, error: SyncError | None = None) -> None:
        """Feed an event to the sessions of a user's files."""
        if event is Event.LOG_OUT:
            self._loop.post(self._lingering.drop)
        with self._lock:
            files = [file for file in self._files.values() if file.user is user and not file.closing]
        for file in files:
            before = file.session.state
            file.session.handle(event, error)
            if event is Event.LOG_IN and not file.realms and before is SessionState.INACTIVE:
                file.session.handle(Event.CLOSE)  # its realm was closed just before, and it is not to be kept up by this
                self._close_now_or_later(file)

    def close(self) -> None:
        """End everything."""
        with self._lock:
            self._closed = True
            files = list(self._files.values())
            self._watch_network()
        self._lingering.end()
        try:
            for file in files:
                file.session.end()
                file.session.settle()
            for file in files:
                self._close_now_or_later(file)
            self._tell_of_end()
        finally:
            self._loop.stop(timeout=_STOP_SECONDS)
        with self._lock:  # what a session that died just now is still closing
            self._changed.wait_for(lambda: not any(file.closing for file in files), _STOP_SECONDS)

    def _open(  # noqa: PLR0913  as open_file
        self,
        path: Path,
        tables: Sequence[sa.Table],
        user: User,
        partition: str,
        error_handler: ErrorHandler | None,
        initial_data: InitialData | None,
        encryption_key: bytes | None,
        reset: ResetParts | None,
    ) -> SyncedFile:
        settings = self._app.settings
        environment = self._app.environment
        store = open_synced(
            path,
            tables,
            app=self._app.id,
            partition=partition,
            user=user.id,
            options=store_options(settings, encryption_key),
            environment=environment,
            initial_data=initial_data,
        )
        file = SyncedFile(store, user, partition, encryption_key)
        parts = SessionParts(
            store=store,
            app=self._app.id,
            partition=partition,
            make_adapter=self._make_adapter,
            lingering=self._lingering,
            loop=self._loop,
            environment=environment,
            limits=Limits(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Limits)}),
            backoff=BackoffPolicy(
                initial=settings.backoff_initial,
                factor=settings.backoff_factor,
                max=settings.backoff_max,
                jitter=settings.backoff_jitter,
            ),
            reset=reset,
            tokens=user.tokens,
        )
        file.session = SyncSession(
            parts,
            error_handler=error_handler,
            on_dead=lambda: self._died(file),
            is_held=lambda: file.realms > 0,
        )
        return file

    def _watch_network(self) -> None:
        """Watch while there are sessions; for a caller that holds ``_changed``."""
        if self._network is not None:
            self._network.keep(bool(self._files) and not self._closed)

    def _died(self, file: SyncedFile) -> None:
        """A closed realm's session has finished. Closing the file waits for writers, so the background loop does not do it."""
        try:
            self._app.environment.start_thread(partial(self._close_when_free, file), "localstore-close")
        except RuntimeError:  # no more threads; at the end of the interpreter the file is closed with it
            if threading.main_thread().is_alive():
                self._close_if_unused(file)

    def _close_when_free(self, file: SyncedFile) -> None:
        while True:
            with suppress(StoreBusy):  # each time after a while
                return self._close_if_unused(file)

    def _close_now_or_later(self, file: SyncedFile) -> None:
        """Nobody needs a file any more; but somebody may be writing to it who began before."""
        try:
            self._close_if_unused(file)
        except StoreBusy:
            self._died(file)

    def _close_if_unused(self, file: SyncedFile) -> None:
        """Close a file, unless somebody holds it or is at it.

        Raises:
            StoreBusy: somebody writes to it. It stays open, and its session may be used again.
        """
        self._app.environment.undisturbed(partial(self._close_file, file))
        file.session.settle()  # in the caller's thread, for which those who hear of it may be waiting

    def _close_file(self, file: SyncedFile) -> None:
        with self._lock:
            if file.closing or not file.unused:
                return
            file.closing = True  # who opens the path now waits for the end of this
        try:
            file.session.look_once_more()
            file.store.close()
        finally:
            if file.store.is_closed:
                file.session.end()
                self._app.users.file_closed(file.user)
            with self._lock:
                file.closing = False
                if file.store.is_closed and self._files.get(file.store.path) is file:
                    del self._files[file.store.path]
                    self._watch_network()
            self._tell_of_end()

    def _tell_of_end(self) -> None:
        """Let those look again who wait for sessions to end."""
        with self._lock:
            self._changed.notify_all()
        self._emptied.ring()


def _has_unsent(store: Store) -> bool:
    """Whether there is something to upload; what cannot be read any more cannot be uploaded either."""
    try:
        return store.last_pending() is not None
    except (StoreUnusable, RealmClosed):
        return False


def _named(key: bytes | None) -> str:
    """A key in a message, which must not show it."""
    return "no encryption_key" if key is None else "an encryption_key of its own"
