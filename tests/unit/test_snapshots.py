"""Snapshots: when a store writes one, what is in it, and what becomes of a store that loads it."""

from __future__ import annotations

import errno
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from localstore import wire
from localstore.changes import Changeset, Dependency, Op, RowGroup
from localstore.clock import stamp_at
from localstore.errors import (
    StoreUnusable,
    TargetExists,
)
from localstore.store import snapshot_writing
from localstore.store.snapshot_file import FORMAT, TABLES
from localstore.store.snapshots import load_snapshot, snapshot_number, write_snapshot
from localstore.testing.clock import ManualClock
from tests.unit.failing_disk import FailingDisk, failing
from tests.unit.snapshot_kit import (
    BOTH,
    INSERT_A,
    INSERT_B,
    device_with_history,
    family,
    joined,
    send_everything,
    snapshot_of,
    snapshot_without_what_is_older,
)
from tests.unit.store_kit import (
    LINK,
    NOTE,
    Device,
    changesets_in,
    check_equal,
    close_devices,
    is_clean,
    open_store,
    other_program,
    query,
    write,
)
from tests.unit.test_apply import WIDE_NOTE
from tests.unit.test_seeds import seeded

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


# -- what is in it


def test_a_person_can_open_a_snapshot(snapshot: Path) -> None:
    assert query(snapshot, "SELECT * FROM note ORDER BY id") == [("a", "changed", 1), ("b", "second", 2)]
    assert query(snapshot, "SELECT * FROM link") == [("a", 1, "l")]
    assert query(snapshot, "SELECT app, partition, cursor FROM localstore_snapshot") == [("notes", "default", b"1")]
    assert query(snapshot, "PRAGMA user_version") == [(FORMAT,)]
    assert query(snapshot, "PRAGMA integrity_check") == [("ok",)]
    assert query(snapshot, "SELECT length(digest) FROM localstore_digest") == [(16,)]


def test_its_writer_is_a_device_like_any_other(device: Device, snapshot: Path) -> None:
    assert query(snapshot, "SELECT device, number FROM localstore_device") == [(device.id, 2)]


def test_what_merging_knows_has_the_columns_that_it_has_in_a_store(device: Device, snapshot: Path) -> None:
    """They are copied record by record. When a layout changes one of these tables, the snapshot's format has to follow."""
    for table in ("seen", "clock", "repaired", "unknown"):  # told: what a user has heard is of a store alone
        described = f"SELECT * FROM pragma_table_info('localstore_{table}') WHERE name <> 'told'"
        assert query(snapshot, described) == query(device.path, described)


