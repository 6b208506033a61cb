"""The access token of one user: when it is renewed, and by whom.

All sessions of a user share one renewal, and so do all processes of the application, as a refresh token is good for one
answer. What to do is decided by pure functions; who asks for a token here never waits for another session.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from localstore.adapter import Tokens
from localstore.environment import Environment, SessionLoop
from localstore.errors import Busy, LocalStoreError, ProtocolError, SyncError, Unauthorized
from localstore.registry import AdapterFactory
from localstore.sync.calls import ask_remote
from localstore.sync.redaction import redacted_error
from localstore.sync.state import Event
from localstore.sync.token_life import Freshness, freshness, kept, seconds_until_due
from localstore.token_file import KeptTokens, TokenFile

__all__ = ["Renewal", "TokenOwner", "UserTokens", "adjusted"]

_RETRY_SECONDS = 60.0  # until a renewal ahead of time that failed is tried again
_RENEWAL_SECONDS_MIN = 5.0  # between renewals ahead of time, whatever life a remote says that its tokens have
_LOCK_PAUSE_SECONDS = 0.5  # between looks whether another process has renewed the token

_STALE = {Event.OPEN: Event.OPEN_STALE, Event.RESUME: Event.RESUME_STALE, Event.LOG_IN: Event.LOG_IN_STALE}


@dataclass(frozen=True)
class Renewal:
    """What became of an attempt to renew a token: ``TOKEN_RENEWED``, ``TOKEN_KEPT`` or ``TOKEN_REFUSED``, and why.

    Attributes:
        asked: whether the remote was asked, and another process was not quicker.
    """

    event: Event
    error: SyncError | None = None
    asked: bool = True


_RENEWED = Renewal(Event.TOKEN_RENEWED)
_ADOPTED = Renewal(Event.TOKEN_RENEWED, asked=False)


class _BrokenOffError(Exception):
    """The remote is to be asked again."""


class TokenOwner(Protocol):
    """Who is told that a user's log-in has ended."""

    def refused(self, user_id: str, tokens: KeptTokens, error: SyncError) -> None:
        """The remote takes these tokens no more. Called in a thread that may block."""
        ...


