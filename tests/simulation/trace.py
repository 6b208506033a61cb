"""What happened, in words: the last events for a person, and a digest of all of them for comparing two runs."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable

__all__ = ["Logged", "Trace"]

_KEPT = 300


class Trace:
    """Takes notes.

    Args:
        now: virtual seconds.
        hide: what is another text in every run.
        tell: is told each line at once.
    """

    def __init__(self, now: Callable[[], float], hide: str, tell: Callable[[str], object] | None = None) -> None:
        self._now = now
        self._hide = hide
        self._tell = tell
        self._digest = hashlib.blake2b(digest_size=16)
        self.last: deque[str] = deque(maxlen=_KEPT)
        self.count = 0

    def note(self, who: str, what: str) -> None:
        line = f"{self._now():>14.6f} {who:<8} {what.replace(self._hide, '')}"
        self._digest.update(line.encode())
        self.count += 1
        self.last.append(line)
        if self._tell is not None:
            self._tell(line)

    @property
    def digest(self) -> str:
        """The same for two runs in which the same happened at the same time."""
        return self._digest.hexdigest()


class Logged(logging.Handler):
    """Takes note of what the library logs. Errors are told as well: nothing that a simulation does is a reason for one."""

    def __init__(self, trace: Trace, fail: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._trace = trace
        self._fail = fail

    def emit(self, record: logging.LogRecord) -> None:
        self._trace.note("log", record.getMessage())
        if record.levelno >= logging.ERROR:
            self._fail(self.format(record))
