"""Time that stands still until a test moves it, and a deterministic ``Environment`` around it.

Usable from several threads: a test advances the clock while an event loop sleeps on it in another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from localstore.environment import Deadline, Environment

__all__ = ["ManualClock", "ManualNetwork", "environment"]

_START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z, so that stamps in a failing test can be read


@dataclass(eq=False, slots=True)
class _Sleeper:
    deadline_ns: int
    loop: asyncio.AbstractEventLoop
    awake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop was closed: nobody is sleeping
            self.loop.call_soon_threadsafe(self.awake.set)


@dataclass(eq=False, slots=True)
class _Limit:
    """A time limit of a block in some event loop."""

    deadline_ns: int
    loop: asyncio.AbstractEventLoop
    timeout: asyncio.Timeout

    def expire(self) -> None:
        with contextlib.suppress(RuntimeError):  # the block has just ended
            self.timeout.reschedule(self.loop.time())

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop was closed
            self.loop.call_soon_threadsafe(self.expire)


class ManualClock:
    """A wall clock and a monotonic one, both moved by hand.

    Args:
        now_ms: where the wall clock begins, milliseconds since the Unix epoch.
    """

    def __init__(self, now_ms: int = _START_MS) -> None:
        self._wall_offset_ms = now_ms
        self._elapsed_ns = 0  # whole nanoseconds, so that ten tenths of a second are a second
        self._asleep_ns = 0
        self._sleepers: dict[_Sleeper, None] = {}  # a set that keeps its order
        self._limits: dict[_Limit, None] = {}
        self._changed = threading.Condition()

    def now_ms(self) -> int:
        return self._wall_offset_ms + self._elapsed_ns // 1_000_000

    def monotonic(self) -> float:
        return self._elapsed_ns / 1e9

    def asleep(self) -> float:
        return self._asleep_ns / 1e9

    def suspend(self, seconds: float) -> None:
        """Let the device sleep: only the wall clock goes on, so sleepers do not notice, as on Linux."""
        if seconds < 0:
            raise ValueError("Time does not run backwards; use set() for a wall clock that steps.")
        with self._changed:
            self._asleep_ns += round(seconds * 1e9)
            self._wall_offset_ms += round(seconds * 1000)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks; whoever slept until then wakes up."""
        if seconds < 0:
            raise ValueError("Time does not run backwards; use set() for a wall clock that steps.")
        with self._changed:
            self._elapsed_ns += round(seconds * 1e9)
            waiting: list[_Sleeper | _Limit] = [*self._sleepers, *self._limits]
            due = [one for one in waiting if one.deadline_ns <= self._elapsed_ns]
        for one in sorted(due, key=lambda one: one.deadline_ns):
            one.wake()

    def set(self, now_ms: int) -> None:
        """Step the wall clock, forwards or back; the monotonic clock and sleepers do not notice."""
        with self._changed:
            self._wall_offset_ms = now_ms - self._elapsed_ns // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by so many seconds."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with self._changed:
            sleeper = _Sleeper(self._elapsed_ns + round(seconds * 1e9), asyncio.get_running_loop())
            self._sleepers[sleeper] = None
            self._changed.notify_all()
        try:
            await sleeper.awake.wait()
        finally:
            with self._changed:
                self._sleepers.pop(sleeper, None)
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[Deadline]:
        """A block that may take so many seconds on this clock. Whoever is in it does not count as a sleeper."""
        async with asyncio.timeout(None) as timeout:
            with self._changed:
                limit = _Limit(self._elapsed_ns + round(seconds * 1e9), asyncio.get_running_loop(), timeout)
                self._limits[limit] = None
            try:
                yield limit
            finally:
                with self._changed:
                    del self._limits[limit]

    def next_wake(self) -> float | None:
        """Seconds to the earliest end of a sleep, None when nobody sleeps."""
        with self._changed:
            deadline_ns = min(self._deadlines(), default=None)
            return None if deadline_ns is None else (deadline_ns - self._elapsed_ns) / 1e9

    def wait_for_sleepers(self, count: int = 1, timeout: float = 10.0) -> bool:
        """Wait, in real time and outside the event loop, until so many sleep; False when the timeout came first."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._deadlines()) >= count, timeout)

    def _deadlines(self) -> list[int]:
        """Of those who sleep on: who has been woken is up, though its loop may not have got to it."""
        return [sleeper.deadline_ns for sleeper in self._sleepers if sleeper.deadline_ns > self._elapsed_ns]


class ManualNetwork:
    """A network that comes back when a test says so. Usable from several threads."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[], object]] = {}

    def watch(self, hint: Callable[[], object]) -> Callable[[], object]:
        """For ``Environment.watch_network``."""
        listener = object()
        self._listeners[listener] = hint
        return lambda: self._listeners.pop(listener, None)

    def come_back(self) -> None:
        """Tell everybody who listens."""
        for hint in list(self._listeners.values()):
            hint()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)


def environment(clock: ManualClock, seed: int = 0, *, network: ManualNetwork | None = None) -> Environment:
    """A world on this clock in which the same seed gives the same randomness, and no other network than this one."""
    source = random.Random(seed)
    return Environment(
        now_ms=clock.now_ms,
        monotonic=clock.monotonic,
        asleep=clock.asleep,
        random=source.random,
        random_bytes=source.randbytes,
        sleep=clock.sleep,
        timeout=clock.timeout,
        watch_network=(network or ManualNetwork()).watch,
    )
