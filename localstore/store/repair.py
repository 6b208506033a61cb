"""Repair: what tables show of the merged rows, so that no reference points at nothing.

Merging looks at rows one by one and may leave a row that refers to one which another device deleted. What tables show is
``repair(merged)``: the largest set of merged rows in which every reference has its target, once those that cannot be shown
are set aside and the others have lost the reference (``store.references`` has the rule). It is a function of the merged rows
alone, so all replicas show the same, in whatever order changes came. What is merged and not shown is kept in
``localstore_repaired``, and comes back by itself when its cause goes away.

Only rows that a change can affect are looked at: those that changed, those that refer to rows that came or went, and those
already repaired, which are few. The caller has turned foreign keys and capture off.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from localstore.changes import Changeset, Key, Op, Value
from localstore.schema import MAX_KEY_COLUMNS
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.clocks import key_value
from localstore.store.engine import quote
from localstore.store.references import Outcome, Reference, outcome, references

__all__ = ["CHECK_ALL", "Repaired", "Repairs", "SetAside", "has_repaired", "note_own", "rename_columns"]

CHECK_ALL = 2
"""In ``localstore_state.unsettled``: another program may have left references to nothing."""
_Row = tuple[str, Key]
_decode = msgspec.msgpack.decode
_encode = msgspec.msgpack.encode


@dataclass(slots=True)
class Repaired:
    """A row that is not shown as merging left it.

    Attributes:
        is_hidden: it is not in its table at all.
        merged: the values of the columns that are not in the table; of a hidden row, of all but the key.
        why: the reference because of which it is so.
    """

    is_hidden: bool
    merged: dict[str, Value]
    why: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row that is no longer in its table: table, key, and the reference because of which."""

    table: str
    key: Key
    why: str


@dataclass(slots=True)
class _Moves:
    """Keys by table: rows that changed or came, and rows that went."""

    changed: dict[str, set[Key]] = field(default_factory=dict)
    went: dict[str, set[Key]] = field(default_factory=dict)


def has_repaired(connection: sqlite3.Connection) -> bool:
    """Whether any row is not shown as merging left it."""
    return connection.execute("SELECT 1 FROM localstore_repaired LIMIT 1").fetchone() is not None


def note_own(connection: sqlite3.Connection, changeset: Changeset, *, by_others: bool) -> None:
    """What was written here is what is merged from now on. To be called in the transaction that seals it.

    Args:
        by_others: other programs wrote it, which may do so without foreign keys.
    """
    tables = captured_tables(connection)
    repairs = Repairs(connection, tables)
    if by_others and repairs.concerns(group.table for group in changeset.groups):
        connection.execute(f"UPDATE localstore_state SET unsettled = {CHECK_ALL}")
    if not has_repaired(connection):
        return
    for group in changeset.groups:
        table = tables[group.table]
        keys = list(zip(*group.values[: len(table.key)], strict=True))
        for key, repaired in repairs.load(table, keys).items():
            left = {} if group.op is not Op.UPDATE else repaired.merged
            repairs.save(table, key, Repaired(False, {k: v for k, v in left.items() if k not in group.columns}, repaired.why))
    connection.execute("UPDATE localstore_state SET unsettled = max(unsettled, 1)")


def rename_columns(connection: sqlite3.Connection, table: CapturedTable, names: Mapping[str, str]) -> None:
    """Let all records of a table name its columns anew; what ``names`` does not mention is forgotten."""
    rows = connection.execute("SELECT key, merged FROM localstore_repaired WHERE tbl = ?", (table.id,)).fetchall()
    for key, data in rows:
        merged = {names[name]: value for name, value in _decode(data).items() if name in names}
        connection.execute(
            "UPDATE localstore_repaired SET merged = ? WHERE tbl = ? AND key = ?", (_encode(merged), table.id, key)
        )


