"""Writing merged rows to their table, in as few statements as there are kinds of writes. Knows nothing of merging."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from localstore.changes import Key, Value
from localstore.store.capture import CapturedTable
from localstore.store.engine import quote

__all__ = ["defaults_of", "same_key", "write_rows"]

_Write = tuple[Key, bool, bool, Mapping[str, Value]]
"""A row's key, whether it is to be there, whether it was, and the values of the columns that change."""


def write_rows(connection: sqlite3.Connection, table: CapturedTable, writes: Iterable[_Write], *, aborts: bool) -> None:
    """Write to a table.

    Args:
        aborts: a row in the way is an error, whatever the table says itself.
    """
    deletes: list[Key] = []
    upserts: dict[tuple[str, ...], list[tuple[Value, ...]]] = {}
    updates: dict[tuple[str, ...], list[tuple[Value, ...]]] = {}
    for key, lives, existed, changed in writes:
        columns, values = tuple(changed), tuple(changed.values())
        if not lives:
            if existed:
                deletes.append(key)
        elif not existed or len(columns) == len(table.columns):  # a row without a record may not be there after all
            upserts.setdefault(columns, []).append(key + values)
        elif columns:
            updates.setdefault(columns, []).append(values + key)
    name = table.sql_name
    verb = " OR ABORT" if aborts else ""  # only then, as it goes for what triggers do as well
    connection.executemany(f"DELETE FROM {name} WHERE {same_key(table)}", deletes)
    for columns, parameters in updates.items():
        assignments = ", ".join(f"{quote(column)} = ?" for column in columns)
        connection.executemany(f"UPDATE{verb} {name} SET {assignments} WHERE {same_key(table)}", parameters)
    for columns, parameters in upserts.items():
        connection.executemany(f"INSERT{verb} {_upsert(table, columns)}", parameters)


def same_key(table: CapturedTable) -> str:
    """The condition on a row's key, with a parameter for each part."""
    return " AND ".join(f"{quote(name)} = ?" for name in table.key)


def defaults_of(connection: sqlite3.Connection, table: CapturedTable) -> dict[str, Value]:
    """What each column holds when an insert does not bring it."""
    rows = connection.execute(f"PRAGMA main.table_xinfo({quote(table.name)})").fetchall()
    sources = {row[1]: row[4] for row in rows if row[4] is not None}
    return {
        name: connection.execute(f"SELECT {sources[name]}").fetchone()[0] if name in sources else None for name in table.columns
    }


def _upsert(table: CapturedTable, columns: tuple[str, ...]) -> str:
    names = ", ".join(map(quote, table.key + columns))
    marks = ", ".join("?" * (len(table.key) + len(columns)))
    assignments = ", ".join(f"{quote(column)} = excluded.{quote(column)}" for column in columns)
    action = f"DO UPDATE SET {assignments}" if columns else "DO NOTHING"
    key = ", ".join(map(quote, table.key))
    return f"INTO {table.sql_name} ({names}) VALUES ({marks}) ON CONFLICT ({key}) {action}"
