"""A long time offline: the outbox grows by what is written and by nothing else, and is let go in small portions."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from localstore.store.file import Store
from tests.unit.store_kit import UNLIMITED, changesets_in, open_store, query, write
from tests.unit.watching_kit import each_connection, fill_outbox, keep_log, wal_bytes, work

LONG = 1_000
UNSENT = 5_000
MOST_LET_GO_AT_ONCE = 1_000
"""Rows that one transaction of ``acknowledge`` may write: as long as that takes, nobody else can write."""
OUTBOX = "SELECT number, sealed FROM localstore_outbox ORDER BY number"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def opened(path: Path, unsent: int = 0) -> Iterator[Store]:
    open_store(path).close()
    fill_outbox(path, unsent)
    store = open_store(path)
    try:
        yield store
    finally:
        store.close()


# -- growing


def test_each_write_adds_one_row_to_the_outbox_and_leaves_the_others_as_they_are(path: Path) -> None:
    with opened(path) as store:
        for number in range(LONG):
            write(store, ("INSERT INTO note VALUES (?, 't', ?)", f"{number:05}", number))
            if number == LONG // 2:
                before = query(path, OUTBOX)
        after = query(path, OUTBOX)
        assert [number for number, _ in after] == list(range(1, LONG + 1))
        assert after[: len(before)] == before
        assert [changeset.row_count for changeset in changesets_in(path)] == [1] * LONG


def bytes_of_writes(path: Path, unsent: int, count: int = 50) -> int:
    """What so many writes add to the WAL with so much to send."""
    with each_connection(keep_log), opened(path, unsent) as store:
        write(store, "INSERT INTO note VALUES ('counter', 't', 0)")
        before = wal_bytes(path)
        for number in range(count):
            write(store, f"UPDATE note SET stars = {number + 1} WHERE id = 'counter'")
        return wal_bytes(path) - before


def test_a_write_writes_no_more_with_much_to_send_than_with_nothing(tmp_path: Path) -> None:
    few, many = bytes_of_writes(tmp_path / "few.db", 10), bytes_of_writes(tmp_path / "many.db", UNSENT * 4)
    assert many <= few + 10 * 4096  # some pages of a tree that is one level higher


def test_what_waits_to_be_sent_is_not_held_in_memory(path: Path) -> None:
    text = "x" * 10_000
    with opened(path) as store:

        def write_many(count: int) -> int:
            for number in range(count):
                write(store, ("INSERT INTO note VALUES (?, ?, 1)", f"{tracemalloc.get_traced_memory()} {number}", text))
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = write_many(20)
            assert write_many(100) - before < 50 * len(text)
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(("max_count", "max_bytes"), [(7, UNLIMITED), (UNSENT, 1000)], ids=["by count", "by bytes"])
def test_a_batch_reads_no_more_than_it_may_hold(path: Path, max_count: int, max_bytes: int) -> None:
    with work() as done, opened(path, UNSENT) as store:
        done.steps = 0
        batch = store.batch(max_bytes=max_bytes, max_count=max_count)
        assert 1 < len(batch) < 20
        assert done.steps < 1_000


# -- letting go


@pytest.mark.parametrize("number", [1, 999, 1_000, 1_001, 2_500, UNSENT, UNSENT + 7])
def test_what_is_acknowledged_is_let_go_and_nothing_else(path: Path, number: int) -> None:
    with opened(path, UNSENT) as store:
        kept = query(path, OUTBOX)[number:]
        store.acknowledge(number)
        assert query(path, OUTBOX) == kept
        assert store.last_pending() == (UNSENT if kept else None)
        assert store.acknowledged() == min(number, UNSENT)


@pytest.mark.parametrize("number", [900, UNSENT])
def test_no_transaction_lets_go_of_many_at_once(path: Path, number: int) -> None:
    with work() as done, opened(path, UNSENT) as store:
        done.changes.clear()
        store.acknowledge(number)
        assert sum(done.changes) >= number
        assert max(done.changes) <= MOST_LET_GO_AT_ONCE + 10


@pytest.mark.parametrize("number", [900, UNSENT])
def test_others_can_write_while_much_is_let_go(path: Path, number: int) -> None:
    """Another program, which does not wait, tries before each transaction; it must see the outbox shrink bit by bit."""
    seen: list[int] = []
    is_watched = threading.Event()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:

        def look() -> None:
            seen.append(other.execute("SELECT count(*) FROM localstore_outbox").fetchone()[0])

        def try_to_write(sql: str) -> None:
            if is_watched.is_set() and sql.startswith("BEGIN IMMEDIATE"):
                other.execute("INSERT INTO note (id) VALUES (hex(randomblob(16)))")
                look()

        with each_connection(lambda connection: connection.set_trace_callback(try_to_write)), opened(path, UNSENT) as store:
            is_watched.set()
            store.acknowledge(number)
            is_watched.clear()
            look()
    assert seen[-1] == UNSENT - number
    assert seen[0] == UNSENT
    assert max(one - two for one, two in itertools.pairwise(seen)) <= MOST_LET_GO_AT_ONCE


@pytest.mark.xfail(raises=AssertionError, reason="acknowledging one changeset reads all that follow it")
def test_acknowledging_a_few_does_not_read_the_rest(path: Path) -> None:
    with work() as done, opened(path, UNSENT) as store:
        done.steps = 0
        store.acknowledge(5)
        assert 0 < done.steps < UNSENT


def test_what_was_let_go_before_a_crash_stays_let_go_and_the_rest_stays(path: Path) -> None:
    """Between two portions the file is as good as ever: an acknowledgement that comes again does the rest."""
    with opened(path, UNSENT) as store:
        store.acknowledge(1_500)
    with opened_again(path) as store:
        assert [changeset.number for changeset in store.batch(max_bytes=UNLIMITED, max_count=2)] == [1_501, 1_502]
        store.acknowledge(UNSENT)
        write(store, "INSERT INTO note (id) VALUES ('a')")
        assert store.last_pending() == UNSENT + 1


@contextmanager
def opened_again(path: Path) -> Iterator[Store]:
    store = open_store(path)
    try:
        yield store
    finally:
        store.close()
