"""Work that follows from many small events, done once for all that came meanwhile, and not more often than it may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from localstore.environment import Environment, SessionLoop
from localstore.errors import RealmClosed

__all__ = ["Coalesced"]

T = TypeVar("T")
_AGAIN_SECONDS = 5.0  # after work that failed


class Coalesced(Generic[T]):
    """Does some work after each poke, at once or when the quiet time since the last one is over; never misses the last poke.

    Args:
        loop: where it runs.
        environment: the world.
        work: may block; done in a worker thread.
        then: gets what came of it, in the loop. Work that fails is done again later, unless the file was closed.
        quiet_s: seconds between two times at least.
    """

    def __init__(
        self,
        loop: SessionLoop,
        environment: Environment,
        work: Callable[[], T],
        then: Callable[[T], object],
        quiet_s: float = 0.0,
    ) -> None:
        self._loop = loop
        self._environment = environment
        self._work = work
        self._then = then
        self._quiet_s = quiet_s
        self._poked = False
        self._task: asyncio.Task[None] | None = None

    def poke(self) -> None:
        """Something happened. From any thread; never waits."""
        self._loop.post(self._begin)

    def _begin(self) -> None:
        self._poked = True
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._poked:
            self._poked = False
            try:
                done = await self._environment.run_blocking(self._work)
            except RealmClosed:
                return
            except Exception:  # noqa: BLE001  whoever uses the file meets the same error and tells of it
                self._poked = True  # what was poked for is still to be done
                await self._environment.sleep(_AGAIN_SECONDS)
                continue
            self._then(done)
            if self._quiet_s:
                await self._environment.sleep(self._quiet_s)
