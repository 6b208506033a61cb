"""Following a remote's watch: what its end means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from localstore.adapter import Cursor, Hint, Page
from localstore.errors import Offline
from localstore.sync.hints import Hints
from localstore.testing.clock import ManualClock
from localstore.testing.memory import MemoryAdapter, MemoryRemote


class Watched(MemoryAdapter):
    """Its watch does what a test says, and gives no hint."""

    def __init__(self, watch: Callable[[], Awaitable[None]]) -> None:
        super().__init__(MemoryRemote())
        self._watch = watch

    async def watch(self, cursor: Cursor | None) -> AsyncIterator[Hint]:  # type: ignore[override]
        await self._watch()
        return
        yield Hint()


def told_of(*, lasted: float, by: Exception | None) -> tuple[list[Hint], bool]:
    """What is told of a watch that ended after so many seconds, and whether the remote is to be looked at then."""
    clock, told = ManualClock(), list[Hint]()

    async def watch() -> None:
        clock.advance(lasted)
        if by is not None:
            raise by

    async def follow() -> bool:
        hints = Hints(Watched(watch), clock.monotonic, told.append, lambda _: None)
        hints.keep(None)
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        return hints.heard

    return told, asyncio.run(follow())


@pytest.mark.parametrize("by", [None, Offline("gone"), OSError("gone")])
def test_the_end_of_a_watch_that_worked_is_news(by: Exception | None) -> None:
    assert told_of(lasted=60, by=by) == ([Hint(reason="lost")], True)


@pytest.mark.parametrize("by", [None, Offline("gone"), OSError("gone")])
def test_one_that_ends_at_once_wakes_nobody(by: Exception | None) -> None:
    assert told_of(lasted=1, by=by) == ([], False)


class Bringing(MemoryAdapter):
    """Its watch brings so many pages at once, one after another."""

    def __init__(self, count: int) -> None:
        super().__init__(MemoryRemote())
        self._count = count

    async def watch(self, cursor: Cursor | None) -> AsyncIterator[Hint]:  # type: ignore[override]
        for _ in range(self._count):
            yield Hint(after=Cursor(b"a"), page=Page(changesets=(), cursor=Cursor(b"b"), more=False))


@pytest.mark.parametrize(("brought", "kept", "is_more"), [(16, 16, False), (17, 16, True), (1000, 16, True)])
def test_what_is_brought_to_a_busy_session_is_kept_up_to_a_bound_and_looked_for_beyond_it(
    brought: int, kept: int, is_more: bool
) -> None:
    async def follow() -> tuple[int, bool]:
        hints = Hints(Bringing(brought), ManualClock().monotonic, lambda _: None, lambda _: None)
        hints.keep(None)
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        return len(hints.brought), hints.heard

    assert asyncio.run(follow()) == (kept, is_more)
