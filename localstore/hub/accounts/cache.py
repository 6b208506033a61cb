"""What was looked up a while ago, so that a device does not ask the database for every call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Cache"]

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Cache(Generic[_K, _V]):
    """The latest values, each for so many seconds. Of one event loop.

    Args:
        seconds: how long a value is good.
        count_max: how many are kept.
        monotonic: seconds on a clock that never steps back.
    """

    def __init__(self, seconds: float, count_max: int, monotonic: Callable[[], float]) -> None:
        self._seconds, self._count_max, self._monotonic = seconds, count_max, monotonic
        self._values: OrderedDict[_K, tuple[float, _V]] = OrderedDict()
        self._cleared = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _K) -> _V | None:
        """None when it is not known, or not any more."""
        found = self._values.get(key)
        if found is None:
            return None
        if self._monotonic() >= found[0]:
            del self._values[key]
            return None
        return found[1]

    def moment(self) -> tuple[float, int]:
        """To be taken before a value is looked up, for ``put``."""
        return self._monotonic(), self._cleared

    def put(self, key: _K, value: _V, moment: tuple[float, int]) -> None:
        """Keep what was looked up from that moment on, unless all was forgotten meanwhile."""
        if moment[1] != self._cleared:
            return
        self._values[key] = (moment[0] + self._seconds, value)
        self._values.move_to_end(key)
        if len(self._values) > self._count_max:
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, as something has changed."""
        self._values.clear()
        self._cleared += 1
