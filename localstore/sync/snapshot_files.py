"""A place for a snapshot while it is on its way, for tasks of an event loop that may be broken off at any time."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path

from localstore.store.snapshot_place import snapshot_place
from localstore.sync.blocking import in_thread
from localstore.sync.parts import SessionParts

__all__ = ["snapshot_file"]


@asynccontextmanager
async def snapshot_file(parts: SessionParts) -> AsyncIterator[Path | None]:
    """A path where nothing is yet, for the block; None where a snapshot of this store may not lie anywhere."""
    held = _Held(snapshot_place(parts.store, parts.environment.random_bytes))
    try:
        yield await in_thread(parts.environment, held.enter)
    finally:
        await parts.environment.run_blocking(held.leave)


class _Held:
    """A place that is entered and left in worker threads, also when whoever entered was broken off meanwhile."""

    def __init__(self, place: AbstractContextManager[Path | None]) -> None:
        self._place = place
        self._entering = threading.Lock()
        self._stack = ExitStack()
        self._is_gone = False

    def enter(self) -> Path | None:
        with self._entering:
            return None if self._is_gone else self._stack.enter_context(self._place)

    def leave(self) -> None:
        with self._entering:
            self._is_gone = True
            self._stack.close()
