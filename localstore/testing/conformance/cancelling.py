"""Rules for calls that are cancelled: at every one of their waits, as it begins and as it ends, and after a while."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest

from localstore.adapter import Limit
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite
from localstore.wire import SealedChangeset

__all__ = ["MOMENTS", "WAITS_MAX", "CancellingRules", "Moment", "break_off"]

Moment = Literal["begins", "ends"]
"""When a wait is cancelled: what it waits for may never be done, or was done and nobody is told."""

MOMENTS: tuple[Moment, ...] = ("begins", "ends")
_DELAYS = (0.001, 0.004, 0.015)  # seconds, for work that goes on in a thread or across a network
WAITS_MAX = 1000


class _BrokenOff(Coroutine[Any, Any, Any]):
    """A call that has its task cancelled at one of its waits."""

    def __init__(self, call: Coroutine[Any, Any, object], wait: int, moment: Moment) -> None:
        self._call = call
        self._wait = wait
        self._moment = moment
        self.waits = 0

    def send(self, value: Any) -> Any:
        return self._waiting(self._call.send(value))

    def throw(self, *error: Any) -> Any:
        return self._waiting(self._call.throw(*error))

    def close(self) -> None:
        self._call.close()

    def __await__(self) -> Any:
        raise TypeError("A broken-off call is run as a task.")

    def _waiting(self, waited_for: Any) -> Any:
        task = asyncio.current_task()
        if self.waits == self._wait and task is not None:
            if self._moment == "begins" or waited_for is None:
                task.cancel()
            else:
                waited_for.add_done_callback(lambda _: task.cancel())  # before the task itself hears of it
        self.waits += 1
        return waited_for


async def break_off(call: Coroutine[Any, Any, object], wait: int, moment: Moment) -> bool:
    """Cancel a call at one of its waits, counted from 0; False when it ended without coming to it."""
    broken = _BrokenOff(call, wait, moment)
    task = asyncio.ensure_future(broken)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return broken.waits > wait


async def _cancel_after(call: Coroutine[Any, Any, object], seconds: float) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class CancellingRules(Suite):
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_a_push_cancelled_at_any_wait_leaves_all_or_nothing_of_each_changeset(
        self, remote: RemoteUnderTest, moment: Moment
    ) -> None:
        async def rule() -> None:
            for wait in range(WAITS_MAX):
                async with self.line(remote) as line:
                    await line.push(1, 2)
                    struck = await break_off(line.push(3, 6), wait, moment)
                await self._check_pushed_on(remote, line)
                if not struck:
                    return
            pytest.fail(f"One push waited {WAITS_MAX} times.")

        self.run(rule())

    @pytest.mark.parametrize("seconds", _DELAYS)
    def test_a_push_cancelled_after_a_while_leaves_all_or_nothing_of_each_changeset(
        self, remote: RemoteUnderTest, seconds: float
    ) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 2)
                await _cancel_after(line.push(3, 6), seconds)
            await self._check_pushed_on(remote, line)

        self.run(rule())

    @pytest.mark.parametrize("moment", MOMENTS)
    @pytest.mark.parametrize("name", ["connect", "push", "pull"])
    def test_a_line_is_usable_after_a_call_cancelled_at_any_wait(
        self, remote: RemoteUnderTest, name: str, moment: Moment
    ) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                for wait in range(WAITS_MAX):
                    first = 4 * wait + 1
                    await writer.push(first, first + 2)
                    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                        "connect": reader.connect_again,
                        "push": functools.partial(writer.push, first + 3, first + 3),
                        "pull": functools.partial(reader.adapter.pull, reader.cursor, Limit()),
                    }
                    struck = await break_off(calls[name](), wait, moment)
                    await (writer if name == "push" else reader).connect_again()
                    assert (await writer.push(first + 3, first + 3)).acknowledged == first + 3
                    assert await reader.read() == writer.make(first, first + 3)
                    if not struck:
                        return
                pytest.fail(f"One {name} waited {WAITS_MAX} times.")

        self.run(rule())

    @pytest.mark.parametrize("seconds", _DELAYS)
    def test_a_line_is_usable_after_a_call_cancelled_after_a_while(self, remote: RemoteUnderTest, seconds: float) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await writer.push(1, 3)
                await _cancel_after(writer.push(4, 6), seconds)
                await writer.connect_again()
                assert (await writer.push(4, 7)).acknowledged == 7
                await _cancel_after(reader.adapter.pull(None, Limit()), seconds)
                await reader.connect_again()
                assert await reader.read() == writer.make(1, 7)

        self.run(rule())

    async def _check_pushed_on(self, remote: RemoteUnderTest, line: Line) -> None:
        """What a push of 3 to 6 that was cancelled has left, and that it does not matter to the next line."""
        stored = await self._stored_of(remote, line)
        assert stored == line.make(1, len(stored)), "whatever is seen is whole and in order"
        async with self.line(remote, line.device) as again:
            assert again.welcome.last_number >= len(stored)
            assert (await again.push(3, 5)).acknowledged >= 5
            assert (await again.push(5, 8)).acknowledged == 8
        assert await self._stored_of(remote, line) == line.make(1, 8)

    async def _stored_of(self, remote: RemoteUnderTest, line: Line) -> list[SealedChangeset]:
        return [sealed for sealed in await self.stored(remote) if sealed.device == line.device]
