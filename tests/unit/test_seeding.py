"""Filling a remote that lost its data from what devices hold: the same is there again, as the last writes left it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localstore.clock import stamp_ms
from tests.unit.reset_kit import SEED, Remote, began, settled
from tests.unit.snapshot_kit import family
from tests.unit.store_kit import LINK, NOTE, Device, changesets_in, check_equal, close_devices, is_clean, query
from tests.unit.test_apply import WIDE_NOTE

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"
DAY = 86_400_000


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def wipe(remote: Remote) -> None:
    remote.history.clear()


def test_a_wiped_remote_is_filled_again(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    x.write("UPDATE note SET title = 'changed' WHERE id = 'a'", "DELETE FROM note WHERE id = 'b'")
    remote.exchange(x, y)
    before = x.rows()
    wipe(remote)
    outcome = remote.reset(x, SEED)
    assert outcome.recovered == len(x.sealed()) == 2
    assert x.rows() == before
    assert is_clean(x.path)
    settled(remote, x)
    new = remote.fresh("new")
    assert new.rows() == before
    check_equal(x, new)


def test_each_changeset_has_the_stamp_that_its_changes_had(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    stamps = [changeset.stamp for changeset in map(x.write, (INSERT_B, "UPDATE note SET stars = 9 WHERE id = 'a'"))]
    wipe(remote)
    remote.reset(x, SEED)
    assert [changeset.stamp for changeset in changesets_in(x.path)][1:] == stamps
    assert [changeset.number for changeset in changesets_in(x.path)] == [1, 2, 3]


def test_unsent_changes_are_part_of_it(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'unsent'")
    x.write(INSERT_B)
    wipe(remote)
    remote.reset(x, SEED)
    remote.reset(y, SEED)
    settled(remote, x, y)
    assert y.rows() == {("a",): {"title": "unsent", "stars": 1}, ("b",): {"title": "second", "stars": 2}}
    check_equal(x, y)


def test_of_what_two_devices_bring_the_last_write_of_each_column_wins(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'early', stars = 7")
    remote.clock.advance(1)
    y.write("UPDATE note SET title = 'late'")
    wipe(remote)
    remote.reset(x, SEED)
    settled(remote, x)
    remote.reset(y, SEED)
    assert y.rows() == {("a",): {"title": "late", "stars": 7}}
    settled(remote, x, y)
    check_equal(x, y, remote.fresh("new"))


def test_what_one_device_deleted_no_other_brings_back(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("DELETE FROM note")
    remote.clock.advance(1)
    y.write("UPDATE note SET title = 'late'")
    wipe(remote)
    for device in (y, x):
        remote.reset(device, SEED)
        settled(remote, device)
    settled(remote, x, y)
    assert x.rows() == y.rows() == {}
    check_equal(x, y)


def test_what_was_inserted_again_holds_only_what_that_brought(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("DELETE FROM note")
    remote.clock.advance(1)
    x.write("INSERT INTO note VALUES ('a', 'again', NULL)")
    remote.clock.advance(1)
    y.write("UPDATE note SET stars = 9")
    wipe(remote)
    for device in (y, x):
        remote.reset(device, SEED)
        settled(remote, device)
    settled(remote, x, y)
    assert x.rows() == y.rows() == {("a",): {"title": "again", "stars": None}}
    check_equal(x, y)


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("names", ["xy", "pq", "vw"], ids=lambda names: f"as {names}")
def test_what_was_written_to_a_replaced_row_outlives_another_devices_seeding(tmp_path: Path, names: str, order: str) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("INSERT OR REPLACE INTO note VALUES ('a', 'replaced', 2)")
    remote.exchange(x, y)
    remote.clock.advance(1)
    x.write("UPDATE note SET title = 'later'")
    wipe(remote)
    for letter in order:
        device = {"x": x, "y": y}[letter]
        remote.reset(device, SEED, names["xy".index(letter)])
        settled(remote, device)
    settled(remote, x, y)
    assert x.rows() == y.rows() == {("a",): {"title": "later", "stars": 2}}
    check_equal(x, y)


def test_no_row_is_ever_seen_with_half_of_its_values(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'later'")
    wipe(remote)
    remote.reset(x, SEED)
    new = remote.device("new")
    new.receive(x.sealed()[0])
    assert new.rows() == {("a",): {"title": "later", "stars": 1}}


def test_too_much_for_one_changeset_is_spread(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, *(f"INSERT INTO note VALUES ('{n:04}', 'title', {n})" for n in range(1000)))
    before = x.rows()
    wipe(remote)
    x.reopen()
    x._options["max_changeset_rows"] = 300
    x.reopen()
    remote.reset(x, SEED)
    found = changesets_in(x.path)
    assert [changeset.row_count for changeset in found] == [300, 300, 300, 100]
    assert [changeset.stamp - found[0].stamp for changeset in found] == [0, 1, 2, 3]
    settled(remote, x)
    new = remote.fresh("new")
    assert new.rows() == before
    remote.reset(y, SEED)
    settled(remote, x, y, new)
    check_equal(x, y, new)


def test_no_changeset_is_larger_than_may_be(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, *(f"INSERT INTO note VALUES ('{n}', '{'t' * 1000}', {n})" for n in range(100)))
    before = x.rows()
    wipe(remote)
    x._options["max_changeset_bytes"] = 10_000
    x.reopen()
    remote.reset(x, SEED)
    assert all(sealed.size <= 10_000 for sealed in x.sealed())
    assert len(x.sealed()) > 10
    settled(remote, x)
    assert remote.fresh("new").rows() == before


def test_what_is_older_than_the_horizon_counts_as_from_before_sync(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    remote.clock.set(remote.clock.now_ms() + 100 * DAY)
    x.write("UPDATE note SET stars = 9 WHERE id = 'b'")
    remote.exchange(x, y)
    wipe(remote)
    remote.reset(x, SEED)
    seeds, edits = changesets_in(x.path)
    assert [(group.op.name, group.row_count) for group in seeds.groups] == [("SEED", 2)]
    assert [(group.op.name, group.columns) for group in edits.groups] == [("UPDATE", ("stars",))]
    settled(remote, x)
    remote.reset(y, SEED)
    settled(remote, x, y)
    check_equal(x, y)
    assert y.row("b") == {"title": "second", "stars": 9}
    assert stamp_ms(seeds.stamp) == 0


def test_rows_whose_clocks_were_forgotten_come_again(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, "INSERT INTO link VALUES ('a', 1, 'l')", tables=[NOTE, LINK])
    before = x.rows(), x.rows("link")
    for device in (x, y):
        with device.store.transaction() as connection:
            connection.execute("DELETE FROM localstore_clock")
            connection.execute("UPDATE localstore_state SET purged = last_stamp + 1")
    wipe(remote)
    for device in (x, y):
        remote.reset(device, SEED)
        settled(remote, device)
    settled(remote, x, y)
    new = remote.fresh("new")
    assert (new.rows(), new.rows("link")) == before
    check_equal(x, y, new, tables=("note", "link"))


def test_rows_that_are_not_shown_come_along(tmp_path: Path) -> None:
    tables = family()
    remote, x, y = began(
        tmp_path, "INSERT INTO parent VALUES ('p')", "INSERT INTO child VALUES ('c', 'p', 'text')", tables=tables
    )
    x.write("DELETE FROM parent")
    y.write("UPDATE child SET text = 'late'", "INSERT INTO child VALUES ('d', 'p', 'new')")
    settled(remote, x, y)
    assert y.rows("child") == {}
    wipe(remote)
    for device in (y, x):
        remote.reset(device, SEED)
        settled(remote, device)
    settled(remote, x, y)
    x.write("INSERT INTO parent VALUES ('p')")
    settled(remote, x, y)
    assert x.rows("child") == {("d",): {"up": "p", "text": "new"}}
    check_equal(x, y, tables=("parent", "child"))


def test_changes_of_columns_that_only_newer_versions_have_come_along(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    newer = remote.fresh("newer", [WIDE_NOTE])
    newer.write("UPDATE note SET due = 'soon'")
    settled(remote, newer, x)
    newer.close()
    wipe(remote)
    remote.reset(x, SEED)
    settled(remote, x)
    assert remote.fresh("new", [WIDE_NOTE]).row("a") == {"title": "first", "stars": 1, "due": "soon"}


def test_a_device_that_seeds_goes_on_with_later_stamps(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    wipe(remote)
    remote.reset(x, SEED)
    x.write("UPDATE note SET title = 'after'")
    remote.reset(y, replace(SEED, recover=False))
    settled(remote, x, y)
    assert y.rows() == {("a",): {"title": "after", "stars": 1}}
    check_equal(x, y)


def rows_by_group(device: Device) -> list[tuple[str, str, int]]:
    return [
        (group.table, group.op.name, group.row_count) for changeset in changesets_in(device.path) for group in changeset.groups
    ]


def test_nothing_of_the_work_is_left_in_the_file(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    names = query(x.path, "SELECT type, name, sql FROM sqlite_master ORDER BY name")
    wipe(remote)
    remote.reset(x, SEED)
    assert query(x.path, "SELECT type, name, sql FROM sqlite_master ORDER BY name") == names
    assert query(x.path, "PRAGMA integrity_check") == [("ok",)]
    assert rows_by_group(x) == [("note", "INSERT", 1)]
