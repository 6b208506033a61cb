"""Many small choices out of a few random bytes: drawing one by one would take longer than what is to be tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Digits"]

T = TypeVar("T")


class Digits:
    """Takes choices from a number. The number 0 makes the first choice every time, so what shrinks gets simpler."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def choose(self, options: Sequence[T]) -> T:
        self._left, digit = divmod(self._left, len(options))
        return options[digit]

    def below(self, limit: int) -> int:
        self._left, digit = divmod(self._left, limit)
        return digit

    def some(self, options: Sequence[T], most: int) -> list[T]:
        """From none to ``most`` of the options, perhaps the same twice."""
        return [self.choose(options) for _ in range(self.below(most + 1))]
