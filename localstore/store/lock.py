"""One writer at a time within a process, in the order of arrival, with a clear error for a write inside a write.

SQLite itself keeps the writers of different processes apart; this lock keeps our own threads and tasks off the one
writing connection, and knows who holds it.

The queue is the lock: whoever stands first in it may write. To come and to go are one operation each on a deque, which
nothing can break in two, so no signal, cancellation or garbage collection at whatever moment leaves the lock half taken,
and none of them can meet a lock that guards the lock. All else, waking the next one first of all, may be done twice.

Several stores may be open on one file, with a lock each; there SQLite keeps their writers apart, as it does processes. Only a
write inside a write could never be served, so who writes anywhere in the process is noted in one more deque.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path

from localstore.errors import NestedWrite, StoreBusy
from localstore.store.forking import check_same_process

__all__ = ["WriteLock"]


class _Turn:
    """One caller's place in the queue: a thread's, or that of a task in an event loop."""

    def __init__(self, path: Path | None, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.path = path
        self.process = os.getpid()
        self.thread = threading.get_ident()
        self.task = _current_task()
        self.waits_in_loop = loop is not None
        """Whether it is a task that waits and lets its event loop go on; not so any more once it writes."""
        self._loop = loop
        self._called: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._future: asyncio.Future[None] | None = None

    def call(self) -> bool:
        """Say that it is first in the queue, once or more often; False when nobody is there any more to hear it."""
        if self._loop is None:
            self._called.put(None)
            return True
        try:
            self._loop.call_soon_threadsafe(self._hear)
        except RuntimeError:  # its event loop was closed
            return False
        return True

    def wait(self, timeout: float) -> None:
        """Block the thread until it is called, at most so many seconds."""
        with suppress(queue.Empty):
            self._called.get(timeout=min(timeout, threading.TIMEOUT_MAX))

    def prepare(self) -> asyncio.Future[None]:
        """What the task has to wait for. To be asked for before looking at the queue, so that no call is missed."""
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def _hear(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


_everywhere: deque[_Turn] = deque()  # in the queue of any lock; of the process, as threads are


class WriteLock:
    """Held by a thread or, inside an event loop, by a task.

    Args:
        timeout: how many seconds each caller waits for its turn.
        path: the file, so that a write inside that of another lock on it is noticed.
    """

    def __init__(self, timeout: float, path: Path | None = None) -> None:
        self._timeout = timeout
        self._path = path
        self._process = os.getpid()
        self._turns: deque[_Turn] = deque()

    def __len__(self) -> int:
        """How many write or wait to."""
        return len(self._turns)

    @contextmanager
    def held(self, *, closing: bool = False, at_most: float | None = None) -> Iterator[None]:
        """Hold the lock in a thread.

        Args:
            closing: to let go of the file, which a write through another lock on it does not hinder.
            at_most: how many seconds to wait for it, if less than usual.

        Raises:
            NestedWrite: the holder is this thread or task, or a task of the event loop that this call would stop.
            StoreBusy: it was not to be had within the timeout.
        """
        turn = _Turn(self._path)
        self._check_not_inside(turn, closing=closing)
        try:
            try:
                self._take(turn, self._timeout if at_most is None else min(at_most, self._timeout))
                yield
            finally:
                self._leave(turn)
        finally:
            self._leave(turn)  # again, should Ctrl-C have come in the middle

    def held_async(self) -> AbstractAsyncContextManager[None]:
        """Hold the lock in a task, which waits for its turn without a thread, and leaves the queue when it is cancelled.

        Raises:
            NestedWrite: the holder is this very task, or what called this event loop.
            StoreBusy: it was not to be had within the timeout.
        """
        return _HeldInLoop(self)

    def _take(self, turn: _Turn, timeout: float) -> None:
        self._queue(turn)
        self._let_pass(turn)
        if not self._is_first(turn):
            turn.wait(timeout)
            if not self._is_first(turn):
                raise self._busy()

    async def _take_async(self, turn: _Turn) -> None:
        self._queue(turn)
        try:
            async with asyncio.timeout(self._timeout):
                called = turn.prepare()
                while not self._is_first(turn):
                    await called
                    called = turn.prepare()
        except TimeoutError:
            if not self._is_first(turn):
                raise self._busy() from None
        turn.waits_in_loop = False

    def _queue(self, turn: _Turn) -> None:
        self._turns.append(turn)
        if self._path is not None:
            _everywhere.append(turn)

    def _is_first(self, turn: _Turn) -> bool:
        return self._first() is turn

    def _first(self) -> _Turn | None:
        try:
            return self._turns[0]
        except IndexError:
            return None

    def _leave(self, turn: _Turn) -> None:
        """Go, whether it was one's turn or not, and call whoever is first then. Twice is fine."""
        self._forget(turn)
        while (first := self._first()) is not None and not first.call():
            self._forget(first)

    def _forget(self, turn: _Turn) -> None:
        for turns in (self._turns, _everywhere):
            if turn in turns:  # the second time it is not
                with suppress(ValueError):
                    turns.remove(turn)

    def _let_pass(self, turn: _Turn) -> None:
        """Send tasks to the end that wait in the event loop which a plain ``write()`` in its thread is stopping.

        They cannot write before this call is done, and it would wait for them in vain.
        """
        for other in self._turns.copy():
            if other is turn:
                return
            if other.thread == turn.thread and other.waits_in_loop:
                self._leave(other)
                self._queue(other)

    def _check_not_inside(self, turn: _Turn, *, closing: bool) -> None:
        """Refuse a write of a thread that is inside another one, be it that of a task which it runs."""
        check_same_process(self._process, self._path)
        if any(not closing or other in self._turns for other in self._around(turn)):
            raise NestedWrite(
                "write() was called while this thread is inside another write(). Nothing was written by the inner one.",
                hint="Use the outer block's session; in an event loop, `async with realm.write_async()` lets tasks take turns.",
            )

    def _check_task_not_inside(self, turn: _Turn) -> None:
        """Refuse a write of a task that is inside another one, or whose whole event loop is: other tasks just wait."""
        check_same_process(self._process, self._path)
        if any(other.task in (turn.task, None) for other in self._around(turn)):
            raise NestedWrite(
                "write_async() was called while this task is inside another write(). Nothing was written by the inner one.",
                hint="Use the outer block's session.",
            )

    def _around(self, turn: _Turn) -> list[_Turn]:
        """The writes on the same file, by whatever lock, that this thread is inside."""
        turns = self._turns if self._path is None else _everywhere
        return [
            other
            for other in turns.copy()
            if other.thread == turn.thread
            and other.path == turn.path
            and other.process == turn.process
            and not other.waits_in_loop
        ]

    def _busy(self) -> StoreBusy:
        return StoreBusy(
            f"Other threads or tasks of this process have been writing for more than {self._timeout:g} s. Nothing was written.",
            hint="Keep write() blocks short, wait in none for a thread or task that writes, or raise the setting busy_timeout.",
        )


class _HeldInLoop:
    """What ``held_async`` returns. No asynchronous generator: one whose task is thrown away is not told so."""

    def __init__(self, lock: WriteLock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        turn = self._turn = _Turn(self._lock._path, asyncio.get_running_loop())
        self._lock._check_task_not_inside(turn)
        taken = False
        try:
            await self._lock._take_async(turn)
            taken = True
        finally:
            if not taken:
                self._lock._leave(turn)

    async def __aexit__(self, *_: object) -> None:
        self._lock._leave(self._turn)


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
