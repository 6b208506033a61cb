"""Waking tasks of any event loop when something has come about in some other thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Bell"]


class Bell:
    """Rung by whoever brings something about; heard by all tasks that wait at that moment."""

    def __init__(self) -> None:
        self._wakers: list[Callable[[], object]] = []

    def ring(self) -> None:
        """Let those who wait look again. From any thread; never waits."""
        for wake in list(self._wakers):
            with suppress(RuntimeError):  # its event loop was closed, and nobody waits any more
                wake()

    async def wait(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until it is so; False when the time was up before."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(rung.set)

        self._wakers.append(wake)
        try:
            async with asyncio.timeout(timeout):
                while not until():  # asked after the waker is known, so that no ring is missed
                    await rung.wait()
                    rung.clear()
        except TimeoutError:
            return until()
        finally:
            self._wakers.remove(wake)
        return True
