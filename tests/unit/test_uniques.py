"""Values that only one row can have, and checks, case by case: what two devices wrote validly, and cannot be together."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from localstore.errors import CannotRestore
from localstore.store.repaired import SetAside
from localstore.store.restoring import restore
from localstore.store.settling import Settling
from localstore.testing.clock import ManualClock
from tests.unit.purge_kit import purge_everything
from tests.unit.store_kit import Device, close_devices, exchange, is_clean, other_program, query

UNIQUE_NAME = "UNIQUE constraint failed: note.name"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def key() -> sa.Column[str]:
    return sa.Column("id", sa.String, primary_key=True)


def notes(*constraints: sa.SchemaItem) -> list[sa.Table]:
    metadata = sa.MetaData()
    columns = [key(), sa.Column("name", sa.String), sa.Column("n", sa.Integer)]
    return [sa.Table("note", metadata, *columns, *constraints)]


class Pair:
    """Two devices; what one writes is later than what was written before."""

    def __init__(self, folder: Path, tables: list[sa.Table], *shared: str) -> None:
        self.clock = ManualClock()
        self.one, self.two = (Device(folder, name, tables, clock=self.clock) for name in ("one", "two"))
        for sql in shared:
            self.write(self.one, sql)
        exchange(self.one, self.two)

    def write(self, device: Device, *sql: str) -> None:
        self.clock.advance(1)
        device.write(*sql)

    def apart(self, first: str, second: str) -> None:
        """One writes, then the other, and then each hears of it."""
        self.write(self.one, first)
        self.write(self.two, second)
        exchange(self.one, self.two)

    def shown(self, sql: str = "SELECT id, name, n FROM note ORDER BY id") -> list[tuple[Any, ...]]:
        """What both show."""
        one, two = query(self.one.path, sql), query(self.two.path, sql)
        assert one == two
        for device in (self.one, self.two):
            assert query(device.path, "PRAGMA foreign_key_check") == []
            assert is_clean(device.path)
        return one

    def aside(self) -> list[tuple[str, Any]]:
        """Table and key of the rows that both have set aside."""
        return self.shown(
            "SELECT t.name, r.key FROM localstore_repaired AS r JOIN localstore_table AS t ON t.id = r.tbl"
            " WHERE hidden ORDER BY 1, 2"
        )


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path, notes(sa.UniqueConstraint("name")))


def test_the_earlier_row_keeps_a_value_and_the_later_is_set_aside_everywhere(pair: Pair) -> None:
    pair.apart("INSERT INTO note VALUES ('z', 'n', 1)", "INSERT INTO note VALUES ('a', 'n', 2)")
    assert pair.shown() == [("z", "n", 1)]
    assert pair.aside() == [("note", "a")]


def test_both_devices_hear_of_the_row_that_was_set_aside(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'n', 2)")
    exchange(pair.one, pair.two)
    for device in (pair.one, pair.two):
        assert device.store.take_set_aside() == [SetAside("note", ("b",), UNIQUE_NAME)]
        assert device.store.take_set_aside() == []  # once


def test_a_row_that_went_comes_back_and_goes_again_is_told_again(pair: Pair) -> None:
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    assert pair.one.store.take_set_aside() != []
    pair.write(pair.one, "DELETE FROM note WHERE id = 'a'")
    exchange(pair.one, pair.two)
    assert pair.one.store.take_set_aside() == []
    pair.write(pair.two, "INSERT INTO note VALUES ('c', 'q', 3)")
    pair.write(pair.one, "UPDATE note SET name = 'q' WHERE id = 'b'")
    exchange(pair.one, pair.two)
    assert pair.one.store.take_set_aside() == [SetAside("note", ("b",), UNIQUE_NAME)]


def test_a_row_that_is_aside_is_listed_with_both_rows_and_the_rule(pair: Pair) -> None:
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    first, second = pair.one.sealed()[0], pair.two.sealed()[0]
    for device in (pair.one, pair.two):
        name, n = device.store.conflicts()
        assert (name.table, name.key, name.column, name.lost_value, name.won_value) == ("note", ("b",), "name", "n", None)
        assert (n.column, n.lost_value) == ("n", 2)
        assert (name.lost_stamp, name.lost_device) == (second.stamp, pair.two.id.hex())
        assert (name.won_stamp, name.won_device) == (first.stamp, pair.one.id.hex())
        assert name.rule == f"{UNIQUE_NAME}: 'a' had it earlier"


def test_a_row_that_is_aside_cannot_be_restored_but_says_what_helps(pair: Pair) -> None:
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    with pytest.raises(CannotRestore, match=r"cannot be shown: .*'a' had it earlier.* change the row that is in its way"):
        restore(pair.one.store, pair.one.store.conflicts()[0])


def test_a_value_of_a_row_that_is_aside_cannot_be_restored_but_says_why(pair: Pair) -> None:
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'm', 1)")
    exchange(pair.one, pair.two)
    pair.write(pair.one, "UPDATE note SET n = 2")
    pair.write(pair.two, "UPDATE note SET n = 3")
    exchange(pair.one, pair.two)
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "UPDATE note SET name = 'n' WHERE id = 'b'")
    lost = next(conflict for conflict in pair.one.store.conflicts() if conflict.id > 0)
    with pytest.raises(CannotRestore, match=f"is set aside, .*: {UNIQUE_NAME}.* conflict stays"):
        restore(pair.one.store, lost)
    pair.write(pair.one, "DELETE FROM note WHERE id = 'a'")
    restore(pair.one.store, lost)
    assert pair.one.rows() == {("b",): {"name": "n", "n": 2}}


@pytest.mark.parametrize("cause", ["UPDATE note SET name = 'm' WHERE id = 'a'", "DELETE FROM note WHERE id = 'a'"])
@pytest.mark.parametrize("who", ["one", "two"])
def test_a_row_comes_back_when_the_one_in_its_way_goes(pair: Pair, cause: str, who: str) -> None:
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.write(getattr(pair, who), cause)
    exchange(pair.one, pair.two)
    assert ("b", "n", 2) in pair.shown()
    assert pair.aside() == []


def test_a_row_that_is_aside_goes_on_being_merged(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.one.receive(*pair.two.sealed())
    pair.write(pair.two, "UPDATE note SET n = 3")  # knows nothing yet
    exchange(pair.one, pair.two)
    pair.write(pair.one, "DELETE FROM note")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("b", "n", 3)]


def test_a_new_value_of_its_own_brings_a_row_back(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.one.receive(*pair.two.sealed())
    pair.write(pair.two, "UPDATE note SET name = 'm'")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("a", "n", 1), ("b", "m", 2)]


def test_a_deleted_row_does_not_come_back_from_aside(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.one.receive(*pair.two.sealed())
    pair.write(pair.two, "DELETE FROM note")
    exchange(pair.one, pair.two)
    pair.write(pair.one, "DELETE FROM note")
    exchange(pair.one, pair.two)
    assert pair.shown() == [] == pair.aside()


def test_an_older_value_that_comes_late_takes_the_place_of_a_newer_one(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.two.receive(*pair.one.sealed())
    assert pair.two.store.take_set_aside() == [SetAside("note", ("b",), UNIQUE_NAME)]
    assert pair.two.rows() == {("a",): {"name": "n", "n": 1}}


def test_other_columns_do_not_change_which_row_came_first(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.write(pair.one, "UPDATE note SET n = 9")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("a", "n", 9)]


def test_values_that_were_swapped_in_one_transaction_arrive_swapped(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name")), "INSERT INTO note VALUES ('a', 'x', 1), ('b', 'y', 2)")
    pair.write(
        pair.one,
        "UPDATE note SET name = NULL WHERE id = 'a'",
        "UPDATE note SET name = 'x' WHERE id = 'b'",
        "UPDATE note SET name = 'y' WHERE id = 'a'",
    )
    exchange(pair.one, pair.two)
    assert pair.shown() == [("a", "y", 1), ("b", "x", 2)]
    assert pair.aside() == []


def test_two_pairs_of_rows_in_one_changeset_are_each_told_apart(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name")))
    pair.apart("INSERT INTO note VALUES ('a', 'x', 1), ('b', 'y', 2)", "INSERT INTO note VALUES ('c', 'y', 3), ('d', 'x', 4)")
    assert pair.shown() == [("a", "x", 1), ("b", "y", 2)]
    assert pair.aside() == [("note", "c"), ("note", "d")]


def test_a_row_that_is_aside_is_not_in_the_way_of_others(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name"), sa.UniqueConstraint("n")))
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'x', 1)")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'x', 2)")  # gives way to a
    pair.write(pair.one, "INSERT INTO note VALUES ('c', 'y', 2)")  # would give way to b
    exchange(pair.one, pair.two)
    assert pair.shown() == [("a", "x", 1), ("c", "y", 2)]
    pair.write(pair.one, "DELETE FROM note WHERE id = 'a'")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("b", "x", 2)]
    assert pair.aside() == [("note", "c")]


def test_a_row_that_has_to_go_later_frees_one_that_it_was_in_the_way_of(tmp_path: Path) -> None:
    clock, tables = ManualClock(), notes(sa.UniqueConstraint("name"), sa.UniqueConstraint("n"))
    devices = [Device(tmp_path, name, tables, clock=clock) for name in "xyz"]
    for device, row in zip(devices, ("('a', 'x', 1)", "('b', 'x', 2)", "('c', 'y', 2)"), strict=True):
        clock.advance(1)
        device.write(f"INSERT INTO note VALUES {row}")
    first, second, third = devices
    second.receive(*third.sealed())
    assert second.rows().keys() == {("b",)}
    second.receive(*first.sealed())  # b has to go, which was in the way of c
    exchange(*devices)
    assert [device.rows().keys() for device in devices] == [{("a",), ("c",)}] * 3


INDEXES = {
    "of two columns": ("name, n", "('b', 'x', 1)", "('b', 'x', 2)"),
    "of some rows": ("name) WHERE (n > 0", "('b', 'x', 1)", "('b', 'x', 0)"),
    "of an expression": ("lower(name)", "('b', 'X', 2)", "('b', 'y', 2)"),
    "that ignores case": ("name COLLATE NOCASE", "('b', 'X', 2)", "('b', 'y', 2)"),
    "that ignores what is behind": ("name COLLATE RTRIM, n", "('b', 'x ', 1)", "('b', 'x ', 2)"),
}


@pytest.mark.parametrize(("index", "same", "other"), INDEXES.values(), ids=INDEXES.keys())
def test_a_unique_index_means_what_it_means_to_sqlite(tmp_path: Path, index: str, same: str, other: str) -> None:
    pair = Pair(tmp_path, notes())
    for device in (pair.one, pair.two):
        with other_program(device.path) as connection:
            connection.execute(f"CREATE UNIQUE INDEX only_one ON note ({index})")
    pair.apart("INSERT INTO note VALUES ('a', 'x', 1)", f"INSERT INTO note VALUES {same}")
    assert [row[0] for row in pair.shown()] == ["a"]
    pair.write(pair.two, f"INSERT OR REPLACE INTO note VALUES {other}")
    exchange(pair.one, pair.two)
    assert [row[0] for row in pair.shown()] == ["a", "b"]


def test_what_an_index_looks_at_says_which_row_came_first(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(), "INSERT INTO note VALUES ('a', 'x', 0)")
    for device in (pair.one, pair.two):
        with other_program(device.path) as connection:
            connection.execute('CREATE UNIQUE INDEX only_one ON note (name) WHERE "N" > 0')
    pair.apart("INSERT INTO note VALUES ('b', 'x', 1)", "UPDATE note SET n = 1 WHERE id = 'a'")  # a has its name for longer
    assert pair.shown() == [("b", "x", 1)]


def test_a_computed_column_can_be_unique(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.Column("twice", sa.Integer, sa.Computed("n * 2"), unique=True)))
    pair.apart("INSERT INTO note (id, n) VALUES ('a', 1)", "INSERT INTO note (id, n) VALUES ('b', 1)")
    assert pair.shown("SELECT id, twice FROM note") == [("a", 2)]


def test_a_table_that_replaces_rows_by_itself_loses_none_of_them(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name", sqlite_on_conflict="REPLACE")))
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    assert pair.shown() == [("a", "n", 1)]
    assert pair.aside() == [("note", "b")]


def test_rows_from_before_sync_with_one_value_are_told_apart_by_device(tmp_path: Path) -> None:
    clock = ManualClock()
    for name, key in (("one", "a"), ("two", "b")):
        with other_program(tmp_path / f"{name}.db") as connection:
            connection.execute("CREATE TABLE note (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR UNIQUE, n INTEGER)")
            connection.execute("INSERT INTO note VALUES (?, 'n', 1)", (key,))
    one, two = (Device(tmp_path, name, notes(), clock=clock) for name in ("one", "two"))
    exchange(one, two)
    assert one.rows() == two.rows() == {("a" if one.id < two.id else "b",): {"name": "n", "n": 1}}


def test_a_write_of_ones_own_can_bring_an_earlier_row_back_and_give_way_to_it(pair: Pair) -> None:
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.write(pair.one, "DELETE FROM note", "INSERT INTO note VALUES ('c', 'n', 3)")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("b", "n", 2)]
    assert pair.aside() == [("note", "c")]


def test_a_row_that_is_aside_can_be_written_anew(pair: Pair) -> None:
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    pair.write(pair.one, "INSERT INTO note VALUES ('b', 'm', 3)")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("a", "n", 1), ("b", "m", 3)]
    assert pair.aside() == []


def test_triggers_of_the_application_take_nobody_for_deleted(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name")), "INSERT INTO note VALUES ('a', 'x', 1), ('b', 'y', 2)")
    for device in (pair.one, pair.two):
        with other_program(device.path) as connection:
            connection.execute("CREATE TABLE gone (id)")
            connection.execute("CREATE TRIGGER tell AFTER DELETE ON note BEGIN INSERT INTO gone VALUES (OLD.id); END")
    swap = ("UPDATE note SET name = NULL WHERE id = 'a'", "UPDATE note SET name = 'x' WHERE id = 'b'")
    pair.write(pair.one, *swap, "UPDATE note SET name = 'y' WHERE id = 'a'")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT * FROM gone") == []
    pair.write(pair.two, "DELETE FROM note WHERE id = 'a'")
    assert query(pair.two.path, "SELECT * FROM gone") == [("a",)]


def test_a_trigger_of_the_application_may_ignore_what_it_has_already(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name")))
    for device in (pair.one, pair.two):
        with other_program(device.path) as connection:
            connection.execute("CREATE TABLE seen (n PRIMARY KEY)")
            connection.execute("CREATE TRIGGER see AFTER INSERT ON note BEGIN INSERT OR IGNORE INTO seen VALUES (NEW.n); END")
    pair.apart("INSERT INTO note VALUES ('a', 'x', 1), ('b', 'y', 1)", "INSERT INTO note VALUES ('c', 'z', 1)")
    assert len(pair.shown()) == 3
    assert pair.aside() == []


def test_many_rows_at_once_of_which_some_cannot_be_shown(pair: Pair) -> None:
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'n7', 0)")
    pair.write(
        pair.two,
        "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i WHERE x < 300)"
        " INSERT INTO note SELECT 'k' || x, 'n' || x, x FROM i",
    )
    exchange(pair.one, pair.two)
    assert len(pair.shown()) == 300
    assert pair.aside() == [("note", "k7")]


# -- checks


def test_two_valid_writes_that_break_a_check_together_set_the_row_aside(tmp_path: Path) -> None:
    ends = sa.Column("until", sa.Integer)
    pair = Pair(tmp_path, notes(ends, sa.CheckConstraint("n <= until")), "INSERT INTO note VALUES ('a', 'x', 5, 6)")
    pair.apart("UPDATE note SET n = 1, until = 2", "UPDATE note SET n = 6")
    assert pair.shown("SELECT * FROM note") == []
    assert {conflict.rule for conflict in pair.one.store.conflicts() if conflict.id < 0} == {
        "CHECK constraint failed: n <= until"
    }
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'x', 1, 2)")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT * FROM note") == [("a", "x", 1, 2)]


def test_a_row_comes_back_when_a_change_mends_its_check(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        notes(sa.Column("until", sa.Integer), sa.CheckConstraint("n <= until")),
        "INSERT INTO note VALUES ('a', 'x', 5, 6)",
    )
    pair.write(pair.one, "UPDATE note SET n = 1, until = 2")
    pair.write(pair.two, "UPDATE note SET n = 6")
    pair.one.receive(*pair.two.sealed())
    assert pair.one.rows() == {}
    pair.write(pair.two, "UPDATE note SET n = 0")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT * FROM note") == [("a", "x", 0, 2)]


def test_a_value_that_must_be_there_and_is_not_sets_the_row_aside(tmp_path: Path) -> None:
    clock = ManualClock()
    strict = sa.Table(
        "note",
        sa.MetaData(),
        key(),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("n", sa.Integer),
    )
    one, two = Device(tmp_path, "one", notes(), clock=clock), Device(tmp_path, "two", [strict], clock=clock)
    one.write("INSERT INTO note VALUES ('a', NULL, 1), ('b', 'x', 2)")
    exchange(one, two)
    assert two.rows() == {("b",): {"name": "x", "n": 2}}
    one.write("UPDATE note SET name = 'y' WHERE id = 'a'")
    exchange(one, two)
    assert two.rows() == one.rows()


# -- together with references


def families(**reference: Any) -> list[sa.Table]:
    """Groups with a unique name, and members that refer to one."""
    metadata = sa.MetaData()
    target = sa.ForeignKey("team.id", ondelete=reference.pop("ondelete", None))
    return [
        sa.Table("team", metadata, key(), sa.Column("name", sa.String, unique=True)),
        sa.Table(
            "member",
            metadata,
            key(),
            sa.Column("team", sa.String, target, **reference),
            sa.Column("number", sa.Integer),
            sa.UniqueConstraint("team", "number"),
        ),
    ]


MEMBERS = "SELECT id, team, number FROM member ORDER BY id"
ONE_TEAM_EACH = (
    ("INSERT INTO team VALUES ('a', 'n')", "INSERT INTO member VALUES ('m', 'a', 1)"),
    ("INSERT INTO team VALUES ('b', 'n')", "INSERT INTO member VALUES ('k', 'b', 1)"),
)


@pytest.mark.parametrize(
    ("reference", "shown"),
    [({"nullable": True}, [("k", None, 1), ("m", "a", 1)]), ({"ondelete": "CASCADE"}, [("m", "a", 1)])],
)
def test_what_refers_to_a_row_that_is_aside_is_treated_as_if_it_were_deleted(
    tmp_path: Path, reference: dict[str, Any], shown: list[tuple[Any, ...]]
) -> None:
    pair = Pair(tmp_path, families(**reference))
    for device, sql in zip((pair.one, pair.two), ONE_TEAM_EACH, strict=True):
        pair.write(device, *sql)
    exchange(pair.one, pair.two)
    assert pair.shown(MEMBERS) == shown
    pair.write(pair.one, "UPDATE team SET name = 'm'")
    exchange(pair.one, pair.two)
    assert pair.shown(MEMBERS) == [("k", "b", 1), ("m", "a", 1)]


def test_what_refers_to_a_row_that_gives_way_later_is_treated_so_too(tmp_path: Path) -> None:
    teams, member = "INSERT INTO team VALUES ('a', 'x'), ('b', 'y')", "INSERT INTO member VALUES ('m', 'b', 1)"
    pair = Pair(tmp_path, families(ondelete="CASCADE"), teams, member)
    pair.apart("UPDATE team SET name = 'z' WHERE id = 'a'", "UPDATE team SET name = 'z' WHERE id = 'b'")
    assert pair.shown(MEMBERS) == []
    assert pair.aside() == [("member", "m"), ("team", "b")]


def test_a_row_that_lost_its_reference_comes_after_those_that_have_theirs(tmp_path: Path) -> None:
    tables = families(ondelete="SET DEFAULT", server_default="d", nullable=False)
    pair = Pair(
        tmp_path, tables, "INSERT INTO team VALUES ('a', 'x'), ('d', 'default')", "INSERT INTO member VALUES ('m', 'a', 1)"
    )
    pair.apart("DELETE FROM team WHERE id = 'zzz'", "INSERT INTO member VALUES ('k', 'd', 1)")
    pair.write(pair.one, "UPDATE member SET number = 2 WHERE id = 'm'")
    pair.write(pair.two, "DELETE FROM member WHERE id = 'm'", "DELETE FROM team WHERE id = 'a'")
    pair.write(pair.one, "INSERT INTO member VALUES ('j', 'a', 1)")
    exchange(pair.one, pair.two)
    assert pair.shown(MEMBERS) == [("k", "d", 1)]
    assert ("member", "j") in pair.aside()
    pair.write(pair.one, "DELETE FROM member WHERE id = 'k'")
    exchange(pair.one, pair.two)
    assert pair.shown(MEMBERS) == [("j", "d", 1)]


def test_a_default_must_not_break_another_reference(tmp_path: Path) -> None:
    metadata = sa.MetaData()
    columns = [sa.Column(name, sa.String, server_default="p") for name in "ab"]
    both = sa.ForeignKeyConstraint(["a", "b"], ["d.k", "d.l"], ondelete="SET DEFAULT")
    tables = [
        sa.Table("d", metadata, *(sa.Column(name, sa.String, primary_key=True) for name in "kl")),
        sa.Table("e", metadata, key()),
        sa.Table("note", metadata, key(), *columns, both, sa.ForeignKeyConstraint(["a"], ["e.id"])),
    ]
    pair = Pair(tmp_path, tables, "INSERT INTO d VALUES ('q', 'q'), ('p', 'p')", "INSERT INTO e VALUES ('q')")
    pair.apart("INSERT INTO note VALUES ('x', 'q', 'q')", "DELETE FROM d WHERE k = 'q'")
    assert pair.shown("SELECT * FROM note") == []
    pair.write(pair.one, "INSERT INTO e VALUES ('p')")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT * FROM note") == [("x", "p", "p")]


def test_a_tree_with_unique_names_in_each_folder(tmp_path: Path) -> None:
    folder = sa.Table(
        "note",
        sa.MetaData(),
        key(),
        sa.Column("up", sa.String, sa.ForeignKey("note.id", ondelete="CASCADE")),
        sa.Column("name", sa.String),
        sa.UniqueConstraint("up", "name"),
    )
    pair = Pair(tmp_path, [folder], "INSERT INTO note VALUES ('r', NULL, '/')")
    pair.write(pair.one, "INSERT INTO note VALUES ('a', 'r', 'docs'), ('a1', 'a', 'one')")
    pair.write(pair.two, "INSERT INTO note VALUES ('b', 'r', 'docs'), ('b1', 'b', 'two'), ('b2', 'b1', 'deep')")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT id FROM note ORDER BY id") == [("a",), ("a1",), ("r",)]
    pair.write(pair.one, "UPDATE note SET name = 'papers' WHERE id = 'a'")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT id FROM note ORDER BY id") == [("a",), ("a1",), ("b",), ("b1",), ("b2",), ("r",)]


def test_a_row_of_a_circle_that_comes_back_and_goes_again_while_settling_is_kept(tmp_path: Path) -> None:
    metadata = sa.MetaData()
    to_b, to_c = (sa.Column(name, sa.String, sa.ForeignKey(f"{name}.id"), nullable=False) for name in "bc")
    word = sa.Column("word", sa.String, unique=True)
    pair = Pair(tmp_path, [sa.Table("b", metadata, key(), to_c, word), sa.Table("c", metadata, key(), to_b)])
    for name in "qp":
        circle = (f"INSERT INTO b VALUES ('{name}', '{name}', NULL)", f"INSERT INTO c VALUES ('{name}', '{name}')")
        pair.write(pair.one, "PRAGMA defer_foreign_keys = ON", *circle)
    exchange(pair.one, pair.two)
    pair.write(pair.two, "INSERT INTO b VALUES ('r', 'p', 'w')")
    pair.write(pair.one, "UPDATE b SET word = 'w' WHERE id = 'q'")
    exchange(pair.one, pair.two)
    assert pair.aside() == [("b", "q"), ("c", "q")]
    pair.write(pair.one, "INSERT INTO c VALUES ('x', 'r')")  # settles again
    pair.write(pair.two, "DELETE FROM b WHERE id = 'r'")
    exchange(pair.one, pair.two)
    assert pair.shown("SELECT id FROM c ORDER BY id") == [("p",), ("q",)]
    assert pair.aside() == [("c", "x")]


def codes(**reference: Any) -> list[sa.Table]:
    """Parents with a code, and children that refer to it."""
    metadata = sa.MetaData()
    target = sa.ForeignKey("parent.code", ondelete=reference.pop("ondelete", None), onupdate=reference.pop("onupdate", None))
    return [
        sa.Table("parent", metadata, key(), sa.Column("code", sa.String, unique=True)),
        sa.Table("child", metadata, key(), sa.Column("code", sa.String, target, **reference)),
    ]


CHILDREN = "SELECT id, code FROM child ORDER BY id"


@pytest.mark.parametrize("cause", ["DELETE FROM parent", "UPDATE parent SET code = 'y'"])
@pytest.mark.parametrize(("reference", "shown"), [({"nullable": True}, [("c", None)]), ({"nullable": False}, [])])
def test_a_reference_to_a_unique_column_is_repaired_as_well(
    tmp_path: Path, cause: str, reference: dict[str, Any], shown: list[tuple[Any, ...]]
) -> None:
    pair = Pair(tmp_path, codes(**reference), "INSERT INTO parent VALUES ('p', 'x')")
    pair.apart(cause, "INSERT INTO child VALUES ('c', 'x')")
    assert pair.shown(CHILDREN) == shown
    pair.write(pair.one, "INSERT INTO parent VALUES ('q', 'x')")
    exchange(pair.one, pair.two)
    assert pair.shown(CHILDREN) == [("c", "x")]


# -- what is remembered


def test_clocks_that_tell_which_row_came_first_are_not_forgotten_while_one_is_aside(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes(sa.UniqueConstraint("name"), sa.UniqueConstraint("n")))
    pair.apart("INSERT INTO note VALUES ('a', 'x', 1)", "INSERT INTO note VALUES ('b', 'x', 2)")
    pair.write(pair.two, "INSERT INTO note VALUES ('c', 'y', 2)")
    exchange(pair.one, pair.two)
    assert purge_everything(pair.one) == 0
    pair.write(pair.two, "DELETE FROM note WHERE id = 'a'")
    exchange(pair.one, pair.two)
    assert pair.shown() == [("b", "x", 2)]
    assert pair.aside() == [("note", "c")]
    pair.write(pair.two, "DELETE FROM note WHERE id = 'b'")
    exchange(pair.one, pair.two)
    assert purge_everything(pair.one) == 3


def test_a_row_whose_clock_was_forgotten_before_it_was_set_aside_is_still_there(tmp_path: Path) -> None:
    shared = ("INSERT INTO team VALUES ('a', 'x')", "INSERT INTO member VALUES ('m', 'a', 1)")
    pair = Pair(tmp_path, families(ondelete="CASCADE"), *shared)
    purge_everything(pair.one)
    with other_program(pair.one.path) as connection:
        connection.execute("DELETE FROM team")
    pair.one.store.seal()
    pair.one.store.catch_up()
    assert pair.one.rows("member") == {}
    pair.write(pair.two, "UPDATE member SET number = 2")
    pair.write(pair.two, "INSERT INTO team VALUES ('b', 'y')", "UPDATE member SET team = 'b'")
    exchange(pair.one, pair.two)
    assert pair.shown(MEMBERS) == [("m", "b", 2)]


def test_a_row_comes_back_when_a_migration_takes_the_constraint_away(tmp_path: Path) -> None:
    pair = Pair(tmp_path, notes())
    for device in (pair.one, pair.two):
        with other_program(device.path) as connection:
            connection.execute("CREATE UNIQUE INDEX only_one ON note (name)")
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    for device in (pair.one, pair.two):
        with other_program(device.path) as connection:
            connection.execute("DROP INDEX only_one")
        device.reopen()
    assert pair.shown() == [("a", "n", 1), ("b", "n", 2)]
    assert pair.aside() == []


READABLE = "kind <> 'json' OR json_extract(body, '$.x') IS NULL"
TITLE = "CASE WHEN kind = 'json' THEN json_extract(body, '$.x') ELSE id END"


@pytest.mark.parametrize(
    "rule",
    [
        sa.CheckConstraint(READABLE),
        sa.Index("by_title", sa.text(TITLE), unique=True),
        sa.Index("by_title", sa.text(TITLE)),
        sa.Column("title", sa.String, sa.Computed(TITLE, persisted=True)),
    ],
    ids=["check", "unique index", "index", "generated column"],
)
def test_a_row_for_which_an_expression_fails_is_set_aside_and_does_not_stop_sync(tmp_path: Path, rule: sa.SchemaItem) -> None:
    columns = [key(), sa.Column("kind", sa.String), sa.Column("body", sa.String), rule]
    pair = Pair(
        tmp_path, [sa.Table("page", sa.MetaData(), *columns)], "INSERT INTO page (id, kind, body) VALUES ('a', 'text', '{}')"
    )
    shown = "SELECT id, kind, body FROM page"
    pair.apart("UPDATE page SET kind = 'json'", "UPDATE page SET body = 'no JSON'")
    assert pair.shown(shown) == []
    assert pair.aside() == [("page", "a")]
    pair.write(pair.one, "INSERT INTO page (id, kind, body) VALUES ('a', 'json', '[]')")
    exchange(pair.one, pair.two)
    assert pair.shown(shown) == [("a", "json", "[]")]


def test_a_broken_trigger_is_not_taken_for_a_broken_row(pair: Pair) -> None:
    sealed = pair.one.write("INSERT INTO note VALUES ('a', 'n', 1)")
    with other_program(pair.two.path) as connection:
        connection.execute("CREATE TRIGGER broken AFTER INSERT ON note BEGIN INSERT INTO nowhere VALUES (1); END")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        pair.two.receive(sealed)
    assert pair.two.store.conflicts() == []


def test_a_write_to_a_table_that_has_nothing_to_do_with_rows_aside_does_not_look_at_them(tmp_path: Path) -> None:
    tables = notes(sa.UniqueConstraint("name"))
    pair = Pair(tmp_path, [*tables, sa.Table("other", tables[0].metadata, key())])
    pair.apart("INSERT INTO note VALUES ('a', 'n', 1)", "INSERT INTO note VALUES ('b', 'n', 2)")
    looks: list[str] = []
    pair.one.store.catch_up()
    original = Settling.settle

    def settle(self: Settling, *args: Any) -> None:
        looks.append("settle")
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settling, "settle", settle)
        pair.write(pair.one, "INSERT INTO other VALUES ('x')")
        assert looks == []
        pair.write(pair.one, "UPDATE note SET name = 'm' WHERE id = 'a'")
        assert looks != []
    exchange(pair.one, pair.two)
    assert pair.shown() == [("a", "m", 1), ("b", "n", 2)]
