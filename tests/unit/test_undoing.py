"""Undoing what the remote refused: rows go back to what it has, and what is lost by that is listed (realm-semantics 5.4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from localstore.store import memory
from localstore.store.file import Store
from localstore.store.restoring import restore
from localstore.store.undoing import TO_TELL, TO_UNDO, Undone, UndoneWrite, note_told, standing, undo_refused, undone
from tests.unit.reset_kit import Remote, began
from tests.unit.snapshot_kit import family
from tests.unit.store_kit import (
    NOTE,
    Device,
    check_equal,
    close_devices,
    is_clean,
    open_store,
    other_program,
    query,
    rows_of,
    write,
)
from tests.unit.test_apply import WIDE_NOTE

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
    assert undo_refused(device.store, fresh.store, cursor=device.store.state().cursor)
    fresh.close()
    assert is_clean(device.path)
    return told(device.store)


def told(store: Store) -> list[UndoneWrite]:
    """Tell of what was undone."""
    found = undone(store)
    note_told(store, found)
    assert standing(store) == frozenset()
    return [write for one in found for write in one.writes]


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


def test_later_edits_of_a_row_that_came_from_elsewhere_stay(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path)
    y.write(INSERT_B)
    remote.exchange(y, x)
    x.write("UPDATE note SET title = 'refused'")
    x.write("UPDATE note SET stars = 10")
    refuse(x, 1)
    undo_now(remote, x)
    assert x.rows() == {("b",): {"title": "second", "stars": 10}}
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


def test_what_was_undone_is_known_until_somebody_was_told(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'", INSERT_B)
    refuse(x, 2)
    fresh = remote.fresh()
    assert standing(x.store) == {TO_UNDO}
    assert undone(x.store) == []
    remote.exchange(x)
    remote.pull(fresh)
    assert undo_refused(x.store, fresh.store, cursor=x.store.state().cursor)
    x.reopen([NOTE])  # killed before anybody was told
    assert standing(x.store) == {TO_TELL}
    expected = [UndoneWrite("note", ("a",), 2, "not yours"), UndoneWrite("note", ("b",), 2, "not yours")]
    assert undone(x.store) == [Undone(x.id, 2, tuple(sorted(expected, key=lambda write: write.key)))]
    assert undo(remote, x, "second") == expected
    assert undone(x.store) == []


def test_what_is_undone_while_somebody_is_told_is_still_to_be_told(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'one'")
    refuse(x, 2)
    remote.exchange(x)
    assert undo_refused(x.store, remote.fresh().store, cursor=x.store.state().cursor)
    found = undone(x.store)
    x.write("UPDATE note SET title = 'two'")
    refuse(x, 3)
    remote.exchange(x)
    assert undo_refused(x.store, remote.fresh("second").store, cursor=x.store.state().cursor)
    note_told(x.store, found)
    assert [one.number for one in undone(x.store)] == [3]


def test_a_store_that_is_elsewhere_undoes_nothing(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 2)
    cursor = x.store.state().cursor
    fresh = remote.fresh()
    y.write(INSERT_B)
    remote.exchange(y)
    remote.pull(x)
    assert not undo_refused(x.store, fresh.store, cursor=cursor)
    assert not undo_refused(x.store, fresh.store, cursor=x.store.state().cursor)
    assert query(x.path, "SELECT undo FROM localstore_aside") == [(1,)]
    assert x.row("a") == {"title": "refused", "stars": 1}


def test_nothing_is_undone_while_own_changes_are_sent_and_not_seen_there(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, INSERT_A)
    x.write("UPDATE note SET stars = 5")
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 3)
    fresh = remote.fresh()
    remote.push(x)
    assert not undo_refused(x.store, fresh.store, cursor=x.store.state().cursor)
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


# -- with references and constraints


@pytest.mark.parametrize(("on_delete", "left"), [("CASCADE", {}), ("SET NULL", {("c",): {"up": None, "text": "mine"}})])
def test_rows_that_refer_to_a_row_that_vanishes_are_repaired(tmp_path: Path, on_delete: str, left: object) -> None:
    tables = family()
    for key in tables[1].foreign_keys:
        assert key.constraint is not None
        key.constraint.ondelete = on_delete
    remote, x, y = began(tmp_path, "INSERT INTO parent VALUES ('q')", tables=tables)
    x.write("INSERT INTO parent VALUES ('p')")
    x.write("INSERT INTO child VALUES ('c', 'p', 'mine')")
    refuse(x, 2)
    undo_now(remote, x)
    assert x.rows("parent") == {("q",): {}}
    assert x.rows("child") == left
    remote.exchange(x, y)
    check_equal(x, y, tables=("parent", "child"))
    x.write("INSERT INTO parent VALUES ('p')")
    assert x.rows("child") == {("c",): {"up": "p", "text": "mine"}}, "it comes back with what it refers to"


def test_a_refused_delete_brings_back_what_went_with_it(tmp_path: Path) -> None:
    remote, x, y = began(
        tmp_path, "INSERT INTO parent VALUES ('p')", "INSERT INTO child VALUES ('c', 'p', 'text')", tables=family()
    )
    x.write("DELETE FROM parent")
    assert x.rows("child") == {}
    refuse(x, 2)
    undone = undo(remote, x)
    assert {(row.table, row.key) for row in undone} == {("parent", ("p",)), ("child", ("c",))}
    assert x.rows("child") == {("c",): {"up": "p", "text": "text"}}
    remote.exchange(x, y)
    check_equal(x, y, tables=("parent", "child"))


def test_a_row_that_had_to_give_way_to_a_refused_one_comes_back(tmp_path: Path) -> None:
    columns = sa.Column("id", sa.String, primary_key=True), sa.Column("title", sa.String, unique=True)
    remote, x, y = began(tmp_path, tables=[sa.Table("note", sa.MetaData(), *columns)])
    x.write("INSERT INTO note VALUES ('a', 'same')")
    remote.clock.set(remote.clock.now_ms() + 1000)
    y.write("INSERT INTO note VALUES ('b', 'same')")
    remote.exchange(y)
    remote.pull(x)
    assert x.rows() == {("a",): {"title": "same"}}
    refuse(x, 1)
    undo(remote, x)
    assert x.rows() == {("b",): {"title": "same"}}
    remote.exchange(x, y)
    check_equal(x, y)


def test_a_refused_row_that_was_set_aside_is_gone_altogether(tmp_path: Path) -> None:
    columns = sa.Column("id", sa.String, primary_key=True), sa.Column("title", sa.String, unique=True)
    remote, x, y = began(tmp_path, tables=[sa.Table("note", sa.MetaData(), *columns)])
    y.write("INSERT INTO note VALUES ('b', 'same')")
    remote.clock.set(remote.clock.now_ms() + 1000)
    x.write("INSERT INTO note VALUES ('a', 'same')")
    remote.exchange(y)
    remote.pull(x)
    assert x.rows() == {("b",): {"title": "same"}}
    refuse(x, 1)
    undo(remote, x)
    assert query(x.path, "SELECT * FROM localstore_repaired") == []
    assert listed(x) == [("note", "a", "title", "same", None, "the remote refused it: not yours")]
    remote.exchange(x, y)
    check_equal(x, y)


def test_a_trigger_that_refuses_to_let_a_row_go_is_not_asked(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    x.write(INSERT_B)
    with other_program(x.path) as connection:
        connection.execute("CREATE TRIGGER never BEFORE DELETE ON note BEGIN SELECT RAISE(ABORT, 'never'); END")
    refuse(x, 2)
    undo(remote, x)
    assert x.rows() == {("a",): {"title": "first", "stars": 1}}
    assert query(x.path, "SELECT name FROM sqlite_master WHERE name = 'never'") == [("never",)]
    remote.exchange(x, y)
    check_equal(x, y)


# -- what was known of rows


def test_a_clock_that_was_made_by_a_refused_change_goes(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path)
    x.write(INSERT_B)
    refuse(x, 1)
    undo(remote, x)
    assert query(x.path, "SELECT * FROM localstore_clock") == []


def test_what_others_write_afterwards_meets_the_state_that_they_know(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, INSERT_A)
    y.write("UPDATE note SET title = 'theirs'")
    remote.clock.set(remote.clock.now_ms() + 1000)
    x.write("DELETE FROM note")
    refuse(x, 2)
    undo(remote, x)
    remote.exchange(y)
    remote.pull(x)
    assert x.rows() == {("a",): {"title": "theirs", "stars": 1}}
    check_equal(x, y)


def test_a_row_of_a_column_that_the_fresh_store_does_not_declare_keeps_it(tmp_path: Path) -> None:
    remote, x, _ = began(tmp_path, "INSERT INTO note VALUES ('a', 'first', 1, 'soon')", tables=[WIDE_NOTE])
    x.reopen([NOTE])
    x.write("UPDATE note SET title = 'refused'")
    refuse(x, 2)
    remote.tables = [NOTE]
    undo(remote, x)
    assert x.rows() == {("a",): {"title": "first", "stars": 1, "due": "soon"}}


# -- files of other kinds


def test_refusals_in_encrypted_files_are_undone(tmp_path: Path) -> None:
    pytest.importorskip("sqlcipher3")
    remote = Remote(tmp_path, options={"encryption_key": bytes(32)})
    x, fresh = remote.device("x"), remote.device("fresh")
    write(x.store, INSERT_A)
    x.store.refuse(1, "no")
    assert undo_refused(x.store, fresh.store, cursor=None)
    assert told(x.store) == [UndoneWrite("note", ("a",), 1, "no")]
    with x.store.read() as session:
        assert session.connection().exec_driver_sql("SELECT * FROM note").all() == []


def test_refusals_in_memory_are_undone() -> None:
    with (
        memory.place(Path("notes")) as one,
        memory.place(Path("fresh")) as other,
        closing(open_store(one, seed=7)) as store,
        closing(open_store(other, seed=8)) as fresh,
    ):
        write(store, INSERT_A)
        store.refuse(1, "no")
        assert undo_refused(store, fresh, cursor=None)
        assert told(store) == [UndoneWrite("note", ("a",), 1, "no")]
        assert rows_of(one) == {}


def test_many_refused_rows_are_undone(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, *(f"INSERT INTO note VALUES ('{n}', 't', {n})" for n in range(2000)))
    before = x.rows()
    x.write("UPDATE note SET stars = stars + 1", "DELETE FROM note WHERE stars % 3 = 0", "INSERT INTO note (id) VALUES ('new')")
    refuse(x, 2)
    assert len(undo(remote, x)) == 2001
    assert x.rows() == before
    remote.exchange(x, y)
    check_equal(x, y)
