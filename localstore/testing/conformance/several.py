"""Rules for several devices at once, and random histories against a small model that shares no code with any adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import strategies

from localstore.adapter import Limit, PushResult
from localstore.errors import Busy, Offline
from localstore.testing.conformance.cancelling import MOMENTS, Moment, break_off
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite, numbers_by_device

__all__ = ["SeveralDevicesRules"]

_DEVICES = 3
_EXAMPLES = 30
_STEPS_MIN = 6
_STEPS_MAX = 18
_WHOLE = Limit()


@dataclass(frozen=True)
class _Step:
    """One thing that a device does: ``push`` something new, ``push again``, break off a push or a pull, ``pull``, ``connect``.

    Attributes:
        count: of changesets in a push.
        limit: of the page in a pull.
        wait, moment: where a call is broken off.
    """

    device: int
    action: str
    count: int = 1
    limit: Limit = _WHOLE
    wait: int = 0
    moment: Moment = "begins"


def _step(*actions: str, **arguments: strategies.SearchStrategy[Any]) -> strategies.SearchStrategy[_Step]:
    devices = strategies.integers(0, _DEVICES - 1)
    return strategies.builds(_Step, device=devices, action=strategies.sampled_from(actions), **arguments)


_counts = strategies.integers(1, 4)
_limits = strategies.builds(Limit, max_bytes=strategies.integers(1, 1500), max_count=strategies.integers(1, 5))
_points = {"wait": strategies.integers(0, 3), "moment": strategies.sampled_from(MOMENTS)}
_steps = strategies.lists(
    strategies.one_of(
        _step("push", "push again", count=_counts),
        _step("push", count=_counts),
        _step("pull", limit=_limits),
        _step("connect", "close"),
        _step("break off a push", count=_counts, **_points),
        _step("break off a pull", limit=_limits, **_points),
    ),
    min_size=_STEPS_MIN,
    max_size=_STEPS_MAX,
)


@dataclass
class _Player:
    """A device and all that the model knows of it: how far it has pushed, and what it has received of each other device."""

    line: Line
    stored: int = 0
    received: dict[bytes, int] = field(default_factory=dict)

    async def act(self, step: _Step, others: Sequence[_Player]) -> None:
        following = (self.stored + 1, self.stored + step.count)
        match step.action:
            case "push":
                await self.push(*following)
            case "push again":  # as after a lost answer: what is stored, and perhaps one more in the same batch
                first = max(1, self.stored + 1 - step.count)
                await self.push(first, max(first, self.stored + step.count % 2))
            case "break off a push":
                await break_off(self.line.push(*following), step.wait, step.moment)
                assert self.stored <= (await self.line.connect_again()).last_number <= following[1]
                await self.push(*following)
            case "pull":
                await self.pull(step.limit, others)
            case "break off a pull":
                await break_off(self.line.adapter.pull(self.line.cursor, step.limit), step.wait, step.moment)
                await self.connect()
            case "connect":
                await self.connect()
            case _:
                await self.line.adapter.close()
                await self.connect()

    async def connect(self) -> None:
        assert (await self.line.connect_again()).last_number == self.stored

    async def push(self, first: int, last: int) -> None:
        result = await self.line.push(first, last)
        self.stored = max(self.stored, last)
        assert last <= result.acknowledged <= self.stored

    async def pull(self, limit: Limit, others: Sequence[_Player]) -> bool:
        page = await self.line.pull(limit)
        for sealed in page.changesets:
            if sealed.device != self.line.device:
                expected = self.received.get(sealed.device, 0) + 1
                assert sealed.number == expected, "each device's changesets come without gap or repeat"
                self.received[sealed.device] = expected
        for other in others:
            assert self.received.get(other.line.device, 0) <= other.stored, "nothing comes that was not pushed"
        return page.more


class SeveralDevicesRules(Suite):
    def test_devices_that_push_at_once_lose_nothing(self, remote: RemoteUnderTest) -> None:
        async def work(line: Line) -> None:
            for first in range(1, 16, 3):
                assert (await line.push(first, first + 2)).acknowledged == first + 2

        async def rule() -> None:
            async with AsyncExitStack() as stack:
                lines = [await stack.enter_async_context(self.line(remote)) for _ in range(5)]
                await asyncio.gather(*map(work, lines))
            stored = await self.stored(remote)
            assert numbers_by_device(stored) == {line.device: list(range(1, 16)) for line in lines}

        self.run(rule())

    def test_a_reader_beside_busy_writers_misses_nothing(self, remote: RemoteUnderTest) -> None:
        async def work(line: Line) -> None:
            for number in range(1, 13):
                await line.push(number, number)

        async def rule() -> None:
            async with AsyncExitStack() as stack:
                lines = [await stack.enter_async_context(self.line(remote)) for _ in range(3)]
                reader = await stack.enter_async_context(self.line(remote))
                writing = asyncio.gather(*map(work, lines))
                while not writing.done():
                    await reader.pull(Limit(max_count=2))
                await writing
                await reader.read()
                assert numbers_by_device(reader.received) == {line.device: list(range(1, 13)) for line in lines}

        self.run(rule())

    def test_two_lines_of_one_device_that_send_the_same_at_once_store_it_once(self, remote: RemoteUnderTest) -> None:
        """As when a line was given up, and the remote still works on what came through it."""

        async def rule() -> None:
            async with self.line(remote) as given_up, self.line(remote, given_up.device) as line:
                for first in range(1, 21, 4):
                    sent = given_up.push(first, first + 2), line.push(first, first + 3)
                    outcomes = await asyncio.gather(*sent, return_exceptions=True)
                    for outcome in outcomes:
                        assert isinstance(outcome, PushResult | Offline | Busy), outcome
                    await line.connect_again()
                    assert (await line.push(first, first + 3)).acknowledged == first + 3
            assert await self.stored(remote) == line.make(1, 20)

        self.run(rule())

    def test_devices_in_threads_of_their_own_lose_nothing(self, remote: RemoteUnderTest) -> None:
        """Several applications in one process: each has its own event loop."""
        devices: list[bytes] = []
        errors: list[BaseException] = []

        async def work() -> None:
            async with self.line(remote) as line:
                for first in range(1, 11, 2):
                    await line.push(first, first + 1)
                    await line.read()
                devices.append(line.device)

        def thread() -> None:
            try:
                self.run(work())
            except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
                errors.append(error)

        threads = [threading.Thread(target=thread) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert errors == []
        stored = self.run(self.stored(remote))
        assert numbers_by_device(stored) == {device: list(range(1, 11)) for device in devices}

    @hypothesis.settings(
        max_examples=_EXAMPLES,
        deadline=None,
        phases=set(hypothesis.Phase) - {hypothesis.Phase.explain},  # which traces every line of the adapter
        suppress_health_check=[  # one remote serves all examples, each of them with new devices; subclasses share the rule
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.differing_executors,
            hypothesis.HealthCheck.too_slow,
        ],
    )
    @hypothesis.given(steps=_steps)
    def test_any_history_gives_what_the_model_says(self, remote: RemoteUnderTest, steps: list[_Step]) -> None:
        async def rule() -> None:
            async with AsyncExitStack() as stack:
                lines = [await stack.enter_async_context(self.line(remote)) for _ in range(_DEVICES)]
                for line in lines:
                    await line.read()  # what earlier examples left
                players = [_Player(line) for line in lines]
                for step in steps:
                    await players[step.device].act(step, players)
                for player in players:
                    while await player.pull(Limit(), players):
                        pass
                for player in players:
                    others = {other.line.device: other.stored for other in players if other is not player and other.stored}
                    assert player.received == others

        self.run(rule())
