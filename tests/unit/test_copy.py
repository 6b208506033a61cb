"""Copies: plain SQLite files with the same data and nothing of sync in them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.errors import StoreDamaged, StoreUnusable, TargetExists
from localstore.store.copy import copy_plain
from localstore.store.failures import A_WAY_OUT
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_local
from localstore.testing.clock import ManualClock, environment
from tests.unit.failing_disk import FailingDisk, failing
from tests.unit.store_kit import LINK, NOTE, Device, changesets_in, open_store, other_program, query, rows_of, sealed_in, write

PAGE = 4096
OURS = "SELECT name FROM sqlite_master WHERE name LIKE 'localstore%' OR sql LIKE '%localstore%'"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "copy.db"


@pytest.fixture
def store(source: Path, target: Path) -> Iterator[Store]:
    """An open store with rows in two tables, sent and unsent, and a folder for copies."""
    target.parent.mkdir()
    opened = open_store(source, [NOTE, LINK])
    write(opened, "INSERT INTO note VALUES ('a', 'ä 💾', 1), ('b', NULL, NULL)", "INSERT INTO link VALUES ('a', 1, 'l')")
    opened.acknowledge(1)
    write(opened, "INSERT INTO note VALUES ('c', 'unsent', -1)")
    yield opened
    opened.close()


def open_plain(path: Path, *tables: sa.Table) -> Store:
    return open_local(path, tables, options=StoreOptions(), environment=environment(ManualClock()))


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_copy_holds_the_same_rows(store: Store, source: Path, target: Path) -> None:
    copy_plain(source, target)
    assert rows_of(target, "note") == rows_of(source, "note")
    assert rows_of(target, "link") == rows_of(source, "link")
    assert len(rows_of(target)) == 3


def test_a_copy_is_a_plain_file_in_good_order(store: Store, source: Path, target: Path) -> None:
    copy_plain(source, target)
    assert query(target, OURS) == []
    assert {name for (name,) in query(target, "SELECT name FROM sqlite_master WHERE type = 'table'")} == {"note", "link"}
    assert query(target, "PRAGMA integrity_check") == [("ok",)]
    assert query(target, "PRAGMA freelist_count") == [(0,)]
    assert files_in(target.parent) == ["copy.db"]


def test_a_copy_can_be_written_by_any_program(store: Store, source: Path, target: Path) -> None:
    copy_plain(source, target)
    with other_program(target) as connection:
        connection.execute("UPDATE note SET stars = 9")
        connection.execute("INSERT OR REPLACE INTO link VALUES ('a', 1, 'new')")
        connection.execute("DELETE FROM note WHERE id = 'a'")
    assert len(rows_of(target)) == 2


def test_a_copy_opens_as_a_local_store(store: Store, source: Path, target: Path) -> None:
    copy_plain(source, target)
    local = open_plain(target, NOTE, LINK)
    write(local, "INSERT INTO note (id) VALUES ('d')")
    local.close()
    assert rows_of(target).keys() == {("a",), ("b",), ("c",), ("d",)}


def test_a_copy_can_become_another_device(store: Store, source: Path, target: Path) -> None:
    copy_plain(source, target)
    other = open_store(target, [NOTE, LINK], seed=7)
    assert other.state().device != store.state().device
    other.close()
    assert sum(changeset.row_count for changeset in changesets_in(target)) == 4


def test_the_store_is_left_as_it_was(store: Store, source: Path, target: Path) -> None:
    before = store.state(), sealed_in(source), rows_of(source)
    copy_plain(source, target)
    assert (store.state(), sealed_in(source), rows_of(source)) == before
    write(store, "INSERT INTO note (id) VALUES ('d')")
    assert len(sealed_in(source)) == 2


def test_a_copy_of_a_local_store_is_the_same_file_again(source: Path, tmp_path: Path) -> None:
    local = open_plain(source, NOTE)
    write(local, "INSERT INTO note VALUES ('a', 't', 1)")
    copy_plain(source, tmp_path / "copy.db")
    local.close()
    assert rows_of(tmp_path / "copy.db") == rows_of(source)


def test_what_an_application_added_to_the_file_is_copied(store: Store, source: Path, target: Path) -> None:
    with other_program(source) as connection:
        connection.execute("CREATE TABLE private (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE)")
        connection.execute("INSERT INTO private (name) VALUES ('p')")
        connection.execute("CREATE INDEX by_title ON note (title)")
        connection.execute("CREATE VIEW titles AS SELECT title FROM note")
        connection.execute("CREATE TRIGGER theirs AFTER INSERT ON note BEGIN SELECT 1; END")
        connection.execute("PRAGMA user_version = 42")
    copy_plain(source, target)
    names = {name for (name,) in query(target, "SELECT name FROM sqlite_master")}
    assert names >= {"private", "by_title", "titles", "theirs", "note", "link"}
    assert query(target, "SELECT id, name FROM private") == [(1, "p")]
    assert query(target, "PRAGMA user_version") == [(42,)]


def test_an_open_write_is_not_in_the_copy(store: Store, source: Path, target: Path) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql("DELETE FROM note")
        copy_plain(source, target)
    assert len(rows_of(target)) == 3
    assert rows_of(source) == {}


@pytest.mark.parametrize("content", [b"", b"precious"])
def test_a_target_that_exists_is_left_as_it_is(store: Store, source: Path, target: Path, content: bytes) -> None:
    target.write_bytes(content)
    with pytest.raises(TargetExists, match=r"copy\.db exists"):
        copy_plain(source, target)
    assert target.read_bytes() == content
    assert files_in(target.parent) == ["copy.db"]


def test_a_store_cannot_be_copied_onto_itself(store: Store, source: Path) -> None:
    with pytest.raises(TargetExists):
        copy_plain(source, source)
    assert len(rows_of(source)) == 3


def test_a_link_that_leads_nowhere_is_not_followed(store: Store, source: Path, target: Path) -> None:
    target.symlink_to(target.with_name("elsewhere.db"))
    with pytest.raises(TargetExists):
        copy_plain(source, target)
    assert files_in(target.parent) == ["copy.db"]


def test_a_missing_folder_is_said_and_not_made(store: Store, source: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="folder"):
        copy_plain(source, tmp_path / "missing" / "copy.db")
    assert not (tmp_path / "missing").exists()


def test_a_copy_that_was_broken_off_is_in_nobodys_way(store: Store, source: Path, target: Path) -> None:
    for name in (".copy.db.1.tmp", "copy.db.tmp"):
        target.with_name(name).write_bytes(b"half a copy")
    copy_plain(source, target)
    assert len(rows_of(target)) == 3


def test_what_cannot_be_removed_behind_a_copy_is_in_nobodys_way(store: Store, source: Path, target: Path) -> None:
    disk = FailingDisk(target.parent, at=1, error=errno.EIO, only_once=True, only_changes=True)
    with failing(disk):
        copy_plain(source, target)
    assert disk.has_failed
    assert len(rows_of(target)) == 3
    target.unlink()
    copy_plain(source, target)
    assert files_in(target.parent) == [target.name]


def test_whichever_call_fails_there_is_a_copy_or_an_error_and_not_both(store: Store, source: Path, target: Path) -> None:
    for at in range(100):
        disk, said = FailingDisk(target.parent, at=at, error=errno.EIO, only_once=True), False
        with failing(disk):
            try:
                copy_plain(source, target)
            except StoreUnusable:
                said = True
        assert target.exists() is not said, f"call {at} failed"
        target.unlink(missing_ok=True)
        if not disk.has_failed:
            break
    assert at > 3


def test_a_source_that_is_damaged_is_named_with_what_to_do(store: Store, source: Path, target: Path) -> None:
    query(source, "PRAGMA wal_checkpoint(TRUNCATE)")
    ((root,),) = query(source, "SELECT rootpage FROM sqlite_master WHERE name = 'note'")
    data = source.read_bytes()
    source.write_bytes(data[: (root - 1) * PAGE] + b"\xff" * PAGE + data[root * PAGE :])
    with pytest.raises(StoreDamaged, match=r"store\.db is damaged") as raised:
        copy_plain(source, target)
    assert raised.value.hint == A_WAY_OUT
    assert files_in(target.parent) == []


@pytest.mark.parametrize("name", ["it's a copy.db", "copy 100%?.db", "ä💾.db", "#copy", "copy.db;DROP TABLE note"])
def test_a_copy_can_have_any_name(store: Store, source: Path, target: Path, name: str) -> None:
    copy_plain(source, target.with_name(name))
    assert files_in(target.parent) == [name]
    assert len(rows_of(target.with_name(name))) == 3


def test_copies_made_while_another_thread_writes_hold_whole_transactions(tmp_path: Path) -> None:
    """Each transaction moves a star from one note to another, so that the sum tells whether a copy cut one in two."""
    x = Device(tmp_path, "x")
    x.write("INSERT INTO note VALUES ('a', 't', 1000), ('b', 't', 0)")
    is_enough = threading.Event()

    def move_stars() -> int:
        moved = 0
        while not is_enough.is_set():
            write(
                x.store,
                "UPDATE note SET stars = stars - 1 WHERE id = 'a'",
                "UPDATE note SET stars = stars + 1 WHERE id = 'b'",
                f"INSERT INTO note VALUES ('{moved}', 't', 0)",
            )
            moved += 1
        return moved

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move_stars)
        for number in range(6):
            copy_plain(x.path, tmp_path / f"copy {number}.db")
        is_enough.set()
        moved = moving.result()
    x.close()
    seen = -1
    for number in range(6):
        rows = rows_of(tmp_path / f"copy {number}.db")
        stars = rows["b",]["stars"]
        assert isinstance(stars, int)
        assert rows["a",]["stars"] == 1000 - stars
        assert len(rows) == 2 + stars
        assert seen <= stars <= moved
        seen = stars
        assert query(tmp_path / f"copy {number}.db", "PRAGMA integrity_check") == [("ok",)]
