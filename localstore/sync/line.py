"""The calls of an adapter as the cycle makes them: within their time limits, and with errors of the contract alone.

It knows the contract and the limits, and nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from localstore.adapter import Cursor, Hello, Limit, Page, PushResult, SealedChangeset, SupportsPing, SyncAdapter, Welcome
from localstore.environment import Deadline, Environment
from localstore.errors import Offline, ProtocolError, SyncError
from localstore.sync.parts import Limits
from localstore.sync.redaction import redacted_error
from localstore.urls import redacted_text

__all__ = ["Line", "let_go"]

T = TypeVar("T")
_log = logging.getLogger("localstore.sync")
_CLOSE_SECONDS = 10.0  # how long an adapter may take to let go


class Line:
    """One device's line to its remote."""

    def __init__(self, adapter: SyncAdapter, limits: Limits, environment: Environment) -> None:
        self.adapter = adapter
        self._limits = limits
        self._environment = environment
        self._deadline: Deadline | None = None
        self._checking: asyncio.Task[None] | None = None

    @property
    def can_ping(self) -> bool:
        """Whether the remote gives signs of life."""
        return self.adapter.capabilities.ping and isinstance(self.adapter, SupportsPing)

    async def connect(self, hello: Hello) -> Welcome:
        return await self._request(self.adapter.connect(hello), self._limits.connect_timeout)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        return await self._request(self.adapter.push(batch), self._limits.request_timeout)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        return await self._request(self.adapter.pull(cursor, limit), self._limits.request_timeout)

    async def ping(self, *, urgent: bool = False) -> None:
        """Wait for a sign of life.

        Raises:
            Offline: none came in time.
        """
        adapter = self.adapter
        if isinstance(adapter, SupportsPing):
            seconds = self._limits.urgent_pong_timeout if urgent else self._limits.pong_timeout
            await self._answered(adapter.ping(), seconds)

    def check(self) -> None:
        """Somebody doubts that the line still holds: when a call is under way, ask for a sign of life beside it, and end the
        call if none comes."""
        if self.can_ping and self._deadline is not None and self._checking is None:
            self._checking = asyncio.ensure_future(self._check(self._deadline))

    async def _check(self, deadline: Deadline) -> None:
        try:
            await self.ping(urgent=True)
        except SyncError:
            if self._deadline is deadline:
                deadline.expire()
        finally:
            self._checking = None

    async def _request(self, call: Awaitable[T], seconds: float) -> T:
        """A call that may be ended early by ``check``."""

        def begun(deadline: Deadline) -> None:
            self._deadline = deadline

        try:
            return await self._answered(call, seconds, begun)
        finally:
            self._deadline = None
            if self._checking is not None:
                self._checking.cancel()

    async def _answered(self, call: Awaitable[T], seconds: float, begun: Callable[[Deadline], None] | None = None) -> T:
        """The answer to a call; what an adapter may not raise becomes an error that names it."""
        try:
            async with self._environment.timeout(seconds) as deadline:
                if begun is not None:
                    begun(deadline)
                answer = await call
        except TimeoutError as error:
            raise Offline(f"The remote did not answer within {seconds:g} s. Local work goes on.") from error
        except SyncError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                raise
            failure = f"{type(self.adapter).__name__} failed with {type(error).__name__}: {redacted_text(str(error))}"
            raise ProtocolError(
                f"{failure}. Sync stopped; local data is untouched.",
                hint="This is a bug in the adapter: report it to its authors.",
            ) from error
        if _is_cancelled():  # the adapter swallowed it
            raise asyncio.CancelledError
        return answer


async def let_go(adapter: SyncAdapter) -> None:
    """Close an adapter. That it fails or hangs concerns nobody: it is not used any more."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await adapter.close()
    except Exception as error:  # noqa: BLE001
        _log.warning("%s could not be closed.", type(adapter).__name__, exc_info=redacted_error(error))


def _is_cancelled() -> bool:
    """Whether somebody wants the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
