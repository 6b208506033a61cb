"""Snapshots between devices of different schemas: nothing is lost, and what cannot be done exactly is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.errors import SnapshotUnusable
from localstore.store.snapshots import load_snapshot
from localstore.testing.clock import ManualClock
from tests.unit.snapshot_kit import family, joined, send_everything, snapshot_of
from tests.unit.store_kit import LINK, NOTE, Device, check_equal, close_devices, query
from tests.unit.test_apply import WIDE_NOTE
from tests.unit.test_renames import NEW_EVERYTHING, OLD, TO_NEW, migrate, values

WIDE, NARROW = [WIDE_NOTE, LINK], [NOTE]
INSERT = "INSERT INTO note (id, title, stars) VALUES ('a', 'first', 1)"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def wide(tmp_path: Path) -> Device:
    """A device of the newer schema, with values in all that is new."""
    device = Device(tmp_path, "w", WIDE)
    device.write("INSERT INTO note VALUES ('a', 'first', 1, 'today')", "INSERT INTO note VALUES ('b', 'second', 2, NULL)")
    device.write("UPDATE note SET due = 'tomorrow' WHERE id = 'b'", "INSERT INTO link VALUES ('a', 1, 'l')")
    device.write("INSERT INTO link VALUES ('a', 2, 'gone')")
    device.write("DELETE FROM link WHERE target = 2", "UPDATE note SET stars = 3 WHERE id = 'b'")
    return device


def check_as_from_history(
    folder: Path, writer: Device, before: Sequence[sa.Table], after: Sequence[sa.Table], tables: tuple[str, ...] = ("note",)
) -> Device:
    """A device that joins with one schema and gets another holds what one does that applied the history instead."""
    history = writer.sealed()
    snapshot = snapshot_of(writer, folder / "snapshot")
    new = joined(folder, "new", snapshot, before)
    old = Device(folder, "old", before)
    old.receive(*history)
    check_equal(new, old, tables=("note",))
    for device in (new, old):
        device.reopen(after)
    check_equal(new, old, tables=tables)
    return new


def test_what_an_older_schema_does_not_know_is_kept_until_it_does(wide: Device, tmp_path: Path) -> None:
    new = check_as_from_history(tmp_path, wide, NARROW, WIDE, ("note", "link"))
    assert new.rows() == wide.rows()
    assert new.rows("link") == wide.rows("link")
    check_equal(new, wide, tables=("note", "link"))
    assert query(new.path, "SELECT count(*) FROM localstore_unknown") == [(0,)]


def test_an_older_schema_passes_on_in_a_snapshot_what_it_does_not_know(wide: Device, tmp_path: Path) -> None:
    middle = joined(tmp_path, "m", snapshot_of(wide, tmp_path / "first"), NARROW)
    last = joined(tmp_path, "last", snapshot_of(middle, tmp_path / "second"), WIDE)
    check_equal(last, wide, tables=("note", "link"))


def test_changes_by_an_older_schema_do_not_reach_what_it_keeps(wide: Device, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot_of(wide, tmp_path / "snapshot"), NARROW)
    new.clock.advance(1)
    news = [new.write("DELETE FROM note WHERE id = 'a'"), new.write("UPDATE note SET title = 'changed' WHERE id = 'b'")]
    wide.receive(*news)
    new.reopen(WIDE)
    check_equal(new, wide, tables=("note", "link"))
    assert new.rows() == {("b",): {"title": "changed", "stars": 3, "due": "tomorrow"}}


def test_columns_that_the_snapshot_lacks_get_their_defaults_and_lose_against_every_value(tmp_path: Path) -> None:
    narrow = Device(tmp_path, "n")
    narrow.write(INSERT)
    middle = Device(tmp_path, "m", WIDE, clock=ManualClock())
    middle.receive(*narrow.sealed())
    new = check_as_from_history(tmp_path, narrow, WIDE, WIDE)
    assert new.rows() == {("a",): {"title": "first", "stars": 1, "due": "never"}}
    new.receive(middle.write("UPDATE note SET due = 'today'"))
    check_equal(new, middle)


def test_columns_that_the_writer_got_later_lose_against_every_value_of_rows_from_before(tmp_path: Path) -> None:
    """No clock of these rows was written anew when the columns came."""
    device = Device(tmp_path, "x")
    history = [device.write(INSERT)]
    wide = Device(tmp_path, "w", WIDE)
    earlier = wide.write("INSERT INTO note VALUES ('a', 'w', 2, 'today')")
    device.clock.advance(1)
    history += [device.write("INSERT INTO note VALUES ('b', 'second', 2)")]
    send_everything(device)  # its clocks are written before it knows of the columns
    device.reopen(WIDE)
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), WIDE)
    check_equal(new, device)
    for each in (new, device):
        each.receive(earlier)
    wide.receive(*history)
    check_equal(new, device, wide)
    last = joined(tmp_path, "last", snapshot_of(new, tmp_path / "again"), WIDE)
    check_equal(last, wide)


def test_a_column_that_must_have_a_value_and_has_no_default_makes_the_snapshot_unusable(tmp_path: Path) -> None:
    narrow = Device(tmp_path, "n")
    narrow.write(INSERT)
    columns = (sa.Column("title", sa.String), sa.Column("stars", sa.Integer), sa.Column("must", sa.String, nullable=False))
    strict = sa.Table("note", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *columns)
    new = Device(tmp_path, "new", [strict])
    with pytest.raises(SnapshotUnusable, match="must"):
        load_snapshot(new.store, snapshot_of(narrow, tmp_path / "snapshot"))
    assert new.rows() == {}


def test_a_table_with_another_key_is_kept_aside(tmp_path: Path) -> None:
    other = sa.Table("note", sa.MetaData(), sa.Column("code", sa.String, primary_key=True), sa.Column("title", sa.String))
    writer = Device(tmp_path, "w")
    history = writer.write(INSERT)
    snapshot = snapshot_of(writer, tmp_path / "snapshot")
    new, old = joined(tmp_path, "new", snapshot, [other]), Device(tmp_path, "old", [other])
    old.receive(history)
    for device in (new, old):
        assert device.rows() == {}
        assert query(device.path, "SELECT tbl FROM localstore_unknown") == [("note",)]
        assert query(device.path, "SELECT count(*) FROM localstore_table") == [(2,)]
        assert device.clocks() == {}


# -- renames


@pytest.mark.parametrize(("schema", "links"), TO_NEW.values(), ids=TO_NEW)
def test_a_snapshot_is_understood_under_new_names(tmp_path: Path, schema: sa.Table, links: list[tuple[str, str, str]]) -> None:
    """The links are in the snapshot: some device has made them."""
    clock = ManualClock()
    writer, migrated = Device(tmp_path, "x", [OLD], clock=clock), Device(tmp_path, "y", [OLD], clock=clock)
    writer.write("INSERT INTO note VALUES ('a', 'A', '1')", "INSERT INTO note VALUES ('b', 'B', '2')")
    writer.write("UPDATE note SET title = 'AA' WHERE id = 'a'")
    migrated.receive(*writer.sealed())
    migrate(migrated, links, schema)
    migrated.store.seal()
    writer.receive(*migrated.sealed())
    new = joined(tmp_path, "new", snapshot_of(writer, tmp_path / "snapshot"), [schema], clock=clock)
    assert values(new, schema) == values(migrated, schema) == {"a": ("AA", "1"), "b": ("B", "2")}
    migrated.store.fold()
    assert new.clocks() == migrated.clocks()
    new.receive(writer.write("UPDATE note SET title = 'AAA', stars = '9' WHERE id = 'a'"))
    assert values(new, schema)["a"] == ("AAA", "9")


def test_a_snapshot_is_understood_under_old_names(tmp_path: Path) -> None:
    clock = ManualClock()
    migrated = Device(tmp_path, "y", [OLD], clock=clock)
    migrated.write("INSERT INTO note VALUES ('a', 'A', '1')")
    migrate(migrated, TO_NEW["everything"][1], NEW_EVERYTHING)
    migrated.write("UPDATE memo SET heading = 'AA'")
    new = joined(tmp_path, "new", snapshot_of(migrated, tmp_path / "snapshot"), [OLD], clock=clock)
    assert values(new, OLD) == {"a": ("AA", "1")}
    migrated.receive(new.write("UPDATE note SET title = 'AAA'"))
    assert values(migrated, NEW_EVERYTHING) == {"a": ("AAA", "1")}


def test_names_that_nobody_has_linked_yet_are_filled_in_when_somebody_does(tmp_path: Path) -> None:
    clock = ManualClock()
    writer = Device(tmp_path, "x", [OLD], clock=clock)
    writer.write("INSERT INTO note VALUES ('a', 'A', '1')")
    history = writer.sealed()
    new = joined(tmp_path, "new", snapshot_of(writer, tmp_path / "snapshot"), [NEW_EVERYTHING], clock=clock)
    assert values(new, NEW_EVERYTHING) == {}
    migrated = Device(tmp_path, "y", [OLD], clock=clock)
    migrated.receive(*history)
    migrate(migrated, TO_NEW["everything"][1], NEW_EVERYTHING)
    migrated.store.seal()
    new.receive(*migrated.sealed())
    assert values(new, NEW_EVERYTHING) == {"a": ("A", "1")}


# -- what is not shown as merged


@pytest.fixture
def orphaned(tmp_path: Path) -> Device:
    """A device where a row is set aside, as another deleted what it refers to."""
    device, other = Device(tmp_path, "x", family()), Device(tmp_path, "y", family())
    other.receive(device.write("INSERT INTO parent VALUES ('p')"))
    device.write("INSERT INTO child VALUES ('c', 'p', 'kept')")
    device.receive(other.write("DELETE FROM parent"))
    assert device.rows("child") == {}
    return device


def test_a_row_that_is_set_aside_comes_back_where_a_snapshot_was_loaded(orphaned: Device, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot_of(orphaned, tmp_path / "snapshot"), family())
    assert new.rows("child") == {}
    assert [conflict.lost_value for conflict in new.store.conflicts()] == ["p", "kept"]
    back = orphaned.write("INSERT INTO parent VALUES ('p')")
    new.receive(back)
    assert new.rows("child") == {("c",): {"up": "p", "text": "kept"}}


def test_a_schema_that_does_not_mind_shows_a_row_that_was_set_aside(orphaned: Device, tmp_path: Path) -> None:
    new = joined(tmp_path, "new", snapshot_of(orphaned, tmp_path / "snapshot"), family(with_key=False))
    assert new.rows("child") == {("c",): {"up": "p", "text": "kept"}}


def test_a_schema_that_minds_sets_a_row_aside_that_was_shown(tmp_path: Path) -> None:
    device = Device(tmp_path, "x", family(with_key=False))
    device.write("INSERT INTO child VALUES ('c', 'p', 'kept')")
    new = joined(tmp_path, "new", snapshot_of(device, tmp_path / "snapshot"), family())
    assert new.rows("child") == {}
    new.receive(device.write("INSERT INTO parent VALUES ('p')"))
    assert new.rows("child") == device.rows("child")


@pytest.mark.parametrize("tables", [family(with_text=False), family()[:1]], ids=["a column", "a table"])
def test_rows_that_are_set_aside_and_fit_only_in_part_are_kept_until_there_is_room(
    orphaned: Device, tmp_path: Path, tables: list[sa.Table]
) -> None:
    new = joined(tmp_path, "new", snapshot_of(orphaned, tmp_path / "snapshot"), tables)
    new.reopen(family())
    assert new.rows("child") == orphaned.rows("child") == {}
    new.receive(orphaned.write("INSERT INTO parent VALUES ('p')"))
    assert new.rows("child") == orphaned.rows("child") != {}
