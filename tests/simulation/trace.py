"""What happened, in words: the last events for a person, and a digest of all of them for comparing two runs."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

__all__ = ["Trace"]

_KEPT = 300


class Trace:
    """Takes notes.

    Args:
        now: virtual seconds.
        tell: is told each line at once.
    """

    def __init__(self, now: Callable[[], float], tell: Callable[[str], object] | None = None) -> None:
        self._now = now
        self._tell = tell
        self._digest = hashlib.blake2b(digest_size=16)
        self.last: deque[str] = deque(maxlen=_KEPT)
        self.count = 0

    def note(self, who: str, what: str) -> None:
        line = f"{self._now():>14.6f} {who:<8} {what}"
        self._digest.update(line.encode())
        self.count += 1
        self.last.append(line)
        if self._tell is not None:
            self._tell(line)

    @property
    def digest(self) -> str:
        """The same for two runs in which the same happened at the same time."""
        return self._digest.hexdigest()
