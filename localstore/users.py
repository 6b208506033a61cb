"""Users of an application on this device: logging in and out, who is current, and what their sessions are told of it.

What is kept on disk is shared with other processes of the application and read anew whenever users are asked for. A remote
without users has the one user ``"local"``, who needs no network and of whom nothing is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from localstore.credentials import Credentials
from localstore.directories import data_directory, safe_name
from localstore.environment import SessionLoop
from localstore.errors import LocalStoreError, NotLoggedIn, SyncError, UserRemoved
from localstore.registry import Lines
from localstore.store.forking import begins_anew
from localstore.store.state import LOCAL_USER
from localstore.sync.calls import Calls, ask_remote
from localstore.sync.revoking import Revoking
from localstore.sync.state import Event
from localstore.sync.token_life import LOCAL_TOKENS, kept
from localstore.sync.tokens import UserTokens
from localstore.token_file import KeptTokens, KeptUser, TokenFile, UserTable
from localstore.urls import redacted
from localstore.user import User, UserState, removed, removed_for_sessions
from localstore.user_files import UserFiles

if TYPE_CHECKING:
    from localstore.app import App

__all__ = ["AppUsers"]

_LOST = sys.maxsize  # the event by which nobody of a file that was lost was removed


class AppUsers:
    """All users of an app.

    Args:
        app: the application.
        lines: to its remote.
        remote: the remote's URL, None when there is none to tell it by.
        loop: where calls of the adapter run.
    """

    def __init__(self, app: App, lines: Lines, *, remote: str | None, loop: SessionLoop) -> None:
        self.app = app
        self._lines = lines
        self._remote = "" if remote is None else hashlib.sha256(redacted(remote).encode()).hexdigest()
        self._loop = loop
        self._calls = Calls(loop)
        self._lock = threading.RLock()
        self._users: dict[str, User] = {}
        self._current: User | None = None
        self._kept: tuple[TokenFile, UserFiles] | None = None
        self._revoking = Revoking(self._calls, loop, lines, app.environment, app.settings.request_timeout)
        begins_anew(self)

    def leave_to_parent(self) -> None:
        """In a forked child: what is under way, and locks that are held, are the parent's."""
        self._lock = threading.RLock()
        self._calls = Calls(self._loop)
        self._revoking.leave_to_parent(self._calls)
        self._lines.leave_to_parent()
        for user in self._users.values():
            user.tokens.leave_to_parent()

    # -- who there is

    @property
    def current(self) -> User | None:
        """Who logged in or was switched to last, of those who are logged in."""
        known = self.all()  # reads anew and tells sessions, which must not happen under the lock
        with self._lock:
            if self._current is None or self._current.state is not UserState.LOGGED_IN:
                self._current = next((user for user in known if user.state is UserState.LOGGED_IN), None)
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
            if self._wants_users:
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
            raise ValueError(
                f"The user {user.id!r} is of the app {user.app.id!r}, not of {self.app.id!r}, or of an App made anew."
            )
        if user.state is UserState.REMOVED:
            raise removed(user)
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
        if user.provider == "anonymous" and self._wants_users:
            if user.state is not UserState.LOGGED_OUT:
                with suppress(UserRemoved):  # by another thread just now, or before
                    self.remove(user)
            return
        self._end(user, UserState.LOGGED_OUT)

    def remove(self, user: User) -> None:
        """Log a user out and delete the user's files."""
        if not self._wants_users:
            raise LocalStoreError(
                "The one user of a remote without users cannot be removed: its files are not in a place of their own.",
                hint="Delete them with Realm.delete_files().",
            )
        try:
            self._end(user, UserState.REMOVED)
        except UserRemoved:  # which may have been broken off before this
            self.sweep()
            raise
        self.sweep()

    def refused(self, user_id: str, tokens: KeptTokens, error: SyncError) -> None:
        """The remote takes a user's tokens no more: the user is logged out, and everything stays; unless another process
        removed the user."""
        with self._lock:
            with self._file.changing() as table:
                gone = self._drop_removed(table)
                for one in gone:
                    self._loop.post(functools.partial(self._tell, one, one.tokens.ended_by))
                known = table.users.get(user_id)
                if known is not None and known.tokens is not None and known.tokens.refresh_token == tokens.refresh_token:
                    table.users[user_id] = dataclasses.replace(known, tokens=None)
            user = self._users.get(user_id)
            held = None if user is None else user.tokens.held
            if user is None or held is None or held.refresh_token != tokens.refresh_token:  # others, of a log-in since
                return
            self._become(user, UserState.LOGGED_OUT)
        self._loop.post(lambda: self._tell(user, error))

    def close(self) -> None:
        """End what is under way. The remote gets a moment to hear of users who logged out just before."""
        if not self._loop.is_current():
            self._revoking.wait()
        self._calls.close()

    # -- files

    def path(self, user: User, name: str | None, usual: str) -> Path:
        """Where a user's file lies by its name; None for the usual one, which is ``default.db`` in the working directory."""
        if not self._wants_users:
            return Path(name or "default.db")
        return self._files.directory(user.id) / (name or usual)

    def prepare(self, user: User, path: Path | None, key: bytes | None) -> None:
        """A user's file is about to be opened; None for one that is kept nowhere.

        Raises:
            UserRemoved: the user was removed.
            StoreBusy: the file is a removed user's, and still open.
        """
        if user.state is UserState.REMOVED:
            raise removed(user)
        if self._wants_users and path is not None:
            self._files.prepare(user.id, path, key)

    def file_closed(self, user: User) -> None:
        """A user's file is not open any more."""
        if user.state is UserState.REMOVED:
            with suppress(LocalStoreError):  # it is on the list, and a later start tries again
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
            make_adapter=self._lines,
            loop=self._loop,
            environment=self.app.environment,
            seconds=self.app.settings.request_timeout,
            owner=self,
        )

    @property
    def _wants_users(self) -> bool:
        """Whether the remote knows users.

        Where no adapter can be made, as for want of a driver, sessions will tell, and local work goes on: as users who logged
        in before, if there are any.
        """
        try:
            return self._lines.capabilities.users
        except Exception:  # noqa: BLE001  whatever a factory raises
            return self._kept_file().path.exists()

    @property
    def _file(self) -> TokenFile:
        return self._keeping()[0]

    @property
    def _files(self) -> UserFiles:
        return self._keeping()[1]

    def _keeping(self) -> tuple[TokenFile, UserFiles]:
        with self._lock:
            if self._kept is None:
                file = self._kept_file()
                self._kept = file, UserFiles(self.app.id, file)
                if file.load().doomed:
                    self.sweep()
            return self._kept

    def _kept_file(self) -> TokenFile:
        return TokenFile(data_directory(self.app.settings.directory, os.environ) / safe_name(self.app.id), self._remote)

    def _without_asking(self, credentials: Credentials) -> User | None:
        """Who needs no answer of the remote."""
        if self._wants_users:
            if credentials.provider != "anonymous" or not credentials.reuse_existing:
                return None
            known = [user for user in self.all() if user.provider == "anonymous" and user.state is UserState.LOGGED_IN]
            if known:
                self.switch(known[0])
            return known[0] if known else None
        if credentials.provider != "anonymous":
            _ = self._lines.capabilities  # raises why nothing is known of them
            raise ValueError(
                "The remote of this app knows no users: whoever reaches it may use it. Log in with Credentials.anonymous()."
            )
        with self._lock:
            user = self._users.setdefault(LOCAL_USER, User(self, LOCAL_USER, "anonymous"))
            is_new = user.state is not UserState.LOGGED_IN
            self._become(user, UserState.LOGGED_IN, LOCAL_TOKENS)
            self._current = user
        if is_new:
            self._tell(user)
        return user

    async def _log_in(self, credentials: Credentials) -> User:
        environment = self.app.environment
        tokens = await ask_remote(
            self._lines,
            lambda adapter: adapter.log_in(credentials),
            loop=self._loop,
            environment=environment,
            seconds=self.app.settings.connect_timeout,
            secrets=credentials.secrets,
        )
        new = kept(tokens, environment.now_ms())
        user: User = await environment.run_blocking(self._logged_in, tokens.user_id, credentials.provider, new)
        return user

    def _logged_in(self, user_id: str, provider: str, tokens: KeptTokens) -> User:
        with self._lock:
            with self._file.changing() as table:
                gone = self._drop_removed(table)
                old = table.users.get(user_id) or KeptUser(provider=provider, born=table.next_event())
                new = dataclasses.replace(old, provider=provider, remote=self._remote, used=table.next_used(), tokens=tokens)
                table.users[user_id] = new
            user = self._take(user_id, new)
            self._current = user
        if old.tokens is not None and old.remote == self._remote and old.tokens.refresh_token != tokens.refresh_token:
            self._revoking.begin(old.tokens)
        for one in (*gone, user):
            self._tell(one, one.tokens.ended_by)
        return user

    def _end(self, user: User, state: UserState) -> None:
        """End a log-in. Where it is kept comes first: what cannot be written there has not happened."""
        with self._lock:
            is_over = user.state is UserState.REMOVED or user.state is state
            tokens = self._forget(user, state) if self._wants_users and not is_over else None
            if not is_over:
                self._become(user, state)
            if user.state is UserState.REMOVED and self._users.get(user.id) is user:
                del self._users[user.id]
        self._tell(user)  # also of what is over: telling it may have been broken off
        if tokens is not None:
            self._revoking.begin(tokens)
        if is_over and state is UserState.REMOVED:
            raise removed(user)

    def _forget(self, user: User, state: UserState) -> KeptTokens | None:
        """Take a user's tokens out of the file, and all that is known of one who is removed."""
        with self._file.changing() as table:
            known = table.users.get(user.id)
            if known is None or table.has_removed(user.id, user._born):
                return None
            if state is UserState.REMOVED:
                self._files.doom(table, user.id)
                del table.users[user.id]
                table.next_event()
            else:
                table.users[user.id] = dataclasses.replace(known, tokens=None)
            return known.tokens if known.remote == self._remote else None

    def _become(self, user: User, state: UserState, tokens: KeptTokens | None = None) -> None:
        user._state = state
        user.tokens.hold(tokens, ended_by=removed_for_sessions(user) if state is UserState.REMOVED else None)

    def _take(self, user_id: str, known: KeptUser) -> User:
        """The user of this id, as the file has it."""
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = User(self, user_id, known.provider)
        user._provider, user._used, user._born = known.provider, known.used, known.born
        self._become(user, UserState.LOGGED_IN if known.tokens else UserState.LOGGED_OUT, known.tokens)
        return user

    def _read_anew(self) -> None:
        """See what other processes of the application did."""
        if not self._wants_users:
            return
        with self._lock:
            table = self._file.load()
            changed = self._drop_removed(table)
            for user in self._users.values():
                if user.id not in table.users and user.state is UserState.LOGGED_IN:  # the whole file was lost
                    self._become(user, UserState.LOGGED_OUT)
                    changed.append(user)
            for user_id, known in table.users.items():
                before = self._users[user_id].state if user_id in self._users else UserState.LOGGED_OUT
                user = self._take(user_id, known)
                if user.state is not before:
                    changed.append(user)
        for user in changed:
            self._tell(user, user.tokens.ended_by)

    def _drop_removed(self, table: UserTable) -> list[User]:
        """Those who were removed by another process are so here too: who logs in by that id now is another user, whose work
        must not go to files that are to be deleted."""
        gone = [user for user in self._users.values() if table.has_removed(user.id, user._born)]
        for user in gone:
            self._become(user, UserState.REMOVED)
            del self._users[user.id]
        for user in self._users.values():
            if user.id not in table.users:
                user._born = _LOST
        return gone

    def _tell(self, user: User, error: SyncError | None = None) -> None:
        """Tell a user's sessions how things stand now. Another thread may change that meanwhile, and its telling may come
        before this one: whoever tells last has seen the state as it stays. No lock is held, as sessions have theirs.
        """
        while True:
            state = user.state
            ended = Event.LOG_OUT if error is None else Event.TOKEN_REFUSED
            self.app.sync.tell(user, Event.LOG_IN if state is UserState.LOGGED_IN else ended, error)
            if state is not UserState.LOGGED_IN:
                user.tokens.try_anew()  # only now, or sessions would hear first that there is nothing to renew
            if user.state is state:
                return
