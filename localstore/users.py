"""Users of an application on this device: logging in and out, who is current, and what their sessions are told of it.

What is kept on disk is shared with other processes of the application and read anew whenever users are asked for. A remote
without users has the one user ``"local"``, who needs no network and of whom nothing is kept.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import enum
import hashlib
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from localstore.credentials import Credentials
from localstore.directories import data_directory, safe_name
from localstore.errors import LocalStoreError, NotLoggedIn, OperationAborted, SyncError, UserRemoved
from localstore.registry import AdapterFactory
from localstore.store.state import LOCAL_USER
from localstore.sync.calls import Calls, ask_remote
from localstore.sync.loop import BackgroundLoop
from localstore.sync.state import Event
from localstore.sync.tokens import LOCAL_TOKENS, UserTokens, kept
from localstore.token_file import KeptTokens, KeptUser, TokenFile
from localstore.urls import redacted
from localstore.user_files import UserFiles

if TYPE_CHECKING:
    from localstore.app import App

__all__ = ["AppUsers", "User", "UserState"]

_REVOKE_SECONDS = 2.0  # how long closing an app waits for the remote to hear of users who logged out just before


class UserState(enum.Enum):
    """Whether somebody is logged in."""

    LOGGED_IN = "logged in"
    LOGGED_OUT = "logged out"
    """By ``log_out()``, or as the remote refused. The realms stay, and sync again after the next log-in."""
    REMOVED = "removed"


class User:
    """Somebody who logged in. Got from ``app.login``; the same object every time for the same id."""

    def __init__(self, users: AppUsers, user_id: str, provider: str) -> None:
        self._users = users
        self._id = user_id
        self._provider = provider
        self._state = UserState.LOGGED_OUT
        self._used = 0
        self._tokens = users.new_tokens(user_id)

    @property
    def app(self) -> App:
        """The application."""
        return self._users.app

    @property
    def id(self) -> str:
        """The user's id at the remote; remotes without users have the one user ``"local"``."""
        return self._id

    @property
    def provider(self) -> str:
        """What the user logged in with last, such as ``"email_password"``."""
        return self._provider

    @property
    def state(self) -> UserState:
        """Whether the user is logged in, as far as this process knows."""
        return self._state

    def log_out(self) -> None:
        """Log the user out on this device. Does nothing when the user is not logged in.

        Sessions end at once, and what is unsent stays in the files, for the user's next log-in. The remote is told in the
        background, if it can be reached. An anonymous user of a remote with users cannot come back, and is removed.
        """
        self._users.log_out(self)

    async def log_out_async(self) -> None:
        """``log_out`` for any event loop."""
        await asyncio.to_thread(self.log_out)

    def remove(self) -> None:
        """Log the user out and delete the user's realms from this device, unsent changes with them; nothing at the remote.

        Files that are still open are deleted when they are closed, or at a later start.

        Raises:
            UserRemoved: that was done before.
            LocalStoreError: it is the one user of a remote without users, whose files are nobody's but the application's.
        """
        self._users.remove(self)

    async def remove_async(self) -> None:
        """``remove`` for any event loop."""
        await asyncio.to_thread(self.remove)

    def __repr__(self) -> str:
        return f"User(id={self._id!r}, provider={self._provider!r}, state={self._state.name})"


