"""What a store promises, on a plain and on an encrypted file: the drivers' errors differ, what becomes of them must not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, StatementError

from localstore.changes import Op
from localstore.errors import (
    ChangesetTooLarge,
    DiskFull,
    LocalStoreError,
    NestedWrite,
    ReadOnlyRealm,
    SchemaMismatch,
    StoreBusy,
    StoreUnusable,
    TextNotUnicode,
)
from localstore.store.apply import Applied
from localstore.store.driver import connect
from localstore.store.file import Store
from localstore.wire import SealedChangeset, unseal
from tests.unit.store_kit import NOTE, UNLIMITED, changes_of, exactly, open_store, write

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"

Open = Callable[..., Store]


@pytest.fixture(params=[None, b"k" * 32], ids=["plain", "encrypted"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    found: bytes | None = request.param
    return found


@pytest.fixture
def opened(key: bytes | None, tmp_path: Path) -> Iterator[Open]:
    """Opens stores by name, which are closed in the end."""
    stores: list[Store] = []

    def open_(name: str = "x", **options: Any) -> Store:
        stores.append(open_store(tmp_path / f"{name}.db", seed=ord(name[0]), encryption_key=key, **options))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> Store:
    return opened()


def look(store: Store, sql: str = "SELECT id, title, stars FROM note ORDER BY id") -> list[tuple[Any, ...]]:
    with store.read() as session:
        return [tuple(row) for row in session.connection().exec_driver_sql(sql)]


def outside(store: Store, key: bytes | None, sql: str, *parameters: object) -> list[Any]:
    """One statement, as any other program that has the key would run it."""
    with closing(connect(store.path, key)) as connection:
        return connection.execute(sql, parameters).fetchall()


def sealed(store: Store) -> list[SealedChangeset]:
    return store.batch(max_bytes=UNLIMITED, max_count=UNLIMITED)


def receive(store: Store, *page: SealedChangeset) -> Applied:
    cursor = store.state().cursor
    applied = store.apply(page, after=cursor, cursor=b"%d" % (int(cursor or b"0") + 1))
    assert applied is not None
    return applied


# -- writing and reading


def test_a_write_is_committed_and_sealed(store: Store) -> None:
    write(store, INSERT_A, INSERT_B, "UPDATE note SET stars = 3 WHERE id = 'b'")
    assert look(store) == [("a", "first", 1), ("b", "second", 3)]
    assert changes_of(map(unseal, sealed(store))) == {
        ("note", ("a",)): (Op.INSERT, {"title": "first", "stars": 1}),
        ("note", ("b",)): (Op.INSERT, {"title": "second", "stars": 3}),
    }


VALUES = ["ä 💾", "a\0b", "", b"", b"\0\xff" * 9, -(2**63), 2**63 - 1, 5e-324, -0.0, 0.1, float("inf"), None]


def test_every_kind_of_value_comes_back(store: Store, key: bytes | None) -> None:
    outside(store, key, "CREATE TABLE anything (value)")
    write(store, *(("INSERT INTO anything VALUES (?)", value) for value in VALUES))
    assert exactly([value for (value,) in look(store, "SELECT value FROM anything ORDER BY rowid")]) == exactly(VALUES)


def test_an_exception_rolls_back(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql(INSERT_A)
        raise KeyboardInterrupt
    assert look(store) == []
    assert sealed(store) == []


@pytest.mark.parametrize(
    ("error", "statement"),
    [
        (IntegrityError, (INSERT_A,)),
        (OperationalError, ("INSERT INTO note (nothing) VALUES (1)",)),
        (DataError, ("INSERT INTO note VALUES ('c', zeroblob(2000000000), 1)",)),
        (StatementError, ("INSERT INTO note VALUES ('c', ?, 1)", object())),
        (OverflowError, ("INSERT INTO note VALUES ('c', ?, 1)", 2**70)),
        (UnicodeEncodeError, ("INSERT INTO note VALUES ('c', ?, 1)", "\ud800")),
    ],
    ids=["constraint", "no such column", "too big", "not a value", "overflow", "surrogate"],
)
def test_sqls_own_errors_come_as_sqlalchemys_and_roll_back(
    store: Store, error: type[Exception], statement: tuple[Any, ...]
) -> None:
    write(store, INSERT_A)
    with pytest.raises(error):
        write(store, INSERT_B, statement)
    assert look(store) == [("a", "first", 1)]
    assert len(sealed(store)) == 1


def test_a_savepoint_rolls_back_alone(store: Store) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql(INSERT_A)
        savepoint = tx.begin_nested()
        tx.connection().exec_driver_sql(INSERT_B)
        savepoint.rollback()
    assert look(store) == [("a", "first", 1)]


def test_a_write_inside_a_write_is_refused(store: Store) -> None:
    with store.write(), pytest.raises(NestedWrite), store.write():
        raise AssertionError("not refused")


def test_a_writer_gives_up_when_another_store_keeps_the_file(store: Store, opened: Open) -> None:
    impatient = opened(busy_timeout=0.1)
    with store.write() as tx, ThreadPoolExecutor(1) as pool:
        tx.connection().exec_driver_sql(INSERT_A)
        with pytest.raises(StoreBusy, match="busy_timeout"):
            pool.submit(write, impatient, INSERT_B).result()
    write(impatient, INSERT_B)
    assert [row[0] for row in look(store)] == ["a", "b"]


@pytest.mark.parametrize("statement", [INSERT_A, "DELETE FROM note", "CREATE TABLE other (id)"])
def test_a_read_cannot_write(store: Store, statement: str) -> None:
    with pytest.raises(ReadOnlyRealm), store.read() as session:
        session.connection().exec_driver_sql(statement)
    assert look(store) == []


def test_a_read_stays_with_the_state_that_it_began_with(store: Store) -> None:
    with store.read() as session:
        count = sa.select(sa.func.count()).select_from(NOTE)
        assert session.exec(count).scalar() == 0  # type: ignore[call-overload]
        write(store, INSERT_A)
        assert session.exec(count).scalar() == 0  # type: ignore[call-overload]
    assert len(look(store)) == 1


def test_a_full_disk_is_said_and_the_transaction_rolled_back(store: Store) -> None:
    write(store, INSERT_A, "PRAGMA max_page_count = 60")
    with pytest.raises(DiskFull):
        write(store, ("INSERT INTO note VALUES ('b', ?, 1)", "x" * 400_000))
    write(store, "PRAGMA max_page_count = 100000")
    assert [row[0] for row in look(store)] == ["a"]


def test_eight_threads_lose_no_update(store: Store) -> None:
    write(store, "INSERT INTO note VALUES ('a', NULL, 0)")
    begin = threading.Barrier(8)

    def count() -> None:
        begin.wait()
        for _ in range(20):
            with store.write() as tx:
                stars = tx.connection().exec_driver_sql("SELECT stars FROM note").scalar_one()
                tx.connection().exec_driver_sql("UPDATE note SET stars = ?", (stars + 1,))

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(count) for _ in range(8)]:
            each.result()
    assert look(store) == [("a", None, 160)]


# -- sealing


def test_text_that_is_not_unicode_is_refused_and_rolled_back(store: Store) -> None:
    with pytest.raises(TextNotUnicode, match="UTF-8"):
        write(store, INSERT_A, ("INSERT INTO note VALUES ('b', CAST(? AS TEXT), 1)", b"\xffA"))
    assert look(store) == []


def test_what_another_program_wrote_is_sealed_and_what_cannot_travel_is_noted(store: Store, key: bytes | None) -> None:
    outside(store, key, INSERT_A)
    outside(store, key, "INSERT INTO note VALUES ('b', CAST(? AS TEXT), 1)", b"\xffA")
    store.seal()
    assert changes_of(map(unseal, sealed(store))).keys() == {("note", ("a",))}
    assert [table for table, _ in store.take_unsealed()] == ["note"]


def test_a_transaction_that_is_too_large_is_refused(opened: Open) -> None:
    store = opened(max_changeset_bytes=10_000)
    with pytest.raises(ChangesetTooLarge):
        write(store, ("INSERT INTO note VALUES ('a', ?, 1)", "x" * 20_000))
    assert look(store) == []


def test_acknowledged_changesets_are_let_go(store: Store) -> None:
    write(store, INSERT_A)
    write(store, INSERT_B)
    store.acknowledge(1)
    assert [changeset.number for changeset in store.pending()] == [2]
    store.acknowledge(2)
    assert store.pending() == []


# -- applying


def test_two_devices_converge_and_note_what_lost(opened: Open) -> None:
    x, y = opened("x"), opened("y")
    write(x, INSERT_A)
    receive(y, *sealed(x))
    write(x, "UPDATE note SET title = 'from x'")
    write(y, "UPDATE note SET title = 'from y', stars = 9")
    from_x, from_y = sealed(x), sealed(y)
    receive(x, *from_y)
    receive(y, *from_x)
    assert look(x) == look(y)
    assert len(x.conflicts()) + len(y.conflicts()) == 1


def test_a_changeset_that_sqlite_refuses_is_set_aside_and_the_others_are_applied(opened: Open, key: bytes | None) -> None:
    x, y = opened("x"), opened("y")
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON note WHEN NEW.title = 'bad' BEGIN SELECT RAISE(ABORT, 'refused'); END"
    outside(y, key, refuse)
    write(x, INSERT_A)
    write(x, "INSERT INTO note VALUES ('b', 'bad', 2)")
    write(x, "INSERT INTO note VALUES ('c', 'good', 3)")
    applied = receive(y, *sealed(x))
    assert [(number, reason) for _, number, reason in applied.aside] == [(2, "refused")]
    assert [row[0] for row in look(y)] == ["a", "c"]
    assert look(y, "SELECT number, reason FROM localstore_aside") == [(2, "refused")]


def test_an_error_that_is_no_rows_fault_applies_nothing(opened: Open, key: bytes | None) -> None:
    x, y = opened("x"), opened("y")
    outside(y, key, "CREATE TRIGGER stop AFTER INSERT ON note BEGIN INSERT INTO missing VALUES (1); END")
    write(x, INSERT_A)
    before = y.state()
    with pytest.raises(Exception, match="no such table"):
        receive(y, *sealed(x))
    assert (look(y), y.state()) == ([], before)
    outside(y, key, "DROP TRIGGER stop")
    receive(y, *sealed(x))
    assert look(y) == look(x)


# -- opening


def test_rows_outbox_and_identity_are_the_same_after_reopening(store: Store, opened: Open) -> None:
    write(store, INSERT_A)
    before = store.state(), look(store), sealed(store)
    store.close()
    assert [file.name for file in store.path.parent.iterdir()] == ["x.db"]
    again = opened()
    assert (again.state(), look(again), sealed(again)) == before


def test_a_missing_folder_is_said(opened: Open) -> None:
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        opened("missing/x")


def test_a_column_that_sqlite_cannot_add_is_a_schema_mismatch(store: Store, key: bytes | None, tmp_path: Path) -> None:
    write(store, INSERT_A)
    store.close()
    now = sa.Column("made", sa.String, server_default=sa.text("(datetime('now'))"))
    table = sa.Table("note", sa.MetaData(), *(column._copy() for column in NOTE.columns), now)
    with pytest.raises(SchemaMismatch, match="alembic"):
        open_store(tmp_path / "x.db", [table], encryption_key=key)


def test_a_schema_that_differs_is_a_schema_mismatch(store: Store, key: bytes | None, tmp_path: Path) -> None:
    store.close()
    table = sa.Table("note", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    with pytest.raises(LocalStoreError, match="alembic"):
        open_store(tmp_path / "x.db", [table], encryption_key=key)


def test_a_file_of_another_application_is_refused(store: Store, key: bytes | None, tmp_path: Path) -> None:
    store.close()
    with pytest.raises(StoreUnusable, match="belongs to"):
        open_store(tmp_path / "x.db", app="other", encryption_key=key)
