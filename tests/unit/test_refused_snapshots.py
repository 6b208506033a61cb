"""Snapshots that are not loaded: the store is not empty, the file is of no use, or something breaks on the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from localstore import wire
from localstore.changes import Changeset, Op, RowGroup
from localstore.errors import (
    NewerFormat,
    RealmNotEmpty,
    ResetRequired,
    SnapshotUnusable,
)
from localstore.store.snapshot_file import FORMAT, seal
from localstore.store.snapshots import load_snapshot
from localstore.testing.clock import ManualClock
from tests.unit.snapshot_kit import BOTH, INSERT_A, device_with_history, joined, snapshot_of
from tests.unit.store_kit import (
    Device,
    changesets_in,
    check_equal,
    close_devices,
    is_clean,
    open_store,
    other_program,
    query,
)

DAY = 86_400.0


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return device_with_history(tmp_path)


@pytest.fixture
def snapshot(device: Device, tmp_path: Path) -> Path:
    return snapshot_of(device, tmp_path / "snapshot")


def is_untouched(device: Device) -> bool:
    """Whether a device holds nothing, and can be written and synced as on its first day."""
    assert device.store.state().cursor is None
    assert device.rows() == {}
    assert device.clocks() == {}
    assert query(device.path, "SELECT count(*) FROM localstore_device") == [(0,)]
    assert is_clean(device.path)
    device.write("INSERT INTO note VALUES ('own', 'o', 1)")
    [changeset] = changesets_in(device.path)
    assert (changeset.number, changeset.row_count) == (1, 1)
    return True


# -- a store that is not empty


def with_a_write(device: Device) -> None:
    device.write("INSERT INTO note VALUES ('own', 'o', 1)")


def with_a_write_that_was_undone(device: Device) -> None:
    device.write("INSERT INTO note VALUES ('own', 'o', 1)")
    device.write("DELETE FROM note")
    device.store.acknowledge(2)


def with_a_write_of_another_program(device: Device) -> None:
    with other_program(device.path) as connection:
        connection.execute("INSERT INTO note VALUES ('own', 'o', 1)")


def with_a_cursor(device: Device) -> None:
    device.receive()


def with_something_waiting(device: Device) -> None:
    group = RowGroup("note", Op.INSERT, ("id",), ("title", "stars"), [["a"], ["t"], [1]])
    sealed = wire.seal(Changeset(b"o" * 16, 2, 5, (), (group,)))
    assert device.store.apply([sealed], after=None, cursor=b"1") is not None
    with other_program(device.path) as connection:
        connection.execute("UPDATE localstore_state SET cursor = NULL")


@pytest.mark.parametrize(
    "use",
    [
        with_a_write,
        with_a_write_that_was_undone,
        with_a_write_of_another_program,
        with_a_cursor,
        with_something_waiting,
    ],
)
def test_a_store_that_was_used_takes_no_snapshot(snapshot: Path, tmp_path: Path, use: Callable[[Device], None]) -> None:
    new = Device(tmp_path, "new", BOTH)
    use(new)
    before = new.rows(), new.clocks(), new.store.state()
    with pytest.raises(RealmNotEmpty, match="Nothing was changed"):
        load_snapshot(new.store, snapshot)
    after = new.rows(), new.clocks(), new.store.state()
    assert after[:2] == before[:2]
    assert after[2].cursor == before[2].cursor


def test_a_snapshot_is_loaded_once(snapshot: Path, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot, BOTH)
    with pytest.raises(RealmNotEmpty):
        load_snapshot(new.store, snapshot)


# -- a snapshot that is of no use


def test_every_flipped_bit_is_noticed(snapshot: Path, tmp_path: Path) -> None:
    new = Device(tmp_path, "new", BOTH)
    whole = snapshot.read_bytes()
    places = {0, 18, 24, 28, 60, 63, 68, 71, 99, 8175, 8176, 8191, 8192, len(whole) - 1, *range(0, len(whole), 509)}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        snapshot.write_bytes(damaged)
        with pytest.raises(SnapshotUnusable, match="history"):
            load_snapshot(new.store, snapshot)
    assert is_untouched(new)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 99, 100, 4096, 8175, 8191, 8192, -4096, -1])
def test_a_snapshot_that_is_cut_short_is_noticed(snapshot: Path, tmp_path: Path, size: int) -> None:
    new = Device(tmp_path, "new", BOTH)
    snapshot.write_bytes(snapshot.read_bytes()[:size])
    with pytest.raises(SnapshotUnusable):
        load_snapshot(new.store, snapshot)
    assert is_untouched(new)


def test_a_snapshot_with_something_behind_it_is_noticed(snapshot: Path, tmp_path: Path) -> None:
    new = Device(tmp_path, "new", BOTH)
    snapshot.write_bytes(snapshot.read_bytes() + b"\0")
    with pytest.raises(SnapshotUnusable):
        load_snapshot(new.store, snapshot)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 20_000, b"SQLite format 3\0" + bytes(20_000)])
def test_garbage_is_no_snapshot(tmp_path: Path, content: bytes) -> None:
    new = Device(tmp_path, "new", BOTH)
    path = tmp_path / "snapshot"
    path.write_bytes(content)
    with pytest.raises(SnapshotUnusable, match="no snapshot"):
        load_snapshot(new.store, path)
    assert is_untouched(new)


def test_a_store_is_no_snapshot(device: Device, tmp_path: Path) -> None:
    device.close()
    with pytest.raises(SnapshotUnusable, match="no snapshot"):
        load_snapshot(Device(tmp_path, "new", BOTH).store, device.path)


def test_a_snapshot_whose_texts_are_encoded_otherwise_is_refused(tmp_path: Path) -> None:
    """SQLite has no two encodings at a time."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.executescript("PRAGMA encoding = 'UTF-16'; CREATE TABLE mine (id)")
    device, new = Device(tmp_path, "x"), Device(tmp_path, "new")
    device.write(INSERT_A)
    with pytest.raises(SnapshotUnusable, match="encoding"):
        load_snapshot(new.store, snapshot_of(device, tmp_path / "snapshot"))
    assert is_untouched(new)


