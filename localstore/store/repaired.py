"""Rows that are not shown as merging left them, as they lie in ``localstore_repaired``: reading and writing.

Knows nothing of why a row is shown otherwise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from localstore.changes import Key, Value
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.clocks import key_of, key_value
from localstore.store.engine import quote

__all__ = ["Records", "Repaired", "Row", "SetAside", "has_repaired", "has_untold", "rename_columns", "take_set_aside"]

Row = tuple[str, Key]
"""Table and key of a row."""
_decode = msgspec.msgpack.decode
_encode = msgspec.msgpack.encode


@dataclass(slots=True)
class Repaired:
    """A row that is not shown as merging left it.

    Attributes:
        is_hidden: it is not in its table at all.
        merged: the values of the columns that are not in the table; of a hidden row, of all but the key.
        why: the reference or constraint because of which it is so.
        by: the key of the row in its way, when it has a value that only one row can have.
    """

    is_hidden: bool
    merged: dict[str, Value]
    why: str
    by: Key | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row that is no longer in its table: table, key, and the reference or constraint because of which."""

    table: str
    key: Key
    why: str


def has_repaired(connection: sqlite3.Connection) -> bool:
    """Whether any row is not shown as merging left it."""
    return connection.execute("SELECT 1 FROM localstore_repaired LIMIT 1").fetchone() is not None


def has_untold(connection: sqlite3.Connection) -> bool:
    """Whether rows were set aside of which nobody was told."""
    return connection.execute("SELECT 1 FROM localstore_repaired WHERE hidden AND NOT told").fetchone() is not None


def take_set_aside(connection: sqlite3.Connection) -> list[SetAside]:
    """Rows that were set aside and are so still; each is told once, unless it comes back between."""
    tables = {table.id: table for table in captured_tables(connection).values()}
    rows = connection.execute(
        "SELECT tbl, key, why FROM localstore_repaired WHERE hidden AND NOT told ORDER BY tbl, key"
    ).fetchall()
    if rows:
        connection.execute("UPDATE localstore_repaired SET told = 1 WHERE hidden")
    return [SetAside(tables[tbl].name, key_of(tables[tbl], key), why) for tbl, key, why in rows if tbl in tables]


def rename_columns(connection: sqlite3.Connection, table: CapturedTable, names: Mapping[str, str]) -> None:
    """Let all records of a table name its columns anew; what ``names`` does not mention is forgotten."""
    rows = connection.execute("SELECT key, merged FROM localstore_repaired WHERE tbl = ?", (table.id,)).fetchall()
    for key, data in rows:
        merged = {names[name]: value for name, value in _decode(data).items() if name in names}
        connection.execute(
            "UPDATE localstore_repaired SET merged = ? WHERE tbl = ? AND key = ?", (_encode(merged), table.id, key)
        )
    connection.execute("DELETE FROM localstore_repaired WHERE NOT hidden AND merged = ?", (_encode({}),))


class Records:
    """The records of a file, within one transaction, and what tables show of a row."""

    def __init__(self, connection: sqlite3.Connection, tables: Mapping[str, CapturedTable]) -> None:
        self._connection = connection
        self._tables = tables
        self.has_any = has_repaired(connection)

    def has(self, table: CapturedTable) -> bool:
        """Whether a table has any."""
        found = self._connection.execute("SELECT 1 FROM localstore_repaired WHERE tbl = ? LIMIT 1", (table.id,))
        return found.fetchone() is not None

    def of(self, tables: Iterable[str]) -> Iterator[tuple[Row, Repaired]]:
        """All records of these tables."""
        for name in tables if self.has_any else ():
            table = self._tables[name]
            rows = self._connection.execute(
                "SELECT key, hidden, merged, why, winner FROM localstore_repaired WHERE tbl = ?", (table.id,)
            ).fetchall()
            for key, *record in rows:
                yield (name, key_of(table, key)), _repaired(table, *record)

    def load(self, table: CapturedTable, keys: Iterable[Key]) -> dict[Key, Repaired]:
        """Those of the rows that are not shown as merging left them."""
        if not self.has_any:
            return {}
        found = {}
        for key in keys:
            row = self._connection.execute(
                "SELECT hidden, merged, why, winner FROM localstore_repaired WHERE tbl = ? AND key = ?",
                (table.id, key_value(key)),
            ).fetchone()
            if row:
                found[key] = _repaired(table, *row)
        return found

    def waiting(self, table: CapturedTable) -> dict[Key, list[Key]]:
        """The keys of hidden rows, by the row that is in their way."""
        found: dict[Key, list[Key]] = {}
        if self.has_any:
            rows = self._connection.execute(
                "SELECT key, winner FROM localstore_repaired WHERE tbl = ? AND winner IS NOT NULL", (table.id,)
            )
            for key, winner in rows:
                found.setdefault(key_of(table, winner), []).append(key_of(table, key))
        return found

    def save(self, table: CapturedTable, key: Key, repaired: Repaired) -> None:
        """Write the record of a row; none is needed for one that is as merged."""
        if repaired.is_hidden or repaired.merged:
            self.has_any = True
            by = None if repaired.by is None else key_value(repaired.by)
            self._connection.execute(
                "INSERT INTO localstore_repaired (tbl, key, hidden, merged, why, winner) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET told = told AND hidden AND excluded.hidden,"
                " hidden = excluded.hidden, merged = excluded.merged, why = excluded.why, winner = excluded.winner",
                (table.id, key_value(key), repaired.is_hidden, _encode(repaired.merged), repaired.why, by),
            )
        elif self.has_any:
            self._connection.execute("DELETE FROM localstore_repaired WHERE tbl = ? AND key = ?", (table.id, key_value(key)))

    def merged(self, table: CapturedTable, key: Key, record: Repaired | None) -> dict[str, Value]:
        """All that merging gave to a row, its key among it."""
        shown = {} if record is not None and record.is_hidden else self.shown(table, key)
        return {**dict(zip(table.key, key, strict=True)), **shown, **(record.merged if record else {})}

    def shown(self, table: CapturedTable, key: Key) -> dict[str, Value]:
        """What the table shows of a row but its key, nothing when it is not there."""
        names = ", ".join(f"t.{quote(name)}" for name in table.columns)
        same = " AND ".join(f"{quote(name)} = ?" for name in table.key)
        if not names:
            return {}
        found = self._connection.execute(f"SELECT {names} FROM {table.sql_name} AS t WHERE {same}", key).fetchone()
        return dict(zip(table.columns, found, strict=True)) if found else {}


def _repaired(table: CapturedTable, hidden: int, merged: bytes, why: str, winner: Value) -> Repaired:
    return Repaired(bool(hidden), _decode(merged), why, None if winner is None else key_of(table, winner))
