"""One writer at a time within a process, with a clear error for a write inside a write.

SQLite itself keeps the writers of different processes apart; this lock keeps our own threads and tasks off the one
writing connection, and knows who holds it.
"""

from __future__ import annotations

import asyncio
import threading

from localstore.errors import NestedWrite, StoreBusy

__all__ = ["WriteLock"]


class WriteLock:
    """Taken by a thread or, inside an event loop, by a task."""

    def __init__(self, timeout: float) -> None:
        self._lock = threading.Lock()
        self._timeout = timeout
        self._holder: tuple[int, object] | None = None

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            NestedWrite: the holder is this thread or task, or a task of the event loop that this call would stop.
            StoreBusy: it was not to be had within the timeout.
        """
        caller = self.caller()
        holder = self._holder
        if holder is not None and holder[0] == caller[0]:
            raise NestedWrite(
                "write() was called while this thread is inside another write(). Nothing was written by the inner one.",
                hint="Use the outer block's session; in an event loop, `async with realm.write_async()` lets tasks take turns.",
            )
        self.acquire_for(caller)

    def acquire_for(self, caller: tuple[int, object]) -> None:
        """Wait for the lock on behalf of ``caller``, who is known not to hold it."""
        if not self._lock.acquire(timeout=self._timeout):
            raise StoreBusy(
                f"Another thread of this process has been writing for more than {self._timeout:g} s. Nothing was written.",
                hint="Keep write() blocks short, or raise the setting busy_timeout.",
            )
        self._holder = caller

    def check_not_held_by(self, caller: tuple[int, object]) -> None:
        """Refuse a write inside a write of the very same task.

        Raises:
            NestedWrite: ``caller`` holds the lock.
        """
        if self._holder == caller:
            raise NestedWrite(
                "write_async() was called while this task is inside another write(). Nothing was written by the inner one.",
                hint="Use the outer block's session.",
            )

    def release(self) -> None:
        self._holder = None
        self._lock.release()

    @staticmethod
    def caller() -> tuple[int, object]:
        """Who asks: the thread, and the task if there is one."""
        try:
            task: object = asyncio.current_task()
        except RuntimeError:
            task = None
        return threading.get_ident(), task
