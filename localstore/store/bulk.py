"""Many like changes at once: all their clocks are looked up together, and each clock that there is gets one decision.

What a change does to a row depends on the row's clock and not on its values, unless something is lost that has to be kept.
So rows are sorted by clock, ``merge`` is asked once for each of these, with places in the group instead of values, and what
it says is carried out for all rows that have this clock. Rows whose values do count are left to be merged one by one: those
with several lives, and those with a loss that is to be noted. Nor is this for columns with a rule of their own.

Nothing here knows how a row is merged, in which order changesets may come, or what tables may show.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, cast

from localstore.changes import Change, Key, Op, RowGroup, Value
from localstore.clock import Version
from localstore.store.capture import CapturedTable, held
from localstore.store.clocks import ClockTable, Record, key_value
from localstore.store.engine import quote
from localstore.store.given import GIVEN, execute_given
from localstore.store.merge import PURGED, Lost, Merged, RowState, Saw, merge

__all__ = ["INSERTS", "MANY", "Circumstances", "Plan", "Write", "carry_out"]

INSERTS = (Op.INSERT, Op.SEED)
MANY = 10  # changes in one group from which it pays to look at all of them at once


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a group's changes are merged by.

    Attributes:
        version: of the changes.
        saw: what their writer knew.
        is_noted: whether a value that gives way has to be kept.
        defaults: all columns of the table but the key, each with what it holds when an insert does not bring it.
        is_there: whether rows without a clock are there; None when the table has to be asked.
    """

    version: Version
    saw: Saw
    is_noted: Callable[[Lost], bool]
    defaults: Mapping[str, Value]
    is_there: bool | None


@dataclass(frozen=True, slots=True)
class Write:
    """One and the same thing that is done to many rows of a table.

    Attributes:
        deletes: the rows are deleted.
        makes: rows that may not be there are made.
        columns: names of the columns that get values.
        values: for each column of the key and then each of ``columns``, the values of all rows.
    """

    deletes: bool
    makes: bool
    columns: tuple[str, ...]
    values: list[list[Value]]

    def keys(self, table: CapturedTable) -> Iterator[Key]:
        """The rows' keys."""
        return zip(*self.values[: len(table.key)], strict=True)


@dataclass(frozen=True, slots=True)
class _Place:
    """Stands for a group's values of one column."""

    number: int


_What = tuple[bool, bool, tuple[tuple[str, _Place | Value], ...]]
"""A ``Write`` to be: deletes, makes, and each column with where its values are, or with the one for all."""


