"""An event loop in which time is a number: it goes on only when nothing is left to do, and then to the next thing that is.

Timeouts and sleeps of asyncio are virtual in it by themselves. Whose callback is about to run is known by a context variable,
so that the steps of one process can be counted, and a crash strike between any two of them. It knows nothing of what runs.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVar, TypeVarTuple

__all__ = ["RUNNING", "Stepping", "Stuck", "TooManySteps", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Stepping(Protocol):
    """Whoever wants to know of its own steps."""

    def step(self) -> None:
        """Called before each callback of its own."""

    def has_begun(self, task: asyncio.Task[Any]) -> None:
        """Called with each task of its own."""

    def failed(self, context: dict[str, Any]) -> bool:
        """Called with what went wrong and nobody heard of; whether it does not matter."""
        ...


RUNNING: ContextVar[Stepping | None] = ContextVar("running", default=None)
"""To whom belongs what is running."""


class Stuck(Exception):  # noqa: N818  what happened
    """Somebody waits, and nothing will ever happen."""


class TooManySteps(Exception):  # noqa: N818
    """It does not come to rest."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs one callback after another, in the order in which they became due.

    Attributes:
        steps: how many callbacks have run.
        lost: what went wrong and nobody heard of.

    Args:
        max_steps: after so many it gives up.
    """

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.steps = 0
        self.lost: list[str] = []
        self._max_steps = max_steps
        self._now = 0.0
        self._order = 0
        self._due: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._is_over = False
        self._given_up: BaseException | None = None

    # -- running

    def give_up(self, why: BaseException) -> None:
        """Raise this from ``run_until_complete`` after the present step, whatever is made of it where it was found."""
        self._given_up = self._given_up or why

    def begin_anew(self) -> None:
        """Go on after a failure, to tidy up."""
        self._given_up, self._max_steps = None, 2 * self._max_steps

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until the future is done.

        Raises:
            Stuck: it never will be.
            TooManySteps: there seems to be no end to it.
        """
        main: asyncio.Future[T] = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._finish)
        events._set_running_loop(self)
        try:
            while not main.done():
                self._step()
                if self._given_up is not None:
                    raise self._given_up
        finally:
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
        return main.result()

    def _step(self) -> None:
        if not self._due:
            self._let_time_pass()
        handle = self._due.popleft()
        if handle.cancelled():
            return
        self.steps += 1
        if self.steps > self._max_steps:
            raise TooManySteps(f"{self._max_steps} steps, by {self._now:g} s")
        running = handle._context.get(RUNNING)  # type: ignore[attr-defined]
        if running is not None:
            running.step()
        handle._run()

    def _let_time_pass(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck(f"Nothing will ever happen after {self._now:g} s.")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._due.append(heapq.heappop(timers)[2])

    def _finish(self, generator: AsyncGenerator[Any, Any]) -> None:
        self.call_soon(lambda: self.create_task(generator.aclose()))

    # -- what asyncio asks of an event loop

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._due.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **_: Any,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=str(name or "task"), context=context)
        running = RUNNING.get() if context is None else context.get(RUNNING)
        if running is not None:
            running.has_begun(task)
        return task

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """What is meant for a thread is done between two steps: threads take turns here, and nobody knows whose is next."""
        future: asyncio.Future[T] = self.create_future()
        self.call_soon(self._work, future, lambda: func(*args))
        return future

    @staticmethod
    def _work(future: asyncio.Future[T], function: Callable[[], T]) -> None:
        if future.cancelled():
            return
        try:
            result = function()
        except Exception as error:  # noqa: BLE001  raised by whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        running = RUNNING.get()
        if running is None or not running.failed(context):
            self.lost.append(f"{context.get('message')}: {context.get('exception')!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._is_over

    def close(self) -> None:
        """Forget what was still to be done."""
        self._is_over = True
        self._due.clear()
        self._timers.clear()

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        pass
