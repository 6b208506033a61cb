"""Snapshots of encrypted stores: the file itself is plain, so that devices with other keys can load it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from localstore.errors import RealmNotEmpty, SnapshotUnusable
from localstore.store.driver import connect
from localstore.store.file import Store
from localstore.store.snapshots import load_snapshot, write_snapshot
from tests.unit.store_kit import open_store, write

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
ROWS = [("a", "first", 1), ("b", "second", 2)]


@pytest.fixture(params=[(KEY, OTHER_KEY), (KEY, None), (None, KEY)], ids=["both", "the writer", "the loader"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """One that is about to write a snapshot, and one that holds nothing."""
    writer = open_store(tmp_path / "writer.db", seed=1, encryption_key=request.param[0])
    loader = open_store(tmp_path / "loader.db", seed=2, encryption_key=request.param[1])
    write(writer, *(("INSERT INTO note VALUES (?, ?, ?)", *row) for row in ROWS))
    writer.acknowledge(1)
    writer.apply([], after=None, cursor=b"1")
    with closing(writer), closing(loader):
        yield writer, loader


def rows_of(store: Store) -> list[tuple[object, ...]]:
    with closing(connect(store.path, store.options.encryption_key)) as connection:
        return connection.execute("SELECT * FROM note ORDER BY id").fetchall()


def test_devices_with_other_keys_load_it(stores: tuple[Store, Store], tmp_path: Path) -> None:
    writer, loader = stores
    assert write_snapshot(writer, tmp_path / "snapshot", cursor=b"1")
    with closing(sqlite3.connect(tmp_path / "snapshot")) as connection:
        assert connection.execute("SELECT * FROM note ORDER BY id").fetchall() == ROWS
    load_snapshot(loader, tmp_path / "snapshot")
    assert rows_of(loader) == ROWS
    write(loader, "DELETE FROM note WHERE id = 'a'")
    assert rows_of(loader) == ROWS[1:]
    with pytest.raises(RealmNotEmpty):
        load_snapshot(loader, tmp_path / "snapshot")


def test_a_file_stays_encrypted_that_a_plain_one_was_loaded_into(stores: tuple[Store, Store], tmp_path: Path) -> None:
    writer, loader = stores
    write_snapshot(writer, tmp_path / "snapshot", cursor=b"1")
    load_snapshot(loader, tmp_path / "snapshot")
    is_encrypted = loader.options.encryption_key is not None
    loader.close()
    assert (b"second" in loader.path.read_bytes()) is not is_encrypted


def test_what_breaks_on_the_way_leaves_it_empty(stores: tuple[Store, Store], tmp_path: Path) -> None:
    writer, loader = stores
    write_snapshot(writer, tmp_path / "snapshot", cursor=b"1")
    write_trigger = "CREATE TRIGGER mine AFTER INSERT ON note BEGIN SELECT RAISE(ABORT, 'not here'); END"
    with closing(connect(loader.path, loader.options.encryption_key)) as connection:
        connection.execute(write_trigger)
    with pytest.raises(SnapshotUnusable, match="not here"):
        load_snapshot(loader, tmp_path / "snapshot")
    assert rows_of(loader) == []
    with closing(connect(loader.path, loader.options.encryption_key)) as connection:
        connection.execute("DROP TRIGGER mine")
    load_snapshot(loader, tmp_path / "snapshot")
    assert rows_of(loader) == ROWS
