"""Worker threads for what blocks, none of which keeps the interpreter from ending.

The standard library's executor joins its threads at the end of the interpreter, so that one call on a network disk that
does not answer would keep a program from ending for ever. And each thread has a heap of its own, which seldom gets smaller: so
there are no more than have something to do at once, and the one that worked last is the next to work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Workers"]

T = TypeVar("T")
_Job = Callable[[], Callable[[], None]]
"""Does something, and returns what tells the result."""
_Inbox = SimpleQueue[_Job | None]


class Workers(ThreadPoolExecutor):
    """The default executor of an event loop, which has to be a ``ThreadPoolExecutor``; it is one by its name alone.

    Args:
        limit: how many threads there are at most.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._idle: list[_Inbox] = []
        self._hired: list[threading.Thread] = []
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function in a worker thread. A callback of the future holds up that thread, so it must not wait for another.

        Raises:
            RuntimeError: after ``shutdown``, or no thread can be started.
        """
        future: Future[T] = Future()

        def job() -> Callable[[], None]:
            if not future.set_running_or_notify_cancel():
                return lambda: None
            try:
                return partial(future.set_result, fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  raised by whoever asks for the result
                return partial(future.set_exception, error)

        with self._lock:
            if self._closed:
                raise RuntimeError("These workers were sent home.")
            if self._idle:
                self._idle.pop().put(job)
            elif len(self._hired) >= self._limit or not self._hire(job):
                self._waiting.append(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs. Those that were given are done; nobody waits for them here."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().put(None)

    def end(self, timeout: float) -> None:
        """Take no more jobs, and wait for those that were given, at most so many seconds."""
        self.shutdown()
        deadline = time.monotonic() + timeout
        for thread in self._hired:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _hire(self, job: _Job) -> bool:
        inbox: _Inbox = SimpleQueue()
        inbox.put(job)
        name = f"localstore-worker-{len(self._hired)}"
        thread = threading.Thread(target=self._work, args=(inbox,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads; at the end of the interpreter there is nobody left to be told
            if not self._hired and threading.main_thread().is_alive():
                raise
            return False
        self._hired.append(thread)
        return True

    def _work(self, inbox: _Inbox) -> None:
        while (job := inbox.get()) is not None:
            tell = job()
            del job
            self._next_for(inbox)
            tell()
            del tell  # with the result in it, while the next one is waited for

    def _next_for(self, inbox: _Inbox) -> None:
        """What a worker does when it has told its result: to be called before, as who hears of that may have the next job."""
        with self._lock:
            if self._waiting:
                inbox.put(self._waiting.popleft())
            elif self._closed:
                inbox.put(None)
            else:
                self._idle.append(inbox)
