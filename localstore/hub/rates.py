"""How often somebody may ask: a bucket for each user and each address, that fills up as time goes by. And how much of something
each may have at one time.

In memory, one set a process: with several processes somebody may ask as many times more often. Pure but for its own table; it
knows neither HTTP nor what is asked.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Hashable

__all__ = ["Rates", "Shares"]

_MAX_KEYS = 100_000


class Rates:
    """Buckets of the same size.

    Args:
        per_second: how fast a bucket fills up; 0 for no limit.
        burst: how much is in a full one.
        monotonic: seconds on a clock that never steps back.
        max_keys: how many buckets are kept; the longest unused is forgotten, and with it what its owner had asked.
    """

    def __init__(self, per_second: float, burst: float, monotonic: Callable[[], float], *, max_keys: int = _MAX_KEYS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Ask once: 0 when that is fine, else after how many seconds it will be. What is refused costs nothing."""
        if not self._per_second:
            return 0.0
        now = self._monotonic()
        left, when = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - when) * self._per_second)
        wait = 0.0 if left >= 1 else (1 - left) / self._per_second
        self._buckets[key] = (left if wait else left - 1, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return wait


class Shares:
    """What each has of something at one time, up to a most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[Hashable] = Counter()

    def is_used_up(self, key: Hashable) -> bool:
        return self._taken[key] >= self._most

    @contextlib.contextmanager
    def taking(self, key: Hashable) -> Generator[None]:
        """Have one inside the block."""
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
