"""Write transactions and reads: all or nothing, one at a time, and nothing that was committed is ever missing."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, select

from localstore.changes import Op
from localstore.clock import stamp_at, stamp_ms
from localstore.errors import (
    ChangesetTooLarge,
    CommitInsideWrite,
    NestedWrite,
    ReadOnlyRealm,
    RealmClosed,
    StoreBusy,
    TextNotUnicode,
)
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_local
from localstore.testing.clock import ManualClock, environment
from tests.unit.store_kit import (
    NOTE,
    Device,
    changes_of,
    changesets_in,
    is_clean,
    open_store,
    other_program,
    query,
    rows_of,
    sealed_in,
    write,
)

ROOT = Path(__file__).parents[2]
INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"


class Own(SQLModel, registry=registry()):
    """Keeps the classes here out of the metadata that other tests share."""


class Note(Own, table=True):
    id: str = Field(primary_key=True)
    title: str | None = None
    stars: int | None = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[Store]:
    opened = open_store(path, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def impatient(path: Path) -> Iterator[Store]:
    """A store that does not wait long for other writers."""
    opened = open_store(path, busy_timeout=0.1)
    yield opened
    opened.close()


def keys(path: Path) -> set[str]:
    return {str(key) for (key,) in rows_of(path)}


# -- all or nothing


def test_leaving_the_block_commits_and_seals(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.add(Note(id="a", title="first"))
        assert keys(path) == set()
    assert keys(path) == {"a"}
    assert changes_of(changesets_in(path)) == {("note", ("a",)): (Op.INSERT, {"title": "first", "stars": None})}
    assert is_clean(path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, RealmClosed])
def test_an_exception_of_any_kind_rolls_everything_back_and_is_raised_again(
    store: Store, path: Path, error: type[BaseException]
) -> None:
    raised = error("stop")
    with pytest.raises(error) as caught, store.write() as tx:  # noqa: PT012
        tx.add(Note(id="a"))
        tx.flush()
        tx.connection().exec_driver_sql(INSERT_B)
        raise raised
    assert caught.value is raised
    assert keys(path) == set()
    assert sealed_in(path) == []
    assert is_clean(path)
    write(store, INSERT_A)
    assert keys(path) == {"a"}


def test_an_object_that_the_database_refuses_at_the_end_rolls_everything_back(store: Store, path: Path) -> None:
    write(store, INSERT_A)
    with pytest.raises(IntegrityError), store.write() as tx:
        tx.add_all([Note(id="b"), Note(id="a")])
    assert keys(path) == {"a"}
    assert len(sealed_in(path)) == 1
    assert is_clean(path)


def test_an_error_that_is_caught_inside_undoes_its_statement_only(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql(INSERT_A)
        with pytest.raises(IntegrityError):
            tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('b'), ('a')")
        tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('c')")
    assert keys(path) == {"a", "c"}
    assert {key for _, key in changes_of(changesets_in(path))} == {("a",), ("c",)}


def test_objects_stay_readable_after_the_block(store: Store) -> None:
    with store.write() as tx:
        note = Note(id="a", title="first")
        tx.add(note)
    assert (note.id, note.title, note.stars) == ("a", "first", None)
    with store.read() as session:
        found = session.exec(select(Note)).one()
    assert found.title == "first"


def test_a_commit_inside_the_block_is_refused_and_rolls_everything_back(store: Store, path: Path) -> None:
    with pytest.raises(CommitInsideWrite, match="at the end of its block"), store.write() as tx:  # noqa: PT012
        tx.add(Note(id="a"))
        tx.commit()
    assert keys(path) == set()
    assert is_clean(path)


def test_a_savepoint_inside_the_block_may_be_kept_or_rolled_back(store: Store, path: Path) -> None:
    with store.write() as tx:
        with tx.begin_nested():
            tx.add(Note(id="a"))
        undone = tx.begin_nested()
        tx.add(Note(id="b"))
        undone.rollback()
    assert keys(path) == {"a"}
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",))}


@pytest.mark.parametrize(
    ("value", "reason"),
    [("hex(zeroblob(2000))", "it is too large"), ("CAST(x'ff41' AS TEXT)", "it holds text that is not UTF-8")],
    ids=["too large", "not text"],
)
def test_a_row_of_another_program_that_cannot_be_sealed_keeps_nobody_from_the_file(path: Path, value: str, reason: str) -> None:
    store = open_store(path, max_changeset_bytes=1500)
    with other_program(path) as program:
        program.execute(f"INSERT INTO note (id, title) VALUES ('good', 'x'), ('bad', {value}), ('fine', 'y')")
    write(store, INSERT_A)
    assert store.take_unsealed() == [("note", reason)]
    assert store.take_unsealed() == []  # told once
    store.close()
    assert changes_of(changesets_in(path)).keys() == {("note", (key,)) for key in ("good", "fine", "a")}
    open_store(path, max_changeset_bytes=1500).close()
    assert query(path, "SELECT id FROM note ORDER BY id") == [("a",), ("bad",), ("fine",), ("good",)]


def test_a_row_that_was_held_back_goes_out_whole_once_it_is_mended(path: Path) -> None:
    store = open_store(path)
    with other_program(path) as program:
        program.execute("INSERT INTO note (id, title, stars) VALUES ('bad', CAST(x'ff41' AS TEXT), 3)")
    write(store, INSERT_A)
    write(store, "UPDATE note SET title = 'good' WHERE id = 'bad'")
    assert changes_of(changesets_in(path))["note", ("bad",)] == (Op.INSERT, {"title": "good", "stars": 3})
    write(store, "UPDATE note SET title = 'better' WHERE id = 'bad'")
    assert changes_of(changesets_in(path)[-1:])["note", ("bad",)] == (Op.UPDATE, {"title": "better"})
    store.close()


def test_text_that_is_not_unicode_is_refused_in_a_transaction_of_ours(store: Store, path: Path) -> None:
    with pytest.raises(TextNotUnicode, match="rolled back"):
        write(store, "INSERT INTO note (id, title) VALUES ('a', CAST(x'ff41' AS TEXT))")
    assert keys(path) == set()
    assert is_clean(path)


def test_a_rollback_inside_the_block_undoes_what_was_written_so_far(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.add(Note(id="a"))
        tx.flush()
        tx.rollback()
        tx.add(Note(id="b"))
    assert keys(path) == {"b"}
    assert changes_of(changesets_in(path)).keys() == {("note", ("b",))}


def test_a_changeset_that_is_too_large_is_rolled_back_and_nothing_of_it_is_left(path: Path) -> None:
    store = open_store(path, max_changeset_bytes=10_000)
    write(store, INSERT_A)
    with other_program(path) as connection:
        connection.execute(INSERT_B)
    with pytest.raises(ChangesetTooLarge, match="max_changeset_bytes"):
        write(store, ("UPDATE note SET title = ?", "x" * 6000), "UPDATE note SET stars = 9")
    assert rows_of(path) == {("a",): {"title": "first", "stars": 1}, ("b",): {"title": "second", "stars": 2}}
    assert len(sealed_in(path)) == 1
    write(store, ("UPDATE note SET title = ? WHERE id = 'a'", "x" * 6000))
    store.close()
    assert [list(changes_of([changeset])) for changeset in changesets_in(path)] == [
        [("note", ("a",))],
        [("note", ("b",))],
        [("note", ("a",))],
    ]
    assert is_clean(path)


# -- one writer at a time


def test_a_write_inside_a_write_is_refused_and_the_outer_one_goes_on(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.add(Note(id="a"))
        with pytest.raises(NestedWrite, match="outer"), store.write() as inner:
            inner.add(Note(id="never"))
        tx.add(Note(id="b"))
    assert keys(path) == {"a", "b"}
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",)), ("note", ("b",))}


def test_sync_work_inside_a_write_is_refused_as_well(store: Store, path: Path) -> None:
    write(store, INSERT_A)
    with store.write() as tx:
        tx.add(Note(id="b"))
        with pytest.raises(NestedWrite):
            store.acknowledge(1)
        with pytest.raises(NestedWrite):
            store.apply([], after=None, cursor=b"1")
        with pytest.raises(NestedWrite):
            store.close()
    assert keys(path) == {"a", "b"}
    assert len(store.pending()) == 2


def test_threads_that_read_and_then_write_lose_no_update(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('counter', NULL, 0)")

    def count(_: int) -> None:
        for _ in range(15):
            with store.write() as tx:
                note = tx.get_one(Note, "counter")
                note.stars = (note.stars or 0) + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert rows_of(path)["counter",]["stars"] == 8 * 15
    assert [changeset.number for changeset in changesets_in(path)] == list(range(1, 8 * 15 + 2))


COUNT_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.unit.store_kit import open_store, write

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = open_store(path)
sys.stdin.readline()
for number in range(count):
    row = ("INSERT INTO note (id) VALUES (?)", f"{name} {number}")
    write(store, "UPDATE note SET stars = stars + 1 WHERE id = 'counter'", row)
store.close()
"""


