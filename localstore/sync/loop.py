"""One asyncio loop in one background thread, for all sessions of an app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["BackgroundLoop"]

_GRACE_SECONDS = 2.0  # for tasks that are letting go of something when the loop is stopped


class BackgroundLoop:
    """Started at its first use; ends with ``stop`` or the interpreter, and does not start again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def post(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the loop's thread soon; dropped when the loop has stopped."""
        loop = self._running()
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(function)

    def is_current(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> None:
        """Cancel what runs and end the thread, waiting at most ``timeout`` seconds for it."""
        with self._lock:
            self._stopped = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.stop)
        if threading.current_thread() is not thread:
            thread.join(timeout)

    def _running(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None and not self._stopped:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(_end(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks. One that was cancelled before is closing its line, and is not interrupted as long as it hurries."""
    for task in tasks:
        if not task.cancelling():
            task.cancel()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
