"""Work that waits for one and the same lock, a little of it at a time: whoever holds the lock for long then holds up those who
want it, and leaves threads to all others.

This module knows neither databases nor what the work is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from localstore.errors import Busy

__all__ = ["Lanes"]


@dataclass(frozen=True, eq=False)
class _Job:
    work: Callable[[], Any]
    drop: Callable[[], None]
    done: Future[Any] = field(default_factory=Future)

    def give_up(self, error: BaseException) -> None:
        self.drop()
        self.done.set_exception(error)


@dataclass
class _Lane:
    waiting: deque[_Job] = field(default_factory=deque)
    running: int = 0


class Lanes:
    """The lanes of one pool of threads.

    Args:
        width: how much work of one lane is in the pool at one time.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def submit(self, pool: Executor, key: Hashable, work: Callable[[], Any], drop: Callable[[], None]) -> Future[Any]:
        """Do work in a thread of the pool when it is its turn in its lane, which takes turns with the others.

        Args:
            pool: of threads.
            key: the lane.
            work: what to do.
            drop: called instead of it when it is given up.

        Raises:
            RuntimeError: the pool takes no more work.
        """
        job = _Job(work, drop)
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane())
            if lane.running == self._width:
                lane.waiting.append(job)
                return job.done
            lane.running += 1
        try:
            pool.submit(self._run, pool, key, job)
        except RuntimeError:
            self._next(pool, key)
            raise
        return job.done

    def _run(self, pool: Executor, key: Hashable, job: _Job) -> None:
        try:
            result = job.work()
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            if isinstance(error, Busy):
                self._give_up(key, error)
            self._next(pool, key)
            job.done.set_exception(error)
        else:
            self._next(pool, key)
            job.done.set_result(result)

    def _next(self, pool: Executor, key: Hashable) -> None:
        with self._lock:
            lane = self._lanes[key]
            if not lane.waiting:
                lane.running -= 1
                if not lane.running:
                    del self._lanes[key]
                return
            job = lane.waiting.popleft()
        try:
            pool.submit(self._run, pool, key, job)
        except RuntimeError as error:  # the interpreter is ending
            job.give_up(error)
            self._next(pool, key)

    def _give_up(self, key: Hashable, error: Busy) -> None:
        """The lock was not to be had: who has waited behind that need not find out one after the other."""
        with self._lock:
            waiting, self._lanes[key].waiting = self._lanes[key].waiting, deque()
        for job in waiting:
            job.give_up(error)
