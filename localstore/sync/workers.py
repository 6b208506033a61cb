"""Worker threads for what blocks, none of which keeps the interpreter from ending.

The standard library's executor joins its threads at the end of the interpreter, so that one call on a network disk that
does not answer would keep a program from ending for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Workers"]

T = TypeVar("T")
_Job = Callable[[], None]


class Workers(ThreadPoolExecutor):
    """The default executor of an event loop, which has to be a ``ThreadPoolExecutor``; it is one by its name alone.

    Args:
        limit: how many threads there are at most.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._limit = limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._hiring = threading.Lock()
        self._hired: list[threading.Thread] = []
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function in a worker thread.

        Raises:
            RuntimeError: after ``shutdown``, or no thread can be started.
        """
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  raised by whoever asks for the result
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._hiring:
            if self._closed:
                raise RuntimeError("These workers were sent home.")
            if not self._idle.acquire(blocking=False) and len(self._hired) < self._limit:
                self._hire()
            self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs. Those that were given are done; nobody waits for them here."""
        with self._hiring:
            if not self._closed:
                self._closed = True
                for _ in self._hired:
                    self._jobs.put(None)

    def end(self, timeout: float) -> None:
        """Take no more jobs, and wait for those that were given, at most so many seconds."""
        self.shutdown()
        deadline = time.monotonic() + timeout
        for thread in self._hired:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name=f"localstore-worker-{len(self._hired)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads; at the end of the interpreter there is nobody left to be told
            if not self._hired and threading.main_thread().is_alive():
                raise
        else:
            self._hired.append(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # with the result in it, while the next one is waited for
            self._idle.release()
