"""Rules of ``watch``: hints come, and end when they should."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from localstore.adapter import Hint, Limit, SupportsWatch
from localstore.errors import Offline
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite

__all__ = ["WatchingRules"]

_PUSHES_MAX = 20  # a hint may fail to come, but not twenty times in a row


async def _first(hints: AsyncIterator[Hint]) -> Hint | None:
    """The next hint; None when there will be none any more."""
    with contextlib.suppress(Offline):
        return await anext(hints, None)
    return None


def _watch(line: Line) -> AsyncIterator[Hint]:
    assert isinstance(line.adapter, SupportsWatch)
    return line.adapter.watch(line.cursor)


class WatchingRules(Suite):
    hint_timeout: float = 1.0
    """Seconds in which a hint should come; until it does, the rule pushes again."""

    def test_a_hint_comes_after_another_device_has_pushed(self, remote: RemoteUnderTest) -> None:
        self.need("watch")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as watcher:
                await writer.push(1, 1)
                await watcher.read()
                coming = asyncio.ensure_future(_first(_watch(watcher)))
                number = 1
                while not coming.done():
                    assert number < _PUSHES_MAX, f"no hint after {number} pushes"
                    number += 1
                    await writer.push(number, number)
                    await asyncio.wait([coming], timeout=self.hint_timeout)
                assert isinstance(coming.result(), Hint)
                assert await watcher.read() == writer.make(2, number)

        self.run(rule())

    def test_what_a_hint_brings_is_what_a_pull_from_there_gives(self, remote: RemoteUnderTest) -> None:
        self.need("watch")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as watcher:
                await writer.push(1, 1)
                await watcher.read()
                hints = _watch(watcher)
                for number in range(2, 6):
                    await writer.push(number, number)
                    with contextlib.suppress(TimeoutError):  # a hint may fail to come
                        hint = await asyncio.wait_for(_first(hints), self.hint_timeout)
                        if hint is not None and hint.page is not None:
                            pulled = await watcher.adapter.pull(hint.after, Limit())
                            brought = list(hint.page.changesets)
                            assert brought == list(pulled.changesets)[: len(brought)], "it is what comes after hint.after"
                            assert not hint.page.more, "what is brought goes up to the head"
                if isinstance(hints, AsyncGenerator):
                    await hints.aclose()

        self.run(rule())

    def test_pushing_and_pulling_go_on_beside_a_watch(self, remote: RemoteUnderTest) -> None:
        self.need("watch")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as watcher:
                hints = asyncio.ensure_future(_collect(_watch(watcher)))
                for number in range(1, 6):
                    await writer.push(number, number)
                    await watcher.push(number, number)
                    await watcher.read()
                hints.cancel()
                await asyncio.wait([hints])
                assert [sealed for sealed in watcher.received if sealed.device == writer.device] == writer.make(1, 5)

        self.run(rule())

    def test_closing_ends_a_watch(self, remote: RemoteUnderTest) -> None:
        self.need("watch")

        async def rule() -> None:
            async with self.line(remote) as watcher:
                hints = asyncio.ensure_future(_collect(_watch(watcher)))
                await asyncio.wait([hints], timeout=0.05)
                await watcher.adapter.close()
                done, _ = await asyncio.wait([hints], timeout=10)
                assert done, "the watch went on after close"
                hints.result()

        self.run(rule())

    def test_a_watch_can_be_cancelled_at_once(self, remote: RemoteUnderTest) -> None:
        self.need("watch")

        async def rule() -> None:
            async with self.line(remote) as watcher:
                for delay in (0.0, 0.01, 0.1):
                    hints = asyncio.ensure_future(_collect(_watch(watcher)))
                    await asyncio.wait([hints], timeout=delay)
                    hints.cancel()
                    done, _ = await asyncio.wait([hints], timeout=10)
                    assert done, "the watch did not let itself be cancelled"
                async with self.line(remote) as writer:
                    await writer.push(1, 1)
                assert await watcher.read() == writer.make(1, 1)

        self.run(rule())


async def _collect(hints: AsyncIterator[Hint]) -> int:
    count = 0
    while await _first(hints) is not None:
        count += 1
    return count