def test_two_processes_that_write_the_same_file_lose_nothing(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('counter', NULL, 0)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT_IN_A_PROCESS, str(path), name, "40"], stdin=subprocess.PIPE, env=environment
        )
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for number in range(40):
        write(store, ("INSERT INTO note (id) VALUES (?)", f"here {number}"))
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert rows_of(path)["counter",]["stars"] == 80
    assert len(rows_of(path)) == 1 + 3 * 40
    changesets = changesets_in(path)
    assert [changeset.number for changeset in changesets] == list(range(1, 1 + 1 + 3 * 40))
    assert all(one.stamp < two.stamp for one, two in itertools.pairwise(changesets))
    assert is_clean(path)


def test_a_writer_gives_up_when_another_program_holds_the_file(impatient: Store, path: Path) -> None:
    with other_program(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="busy_timeout"):
            write(impatient, INSERT_A)
        connection.execute("ROLLBACK")
    assert keys(path) == set()
    write(impatient, INSERT_A)
    assert keys(path) == {"a"}


def test_a_writer_gives_up_when_another_thread_keeps_on_writing(impatient: Store, path: Path) -> None:
    with impatient.write() as tx, ThreadPoolExecutor(1) as pool:
        tx.add(Note(id="a"))
        with pytest.raises(StoreBusy, match="busy_timeout"):
            pool.submit(write, impatient, INSERT_B).result()
    assert keys(path) == {"a"}
    write(impatient, INSERT_B)
    assert keys(path) == {"a", "b"}


