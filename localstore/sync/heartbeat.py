"""When an idle session asks its remote for a sign of life. Pure."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Heartbeat"]

_EARLIER = 0.1  # the largest part of a period by which a ping comes earlier, so that devices do not ping in step


class Heartbeat:
    """The pings of one connection, in seconds on a clock that never steps back.

    The first one comes at any time within a period, so that devices which connected together do not ping together; later
    ones after a period less a little, and less the time that the last answer took (as in Realm's sync client).

    Args:
        period: the longest time between pings.
        random: a number in [0, 1).
        now: when the connection was made.
    """

    def __init__(self, period: float, random: Callable[[], float], now: float) -> None:
        self._period = period
        self._random = random
        self._due = now + period * random()

    def due_in(self, now: float) -> float:
        """Seconds to the next ping; 0 when it is due."""
        return max(0.0, self._due - now)

    def answered(self, now: float, took: float) -> None:
        """The remote gave a sign of life after so many seconds."""
        self._due = now + max(0.0, self._period * (1 - _EARLIER * self._random()) - took)