def test_it_holds_nothing_that_is_of_its_writer_alone(snapshot: Path) -> None:
    ours = {name for (name,) in query(snapshot, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert ours == {f"localstore_{name}" for name in TABLES} | {"note", "link", "localstore_renamed"}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such rights")
def test_only_its_user_may_read_it(snapshot: Path) -> None:
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600


def test_indexes_are_made_by_who_loads_it(device: Device, tmp_path: Path) -> None:
    for path in (device.path, Device(tmp_path, "new", BOTH).path):
        with other_program(path) as connection:
            connection.execute("CREATE INDEX by_stars ON note (stars)")
    snapshot = snapshot_of(device, tmp_path / "snapshot")
    assert query(snapshot, "SELECT * FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL") == []
    close_devices()
    new = joined(tmp_path, "new", snapshot, BOTH)
    assert query(new.path, "SELECT id FROM note INDEXED BY by_stars WHERE stars = 2") == [("b",)]
    assert query(new.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_table_with_generated_columns_is_copied_as_well(tmp_path: Path) -> None:
    made = "CREATE TABLE note (id VARCHAR NOT NULL PRIMARY KEY, n INT AS (stars + 1), title VARCHAR, stars INTEGER)"
    for name in ("x", "new"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            connection.execute(made)
    device = Device(tmp_path, "x")
    device.write("INSERT INTO note (id, title, stars) VALUES ('a', 'first', 1)")
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"))
    assert query(new.path, "SELECT id, n, title, stars FROM note") == [("a", 2, "first", 1)]


# -- when it is written


def refused(device: Device, cursor: bytes = b"1") -> bool:
    """Whether a device makes no snapshot, and leaves no file."""
    path = device.path.with_name("refused")
    written = write_snapshot(device.store, path, cursor=cursor)
    assert path.exists() is written
    return not written


def test_unsent_changes_do_not_belong_into_a_snapshot(device: Device) -> None:
    device.receive()
    assert refused(device)
    send_everything(device)
    assert not refused(device)


def test_what_another_program_wrote_is_unsent_as_well(device: Device) -> None:
    send_everything(device)
    with other_program(device.path) as connection:
        connection.execute("UPDATE note SET stars = 7")
    assert refused(device)


def test_a_snapshot_is_of_the_cursor_that_the_store_is_at(device: Device) -> None:
    device.store.acknowledge(2)
    assert refused(device, b"1")  # it has none yet
    device.receive()
    assert refused(device, b"another")
    assert not refused(device, b"1")


def test_one_that_was_not_finished_and_cannot_be_removed_is_in_nobodys_way(device: Device, tmp_path: Path) -> None:
    send_everything(device)
    path = tmp_path / "snapshot"
    disk = FailingDisk(path, at=1, error=errno.EDQUOT, only_once=True, only_changes=True)
    with failing(disk):
        assert not write_snapshot(device.store, path, cursor=b"another")
    assert disk.has_failed


def test_what_waits_for_its_turn_waits_on_a_new_device_as_well(device: Device, tmp_path: Path) -> None:
    send_everything(device)
    other = Device(tmp_path, "y", BOTH)
    first, second = other.write("INSERT INTO note VALUES ('c', 'third', 1)"), other.write("UPDATE note SET stars = 2")
    device.receive(second)
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), BOTH)
    assert new.row("c") is None
    for each in (device, new):
        assert each.receive(first).changesets == 2
        assert query(each.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
    assert new.row("c") == {"title": "third", "stars": 2}
    check_equal(device, new, tables=("note", "link"))


def test_what_waits_for_its_time_does_so_on_a_new_device_as_well(tmp_path: Path) -> None:
    device, far = Device(tmp_path, "x", BOTH), Device(tmp_path, "far", BOTH)
    far.clock.advance(2 * DAY)
    device.write(INSERT_A)
    assert device.receive(far.write(INSERT_B)).drifting
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), BOTH)
    assert new.receive().drifting.keys() == {far.id}
    assert set(new.rows()) == {("a",)}
    for each in (device, new):
        each.clock.advance(2 * DAY)
        assert each.receive().changesets == 1
    assert set(new.rows()) == {("a",), ("b",)}
    check_equal(device, new, tables=("note", "link"))


def test_a_changeset_that_waits_counts_as_one_that_is_in_it(device: Device, tmp_path: Path) -> None:
    other = Device(tmp_path, "y", BOTH)
    _, second = other.write(INSERT_A), other.write("UPDATE note SET stars = 2")
    device.receive(second)
    snapshot = snapshot_of(device, tmp_path / "snapshot")
    assert snapshot_number(device.store, snapshot, other.id) == 2
    assert snapshot_number(device.store, snapshot, b"z" * 16) == 0


def test_there_is_none_where_the_remote_refused_something(device: Device) -> None:
    """Its values are in this device's tables, and nowhere else."""
    device.write("INSERT INTO note VALUES ('too much', 't', 1)")
    device.store.refuse(3, "too large")
    send_everything(device)
    assert refused(device)


def test_there_is_none_where_a_changeset_could_not_be_applied(device: Device) -> None:
    send_everything(device)
    group = RowGroup("note", Op.INSERT, ("id",), ("title", "stars"), [["a"], ["t"], [b"no integer"]])
    with other_program(device.path) as connection:
        connection.execute("CREATE TRIGGER mine BEFORE UPDATE ON note BEGIN SELECT RAISE(ABORT, 'never'); END")
    device.receive(wire.seal(Changeset(b"o" * 16, 1, device.store.state().last_stamp + 1, (), (group,))))
    assert query(device.path, "SELECT count(*) FROM localstore_aside") == [(1,)]
    assert refused(device, b"2")


def test_there_is_none_where_another_program_changed_a_table(device: Device) -> None:
    """Until the file is opened anew, nobody knows what its columns are."""
    send_everything(device)
    with other_program(device.path) as connection:
        connection.execute("ALTER TABLE link RENAME COLUMN label TO tag")
    assert refused(device)
    device.reopen([NOTE])
    assert not refused(device)


def test_a_file_that_is_there_is_not_written_over(device: Device, tmp_path: Path) -> None:
    send_everything(device)
    path = tmp_path / "precious"
    path.write_text("mine")
    with pytest.raises(TargetExists):
        write_snapshot(device.store, path, cursor=b"1")
    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(device: Device, tmp_path: Path) -> None:
    send_everything(device)
    with pytest.raises(StoreUnusable, match="missing"):
        write_snapshot(device.store, tmp_path / "missing" / "snapshot", cursor=b"1")


def test_others_write_while_a_snapshot_is_read(device: Device, tmp_path: Path) -> None:
    send_everything(device)
    with device.store.write() as tx, closing(sqlite3.connect(device.path, timeout=0, isolation_level=None)) as connection:
        tx.connection().exec_driver_sql("INSERT INTO note VALUES ('c', 'third', 3)")
        assert snapshot_writing.write(connection, tmp_path / "snapshot", cursor=b"1", horizon=lambda _: 0)
    assert query(tmp_path / "snapshot", "SELECT count(*) FROM note") == [(2,)]


# -- loading it


def test_who_loads_it_holds_the_same_as_its_writer(device: Device, snapshot: Path, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot, BOTH)
    check_equal(device, new, tables=("note", "link"))
    assert new.store.state().cursor == b"1"
    assert new.store.state().last_number == 0
    assert new.sealed() == []


def test_who_loads_it_captures_from_there_on(device: Device, snapshot: Path, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot, BOTH)
    write(new.store, "UPDATE note SET stars = 9 WHERE id = 'a'")
    with other_program(new.path) as connection:
        connection.execute("DELETE FROM link")
    new.store.seal()
    device.receive(*new.sealed())
    assert device.rows() == new.rows()
    assert device.rows("link") == {}


def test_its_first_changeset_says_that_it_had_seen_what_was_in_the_snapshot(
    device: Device, snapshot: Path, tmp_path: Path
) -> None:
    new = joined(tmp_path, "new", snapshot, BOTH)
    new.write("UPDATE note SET stars = 9 WHERE id = 'a'")
    assert changesets_in(new.path)[0].depends == (Dependency(device.id, 2, changesets_in(new.path)[0].depends[0].stamp),)
    assert device.store.conflicts() == []
    device.receive(*new.sealed())
    assert device.store.conflicts() == []


def test_its_stamps_are_later_than_all_in_the_snapshot(tmp_path: Path) -> None:
    ahead = ManualClock()
    ahead.advance(200)
    device = Device(tmp_path, "x", clock=ahead)
    device.write(INSERT_A)
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"))
    assert new.write("UPDATE note SET stars = 5").stamp > device.store.state().last_stamp


def test_changesets_that_the_snapshot_holds_are_known_when_they_come(device: Device, tmp_path: Path) -> None:
    history = device.sealed()
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), BOTH)
    assert new.receive(*history).changesets == 0
    assert new.receive(device.write("UPDATE note SET stars = 3")).changesets == 1
    check_equal(device, new, tables=("note", "link"))


