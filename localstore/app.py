"""An application's side of sync: its id, its remote, its user, and all of its sessions."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from localstore.credentials import Credentials, check_credentials
from localstore.environment import Environment
from localstore.errors import StoreUnusable, SyncError
from localstore.registry import AdapterFactory, Lines, adapter_factory
from localstore.store.file import Store
from localstore.store.first_data import InitialData
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced, prepare
from localstore.sync.loop import BackgroundLoop
from localstore.sync.parts import Limits, SessionParts
from localstore.sync.retry import BackoffPolicy
from localstore.sync.session import ErrorHandler, SyncSession
from localstore.sync.state import Event, SessionState
from localstore.user import User
from localstore.users import AppUsers

if TYPE_CHECKING:
    from localstore.settings import Settings

__all__ = ["App", "AppSync", "SyncedFile", "check_settings", "store_options"]

_STOP_SECONDS = 5.0  # how long closing an app waits for its background thread


class App:
    """One application, with one remote. Make it with ``App.create`` and ``close`` it at the end.

    Attributes:
        id, settings, environment: what it was made with.
        sync: its sessions.
        users: what realms and sessions need to know of its users.
    """

    def __init__(
        self,
        app_id: str,
        lines: Lines,
        settings: Settings,
        environment: Environment,
        *,
        remote: str | None = None,
    ) -> None:
        self.id = app_id
        self.settings = settings
        self.environment = environment
        self.sync = AppSync(self, lines)
        self.users = AppUsers(self, lines, remote=remote, loop=self.sync.loop)

    @classmethod
    def create(
        cls,
        app_id: str,
        *,
        remote: str | AdapterFactory | None = None,
        settings: Settings | None = None,
        environment: Environment | None = None,
    ) -> App:
        """Set an application up; nothing is connected yet.

        Args:
            app_id: the application's name; the same on all of its devices.
            remote: URL of the remote, such as ``folder:///mnt/share/todo``, or a callable that makes adapters; None leaves
                it to the setting ``remote``.
            settings: instead of those from environment and files.
            environment: the world; for tests and simulations.

        Raises:
            ValueError: no remote is named, none of its kind is installed, or its URL makes no sense.
            ImportError: the remote needs an extra that is not installed.
        """
        from localstore.settings import Settings

        if not app_id or not app_id.strip():
            raise ValueError("app_id must not be empty: it keeps the data of different applications apart.")
        check_settings(settings)
        settings = settings or Settings()
        remote = remote or settings.remote
        if remote is None:
            raise ValueError(
                "No remote is named. Give App.create(remote=...), set LOCALSTORE_REMOTE,"
                " or write remote = ... in localstore.toml."
            )
        if isinstance(remote, str):
            lines = Lines(adapter_factory(remote))
            _ = lines.capabilities  # a URL that makes no sense is refused here, and not by a session in the background
        elif callable(remote):
            lines = Lines(remote)
        else:
            raise TypeError(f"remote is a URL or a callable that makes adapters, not a {type(remote).__name__}.")
        return cls(app_id, lines, settings, environment or Environment(), remote=remote if isinstance(remote, str) else None)

    def login(self, credentials: Credentials) -> User:
        """Log a user in, who is the current one then. The user stays logged in when the program ends.

        A remote without users, such as a folder, has one user, who logs in with ``Credentials.anonymous()`` and needs no
        network; nor does an anonymous user who is logged in already.

        Raises:
            Unauthorized: the remote does not take the credentials.
            Offline, Busy, RateLimited: the remote could not be asked.
            StoreUnusable: the log-in cannot be kept on this device.
            ValueError: the remote knows no users to log in as.
        """
        check_credentials(credentials)
        future = self.users.log_in(credentials)
        try:
            return future.result()
        finally:
            future.cancel()  # when Ctrl-C ended the wait

    async def login_async(self, credentials: Credentials) -> User:
        """``login`` for any event loop."""
        check_credentials(credentials)
        return await asyncio.wrap_future(await asyncio.to_thread(self.users.log_in, credentials))

    @property
    def current_user(self) -> User | None:
        """Who logged in or was switched to last; when that user is not logged in any more, who was current before."""
        return self.users.current

    def all_users(self) -> list[User]:
        """Everybody who logged in on this device and was not removed, logged out or not; those who were current last first."""
        return self.users.all()

    def switch_user(self, user: User) -> None:
        """Make another user who is logged in the current one. Realms and sessions do not change.

        Raises:
            NotLoggedIn: the user is logged out.
        """
        if not isinstance(user, User):
            raise TypeError(f"switch_user takes a User, as app.all_users() lists them, not a {type(user).__name__}.")
        self.users.switch(user)

    def close(self) -> None:
        """End all sessions at once and the background thread with them. Open realms can still be read and written."""
        self.users.close()
        self.sync.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SyncedFile:
    """A synced file that is open in this process, shared by all realms on it."""

    def __init__(self, store: Store, user: User, partition: str, encryption_key: bytes | None) -> None:
        self.store = store
        self.user = user
        self.partition = partition
        self.encryption_key = encryption_key
        self.session: SyncSession
        self.realms = 0
        self.tables: set[str] = set()
        self.closing = False

    @property
    def unused(self) -> bool:
        """Whether no realm is open on it, and its session has ended or only rests."""
        return self.realms == 0 and self.session.state in (SessionState.INACTIVE, SessionState.PAUSED)


class AppSync:
    """All sync sessions of an app."""

    def __init__(self, app: App, make_adapter: AdapterFactory) -> None:
        self._app = app
        self._make_adapter = make_adapter
        self.loop = self._loop = BackgroundLoop(f"localstore-{app.id}")
        self._files: dict[Path, SyncedFile] = {}
        self._changed = threading.Condition(threading.RLock())
        self._closed = False

    @property
    def has_sync_sessions(self) -> bool:
        """Whether any session is left, also a paused one, and one that still uploads for a closed realm."""
        return bool(self._files)

    def reconnect(self) -> None:
        """Let all active sessions try to reach the remote now, and forget how often they failed before."""
        for file in list(self._files.values()):
            file.session.reconnect()

    def wait_for_sessions_to_terminate(self, timeout: float | None = None) -> bool:
        """Wait until no session is left, as before deleting files of realms that were closed just now.

        Returns:
            False when the time was up before.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._files, timeout)

    def open_file(
        self,
        path: Path,
        tables: Sequence[sa.Table],
        *,
        user: User,
        partition: str,
        error_handler: ErrorHandler | None,
        initial_data: InitialData | None = None,
        encryption_key: bytes | None = None,
    ) -> SyncedFile:
        """The open file at a path, and a running session for it. For ``Realm.open``."""
        with self._changed:
            self._changed.wait_for(lambda: path not in self._files or not self._files[path].closing)
            if self._closed:
                raise ValueError(f"The app {self._app.id!r} was closed. Create a new one with App.create().")
            file = self._files.get(path)
            names = {table.name for table in tables}
            if file is None:
                file = self._files[path] = self._open(
                    path, tables, user, partition, error_handler, initial_data, encryption_key
                )
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
            file.session.handle(Event.OPEN)
            return file

    def close_realm(self, file: SyncedFile, *, after_upload: bool) -> None:
        """One realm less on a file; the last one ends its session, at once or when everything is uploaded.

        Raises:
            NestedWrite, StoreBusy: somebody writes; nothing was changed.
        """
        if file.realms == 1:
            with file.store.lock.held(closing=True):
                pass  # whoever writes has come to the end
        with self._changed:
            file.realms -= 1
            if file.realms:
                return
            unsent = after_upload and not self._closed and _has_unsent(file.store)
            file.session.handle(Event.CLOSE_AFTER_UPLOAD if unsent else Event.CLOSE)
        self._close_if_unused(file)

    def tell(self, user: User, event: Event, error: SyncError | None = None) -> None:
        """Feed an event to the sessions of a user's files."""
        with self._changed:
            files = [file for file in self._files.values() if file.user is user and not file.closing]
        for file in files:
            file.session.handle(event, error)
            if event is Event.LOG_IN and not file.realms:  # closed just before, and not to be kept up by this
                file.session.handle(Event.CLOSE)
                self._close_if_unused(file)

    def close(self) -> None:
        """End everything."""
        with self._changed:
            self._closed = True
            files = list(self._files.values())
        try:
            for file in files:
                file.session.end()
                self._close_if_unused(file)
        finally:
            self._loop.stop(timeout=_STOP_SECONDS)
        with self._changed:  # what a session that died just now is still closing
            self._changed.wait_for(lambda: not any(file.closing for file in files), _STOP_SECONDS)

    def _open(
        self,
        path: Path,
        tables: Sequence[sa.Table],
        user: User,
        partition: str,
        error_handler: ErrorHandler | None,
        initial_data: InitialData | None,
        encryption_key: bytes | None,
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
            loop=self._loop,
            environment=environment,
            limits=Limits(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Limits)}),
            backoff=BackoffPolicy(
                initial=settings.backoff_initial,
                factor=settings.backoff_factor,
                max=settings.backoff_max,
                jitter=settings.backoff_jitter,
            ),
            tokens=user.tokens,
        )
        file.session = SyncSession(parts, error_handler=error_handler, on_dead=lambda: self._died(file))
        return file

    def _died(self, file: SyncedFile) -> None:
        """A closed realm's session has finished. Closing the file waits for writers, so the background loop does not do it."""
        threading.Thread(target=self._close_if_unused, args=(file,), name="localstore-close").start()

    def _close_if_unused(self, file: SyncedFile) -> None:
        with self._changed:
            if file.closing or not file.unused:
                return
            file.closing = True  # who opens the path now waits for the end of this
        try:
            file.session.end()
            file.store.close()
            self._app.users.file_closed(file.user)
        finally:
            with self._changed:
                file.closing = False
                if self._files.get(file.store.path) is file:
                    del self._files[file.store.path]
                self._changed.notify_all()


