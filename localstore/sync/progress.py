"""How far a transfer is, in bytes, as estimates between 0 and 1. Pure: the session says what moved and what is left.

The figures follow Realm: ``CURRENT_CHANGES`` is about what was outstanding when somebody asked and never goes back;
``INDEFINITELY`` is about whatever there is, and starts anew after each time that everything was transferred.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Direction", "Meter", "Progress", "ProgressMode", "Tracking"]


class Direction(enum.Enum):
    """Which way a transfer goes."""

    UPLOAD = "upload"
    DOWNLOAD = "download"


class ProgressMode(enum.Enum):
    """What progress is about."""

    CURRENT_CHANGES = "current changes"
    """What is outstanding now; ends when that was transferred."""
    INDEFINITELY = "indefinitely"
    """Whatever there is to transfer, until the realm is closed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is.

    Attributes:
        estimate: the part that was transferred, from 0.0 to 1.0, by bytes.
    """

    estimate: float

    @property
    def is_transfer_complete(self) -> bool:
        """Whether nothing is left."""
        return self.estimate >= 1.0


@dataclass(slots=True)
class Meter:
    """One direction of a session.

    Attributes:
        moved: bytes transferred since the session started.
        left: bytes still to be transferred; None when that is not known.
        base: what had been transferred when nothing was left for the last time.
    """

    moved: int = 0
    left: int | None = None
    base: int = 0

    def advance(self, byte_count: int, left: int | None) -> None:
        """So many bytes were transferred, and so many are left."""
        if self.left == 0 and (byte_count or left):
            self.base = self.moved  # everything was transferred before: what came since is another transfer
        self.moved += byte_count
        self.left = left

    def lose_sight(self) -> None:
        """What is left cannot be known until the remote is reached again."""
        if self.left == 0:
            self.base = self.moved
        self.left = None

    @property
    def estimate(self) -> float | None:
        """The part of the present transfer that is done; None when nobody can tell yet."""
        if self.left is None:
            return None
        done = self.moved - self.base
        return 1.0 if self.left == 0 else done / (done + self.left)


class Tracking:
    """One listener's progress.

    Args:
        mode: what it is about.
        meter: its direction, as it is now.
    """

    def __init__(self, mode: ProgressMode, meter: Meter) -> None:
        self.mode = mode
        self._from = meter.moved
        self._captured = meter.left
        self._last: float | None = None

    def next(self, meter: Meter) -> Progress | None:
        """What is new since it was asked last; None when nothing is, or nobody can tell yet."""
        estimate = meter.estimate if self.mode is ProgressMode.INDEFINITELY else self._of_captured(meter)
        if estimate is None or estimate == self._last:
            return None
        self._last = estimate
        return Progress(estimate)

    @property
    def is_over(self) -> bool:
        """Whether there will be nothing more to say."""
        return self.mode is ProgressMode.CURRENT_CHANGES and self._last == 1.0

    def _of_captured(self, meter: Meter) -> float | None:
        done = meter.moved - self._from
        if meter.left == 0:
            return 1.0
        if self._captured is None:
            if meter.left is None:
                return None
            self._captured = done + meter.left
        self._captured = min(self._captured, done + (meter.left if meter.left is not None else self._captured))
        return max(self._last or 0.0, min(1.0, done / self._captured))