@pytest.mark.parametrize("writer", ["x", "y", "z"])
def test_what_a_device_had_seen_before_need_not_be_said_again(tmp_path: Path, writer: str) -> None:
    """A device names what it has seen once. Its later updates of such a row would be void for who does not know of it."""
    x, y, z = (Device(tmp_path, name) for name in "xyz")
    first = x.write(INSERT_A)
    y.receive(first)
    second = y.write(INSERT_B)
    x.receive(second)
    z.receive(first, second)
    snapshot = snapshot_of({"x": x, "y": y, "z": z}[writer], tmp_path / "snapshot")
    new = joined(tmp_path, "new", snapshot)
    update = y.write("UPDATE note SET stars = 7 WHERE id = 'a'")
    assert wire.unseal(update).depends == ()
    for device in (x, z, new):
        device.receive(update)
    check_equal(new, x, y, z)
    assert new.row("a") == {"title": "first", "stars": 7}


@pytest.mark.parametrize("writer", ["x", "y", "z"])
def test_what_a_device_has_not_said_that_it_had_seen_is_said_in_its_next_changeset(tmp_path: Path, writer: str) -> None:
    x, y, z = (Device(tmp_path, name) for name in "xyz")
    history = [x.write(INSERT_A), y.write(INSERT_B)]
    y.receive(history[0])
    x.receive(history[1])
    z.receive(*history)
    new = joined(tmp_path, "new", snapshot_of({"x": x, "y": y, "z": z}[writer], tmp_path / "snapshot"))
    update = y.write("UPDATE note SET stars = 7 WHERE id = 'a'")
    for device in (x, z, new):
        device.receive(update)
    check_equal(new, x, y, z)
    assert new.row("a") == {"title": "first", "stars": 7}


def test_an_update_of_a_row_that_was_deleted_before_stays_void(device: Device, tmp_path: Path) -> None:
    late = Device(tmp_path, "y", BOTH)
    late.receive(device.sealed()[0])
    late.write("UPDATE note SET stars = 9 WHERE id = 'gone'")
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), BOTH)
    new.receive(*late.sealed())
    assert new.row("gone") is None


def test_tables_have_other_numbers_in_another_file(device: Device, snapshot: Path, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot, [LINK, NOTE])
    numbers = "SELECT id, name FROM localstore_table"
    assert query(new.path, numbers) != query(device.path, numbers)
    check_equal(device, new, tables=("note", "link"))


