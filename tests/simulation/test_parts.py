"""The simulation's own parts: time that is a number, disks that lose commits, and what sessions keep."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.adapter import Cursor, Hint
from localstore.sync.stream import Broadcast
from localstore.sync.waits import Waits
from tests.simulation.between import opened as opened_disk
from tests.simulation.between import states_between
from tests.simulation.disk import Disk, Log, commits, lose_commits
from tests.simulation.keeping import kept, too_much
from tests.simulation.loop import Stuck, TooManySteps, VirtualLoop
from tests.simulation.minimising import minimised
from tests.simulation.plan import Plan, plan

DAY = 86_400.0


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with closing(VirtualLoop(100)) as loop:
        yield loop


def test_time_passes_only_when_nothing_is_left_to_do(loop: VirtualLoop) -> None:
    seen = list[tuple[str, float]]()

    async def sleep(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.time()))

    async def main() -> None:
        await asyncio.gather(sleep("b", 2 * DAY), sleep("a", DAY), sleep("c", 2 * DAY))

    loop.run_until_complete(main())
    assert seen == [("a", DAY), ("b", 2 * DAY), ("c", 2 * DAY)]


def test_a_timeout_is_virtual_too(loop: VirtualLoop) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(DAY):
                await asyncio.sleep(2 * DAY)

    loop.run_until_complete(main())
    assert loop.time() == DAY


def test_who_waits_for_what_never_comes_is_told(loop: VirtualLoop) -> None:
    with pytest.raises(Stuck):
        loop.run_until_complete(loop.create_future())


def test_what_goes_round_and_round_is_given_up(loop: VirtualLoop) -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(TooManySteps):
        loop.run_until_complete(main())


def test_work_for_a_thread_is_done_between_two_steps(loop: VirtualLoop) -> None:
    async def main() -> int:
        return await asyncio.to_thread(lambda: 7)

    assert loop.run_until_complete(main()) == 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "now").mkdir()
    return tmp_path / "now"


def opened(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "x.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def rows(folder: Path) -> list[int]:
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        return [number for (number,) in connection.execute("SELECT n FROM t ORDER BY n")]


def written(connection: sqlite3.Connection, count: int) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t (n)")
    for number in range(count):
        connection.execute("INSERT INTO t VALUES (?)", (number,))


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_disk_that_lost_commits_is_that_of_an_earlier_time(folder: Path, tmp_path: Path, lost: int) -> None:
    with closing(opened(folder)) as connection:
        written(connection, 5)
        disk, count = lose_commits(Disk.of(folder), "x.db", lost, 0)
    assert count == lost
    disk.write_to(tmp_path)
    assert rows(tmp_path) == list(range(5 - lost))


def test_what_was_synced_is_not_lost(folder: Path, tmp_path: Path) -> None:
    with closing(opened(folder)) as connection:
        written(connection, 3)
        log = Log.of(folder, "x.db")
        written(connection, 2)
        assert log is not None
        disk, count = lose_commits(Disk.of(folder), "x.db", 1000, log.end)
    assert count == 2
    disk.write_to(tmp_path)
    assert rows(tmp_path) == [0, 1, 2]


def test_the_log_s_index_says_where_it_ends_and_what_is_in_the_database(folder: Path) -> None:
    with closing(opened(folder)) as connection:
        written(connection, 3)
        before = Log.of(folder, "x.db")
        assert before is not None
        assert before.end == commits(Disk.of(folder).files["x.db-wal"])[-1]
        assert before.checkpointed == 0
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert Log.of(folder, "x.db") == dataclasses.replace(before, checkpointed=before.end)
        written(connection, 1)
        after = Log.of(folder, "x.db")
        assert after is not None
        assert after.generation != before.generation
    assert Log.of(folder, "x.db") is None


def test_what_was_visible_between_the_commits_of_a_call_can_be_read(folder: Path, tmp_path: Path) -> None:
    with closing(opened(folder)) as connection:
        written(connection, 1)
        before = Log.of(folder, "x.db")
        connection.execute("BEGIN")
        written(connection, 2)
        connection.execute("COMMIT")
        written(connection, 2)
        seen = []
        for disk in states_between(folder, "x.db", before):
            with opened_disk(disk, "x.db", tmp_path / "between") as session:
                seen.append(session.execute(sa.text("SELECT count(*) FROM t")).scalar_one())
        assert list(states_between(folder, "x.db", Log.of(folder, "x.db"))) == []
    assert seen == [3, 4]


def test_what_piles_up_is_found_wherever_it_is(loop: VirtualLoop) -> None:
    told, waits = Broadcast[Hint](), Waits()
    stream = told.stream()
    for _ in range(20):
        told.put(Hint(after=Cursor(b"")))

    async def holding() -> None:
        some = [Hint()]
        await asyncio.sleep(DAY)
        some.clear()

    task = loop.create_task(holding())
    loop.run_until_complete(asyncio.sleep(0))
    assert kept(told) == Counter()  # a stream is its reader's
    assert kept(stream) == Counter(Hint=20)
    assert kept([task]) == Counter(Hint=1)
    assert kept(waits) == Counter()
    waits.download()
    assert kept(waits) == Counter({Future.__name__: 1})
    assert [too_much(kept(one)) for one in (told, stream, [task], waits)] == [False, True, False, True]


def test_a_failing_plan_is_made_smaller_until_nothing_can_be_spared() -> None:
    first, other = plan(1).ops[3], plan(1).ops[11]

    def fails(tried: Plan) -> bool:
        return first in tried.ops and other in tried.ops

    assert minimised(plan(1), fails).ops == (first, other)
