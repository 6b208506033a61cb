"""An application's side of sync: its id, its remote, its user, and all of its sessions."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from localstore.app_sync import AppSync
from localstore.credentials import Credentials, check_credentials
from localstore.environment import Environment
from localstore.options import check_settings
from localstore.registry import AdapterFactory, Lines, adapter_factory
from localstore.user import User
from localstore.users import AppUsers

if TYPE_CHECKING:
    from localstore.settings import Settings

__all__ = ["App"]


class App:
    """One application, with one remote. Make it with ``App.create`` and ``close`` it at the end.

    Attributes:
        id, settings, environment: what it was made with.
        sync, users: its sessions, and what they need to know of its users.
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
            remote: URL of the remote, such as ``folder:///mnt/share/todo``, what ``encrypted`` makes of one, or a callable that
                makes adapters; None leaves it to the setting ``remote``.
            settings: instead of those from environment and files.
            environment: the world; for tests and simulations.

        Raises:
            ValueError: no remote is named, none of its kind is installed, or its URL makes no sense.
            ImportError: the remote needs an extra that is not installed.
        """
        from localstore.settings import Settings

        if not isinstance(app_id, str):
            raise TypeError(f"app_id is a str, not of type {type(app_id).__name__}.")
        if not app_id.strip():
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
            raise TypeError(f"remote is a URL or a callable that makes adapters, not of type {type(remote).__name__}.")
        url = remote if isinstance(remote, str) else getattr(remote, "url", None)  # as that of an encrypted remote
        return cls(app_id, lines, settings, environment or Environment(), remote=url)

    def login(self, credentials: Credentials) -> User:
        """Log a user in, who is the current one then, and stays logged in when the program ends.

        A remote without users has one, whom ``Credentials.anonymous()`` logs in without any network.

        Raises:
            Unauthorized: the remote does not take the credentials.
            Offline, Busy, RateLimited, ProtocolError: the remote could not be asked.
            StoreUnusable: the log-in cannot be kept on this device.
            ValueError: the remote knows no users to log in as.
        """
        check_credentials(credentials)
        future = self.users.log_in(credentials)
        try:
            user: User = self.environment.undisturbed(future.result)
            return user
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
            raise TypeError(f"switch_user takes a User, as app.all_users() lists them, not of type {type(user).__name__}.")
        self.users.switch(user)

    def close(self) -> None:
        """End all sessions at once and the background thread with them. Open realms can still be read and written."""
        self.users.close()
        self.sync.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
