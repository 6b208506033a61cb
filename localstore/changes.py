"""Changesets: what one write transaction did to rows, as values.

Row changes are kept in groups (one table, one kind of change, one set of columns) and inside a group column by column,
which compresses best and is quickest to check. Values are as SQLite stores them. This module knows neither SQL nor bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Annotated, Any, NamedTuple

import msgspec

from localstore.clock import MAX_STAMP, Version
from localstore.environment import DEVICE_BYTES

__all__ = [
    "Change",
    "Changeset",
    "Dependency",
    "Device",
    "Key",
    "Number",
    "Op",
    "RowGroup",
    "Stamp",
    "Touch",
    "Value",
    "coalesce",
    "is_same",
    "row_changes",
]

Value = None | int | float | str | bytes
"""One value as SQLite stores it: null, integer, real, text or blob."""
Key = tuple[Value, ...]
"""A row's primary key, in the key columns' declared order."""
Device = Annotated[bytes, msgspec.Meta(min_length=DEVICE_BYTES, max_length=DEVICE_BYTES)]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Stamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_STAMP)]


class Op(enum.IntEnum):
    """What happened to a row, seen over its whole transaction."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3
    REPLACE = 4
    """Deleted and inserted again under the same key: nothing of the old row survives."""
    SEED = 5
    """Was there before its table was synced: an insert that is older than every change."""


class Dependency(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The latest changeset of another device that the writer had applied.

    A changeset names only what is new since its writer's last one, which it depends on anyway.
    """

    device: Device
    number: Number
    stamp: Stamp


class RowGroup(msgspec.Struct, frozen=True, array_like=True):
    """Changes of one kind to rows of one table.

    Attributes:
        table: the table's name.
        op: what happened to each of the rows.
        key: names of the key columns.
        columns: names of the columns that the rows carry; empty for deletes.
        values: for each name in ``key`` and then in ``columns``, the values of all rows.
    """

    table: str
    op: Op
    key: tuple[str, ...]
    columns: tuple[str, ...]
    values: list[list[Any]]  # of Value; ``wire`` checks it, as msgspec cannot tell str from bytes in a union

    @property
    def row_count(self) -> int:
        return len(self.values[0])

    @property
    def rows(self) -> Iterator[tuple[Value, ...]]:
        """Row by row: the key values followed by the column values."""
        return zip(*self.values, strict=True)

    def part(self, op: Op, columns: Sequence[str]) -> RowGroup:
        """The same rows with some of their columns."""
        width = len(self.key)
        values = [self.values[width + self.columns.index(name)] for name in columns]
        return RowGroup(self.table, op, self.key, tuple(columns), self.values[:width] + values)

    def only(self, kept: Sequence[bool]) -> RowGroup | None:
        """Some of the rows; None for none of them."""
        if not any(kept):
            return None
        values = [list(compress(column, kept)) for column in self.values]
        return RowGroup(self.table, self.op, self.key, self.columns, values)


class Changeset(msgspec.Struct, frozen=True):
    """The row changes of one write transaction; immutable once committed."""

    device: bytes
    number: int
    stamp: int
    depends: tuple[Dependency, ...]
    groups: tuple[RowGroup, ...]

    @property
    def version(self) -> Version:
        """Where the changeset stands in the total order."""
        return (self.stamp, self.device)

    @property
    def row_count(self) -> int:
        return sum(group.row_count for group in self.groups)


@dataclass(frozen=True, slots=True)
class Change:
    """One row's change, taken out of its group."""

    op: Op
    key: Key
    values: dict[str, Value]


def is_same(one: Value, other: Value) -> bool:
    """Whether two values are one to SQLite, which tells 1 from 1.0."""
    return one == other and type(one) is type(other)


def row_changes(group: RowGroup) -> Iterator[Change]:
    """The group's rows one by one."""
    width = len(group.key)
    for row in group.rows:
        yield Change(group.op, row[:width], dict(zip(group.columns, row[width:], strict=True)))


class Touch(NamedTuple):
    """One entry of the capture log: a row was inserted, updated or deleted; ``mask`` has a bit a changed column."""

    op: Op
    key: Key
    mask: int = 0


def coalesce(
    touches: Iterable[Touch], exists: Container[Key], *, delete_if_in_doubt: bool = False
) -> dict[Key, tuple[Op, int]]:
    """What a series of touches amounts to, row by row.

    Their order does not count, as triggers may run before that of the statement that fired them. What was before follows from
    what is now: a row is there once more with every insert, and once less with every delete.

    ===================  =====================  ======================
    row before           row after              result
    ===================  =====================  ======================
    absent               absent                 nothing
    absent               present                insert
    present              absent                 delete
    present              present, deleted once  replace
    present              present                update of all columns touched
    ===================  =====================  ======================

    Args:
        touches: inserts, updates and deletes.
        exists: the keys of the rows that are there now.
        delete_if_in_doubt: deletes may be missing, as a program without recursive triggers replaces rows unseen. A row that
            was inserted or updated and is not there then counts as deleted.
    """
    masks: dict[Key, int] = {}
    inserts: dict[Key, int] = {}
    deletes: dict[Key, int] = {}
    for op, key, mask in touches:
        masks[key] = masks.get(key, 0) | mask
        if op is Op.INSERT:
            inserts[key] = inserts.get(key, 0) + 1
        elif op is Op.DELETE:
            deletes[key] = deletes.get(key, 0) + 1
    result: dict[Key, tuple[Op, int]] = {}
    for key, mask in masks.items():
        deleted, inserted, there = deletes.get(key, 0), inserts.get(key, 0), key in exists
        existed = there + deleted - inserted > 0
        if there and existed and not deleted:
            result[key] = (Op.UPDATE, mask)
        elif there and existed:  # not inserted: that one was set aside, as no changeset can hold it
            result[key] = (Op.REPLACE if inserted else Op.DELETE, 0)
        elif there:
            result[key] = (Op.INSERT, 0)
        elif existed or (delete_if_in_doubt and (inserted or mask)):
            result[key] = (Op.DELETE, 0)
    return result