class AppUsers:
    """All users of an app.

    Args:
        app: the application.
        make_adapter: a line to its remote.
        remote: the remote's URL, None when there is none to tell it by.
        loop: where calls of the adapter run.
    """

    def __init__(self, app: App, make_adapter: AdapterFactory, *, remote: str | None, loop: BackgroundLoop) -> None:
        self.app = app
        self._make_adapter = make_adapter
        self._remote = "" if remote is None else hashlib.sha256(redacted(remote).encode()).hexdigest()
        self._loop = loop
        self._calls = Calls(loop)
        self._lock = threading.RLock()
        self._users: dict[str, User] = {}
        self._current: User | None = None
        self._wanted: bool | None = None
        self._kept: tuple[TokenFile, UserFiles] | None = None
        self._revoking: set[Future[None]] = set()

    # -- who there is

    @property
    def current(self) -> User | None:
        """Who logged in or was switched to last, of those who are logged in."""
        self._read_anew()
        with self._lock:
            if self._current is None or self._current.state is not UserState.LOGGED_IN:
                self._current = next((user for user in self.all() if user.state is UserState.LOGGED_IN), None)
            return self._current

    def all(self) -> list[User]:
        """Everybody who logged in on this device and was not removed, those used last first."""
        self._read_anew()
        with self._lock:
            return sorted(self._users.values(), key=lambda user: -user._used)

    def switch(self, user: User) -> None:
        """Make a user the current one."""
        with self._lock:
            self.check_logged_in(user)
            if user._used and self._is_kept(user):
                with self._file.changing() as table:
                    if user.id in table.users:
                        user._used = table.next_used()
                        table.users[user.id] = dataclasses.replace(table.users[user.id], used=user._used)
            self._current = user

    def check_logged_in(self, user: User) -> None:
        """Refuse a user who is not.

        Raises:
            NotLoggedIn, UserRemoved: says what became of the user.
            ValueError: it is another app's.
        """
        if user.app is not self.app:
            raise ValueError(f"The user {user.id!r} is of the app {user.app.id!r}, not of {self.app.id!r}, or of an App made anew.")
        if user.state is UserState.REMOVED:
            raise _removed(user)
        if user.state is UserState.LOGGED_OUT:
            raise NotLoggedIn(f"The user {user.id!r} is logged out. Realms of theirs are untouched.", hint="Call app.login().")

    # -- logging in and out

    def log_in(self, credentials: Credentials) -> Future[User]:
        """Begin to log a user in.

        Raises:
            ValueError: the remote has no users to log in as.
            LocalStoreError: this is the background thread, which would wait for itself.
        """
        found = self._without_asking(credentials)
        if found is not None:
            done: Future[User] = Future()
            done.set_result(found)
            return done
        if self._loop.is_current():
            raise LocalStoreError(
                "The background thread cannot wait for itself: all sync would stand still.",
                hint="Log in from another thread, not in an error handler.",
            )
        return self._calls.start(lambda: self._log_in(credentials))

    def log_out(self, user: User) -> None:
        """Log a user out, and an anonymous one for good."""
        if user.provider == "anonymous" and self._is_kept(user):
            if user.state is UserState.LOGGED_IN:
                self.remove(user)
            return
        self._end(user, UserState.LOGGED_OUT)

    def remove(self, user: User) -> None:
        """Log a user out and delete the user's files."""
        if not self._is_kept(user):
            raise LocalStoreError(
                "The one user of a remote without users cannot be removed: its files are not in a place of their own.",
                hint="Delete them with Realm.delete_files().",
            )
        with self._lock:
            if user.state is UserState.REMOVED:
                raise _removed(user)
            self._end(user, UserState.REMOVED)
        self.sweep()

    def refused(self, user_id: str, tokens: KeptTokens, error: SyncError) -> None:
        """The remote takes a user's tokens no more: the user is logged out, and everything stays."""
        with self._lock:
            with self._file.changing() as table:
                known = table.users.get(user_id)
                if known is not None and known.tokens is not None and known.tokens.refresh_token == tokens.refresh_token:
                    table.users[user_id] = dataclasses.replace(known, tokens=None)
            user = self._users.get(user_id)
            if user is None or user.state is not UserState.LOGGED_IN:
                return
            self._become(user, UserState.LOGGED_OUT)
        self._loop.post(lambda: self.app.sync.tell(user, Event.TOKEN_REFUSED, error))

    def close(self) -> None:
        """End what is under way. The remote gets a moment to hear of users who logged out just before."""
        if self._revoking and not self._loop.is_current():
            concurrent.futures.wait(set(self._revoking), timeout=_REVOKE_SECONDS)
        self._calls.close()

    # -- files

    def path(self, user: User, name: str) -> Path:
        """Where a user's file of this name lies: for the one user of a remote without users, in the working directory."""
        return self._files.directory(user.id) / name if self._is_kept(user) else Path(name)

    def prepare(self, user: User, path: Path, key: bytes | None) -> None:
        """A user's file is about to be opened.

        Raises:
            UserRemoved: the user was removed.
            StoreBusy: the file is a removed user's, and still open.
        """
        if user.state is UserState.REMOVED:
            raise _removed(user)
        if self._is_kept(user):
            self._files.prepare(user.id, path, key)

    def file_closed(self, user: User) -> None:
        """A user's file is not open any more."""
        if user.state is UserState.REMOVED:
            self.sweep()

    def sweep(self) -> None:
        """Delete files of removed users that nobody has open any more."""
        self._files.sweep()

    # -- inside

    def new_tokens(self, user_id: str) -> UserTokens:
        """What holds a user's tokens."""
        return UserTokens(
            user_id,
            file=self._file if self._wants_users else None,
            make_adapter=self._make_adapter,
            loop=self._loop,
            environment=self.app.environment,
            seconds=self.app.settings.request_timeout,
            owner=self,
        )

    @property
    def _wants_users(self) -> bool:
        """Whether the remote knows users. Asked of an adapter when it first matters."""
        if self._wanted is None:
            self._wanted = self._make_adapter().capabilities.users
        return self._wanted

    def _is_kept(self, user: User) -> bool:
        return self._wants_users

    @property
    def _file(self) -> TokenFile:
        return self._keeping()[0]

    @property
    def _files(self) -> UserFiles:
        return self._keeping()[1]

    def _keeping(self) -> tuple[TokenFile, UserFiles]:
        if self._kept is None:
            directory = data_directory(self.app.settings.directory, os.environ) / safe_name(self.app.id)
            file = TokenFile(directory, self._remote)
            self._kept = file, UserFiles(self.app.id, file)
            if file.load().doomed:
                self.sweep()
        return self._kept
