"""Renames: links between names, and devices of different schema age that understand each other because of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from localstore.store.renames import RENAMED, Renames
from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, changesets_in, close_devices, exchange, other_program, query


def table(name: str, key: str, *columns: str) -> sa.Table:
    return sa.Table(
        name, sa.MetaData(), sa.Column(key, sa.String, primary_key=True), *(sa.Column(column, sa.String) for column in columns)
    )


OLD = table("note", "id", "title", "stars")
NEW_COLUMN = table("note", "id", "heading", "stars")
NEW_KEY = table("note", "code", "title", "stars")
NEW_TABLE = table("memo", "id", "title", "stars")
NEW_EVERYTHING = table("memo", "code", "heading", "stars")

TO_NEW = {
    "a column": (NEW_COLUMN, [("note", "title", "heading")]),
    "a key column": (NEW_KEY, [("note", "id", "code")]),
    "a table": (NEW_TABLE, [("", "note", "memo")]),
    "everything": (NEW_EVERYTHING, [("note", "title", "heading"), ("", "note", "memo"), ("memo", "id", "code")]),
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def migrate(device: Device, links: list[tuple[str, str, str]], schema: sa.Table) -> None:
    """Carry out renames by Alembic's operations, and open the file with the schema that follows from them."""
    device.close()
    engine = sa.create_engine(f"sqlite:///{device.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for named, old, new in links:
            if named:
                operations.alter_column(named, old, new_column_name=new)
            else:
                operations.rename_table(old, new)
    device.reopen([schema])


def migrate_back(device: Device, links: list[tuple[str, str, str]]) -> None:
    migrate(device, [(named, new, old) for named, old, new in reversed(links)], OLD)


def sync(*devices: Device) -> None:
    """Every device receives all that the others have, once more when that made them write something themselves."""
    exchange(*devices)
    exchange(*devices)


def values(device: Device, schema: sa.Table) -> dict[Any, tuple[Any, ...]]:
    """Rows by position, as names differ."""
    return {key[0]: tuple(row.values()) for key, row in device.rows(schema.name).items()}


# -- links alone


def test_a_name_that_is_known_means_itself() -> None:
    renames = Renames([("", "note", "memo"), ("note", "title", "heading")])
    assert renames.table("note", {"note", "memo"}) == "note"
    assert renames.column("note", "title", {"title", "heading"}) == "title"


def test_links_have_no_direction() -> None:
    renames = Renames([("", "note", "memo"), ("note", "title", "heading")])
    assert renames.table("memo", {"note"}) == "note"
    assert renames.table("note", {"memo"}) == "memo"
    assert renames.column("note", "heading", {"title"}) == "title"


def test_a_name_that_nothing_links_means_nothing() -> None:
    renames = Renames([("", "note", "memo"), ("note", "title", "heading")])
    assert renames.table("tag", {"note", "memo"}) is None
    assert renames.table("note", {"tag"}) is None
    assert renames.column("tag", "title", {"heading"}) is None
    assert renames.column("note", "stars", {"heading"}) is None


def test_links_of_columns_hold_under_every_name_of_the_table() -> None:
    renames = Renames([("note", "title", "heading"), ("", "note", "memo"), ("memo", "heading", "caption")])
    for name in ("note", "memo"):
        assert renames.column(name, "title", {"caption"}) == "caption"
        assert renames.column(name, "caption", {"title"}) == "title"


def test_the_nearest_of_several_names_is_meant() -> None:
    renames = Renames([("", "a", "b"), ("", "b", "c"), ("", "c", "d")])
    assert renames.table("a", {"c", "d"}) == "c"
    assert renames.table("d", {"a", "b"}) == "b"
    circle = Renames([("", "a", "b"), ("", "b", "c"), ("", "c", "a")])
    assert circle.table("a", {"x"}) is None


def test_no_two_names_mean_the_same_column() -> None:
    renames = Renames([("note", "title", "heading")])
    assert renames.columns("note", ["heading", "title"], {"title"}) == {"title": "title"}
    assert renames.columns("note", ["heading", "stars"], {"title", "stars"}) == {"heading": "title", "stars": "stars"}


def test_a_link_is_news_once() -> None:
    renames = Renames()
    assert renames.add("note", "title", "heading")
    assert not renames.add("note", "title", "heading")
    assert not renames.add("note", "heading", "title")


def test_the_order_in_which_links_become_known_does_not_matter() -> None:
    links = [("", "a", "b"), ("", "b", "c"), ("a", "x", "y"), ("b", "y", "z"), ("c", "z", "x")]
    found = set()
    for ordered in itertools.permutations(links):
        renames = Renames(ordered)
        found.add((renames.table("a", {"c"}), renames.column("a", "y", {"x", "z"}), renames.column("c", "y", {"z"})))
    assert found == {("c", "x", "z")}


# -- devices


@pytest.mark.parametrize(("schema", "links"), TO_NEW.values(), ids=TO_NEW.keys())
def test_an_old_and_a_new_device_understand_each_other(
    tmp_path: Path, clock: ManualClock, schema: sa.Table, links: list[tuple[str, str, str]]
) -> None:
    old, new = Device(tmp_path, "old", [OLD], clock=clock), Device(tmp_path, "new", [OLD], clock=clock)
    old.write("INSERT INTO note VALUES ('a', 'one', '1'), ('b', 'two', '2'), ('c', 'three', '3')")
    exchange(old, new)
    migrate(new, links, schema)
    key, title = schema.primary_key.columns[0].name, list(schema.columns)[1].name
    clock.advance(1)
    new.write(f"UPDATE {schema.name} SET {title} = 'by new' WHERE {key} = 'a'")
    new.write(f"INSERT INTO {schema.name} VALUES ('d', 'new', '4')")
    old.write("UPDATE note SET title = 'by old', stars = '9' WHERE id = 'b'")
    old.write("DELETE FROM note WHERE id = 'c'")
    sync(old, new)
    expected = {"a": ("by new", "1"), "b": ("by old", "9"), "d": ("new", "4")}
    assert values(old, OLD) == expected
    assert values(new, schema) == expected
    migrate(old, links, schema)
    assert values(old, schema) == expected
    assert old.clocks() == new.clocks()
    assert query(old.path, "SELECT * FROM localstore_unknown") == []


@pytest.mark.parametrize(("schema", "links"), TO_NEW.values(), ids=TO_NEW.keys())
def test_a_fresh_device_with_the_new_schema_reads_the_old_history(
    tmp_path: Path, clock: ManualClock, schema: sa.Table, links: list[tuple[str, str, str]]
) -> None:
    first = Device(tmp_path, "first", [OLD], clock=clock)
    key, title = schema.primary_key.columns[0].name, list(schema.columns)[1].name
    first.write("INSERT INTO note VALUES ('a', 'one', '1'), ('b', 'two', '2')")
    clock.advance(1)
    first.write("UPDATE note SET title = 'uno' WHERE id = 'a'")
    migrate(first, links, schema)
    clock.advance(1)
    first.write(f"UPDATE {schema.name} SET {title} = 'dos' WHERE {key} = 'b'")
    fresh = Device(tmp_path, "fresh", [schema], clock=clock)
    fresh.receive(*first.sealed())
    assert values(fresh, schema) == values(first, schema) == {"a": ("uno", "1"), "b": ("dos", "2")}
    first.receive()  # so that its own changesets are in its clocks
    assert fresh.clocks() == first.clocks()
    assert query(fresh.path, "SELECT * FROM localstore_unknown") == []


@pytest.mark.parametrize(("schema", "links"), TO_NEW.values(), ids=TO_NEW.keys())
def test_what_came_before_a_link_is_understood_when_the_link_comes(
    tmp_path: Path, clock: ManualClock, schema: sa.Table, links: list[tuple[str, str, str]]
) -> None:
    """A writer that never migrated, and a reader that never had the old schema: only a third device knows the link."""
    old, fresh = Device(tmp_path, "old", [OLD], clock=clock), Device(tmp_path, "fresh", [schema], clock=clock)
    old.write("INSERT INTO note VALUES ('a', 'one', '1')")
    fresh.receive(*old.sealed())
    assert values(fresh, schema) != {"a": ("one", "1")}
    third = Device(tmp_path, "third", [OLD], clock=clock)
    migrate(third, links, schema)
    clock.advance(1)
    third.write(f"INSERT INTO {schema.name} VALUES ('z', 'last', '26')")
    fresh.receive(*third.sealed())
    assert values(fresh, schema) == {"a": ("one", "1"), "z": ("last", "26")}


def test_a_link_inside_a_page_holds_for_what_follows_in_it(tmp_path: Path, clock: ManualClock) -> None:
    """The new device's update comes in the same page as the link, and as the insert that only the link explains."""
    first = Device(tmp_path, "first", [OLD], clock=clock)
    first.write("INSERT INTO note VALUES ('a', 'one', '1')")
    migrate(first, TO_NEW["everything"][1], NEW_EVERYTHING)
    first.write("UPDATE memo SET stars = '2'")
    first.write("DELETE FROM memo")
    first.write("INSERT INTO memo VALUES ('a', 'again', '3')")
    first.write("UPDATE memo SET heading = 'and again'")
    for schema in (OLD, NEW_EVERYTHING):
        reader = Device(tmp_path, f"reads {schema.name}", [schema], clock=clock)
        reader.receive(*first.sealed())
        assert values(reader, schema) == {"a": ("and again", "3")}


@pytest.mark.parametrize(("schema", "links"), TO_NEW.values(), ids=TO_NEW.keys())
def test_a_downgraded_device_goes_on_with_both(
    tmp_path: Path, clock: ManualClock, schema: sa.Table, links: list[tuple[str, str, str]]
) -> None:
    one, two = Device(tmp_path, "one", [OLD], clock=clock), Device(tmp_path, "two", [OLD], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'one', '1')")
    migrate(one, links, schema)
    exchange(one, two)
    migrate_back(one, links)
    migrate(two, links, schema)
    clock.advance(1)
    key, title = schema.primary_key.columns[0].name, list(schema.columns)[1].name
    two.write(f"UPDATE {schema.name} SET {title} = 'by two' WHERE {key} = 'a'")
    one.write("UPDATE note SET stars = '7'")
    sync(one, two)
    assert values(one, OLD) == values(two, schema) == {"a": ("by two", "7")}
    assert len(query(one.path, f"SELECT * FROM {RENAMED}")) == len(links)


def test_a_link_that_both_devices_made_is_one_row_and_no_conflict(tmp_path: Path, clock: ManualClock) -> None:
    one, two = Device(tmp_path, "one", [OLD], clock=clock), Device(tmp_path, "two", [OLD], clock=clock)
    for device in (one, two):
        migrate(device, TO_NEW["everything"][1], NEW_EVERYTHING)
        device.write(f"INSERT INTO memo VALUES ('{device.name}', 't', '1')")
    exchange(one, two)
    for device in (one, two):
        assert len(query(device.path, f"SELECT * FROM {RENAMED}")) == 3
        assert query(device.path, "SELECT * FROM localstore_conflict") == []
    exchange(one, two)
    assert one.clocks() == two.clocks()


def test_a_device_that_heard_of_a_rename_does_not_tell_of_it_again(tmp_path: Path, clock: ManualClock) -> None:
    one, two = Device(tmp_path, "one", [OLD], clock=clock), Device(tmp_path, "two", [OLD], clock=clock)
    migrate(one, TO_NEW["a column"][1], NEW_COLUMN)
    exchange(one, two)
    migrate(two, TO_NEW["a column"][1], NEW_COLUMN)
    assert sealed_tables(one) == [RENAMED]
    assert sealed_tables(two) == []


def sealed_tables(device: Device) -> list[str]:
    return [group.table for changeset in changesets_in(device.path) for group in changeset.groups]


def test_a_link_can_be_made_by_hand_for_a_rename_that_nobody_saw(tmp_path: Path, clock: ManualClock) -> None:
    one, two = Device(tmp_path, "one", [OLD], clock=clock), Device(tmp_path, "two", [OLD], clock=clock)
    one.write("INSERT INTO note VALUES ('a', 'one', '1')")
    exchange(one, two)
    one.close()
    with other_program(one.path) as program:
        program.execute("ALTER TABLE note RENAME COLUMN title TO heading")
        program.execute(f"INSERT INTO {RENAMED} VALUES ('note', 'title', 'heading')")
    one.reopen([NEW_COLUMN])
    clock.advance(1)
    one.write("UPDATE note SET heading = 'by one'")
    sync(one, two)
    assert values(two, OLD) == {"a": ("by one", "1")}


def test_a_column_that_takes_an_old_name_is_told_from_the_renamed_one(tmp_path: Path, clock: ManualClock) -> None:
    both = table("note", "id", "heading", "stars", "title")
    old, new = Device(tmp_path, "old", [OLD], clock=clock), Device(tmp_path, "new", [OLD], clock=clock)
    old.write("INSERT INTO note VALUES ('a', 'one', '1')")
    exchange(old, new)
    new.close()
    engine = sa.create_engine(f"sqlite:///{new.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        operations.alter_column("note", "title", new_column_name="heading")
        operations.add_column("note", sa.Column("title", sa.String))
    new.reopen([both])
    clock.advance(1)
    new.write("UPDATE note SET heading = 'h'")
    sync(old, new)
    assert values(old, OLD) == {"a": ("h", "1")}
    assert new.row("a") == {"heading": "h", "stars": "1", "title": None}


@pytest.mark.parametrize("seed", range(8))
def test_devices_of_all_ages_converge_whatever_the_order(tmp_path: Path, clock: ManualClock, seed: int) -> None:
    """Three devices write, hear of each other, upgrade and downgrade at random; in the end all have the new schema."""
    choose = random.Random(seed)
    schema, links = TO_NEW["everything"]
    current = {Device(tmp_path, name, [OLD], clock=clock): OLD for name in ("one", "two", "three")}
    for step in range(40):
        device = choose.choice(list(current))
        clock.advance(choose.choice([0.0, 0.5]))
        action = choose.choices(["migrate", "receive", "write"], [2, 5, 10])[0]
        if action == "migrate" and current[device] is OLD:
            migrate(device, links, schema)
            current[device] = schema
        elif action == "migrate":
            migrate_back(device, links)
            current[device] = OLD
        elif action == "receive":
            device.receive(*choose.choice(list(current)).sealed())
        else:
            change_a_row(device, current[device], choose, step)
    sync(*current)
    for device, now in current.items():
        if now is OLD:
            migrate(device, links, schema)
    sync(*current)
    one, two, three = current
    assert values(one, schema) == values(two, schema) == values(three, schema)
    assert one.clocks() == two.clocks() == three.clocks()
    assert query(one.path, "SELECT * FROM localstore_unknown") == []


def change_a_row(device: Device, schema: sa.Table, choose: random.Random, step: int) -> None:
    key, *columns = schema.columns.keys()
    row = choose.choice("abc")
    if not device.row(row, table=schema.name):
        device.write(f"INSERT INTO {schema.name} VALUES ('{row}', 'made {step}', '{step}')")
    elif choose.random() < 0.2:
        device.write(f"DELETE FROM {schema.name} WHERE {key} = '{row}'")
    else:
        device.write(f"UPDATE {schema.name} SET {choose.choice(columns)} = 'step {step}' WHERE {key} = '{row}'")
