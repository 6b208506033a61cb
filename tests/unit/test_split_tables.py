"""A table split by a data fix, on devices that migrate at different times: rows that a migration made are sent as seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, close_devices, exchange, query


def text_table(name: str, *columns: str) -> sa.Table:
    text = (sa.Column(column, sa.String) for column in columns)
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.String, primary_key=True), *text)


WHOLE = [text_table("note", "title", "city")]
SPLIT = [text_table("note", "title"), text_table("place", "city")]
UPGRADE = (
    "CREATE TABLE place (id VARCHAR PRIMARY KEY NOT NULL, city VARCHAR)",
    "INSERT INTO place SELECT id, city FROM note",
    "ALTER TABLE note DROP COLUMN city",
)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def split(device: Device) -> None:
    device.close()
    engine = sa.create_engine(f"sqlite:///{device.path}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for statement in UPGRADE:
            operations.execute(statement)
    device.reopen(SPLIT)


@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")], ids="{0[0]} first".format)
def test_a_late_migration_undoes_nothing_that_was_done_with_the_new_rows(
    tmp_path: Path, clock: ManualClock, names: tuple[str, str]
) -> None:
    first, late = (Device(tmp_path, name, WHOLE, clock=clock) for name in names)
    first.write("INSERT INTO note VALUES ('a', 'A', 'Athens'), ('b', 'B', 'Bern'), ('c', 'C', 'Cairo')")
    exchange(first, late)
    split(first)
    first.write("UPDATE place SET city = 'Aarhus' WHERE id = 'a'")
    first.write("DELETE FROM place WHERE id = 'b'")
    late.write("INSERT INTO note VALUES ('d', 'D', 'Delhi')")
    exchange(first, late)
    split(late)
    fresh = Device(tmp_path, "fresh", SPLIT, clock=clock)
    exchange(first, late, fresh)
    expected = {("a",): {"city": "Aarhus"}, ("c",): {"city": "Cairo"}, ("d",): {"city": "Delhi"}}
    for device in (first, late, fresh):
        assert device.rows("place") == expected
    assert first.clocks() == late.clocks() == fresh.clocks()


@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")], ids="{0[0]} first".format)
def test_an_edit_of_the_old_column_comes_through_or_is_a_conflict(
    tmp_path: Path, clock: ManualClock, names: tuple[str, str]
) -> None:
    first, late = (Device(tmp_path, name, WHOLE, clock=clock) for name in names)
    first.write("INSERT INTO note VALUES ('a', 'A', 'Athens')")
    exchange(first, late)
    split(first)
    late.write("UPDATE note SET city = 'Aarhus'")
    exchange(first, late)
    split(late)
    exchange(first, late)
    assert first.rows("place") == late.rows("place")
    (city,) = [row["city"] for row in first.rows("place").values()]
    lost = query(late.path, "SELECT tbl, lost_value, won_value FROM localstore_conflict")
    assert (city, lost) in [("Aarhus", []), ("Athens", [("place", "Aarhus", "Athens")])]
    assert query(first.path, "SELECT * FROM localstore_conflict") == []
    assert city == ("Aarhus" if late.id > first.id else "Athens")
