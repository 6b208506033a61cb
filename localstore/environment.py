"""What the engine needs from the world: time, randomness, sleep and a place for blocking work, as one value.

Everything in ``store`` and ``sync`` takes these from here, so that a simulator can put its own in their place and run
the whole engine under virtual time. Nothing else in the package calls ``time``, ``random`` or ``asyncio.sleep``.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import queue
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

__all__ = ["DEVICE_BYTES", "Deadline", "Environment", "SessionLoop", "WatchNetwork"]

T = TypeVar("T")
DEVICE_BYTES = 16
WatchNetwork = Callable[[Callable[[], object]], Callable[[], object]]
"""Calls its argument, in any thread, when the network may have come back, until what it returned is called."""


async def _run_blocking(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    try:
        future = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError as error:  # the interpreter is ending and starts no more threads: nobody is left to be told
        raise asyncio.CancelledError("the interpreter is ending") from error
    return await future


class Deadline(Protocol):
    """The end of a time limit, while it runs. To be used in its own event loop."""

    def expire(self) -> None:
        """The time is up now."""


class SessionLoop(Protocol):
    """Where all sessions of an app run: an event loop that every thread may give something to do."""

    def post(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop soon; dropped when the loop has stopped."""

    def is_current(self) -> bool:
        """Whether the caller runs in the loop, so that waiting for it would be in vain."""
        ...

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that goes on though everybody forgets it; to be called in the loop."""
        ...

    def letting_go(self) -> AbstractContextManager[None]:
        """What the current task does in this block is to let go of its line. Nobody waits for that who stops the loop."""
        ...

    def stop(self, timeout: float) -> None:
        """Cancel what runs and end, waiting for that at most so many seconds."""


class _Deadline:
    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit

    def expire(self) -> None:
        with suppress(RuntimeError):  # it is over, or is being broken off already
            self._limit.reschedule(asyncio.get_running_loop().time())


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[Deadline]:
    async with asyncio.timeout(seconds) as limit:
        yield _Deadline(limit)


def _start_thread(function: Callable[[], object], name: str) -> None:
    threading.Thread(target=function, name=name, daemon=True).start()


def _undisturbed(function: Callable[[], T]) -> T:
    if threading.current_thread() is not threading.main_thread():
        return function()
    outcome: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()

    def work() -> None:
        future: Future[T] = Future()
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            future.set_exception(error)
        outcome.put(future)  # which is not seen before by a thread that may be interrupted while it holds its lock

    try:
        _start_thread(work, "localstore-undisturbed")
    except RuntimeError:  # no more threads
        return function()
    return outcome.get().result()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _asleep() -> float:
    """By the difference of a clock that goes on while the computer sleeps, and one that does not."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The world as the engine sees it.

    Attributes:
        now_ms: wall clock, milliseconds since the Unix epoch; may step.
        monotonic: seconds on a clock that never steps back.
        asleep: how many seconds the computer has slept, from some moment on; 0 where the system does not tell.
        random: a number in [0, 1), for jitter.
        random_bytes: the given number of random bytes, for device identities.
        sleep: wait for so many seconds; cancellable.
        timeout: a block that may take so many seconds, and raises ``TimeoutError`` then.
        run_blocking: run a function that blocks without holding up the event loop.
        start_thread: run a function that blocks in a thread of that name, which nobody waits for; ``RuntimeError`` when there
            are no more threads.
        undisturbed: run a function to its end and return what it does, whatever signals come: those interrupt the main thread
            only, so that Ctrl-C breaks off the waiting, and not the work.
        make_loop: where an app's sessions run, by the name that its thread gets; None for one in a background thread.
        watch_network: how a network that came back is noticed; None asks the operating system, and the clocks.
    """

    now_ms: Callable[[], int] = _now_ms
    monotonic: Callable[[], float] = time.monotonic
    asleep: Callable[[], float] = _asleep
    random: Callable[[], float] = random.random
    random_bytes: Callable[[int], bytes] = os.urandom
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    timeout: Callable[[float], AbstractAsyncContextManager[Deadline]] = _timeout
    run_blocking: Callable[..., Awaitable[Any]] = _run_blocking
    start_thread: Callable[[Callable[[], object], str], object] = _start_thread
    undisturbed: Callable[[Callable[[], Any]], Any] = _undisturbed
    make_loop: Callable[[str], SessionLoop] | None = None
    watch_network: WatchNetwork | None = None

    def new_device(self) -> bytes:
        """A fresh device identity: 16 random bytes."""
        return self.random_bytes(DEVICE_BYTES)

    def countdown(self, seconds: float | None) -> Callable[[], float | None]:
        """What says how much is left of so many seconds from now on, not below 0; None when there is no end to them."""
        begun = self.monotonic()
        return lambda: None if seconds is None else max(0.0, begun + seconds - self.monotonic())