def _has_unsent(store: Store) -> bool:
    """Whether there is something to upload; what cannot be read any more cannot be uploaded either."""
    try:
        return store.last_pending() is not None
    except StoreUnusable:
        return False


def _named(key: bytes | None) -> str:
    """A key in a message, which must not show it."""
    return "no encryption_key" if key is None else "an encryption_key of its own"


def check_settings(settings: object) -> None:
    """Raise ``TypeError`` for what is no ``Settings``, without saying what it is: it may hold a password."""
    if settings is None:
        return
    from localstore.settings import Settings

    if not isinstance(settings, Settings):
        raise TypeError(f"settings takes Settings(...), not a {type(settings).__name__}.")


def store_options(settings: Settings, encryption_key: bytes | None = None) -> StoreOptions:
    """The part of the settings that concerns files, with the file's own key."""
    return StoreOptions(
        busy_timeout=settings.busy_timeout,
        synchronous=settings.synchronous,
        max_changeset_bytes=settings.max_changeset_bytes,
        max_changeset_rows=settings.max_changeset_rows,
        max_clock_drift=settings.max_clock_drift,
        conflicts_max_age=settings.conflicts_max_age,
        conflicts_max_count=settings.conflicts_max_count,
        client_maximum_offline_time=settings.client_maximum_offline_time,
        encryption_key=encryption_key,
    )
