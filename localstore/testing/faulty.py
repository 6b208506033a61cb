"""Any adapter, with faults where a plan puts them: errors before and after the effect, repeats, tiny pages, hangs.

A plan is a function from a call to the fault it meets, so that a test or a simulator decides alone; there is no
randomness here. This module knows no session.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from localstore.adapter import (
    Capabilities,
    Credentials,
    Cursor,
    Hello,
    Hint,
    Limit,
    Page,
    PushResult,
    SealedChangeset,
    SnapshotInfo,
    SupportsPing,
    SupportsSnapshots,
    SupportsUsers,
    SupportsWatch,
    SyncAdapter,
    Tokens,
    Welcome,
)
from localstore.errors import Offline

__all__ = ["Call", "Fault", "FaultyAdapter", "Hang", "LoseAnswer", "Plan", "Raise", "Repeat", "SmallPage", "in_turn"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is about to be made.

    Attributes:
        name: that of any method of the contract, as ``connect``, ``push``, ``log_in`` or ``write_snapshot``.
        index: how many calls of that name this adapter had before, from 0.
    """

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Raise:
    """The call is not made; ``error`` is raised instead."""

    error: Exception


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The call is made and has its effect; ``error`` is raised instead of the answer."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Repeat:
    """The call is made twice; the second answer counts."""


@dataclass(frozen=True, slots=True)
class SmallPage:
    """A pull gets no more than this; other calls are not touched."""

    max_count: int = 1


@dataclass(frozen=True, slots=True)
class Hang:
    """The call comes to no end until it is cancelled; with ``after``, it has had its effect by then."""

    after: bool = False


Fault = Raise | LoseAnswer | Repeat | SmallPage | Hang
Plan = Callable[[Call], Fault | None]


def in_turn(name: str, *faults: Fault | None) -> Plan:
    """A plan for one kind of call: the first call meets the first fault, and so on; None, and all others, go well."""

    def plan(call: Call) -> Fault | None:
        return faults[call.index] if call.name == name and call.index < len(faults) else None

    return plan


class FaultyAdapter:
    """An adapter that does what ``inner`` does, but for the faults in the plan.

    Args:
        inner: the adapter that does the work.
        plan: asked once before every call.
    """

    def __init__(self, inner: SyncAdapter, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan
        self._calls: Counter[str] = Counter()

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    async def connect(self, hello: Hello) -> Welcome:
        return await self._call("connect", lambda: self._inner.connect(hello))

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        return await self._call("push", lambda: self._inner.push(batch))

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        fault = self._next_fault("pull")
        if isinstance(fault, SmallPage):
            limit = dataclasses.replace(limit, max_count=min(limit.max_count, fault.max_count))
        return await _with_fault(fault, lambda: self._inner.pull(cursor, limit))

    async def ping(self) -> None:
        inner = self._inner
        if not isinstance(inner, SupportsPing):
            raise Offline("The adapter inside cannot be pinged.")
        await self._call("ping", inner.ping)

    async def close(self) -> None:
        await self._call("close", self._inner.close)

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        """Hints of the inner adapter; a fault strikes before the first one."""
        if not isinstance(self._inner, SupportsWatch):
            raise Offline("The adapter inside cannot watch.")
        await _with_fault(self._next_fault("watch"), _nothing)
        hints = self._inner.watch(cursor)
        try:
            async for hint in hints:
                yield hint
        finally:
            if isinstance(hints, AsyncGenerator):
                await hints.aclose()

    async def log_in(self, credentials: Credentials) -> Tokens:
        users = self._users()
        return await self._call("log_in", lambda: users.log_in(credentials))

    async def refresh(self, refresh_token: str) -> Tokens:
        users = self._users()
        return await self._call("refresh", lambda: users.refresh(refresh_token))

    async def log_out(self, refresh_token: str) -> None:
        users = self._users()
        await self._call("log_out", lambda: users.log_out(refresh_token))

    async def latest_snapshot(self) -> SnapshotInfo | None:
        return await self._call("latest_snapshot", self._snapshots().latest_snapshot)

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        """A fault strikes before the first chunk; ``LoseAnswer`` after it."""
        fault = self._next_fault("read_snapshot")
        broken_off = fault.error if isinstance(fault, LoseAnswer) else None
        if broken_off is None:
            await _with_fault(fault, _nothing)
        async for chunk in self._snapshots().read_snapshot(info):
            yield chunk
            if broken_off is not None:
                raise broken_off

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        content = [chunk async for chunk in chunks]  # it may be needed twice
        await self._call("write_snapshot", lambda: self._snapshots().write_snapshot(cursor, _each(content)))

    async def trim(self, before: Cursor) -> None:
        await self._call("trim", lambda: self._snapshots().trim(before))

    def _snapshots(self) -> SupportsSnapshots:
        if not isinstance(self._inner, SupportsSnapshots):
            raise Offline("The adapter inside keeps no snapshots.")
        return self._inner

    def _users(self) -> SupportsUsers:
        if not isinstance(self._inner, SupportsUsers):
            raise Offline("The adapter inside knows no users.")
        return self._inner

    def _next_fault(self, name: str) -> Fault | None:
        call = Call(name, self._calls[name])
        self._calls[name] += 1
        return self._plan(call)

    async def _call(self, name: str, make: Callable[[], Awaitable[_T]]) -> _T:
        return await _with_fault(self._next_fault(name), make)


async def _with_fault(fault: Fault | None, make: Callable[[], Awaitable[_T]]) -> _T:
    match fault:
        case Raise(error):
            raise error
        case LoseAnswer(error):
            await make()
            raise error
        case Repeat():
            await make()
        case Hang(after):
            if after:
                await make()
            await asyncio.Event().wait()
        case _:
            pass
    return await make()


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _nothing() -> None:
    pass


_: type[SyncAdapter] = FaultyAdapter
