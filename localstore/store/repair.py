"""Repair: what tables show of the merged rows, so that every constraint holds.

Merging looks at rows one by one and may leave a row that refers to one which another device deleted, or two rows with a value
that only one can have. What tables show is ``repair(merged)``: a function of the merged rows alone, so all replicas show the
same, in whatever order changes came. What is merged and not shown is kept in ``localstore_repaired``, and comes back by
itself when its cause goes away.

Only rows that a change can affect are looked at: those that changed, those that refer to rows that came or went, those in
their way, and those of the same tables already repaired, which are few. ``store.settling`` has the rule; here is what it is
to look at. The caller has turned foreign keys and capture off.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping

from localstore.changes import Changeset, Key, Op, Value
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.constraints import Constraints
from localstore.store.engine import quote
from localstore.store.references import Reference, references, strata
from localstore.store.repaired import Records, Repaired, Row, has_repaired
from localstore.store.settling import Left, Settling

__all__ = ["CHECK_ALL", "Repairs", "look_again", "note_own"]

CHECK_ALL = 2
"""In ``localstore_state.unsettled``: another program may have left references to nothing."""


def note_own(connection: sqlite3.Connection, changeset: Changeset, *, by_others: bool) -> None:
    """What was written here is what is merged from now on. To be called in the transaction that seals it.

    Args:
        by_others: other programs wrote it, which may do so without foreign keys.
    """
    tables = captured_tables(connection)
    repairs = Repairs(connection, tables)
    if by_others and repairs.concerns(group.table for group in changeset.groups):
        connection.execute(f"UPDATE localstore_state SET unsettled = {CHECK_ALL}")
    if not repairs.records.has_any:
        return
    for group in changeset.groups:
        table = tables[group.table]
        keys = list(zip(*group.values[: len(table.key)], strict=True))
        for key, repaired in repairs.records.load(table, keys).items():
            left = {} if group.op is not Op.UPDATE else repaired.merged
            kept = {name: value for name, value in left.items() if name not in group.columns}
            repairs.records.save(table, key, Repaired(False, kept, repaired.why))
    if repairs.can_bring_back(group.table for group in changeset.groups):
        look_again(connection)


def look_again(connection: sqlite3.Connection) -> None:
    """Ask for another look at the rows that are not shown as merged, if there are any: their causes may be gone."""
    if has_repaired(connection):
        connection.execute("UPDATE localstore_state SET unsettled = max(unsettled, 1)")


class Repairs:
    """What tables show, within one transaction: tell what is about to change, then ``settle``."""

    def __init__(self, connection: sqlite3.Connection, tables: Mapping[str, CapturedTable]) -> None:
        self._connection = connection
        self._tables = tables
        self.records = Records(connection, tables)
        self.references = references(connection, tables)
        self._from: dict[str, list[Reference]] = {name: [] for name in tables}
        self._to: dict[str, list[Reference]] = {name: [] for name in tables}
        for reference in self.references:
            self._from[reference.table].append(reference)
            self._to[reference.target].append(reference)
        self._taken: dict[Row, dict[str, Value]] = {}
        self._changed: dict[str, set[Key]] = {}
        self._left: Left = {}
        self._touched: dict[str, set[Key]] = {}

    def all(self) -> Iterator[tuple[Row, Repaired, dict[str, Value]]]:
        """Every row that is not shown as merging left it, its record, and all values that merging gave it."""
        for row, record in self.records.of(self._tables):
            yield row, record, self.records.merged(self._tables[row[0]], row[1], record)

    def concerns(self, tables: Iterable[str]) -> bool:
        """Whether any of these tables refers to others or is referred to."""
        return any(self._from[name] or self._to[name] for name in tables)

    def can_bring_back(self, tables: Iterable[str]) -> bool:
        """Whether rows that are not shown as merged are in any of these tables, or refer to them."""
        near = set(tables)
        near |= {reference.table for name in near for reference in self._to[name]}
        return any(self.records.has(self._tables[name]) for name in near)

    def changed(self, table: CapturedTable, keys: Iterable[Key]) -> None:
        """Rows are about to come, or to have new values."""
        keys = self._touch(table, keys)
        if self._from[table.name]:
            self._changed.setdefault(table.name, set()).update(keys)
        for reference in self._to[table.name]:
            if not reference.is_by_key:
                self._left.setdefault(reference, set()).update(self._referred(reference, keys))

    def went(self, table: CapturedTable, keys: Iterable[Key]) -> None:
        """Rows are about to be deleted."""
        keys = self._touch(table, keys)
        for reference in self._to[table.name]:
            left = keys if reference.is_by_key else self._referred(reference, keys)
            self._left.setdefault(reference, set()).update(left)

    def wake(self, table: CapturedTable, key: Key) -> None:
        """A row that is not shown has new values."""
        self._touched.setdefault(table.name, set()).add(key)

    def take(self, table: CapturedTable, key: Key, merged: Mapping[str, Value]) -> None:
        """A row is not in its table, as not all rows can be; ``settle`` decides which are to be shown."""
        for reference in self._to[table.name]:
            if reference.is_by_key:
                self._left.setdefault(reference, set()).add(key)
        self._touched.setdefault(table.name, set())
        self._taken[table.name, key] = {**dict(zip(table.key, key, strict=True)), **merged}

    def settle(self) -> None:
        """Make tables show what they should."""
        (unsettled,) = self._connection.execute("SELECT unsettled FROM localstore_state").fetchone()
        if unsettled:
            self._connection.execute("UPDATE localstore_state SET unsettled = 0")
        if unsettled == CHECK_ALL:
            self._find_dangling()
        moved = set(self._tables) if unsettled else set(self._touched)
        constraints = Constraints(self._connection)
        for names in strata(self._tables, self.references):
            targets = {reference.target for name in names for reference in self._from[name]}
            if moved.isdisjoint(targets.union(names)):
                continue
            to_all = bool(unsettled or moved & targets)
            settling = Settling(
                self._connection, names, self._tables, (self._from, self._to), self.records, constraints, self._left
            )
            taken = {row: self._taken[row] for row in self._taken if row[0] in names}
            settling.settle(taken, self._changed, None if to_all else self._touched)
            if settling.moved:
                moved.update(names)
        self._taken, self._changed, self._left, self._touched = {}, {}, {}, {}

    def _touch(self, table: CapturedTable, keys: Iterable[Key]) -> Collection[Key]:
        """Note that rows change; returns their keys where anybody is to look at them."""
        touched = self._touched.setdefault(table.name, set())
        if not (self.records.has_any or self._from[table.name] or self._to[table.name]):
            return ()
        keys = list(keys)
        touched.update(keys)
        return keys

    def _find_dangling(self) -> None:
        """Let all rows be looked at that refer to nothing, whoever left them so."""
        for name in (name for name in self._tables if self._from[name]):
            table = self._tables[name]
            found = self._connection.execute(f"PRAGMA main.foreign_key_check({quote(name)})").fetchall()
            keys = ", ".join(map(quote, table.key))
            which = f"WHERE {table.rowid or quote(table.key[0])} = ?" if None not in {row[1] for row in found} else ""
            for rowid in {row[1] for row in found}:
                rows = self._connection.execute(f"SELECT {keys} FROM {table.sql_name} {which}", (rowid,) if which else ())
                self._changed.setdefault(name, set()).update(map(tuple, rows))

    def _referred(self, reference: Reference, keys: Iterable[Key]) -> list[Key]:
        """What rows can be referred to by now."""
        target = self._tables[reference.target]
        names = ", ".join(map(quote, reference.referred))
        same = " AND ".join(f"{quote(name)} = ?" for name in target.key)
        sql = f"SELECT {names} FROM {target.sql_name} WHERE {same}"
        return [tuple(row) for key in keys for row in self._connection.execute(sql, key)]
