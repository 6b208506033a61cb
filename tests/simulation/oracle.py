"""What all devices are to show in the end, by the oracle of ``tests.merging``, which knows nothing of the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from localstore import wire
from localstore.changes import Key, row_changes
from localstore.wire import SealedChangeset
from tests.merging.oracle import Known, RowName, Told, merged_rows
from tests.merging.schemas import Row, Table

__all__ = ["expected"]


def expected(tables: Sequence[Table], history: Iterable[SealedChangeset]) -> dict[RowName, Row]:
    """All rows that are left of a whole history, in whatever order it is.

    Args:
        tables: without references and constraints, so that what is merged is shown.
        history: all changesets of all devices.
    """
    by_name = {(sealed.device, sealed.number): wire.unseal(sealed) for sealed in history}
    devices = sorted({device for device, _ in by_name})
    place = {device: index for index, device in enumerate(devices)}
    seen: dict[tuple[bytes, int], Known] = {}
    told: dict[RowName, list[Told]] = {}
    for device, number in sorted(by_name, key=lambda name: (by_name[name].stamp, *name)):
        changeset = by_name[device, number]
        known = list(seen.get((device, number - 1), (0,) * len(devices)))
        for depends in changeset.depends:
            before = seen[depends.device, depends.number]
            known = [max(pair) for pair in zip(known, before, strict=True)]
        known[place[device]] = number
        seen[device, number] = tuple(known)
        for group in changeset.groups:
            for change in row_changes(group):
                what = Told(place[device], number, changeset.version, seen[device, number], change.op, change.values)
                told.setdefault((group.table, change.key), []).append(what)
    everything = tuple(max((number for of, number in by_name if of == device), default=0) for device in devices)
    return {row: merged.values for row, merged in merged_rows(tables, told, everything).items()}


def as_rows(tables: Sequence[Table], rows: dict[RowName, Row]) -> dict[str, dict[Key, tuple[object, ...]]]:
    """The same by table and key, as tuples in the order of the columns."""
    found: dict[str, dict[Key, tuple[object, ...]]] = {table.name: {} for table in tables}
    for (name, key), values in rows.items():
        columns = next(table.column_names for table in tables if table.name == name)
        found[name][key] = tuple(values[column] for column in columns)
    return found
