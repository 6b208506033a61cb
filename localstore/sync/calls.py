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
from localstore.environment import Environment
from localstore.errors import Offline, OperationAborted, ProtocolError, SyncError
from localstore.registry import AdapterFactory
from localstore.sync.loop import BackgroundLoop
from localstore.sync.redaction import redacted_error

__all__ = ["Calls", "ask_remote"]

T = TypeVar("T")
_CLOSE_SECONDS = 2.0  # how long the line of one call may take to be let go


class Calls:
    """Coroutines in the background loop whose results are waited for elsewhere."""

    def __init__(self, loop: BackgroundLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
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
        task = loop.create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
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
    environment: Environment,
    seconds: float,
    secrets: Collection[str],
) -> T:
    """One call on a line of its own.

    Args:
        make_adapter: a new line.
        call: what is asked.
        environment: the world.
        seconds: how long it may take.
        secrets: what no error may quote.

    Raises:
        SyncError: as the contract says; ``Offline`` when the time is up, ``ProtocolError`` for what an adapter may not raise.
    """
    adapter: SyncAdapter | None = None
    try:
        adapter = make_adapter()
        if not isinstance(adapter, SupportsUsers):
            raise ProtocolError(
                f"{type(adapter).__name__} says that its remote has users, and cannot log in.", hint="Report this."
            )
        async with environment.timeout(seconds):
            return await call(adapter)
    except TimeoutError:
        problem: SyncError = Offline(f"The remote did not answer within {seconds:g} s. Local work goes on.")
    except SyncError as error:
        problem = error
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        problem = ProtocolError(
            f"{_named(adapter)} failed with {type(error).__name__}: {error}. Local data is untouched.",
            hint="This is a bug in the adapter: report it to its authors.",
        )
        problem.__cause__ = error
    finally:
        if adapter is not None:
            with suppress(Exception):  # the line is not used any more: how it ends concerns nobody
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await adapter.close()
    redacted_error(problem, secrets)
    raise problem  # here, where no error that tells a secret comes along as context


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
