"""What a migration drops is kept aside: a device that had a column knows as much of it as one that never had it.

Each test compares a device that migrates there and back with one that did not, or with one that joined in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, close_devices, exchange, query


def note(*columns: str) -> sa.Table:
    text = (sa.Column(column, sa.String) for column in columns)
    return sa.Table("note", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *text)


WIDE, NARROW = note("title", "city"), note("title")
PAIR = sa.Table(
    "pair",
    sa.MetaData(),
    sa.Column("one", sa.String, primary_key=True),
    sa.Column("two", sa.String, primary_key=True),
    sa.Column("text", sa.String),
)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def migrate(device: Device, schema: list[sa.Table], *statements: str) -> None:
    """Run operations, or SQL, as a migration, and open the file with what it has then."""
    device.close()
    engine = sa.create_engine(f"sqlite:///{device.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for statement in statements:
            if statement == "batch":
                with operations.batch_alter_table("note") as batch:
                    batch.drop_column("city")
            else:
                operations.execute(statement)
    device.reopen(schema)


DROPS = {
    "native": "ALTER TABLE note DROP COLUMN city",
    "with a schema and quotes": 'alter table main."note" drop [city];',
    "batch": "batch",
}
BACK = "ALTER TABLE note ADD COLUMN city VARCHAR"


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_a_column_that_comes_back_has_its_values_on_every_device(tmp_path: Path, clock: ManualClock, drop: str) -> None:
    one, two = Device(tmp_path, "one", [WIDE], clock=clock), Device(tmp_path, "two", [WIDE], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens'), ('b', 'B', 'Bern'), ('c', 'C', NULL), ('d', 'D', 'Delhi')")
    exchange(one, two)
    clock.advance(1)
    one.write("UPDATE note SET city = 'Aarhus' WHERE id = 'a'")
    two.write("UPDATE note SET city = 'Basel' WHERE id = 'b'")
    exchange(one, two)
    migrate(one, [NARROW], drop)
    fresh = Device(tmp_path, "fresh", [NARROW], clock=clock)
    clock.advance(1)
    two.write("UPDATE note SET city = 'Cairo' WHERE id = 'c'")
    two.write("DELETE FROM note WHERE id = 'd'")
    exchange(one, two, fresh)
    assert "city" not in one.rows()["a",]
    for device in (one, fresh):
        migrate(device, [WIDE], BACK)
    assert {key[0]: row["city"] for key, row in one.rows().items()} == {"a": "Aarhus", "b": "Basel", "c": "Cairo"}
    assert one.rows() == two.rows() == fresh.rows()
    assert one.clocks() == two.clocks() == fresh.clocks()


def test_a_value_that_was_never_sent_is_kept_too(tmp_path: Path, clock: ManualClock) -> None:
    one = Device(tmp_path, "one", [WIDE], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens')")
    migrate(one, [NARROW], DROPS["native"])
    one.write("UPDATE note SET title = 'other'")
    migrate(one, [WIDE], BACK)
    assert one.row("a") == {"title": "other", "city": "Athens"}


def test_a_data_fix_alone_is_not_kept(tmp_path: Path, clock: ManualClock) -> None:
    """Nobody wrote it: each device computes it anew."""
    one = Device(tmp_path, "one", [NARROW], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A')")
    migrate(one, [WIDE], BACK, "UPDATE note SET city = 'computed'")
    migrate(one, [NARROW], DROPS["native"])
    assert query(one.path, "SELECT * FROM localstore_unknown") == []


def test_a_column_that_was_renamed_in_the_same_migration_is_kept_under_its_new_name(tmp_path: Path, clock: ManualClock) -> None:
    one = Device(tmp_path, "one", [WIDE], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens')")
    clock.advance(1)
    one.write("UPDATE note SET city = 'Aarhus'")
    migrate(one, [NARROW], "ALTER TABLE note RENAME city TO town", "ALTER TABLE note DROP town")
    migrate(one, [note("title", "town")], "ALTER TABLE note ADD town VARCHAR")
    assert one.row("a") == {"title": "A", "town": "Aarhus"}


@pytest.mark.parametrize("drop", ["DROP TABLE note", "drop table if exists main.[note];"])
def test_a_table_that_comes_back_has_its_rows_on_every_device(tmp_path: Path, clock: ManualClock, drop: str) -> None:
    """Rows that were born, changed, deleted, and born again, on devices that knew of each other or did not."""
    one, two = (Device(tmp_path, name, [WIDE, PAIR], clock=clock) for name in ("one", "two"))
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens'), ('b', 'B', 'Bern'), ('c', 'C', 'Cairo')")
    exchange(one, two)
    clock.advance(1)
    one.write("UPDATE note SET city = 'Aarhus' WHERE id = 'a'")
    one.write("INSERT INTO note VALUES ('d', 'from one', 'Delhi')")
    two.write("INSERT INTO note VALUES ('d', 'from two', 'Dakar')")
    two.write("DELETE FROM note WHERE id = 'b'")
    two.write("DELETE FROM note WHERE id = 'c'")
    clock.advance(1)
    two.write("INSERT INTO note VALUES ('c', 'again', NULL)")
    exchange(one, two)
    before, clocks = one.rows(), one.clocks()
    migrate(one, [PAIR], drop)
    clock.advance(1)
    two.write("UPDATE note SET title = 'meanwhile' WHERE id = 'a'")
    exchange(one, two)
    migrate(one, [WIDE, PAIR], "CREATE TABLE note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR, city VARCHAR)")
    assert one.rows() == two.rows() == {**before, ("a",): {"title": "meanwhile", "city": "Aarhus"}}
    assert one.clocks() == two.clocks()
    assert one.clocks()["note", "b"] == clocks["note", "b"]


def test_rows_with_a_key_of_several_columns_are_kept(tmp_path: Path, clock: ManualClock) -> None:
    one, two = (Device(tmp_path, name, [NARROW, PAIR], clock=clock) for name in ("one", "two"))
    one.write("INSERT INTO pair VALUES ('a', 'b', 'ab'), ('a', 'c', 'ac')")
    one.write("DELETE FROM pair WHERE two = 'c'")
    exchange(one, two)
    migrate(one, [NARROW], "DROP TABLE pair")
    migrate(
        one,
        [NARROW, PAIR],
        "CREATE TABLE pair (one VARCHAR NOT NULL, two VARCHAR NOT NULL, text VARCHAR, PRIMARY KEY (one, two))",
    )
    assert one.rows("pair") == two.rows("pair") == {("a", "b"): {"text": "ab"}}
    assert one.clocks() == two.clocks()


def test_rows_that_are_set_aside_are_kept_with_the_others(tmp_path: Path, clock: ManualClock) -> None:
    unique = sa.Table("note", sa.MetaData(), *(column._copy() for column in WIDE.columns), sa.UniqueConstraint("title"))
    one, two = Device(tmp_path, "one", [unique], clock=clock), Device(tmp_path, "two", [unique], clock=clock)
    for device, key, city in ((one, "a", "Athens"), (two, "b", "Bern")):
        clock.advance(1)
        device.write(f"INSERT INTO note VALUES ('{key}', 'same', '{city}')")
    exchange(one, two)
    assert one.rows() == two.rows() == {("a",): {"title": "same", "city": "Athens"}}
    migrate(one, [PAIR], "DROP TABLE note")
    migrate(one, [WIDE], "CREATE TABLE note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR, city VARCHAR)")
    assert one.rows() == {("a",): {"title": "same", "city": "Athens"}, ("b",): {"title": "same", "city": "Bern"}}


def test_a_column_of_a_row_that_is_set_aside_is_kept_too(tmp_path: Path, clock: ManualClock) -> None:
    unique = sa.Table("note", sa.MetaData(), *(column._copy() for column in WIDE.columns), sa.UniqueConstraint("title"))
    one, two = Device(tmp_path, "one", [unique], clock=clock), Device(tmp_path, "two", [unique], clock=clock)
    for device, key, city in ((one, "a", "Athens"), (two, "b", "Bern")):
        clock.advance(1)
        device.write(f"INSERT INTO note VALUES ('{key}', 'same', '{city}')")
    exchange(one, two)
    narrow = sa.Table("note", sa.MetaData(), *(column._copy() for column in NARROW.columns), sa.UniqueConstraint("title"))
    migrate(one, [narrow], "ALTER TABLE note DROP COLUMN city")
    one.write("DELETE FROM note WHERE id = 'a'")
    migrate(one, [unique], BACK)
    exchange(one, two)
    assert one.rows() == two.rows() == {("b",): {"title": "same", "city": "Bern"}}


def test_seeds_are_kept_as_seeds(tmp_path: Path, clock: ManualClock) -> None:
    """Rows from before sync stay older than every change, also when their table was away."""
    one, two = Device(tmp_path, "one", [WIDE], clock=clock), Device(tmp_path, "two", [WIDE], clock=clock)
    create = "CREATE TABLE pair (one VARCHAR NOT NULL, two VARCHAR NOT NULL, text VARCHAR, PRIMARY KEY (one, two))"
    for device in (one, two):
        migrate(device, [WIDE, PAIR], create, f"INSERT INTO pair VALUES ('a', 'b', 'by {device.name}')")
    exchange(one, two)
    assert one.rows("pair") == two.rows("pair")
    migrate(one, [WIDE], "DROP TABLE pair")
    migrate(one, [WIDE, PAIR], create, "INSERT INTO pair VALUES ('a', 'b', 'again')")
    exchange(one, two)
    assert one.rows("pair") == two.rows("pair")
    assert one.clocks() == two.clocks()


def test_a_migration_that_fails_keeps_nothing_aside(tmp_path: Path, clock: ManualClock) -> None:
    one = Device(tmp_path, "one", [WIDE], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens')")
    with pytest.raises(sa.exc.OperationalError):
        migrate(one, [NARROW], DROPS["native"], "no SQL")
    assert query(one.path, "SELECT * FROM localstore_unknown") == []
    assert one.row("a") == {"title": "A", "city": "Athens"}


def test_a_table_made_anew_by_hand_is_what_it_was(tmp_path: Path, clock: ManualClock) -> None:
    one, two = Device(tmp_path, "one", [WIDE], clock=clock), Device(tmp_path, "two", [WIDE], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens'), ('b', 'B', 'Bern')")
    one.write("UPDATE note SET city = 'Aarhus' WHERE id = 'a'")
    exchange(one, two)
    copy: list[Any] = [
        "CREATE TABLE new_note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR, city VARCHAR)",
        "INSERT INTO new_note SELECT id, title, upper(city) FROM note",
        "DROP TABLE note",
        "ALTER TABLE new_note RENAME TO note",
    ]
    migrate(one, [WIDE], *copy)
    assert one.row("a") == {"title": "A", "city": "AARHUS"}
    assert one.clocks() == two.clocks()
    assert query(one.path, "SELECT * FROM localstore_unknown") == []


def test_many_rows_are_kept_in_bounded_parts(tmp_path: Path, clock: ManualClock) -> None:
    one = Device(tmp_path, "one", [WIDE], clock=clock)
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
    one.write(f"INSERT INTO note {numbers} SELECT printf('%05d', i), 't', 'city ' || i FROM n")
    migrate(one, [NARROW], DROPS["native"])
    assert query(one.path, "SELECT count(*) > 1 FROM localstore_unknown") == [(1,)]
    migrate(one, [WIDE], BACK)
    assert query(one.path, "SELECT count(*) FROM note WHERE city = 'city ' || CAST(id AS INTEGER)") == [(30000,)]


def test_a_kept_value_does_not_pass_to_a_row_that_was_born_later_under_the_same_key(tmp_path: Path, clock: ManualClock) -> None:
    one, two = Device(tmp_path, "one", [WIDE], clock=clock), Device(tmp_path, "two", [NARROW], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens')")
    migrate(one, [NARROW], DROPS["native"])
    one.write("DELETE FROM note")
    one.write("INSERT INTO note VALUES ('a', 'again')")
    exchange(one, two)
    for device in (one, two):
        migrate(device, [WIDE], BACK)
        assert device.row("a") == {"title": "again", "city": None}
    assert one.clocks() == two.clocks()


@pytest.mark.parametrize("drops_column_first", [True, False])
def test_a_table_that_comes_back_bit_by_bit_is_as_if_nothing_had_been(
    tmp_path: Path, clock: ManualClock, drops_column_first: bool
) -> None:
    """On the way each part is replayed, and kept again by what does not know it yet."""
    one, two = (Device(tmp_path, name, [WIDE, PAIR], clock=clock) for name in ("one", "two"))
    one.write("INSERT INTO note VALUES ('a', 'A', 'Athens')")
    exchange(one, two)
    if drops_column_first:
        migrate(one, [NARROW, PAIR], DROPS["native"])
    migrate(one, [PAIR], "DROP TABLE note")
    migrate(one, [NARROW, PAIR], "CREATE TABLE note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR)")
    migrate(one, [PAIR], "DROP TABLE note")
    migrate(one, [WIDE, PAIR], "CREATE TABLE note (id VARCHAR PRIMARY KEY NOT NULL, title VARCHAR, city VARCHAR)")
    assert one.rows() == two.rows()
    assert one.clocks() == two.clocks()
