"""Settling: which rows of a table can be shown, after merging left them as it did.

One ``Settling`` is for one table, or for tables that refer to each other in a circle; what these refer to beyond themselves
has settled before. Rows in question are taken *in hand*, out of their tables. First those go that refer to nothing. Then
the others are put back one after another in the order of ``store.constraints``; one that is in the way of an earlier row is
taken in hand as well, and one that cannot be put back is set aside, with what follows for those that refer to it.

The rule is in ``docs/merging.md``. Rows that nobody took in hand are shown as they were, which is right as long as neither
their values, nor what they refer to, nor a row in their way changed: telling which those are is the caller's part.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from heapq import heappop, heappush

from localstore.changes import Key, Value
from localstore.store.capture import CapturedTable
from localstore.store.constraints import Broken, Constraints, Place, without_triggers
from localstore.store.engine import quote
from localstore.store.references import Outcome, Reference, outcome
from localstore.store.repaired import Records, Repaired, Row

__all__ = ["Left", "Settling"]

Left = dict[Reference, set[Key]]
"""What rows could be referred to by and may not be any more, by reference."""


class Settling:
    """One table, or several that refer to each other in a circle, within one transaction.

    Args:
        names: these tables.
        tables: all of the file.
        references: of each table, those from it and those to it.
        left: added to here, for what refers to these tables.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        names: Collection[str],
        tables: Mapping[str, CapturedTable],
        references: tuple[Mapping[str, list[Reference]], Mapping[str, list[Reference]]],
        records: Records,
        constraints: Constraints,
        left: Left,
    ) -> None:
        self._connection = connection
        self._names = names
        self._tables = tables
        self._records = records
        self._constraints = constraints
        self._left = left
        self._from, self._to = references
        self._inner = {r for name in names for r in self._from[name] if r.target in names}
        self._hand: dict[Row, dict[str, Value]] = {}  # with what merging gave them
        self._back: set[Row] = set()  # of these, those that may be shown as far as we know
        self._out: dict[Row, Broken] = {}  # and those that may not
        self._beaten: dict[Row, list[Row]] = {}  # these, by the row in their way
        self._were_hidden: dict[Row, Repaired] = {}
        self._queue: list[tuple[Place, Row]] = []
        self._waiting_for: dict[str, dict[Key, list[Key]]] = {}  # hidden rows not in hand, by the row in their way
        self._offered: dict[tuple[Reference, Key], set[Row]] = {}
        self._referring: dict[tuple[Reference, Key], set[Row]] = {}
        self._undisturbed = ExitStack()
        self._disturbed: set[str] = set()
        self.moved = False
        """Whether any row came or went."""

    def settle(
        self,
        taken: Mapping[Row, dict[str, Value]],
        changed: Mapping[str, Collection[Key]],
        touched: Mapping[str, Collection[Key]] | None,
    ) -> None:
        """Let tables show what they should.

        Args:
            taken: rows that were taken out of their tables already, with what merging gave them.
            changed: keys of other rows whose references may be to nothing.
            touched: keys of the rows that were written to; None to look at all rows that are not shown as merged.
        """
        with self._undisturbed:
            self._find_rows(taken, None if self._inner else touched)
            self._find_dangling(changed)
            self._refuse(list(self._back))
            while self._queue:
                place, row = heappop(self._queue)
                if row in self._back:
                    self._show_next(row, place)
        for row, merged in self._hand.items():
            self._hide(row, merged)

    # -- rows in question

    def _find_rows(self, taken: Mapping[Row, dict[str, Value]], touched: Mapping[str, Collection[Key]] | None) -> None:
        for row, values in taken.items():
            self._add(row, values)
        records = list(self._records.of(self._names) if touched is None else self._touched_records(touched))
        for row, record in records:
            if record.is_hidden:
                self._add_hidden(row, record)
        for row, record in records:
            if not record.is_hidden:
                self._take_if_otherwise(row)

    def _touched_records(self, touched: Mapping[str, Collection[Key]]) -> Iterator[tuple[Row, Repaired]]:
        """Rows that were written to, and those in whose way they are; nothing has changed for the others."""
        for name in self._names:
            table, keys = self._tables[name], set(touched.get(name, ()))
            self._waiting_for[name] = self._records.waiting(table)
            keys.update(other for key in list(keys) for other in self._waiting_for[name].pop(key, ()))
            for key, record in self._records.load(table, keys).items():
                yield (name, key), record

    def _add_hidden(self, row: Row, record: Repaired) -> None:
        if row not in self._hand:
            self._were_hidden[row] = record
            self._add(row, self._records.merged(self._tables[row[0]], row[1], record))

    def _find_dangling(self, changed: Mapping[str, Collection[Key]]) -> None:
        for reference in (r for name in self._names for r in self._from[name]):
            suspects = self._without_target(reference, changed.get(reference.table, ()), of_target=False)
            suspects += self._without_target(reference, self._left.get(reference, ()), of_target=True)
            for row in suspects:
                self._take_if_otherwise(row)

    def _add(self, row: Row, values: dict[str, Value]) -> None:
        table = self._tables[row[0]]
        self._hand[row] = values
        self._back.add(row)
        self._out.pop(row, None)
        heappush(self._queue, (self._constraints.place(table, row[1], is_altered=False), row))
        for reference in self._inner.intersection(self._from[table.name]):
            for key in reference.keys_in(values, self._from[table.name]):
                self._referring.setdefault((reference, key), set()).add(row)
        for reference in self._inner.intersection(self._to[table.name]):
            self._offered.setdefault((reference, _referred(reference, values)), set()).add(row)

    def _take(self, row: Row, merged: dict[str, Value]) -> None:
        """Take a row in hand that is shown."""
        table, key = self._tables[row[0]], row[1]
        self._disturb(table)
        shown = {**dict(zip(table.key, key, strict=True)), **self._records.shown(table, key)}
        for reference in self._to[table.name]:
            self._left.setdefault(reference, set()).add(_referred(reference, shown))
        same = " AND ".join(f"{quote(name)} = ?" for name in table.key)
        self._connection.execute(f"DELETE FROM {table.sql_name} WHERE {same}", key)
        self._add(row, merged)
        if not self._inner:
            self._wake(row)

    def _wake(self, row: Row) -> None:
        """Let rows try again that one was in the way of."""
        table = self._tables[row[0]]
        keys = self._waiting_for.get(table.name, {}).pop(row[1], ())
        for key, record in self._records.load(table, keys).items():
            self._add_hidden((table.name, key), record)
        for other in self._beaten.pop(row, ()):
            if other in self._out and self._out[other].by == row[1]:
                self._add(other, self._hand[other])

    def _take_if_otherwise(self, row: Row) -> bool:
        """Take a row in hand that is shown, but not as it should be."""
        if row in self._hand:
            return False
        table = self._tables[row[0]]
        record = self._records.load(table, [row[1]]).get(row[1])
        merged = self._records.merged(table, row[1], record)
        result = self._outcome(row, merged)
        altered = {name for name, value in result.instead.items() if not _same(value, merged[name])}
        if not result.is_hidden and altered == (record.merged.keys() if record else set()):
            return False
        self._take(row, merged)
        return True

    def _disturb(self, table: CapturedTable) -> None:
        self.moved = True
        if table.name not in self._disturbed:
            self._disturbed.add(table.name)
            self._undisturbed.enter_context(without_triggers(self._connection, table))

    # -- references

    def _refuse(self, rows: list[Row]) -> None:
        """Let those of the rows in hand go that refer to nothing, and those that refer to them, and so on."""
        while rows:
            row = rows.pop()
            if row in self._back:
                result = self._outcome(row, self._hand[row])
                if result.is_hidden:
                    rows += self._set_aside(row, Broken(str(result.because)))

    def _set_aside(self, row: Row, broken: Broken) -> list[Row]:
        """Let a row in hand go; returns those in hand that refer to it."""
        self._back.discard(row)
        self._out[row] = broken
        if broken.by is not None:
            self._beaten.setdefault((row[0], broken.by), []).append(row)
        found: list[Row] = []
        for reference in self._inner.intersection(self._to[row[0]]):
            key = _referred(reference, self._hand[row])
            found += self._referring.get((reference, key), ())
            shown = self._without_target(reference, [key], of_target=True)
            found += [other for other in shown if self._take_if_otherwise(other)]
        return found

    def _outcome(self, row: Row, merged: Mapping[str, Value]) -> Outcome:
        return outcome(merged, self._from[row[0]], self._is_there)

    def _is_there(self, reference: Reference, key: Key) -> bool:
        if not self._back.isdisjoint(self._offered.get((reference, key), ())):
            return True
        same = " AND ".join(f"{quote(name)} = ?" for name in reference.referred)
        target = self._tables[reference.target].sql_name
        return self._connection.execute(f"SELECT 1 FROM {target} WHERE {same}", key).fetchone() is not None

    def _without_target(self, reference: Reference, keys: Collection[Key], *, of_target: bool) -> list[Row]:
        """Rows shown with a reference to nothing, among those with these keys or among those that refer to them."""
        if not keys:
            return []
        table, target = self._tables[reference.table], self._tables[reference.target]
        names = reference.columns if of_target else table.key
        same = " AND ".join(f"t.{quote(name)} = k.k{n}" for n, name in enumerate(names))
        pairs = zip(reference.referred, reference.columns, strict=True)
        there = " AND ".join(f"p.{quote(referred)} = t.{quote(column)}" for referred, column in pairs)
        given = " AND ".join(f"t.{quote(name)} IS NOT NULL" for name in reference.columns)
        rows = self._connection.execute(
            f"SELECT {', '.join(f't.{quote(name)}' for name in table.key)}"
            f" FROM {self._list(keys)} AS k JOIN {table.sql_name} AS t ON {same}"
            f" WHERE {given} AND NOT EXISTS (SELECT 1 FROM {target.sql_name} AS p WHERE {there})"
        )
        return [(table.name, tuple(row)) for row in rows.fetchall()]

    def _list(self, keys: Collection[Key]) -> str:
        """A table of keys, to be joined with."""
        width = len(next(iter(keys)))
        name = f"temp.localstore_keys_{width}"
        columns = ", ".join(f"k{n}" for n in range(width))
        self._connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS localstore_keys_{width} ({columns})")
        self._connection.execute(f"DELETE FROM {name}")
        self._connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * width)})", keys)
        return name

    # -- constraints

    def _show_next(self, row: Row, place: Place) -> None:
        """Put a row back whose turn it is, or set it aside."""
        table, merged = self._tables[row[0]], self._hand[row]
        result = self._outcome(row, merged)
        if bool(result.instead) and not place[0]:  # only now it is known to come later
            heappush(self._queue, (self._constraints.place(table, row[1], is_altered=True), row))
            return
        self._disturb(table)
        shown = {name: result.instead.get(name, merged[name]) for name in table.columns if name in merged}
        while broken := self._constraints.insert(table, row[1], shown):
            if broken.by is None or not self._gives_way((table.name, broken.by), place):
                self._refuse(self._set_aside(row, broken))
                return
        del self._hand[row]
        self._back.discard(row)
        self._were_hidden.pop(row, None)  # should it go again
        kept = {name: merged[name] for name in shown if not _same(shown[name], merged[name])}
        self._records.save(table, row[1], Repaired(False, kept, str(result.because or "")))

    def _gives_way(self, row: Row, place: Place) -> bool:
        """Take a row in hand that is shown, when it comes after the one whose place this is."""
        table = self._tables[row[0]]
        record = self._records.load(table, [row[1]]).get(row[1])
        if self._constraints.place(table, row[1], is_altered=record is not None) < place:
            return False
        self._take(row, self._records.merged(table, row[1], record))
        return True

    def _hide(self, row: Row, merged: Mapping[str, Value]) -> None:
        """Keep a row that was set aside."""
        table, broken, before = self._tables[row[0]], self._out[row], self._were_hidden.get(row)
        if before is None or (before.why, before.by) != (broken.why, broken.by):
            kept = {name: merged[name] for name in table.columns if name in merged}
            self._records.save(table, row[1], Repaired(True, kept, broken.why, broken.by))
        if before is None:
            self._constraints.remember(table, row[1])


def _referred(reference: Reference, values: Mapping[str, Value]) -> Key:
    return tuple(values.get(name) for name in reference.referred)


def _same(one: Value, other: Value) -> bool:
    return one == other and type(one) is type(other)
