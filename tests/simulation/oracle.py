"""What all devices are to show in the end, by the oracle of ``tests.merging``, which knows nothing of the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from localstore import wire
from localstore.changes import Changeset, Key, Op, row_changes
from localstore.wire import SealedChangeset
from tests.merging.oracle import Entry, Known, Lost, RowName, Told, merged_rows, shown, values_that_lost
from tests.merging.schemas import Table

__all__ = ["History", "Rows"]

Rows = dict[str, dict[Key, tuple[object, ...]]]
"""By table and key, the values in the order of the columns."""


class History:
    """All changesets of all devices, in whatever order.

    Args:
        tables: what there is to know of them.
        changesets: of all devices, none left out.
    """

    def __init__(self, tables: Sequence[Table], changesets: Iterable[SealedChangeset]) -> None:
        self._tables = tables
        self._told: dict[RowName, list[Told]] = {}
        self._made = {(sealed.device, sealed.number): wire.unseal(sealed) for sealed in changesets}
        self._devices = sorted({device for device, _ in self._made})
        self._seen: dict[tuple[bytes, int], Known] = {}
        for name in sorted(self._made, key=lambda name: (self._made[name].stamp, *name)):  # after what it depends on
            self._seen[name] = self._known_by(self._made[name])
            self._tell(self._made[name], self._seen[name])
        last = {device: max(number for of, number in self._made if of == device) for device in self._devices}
        self._everything = tuple(last[device] for device in self._devices)

        self._merged = merged_rows(tables, self._told, self._everything)
        self._shown = shown(tables, self._merged)

    def rows(self, tables: Sequence[Table]) -> Rows:
        """What is to be seen by a device that knows these tables, with these columns."""
        found: Rows = {table.name: {} for table in tables}
        columns = {table.name: table.column_names for table in tables}
        for (table, key), values in self._shown.rows.items():
            if table in columns:
                found[table][key] = tuple(values[column] for column in columns[table])
        return found

    def set_aside(self) -> set[Entry]:
        """What merging left and is not to be seen."""
        return self._shown.entries(self._tables, self._merged)

    def is_left(self, table: str, key: Key) -> bool:
        """Whether merging left a row, be it shown or set aside."""
        return (table, key) in self._merged

    def was_deleted(self, table: str, key: Key) -> bool:
        """Whether anybody ever deleted a row."""
        return any(told.op in (Op.DELETE, Op.REPLACE) for told in self._told.get((table, key), ()))

    def lost_by(self, device_id: str) -> tuple[set[Lost], set[Lost]]:
        """What a device's list of conflicts must hold, and what it may hold."""
        device = bytes.fromhex(device_id)
        if device not in self._devices:
            return set(), set()
        return values_that_lost(self._tables, self._told, self._everything, self._devices.index(device))

    def _known_by(self, changeset: Changeset) -> Known:
        known = list(self._seen.get((changeset.device, changeset.number - 1), (0,) * len(self._devices)))
        for depends in changeset.depends:
            if (depends.device, depends.number) not in self._seen:
                name = f"{changeset.number} of {changeset.device.hex()[:6]}"
                raise AssertionError(f"{name} is stamped before {depends.number} of {depends.device.hex()[:6]}, which it knew")
            known = [max(pair) for pair in zip(known, self._seen[depends.device, depends.number], strict=True)]
        known[self._devices.index(changeset.device)] = changeset.number
        return tuple(known)

    def _tell(self, changeset: Changeset, seen: Known) -> None:
        place = self._devices.index(changeset.device)
        for group in changeset.groups:
            for change in row_changes(group):
                told = Told(place, changeset.number, changeset.version, seen, change.op, change.values)
                self._told.setdefault((group.table, change.key), []).append(told)
