"""Beginning to capture a table that is large already, and opening a file that has much to send: neither may take long.

Counted in pages and in steps of SQLite's virtual machine, which are the same on every machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import zip_longest
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.changes import Op
from localstore.store.capture import attach
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from tests.unit.store_kit import NOTE, UNLIMITED, changesets_in, is_clean, open_store, other_program, query, write
from tests.unit.watching_kit import each_connection, fill_outbox, keep_log, wal_bytes, work

MANY = 50_000
PAGE = 4096
FEW_PAGES = 8
"""Pages of the schema and of system tables that attaching capture may write, whatever the size of the table."""
UNSENT = 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def large_table(path: Path, rows: int) -> None:
    """A table that some program filled; every third rowid is free, so that a copy would number its rows anew."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER)")
        numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        connection.execute(f"{numbers} INSERT INTO note SELECT printf('%016x', i), 'title ' || i, i FROM n", (rows * 3 // 2,))
        connection.execute("DELETE FROM note WHERE stars % 3 = 0")


def pages(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[start : start + PAGE] for start in range(0, len(data), PAGE)]


def changed_pages(before: list[bytes], after: list[bytes]) -> int:
    """How many of the pages of before are others now; new ones at the end do not count."""
    return sum(old != new for old, new in zip_longest(before, after[: len(before)]))


def attach_note(path: Path) -> tuple[int, int, int]:
    """Capture the table ``note`` in a file that is synced without it.

    Returns:
        Steps taken, bytes written to the WAL, and old pages of the file that are others afterwards.
    """
    open_store(path, []).close()
    before = pages(path)
    with work() as done, each_connection(keep_log):
        store = open_store(path, [])
        with store.connection() as connection:
            driver = driver_connection(connection)
            done.steps, written = 0, wal_bytes(path)
            (added,) = attach(driver, ["note"])
            steps = done.steps
        assert added.name == "note"
        written = wal_bytes(path) - written
        store.close()
    return steps, written, changed_pages(before, pages(path))


def test_attaching_capture_takes_as_long_for_many_rows_as_for_few(tmp_path: Path) -> None:
    few, many = tmp_path / "few.db", tmp_path / "many.db"
    large_table(few, 10)
    large_table(many, MANY)
    rows = query(many, "SELECT rowid, * FROM note")
    steps_for_few, _, _ = attach_note(few)
    steps, written, changed = attach_note(many)
    assert steps_for_few == steps
    assert written <= FEW_PAGES * (PAGE + 24) + 32
    assert changed <= FEW_PAGES
    assert query(many, "SELECT rowid, * FROM note") == rows
    store = open_store(many, [])
    write(store, "UPDATE note SET stars = 0 WHERE stars = 1")
    store.close()
    assert [changeset.row_count for changeset in changesets_in(many)] == [1]


def test_the_first_opening_as_a_synced_file_sends_the_rows_and_leaves_them_where_they_are(path: Path) -> None:
    large_table(path, MANY)
    rows, before = query(path, "SELECT rowid, * FROM note"), pages(path)
    open_store(path).close()
    assert changed_pages(before, pages(path)) <= FEW_PAGES
    assert query(path, "SELECT rowid, * FROM note") == rows
    changesets = changesets_in(path)
    assert {group.op for changeset in changesets for group in changeset.groups} == {Op.SEED}
    assert sorted(row for changeset in changesets for group in changeset.groups for row in group.rows) == [
        row[1:] for row in rows
    ]
    assert max(changeset.row_count for changeset in changesets) <= 10_000
    assert is_clean(path)


@pytest.mark.parametrize("is_sent", [False, True], ids=["unsent", "sent"])
def test_a_new_column_makes_capture_anew_and_touches_no_row(path: Path, is_sent: bool) -> None:
    large_table(path, MANY)
    store = open_store(path)
    last = store.state().last_number
    if is_sent:
        store.acknowledge(last)
    store.close()
    before = pages(path)
    wider = NOTE.to_metadata(sa.MetaData())
    wider.append_column(sa.Column("done", sa.Integer))
    open_store(path, [wider]).close()
    assert changed_pages(before, pages(path)) <= FEW_PAGES
    store = open_store(path, [wider])
    assert store.state().last_number == last
    write(store, "UPDATE note SET done = 1 WHERE stars = 1")
    store.close()
    assert changesets_in(path)[-1].row_count == 1


def test_triggers_that_are_made_anew_touch_no_row(path: Path) -> None:
    large_table(path, MANY)
    store = open_store(path)
    store.acknowledge(store.state().last_number)
    store.close()
    with other_program(path) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    before = pages(path)
    open_store(path).close()
    assert changed_pages(before, pages(path)) <= FEW_PAGES
    assert changesets_in(path) == []


# -- much to send


def test_opening_takes_as_long_with_much_to_send_as_with_little(tmp_path: Path) -> None:
    steps = []
    for name, unsent in (("few.db", 10), ("full.db", UNSENT)):
        path = tmp_path / name
        open_store(path).close()
        fill_outbox(path, unsent)
        with work() as done:
            store = open_store(path)
            steps.append(done.steps)
            store.close()
    few, full = steps
    assert few == full > 0


QUESTIONS: dict[str, Callable[[Store], object]] = {
    "state": Store.state,
    "the last unsent": Store.last_pending,
    "the last acknowledged": Store.acknowledged,
    "what others left unsealed": Store.seal,
    "a small batch": lambda store: store.batch(max_bytes=UNLIMITED, max_count=10),
    "a write": lambda store: write(store, "INSERT INTO note (id) VALUES ('a')"),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_what_a_session_asks_first_does_not_read_the_outbox(tmp_path: Path, ask: Callable[[Store], object]) -> None:
    few, many = (steps_with(tmp_path / f"{unsent}.db", unsent, ask) for unsent in (10, UNSENT))
    assert few == many > 0


def steps_with(path: Path, unsent: int, ask: Callable[[Store], object]) -> int:
    """How many steps a question takes with so much to send."""
    open_store(path).close()
    fill_outbox(path, unsent)
    with work() as done:
        store = open_store(path)
        done.steps = 0
        ask(store)
        steps = done.steps
        store.close()
    return steps
