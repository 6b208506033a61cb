"""Capture: triggers that log which rows and columns of a synced table were touched, by whatever program.

A trigger logs the row's key and, for updates, a bitmask of the columns that changed; values are read once, when the log is
sealed (``store.seal``). Triggers stay silent while ``localstore_state.capturing`` is 0, which is how merged changes and
migrations are written without being captured.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from localstore.store.engine import quote

__all__ = ["MASK_BITS", "CapturedTable", "attach", "captured_tables", "follow_migrations", "log_all_rows", "set_capturing"]

MASK_BITS = 63  # columns in one log entry's mask: what fits in a positive SQLite integer
_CAPTURING = "(SELECT capturing FROM localstore_state)"


@dataclass(frozen=True)
class CapturedTable:
    """A synced table as it stands in the file.

    Attributes:
        id: its number in the log and the clocks.
        name: its name.
        key: names of the key columns.
        columns: names of the other columns, in the order of the log's mask bits.
    """

    id: int
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    @cached_property
    def log_key(self) -> tuple[str, ...]:
        """The log's columns that hold the key."""
        return tuple(f"k{n}" for n in range(len(self.key)))


def captured_tables(connection: sqlite3.Connection) -> dict[str, CapturedTable]:
    """The synced tables of a file, by name."""
    rows = connection.execute("SELECT id, name, key, columns FROM localstore_table")
    return {
        name: CapturedTable(id_, name, tuple(json.loads(key)), tuple(json.loads(columns))) for id_, name, key, columns in rows
    }


def attach(connection: sqlite3.Connection, names: Iterable[str]) -> list[CapturedTable]:
    """Make sure that these tables are captured as they stand now; triggers that are as they should be are left alone.

    Returns:
        The tables that were not captured before. Their rows are untouched and not in the log.
    """
    known = captured_tables(connection)
    added = []
    for name in names:
        key, columns = _columns_of(connection, name)
        before = known.get(name)
        if before is None or (before.key, before.columns) != (key, columns):
            connection.execute(
                "INSERT INTO localstore_table (name, key, columns) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET key = excluded.key, columns = excluded.columns",
                (name, json.dumps(key), json.dumps(columns)),
            )
        table = captured_tables(connection)[name]
        _install(connection, table)
        if before is None:
            added.append(table)
    return added


def follow_migrations(connection: sqlite3.Connection) -> None:
    """Bring what is known of captured tables in line with a file that something else may have migrated.

    A table that is gone, under another name, or has another key starts anew or never; what its log and clocks said is void.
    Where columns are gone or have other names, the log's masks have lost their meaning: the rows are sent whole.
    """
    for table in captured_tables(connection).values():
        key, columns = _columns_of(connection, table.name)
        if key != table.key:
            for name in _triggers(table, set()):  # a renamed table took them along
                connection.execute(f"DROP TRIGGER IF EXISTS {quote(name)}")
            for system_table, column in (("log", "tbl"), ("clock", "tbl"), ("table", "id")):
                connection.execute(f"DELETE FROM localstore_{system_table} WHERE {column} = ?", (table.id,))
        elif columns[: len(table.columns)] == table.columns:  # nothing, or columns added at the end: masks mean what they did
            connection.execute("UPDATE localstore_table SET columns = ? WHERE id = ?", (json.dumps(columns), table.id))
        elif not set(table.columns) <= set(columns):
            connection.execute("UPDATE localstore_table SET columns = ? WHERE id = ?", (json.dumps(columns), table.id))
            logged = f"tbl, {', '.join(table.log_key)}"
            updates = "FROM localstore_log WHERE tbl = ? AND op = 2"
            connection.execute(f"INSERT INTO localstore_log (op, {logged}) SELECT DISTINCT 1, {logged} {updates}", (table.id,))
            connection.execute(f"DELETE {updates}", (table.id,))


def log_all_rows(connection: sqlite3.Connection, table: CapturedTable) -> None:
    """Log every row of a table as inserted, so that rows from before capture are synced as well."""
    connection.execute(
        f"INSERT INTO localstore_log (tbl, op, {', '.join(table.log_key)})"
        f" SELECT {table.id}, 1, {', '.join(map(quote, table.key))} FROM {quote(table.name)}"
    )