def test_a_snapshot_that_is_not_there_is_named(tmp_path: Path) -> None:
    new = Device(tmp_path, "new", BOTH)
    with pytest.raises(SnapshotUnusable, match="read"):
        load_snapshot(new.store, tmp_path / "missing")
    assert is_untouched(new)


def forge(snapshot: Path, *statements: str) -> Path:
    """A snapshot with a good digest that was never written like that."""
    with closing(sqlite3.connect(snapshot, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            connection.execute(statement)
        connection.execute("UPDATE localstore_digest SET digest = zeroblob(16)")
    seal(snapshot)
    return snapshot


def test_a_newer_format_asks_for_a_newer_localstore(snapshot: Path, tmp_path: Path) -> None:
    new = Device(tmp_path, "new", BOTH)
    forge(snapshot, f"PRAGMA user_version = {FORMAT + 1}", "DROP TABLE localstore_snapshot")
    with pytest.raises(NewerFormat, match="Upgrade localstore"):
        load_snapshot(new.store, snapshot)
    assert is_untouched(new)


WAITING = Changeset(b"o" * 16, 2, 5, (), ())
SEALED = wire.encode(wire.seal(WAITING))
DAMAGED = SEALED[:-1] + bytes([SEALED[-1] ^ 1])
FORGERIES = {
    "no format": "PRAGMA user_version = 0",
    "no header": "DROP TABLE localstore_snapshot",
    "no table": "DROP TABLE note",
    "no column": "ALTER TABLE note DROP COLUMN title",
    "no SQL": "UPDATE sqlite_master SET sql = 'CREATE TABLE note (id VARCHAR) FROM THE FUTURE' WHERE name = 'note'",
    "no JSON": "UPDATE localstore_table SET columns = '[' WHERE name = 'note'",
    "other JSON": "UPDATE localstore_table SET columns = '7' WHERE name = 'note'",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON note BEGIN SELECT 1; END",
    "a view": "CREATE VIEW v AS SELECT 1",
    "a column twice": "UPDATE localstore_table SET columns = '[\"title\", \"title\"]' WHERE name = 'note'",
    "another application": "UPDATE localstore_snapshot SET app = 'other'",
    "another partition": "UPDATE localstore_snapshot SET partition = 'other'",
    "another remote": "UPDATE localstore_snapshot SET remote_id = 'other'",
    "nothing where changesets wait": "DROP TABLE localstore_waiting",
    "no changeset that waits": "INSERT INTO localstore_waiting VALUES (zeroblob(16), 1, x'01')",
    "one that is damaged": f"INSERT INTO localstore_waiting VALUES (x'{WAITING.device.hex()}', 2, x'{DAMAGED.hex()}')",
    "one under another number": f"INSERT INTO localstore_waiting VALUES (x'{WAITING.device.hex()}', 3, x'{SEALED.hex()}')",
}


@pytest.mark.parametrize("statement", FORGERIES.values(), ids=FORGERIES)
def test_what_does_not_fit_is_refused_as_a_whole(snapshot: Path, tmp_path: Path, statement: str) -> None:
    new = Device(tmp_path, "new", BOTH)
    new.store.meet("the remote")
    forge(snapshot, statement)
    with pytest.raises(SnapshotUnusable):
        load_snapshot(new.store, snapshot)
    assert is_untouched(new)


def test_a_file_that_knows_no_remote_yet_learns_of_it(device: Device, tmp_path: Path) -> None:
    device.store.meet("the remote")
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), BOTH)
    assert new.store.state().remote_id == "the remote"


