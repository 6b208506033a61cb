"""The wall clock of one device: it may be wrong, too fast or too slow, and step."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["START_MS", "WallClock"]

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z, so that stamps in a trace can be read


class WallClock:
    """A device's wall clock.

    Args:
        now: true seconds.
        offset_s: how far it is ahead at first.
        rate: seconds that it counts in a true one.
    """

    def __init__(self, now: Callable[[], float], *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self._now = now
        self._rate = rate
        self._offset_s = offset_s

    def now_ms(self) -> int:
        return START_MS + int((self._now() * self._rate + self._offset_s) * 1000)

    def step(self, seconds: float) -> None:
        """Somebody sets it, forward or back."""
        self._offset_s += seconds

    def correct(self) -> None:
        """It is right from now on, as it asks a time server."""
        self._rate, self._offset_s = 1.0, 0.0
