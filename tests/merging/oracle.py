"""What all devices are to show in the end, read a second time from ``docs/merging.md`` and written as plainly as that allows.

It takes every change of every device, and what each writer had seen. It knows neither SQL nor bytes, and nothing of how the
store merges: what it has in common with it are the words for what happened to a row (``changes.Op``), and the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from localstore.changes import Key, Op, Value
from localstore.clock import Version
from tests.merging.schemas import Reference, Row, Table

__all__ = ["Entry", "Known", "Merged", "RowName", "Shown", "Told", "merged_rows", "shown", "values_that_lost"]

Known = tuple[int, ...]
"""How many changesets of each device somebody has: a changeset is applied only after all that its writer had seen."""
RowName = tuple[str, Key]


class Told(NamedTuple):
    """One change of one row, as its changeset tells everybody.

    Attributes:
        device: which device made it, as its place in ``Known``.
        number: which of that device's changesets it is in.
        version: stamp and identity of the device: the order of all changes.
        seen: what the writer had, its own earlier changesets among it.
        op: what happened to the row.
        values: the columns that it brings.
    """

    device: int
    number: int
    version: Version
    seen: Known
    op: Op
    values: Mapping[str, Value]

    def had_seen(self, other: Told) -> bool:
        return other.number <= self.seen[other.device]

    @property
    def begins_life(self) -> bool:
        return self.op in (Op.INSERT, Op.REPLACE)

    @property
    def ends_lives(self) -> bool:
        return self.op in (Op.DELETE, Op.REPLACE)


class Merged(NamedTuple):
    """A row that merging leaves.

    Attributes:
        values: of all columns, the key's too.
        versions: of the change that each value is from.
    """

    values: Row
    versions: dict[str, Version]


# -- "Columns", "Rows", "Every pair of changes"


def merged_rows(tables: Iterable[Table], told: Mapping[RowName, Sequence[Told]], known: Known) -> dict[RowName, Merged]:
    """The rows that are left of all changes that somebody has."""
    by_name = {table.name: table for table in tables}
    found = {}
    for (name, key), changes in told.items():
        row = merged_row(by_name[name], key, [change for change in changes if change.number <= known[change.device]])
        if row is not None:
            found[name, key] = row
    return found


def merged_row(table: Table, key: Key, changes: Sequence[Told]) -> Merged | None:
    """The last write wins, column by column, among inserts that no later delete has ended and the updates meant for these."""
    lives = [change for change in changes if change.begins_life and not _is_ended(change, changes)]
    if not lives:
        return None
    counting = lives + [change for change in changes if change.op is Op.UPDATE and _life_meant(change, changes) in lives]
    values, versions = dict(zip(table.key, key, strict=True)), {}
    for column in table.key:
        versions[column] = max(life.version for life in lives)
    for column in table.column_names:
        knowing = [change for change in counting if column in change.values]  # writers may be older than the column
        winner = max(knowing or lives, key=lambda change: change.version)
        values[column], versions[column] = winner.values.get(column, table.default(column)), winner.version
    return Merged(values, versions)


def _is_ended(life: Told, changes: Iterable[Told]) -> bool:
    return any(change.ends_lives and change.version > life.version for change in changes)


def _life_meant(update: Told, changes: Iterable[Told]) -> Told | None:
    """The row that the writer of an update had before its eyes: the latest insert that it had seen."""
    seen = [change for change in changes if change.begins_life and update.had_seen(change)]
    return max(seen, key=lambda change: change.version, default=None)


# -- "Foreign keys", "Unique values", "Checks", "In which order"


class Entry(NamedTuple):
    """A value that merging left and the table does not show: what ``realm.conflicts()`` has of what is set aside."""

    table: str
    key: Key
    column: str
    merged: Value
    shown: Value


@dataclass
class Shown:
    """What tables show of the merged rows.

    Attributes:
        rows: all columns of the rows that are shown.
        unfit: rows that are set aside as they break a check or have a value of a row that is shown.
        lost: rows that are set aside because of what they refer to.
    """

    rows: dict[RowName, Row] = field(default_factory=dict)
    unfit: set[RowName] = field(default_factory=set)
    lost: set[RowName] = field(default_factory=set)

    def tables(self, tables: Iterable[Table]) -> dict[str, dict[Key, Row]]:
        found: dict[str, dict[Key, Row]] = {table.name: {} for table in tables}
        for (name, key), row in self.rows.items():
            found[name][key] = row
        return found

    def entries(self, tables: Iterable[Table], merged: Mapping[RowName, Merged]) -> set[Entry]:
        by_name, found = {table.name: table for table in tables}, set()
        for row, (values, _) in merged.items():
            shown = self.rows.get(row)
            table = by_name[row[0]]
            for column in table.column_names if shown or table.column_names else table.key:
                if shown is None or shown[column] != values[column]:
                    found.add(Entry(*row, column, values[column], shown[column] if shown else None))
        return found


def shown(tables: Sequence[Table], merged: Mapping[RowName, Merged]) -> Shown:
    """A table is looked at when those that it refers to are done, those in a circle together."""
    found = Shown()
    for circle in circles(tables):
        names = {table.name for table in circle}
        _look_at(circle, {row: values for row, values in merged.items() if row[0] in names}, found)
    return found


def _look_at(circle: Sequence[Table], merged: Mapping[RowName, Merged], found: Shown) -> None:
    """The first row that cannot be shown is set aside, then references are looked at again, until all that is left can be."""
    left = dict(merged)
    while True:
        rows = _with_references_mended(circle, left, found.rows)
        unfit = _first_unfit(circle, rows, merged)
        if unfit is None:
            break
        del left[unfit]
        found.unfit.add(unfit)
    found.lost |= left.keys() - rows.keys()
    found.rows.update(rows)


def _with_references_mended(
    circle: Sequence[Table], merged: Mapping[RowName, Merged], done: Mapping[RowName, Row]
) -> dict[RowName, Row]:
    """The rows that can be shown as far as their references go, with other values in place of lost references."""
    by_name = {table.name: table for table in circle}
    staying = {row: values for row, (values, _) in merged.items()}
    while True:
        there = _Targets({**done, **staying})
        mended = {row: _mended(by_name[row[0]], values, there) for row, values in staying.items()}
        leaving = [row for row, values in mended.items() if values is None]
        if not leaving:
            return {row: values for row, values in mended.items() if values is not None}
        for row in leaving:
            del staying[row]


def _mended(table: Table, values: Row, there: _Targets) -> Row | None:
    """Each reference is looked at by itself, in the values that merging gave."""
    result = dict(values)
    for reference in table.references:
        if there.has(reference, values):
            continue
        instead = instead_of(table, reference)
        if instead is None:
            return None
        sharing = [other for other in table.references if instead.keys() & set(other.columns)]
        if not all(there.has(other, {**values, **instead}) for other in sharing):
            return None
        result.update(instead)
    return result


def instead_of(table: Table, reference: Reference) -> Row | None:
    """What the columns hold when what they refer to is gone; None when the row is set aside. By the table of ``ON DELETE``."""
    columns = [column for column in table.columns if column.name in reference.columns]
    if reference.on_delete == "CASCADE":
        return None
    if reference.on_delete == "SET DEFAULT":
        if len(columns) < len(reference.columns) or any(c.default is None and not c.nullable for c in columns):
            return None
        return {column.name: column.default for column in columns}
    return {column.name: None for column in columns if column.nullable} or None


class _Targets:
    """Which rows there are to refer to."""

    def __init__(self, rows: Mapping[RowName, Row]) -> None:
        self._rows = rows
        self._by_columns: dict[tuple[str, tuple[str, ...]], set[tuple[Value, ...]]] = {}

    def has(self, reference: Reference, values: Row) -> bool:
        """Whether what a row refers to is there, or it refers to nothing."""
        wanted = tuple(values[column] for column in reference.columns)
        if None in wanted:
            return True
        place = (reference.target, reference.referred)
        if place not in self._by_columns:
            rows = (row for (name, _), row in self._rows.items() if name == reference.target)
            self._by_columns[place] = {tuple(row[column] for column in reference.referred) for row in rows}
        return wanted in self._by_columns[place]


def _first_unfit(circle: Sequence[Table], rows: Mapping[RowName, Row], merged: Mapping[RowName, Merged]) -> RowName | None:
    by_name = {table.name: table for table in circle}
    taken: set[tuple[str, int, tuple[Value, ...]]] = set()
    for row in sorted(rows, key=lambda row: _place(by_name[row[0]], row, rows[row], merged[row])):
        table, values = by_name[row[0]], rows[row]
        wanted = {(table.name, n, value) for n, unique in enumerate(table.uniques) if (value := unique.value(values))}
        if not all(check.holds(values) for check in table.checks) or wanted & taken:
            return row
        taken |= wanted
    return None


def _place(table: Table, row: RowName, values: Row, merged: Merged) -> tuple[bool, Version, RowName]:
    """By the latest change of any column that a unique constraint looks at, then by table and key; those with another value in
    place of a lost reference after all others and by table and key alone."""
    if values != merged.values:
        return (True, (0, b""), row)
    looked_at = [merged.versions[column] for unique in table.uniques for column in unique.looked_at]
    return (False, max(looked_at, default=(0, b"")), row)


def circles(tables: Sequence[Table]) -> Iterator[list[Table]]:
    """Tables that refer to each other in a circle, or a single one, each after all that it refers to."""
    reach = {table.name: {reference.target for reference in table.references} for table in tables}
    for _ in tables:
        reach = {name: targets.union(*(reach[target] for target in targets)) for name, targets in reach.items()}
    left = list(tables)
    while left:
        for table in left:
            circle = [other for other in left if other is table or _is_circle(reach, other.name, table.name)]
            names = {other.name for other in left} - {other.name for other in circle}
            if not reach[table.name] & names:
                break
        yield circle
        left = [table for table in left if table not in circle]


def _is_circle(reach: Mapping[str, set[str]], one: str, other: str) -> bool:
    return other in reach[one] and one in reach[other]


# -- "Values that lost"


class Lost(NamedTuple):
    """A value written by a device."""

    table: str
    key: Key
    column: str
    value: Value
    stamp: int


def values_that_lost(
    tables: Iterable[Table], told: Mapping[RowName, Sequence[Told]], known: Known, device: int
) -> tuple[set[Lost], set[Lost]]:
    """What a device's list of conflicts must hold, and what it may hold: which of several changes came first there, decides
    whether a value lost against one whose writer had seen it, or against another."""
    by_name = {table.name: table for table in tables}
    must, may = set(), set()
    for (name, key), changes in told.items():
        table = by_name[name]
        for own in changes:
            if own.device != device or not own.values:
                continue
            for column in own.values:
                lost = Lost(name, key, column, own.values[column], own.version[0])
                rivals, winner = _fate(table, key, own, column, changes, known)
                unseen = [rival for rival in rivals if not rival.had_seen(own)]
                if unseen:
                    may.add(lost)
                won = winner is None or (winner[0] != own.version and winner[1] != own.values[column])
                alike = [rival for rival in rivals if rival.values.get(column) == own.values[column]]
                if won and unseen == rivals and rivals and not alike:
                    must.add(lost)
    return must, may


def _fate(
    table: Table, key: Key, own: Told, column: str, changes: Sequence[Told], known: Known
) -> tuple[list[Told], tuple[Version, Value] | None]:
    """The changes that a value may have lost against before its device wrote there again, and what stood there then."""
    again = [
        change for change in changes if change.device == own.device and change.number > own.number and _touches(change, column)
    ]
    following = min(again, key=lambda change: change.number, default=None)
    until = following.seen if following else known
    had = [change for change in changes if change is not following and change.number <= until[change.device]]
    rivals = [
        change
        for change in had
        if change.device != own.device
        and not own.had_seen(change)
        and (change.ends_lives or (column in change.values and change.version > own.version))
    ]
    row = merged_row(table, key, had)
    return rivals, None if row is None else (row.versions[column], row.values[column])


def _touches(change: Told, column: str) -> bool:
    return change.ends_lives or column in change.values