def test_a_writer_waits_for_another_that_finishes_in_time(store: Store, path: Path) -> None:
    is_writing, may_finish = threading.Event(), threading.Event()

    def slow() -> None:
        with store.write() as tx:
            tx.connection().exec_driver_sql(INSERT_A)
            is_writing.set()
            may_finish.wait()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow)
        is_writing.wait()
        second = pool.submit(write, store, INSERT_B)
        may_finish.set()
        first.result()
        second.result()
    assert keys(path) == {"a", "b"}


# -- reading


def test_a_read_sees_only_what_is_committed(store: Store) -> None:
    write(store, INSERT_A)
    with store.write() as tx:
        tx.add(Note(id="b"))
        tx.flush()
        with store.read() as session:
            assert [note.id for note in session.exec(select(Note))] == ["a"]
    with store.read() as session:
        assert [note.id for note in session.exec(select(Note))] == ["a", "b"]


def test_a_read_stays_with_the_state_that_it_began_with(store: Store) -> None:
    write(store, INSERT_A)
    with store.read() as session:
        assert len(session.exec(select(Note)).all()) == 1
        write(store, INSERT_B)
        assert len(session.exec(select(Note.id)).all()) == 1
    with store.read() as session:
        assert len(session.exec(select(Note)).all()) == 2


def add_through_a_read(session: Session) -> None:
    session.add(Note(id="b"))
    session.commit()


WRITES_THROUGH_A_READ: dict[str, Callable[[Session], Any]] = {
    "an object": add_through_a_read,
    "a statement": lambda session: session.exec(sa.delete(NOTE)),
    "SQL": lambda session: session.connection().exec_driver_sql("UPDATE note SET stars = 9"),
    "a new table": lambda session: session.connection().exec_driver_sql("CREATE TABLE other (id)"),
}


@pytest.mark.parametrize("attempt", WRITES_THROUGH_A_READ.values(), ids=WRITES_THROUGH_A_READ.keys())
def test_a_read_cannot_write(store: Store, path: Path, attempt: Callable[[Session], Any]) -> None:
    write(store, INSERT_A)
    with pytest.raises(ReadOnlyRealm, match="write"), store.read() as session:
        attempt(session)
    assert rows_of(path) == {("a",): {"title": "first", "stars": 1}}
    with store.read() as session:
        assert len(session.exec(select(Note)).all()) == 1


