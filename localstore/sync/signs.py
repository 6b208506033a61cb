"""Asking a remote for signs of life, beside whatever else goes on. It knows a line, and nothing of what is sent on it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from localstore.environment import SessionLoop
from localstore.errors import SyncError
from localstore.sync.heartbeat import Heartbeat
from localstore.sync.line import Line

__all__ = ["SignsOfLife"]

_SOON = 0.001  # seconds; what is due sooner is due now


class SignsOfLife:
    """Those of one connection, which is given up when one does not come in time.

    Args:
        line: the connection.
        heartbeat: when to ask.
        monotonic: seconds on a clock that never steps back.
        loop: where the asking goes on.
    """

    def __init__(self, line: Line, heartbeat: Heartbeat, monotonic: Callable[[], float], loop: SessionLoop) -> None:
        self._line = line
        self._heartbeat = heartbeat
        self._monotonic = monotonic
        self._loop = loop
        self._asking: asyncio.Task[None] | None = None

    @property
    def outstanding(self) -> asyncio.Task[None] | None:
        """Ends with the answer that is awaited, or without; None when none is."""
        return None if self._asking is None or self._asking.done() else self._asking

    def keep(self) -> float:
        """Ask when it is time to; returns how many seconds nobody needs to call this again unless an answer comes."""
        if not self._line.can_ping or self.outstanding is not None:
            return math.inf
        due = self._heartbeat.due_in(self._monotonic())
        if due > _SOON:
            return due
        self._asking = self._loop.begin(self._ask())
        return math.inf

    async def ask_urgently(self) -> None:
        """Wait for a sign of life, not for long.

        Raises:
            SyncError: none came.
        """
        asked = self._monotonic()
        await self._line.ping(urgent=True)
        self.close()
        self._heartbeat.answered(self._monotonic(), self._monotonic() - asked)

    async def _ask(self) -> None:
        asked = self._monotonic()
        try:
            await self._line.ping()
        except SyncError as error:
            self._line.give_up(error)
        else:
            self._heartbeat.answered(self._monotonic(), self._monotonic() - asked)

    def close(self) -> None:
        """Await no answer any more; called at the end of the connection."""
        if self._asking is not None:
            self._asking.cancel()
