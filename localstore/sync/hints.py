"""The remote's hints that something is new, as a task beside the cycle. It may fail: a timer looks for news as well."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from localstore.adapter import Cursor, Hint, SupportsWatch, SyncAdapter
from localstore.errors import SyncError
from localstore.urls import redacted_text

__all__ = ["Hints"]

_AGAIN_SECONDS = 5.0  # from one beginning of a watch to the next: one that ends at once must not go round and round, nor wake
_BROUGHT_MAX = 16  # hints whose pages are kept; when more come, the session is busy, and looks afterwards


class Hints:
    """Follows the watch of one adapter.

    Args:
        adapter: whose; one that cannot watch gives no hints.
        monotonic: seconds on a clock that never steps back.
        heard: called with each hint.
        warn: called in words when the watch is broken.

    Attributes:
        heard: whether there is more than what hints brought, as far as is known.
        brought: hints that brought something, oldest first.
    """

    def __init__(
        self,
        adapter: SyncAdapter,
        monotonic: Callable[[], float],
        heard: Callable[[Hint], object],
        warn: Callable[[str], object],
    ) -> None:
        self.heard = False
        self.brought = deque[Hint]()
        self._adapter = adapter
        self._monotonic = monotonic
        self._tell = heard
        self._warn = warn
        self._task: asyncio.Task[None] | None = None
        self._may_begin = 0.0

    @property
    def is_following(self) -> bool:
        """Whether the watch is under way."""
        return self._task is not None and not self._task.done()

    def keep(self, cursor: Cursor | None) -> float:
        """Begin to watch unless that is under way, or ended just before.

        Returns:
            How many seconds later to call again, infinite when there is no need.
        """
        adapter, now = self._adapter, self._monotonic()
        if not adapter.capabilities.watch or not isinstance(adapter, SupportsWatch):
            return math.inf
        if self.is_following:
            return math.inf
        if now < self._may_begin:
            return self._may_begin - now
        self._may_begin = now + _AGAIN_SECONDS
        self._task = asyncio.ensure_future(self._follow(adapter, cursor))
        return math.inf

    @property
    def any(self) -> bool:
        """Whether something is new."""
        return self.heard or bool(self.brought)

    def forget(self) -> None:
        """The remote is being looked at, and so is all that hints told up to now."""
        self.heard = False
        self.brought.clear()

    def stop(self) -> None:
        """Watch no longer."""
        self._may_begin = 0.0
        self.brought.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow(self, adapter: SupportsWatch, cursor: Cursor | None) -> None:
        try:
            async for hint in adapter.watch(cursor):
                if hint.page is not None and len(self.brought) < _BROUGHT_MAX:
                    self.brought.append(hint)
                else:
                    self.heard = True
                self._tell(hint)
        except SyncError:
            pass  # the next pull sees for itself
        except Exception as error:  # noqa: BLE001  a broken watch must not stop the sync it only speeds up
            self._warn(f"Watching the remote failed ({redacted_text(str(error))}); the timer goes on looking for news.")
        if self._monotonic() >= self._may_begin:  # it did work: that it ended is news, as whoever relies on it hears no more
            self.heard = True
            self._tell(Hint(reason="lost"))
