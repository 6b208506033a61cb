"""What a ``write()`` must not let happen: losing its transaction, or the tables that capture watches, on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from localstore.changes import Op
from localstore.errors import CommitInsideWrite, LocalStoreError, SchemaError, SchemaMismatch, WriteEnded
from localstore.store.engine import sole_engine
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_local
from localstore.testing.clock import ManualClock, environment
from tests.unit.store_kit import (
    NOTE,
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

ROWS = ("INSERT INTO note VALUES ('a', 'first', 1)", "INSERT INTO note VALUES ('b', 'second', 2)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = open_store(path)
    write(opened, *ROWS)
    yield opened
    opened.close()


def check_works(store: Store) -> None:
    """The store writes, captures and seals as if nothing had been."""
    before = len(changesets_in(store.path))
    write(store, "INSERT INTO note (id) VALUES ('next')")
    assert is_clean(store.path)
    assert changes_of(changesets_in(store.path)[before:]) == {("note", ("next",)): (Op.INSERT, {"title": None, "stars": None})}


# -- the transaction

ENDS_IT = {
    "a conflict clause": "INSERT OR ROLLBACK INTO note (id) VALUES ('a')",
    "a trigger": "INSERT INTO note (id) VALUES ('stop')",
}


def refuse_stop(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON note WHEN NEW.id = 'stop' BEGIN SELECT RAISE(ROLLBACK, 'stop'); END"
        )


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("statement", ENDS_IT.values(), ids=ENDS_IT)
def test_a_block_whose_transaction_sqlite_ended_writes_nothing_more(
    path: Path, store: Store, statement: str, is_last: bool
) -> None:
    """Even when the block swallows the error: half of it is gone, so that the rest must not stay."""
    refuse_stop(path)
    before = rows_of(path)
    with pytest.raises(CommitInsideWrite, match="ended before its block"), store.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('first half')")
        with pytest.raises(IntegrityError):
            tx.connection().exec_driver_sql(statement)
        if not is_last:
            tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('second half')")
    assert rows_of(path) == before
    check_works(store)


def test_a_local_file_loses_no_half_of_a_block_either(path: Path) -> None:
    store = open_local(path, [NOTE], options=StoreOptions(), environment=environment(ManualClock(), 0))
    write(store, *ROWS)
    with pytest.raises(CommitInsideWrite), store.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql("DELETE FROM note WHERE id = 'b'")
        with pytest.raises(IntegrityError):
            tx.connection().exec_driver_sql("INSERT OR ROLLBACK INTO note (id) VALUES ('a')")
        tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('c')")
    assert rows_of(path).keys() == {("a",), ("b",)}
    store.close()


@pytest.mark.parametrize("statement", ["COMMIT", " commit transaction", "END", "end;"])
def test_a_statement_that_commits_is_refused_and_rolls_everything_back(path: Path, store: Store, statement: str) -> None:
    with pytest.raises(CommitInsideWrite, match="Nothing was committed"), store.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql("DELETE FROM note")
        tx.connection().exec_driver_sql(statement)
    assert len(rows_of(path)) == 2
    check_works(store)


def test_a_commit_through_the_driver_does_not_leave_other_programs_logging_rowids(path: Path, store: Store) -> None:
    with pytest.raises(CommitInsideWrite), store.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql("UPDATE note SET stars = 3 WHERE id = 'a'")
        driver = cast("sa.PoolProxiedConnection", tx.connection().connection).driver_connection
        assert driver is not None
        driver.execute("COMMIT")
    assert query(path, "SELECT capturing FROM localstore_state") == [(1,)]
    store.seal()
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.UPDATE, {"stars": 3})}
    check_works(store)


def test_a_block_may_roll_back_and_go_on(path: Path, store: Store) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql("DELETE FROM note")
        tx.rollback()
        tx.connection().exec_driver_sql("DELETE FROM note WHERE id = 'a'")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.DELETE, {})}
    check_works(store)


# -- the tables

CHANGES_OF_SHAPE = {
    "made anew": (
        "CREATE TABLE other AS SELECT * FROM note ORDER BY id DESC",
        "DROP TABLE note",
        "CREATE TABLE note (id VARCHAR NOT NULL PRIMARY KEY, title VARCHAR, stars INTEGER)",
        "INSERT INTO note SELECT * FROM other",
    ),
    "renamed": ("ALTER TABLE note RENAME TO memo",),
    "dropped": ("DROP TABLE note",),
    "a column renamed": ("ALTER TABLE note RENAME COLUMN title TO heading",),
}


@pytest.mark.parametrize("statements", CHANGES_OF_SHAPE.values(), ids=CHANGES_OF_SHAPE)
def test_a_block_cannot_take_a_synced_table_from_capture(path: Path, store: Store, statements: tuple[str, ...]) -> None:
    """Rowids would mean other rows, and what the block writes afterwards would never leave the device."""
    before = rows_of(path)
    with pytest.raises(SchemaError, match="synced table note"):
        write(store, "UPDATE note SET stars = 3 WHERE id = 'a'", *statements)
    assert rows_of(path) == before
    check_works(store)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE scratch (id)",
        "CREATE INDEX by_stars ON note (stars)",
        "CREATE TEMP TABLE note (id)",
        "CREATE TRIGGER mine AFTER INSERT ON note BEGIN SELECT 1; END",
    ],
)
def test_a_block_may_make_what_capture_does_not_mind(path: Path, store: Store, statement: str) -> None:
    write(store, "UPDATE main.note SET stars = 3 WHERE id = 'a'", statement, "DELETE FROM main.note WHERE id = 'b'")
    assert changes_of(changesets_in(path)[1:]) == {
        ("note", ("a",)): (Op.UPDATE, {"stars": 3}),
        ("note", ("b",)): (Op.DELETE, {}),
    }


def test_a_column_that_a_block_adds_is_captured_from_the_next_opening_on(path: Path, store: Store) -> None:
    write(store, "ALTER TABLE note ADD COLUMN due TEXT", "UPDATE note SET stars = 3, due = 'now' WHERE id = 'a'")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.UPDATE, {"stars": 3})}


@pytest.mark.parametrize("also", ["", "DELETE FROM note WHERE id = 'b'"], ids=["one kind", "several kinds"])
def test_a_column_that_another_program_renamed_is_not_taken_for_its_name(path: Path, store: Store, also: str) -> None:
    """SQLite reads an unknown name in double quotes as a text, so that every device would get 'title' for a title."""
    with other_program(path) as connection:
        connection.execute("ALTER TABLE note RENAME COLUMN title TO heading")
        connection.execute("UPDATE note SET heading = 'new' WHERE id = 'a'")
        connection.execute(also or "SELECT 1")
    sealed = len(changesets_in(path))
    with pytest.raises(SchemaMismatch, match="open it again"):
        store.seal()
    with pytest.raises(SchemaMismatch, match="open it again"):
        write(store, "UPDATE note SET stars = 3")
    assert len(changesets_in(path)) == sealed
    store.close()
    heading = sa.Table("note", sa.MetaData(), *(sa.Column(*args, primary_key=args[0] == "id") for args in HEADING))
    reopened = open_store(path, [heading])
    changes = changes_of(changesets_in(path)[sealed:])
    assert changes["note", ("a",)] == (Op.UPDATE, {"heading": "new", "stars": 1})
    assert len(changes) == (2 if also else 1)
    reopened.close()


def test_a_temporary_table_hides_no_synced_one_of_its_name(path: Path, store: Store) -> None:
    write(store, "CREATE TEMP TABLE note (id, title, stars)", "INSERT INTO note VALUES ('a', 'temporary', 0)")
    write(store, "UPDATE main.note SET stars = 3 WHERE id = 'a'")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.UPDATE, {"stars": 3})}
    other = open_store(path.with_name("other.db"), seed=1)
    write(other, "INSERT INTO note VALUES ('remote', 'r', 1)")
    store.apply(sealed_in(other.path), after=None, cursor=b"1")
    assert rows_of(path)["remote",] == {"title": "r", "stars": 1}
    other.close()


def test_an_attached_file_is_waited_for_and_let_go_of_at_the_end_of_the_block(path: Path, store: Store) -> None:
    """The connection by itself waits a few milliseconds, as we look for a lock again and again; nobody does so for others."""

    def attach_and_copy() -> list[Any]:
        with store.write() as tx:
            connection = tx.connection()
            connection.exec_driver_sql("/* to copy */ ATTACH ? AS other", (str(path.with_name("other.db")),))
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS other.copied (id)")
            connection.exec_driver_sql("INSERT INTO other.copied SELECT id FROM main.note")
            return [connection.exec_driver_sql(f"PRAGMA {what}").scalar_one() for what in ("busy_timeout", "foreign_keys")]

    assert attach_and_copy() == attach_and_copy() == [10_000, 1]
    with store.write() as tx:
        names = [row[1] for row in tx.connection().exec_driver_sql("PRAGMA database_list")]
        assert names == ["main"]
        assert tx.connection().exec_driver_sql("PRAGMA busy_timeout").scalar_one() < 100
    assert len(query(path.with_name("other.db"), "SELECT id FROM copied")) == 4
    check_works(store)


def test_what_a_block_sets_on_its_connection_ends_with_it(store: Store) -> None:
    heard = []
    with store.write() as tx:
        tx.connection().execution_options(mine=1)
        sa.event.listen(tx.connection(), "before_cursor_execute", lambda *_: heard.append(1))
        tx.connection().exec_driver_sql("SELECT 1")
    with store.write() as tx:
        assert "mine" not in tx.connection().get_execution_options()
        tx.connection().exec_driver_sql("SELECT 1")
    assert heard == [1]


@pytest.mark.parametrize("end", ["close", "invalidate", "detach"])
def test_a_connection_that_a_block_ended_is_replaced_and_leaves_no_file_open(path: Path, store: Store, end: str) -> None:
    with suppress(CommitInsideWrite, sa.exc.SQLAlchemyError, AssertionError), store.write() as tx:
        getattr(tx.connection(), end)()
    check_works(store)
    store.close()
    with closing(sole_engine(path).connect()) as alone:  # which fails while anybody has the file open
        assert alone.exec_driver_sql("SELECT count(*) FROM note").scalar_one() == 3


def test_a_statement_that_is_not_read_to_its_end_is_in_the_way_of_no_later_write(path: Path, store: Store) -> None:
    with pytest.raises(LocalStoreError, match="not read to its end") as kept, store.write() as tx:  # noqa: PT012
        unread = tx.connection().exec_driver_sql("UPDATE note SET stars = 9 RETURNING id")
        assert unread.fetchone()
    check_works(store)
    assert rows_of(path)["a",]["stars"] == 1
    del kept, unread


# -- sessions that are over


def kept_sessions(store: Store) -> dict[str, Callable[[], object]]:
    """Ways to go on with what a block handed out."""
    with store.write() as tx:
        connection = tx.connection()
    return {
        "the session": lambda: tx.connection(),
        "its connection": lambda: connection.exec_driver_sql("INSERT INTO note (id) VALUES ('stale')"),
        "its transaction": lambda: connection.begin(),
    }


KEPT = ("the session", "its connection", "its transaction")


@pytest.mark.parametrize("kept", KEPT)
def test_a_session_whose_block_is_over_is_refused_and_ends_no_other_write(path: Path, store: Store, kept: str) -> None:
    go_on = kept_sessions(store)[kept]
    with store.write() as tx:
        tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('half')")
        with ThreadPoolExecutor(1) as pool:
            errors = [pool.submit(go_on).exception() for _ in range(3)]
        assert all("after its block" in str(error) for error in errors)
        with pytest.raises((WriteEnded, sa.exc.StatementError), match="after its block"):
            go_on()
        tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('whole')")
    assert set(rows_of(path)) == {("a",), ("b",), ("half",), ("whole",)}
    check_works(store)


@pytest.mark.parametrize("kept", KEPT)
def test_a_session_whose_block_is_over_keeps_no_file_locked_or_open(path: Path, store: Store, kept: str) -> None:
    go_on = kept_sessions(store)[kept]
    with pytest.raises((WriteEnded, sa.exc.StatementError), match="after its block"):
        go_on()
    with other_program(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
    store.close()
    with pytest.raises((WriteEnded, sa.exc.StatementError), match="after its block"):
        go_on()
    sole_engine(path).connect().close()


def test_a_session_whose_snapshot_is_over_is_refused(store: Store) -> None:
    with store.snapshot() as session:
        pass
    with pytest.raises(sa.exc.InvalidRequestError, match="closed"):
        session.connection()


ENDS_IT_EARLY: dict[str, Callable[[Session], object]] = {
    "close": lambda tx: tx.close(),
    "reset": lambda tx: tx.reset(),
    "invalidate": lambda tx: tx.invalidate(),
    "with": lambda tx: tx.__exit__(None, None, None),
    "the session's transaction": lambda tx: tx.get_transaction().commit(),  # type: ignore[union-attr]
    "the connection": lambda tx: tx.connection().commit(),
    "a comment before it": lambda tx: tx.connection().exec_driver_sql("/* now */ -- really\n COMMIT"),
}


@pytest.mark.parametrize("end", ENDS_IT_EARLY.values(), ids=ENDS_IT_EARLY)
@pytest.mark.parametrize("is_swallowed", [True, False])
def test_nothing_in_a_block_ends_it_early_without_saying_so(
    path: Path, store: Store, end: Callable[[Session], object], is_swallowed: bool
) -> None:
    before = rows_of(path)
    with pytest.raises((CommitInsideWrite, ValueError)), store.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('early')")
        with suppress(CommitInsideWrite) if is_swallowed else nullcontext():
            end(tx)
        raise ValueError
    assert rows_of(path) == before
    check_works(store)


# -- errors


@pytest.mark.parametrize("outer", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_an_error_in_a_block_entered_while_something_else_is_handled_is_that_error(
    store: Store, outer: type[BaseException]
) -> None:
    """As when an application saves its state on the way out."""

    def save() -> None:
        with store.write() as tx:
            tx.connection().exec_driver_sql("INSERT INTO note (id) VALUES ('a')")

    try:
        raise outer
    except outer:
        with pytest.raises(IntegrityError):
            save()
    check_works(store)


def test_a_savepoint_that_is_taken_back_does_not_leave_others_logging_rowids(path: Path, store: Store) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql("UPDATE note SET stars = 5")
        with suppress(ValueError), tx.begin_nested():
            tx.connection().exec_driver_sql("CREATE TEMP TABLE passing (id)")
            raise ValueError
    assert query(path, "SELECT capturing FROM localstore_state") == [(1,)]
    check_works(store)


HEADING = (("id", sa.String), ("heading", sa.String), ("stars", sa.Integer))


# -- order of triggers


def test_a_key_that_several_rows_take_one_after_another_is_a_new_row(path: Path) -> None:
    """A table without rowids is logged by key, and SQLite tells of an update's other columns before it tells of its key."""
    word = sa.Table(
        "word",
        sa.MetaData(),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("count", sa.Integer),
        sqlite_with_rowid=False,
    )
    store = open_store(path, [word])
    write(store, "INSERT INTO word VALUES ('a', 1), ('b', 2)")
    write(store, "UPDATE OR REPLACE word SET id = 'new', count = count + 10")
    changes = changes_of(changesets_in(path)[1:])
    assert changes["word", ("new",)] == (Op.INSERT, {"count": 12})
    assert {key: op for (_, key), (op, _) in changes.items()} == {("new",): Op.INSERT, ("a",): Op.DELETE, ("b",): Op.DELETE}
    store.close()
