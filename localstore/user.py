"""A user as an application holds one. What it does is done by ``AppUsers``."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

from localstore.errors import Unauthorized, UserRemoved

if TYPE_CHECKING:
    from localstore.app import App
    from localstore.users import AppUsers

__all__ = ["User", "UserState", "removed", "removed_for_sessions"]


class UserState(enum.Enum):
    """Whether somebody is logged in."""

    LOGGED_IN = "logged in"
    LOGGED_OUT = "logged out"
    """By ``log_out()``, or as the remote refused. The realms stay, and sync again after the next log-in."""
    REMOVED = "removed"


class User:
    """Somebody who logged in. Got from ``app.login``; the same object every time for the same id.

    Attributes:
        tokens: for sessions.
    """

    def __init__(self, users: AppUsers, user_id: str, provider: str) -> None:
        self._users = users
        self._id = user_id
        self._provider = provider
        self._state = UserState.LOGGED_OUT
        self._used = 0
        self._born = 0
        self.tokens = users.new_tokens(user_id)

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


def removed(user: User) -> UserRemoved:
    """What is raised for a user who was removed."""
    return UserRemoved(f"The user {user.id!r} was removed from this device.", hint="Log in again with app.login().")


def removed_for_sessions(user: User) -> Unauthorized:
    """What error handlers of such a user's realms are told."""
    return Unauthorized(
        f"The user {user.id!r} was removed from this device. What is in this realm is deleted when it is closed, and not sent.",
        hint="Close it, and log in again with app.login().",
    )
