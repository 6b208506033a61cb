"""Stamps: hybrid logical clock readings in one 64-bit integer, and the versions that order all changes.

A stamp is 48 bits of Unix milliseconds above 16 bits of counter (Kulkarni et al., "Logical Physical Clocks", 2014).
Pure functions only: this module never reads a clock.
"""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["COUNTER_BITS", "MAX_STAMP", "Version", "latest_believed_ms", "next_stamp", "stamp_at", "stamp_ms", "stamp_time"]

COUNTER_BITS = 16
MAX_STAMP = 2**63 - 1  # what one SQLite integer holds; reached in the year 6429

Version = tuple[int, bytes]
"""``(stamp, device)``: the total order of changes. Ties of the stamp are broken by the device's bytes."""


def stamp_at(now_ms: int) -> int:
    """The smallest stamp of a millisecond since the Unix epoch."""
    return now_ms << COUNTER_BITS


def stamp_ms(stamp: int) -> int:
    """Milliseconds since the Unix epoch at which a stamp was made."""
    return stamp >> COUNTER_BITS


def stamp_time(stamp: int) -> datetime:
    """A stamp as an aware UTC time, for people."""
    return datetime.fromtimestamp(stamp_ms(stamp) / 1000, UTC)


def next_stamp(last: int, now_ms: int) -> int:
    """The stamp after ``last``, the highest one made or seen here.

    Strictly greater than ``last`` even when the clock stands still or steps back; a full counter runs over into the
    milliseconds, which keeps the order and costs one millisecond of drift.
    """
    return max(stamp_at(now_ms), last + 1)


def latest_believed_ms(last: int, now_ms: int, drift_s: float) -> int:
    """Up to when changes of others may be stamped and are applied at once, although no later stamp of this device will be
    smaller: a little after its clock, or as far as its stamps went already. A device whose clock was ahead and was set right
    has no reason to let wait what it has seen, as when it begins anew.

    Args:
        last: the highest stamp made or seen here.
        now_ms: this device's clock.
        drift_s: how far others' may be ahead of it.
    """
    return max(now_ms + int(drift_s * 1000), stamp_ms(last))