def test_many_reads_at_a_time_get_their_answers_while_one_writes(store: Store) -> None:
    write(store, INSERT_A)

    def look(_: int) -> int:
        with store.read() as session:
            return len(session.exec(select(Note)).all())

    with store.write() as tx, ThreadPoolExecutor(12) as pool:
        tx.add(Note(id="b"))
        tx.flush()
        assert set(pool.map(look, range(48))) == {1}


# -- stamps and numbers


def test_stamps_follow_the_clock(store: Store, path: Path, clock: ManualClock) -> None:
    write(store, INSERT_A)
    clock.advance(60)
    write(store, INSERT_B)
    first, second = changesets_in(path)
    assert stamp_ms(second.stamp) - stamp_ms(first.stamp) == 60_000
    assert second.stamp == stamp_at(clock.now_ms())


def test_stamps_increase_even_when_the_clock_stands_still_or_steps_back(store: Store, path: Path, clock: ManualClock) -> None:
    write(store, INSERT_A)
    write(store, INSERT_B)
    clock.set(clock.now_ms() - 3_600_000)
    write(store, "DELETE FROM note WHERE id = 'a'")
    store.close()
    reopened = open_store(path, clock=clock)
    write(reopened, "DELETE FROM note")
    reopened.close()
    stamps = [changeset.stamp for changeset in changesets_in(path)]
    assert stamps == sorted(set(stamps))
    assert len(stamps) == 4


def test_a_write_is_stamped_after_everything_that_was_applied(tmp_path: Path) -> None:
    ahead, behind = ManualClock(), ManualClock()
    ahead.advance(120)
    one, two = Device(tmp_path, "one", clock=ahead), Device(tmp_path, "two", clock=behind)
    seen = one.write(INSERT_A)
    two.receive(seen)
    assert two.write("UPDATE note SET stars = 2").stamp > seen.stamp
    one.close()
    two.close()


def test_a_transaction_that_was_rolled_back_uses_up_no_number(store: Store, path: Path) -> None:
    write(store, INSERT_A)
    with pytest.raises(ValueError, match="no"), store.write() as tx:  # noqa: PT012
        tx.add(Note(id="b"))
        raise ValueError("no")
    write(store, INSERT_B)
    assert [changeset.number for changeset in changesets_in(path)] == [1, 2]


# -- what other programs leave behind


