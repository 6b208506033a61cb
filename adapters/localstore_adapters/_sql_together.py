"""Writes that wait for the same lock, done in one transaction: a commit is the dearest part of a small write, and shared so.

All are done or none. When one of them fails, they are done again one by one, so that it fails alone. This module knows no SQL
and nothing of what is written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from localstore.errors import Busy, Offline

__all__ = ["Part", "Together"]

_C = TypeVar("_C")
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Part(Generic[_C, _T]):
    """One write, and what became of it."""

    work: Callable[[_C], _T]
    done: Future[_T] = field(default_factory=Future)


class Together(Generic[_C]):
    """The writes that wait for one lock.

    Args:
        writing: a transaction; raises ``Busy`` or ``Offline`` when the database does not let anybody write.
    """

    def __init__(self, writing: Callable[[], AbstractContextManager[_C]]) -> None:
        self._writing = writing
        self._lock = threading.Lock()
        self._waiting: deque[Part[_C, object]] = deque()

    def add(self, work: Callable[[_C], _T]) -> Part[_C, _T]:
        """Let a write wait for the next transaction. Whoever adds one sees to it that ``finish`` is called, in any thread."""
        part = Part(work)
        with self._lock:
            self._waiting.append(part)  # type: ignore[arg-type]
        return part

    def finish(self, part: Part[_C, _T]) -> _T:
        """What a write gives, or raises. If nobody has done it yet, it is done now, with all that wait."""
        if not part.done.done():  # else what came since would keep it waiting, and be written without those that come meanwhile
            with self._lock:
                parts, self._waiting = self._waiting, deque()
            if parts:
                self._do(parts)
        return part.done.result()

    def _do(self, parts: Sequence[Part[_C, object]]) -> None:
        try:
            with self._writing() as connection:
                results = [part.work(connection) for part in parts]
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            if len(parts) == 1 or isinstance(error, Busy | Offline):
                for part in parts:
                    part.done.set_exception(error)
                return
            for part in parts:
                self._do([part])
        else:
            for part, result in zip(parts, results, strict=True):
                part.done.set_result(result)
