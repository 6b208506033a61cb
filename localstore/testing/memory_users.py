"""A remote in memory that wants users, for tests and demos: who may log in, and which tokens are good.

``MemoryRemoteWithUsers`` is a ``MemoryRemote`` whose adapters are a ``SupportsUsers`` as well. Read it when you write an
adapter for a remote with users. Passwords are kept as they are: it is no example for a server.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from localstore.adapter import (
    Capabilities,
    Credentials,
    Cursor,
    Hello,
    Limit,
    Page,
    PushResult,
    SealedChangeset,
    SupportsUsers,
    SyncAdapter,
    Tokens,
    Welcome,
)
from localstore.environment import Environment
from localstore.errors import Unauthorized
from localstore.testing.memory import MemoryAdapter, MemoryRemote

__all__ = ["MemoryRemoteWithUsers", "MemoryUserAdapter"]

_WORLD = Environment()
ACCESS_SECONDS = 1800.0


@dataclass(eq=False, slots=True)
class _Login:
    """One log-in: the refresh token that is good, what it was answered with and nobody has shown yet, and those of before."""

    user_id: str
    refresh: str
    answer: Tokens | None = None
    before: set[str] = field(default_factory=set)
    access: dict[str, float] = field(default_factory=dict)

    def shown(self, token: str | None) -> None:
        """A token of the answer arrived: from now on its refresh token is the good one."""
        if self.answer is not None and token in (self.answer.access_token, self.answer.refresh_token):
            self.before.add(self.refresh)
            self.refresh, self.answer = self.answer.refresh_token, None


class MemoryRemoteWithUsers(MemoryRemote):
    """A shared history for those who log in.

    Args:
        environment: where its clock, tokens and identity come from.
        anonymous: whether anonymous users may log in.
        access_seconds: how long an access token lives; may be set at any time.
    """

    def __init__(
        self, *, environment: Environment = _WORLD, anonymous: bool = True, access_seconds: float = ACCESS_SECONDS
    ) -> None:
        super().__init__(environment=environment)
        self.anonymous = anonymous
        self.access_seconds = access_seconds
        self._world = environment
        self._known: dict[Credentials, str] = {}
        self._logins: list[_Login] = []
        self._users_lock = threading.Lock()

    def adapter(self) -> MemoryUserAdapter:
        """A new line to this remote."""
        return MemoryUserAdapter(self)

    def add_user(self, user_id: str, credentials: Credentials) -> None:
        """From now on these credentials log this user in; a user may have several."""
        with self._users_lock:
            self._known[credentials] = user_id

    def shut_out(self, user_id: str) -> None:
        """End all log-ins of a user, and take no credentials of theirs."""
        with self._users_lock:
            self._known = {credentials: known for credentials, known in self._known.items() if known != user_id}
            self._logins = [login for login in self._logins if login.user_id != user_id]

    def expire_access_tokens(self) -> None:
        """No access token that was given out so far is good any more; refresh tokens are."""
        with self._users_lock:
            for login in self._logins:
                login.access.clear()

    def logged_in(self) -> list[str]:
        """Ids of those who are logged in, once for each log-in."""
        with self._users_lock:
            return [login.user_id for login in self._logins]

    # The calls of the contract, as the adapter's lines make them.

    def log_in(self, credentials: Credentials) -> Tokens:
        self.check_online()
        with self._users_lock:
            user_id = self._known.get(credentials)
            if credentials.provider == "anonymous" and self.anonymous:
                user_id = f"anonymous-{self._secret(8)}"
            if user_id is None:
                raise Unauthorized("The remote does not take these credentials.", hint="Check them, or ask for an account.")
            tokens = self._tokens(user_id)
            login = _Login(user_id, tokens.refresh_token)
            self._logins.append(login)
            return self._given(login, tokens)

    def refresh(self, refresh_token: str) -> Tokens:
        self.check_online()
        with self._users_lock:
            for login in self._logins:
                login.shown(refresh_token)
                if refresh_token == login.refresh:
                    if login.answer is not None:  # which got lost
                        login.access.pop(login.answer.access_token, None)
                    login.answer = self._tokens(login.user_id)
                    return self._given(login, login.answer)
                if refresh_token in login.before:  # somebody has a copy, and nobody knows who
                    self._logins.remove(login)
                    break
        raise Unauthorized("The user is not logged in at the remote any more.", hint="Log in again.")

    def log_out(self, refresh_token: str) -> None:
        self.check_online()
        with self._users_lock:
            for login in self._logins:
                login.shown(refresh_token)
            self._logins = [
                login for login in self._logins if refresh_token != login.refresh and refresh_token not in login.before
            ]

    def check(self, access_token: str | None) -> None:
        """Refuse an access token that is not good."""
        with self._users_lock:
            for login in self._logins:
                login.shown(access_token)
                if access_token is not None and self._world.monotonic() < login.access.get(access_token, 0):
                    return
        raise Unauthorized("The access token is not good, or not any more.")

    def _tokens(self, user_id: str) -> Tokens:
        return Tokens(
            user_id=user_id, access_token=self._secret(16), expires_in=self.access_seconds, refresh_token=self._secret(16)
        )

    def _given(self, login: _Login, tokens: Tokens) -> Tokens:
        login.access[tokens.access_token] = self._world.monotonic() + tokens.expires_in
        return tokens

    def _secret(self, byte_count: int) -> str:
        return self._world.random_bytes(byte_count).hex()


class MemoryUserAdapter(MemoryAdapter):
    """One device's line to a ``MemoryRemoteWithUsers``."""

    def __init__(self, remote: MemoryRemoteWithUsers) -> None:
        super().__init__(remote)
        self._users = remote
        self._token: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, users=True)

    async def log_in(self, credentials: Credentials) -> Tokens:
        await asyncio.sleep(0)
        return self._users.log_in(credentials)

    async def refresh(self, refresh_token: str) -> Tokens:
        await asyncio.sleep(0)
        return self._users.refresh(refresh_token)

    async def log_out(self, refresh_token: str) -> None:
        await asyncio.sleep(0)
        self._users.log_out(refresh_token)

    async def connect(self, hello: Hello) -> Welcome:
        self._users.check_online()
        self._users.check(hello.token)
        self._token = hello.token
        return await super().connect(hello)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        self._check_token()
        return await super().push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        self._check_token()
        return await super().pull(cursor, limit)

    async def ping(self) -> None:
        self._check_token()
        await super().ping()

    def _check_token(self) -> None:
        self._connected()
        self._users.check_online()
        self._users.check(self._token)


_: tuple[type[SyncAdapter], type[SupportsUsers]] = (MemoryUserAdapter, MemoryUserAdapter)