def test_what_another_program_wrote_becomes_a_changeset_of_its_own(store: Store, path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(INSERT_A)
    write(store, INSERT_B)
    assert [set(changes_of([changeset])) for changeset in changesets_in(path)] == [{("note", ("a",))}, {("note", ("b",))}]


def test_what_another_program_wrote_is_kept_when_the_next_write_fails(store: Store, path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(INSERT_A)
    with pytest.raises(ValueError, match="no"), store.write() as tx:  # noqa: PT012
        tx.add(Note(id="b"))
        raise ValueError("no")
    assert sealed_in(path) == []
    store.seal()
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",))}
    assert is_clean(path)


def test_what_another_program_rolled_back_leaves_no_trace(store: Store, path: Path) -> None:
    with other_program(path) as connection:
        connection.execute("BEGIN")
        connection.execute(INSERT_A)
        connection.execute("ROLLBACK")
    store.seal()
    assert sealed_in(path) == []


def test_sealing_when_nothing_is_left_changes_nothing(store: Store, path: Path) -> None:
    with other_program(path) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        store.seal()
        assert watching.execute("PRAGMA data_version").fetchone() == before


def test_a_large_transaction_of_another_program_becomes_several_changesets(path: Path) -> None:
    store = open_store(path, max_changeset_bytes=20_000)
    with other_program(path) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO note VALUES (?, ?, 0)", [(f"{n:04}", "x" * 1000) for n in range(60)])
        connection.execute("UPDATE note SET stars = 1")
        connection.execute("DELETE FROM note WHERE id >= '0050'")
        connection.execute("COMMIT")
    store.seal()
    sealed = sealed_in(path)
    assert len(sealed) > 1
    assert all(each.size <= 20_000 for each in sealed)
    assert is_clean(path)
    other = Device(path.parent, "other")
    other.receive(*sealed)
    assert other.rows() == rows_of(path)
    other.close()
    store.close()


@pytest.mark.parametrize(
    ("sql", "value"), [("?", "x" * 30_000), ("CAST(? AS TEXT)", b"\xffA")], ids=["too large", "not Unicode"]
)
def test_one_row_that_cannot_travel_does_not_make_the_others_travel_one_by_one(path: Path, sql: str, value: object) -> None:
    store = open_store(path, max_changeset_bytes=20_000)
    with other_program(path) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO note VALUES (?, 't', ?)", [(f"{n:03}", n) for n in range(500)])
        connection.execute(f"INSERT INTO note VALUES ('bad', {sql}, 0)", (value,))
        connection.executemany("INSERT INTO note VALUES (?, 't', ?)", [(f"{n:03}", n) for n in range(500, 999)])
        connection.execute("COMMIT")
    store.seal()
    store.close()
    assert len(changes_of(changesets_in(path))) == 999
    assert len(sealed_in(path)) < 50
    assert is_clean(path)


# -- telling others


def test_whoever_asked_is_told_of_commits_and_of_nothing_else(store: Store, path: Path) -> None:
    told: list[tuple[int, int]] = []
    store.on_commit(lambda: told.append((len(keys(path)), threading.get_ident())))
    write(store, INSERT_A)
    with pytest.raises(ValueError, match="no"), store.write() as tx:  # noqa: PT012
        tx.add(Note(id="b"))
        raise ValueError("no")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write, store, INSERT_B).result()
        thread = pool.submit(threading.get_ident).result()
    assert told == [(1, threading.get_ident()), (2, thread)]


def test_a_callback_may_write(store: Store, path: Path) -> None:
    def follow() -> None:
        if "b" not in keys(path):
            write(store, INSERT_B)

    store.on_commit(follow)
    write(store, INSERT_A)
    assert keys(path) == {"a", "b"}


# -- the end


USES: dict[str, Callable[[Store], Any]] = {
    "write": lambda store: write(store, INSERT_A),
    "read": lambda store: store.read().__enter__(),
    "pending": lambda store: store.pending(),
    "conflicts": lambda store: store.conflicts(),
    "state": lambda store: store.state(),
    "seal": lambda store: store.seal(),
    "batch": lambda store: store.batch(max_bytes=1, max_count=1),
    "acknowledge": lambda store: store.acknowledge(1),
    "refuse": lambda store: store.refuse(1, "no"),
    "meet": lambda store: store.meet("remote"),
    "apply": lambda store: store.apply([], after=None, cursor=b"1"),
    "last_pending": lambda store: store.last_pending(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_store_can_be_used_for_nothing(store: Store, path: Path, use: Callable[[Store], Any]) -> None:
    store.close()
    store.close()
    with pytest.raises(RealmClosed, match=r"store\.db"):
        use(store)
    assert keys(path) == set()


def test_a_writer_whose_turn_comes_only_after_the_file_was_closed_is_refused(store: Store, path: Path) -> None:
    store.close()
    with pytest.raises(RealmClosed):
        store.session()  # what it asks for then
    assert keys(path) == set()


def test_closing_waits_for_the_write_in_progress(store: Store, path: Path) -> None:
    is_writing, may_finish = threading.Event(), threading.Event()

    def slow() -> None:
        with store.write() as tx:
            tx.connection().exec_driver_sql(INSERT_A)
            is_writing.set()
            may_finish.wait()

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(slow)
        is_writing.wait()
        closing = pool.submit(store.close)
        may_finish.set()
        writing.result()
        closing.result()
    assert keys(path) == {"a"}
    assert len(sealed_in(path)) == 1


def test_a_closed_file_holds_everything_in_one_piece(store: Store, path: Path) -> None:
    write(store, INSERT_A)
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# -- local stores


def test_a_local_store_writes_like_a_synced_one_and_seals_nothing(path: Path) -> None:
    store = open_local(path, [NOTE], options=StoreOptions(), environment=environment(ManualClock()))
    write(store, INSERT_A)
    with pytest.raises(ValueError, match="no"), store.write() as tx:  # noqa: PT012
        tx.add(Note(id="b"))
        raise ValueError("no")
    store.close()
    assert keys(path) == {"a"}
    assert query(path, "SELECT name FROM sqlite_master WHERE name LIKE 'localstore%'") == []
