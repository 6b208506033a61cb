"""Resetting a store to what the remote holds: with its unsent changes on top, or without (realm-semantics 4.2 to 4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore.changes import Op
from localstore.store.conflicts import A_DELETE_WINS, NOT_IN_REMOTE
from localstore.store.recovering import Dropped
from localstore.store.resetting import ResetPlan
from localstore.store.restoring import restore
from tests.unit.reset_kit import DISCARD, RECOVER, SEED, Remote, began, settled
from tests.unit.snapshot_kit import family
from tests.unit.store_kit import Device, changesets_in, check_equal, close_devices, is_clean, query, write
from tests.unit.test_seeds import seeded

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"
INSERT_C = "INSERT INTO note VALUES ('c', 'third', 3)"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def test_discarding_leaves_exactly_what_the_remote_has(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    x.write("UPDATE note SET title = 'unsent' WHERE id = 'a'", INSERT_C, "DELETE FROM note WHERE id = 'b'")
    y.write("UPDATE note SET stars = 9 WHERE id = 'b'")
    remote.push(y)
    remote.pull(y)
    outcome = remote.reset(x, DISCARD)
    assert outcome.discarded == 1
    assert x.rows() == y.rows()
    assert x.sealed() == []
    check_equal(x, y)


def test_recovering_puts_unsent_changes_on_top(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    old = x.id
    x.write("UPDATE note SET title = 'unsent' WHERE id = 'a'")
    x.write(INSERT_C, "DELETE FROM note WHERE id = 'b'")
    y.write("UPDATE note SET stars = 9")
    remote.exchange(y)
    outcome = remote.reset(x, RECOVER)
    assert outcome.recovered == 2
    assert outcome.device == x.id != old
    assert [sealed.number for sealed in x.sealed()] == [1, 2]
    assert x.rows() == {("a",): {"title": "unsent", "stars": 9}, ("c",): {"title": "third", "stars": 3}}
    remote.exchange(x, y)
    third = remote.fresh("third")
    check_equal(x, y, third)
    assert y.rows() == x.rows()


def listed(device: Device) -> list[tuple[object, ...]]:
    return [(c.table, *c.key, c.column, c.lost_value, c.won_value, c.rule) for c in device.store.conflicts()]


def away(remote: Remote, device: Device, *statements: str) -> None:
    """Another device writes, and the remote has it."""
    remote.clock.set(remote.clock.now_ms() + 1000)
    device.write(*statements)
    remote.exchange(device)


# -- what becomes of unsent changes, rule by rule


def test_an_insert_wins_over_a_row_of_the_same_key(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path)
    x.write(INSERT_A)
    away(remote, y, "INSERT INTO note VALUES ('a', 'theirs', 9)")
    remote.reset(x, RECOVER)
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}
    settled(remote, x, y)
    check_equal(x, y)


def test_an_update_wins_column_by_column(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'mine'")
    away(remote, y, "UPDATE note SET title = 'theirs', stars = 9")
    remote.reset(x, RECOVER)
    assert x.rows() == {("a",): {"title": "mine", "stars": 9}}
    settled(remote, x, y)
    check_equal(x, y)


def test_an_update_of_a_row_that_was_deleted_is_dropped_and_listed(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    x.write("UPDATE note SET title = 'mine'")
    away(remote, y, "DELETE FROM note WHERE id = 'a'")
    outcome = remote.reset(x, RECOVER)
    assert x.rows() == {("b",): {"title": "mine", "stars": 2}}
    assert outcome.dropped == (Dropped("note", ("a",), A_DELETE_WINS),)
    assert listed(x) == [("note", "a", "title", "mine", None, A_DELETE_WINS)]
    settled(remote, x, y)
    check_equal(x, y)


def test_a_dropped_value_can_be_restored(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'mine'")
    away(remote, y, "DELETE FROM note")
    remote.reset(x, RECOVER)
    restore(x.store, x.store.conflicts()[0])
    assert x.rows() == {("a",): {"title": "mine", "stars": None}}
    settled(remote, x, y)
    check_equal(x, y)


def test_an_update_of_a_row_that_the_remote_lost_is_dropped_and_listed(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'mine'")
    remote.history.clear()
    outcome = remote.reset(x, RECOVER)
    assert (outcome.recovered, outcome.dropped_count) == (0, 1)
    assert listed(x) == [("note", "a", "title", "mine", None, NOT_IN_REMOTE)]
    restore(x.store, x.store.conflicts()[0])
    assert x.rows() == {("a",): {"title": "mine", "stars": None}}


def test_a_delete_wins_over_a_change(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("DELETE FROM note")
    away(remote, y, "UPDATE note SET title = 'theirs'")
    remote.reset(x, RECOVER)
    assert x.rows() == {}
    settled(remote, x, y)
    check_equal(x, y)


def test_a_row_that_both_deleted_takes_no_changeset(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("DELETE FROM note")
    away(remote, y, "DELETE FROM note")
    assert remote.reset(x, RECOVER).recovered == 0
    assert x.sealed() == []


def test_a_delete_of_a_row_that_the_remote_does_not_know_is_sent_as_another_device_may_bring_it(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("DELETE FROM note")
    remote.history.clear()
    assert remote.reset(x, RECOVER).recovered == 1
    remote.push(x)
    remote.reset(y, SEED)
    settled(remote, x, y)
    assert x.rows() == y.rows() == {}
    check_equal(x, y)


@pytest.mark.parametrize("verb", ["INSERT OR REPLACE", "INSERT"])
def test_a_row_that_was_made_again_lives_although_the_remote_deleted_it(tmp_path: Path, verb: str) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    if verb == "INSERT":
        x.write("DELETE FROM note")
    x.write(f"{verb} INTO note VALUES ('a', 'again', 5)")
    x.write("UPDATE note SET stars = 6")
    away(remote, y, "DELETE FROM note")
    remote.reset(x, RECOVER)
    assert x.rows() == {("a",): {"title": "again", "stars": 6}}
    settled(remote, x, y)
    check_equal(x, y)


def test_rows_from_before_sync_come_only_where_none_are(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A, INSERT_B)
    away(remote, y, "DELETE FROM note WHERE id = 'b'")
    seeded(tmp_path, "old", [("a", "mine", 1), ("b", "mine", 2), ("c", "mine", 3)])
    old = remote.device("old")
    outcome = remote.reset(old, RECOVER)
    assert old.rows() == {("a",): {"title": "first", "stars": 1}, ("c",): {"title": "mine", "stars": 3}}
    assert [(group.op, group.values[0]) for changeset in changesets_in(old.path) for group in changeset.groups] == [
        (Op.SEED, ["c"])
    ]
    assert outcome.dropped_count == 2
    assert ("note", "a", "title", "mine", "first", "a row from before sync gives way to the remote's") in listed(old)
    assert not [row for row in listed(old) if row[1:3] == ("a", "stars")], "both are the same"
    settled(remote, old, x, y)
    check_equal(old, x, y)


@pytest.mark.parametrize(("on_delete", "left"), [("CASCADE", {}), ("SET NULL", {("c",): {"up": None, "text": "mine"}})])
def test_a_reference_to_a_row_that_was_deleted_is_repaired(tmp_path: Path, on_delete: str, left: object) -> None:
    tables = family()
    for key in tables[1].foreign_keys:
        assert key.constraint is not None
        key.constraint.ondelete = on_delete
    remote, x, y = began(tmp_path, "INSERT INTO parent VALUES ('p')", tables=tables)
    x.write("INSERT INTO child VALUES ('c', 'p', 'mine')")
    away(remote, y, "DELETE FROM parent")
    remote.reset(x, RECOVER)
    assert x.rows("child") == left
    settled(remote, x, y)
    check_equal(x, y, tables=("parent", "child"))


def test_a_changeset_of_which_nothing_is_left_is_left_out(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'mine'")
    x.write(INSERT_B)
    away(remote, y, "DELETE FROM note WHERE id = 'a'")
    assert remote.reset(x, RECOVER).recovered == 1
    assert [(sealed.number, sealed.rows) for sealed in x.sealed()] == [(1, 1)]


# -- which of them the remote has already


def test_what_the_remote_has_already_is_skipped(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    stored = x.write("UPDATE note SET title = 'stored'")
    x.write("UPDATE note SET stars = 5")
    remote.history.append(stored)
    away(remote, y, "UPDATE note SET title = 'theirs'")
    outcome = remote.reset(x, ResetPlan(recover=True, stored={stored.number: stored.digest}))
    assert (outcome.recovered, outcome.skipped) == (1, 1)
    assert x.rows() == {("a",): {"title": "theirs", "stars": 5}}


def test_what_the_remote_has_up_to_a_number_is_skipped(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    remote.history.append(x.write("UPDATE note SET title = 'stored'"))
    x.write("UPDATE note SET stars = 5")
    outcome = remote.reset(x, ResetPlan(recover=True, stored_up_to=2))
    assert (outcome.recovered, outcome.skipped) == (1, 1)
    assert x.rows() == {("a",): {"title": "stored", "stars": 5}}


def test_what_a_copy_of_the_file_wrote_under_the_same_number_keeps_nothing_out(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    mine = x.write(INSERT_B)
    outcome = remote.reset(x, ResetPlan(recover=True, stored={mine.number: b"another digest"}))
    assert (outcome.recovered, outcome.skipped) == (1, 0)
    assert x.row("b") == {"title": "second", "stars": 2}


# -- the new identity


def test_numbers_begin_at_one_and_stamps_go_on(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    before = [x.write(f"UPDATE note SET stars = {n}").stamp for n in range(3)]
    remote.clock.set(remote.clock.now_ms() + 60_000)
    theirs = y.write("UPDATE note SET title = 'theirs'").stamp
    remote.push(y)
    remote.clock.set(remote.clock.now_ms() - 60_000)
    remote.reset(x, RECOVER)
    after = x.sealed()
    assert [sealed.number for sealed in after] == [1, 2, 3]
    stamps = [sealed.stamp for sealed in after]
    assert stamps == sorted(set(stamps))
    assert stamps[0] > max(*before, theirs)


def test_the_first_changeset_depends_on_all_that_is_there(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    old = x.id
    away(remote, y, "UPDATE note SET stars = 7")
    x.write(INSERT_B)
    x.write(INSERT_C)
    remote.reset(x, RECOVER)
    first, second = changesets_in(x.path)
    assert {dependency.device for dependency in first.depends} == {old, y.id}
    assert second.depends == ()


def test_a_store_goes_on_after_its_reset(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'unsent'")
    remote.reset(x, RECOVER)
    assert is_clean(x.path)
    write(x.store, INSERT_B)
    assert [sealed.number for sealed in x.sealed()] == [1, 2]
    x.reopen()
    remote.exchange(x, y)
    check_equal(x, y)
    assert query(x.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_store_can_be_reset_again_and_again(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    identities = {x.id}
    for number in range(3):
        x.write(f"UPDATE note SET stars = {number}")
        remote.reset(x, RECOVER, f"fresh{number}")
        identities.add(x.id)
    assert len(identities) == 4
    settled(remote, x, y)
    assert y.rows() == {("a",): {"title": "first", "stars": 2}}
    check_equal(x, y)


def test_a_thousand_unsent_changesets_are_recovered_in_order(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    for number in range(1000):
        write(x.store, f"INSERT INTO note VALUES ('n{number}', 't', 0)", f"UPDATE note SET stars = {number} WHERE id = 'a'")
    assert remote.reset(x, RECOVER).recovered == 1000
    settled(remote, x, y)
    assert y.row("a") == {"title": "first", "stars": 999}
    check_equal(x, y)
