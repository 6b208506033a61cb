"""Calls of the adapter that no session makes: logging in and out, and renewing tokens. Each has a line of its own.

Run in the background loop for callers in any thread. Adapters misbehave in the same ways here as in a cycle, and what they
say may quote what they were given.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

from localstore.adapter import SupportsUsers, SyncAdapter
from localstore.environment import Environment, SessionLoop
from localstore.errors import Offline, OperationAborted, ProtocolError, SyncError
from localstore.registry import AdapterFactory
from localstore.sync.letting_go import let_go
from localstore.sync.redaction import redacted_error

__all__ = ["Calls", "ask_remote"]

T = TypeVar("T")


class Calls:
    """Coroutines in the background loop whose results are waited for elsewhere."""

    def __init__(self, loop: SessionLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._closed = False

    def start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin a call; cancelling the future cancels it."""
        future: Future[T] = Future()
        with self._lock:
            if not self._closed:
                self._pending.add(future)
                future.add_done_callback(self._forget)
                self._loop.post(lambda: self._begin(make, future))
                return future
        future.set_exception(_aborted())
        return future

    def close(self) -> None:
        """Break off what is under way; nothing begins any more."""
        with self._lock:
            self._closed = True
            pending = list(self._pending)
        for future in pending:
            with suppress(InvalidStateError):
                future.set_exception(_aborted())

    def _begin(self, make: Callable[[], Coroutine[Any, Any, T]], future: Future[T]) -> None:
        if future.done():
            return
        loop = asyncio.get_running_loop()
        task = self._loop.begin(make())
        task.add_done_callback(lambda done: _deliver(done, future))

        def cancel(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed, and the task with it
                loop.call_soon_threadsafe(task.cancel)

        future.add_done_callback(cancel)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)


async def ask_remote(
    make_adapter: AdapterFactory,
    call: Callable[[SupportsUsers], Awaitable[T]],
    *,
    loop: SessionLoop,
    environment: Environment,
    seconds: float,
    secrets: Collection[str],
) -> T:
    """One call on a line of its own, which nobody waits for to be closed, nor to end when it was cancelled.

    Args:
        make_adapter: a new line.
        call: what is asked.
        loop: where it runs.
        environment: the world.
        seconds: how long it may take.
        secrets: what no error may quote.

    Raises:
        SyncError: as the contract says; ``Offline`` when the time is up, ``ProtocolError`` for what an adapter may not raise.
    """
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    asking = loop.begin(_ask(make_adapter, call, answer, loop, seconds, secrets))
    try:
        async with environment.timeout(seconds):
            return await answer
    except TimeoutError:
        problem: SyncError = _too_late(seconds)
    except SyncError as error:
        problem = error
    finally:
        if answer.cancelled():
            asking.cancel()
        elif answer.done():
            answer.exception()  # retrieved, also when it came just as the time was up
    redacted_error(problem, secrets)
    raise problem  # here, where no error that tells a secret comes along as context


async def _ask(
    make_adapter: AdapterFactory,
    call: Callable[[SupportsUsers], Awaitable[T]],
    answer: asyncio.Future[T],
    loop: SessionLoop,
    seconds: float,
    secrets: Collection[str],
) -> None:
    """Make a line, ask, answer, and let go of the line: in one task, as an adapter may need it to be the same."""
    adapter: SyncAdapter | None = None
    try:
        adapter = make_adapter()
        if not isinstance(adapter, SupportsUsers):
            raise ProtocolError(
                f"{type(adapter).__name__} says that its remote has users, and cannot log in.", hint="Report this."
            )
        found = await call(adapter)
        if not answer.done():  # nobody waits any more for one that did not end when it was cancelled
            answer.set_result(found)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  raised by whoever waits for the answer
        if not answer.done():
            answer.set_exception(_problem(adapter, error, seconds))
    finally:
        if adapter is not None:
            await let_go(adapter, loop, secrets)


def _problem(adapter: SyncAdapter | None, error: BaseException, seconds: float) -> SyncError:
    """What an adapter raised, as an error of the contract."""
    if isinstance(error, SyncError):
        return error
    if isinstance(error, TimeoutError):
        return _too_late(seconds)
    problem = ProtocolError(
        f"{_named(adapter)} failed with {type(error).__name__}: {error}. Local data is untouched.",
        hint="This is a bug in the adapter: report it to its authors.",
    )
    problem.__cause__ = error
    return problem


def _too_late(seconds: float) -> Offline:
    return Offline(f"The remote did not answer within {seconds:g} s. Local work goes on.")


def _named(adapter: SyncAdapter | None) -> str:
    return "Making the adapter" if adapter is None else type(adapter).__name__


def _deliver(task: asyncio.Task[T], future: Future[T]) -> None:
    error = None if task.cancelled() else task.exception()  # retrieved in any case
    with suppress(InvalidStateError):  # the caller gave up meanwhile
        if task.cancelled():
            future.set_exception(_aborted())
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


def _aborted() -> OperationAborted:
    return OperationAborted("The app was closed meanwhile.", hint="Create a new one with App.create().")
