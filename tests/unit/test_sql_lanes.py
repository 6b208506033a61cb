"""Work that waits for one lock leaves threads to all others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from localstore.errors import Busy, Offline
from localstore_adapters._sql_lanes import Lanes
from tests.unit.session_kit import PATIENCE


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


class Lock:
    """One that somebody holds."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.error: Exception | None = None
        self.dropped = 0

    def work(self) -> str:
        assert self.free.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return "done"

    def drop(self) -> None:
        self.dropped += 1


def test_who_waits_for_one_lock_leaves_threads_to_who_waits_for_none(pool: ThreadPoolExecutor) -> None:
    lanes, stuck, free = Lanes(2), Lock(), Lock()
    free.free.set()
    waiting = [lanes.submit(pool, "stuck", stuck.work, stuck.drop) for _ in range(9)]
    quick = [lanes.submit(pool, "free", free.work, free.drop) for _ in range(9)]
    assert [job.result(PATIENCE) for job in quick] == ["done"] * 9
    assert not any(job.done() for job in waiting)
    stuck.free.set()
    assert [job.result(PATIENCE) for job in waiting] == ["done"] * 9
    assert (len(lanes), stuck.dropped) == (0, 0)


def test_when_the_lock_is_not_to_be_had_all_who_wait_hear_so_at_once(pool: ThreadPoolExecutor) -> None:
    lanes, stuck = Lanes(1), Lock()
    stuck.error = Busy("The lock is held.")
    waiting = [lanes.submit(pool, "stuck", stuck.work, stuck.drop) for _ in range(5)]
    stuck.free.set()
    assert [job.exception(PATIENCE) for job in waiting] == [stuck.error] * 5
    assert (len(lanes), stuck.dropped) == (0, 4)


def test_what_fails_is_told_to_its_own_caller_alone(pool: ThreadPoolExecutor) -> None:
    lanes, failing, fine = Lanes(1), Lock(), Lock()
    failing.error = Offline("The line is dead.")
    jobs = [lanes.submit(pool, "lane", lock.work, lock.drop) for lock in (failing, fine)]
    failing.free.set()
    fine.free.set()
    assert jobs[0].exception(PATIENCE) is failing.error
    assert jobs[1].result(PATIENCE) == "done"
    assert (len(lanes), fine.dropped) == (0, 0)


def test_a_pool_that_takes_no_more_leaves_nothing_behind(pool: ThreadPoolExecutor) -> None:
    lanes, lock = Lanes(1), Lock()
    pool.shutdown()
    with pytest.raises(RuntimeError):
        lanes.submit(pool, "lane", lock.work, lock.drop)
    assert len(lanes) == 0