def test_a_trigger_of_the_application_does_not_make_changesets_of_what_is_loaded(
    device: Device, snapshot: Path, tmp_path: Path
) -> None:
    new = Device(tmp_path, "new", BOTH)
    with other_program(new.path) as connection:
        connection.execute(
            "CREATE TRIGGER mine AFTER INSERT ON note BEGIN INSERT OR REPLACE INTO link VALUES (NEW.id, 0, 'by trigger'); END"
        )
    load_snapshot(new.store, snapshot)
    assert new.sealed() == []
    assert is_clean(new.path)


def test_other_realms_on_the_file_see_it_at_once(device: Device, snapshot: Path, tmp_path: Path) -> None:
    new = Device(tmp_path, "new", BOTH)
    with closing(open_store(new.path, BOTH)) as other:
        before = other.version()
        load_snapshot(new.store, snapshot)
        assert other.version() > before
        write(other, "UPDATE note SET stars = 4 WHERE id = 'a'")
    assert [changeset.row_count for changeset in changesets_in(new.path)] == [1]


# -- horizon


def test_tombstones_beyond_the_horizon_do_not_travel(tmp_path: Path) -> None:
    device = Device(tmp_path, "x")
    device.write(INSERT_A, "INSERT INTO note VALUES ('gone', 'g', 1)")
    device.write("DELETE FROM note WHERE id = 'gone'")
    device.clock.advance(61 * DAY)
    device.write(INSERT_B)
    send_everything(device)
    remote_ms = device.clock.now_ms()
    assert write_snapshot(device.store, tmp_path / "snapshot", cursor=b"1", remote_ms=remote_ms)
    assert query(tmp_path / "snapshot", "SELECT key FROM localstore_clock") == [("b",)]
    new = joined(tmp_path, "new", tmp_path / "snapshot", clock=device.clock)
    assert new.rows() == device.rows()
    assert new.store.state().purged == stamp_at(remote_ms - int(60 * DAY * 1000))
    assert len(device.clocks()) == 3  # its own are left to purge


def test_a_clock_stays_that_holds_anything_from_within_the_horizon(tmp_path: Path) -> None:
    device = Device(tmp_path, "x")
    device.write(INSERT_A, INSERT_B)
    then = device.store.state().last_stamp + 1
    device.clock.advance(1)
    device.write("UPDATE note SET stars = 5 WHERE id = 'a'")
    snapshot = snapshot_without_what_is_older(device, tmp_path / "snapshot", then)
    assert query(snapshot, "SELECT key FROM localstore_clock") == [("a",)]


def test_clocks_stay_where_devices_had_rows_before_they_synced(tmp_path: Path) -> None:
    """Another device may come with such rows at any time."""
    seeded(tmp_path, "x", [("old", "o", 1)])
    device = Device(tmp_path, "x")
    device.write(INSERT_A, "DELETE FROM note WHERE id = 'old'")
    snapshot = snapshot_without_what_is_older(device, tmp_path / "snapshot", device.store.state().last_stamp + 1)
    assert query(snapshot, "SELECT key FROM localstore_clock") == [("a",), ("old",)]


def test_clocks_stay_while_something_is_kept_for_another_schema(tmp_path: Path) -> None:
    """It will be merged by them."""
    wide, device = Device(tmp_path, "w", [WIDE_NOTE]), Device(tmp_path, "x")
    device.receive(wide.write("INSERT INTO note VALUES ('a', 'first', 1, 'today')"))
    snapshot = snapshot_without_what_is_older(device, tmp_path / "snapshot", device.store.state().last_stamp + 1)
    assert query(snapshot, "SELECT key FROM localstore_clock") == [("a",)]


def test_the_clock_of_a_row_stays_that_is_not_shown(tmp_path: Path) -> None:
    """Without a clock, the table is all that tells whether a row is there."""
    device, other = Device(tmp_path, "x", family()), Device(tmp_path, "y", family())
    other.receive(device.write("INSERT INTO parent VALUES ('p')"))
    device.write("INSERT INTO child VALUES ('c', 'p', 'kept')")
    device.receive(other.write("DELETE FROM parent"))
    snapshot = snapshot_without_what_is_older(device, tmp_path / "snapshot", device.store.state().last_stamp + 1)
    assert query(snapshot, "SELECT key FROM localstore_clock") == [("c",)]


def test_without_another_clock_to_confirm_it_nothing_is_beyond_the_horizon(tmp_path: Path) -> None:
    device = Device(tmp_path, "x")
    device.write(INSERT_A)
    device.clock.advance(61 * DAY)
    device.write(INSERT_B)
    snapshot = snapshot_of(device, tmp_path / "snapshot")
    assert query(snapshot, "SELECT count(*) FROM localstore_clock") == [(2,)]
    assert query(snapshot, "SELECT purged FROM localstore_snapshot") == [(0,)]