class Plan:
    """What becomes of a group's changes. Nothing is written until that is asked for."""

    def __init__(
        self, connection: sqlite3.Connection, clocks: ClockTable, table: CapturedTable, group: RowGroup, by: Circumstances
    ) -> None:
        self._connection = connection
        self._clocks = clocks
        self._table = table
        self._group = group
        self._by = by
        key = group.values[: len(group.key)]
        self._keys: list[Value] = key[0] if len(key) == 1 else list(map(key_value, zip(*key, strict=True)))
        self._left: list[int] = []
        self._writes: dict[_What, list[int]] = {}
        self._new: dict[Record, list[int]] = {}
        self._replaced: dict[tuple[Record, bool], list[int]] = {}

    def decide(self, apart: Sequence[Set[Value]]) -> RowGroup | None:
        """Decide on as many changes as possible.

        Args:
            apart: keys of rows that have to be merged one by one.

        Returns:
            The changes that are left, None when there are none.
        """
        different = set(self._keys)
        if len(different) < len(self._keys):
            return self._group
        excepted = set[Value]().union(*(keys & different for keys in apart))
        for clock, numbers in self._by_clock():
            if excepted:
                self._left += [number for number in numbers if self._keys[number] in excepted]
                numbers = [number for number in numbers if self._keys[number] not in excepted]
            if numbers:
                self._decide(clock, numbers)
        if not self._left:
            return None
        values = [self._pick(column, sorted(self._left)) for column in self._group.values]
        return RowGroup(self._group.table, self._group.op, self._group.key, self._group.columns, values)

    def writes(self) -> Iterator[Write]:
        """What is to be written to the table."""
        for (deletes, makes, columns), numbers in self._writes.items():
            values = [self._pick(column, numbers) for column in self._group.values[: len(self._group.key)]]
            for _, value in columns:
                brought = self._group.values[value.number] if isinstance(value, _Place) else None
                values.append([cast("Value", value)] * len(numbers) if brought is None else self._pick(brought, numbers))
            yield Write(deletes, makes, tuple(name for name, _ in columns), values)

    def save_clocks(self) -> None:
        """Write the clocks."""
        for record, numbers in self._new.items():
            self._clocks.add(self._table.id, self._pick(self._keys, numbers), record)
        for (record, born), numbers in self._replaced.items():
            self._clocks.replace(self._table.id, self._pick(self._keys, numbers), record, born=born)

    def _by_clock(self) -> Iterator[tuple[Record | bool, list[int]]]:
        """The rows' numbers, by clock; where there is none, by whether the row is there."""
        clocks = self._clocks.sort(self._table.id, self._keys)
        yield from clocks.items()
        without: Sequence[int] = range(len(self._keys))
        if clocks:
            without = sorted(set(without).difference(*clocks.values()))
        if self._by.is_there is not None:
            there = without if self._by.is_there else []
        else:
            columns = [self._pick(column, without) for column in self._group.values[: len(self._group.key)]]
            there = [without[position] for position in held(self._connection, self._table, columns)]
        yield True, list(there)
        yield False, list(without) if not there else sorted(set(without).difference(there))

    def _decide(self, clock: Record | bool, numbers: list[int]) -> None:
        if isinstance(clock, bool):
            state = RowState(lives=(PURGED,) if clock else ())
        else:
            state = self._clocks.read(self._table.id, clock)
        existed = bool(state.lives)
        merged = self._merged(state)
        if merged is None:
            self._left += numbers
            return
        if state.says_something:
            record = self._clocks.record(self._table.id, state)
            if isinstance(clock, bool):
                self._new.setdefault(record, []).extend(numbers)
            else:
                born = record[:2] != clock[:2]
                self._replaced.setdefault((record if born else (None, 0, *record[2:]), born), []).extend(numbers)
        what = self._what(state, merged, existed=existed)
        if what:
            self._writes.setdefault(what, []).extend(numbers)

    def _merged(self, state: RowState) -> Merged | None:
        """What ``merge`` says, None when it depends on the row's values or is to be told of."""
        if len(state.lives) > 1:
            return None
        places: dict[str, Any] = {name: _Place(number) for number, name in enumerate(self._group.columns, len(self._group.key))}
        change = Change(self._group.op, (), places)
        merged = merge(state, change, self._by.version, self._by.saw, lambda _: None, self._by.defaults)
        if len(state.lives) > 1 or state.runners_up or any(map(self._by.is_noted, merged.lost)):
            return None
        return merged

    def _what(self, state: RowState, merged: Merged, *, existed: bool) -> _What | None:
        """What has to be done to the table, None when nothing."""
        if not state.lives:
            return (True, False, ()) if existed else None
        columns = tuple(merged.writes.items())
        makes = not existed or len(columns) == len(self._table.columns)
        return (False, makes, columns) if makes or columns else None

    def _pick(self, column: list[Value], numbers: Sequence[int]) -> list[Value]:
        return column if len(numbers) == len(column) else [column[number] for number in numbers]


def carry_out(connection: sqlite3.Connection, table: CapturedTable, write: Write) -> None:
    """Write to a table."""
    given = [f"g.c{number}" for number in range(len(write.values))]
    width = len(table.key)
    key, columns = list(map(quote, table.key)), list(map(quote, write.columns))
    if write.deletes:
        sql = f"DELETE FROM {table.sql_name} WHERE ({', '.join(key)}) IN (SELECT * FROM {GIVEN})"
    elif write.makes:
        assignments = ", ".join(f"{column} = excluded.{column}" for column in columns)
        action = f"DO UPDATE SET {assignments}" if columns else "DO NOTHING"
        names = ", ".join(key + columns)
        sql = f"INSERT INTO {table.sql_name} ({names}) SELECT * FROM {GIVEN} WHERE 1 ON CONFLICT ({', '.join(key)}) {action}"
    else:
        assignments = ", ".join(f"{column} = {value}" for column, value in zip(columns, given[width:], strict=True))
        same = " AND ".join(f"t.{name} = {value}" for name, value in zip(key, given, strict=False))
        sql = f"UPDATE {table.sql_name} AS t SET {assignments} FROM {GIVEN} AS g WHERE {same}"
    execute_given(connection, sql, write.values)