class UserTokens:
    """The tokens of one user in one app. Any thread may use it.

    Args:
        user_id: whose.
        file: where they are kept; None for the one user of a remote without users.
        make_adapter: a line to the remote.
        loop: where renewals run.
        environment: the world.
        seconds: how long one may take.
        owner: is told when the remote refuses.

    Attributes:
        ended_by: why none are held, and will be any more; None when it is a log-out.
    """

    def __init__(
        self,
        user_id: str,
        *,
        file: TokenFile | None,
        make_adapter: AdapterFactory,
        loop: SessionLoop,
        environment: Environment,
        seconds: float,
        owner: TokenOwner,
    ) -> None:
        self._user_id = user_id
        self._file = file
        self._make_adapter = make_adapter
        self._loop = loop
        self._environment = environment
        self._seconds = seconds
        self._owner = owner
        self._lock = threading.Lock()
        self._held: KeptTokens | None = None
        self._former: KeptTokens | None = None
        self.ended_by: Unauthorized | None = None
        self._not_before = -math.inf
        self._renewing: asyncio.Task[Renewal] | None = None  # touched in the loop's thread only, as the next one
        self._asking: asyncio.Task[Tokens] | None = None

    def leave_to_parent(self) -> None:
        """In a forked child: a renewal that is under way is the parent's."""
        self._lock = threading.Lock()
        self._renewing = self._asking = None

    @property
    def held(self) -> KeptTokens | None:
        """What is shown to the remote, None when the user is logged out."""
        return self._held

    def hold(self, tokens: KeptTokens | None, *, ended_by: Unauthorized | None = None) -> None:
        """From now on these; None when the user logs out, or for another reason."""
        with self._lock:
            self.ended_by = ended_by
            if tokens != self._held:
                self._former, self._held = self._held or self._former, tokens
                self._not_before = -math.inf
                if tokens is not None:
                    self.try_anew()  # an answer that is still awaited is about tokens that were given up

    def try_anew(self) -> None:
        """When the remote is being asked at this moment, ask again: somebody knows that the line is dead, or better tokens."""
        asking = self._asking
        if asking is not None:
            self._loop.post(asking.cancel)

    @property
    def access_token(self) -> str | None:
        held = self._held
        return None if held is None else held.access_token or None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may quote."""
        return tuple(
            secret for one in (self._held, self._former) if one for secret in (one.access_token, one.refresh_token) if secret
        )

    def is_stale(self) -> bool:
        """Whether a session must not begin before the token is renewed; so also when there is none."""
        held = self._held
        return held is None or freshness(held, self._environment.now_ms()) is Freshness.STALE

    def seconds_until_due(self) -> float:
        """How long nobody needs to look after the token."""
        held = self._held
        if held is None:
            return math.inf
        wait = self._not_before - self._environment.monotonic()
        return max(seconds_until_due(held, self._environment.now_ms()), wait, 0.0)

    def renew(self, done: Callable[[Event, SyncError | None], object]) -> None:
        """Renew the token and call ``done`` in the background thread with what became of it."""
        before = self.access_token

        async def ask() -> None:
            renewal = Renewal(Event.TOKEN_KEPT)
            try:
                renewal = await self.renewed(before)
            finally:  # a session that waits must hear of it, whatever happened
                done(renewal.event, renewal.error)

        self._loop.post(lambda: self._loop.begin(ask()))

    def renew_if_due(self, done: Callable[[], object]) -> bool:
        """Have a token renewed that is good, ahead of time, and call ``done`` whatever came of it. To be called in the loop.

        Returns:
            Whether it is being renewed.
        """
        before = self.access_token
        if before is None or self.seconds_until_due() > 0:
            return False

        async def ask() -> None:
            try:
                await self.renewed(before)
            finally:
                done()

        self._loop.begin(ask())
        return True

    async def renewed(self, before: str | None) -> Renewal:
        """Renew the token, together with all others who ask; at once when it is not any more what it was before.

        Cancelling the caller does not break the renewal off.
        """
        if self.access_token != before and not self.is_stale():
            return _ADOPTED
        if self._renewing is None:
            self._renewing = asyncio.ensure_future(self._renew())
            self._renewing.add_done_callback(self._renewal_ended)
        return await asyncio.shield(self._renewing)

    def _renewal_ended(self, task: asyncio.Task[Renewal]) -> None:
        self._renewing = None
        if not task.cancelled():
            task.exception()  # told to those who wait, if any is left

    async def _renew(self) -> Renewal:
        first, file = self._held, self._file
        while True:
            held = self._held
            if held is None or file is None:
                return Renewal(Event.TOKEN_REFUSED, self._logged_out())
            if held != first and not self.is_stale():  # of a log-in since
                return _ADOPTED
            try:
                async with self._alone(file):
                    return await self._renew_alone(held, file)
            except _BrokenOffError:
                continue
            except SyncError as error:
                return self._kept(error)
            except (LocalStoreError, OSError) as error:  # of the file with tokens: none is shown that could not be remembered
                return self._kept(Busy(f"The user's token could not be renewed. {error}"))
            except Exception as error:  # noqa: BLE001  a bug must be told, and no session wait for ever
                problem = ProtocolError(
                    f"The user's token could not be renewed: {type(error).__name__}: {error}. Local data is untouched.",
                    hint="Report this.",
                )
                problem.__cause__ = error
                return self._kept(problem)

    async def _renew_alone(self, held: KeptTokens, file: TokenFile) -> Renewal:
        """Renew while no other process does, unless one just did."""
        run = self._environment.run_blocking
        user = (await run(file.load)).users.get(self._user_id)
        old = None if user is None else user.tokens
        if old is None:
            return await self._refused(held, self._logged_out())
        if old.refresh_token != held.refresh_token:
            if not self._change(held, old):
                return Renewal(Event.TOKEN_REFUSED, self._logged_out()) if self._held is None else _ADOPTED
            if not self.is_stale():
                return _ADOPTED
        try:
            answer = await self._ask(old)
        except Unauthorized as error:
            return await self._refused(old, error)
        new = kept(answer, self._environment.now_ms())
        if answer.user_id != self._user_id:
            raise ProtocolError("The adapter's answer does not fit: the token is another user's. It was not used.")
        is_replaced = await run(self._replace, file, old, new)
        return _RENEWED if is_replaced else await self._refused(old, self._logged_out())

    async def _ask(self, old: KeptTokens) -> Tokens:
        """Ask the remote.

        Raises:
            _BrokenOffError: by ``try_anew``, or the tokens were given up just before.
        """
        asking = self._asking = asyncio.ensure_future(
            ask_remote(
                self._make_adapter,
                lambda adapter: adapter.refresh(old.refresh_token),
                loop=self._loop,
                environment=self._environment,
                seconds=self._seconds,
                secrets=self.secrets,
            )
        )
        held = self._held  # looked at after _asking is there for others to see, so that they or we notice
        if held is None or held.refresh_token != old.refresh_token:
            asking.cancel()
        try:
            await asyncio.wait([asking])
        finally:  # of itself, when the whole renewal is cancelled
            self._asking = None
            asking.cancel()
        if asking.cancelled():
            raise _BrokenOffError
        return asking.result()

    async def _refused(self, old: KeptTokens, error: Unauthorized) -> Renewal:
        """Tokens that are of no use any more; the user may have got others meanwhile by logging in."""
        held = self._held
        if held is not None and held.refresh_token != old.refresh_token:
            return _ADOPTED
        await self._environment.run_blocking(self._owner.refused, self._user_id, old, error)
        held = self._held
        if held is not None and held.refresh_token != old.refresh_token:  # a log-in that came to its end meanwhile
            return _ADOPTED
        return Renewal(Event.TOKEN_REFUSED, self.ended_by or error)

    def _replace(self, file: TokenFile, old: KeptTokens, new: KeptTokens) -> bool:
        """Keep new tokens, unless the user was logged out or in anew since."""
        with file.changing() as table:
            user = table.users.get(self._user_id)
            if user is None or user.tokens != old:
                return False
            table.users[self._user_id] = dataclasses.replace(user, tokens=new)
        self._change(old, new)
        return True

    def _change(self, old: KeptTokens, new: KeptTokens) -> bool:
        """Hold new tokens in place of others, unless those were given up since, by logging out or in."""
        with self._lock:
            if self._held is None or self._held.refresh_token != old.refresh_token:
                return False
            self._former, self._held = self._held, new
            self._not_before = self._environment.monotonic() + _RENEWAL_SECONDS_MIN
            return True

    def _kept(self, error: SyncError) -> Renewal:
        redacted_error(error, self.secrets)
        with self._lock:
            self._not_before = self._environment.monotonic() + _RETRY_SECONDS
        return Renewal(Event.TOKEN_KEPT, error)

    def _logged_out(self) -> Unauthorized:
        return self.ended_by or Unauthorized(
            f"The user {self._user_id!r} is logged out. Changes stay on this device.",
            hint="They go out when the user logs in again.",
        )

    @asynccontextmanager
    async def _alone(self, file: TokenFile) -> AsyncIterator[None]:
        """No other process renews this user's tokens meanwhile. Asked for again and again, as a thread that waits for a lock
        cannot be cancelled; each look takes no time."""
        until = self._environment.monotonic() + self._seconds
        while (lock := file.try_lock_user(self._user_id)) is None:
            if self._environment.monotonic() >= until:
                raise Busy("Another process of this application is renewing the user's token, and does not come to an end.")
            await self._environment.sleep(_LOCK_PAUSE_SECONDS)
        try:
            yield
        finally:
            lock.let_go()


def adjusted(tokens: UserTokens | None, event: Event) -> Event:
    """An event as things stand: one that starts a session, when the user's token has to be renewed first; and a refusal that
    comes late, when the user has logged in again."""
    if event is Event.TOKEN_REFUSED and tokens is not None and tokens.held is not None:
        return Event.TOKEN_RENEWED
    return _STALE.get(event, event) if tokens is not None and tokens.is_stale() else event
