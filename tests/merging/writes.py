"""What an application does to random tables, as SQL: chosen so that SQLite takes most of it, and that it is about few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localstore.changes import Key, Value
from tests.merging.digits import Digits
from tests.merging.schemas import KEYS, Column, Reference, Row, Table

__all__ = ["Writer", "beginning", "clash"]

DOINGS = ("insert", "update", "delete", "replace", "upsert", "update", "update two", "delete many", "rekey", "default")
Rows = Mapping[str, Mapping[Key, Row]]


class Writer:
    """Makes statements for one device.

    Args:
        tables: the schema.
        rows: what the device shows.
        digits: what decides.
    """

    def __init__(self, tables: Sequence[Table], rows: Rows, digits: Digits) -> None:
        self._tables = tables
        self._rows = rows
        self._digits = digits

    def statement(self) -> str:
        """Anything."""
        what, table = self._digits.choose(DOINGS), self._digits.choose(self._tables)
        if what == "delete":
            return f"DELETE FROM {table.name} WHERE {_pairs(self.a_key(table))}"
        if what == "delete many":
            return f"DELETE FROM {table.name} WHERE {table.key[0]} >= {_literal(self._digits.choose(KEYS))}"
        if what == "rekey":
            name, new = table.key[-1], _literal(self._digits.choose(KEYS))
            return f"UPDATE {table.name} SET {name} = {new} WHERE {_pairs(self.a_key(table))} AND {name} <> {new}"
        if what.startswith("update") and table.columns:
            values = self.row(table)
            names = [self._digits.choose(table.columns).name for _ in range(2 if what == "update two" else 1)]
            return _update(table, self.a_key(table), {name: values[name] for name in names})
        values = {} if what == "default" else self.row(table)
        if what == "upsert" and table.columns:
            name = self._digits.choose(table.columns).name
            inserted = _insert(table, self.a_key(table) | values)
            return f"{inserted} ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {name} = excluded.{name}"
        if what == "replace":
            return _insert(table, values | self.a_key(table), "INSERT OR REPLACE")
        return _insert(table, values | self.new_key(table, values))

    def insert(self, table: str, key: Row) -> str:
        """Insert a row that others refer to."""
        target = next(other for other in self._tables if other.name == table)
        return _insert(target, self.row(target) | dict.fromkeys(target.key, KEYS[0]) | key)

    def a_key(self, table: Table) -> Row:
        """Of a row that is there, if there is any."""
        keys = sorted(self._rows[table.name]) or [tuple(KEYS[0] for _ in table.key)]
        return dict(zip(table.key, self._digits.choose(keys), strict=True))

    def new_key(self, table: Table, values: Row) -> Row:
        """Of a row that is not there, most of the time; of a link, as its references want it."""
        key = {name: values[name] if name in values else self._digits.choose(KEYS) for name in table.key}
        if set(values) & set(table.key) or tuple(key.values()) not in self._rows[table.name]:
            return key
        return {name: self._digits.choose(KEYS) for name in table.key}

    def row(self, table: Table) -> Row:
        """Values for all columns, references to rows that are there. Those of a link are in its key."""
        row = {column.name: self.value_of(column) for column in table.columns}
        for reference in table.references:
            targets = [values for _, values in sorted(self._rows[reference.target].items())]
            if targets and (row.keys().isdisjoint(reference.columns) or self._digits.below(4)):
                target = self._digits.choose(targets)
                row |= {column: target[name] for column, name in zip(reference.columns, reference.referred, strict=True)}
        return row

    def value_of(self, column: Column) -> Value:
        """One of the column's range; null, too, now and then where it may be."""
        return self._digits.choose((*column.values, None) if column.nullable else column.values)

    def refer_to(self, table: Table, reference: Reference) -> tuple[str, Row]:
        """Let a row refer to one that is there; also returns that one's values."""
        targets = [values for _, values in sorted(self._rows[reference.target].items())]
        target = self._digits.choose(targets) if targets else dict.fromkeys(reference.referred, KEYS[0])
        refer = {column: target[name] for column, name in zip(reference.columns, reference.referred, strict=True)}
        if set(refer).isdisjoint(table.key) and self._rows[table.name] and self._digits.below(2):
            return _update(table, self.a_key(table), refer), target
        row = self.row(table) | refer
        return _insert(table, row | self.new_key(table, row)), target

    def delete(self, target: Table, row: Row) -> list[str]:
        """Delete a row, most of the time with those that refer to it."""
        key = {name: row.get(name, KEYS[0]) for name in target.key}
        freeing = []
        for table in self._tables if self._digits.below(4) else ():
            for reference in table.references:
                if reference.target == target.name and set(reference.referred) <= row.keys():
                    same = {name: row[of] for name, of in zip(reference.columns, reference.referred, strict=True)}
                    freeing.append(f"DELETE FROM {table.name} WHERE {_pairs(same)}")
        return [*freeing, f"DELETE FROM {target.name} WHERE {_pairs(key)}"]

    def take(self, table: Table, values: Row) -> str:
        """Give a row these values."""
        if values and self._digits.below(2) and self._rows[table.name]:
            return _update(table, self.a_key(table), values)
        row = self.row(table) | values
        return _insert(table, row | self.new_key(table, row))


def clash(one: Writer, other: Writer, tables: Sequence[Table], digits: Digits) -> tuple[list[str], list[str]]:
    """What two devices do that goes well for each of them, and not together."""
    links = [(table, reference) for table in tables for reference in table.references]
    uniques = [(table, unique) for table in tables for unique in table.uniques]
    if uniques and (not links or digits.below(2)):
        table, unique = digits.choose(uniques)
        row = one.row(table)
        values = {name: row[name] for name in unique.looked_at if name in row}
        return [one.take(table, values)], [other.take(table, values)]
    if links:
        table, reference = digits.choose(links)
        referring, target = one.refer_to(table, reference)
        return [referring], other.delete(next(other for other in tables if other.name == reference.target), target)
    return [one.statement()], [other.statement()]


def beginning(tables: Sequence[Table]) -> list[str]:
    """Two rows in every table, each referring to those of the same key."""
    found = []
    for table in tables:
        for n, key in enumerate(KEYS[:2]):
            row: Row = dict.fromkeys(table.key, key)
            found.append(_insert(table, row | {column.name: column.values[n] for column in table.columns}))
    return found


def _insert(table: Table, row: Row, verb: str = "INSERT") -> str:
    return f"{verb} INTO {table.name} ({', '.join(row)}) VALUES ({', '.join(map(_literal, row.values()))})"


def _update(table: Table, key: Row, values: Row) -> str:
    return f"UPDATE {table.name} SET {_pairs(values, ', ')} WHERE {_pairs(key)}"


def _pairs(values: Row, between: str = " AND ") -> str:
    return between.join(f"{name} = {_literal(value)}" for name, value in values.items())


def _literal(value: Value) -> str:
    return "NULL" if value is None else repr(value)