def set_capturing(connection: sqlite3.Connection, capturing: bool) -> None:
    """Turn all triggers of the file on or off, for the current transaction and those after it."""
    connection.execute("UPDATE localstore_state SET capturing = ?", (int(capturing),))


def _columns_of(connection: sqlite3.Connection, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Key columns in key order, and the other stored columns; generated columns are made anew on every device."""
    rows = connection.execute(f"PRAGMA table_xinfo({quote(name)})").fetchall()
    key = sorted((position, column) for _, column, _, _, _, position, _ in rows if position)
    others = [column for _, column, _, _, _, position, hidden in rows if not position and not hidden]
    return tuple(column for _, column in key), tuple(others)


def _install(connection: sqlite3.Connection, table: CapturedTable) -> None:
    for name, sql in _triggers(table, _untyped_columns(connection, table)).items():
        found = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", (name,)).fetchone()
        if found is None or found[0] != sql:
            connection.execute(f"DROP TRIGGER IF EXISTS {quote(name)}")
            connection.execute(sql)


def _untyped_columns(connection: sqlite3.Connection, table: CapturedTable) -> set[str]:
    """Columns whose affinity does not settle the storage class, so that 1 and 1.0 are different values in them."""
    rows = connection.execute(f"PRAGMA table_xinfo({quote(table.name)})").fetchall()
    settled = ("INT", "CHAR", "CLOB", "TEXT", "REAL", "FLOA", "DOUB")  # https://www.sqlite.org/datatype3.html §3.1
    return {row[1] for row in rows if not any(word in row[2].upper() for word in settled)}


def _triggers(table: CapturedTable, untyped: set[str]) -> dict[str, str]:
    """The statements that make a table's triggers, by trigger name."""
    target, prefix = quote(table.name), f"localstore_capture_{table.id}"
    key_changed = " OR ".join(_differs(column, untyped) for column in table.key)

    def log(op: int, row: str) -> str:
        keys = ", ".join(f"{row}.{quote(column)}" for column in table.key)
        return f"INSERT INTO localstore_log (tbl, op, {', '.join(table.log_key)}) VALUES ({table.id}, {op}, {keys});"

    sql = {
        f"{prefix}_insert": f"AFTER INSERT ON {target} WHEN {_CAPTURING} BEGIN {log(1, 'NEW')} END",
        f"{prefix}_delete": f"AFTER DELETE ON {target} WHEN {_CAPTURING} BEGIN {log(3, 'OLD')} END",
        f"{prefix}_rekey": f"AFTER UPDATE ON {target} WHEN {_CAPTURING} AND ({key_changed})"
        f" BEGIN {log(3, 'OLD')} {log(1, 'NEW')} END",
    }
    if table.columns:
        sql[f"{prefix}_update"] = (
            f"AFTER UPDATE ON {target} WHEN {_CAPTURING} AND NOT ({key_changed}) BEGIN {_log_masks(table, untyped)} END"
        )
    return {name: f"CREATE TRIGGER {name} {rest}" for name, rest in sql.items()}


def _log_masks(table: CapturedTable, untyped: set[str]) -> str:
    """Statements that log one entry for each run of 63 columns in which something changed."""
    keys = ", ".join(f"NEW.{quote(column)}" for column in table.key)
    into = f"INSERT INTO localstore_log (tbl, op, part, mask, {', '.join(table.log_key)})"
    statements = []
    for part, start in enumerate(range(0, len(table.columns), MASK_BITS)):
        run = table.columns[start : start + MASK_BITS]
        mask = " | ".join(f"(({_differs(column, untyped)}) << {bit})" for bit, column in enumerate(run))
        statements.append(f"{into} SELECT {table.id}, 2, {part}, mask, {keys} FROM (SELECT {mask} AS mask) WHERE mask <> 0;")
    return " ".join(statements)


def _differs(column: str, untyped: set[str]) -> str:
    """Whether an update changed a column, bit for bit: a collation must not hide a change of case, nor 1 = 1.0 one of type."""
    old, new = f"OLD.{quote(column)}", f"NEW.{quote(column)}"
    differs = f"{old} COLLATE BINARY IS NOT {new}"
    return f"({differs} OR typeof({old}) <> typeof({new}))" if column in untyped else differs
