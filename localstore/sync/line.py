"""The calls of an adapter as the cycle makes them: within their time limits, and with errors of the contract alone.

It knows the contract and the limits, and nothing of what is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from localstore.adapter import (
    Cursor,
    Hello,
    Limit,
    Page,
    PushResult,
    SealedChangeset,
    SnapshotInfo,
    SupportsPing,
    SupportsSnapshots,
    SyncAdapter,
    Welcome,
)
from localstore.environment import Deadline, Environment
from localstore.errors import Offline, ProtocolError, SyncError
from localstore.sync.parts import Limits
from localstore.urls import redacted_text

__all__ = ["Line"]

T = TypeVar("T")
_MIB = 1024 * 1024


class Line:
    """One device's line to its remote."""

    def __init__(self, adapter: SyncAdapter, limits: Limits, environment: Environment) -> None:
        self.adapter = adapter
        self._limits = limits
        self._environment = environment
        self._call: _Call | None = None
        self._given_up: SyncError | None = None
        self._checking: asyncio.Task[None] | None = None

    @property
    def can_ping(self) -> bool:
        """Whether the remote gives signs of life."""
        return self.adapter.capabilities.ping and isinstance(self.adapter, SupportsPing)

    @property
    def wants_snapshots(self) -> bool:
        """Whether it leaves it to its devices to make them."""
        return self._snapshots() is not None and self.adapter.capabilities.devices_write_snapshots

    async def connect(self, hello: Hello) -> Welcome:
        self._given_up = None
        return await self._request(self.adapter.connect(hello), self._limits.connect_timeout, connecting=True)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        self.check_alive()
        return await self._request(self.adapter.push(batch), self._limits.request_timeout)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        self.check_alive()
        return await self._request(self.adapter.pull(cursor, limit), self._limits.request_timeout)

    async def ping(self, *, urgent: bool = False) -> None:
        """Wait for a sign of life.

        Raises:
            Offline: none came in time.
        """
        adapter = self.adapter
        if not isinstance(adapter, SupportsPing):
            return
        limits = self._limits
        await self._answered(adapter.ping(), _Call(limits.urgent_pong_timeout if urgent else limits.pong_timeout))

    async def latest_snapshot(self) -> SnapshotInfo | None:
        """The remote's latest snapshot, None also where it keeps none."""
        if (adapter := self._snapshots()) is None:
            return None
        self.check_alive()
        return await self._request(adapter.latest_snapshot(), self._limits.request_timeout)

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        """A snapshot's bytes; each chunk may take as long as a call."""
        if (adapter := self._snapshots()) is None:
            return
        chunks = aiter(adapter.read_snapshot(info))
        try:
            self.check_alive()
            while (chunk := await self._request(anext(chunks, None), self._limits.request_timeout)) is not None:
                yield chunk
                self.check_alive()
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes], byte_count: int) -> None:
        """Store a snapshot; it may take as long as a call for each mebibyte."""
        if (adapter := self._snapshots()) is not None:
            self.check_alive()
            await self._request(adapter.write_snapshot(cursor, chunks), self._limits.request_timeout * (1 + byte_count // _MIB))

    async def trim(self, before: Cursor) -> None:
        """Let go of what is in a snapshot."""
        if (adapter := self._snapshots()) is not None:
            self.check_alive()
            await self._request(adapter.trim(before), self._limits.request_timeout)

    def _snapshots(self) -> SupportsSnapshots | None:
        adapter = self.adapter
        return adapter if adapter.capabilities.snapshots and isinstance(adapter, SupportsSnapshots) else None

    def give_up(self, error: SyncError) -> None:
        """The line is dead: the call that is under way fails, and so do all others until it is connected anew."""
        self._given_up = error
        if self._call is not None:
            self._call.give_up(error)

    def check_alive(self) -> None:
        """Raise why it was given up, if it was."""
        if self._given_up is not None:
            raise self._given_up

    def check(self) -> None:
        """Somebody doubts that the line still holds: when a call is under way, ask for a sign of life beside it, and end the
        call if none comes. A line that is only being made is given up when that took as long already."""
        call = self._call
        if call is None:
            return
        if call.connecting:
            if self._environment.monotonic() - call.began > self._limits.urgent_pong_timeout:
                call.give_up(_silent())
        elif self.can_ping and (self._checking is None or self._checking.done()):
            self._checking = asyncio.ensure_future(self._check(call))

    async def _check(self, call: _Call) -> None:
        try:
            await self.ping(urgent=True)
        except SyncError:
            call.give_up(_silent())

    async def _request(self, awaitable: Awaitable[T], seconds: float, *, connecting: bool = False) -> T:
        """A call that may be ended early by ``check``."""
        call = self._call = _Call(seconds, connecting=connecting, began=self._environment.monotonic())
        try:
            return await self._answered(awaitable, call)
        finally:
            call.deadline, self._call = None, None
            if self._checking is not None:
                self._checking.cancel()

    async def _answered(self, awaitable: Awaitable[T], call: _Call) -> T:
        """The answer to a call; what an adapter may not raise becomes an error that names it."""
        try:
            async with self._environment.timeout(call.seconds) as call.deadline:
                answer = await awaitable
        except TimeoutError as error:
            if _is_cancelled():
                raise asyncio.CancelledError from error
            if call.given_up is not None:
                raise call.given_up from error
            raise Offline(f"The remote did not answer within {call.seconds:g} s. Local work goes on.") from error
        except SyncError as error:
            if _is_cancelled():  # this is how the adapter answers to that
                raise asyncio.CancelledError from error
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


@dataclass(slots=True)
class _Call:
    """A call of the adapter that is under way.

    Attributes:
        seconds: how long it may take.
        connecting: whether it makes the line.
        began: when, on a clock that never steps back.
        deadline: the end of that time, while it runs.
        given_up: why it was ended before.
    """

    seconds: float
    connecting: bool = False
    began: float = 0.0
    deadline: Deadline | None = None
    given_up: SyncError | None = None

    def give_up(self, error: SyncError) -> None:
        """End it now with this error, if it is still under way."""
        if self.deadline is not None and self.given_up is None:
            self.given_up = error
            self.deadline.expire()


def _silent() -> Offline:
    return Offline("The line to the remote gave no sign of life. Local work goes on.")


def _is_cancelled() -> bool:
    """Whether somebody wants the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
