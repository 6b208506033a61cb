"""Undoing what the remote refused: rows go back to what it has, and what is lost by that is listed (realm-semantics 5.4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore.store.restoring import restore
from localstore.store.undoing import UndoneWrite, undo_refused
from tests.unit.reset_kit import Remote, began
from tests.unit.store_kit import Device, check_equal, close_devices, is_clean, query

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def refuse(device: Device, number: int, reason: str = "not yours") -> None:
    device.store.refuse(number, reason)


def undo(remote: Remote, device: Device, name: str = "fresh") -> list[UndoneWrite]:
    """As a session does: send what is left, take what there is, and undo with a store that took the same."""
    remote.exchange(device)
    return undo_now(remote, device, name)


def undo_now(remote: Remote, device: Device, name: str = "fresh") -> list[UndoneWrite]:
    fresh = remote.fresh(name)
    undone = undo_refused(device.store, fresh.store, cursor=device.store.state().cursor)
    fresh.close()
    assert undone is not None
    assert is_clean(device.path)
    return undone


def listed(device: Device) -> list[tuple[object, ...]]:
    return [(c.table, *c.key, c.column, c.lost_value, c.won_value, c.rule) for c in device.store.conflicts()]


def test_a_refused_insert_vanishes(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write(INSERT_B)
    refuse(x, 2)
    assert undo(remote, x) == [UndoneWrite("note", ("b",), 2, "not yours")]
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}
    assert listed(x) == [
        ("note", "b", "title", "second", None, "the remote refused it: not yours"),
        ("note", "b", "stars", 2, None, "the remote refused it: not yours"),
    ]
    remote.exchange(x, y)
    check_equal(x, y)


def test_a_refused_update_goes_back(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 2)
    assert undo(remote, x) == [UndoneWrite("note", ("a",), 2, "not yours")]
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}
    assert listed(x) == [("note", "a", "title", "refused", "first", "the remote refused it: not yours")]
    remote.exchange(x, y)
    check_equal(x, y)


def test_a_refused_delete_brings_the_row_back(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("DELETE FROM note")
    refuse(x, 2)
    assert undo(remote, x) == [UndoneWrite("note", ("a",), 2, "not yours")]
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}
    assert listed(x) == []
    remote.exchange(x, y)
    check_equal(x, y)


def test_later_edits_of_the_row_stay(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused', stars = 9")
    x.write("UPDATE note SET stars = 10")
    refuse(x, 2)
    undo_now(remote, x)
    assert x.rows() == {("a",): {"title": "first", "stars": 10}}
    assert listed(x) == [("note", "a", "title", "refused", "first", "the remote refused it: not yours")]
    remote.exchange(x, y)
    check_equal(x, y)


def test_earlier_edits_that_are_unsent_stay(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET stars = 5")
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 3)
    undo_now(remote, x)
    assert x.rows() == {("a",): {"title": "first", "stars": 5}}
    remote.exchange(x, y)
    check_equal(x, y)


def test_later_edits_of_a_row_that_vanishes_are_listed(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write(INSERT_B)
    x.write("UPDATE note SET stars = 9 WHERE id = 'b'", "UPDATE note SET stars = 9 WHERE id = 'a'")
    refuse(x, 2)
    undo_now(remote, x)
    assert x.rows() == {("a",): {"title": "first", "stars": 9}}
    assert ("note", "b", "stars", 9, None, "the remote refused it: not yours") in listed(x)
    remote.exchange(x, y)
    check_equal(x, y)


def test_what_others_wrote_meanwhile_is_there(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'")
    y.write("UPDATE note SET title = 'theirs', stars = 7")
    refuse(x, 2)
    remote.push(y)
    undo(remote, x)
    remote.exchange(x, y)
    assert x.rows() == {("a",): {"title": "theirs", "stars": 7}}
    check_equal(x, y)


def test_two_refused_changesets_about_one_row_are_undone_together(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'one'")
    x.write("UPDATE note SET title = 'two', stars = 2")
    refuse(x, 2, "one")
    refuse(x, 3, "two")
    assert undo(remote, x) == [UndoneWrite("note", ("a",), 2, "one"), UndoneWrite("note", ("a",), 3, "two")]
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}
    assert [row[3:] for row in listed(x)] == [
        ("one", "first", "the remote refused it: one"),
        ("two", "first", "the remote refused it: two"),
        (2, 1, "the remote refused it: two"),
    ]
    remote.exchange(x, y)
    check_equal(x, y)


def test_nothing_is_undone_twice(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 2)
    undo(remote, x)
    x.write("UPDATE note SET title = 'again'")
    assert undo(remote, x, "second") == []
    assert x.rows() == {("a",): {"title": "again", "stars": 1}}
    assert query(x.path, "SELECT number, reason, undo FROM localstore_aside") == [(2, "not yours", 0)]


def test_a_store_that_is_elsewhere_undoes_nothing(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 2)
    cursor = x.store.state().cursor
    fresh = remote.fresh()
    y.write(INSERT_B)
    remote.exchange(y)
    remote.pull(x)
    assert undo_refused(x.store, fresh.store, cursor=cursor) is None
    assert undo_refused(x.store, fresh.store, cursor=x.store.state().cursor) is None
    assert query(x.path, "SELECT undo FROM localstore_aside") == [(1,)]
    assert x.row("a") == {"title": "refused", "stars": 1}


def test_nothing_is_undone_while_own_changes_are_sent_and_not_seen_there(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET stars = 5")
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 3)
    fresh = remote.fresh()
    remote.push(x)
    assert undo_refused(x.store, fresh.store, cursor=x.store.state().cursor) is None
    assert x.row("a") == {"title": "refused", "stars": 5}


def test_a_refused_value_can_be_written_again(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'", INSERT_B)
    refuse(x, 2)
    undo(remote, x)
    for conflict in x.store.conflicts():
        if conflict.column == "title":
            restore(x.store, conflict)
    assert x.rows() == {("a",): {"title": "refused", "stars": 1}, ("b",): {"title": "second", "stars": 2}}
    assert x.store.conflicts() == []
    remote.exchange(x, y)
    check_equal(x, y)
