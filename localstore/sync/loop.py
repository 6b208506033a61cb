"""One asyncio loop in one background thread, for all sessions of an app.

It never keeps the interpreter from ending: its threads are daemons, and what they do is broken off after a moment. In a forked
child there is no such thread, and the loop begins anew when it is needed.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, TypeVar

from localstore.store.forking import begins_anew, kept_for_ever
from localstore.sync.workers import Workers

__all__ = ["BackgroundLoop"]

_GRACE_SECONDS = 2.0  # for tasks that are letting go of something when the loop is stopped
_LAST_SECONDS = 0.5  # for the same when they are told again
_EXIT_SECONDS = 1.0  # for the same at the end of the interpreter
_MOMENT_SECONDS = 0.03  # for what does nothing any more but let go of its line: as good as none
_WORKERS = 32

T = TypeVar("T")

_log = logging.getLogger("localstore.sync")
_loops: weakref.WeakSet[BackgroundLoop] = weakref.WeakSet()
"""Loops whose thread may run; of the process, as its end is."""


class BackgroundLoop:
    """Started at its first use; ends with ``stop`` or the interpreter, and does not start again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving = _Leaving()

    def post(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop's thread soon; dropped when the loop has stopped."""
        loop = self._running()
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(function)

    def is_current(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.current_thread() is self._thread

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that goes on though everybody forgets it; to be called in the loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def letting_go(self) -> AbstractContextManager[None]:
        """What the current task does in this block is to let go of its line. Nobody waits for that who stops the loop."""
        return self._leaving.going()

    def stop(self, timeout: float, *, to_the_end: bool = False) -> None:
        """Cancel what runs and end the thread.

        Args:
            timeout: how many seconds to wait at most.
            to_the_end: wait also for tasks that do nothing any more but let go of their lines; they go on either way.
        """
        with self._lock:
            was_stopped, self._stopped = self._stopped, True
            loop, thread, leaving = self._loop, self._thread, self._leaving
        if loop is None or thread is None:
            return
        if not was_stopped:  # a second time it would break off what the loop does at its end
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.stop)
        if threading.current_thread() is thread:
            return
        if not to_the_end:
            leaving.is_all.wait(timeout)
        thread.join(timeout if to_the_end else _MOMENT_SECONDS)

    def leave_to_parent(self) -> None:
        """In a forked child: begin anew. The loop that was is the parent's, and to close it would make that one deaf."""
        if self._loop is not None:
            kept_for_ever(self._loop)
            if self.is_current():  # it was a callback in the loop that forked
                self._loop.stop()
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._tasks, self._leaving = set(), _Leaving()

    def _running(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None and not self._stopped:
                _watch_the_end()
                _loops.add(begins_anew(self))
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop, self._leaving), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop, leaving: _Leaving) -> None:
        process = os.getpid()
        workers = Workers(_WORKERS)
        asyncio.set_event_loop(loop)
        loop.set_default_executor(workers)
        try:
            loop.run_forever()
            if os.getpid() == process:
                loop.run_until_complete(_end(asyncio.all_tasks(loop), leaving))
                loop.run_until_complete(loop.shutdown_asyncgens())
                workers.end(_GRACE_SECONDS)
        finally:
            if os.getpid() == process:
                loop.close()
                leaving.is_all.set()


class _Leaving:
    """Which tasks of a loop are letting go of their lines.

    Attributes:
        is_all: set when nothing else is left of a loop that is ending, or nothing at all.
    """

    def __init__(self) -> None:
        self.is_all = threading.Event()
        self._going: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    def __contains__(self, task: asyncio.Task[Any]) -> bool:
        return task in self._going

    @contextmanager
    def going(self) -> Iterator[None]:
        """What the current task does in this block."""
        task = asyncio.current_task()
        assert task is not None
        self._going.add(task)
        self._look()
        try:
            yield
        finally:
            self._going.discard(task)

    def watch(self, tasks: set[asyncio.Task[Any]]) -> None:
        """The loop is ending, with these tasks."""
        self._ending = set(tasks)
        for task in tasks:
            task.add_done_callback(lambda _: self._look())
        self._look()

    def _look(self) -> None:
        self._ending = {task for task in self._ending if not task.done()}
        if self._ending and self._ending <= self._going:
            self.is_all.set()


async def _end(tasks: set[asyncio.Task[Any]], leaving: _Leaving) -> None:
    """Cancel tasks. One that was cancelled before or is letting go of its line is not interrupted as long as it hurries.

    One that will not end whatever is done is left as it is: an adapter must not keep an app from closing.
    """
    leaving.watch(tasks)
    for task in tasks:
        if not task.cancelling() and task not in leaving:
            task.cancel()
    for seconds in (_GRACE_SECONDS, _LAST_SECONDS):
        if not tasks:
            return
        ended, tasks = await asyncio.wait(tasks, timeout=seconds)
        await asyncio.gather(*ended, return_exceptions=True)
        for task in tasks:
            task.cancel()
    for task in tasks:
        _log.warning("A task of an adapter goes on after it was cancelled twice, and was left behind.")
        kept_for_ever(task)  # destroyed, it would run once more, with no loop below it


@functools.cache
def _watch_the_end() -> None:
    """Let adapters close their lines at the end of the interpreter."""
    atexit.register(_stop_all)


def _stop_all() -> None:
    for loop in list(_loops):
        loop.stop(_EXIT_SECONDS, to_the_end=True)
