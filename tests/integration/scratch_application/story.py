"""What happens to the scratch application, step by step, and what has to hold after each."""

from __future__ import annotations

from pathlib import Path

from .changes import FIRST_ROWS, OLD, Change
from .world import Device, Processes, World, mismatches

__all__ = ["begin", "live_through"]


def begin(processes: Processes, folder: Path) -> World:
    """An application from its first day: a realm makes the file, ``localstore init`` and a revision that finds nothing."""
    world = World(processes, folder)
    a, b = world.device("a"), world.device("b")
    a.use(OLD)
    said = a.localstore("init", "--models", "models")
    assert "alembic upgrade head" in said, said
    _settled(a.open("online", FIRST_ROWS))
    assert "No new upgrade operations detected" in a.alembic("check")
    a.revise("baseline", ("%s", "%s"))
    (baseline,) = (a.folder / "alembic/versions").glob("*_baseline.py")
    assert "op." not in baseline.read_text(encoding="utf-8"), "autogenerate found something to do right after init"
    a.alembic("upgrade", "head")
    b.use(OLD)
    b.take_revisions_of(a)
    b.alembic("stamp", "head")
    _settled(b.open("online"))
    _equal(a, b)
    return world


def live_through(world: World, name: str, change: Change) -> None:
    """One change of the models, there and back."""
    a, b = world.device("a"), world.device("b")
    _migrate_with_unsent_edits(a, name, change)
    _sync_old_with_new(a, b, change)

    c = world.device("c")
    c.use(change.models)
    c.take_revisions_of(a)
    c.alembic("stamp", "head")
    _settled(c.open("online"))
    _equal(a, c)

    assert b.open("offline", change.unsent_on_b)["pending"] == 1
    b.use(change.models)
    b.take_revisions_of(a)
    b.alembic("upgrade", "head")
    assert "No new upgrade operations detected" in b.alembic("check")
    _settle(b, a, c)
    _settled(c.open("online", change.later))
    _settle(a, b)
    _equal(a, b, c)
    _holds(change.expected, a, b, c)

    for device in (a, b, c):
        device.alembic("downgrade", "-1")
        device.use(OLD)
    _settle(a, b, c)
    _settle(a, b, c)
    _settled(b.open("online", change.back))
    _settle(a, c)
    _equal(a, b, c)
    _holds(change.expected_back, a, b, c)


def _migrate_with_unsent_edits(a: Device, name: str, change: Change) -> None:
    assert a.open("offline", change.unsent_on_a)["pending"] == 1
    unsent = a.query("SELECT number, sealed FROM localstore_outbox ORDER BY number")
    a.use(change.models)
    a.revise(name, change.revision)
    a.alembic("upgrade", "head")
    assert "No new upgrade operations detected" in a.alembic("check")
    assert a.query("SELECT number, sealed FROM localstore_outbox ORDER BY number")[: len(unsent)] == unsent


def _sync_old_with_new(a: Device, b: Device, change: Change) -> None:
    """Both schemas, in both directions."""
    _settled(b.open("online", change.old_on_b))
    _settled(a.open("online"))
    _settled(a.open("online", change.new_on_a))
    _settle(b, a)
    a_tables, b_tables = a.tables(), b.tables()
    for table in a_tables.keys() & b_tables.keys():  # what both know under the same name
        assert a_tables[table].keys() == b_tables[table].keys(), f"{table} has other rows on the old schema"
        for key, row in a_tables[table].items():
            old = b_tables[table][key]
            differing = {
                column: (row[column], old[column]) for column in row.keys() & old.keys() if row[column][1] != old[column][1]
            }
            assert not differing, f"{table} {key} on new and old schema: {differing}"


def _settle(*devices: Device) -> None:
    for device in devices:
        _settled(device.open("online"))


def _settled(left: dict[str, int]) -> None:
    assert left["pending"] == 0, left


def _equal(*devices: Device) -> None:
    """The same rows in every table, to the storage class of each value."""
    first, *others = [(device.folder.name, device.tables()) for device in devices]
    for name, tables in others:
        assert tables.keys() == first[1].keys(), f"{name} has {sorted(tables)}, {first[0]} has {sorted(first[1])}"
        for table, rows in tables.items():
            for key in rows.keys() | first[1][table].keys():
                one, other = first[1][table].get(key), rows.get(key)
                assert one == other, f"{table} {key}:\n{first[0]} has {one}\n{name} has {other}"


def _holds(expected: dict[str, dict[int, dict[str, object] | None]], *devices: Device) -> None:
    found = [line for device in devices for line in mismatches(device, expected)]
    assert not found, "\n".join(found)