class Repairs:
    """The repaired rows of a file, within one transaction: note what changes, then ``settle``."""

    def __init__(self, connection: sqlite3.Connection, tables: Mapping[str, CapturedTable]) -> None:
        self._connection = connection
        self._tables = tables
        self._has_any = has_repaired(connection)
        self.references = references(connection, tables)
        self._referring = {reference.table for reference in self.references}
        self._targets = {reference.target for reference in self.references}
        self._moves = _Moves()

    def all(self) -> Iterator[tuple[_Row, Repaired, dict[str, Value]]]:
        """Every row that is not shown as merging left it, its record, and all values that merging gave it."""
        for row, record in self._records():
            yield row, record, self._values(row, record)

    def shown(self, table: CapturedTable, key: Key) -> dict[str, Value]:
        """What the table shows of a row, nothing when it is not there."""
        return self._read(table, key)

    def concerns(self, tables: Iterable[str]) -> bool:
        """Whether any of these tables refers to others or is referred to."""
        return not (self._referring | self._targets).isdisjoint(tables)

    def load(self, table: CapturedTable, keys: Iterable[Key]) -> dict[Key, Repaired]:
        """Those of the rows that are not shown as merging left them."""
        if not self._has_any:
            return {}
        found = {}
        for key in keys:
            row = self._connection.execute(
                "SELECT hidden, merged, why FROM localstore_repaired WHERE tbl = ? AND key = ?", (table.id, key_value(key))
            ).fetchone()
            if row:
                found[key] = Repaired(bool(row[0]), _decode(row[1]), row[2])
        return found

    def save(self, table: CapturedTable, key: Key, repaired: Repaired) -> None:
        """Write the record of a row; none is needed for one that is as merged."""
        if repaired.is_hidden or repaired.merged:
            self._has_any = True
            self._connection.execute(
                "INSERT OR REPLACE INTO localstore_repaired VALUES (?, ?, ?, ?, ?)",
                (table.id, key_value(key), repaired.is_hidden, _encode(repaired.merged), repaired.why),
            )
        else:
            self._connection.execute("DELETE FROM localstore_repaired WHERE tbl = ? AND key = ?", (table.id, key_value(key)))

    def changed(self, table: str, keys: Iterable[Key]) -> None:
        """Rows that are new or have new values."""
        if table in self._referring:
            self._moves.changed.setdefault(table, set()).update(keys)

    def went(self, table: str, keys: Iterable[Key]) -> None:
        """Rows that were deleted."""
        if table in self._targets:
            self._moves.went.setdefault(table, set()).update(keys)

    def settle(self) -> list[SetAside]:
        """Make tables show what they should; returns rows that were shown, or came just now, and are not to be."""
        moves, self._moves = self._moves, _Moves()
        if self._connection.execute("SELECT unsettled FROM localstore_state").fetchone()[0] == CHECK_ALL:
            self._find_dangling(moves)
        self._connection.execute("UPDATE localstore_state SET unsettled = 0 WHERE unsettled")
        aside: list[SetAside] = []
        if self._has_any:
            moves.went = _union(moves.went, self._judge_again(aside, may_return=True))
        while moves.changed or moves.went:
            outcomes = self._dangling(moves)
            moves = _Moves(went=self._carry_out(outcomes, aside))
            if moves.went and self._has_any:
                moves.went = _union(moves.went, self._judge_again(aside, may_return=False))
        return aside

    def _find_dangling(self, moves: _Moves) -> None:
        """Let all rows be looked at that refer to nothing, whoever left them so."""
        for name in self._referring:
            table = self._tables[name]
            found = self._connection.execute(f"PRAGMA main.foreign_key_check({quote(name)})").fetchall()
            keys = ", ".join(map(quote, table.key))
            which = f"WHERE {table.rowid or quote(table.key[0])} = ?" if None not in {row[1] for row in found} else ""
            for rowid in {row[1] for row in found}:
                rows = self._connection.execute(f"SELECT {keys} FROM {table.sql_name} {which}", (rowid,) if which else ())
                moves.changed.setdefault(name, set()).update(map(tuple, rows))

    # -- rows that have a record

    def _judge_again(self, aside: list[SetAside], *, may_return: bool) -> dict[str, set[Key]]:
        """Look again at all repaired rows, in the values that merging gave them; returns those that went."""
        records = dict(self._records())
        hidden = {row for row, record in records.items() if record.is_hidden}
        returning = set(hidden) if may_return else set[_Row]()
        values = {row: self._values(row, record) for row, record in records.items() if row in returning or row not in hidden}
        results: dict[_Row, Outcome] = {}
        while True:
            for row, merged in values.items():
                if row in returning or row not in hidden:
                    results[row] = self._outcome(row, merged, returning)
            refused = {row for row in returning if results[row].is_hidden}
            if not refused:
                break
            returning -= refused
        went: dict[str, set[Key]] = {}
        for row, result in results.items():
            if row in hidden and row not in returning:
                continue
            if row in returning or not self._is_shown(records[row], values[row], result):
                self._show(row, values[row], result, is_new=row in returning)
            if result.is_hidden:
                went.setdefault(row[0], set()).add(row[1])
                aside.append(SetAside(*row, str(result.because)))
        return went

    def _records(self) -> Iterator[tuple[_Row, Repaired]]:
        tables = {table.id: table for table in self._tables.values()}
        rows = self._connection.execute("SELECT tbl, key, hidden, merged, why FROM localstore_repaired").fetchall()
        for tbl, key, hidden, merged, why in rows:
            table = tables.get(tbl)
            if table is not None:
                row = (table.name, (key,) if len(table.key) == 1 else tuple(_decode(key)))
                yield row, Repaired(bool(hidden), _decode(merged), why)

    def _values(self, row: _Row, record: Repaired) -> dict[str, Value]:
        """All that merging gave to a row."""
        table = self._tables[row[0]]
        shown = {} if record.is_hidden else self._read(table, row[1])
        return {**dict(zip(table.key, row[1], strict=True)), **shown, **record.merged}

    # -- rows that have none

    def _dangling(self, moves: _Moves) -> dict[_Row, Outcome]:
        """What becomes of rows shown as merged that changed, or referred to rows that went."""
        suspects: dict[_Row, None] = {}
        for reference in self.references:
            for row in self._without_target(reference, moves.changed.get(reference.table), of_target=False):
                suspects[row] = None
            for row in self._without_target(reference, moves.went.get(reference.target), of_target=True):
                suspects[row] = None
        results = {}
        for row in suspects:
            table = self._tables[row[0]]
            record = self.load(table, [row[1]]).get(row[1]) or Repaired(False, {}, "")
            merged = self._values(row, record)
            results[row] = self._outcome(row, merged)
        return results

    def _without_target(self, reference: Reference, keys: Collection[Key] | None, *, of_target: bool) -> list[_Row]:
        """Rows with a reference to nothing, among those with these keys or among those that refer to them."""
        if not keys:
            return []
        table, target = self._tables[reference.table], self._tables[reference.target]
        self._list_keys(keys)
        referring = [reference.columns[n] for n in reference.order]
        names = referring if of_target else table.key
        same = " AND ".join(f"t.{quote(name)} = k.k{n}" for n, name in enumerate(names))
        there = " AND ".join(f"p.{quote(k)} = t.{quote(c)}" for k, c in zip(target.key, referring, strict=True))
        given = " AND ".join(f"t.{quote(name)} IS NOT NULL" for name in referring)
        rows = self._connection.execute(
            f"SELECT {', '.join(f't.{quote(name)}' for name in table.key)}"
            f" FROM temp.localstore_key AS k JOIN {table.sql_name} AS t ON {same}"
            f" WHERE {given} AND NOT EXISTS (SELECT 1 FROM {target.sql_name} AS p WHERE {there})"
        )
        return [(table.name, tuple(row)) for row in rows.fetchall()]

    def _list_keys(self, keys: Collection[Key]) -> None:
        columns = [f"k{n}" for n in range(MAX_KEY_COLUMNS)]
        self._connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS localstore_key ({', '.join(columns)})")
        self._connection.execute("DELETE FROM temp.localstore_key")
        width = len(next(iter(keys)))
        insert = f"INSERT INTO temp.localstore_key ({', '.join(columns[:width])}) VALUES ({', '.join('?' * width)})"
        self._connection.executemany(insert, keys)

    def _carry_out(self, outcomes: Mapping[_Row, Outcome], aside: list[SetAside]) -> dict[str, set[Key]]:
        went: dict[str, set[Key]] = {}
        for row, result in outcomes.items():
            if result.because is None:
                continue
            table = self._tables[row[0]]
            record = self.load(table, [row[1]]).get(row[1]) or Repaired(False, {}, "")
            self._show(row, self._values(row, record), result, is_new=False)
            if result.is_hidden:
                went.setdefault(row[0], set()).add(row[1])
                aside.append(SetAside(*row, str(result.because)))
        return went

    # -- both

    def _outcome(self, row: _Row, merged: Mapping[str, Value], returning: Collection[_Row] = ()) -> Outcome:
        """What becomes of a row when those of ``returning`` are there too."""
        to_check = (reference for reference in self.references if reference.table == row[0])
        return outcome(merged, to_check, lambda reference, key: self._is_there(reference, key, returning))

    def _is_there(self, reference: Reference, key: Key, returning: Collection[_Row]) -> bool:
        target = self._tables[reference.target]
        if (target.name, key) in returning:
            return True
        same = " AND ".join(f"{quote(name)} = ?" for name in target.key)
        return self._connection.execute(f"SELECT 1 FROM {target.sql_name} WHERE {same}", key).fetchone() is not None

    def _show(self, row: _Row, merged: Mapping[str, Value], result: Outcome, *, is_new: bool) -> None:
        """Let the table show what became of a row, and keep the rest."""
        table, key = self._tables[row[0]], row[1]
        columns = [name for name in table.columns if name in merged]
        shown = {**{name: merged[name] for name in columns}, **result.instead}
        same = " AND ".join(f"{quote(name)} = ?" for name in table.key)
        if result.is_hidden:
            self._connection.execute(f"DELETE FROM {table.sql_name} WHERE {same}", key)
            kept = {name: merged[name] for name in columns}
        else:
            kept = {name: merged[name] for name in columns if not _same(shown[name], merged[name])}
            if is_new:
                names = ", ".join(map(quote, (*table.key, *columns)))
                marks = ", ".join("?" * (len(key) + len(columns)))
                values = (*key, *(shown[name] for name in columns))
                self._connection.execute(f"INSERT INTO {table.sql_name} ({names}) VALUES ({marks})", values)
            elif columns:
                assignments = ", ".join(f"{quote(name)} = ?" for name in columns)
                values = (*(shown[name] for name in columns), *key)
                self._connection.execute(f"UPDATE {table.sql_name} SET {assignments} WHERE {same}", values)
        self.save(table, key, Repaired(result.is_hidden, kept, str(result.because or "")))

    def _is_shown(self, record: Repaired, merged: Mapping[str, Value], result: Outcome) -> bool:
        """Whether a row of the table shows what became of it already."""
        return not result.is_hidden and record.merged.keys() == {
            name for name, value in result.instead.items() if not _same(value, merged[name])
        }

    def _read(self, table: CapturedTable, key: Key) -> dict[str, Value]:
        names = ", ".join(f"t.{quote(name)}" for name in table.columns)
        same = " AND ".join(f"{quote(name)} = ?" for name in table.key)
        if not names:
            return {}
        found = self._connection.execute(f"SELECT {names} FROM {table.sql_name} AS t WHERE {same}", key).fetchone()
        return dict(zip(table.columns, found, strict=True)) if found else {}


def _same(one: Value, other: Value) -> bool:
    return one == other and type(one) is type(other)


def _union(one: dict[str, set[Key]], other: dict[str, set[Key]]) -> dict[str, set[Key]]:
    return {table: one.get(table, set()) | other.get(table, set()) for table in {*one, *other}}