def test_a_device_that_is_in_the_snapshot_already_was_copied(device: Device, snapshot: Path, tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "twin.db", BOTH, seed=int.from_bytes(b"x", "big"))) as twin:
        assert twin.state().device == device.id
        with pytest.raises(ResetRequired, match="forked"):
            load_snapshot(twin, snapshot)


def test_a_snapshot_from_the_future_has_to_wait(tmp_path: Path) -> None:
    ahead = ManualClock()
    ahead.advance(DAY)
    device = Device(tmp_path, "x", clock=ahead)
    device.write(INSERT_A)
    snapshot = snapshot_of(device, tmp_path / "snapshot")
    new = Device(tmp_path, "new")
    with pytest.raises(SnapshotUnusable, match="believe"):
        load_snapshot(new.store, snapshot)
    new.clock.advance(DAY)
    load_snapshot(new.store, snapshot)
    assert new.rows() == device.rows()


# -- what breaks on the way


def test_what_fails_in_the_middle_leaves_the_store_as_it_was(device: Device, snapshot: Path, tmp_path: Path) -> None:
    new = Device(tmp_path, "new", BOTH)
    with other_program(new.path) as connection:
        connection.execute(
            "CREATE TRIGGER mine AFTER INSERT ON link BEGIN SELECT RAISE(ABORT, 'not here'); END"
        )  # the second of two tables
    for _ in range(2):
        with pytest.raises(SnapshotUnusable, match="not here"):
            load_snapshot(new.store, snapshot)
        assert new.rows() == {}
    with other_program(new.path) as connection:
        connection.execute("DROP TRIGGER mine")
    load_snapshot(new.store, snapshot)
    check_equal(device, new, tables=("note", "link"))


def test_what_fails_for_good_leaves_a_store_that_takes_the_history(device: Device, tmp_path: Path) -> None:
    history = device.sealed()
    snapshot = snapshot_of(device, tmp_path / "snapshot")
    new = Device(tmp_path, "new", BOTH)
    forge(snapshot, "DROP TABLE link")
    with pytest.raises(SnapshotUnusable):
        load_snapshot(new.store, snapshot)
    new.receive(*history)
    check_equal(device, new, tables=("note", "link"))
