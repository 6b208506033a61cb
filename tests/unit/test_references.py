"""What becomes of rows that refer to one which another device deleted, case by case; in ``test_repair`` at random."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from localstore.errors import CannotRestore
from localstore.store.apply import Applied
from localstore.store.repaired import SetAside
from localstore.store.restoring import restore
from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, close_devices, exchange, is_clean, other_program, query, write

RECORDS = "SELECT hidden, why FROM localstore_repaired"
OWNER = "INSERT INTO owner VALUES ('o', 'owner'), ('default', 'of all')"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def tables(**reference: Any) -> list[sa.Table]:
    """Owners, and things that refer to one; the arguments are those of the referring column."""
    metadata = sa.MetaData()
    on_delete, in_key = reference.pop("ondelete", None), reference.pop("primary_key", False)
    key = sa.ForeignKey("owner.id", ondelete=on_delete)
    return [
        sa.Table("owner", metadata, sa.Column("id", sa.String, primary_key=True), sa.Column("name", sa.String)),
        sa.Table(
            "thing",
            metadata,
            sa.Column("id", sa.String, primary_key=True),
            sa.Column("owner", sa.String, key, primary_key=in_key, **reference),
            sa.Column("size", sa.Integer),
        ),
    ]


def pair(folder: Path, *schema: sa.Table) -> tuple[Device, Device]:
    """Two devices that both have the owners."""
    clock = ManualClock()
    one, two = (Device(folder, name, schema, clock=clock) for name in ("one", "two"))
    one.write(OWNER)
    exchange(one, two)
    return one, two


def part_ways(one: Device, two: Device) -> tuple[Applied, Applied]:
    """One deletes the owner, the other gives it a thing; then each hears of it."""
    two.write("INSERT INTO thing (id, owner, size) VALUES ('t', 'o', 1)")
    one.write("DELETE FROM owner WHERE id = 'o'")
    return one.receive(*two.sealed()), two.receive(*one.sealed())


def things(device: Device) -> list[tuple[Any, ...]]:
    assert query(device.path, "PRAGMA foreign_key_check") == []
    assert is_clean(device.path)
    return query(device.path, "SELECT id, owner, size FROM thing ORDER BY 1, 2")


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ({"nullable": True}, [("t", None, 1)]),
        ({"nullable": False}, []),
        ({"nullable": True, "ondelete": "RESTRICT"}, [("t", None, 1)]),
        ({"nullable": False, "ondelete": "NO ACTION"}, []),
        ({"nullable": True, "ondelete": "SET NULL"}, [("t", None, 1)]),
        ({"nullable": False, "ondelete": "SET NULL"}, []),
        ({"nullable": True, "ondelete": "CASCADE"}, []),
        ({"nullable": False, "ondelete": "SET DEFAULT", "server_default": "default"}, [("t", "default", 1)]),
        ({"nullable": True, "ondelete": "SET DEFAULT", "server_default": "nobody"}, []),
        ({"nullable": True, "ondelete": "SET DEFAULT"}, [("t", None, 1)]),
        ({"nullable": False, "ondelete": "SET DEFAULT"}, []),
        ({"primary_key": True}, []),
    ],
    ids=str,
)
def test_a_row_whose_target_is_gone_is_treated_alike_everywhere_and_is_itself_again_with_it(
    tmp_path: Path, reference: dict[str, Any], shown: list[tuple[Any, ...]]
) -> None:
    one, two = pair(tmp_path, *tables(**reference))
    part_ways(one, two)
    assert things(one) == things(two) == shown
    assert query(one.path, RECORDS) == query(two.path, RECORDS) == [(int(not shown), "thing(owner) → owner")]
    aside = [] if shown else [SetAside("thing", two_key(reference), "thing(owner) → owner")]
    assert one.store.take_set_aside() == two.store.take_set_aside() == aside
    three = Device(tmp_path, "three", tables(**reference))
    three.receive(*one.sealed(), *two.sealed())
    assert things(three) == shown
    one.write("INSERT INTO owner VALUES ('o', 'again')")
    two.receive(*one.sealed())
    assert things(one) == things(two) == [("t", "o", 1)]
    assert query(one.path, RECORDS) == query(two.path, RECORDS) == []


def test_what_is_not_shown_is_in_the_list_of_conflicts_until_it_is(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=False))
    part_ways(one, two)
    for device in (one, two):
        owner, size = device.store.conflicts()
        assert (owner.table, owner.key, owner.column) == ("thing", ("t",), "owner")
        assert (owner.lost_value, owner.won_value) == ("o", None)
        assert (size.column, size.lost_value) == ("size", 1)
        assert (owner.lost_device, owner.won_device) == (two.id.hex(), one.id.hex())
        assert min(owner.lost_stamp, owner.won_stamp) > 0
        assert owner.rule == "what thing(owner) → owner refers to was deleted"
        with pytest.raises(CannotRestore, match="comes back by itself"):
            restore(device.store, owner)
    one.write("INSERT INTO owner VALUES ('o', 'again')")
    assert one.store.conflicts() == []


def two_key(reference: dict[str, Any]) -> tuple[str, ...]:
    return ("t", "o") if reference.get("primary_key") else ("t",)


def test_what_is_written_to_a_row_that_is_not_shown_is_there_when_it_comes_back(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=False))
    two.write("INSERT INTO thing VALUES ('t', 'o', 1)")
    three = Device(tmp_path, "three", tables(nullable=False), clock=one.clock)
    three.receive(*one.sealed(), *two.sealed())
    one.write("DELETE FROM owner WHERE id = 'o'")
    exchange(one, two)
    three.write("UPDATE thing SET size = 7")
    exchange(one, two, three)
    assert things(one) == things(two) == things(three) == []
    two.write("INSERT INTO owner VALUES ('o', 'again')")
    exchange(one, two, three)
    assert things(one) == things(two) == things(three) == [("t", "o", 7)]


def test_a_row_that_is_not_shown_comes_back_when_it_refers_to_something_else(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=False))
    three = Device(tmp_path, "three", tables(nullable=False), clock=one.clock)
    part_ways(one, two)
    three.receive(*one.sealed()[:1], *two.sealed())
    three.write("UPDATE thing SET owner = 'default'")
    exchange(one, two, three)
    assert things(one) == things(two) == things(three) == [("t", "default", 1)]


def test_a_reference_that_is_written_anew_is_what_stays(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=True))
    part_ways(one, two)
    two.write("UPDATE thing SET owner = 'default'")
    one.receive(*two.sealed())
    one.write("INSERT INTO owner VALUES ('o', 'again')")
    two.receive(*one.sealed())
    assert things(one) == things(two) == [("t", "default", 1)]


def test_a_row_that_is_not_shown_can_be_deleted_elsewhere(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=False))
    three = Device(tmp_path, "three", tables(nullable=False), clock=one.clock)
    part_ways(one, two)
    three.receive(*one.sealed()[:1], *two.sealed())
    three.write("DELETE FROM thing")
    exchange(one, two, three)
    two.write("INSERT INTO owner VALUES ('o', 'again')")
    exchange(one, two, three)
    assert things(one) == things(two) == things(three) == []
    assert query(one.path, RECORDS) == []


def test_a_row_can_be_inserted_under_the_key_of_one_that_is_not_shown(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=False))
    part_ways(one, two)
    one.write("INSERT INTO thing VALUES ('t', 'default', 5)")
    two.receive(*one.sealed())
    assert things(one) == things(two) == [("t", "default", 5)]
    two.write("INSERT INTO owner VALUES ('o', 'again')")
    one.receive(*two.sealed())
    assert things(one) == things(two) == [("t", "default", 5)]


def test_several_columns_refer_together(tmp_path: Path) -> None:
    metadata = sa.MetaData()
    place = sa.Table(
        "place", metadata, sa.Column("x", sa.String, primary_key=True), sa.Column("y", sa.String, primary_key=True)
    )
    visit = sa.Table(
        "visit",
        metadata,
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("at_y", sa.String),
        sa.Column("at_x", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["at_y", "at_x"], [place.c.y, place.c.x]),
    )
    one, two = (Device(tmp_path, name, (place, visit)) for name in ("one", "two"))
    one.write("INSERT INTO place VALUES ('x', 'y'), ('y', 'x')")
    exchange(one, two)
    two.write("INSERT INTO visit VALUES ('v', 'y', 'x'), ('w', 'x', 'y')")
    one.write("DELETE FROM place WHERE x = 'x'")
    exchange(one, two)
    for device in (one, two):
        assert query(device.path, "SELECT * FROM visit ORDER BY id") == [("v", None, "x"), ("w", "x", "y")]


# -- written by other programs


def test_another_program_can_bring_rows_back(tmp_path: Path) -> None:
    one, two = pair(tmp_path, *tables(nullable=False))
    part_ways(one, two)
    with other_program(one.path) as connection:
        connection.execute("INSERT INTO owner VALUES ('o', 'by hand')")
    one.store.seal()
    one.store.catch_up()
    assert things(one) == [("t", "o", 1)]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_reference_to_nothing_that_another_program_wrote_is_repaired(tmp_path: Path, is_open: bool) -> None:
    """Foreign keys are off in most programs."""
    one, two = pair(tmp_path, *tables(nullable=True))
    if not is_open:
        one.store.close()
    with other_program(one.path) as connection:
        connection.execute("INSERT INTO thing VALUES ('t', 'nobody', 1)")
    if is_open:
        one.store.seal()
    else:
        one.reopen()
    assert query(one.path, "SELECT owner FROM thing") == [("nobody",)]
    one.store.catch_up()  # as the session does before it sends
    two.receive(*one.sealed())
    assert things(one) == things(two) == [("t", None, 1)]


def test_what_a_crash_kept_from_coming_back_does_when_the_file_is_opened(tmp_path: Path) -> None:
    """The commit that takes the cause away and the transaction that brings rows back are two."""
    one, two = pair(tmp_path, *tables(nullable=False))
    part_ways(one, two)
    write(one.store, "INSERT INTO owner VALUES ('o', 'again')")
    with other_program(one.path) as connection:  # as it was between the two
        connection.execute("UPDATE localstore_state SET capturing = 0, unsettled = 1")
        connection.execute("DELETE FROM thing")
        connection.execute("ATTACH ? AS two", (str(two.path),))
        connection.execute("INSERT INTO localstore_repaired SELECT * FROM two.localstore_repaired")
        connection.execute("UPDATE localstore_state SET capturing = 1")
    one.reopen()
    assert things(one) == [("t", "o", 1)]
