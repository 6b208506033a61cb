"""Capture: triggers that log which rows and columns of a synced table were touched, by whatever program.

A trigger logs a row and, for updates, a bitmask of the columns that changed; values are read once, when the log is sealed
(``store.seal``). ``localstore_state.capturing`` says what triggers do: nothing, which is how merged changes are written
without being captured; log keys; or log rowids, which are quicker to write and to find again. Rowids are for our own write
transactions only, as they mean nothing any more after another program's ``VACUUM``.

An entry's ``op`` is a ``LoggedOp``, plus ``BY_ROWID`` when ``k0`` is a rowid, plus ``START`` times the position of the first
column that its ``bits`` speak of. A delete's ``bits`` are the rowid that the row had.
"""

from __future__ import annotations

import enum
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from localstore.changes import Value
from localstore.errors import SchemaError
from localstore.store.engine import quote
from localstore.store.given import GIVEN, execute_given

__all__ = [
    "BY_ROWID",
    "KIND",
    "LOGS",
    "START",
    "TABLE_COLUMNS",
    "CapturedTable",
    "Capturing",
    "LoggedOp",
    "attach",
    "captured_table",
    "captured_tables",
    "check_captured",
    "follow_migrations",
    "held",
    "holds",
    "log_all_rows",
    "set_capturing",
]

MASK_BITS = 63  # columns that one entry's bits can speak of: what fits in a positive SQLite integer
UPDATE_TRIGGERS = 4  # an update of few columns runs few of them, and compares few columns
LOGS = ("localstore_log", "localstore_log_wide")
"""Where triggers write: tables with one key column into the first, which is narrow to be quick, others into the second."""
TABLE_COLUMNS = "t.id, t.name, t.key, t.columns, t.rowid"
"""What ``captured_table`` takes of ``localstore_table AS t``."""
KIND, BY_ROWID, START = 3, 4, 8
ALL_COLUMNS = -1  # bits that are all set
_ROWID_NAMES = ("_rowid_", "rowid", "oid")


class Capturing(enum.IntEnum):
    """What triggers do."""

    OFF = 0
    BY_KEY = 1
    BY_ROWID = 2


class LoggedOp(enum.IntEnum):
    """What happened to a row, as triggers say it. ``SEED`` is ours: a row from before its table was synced."""

    SEED = 0
    INSERT = 1
    UPDATE = 2
    DELETE = 3


@dataclass(frozen=True)
class CapturedTable:
    """A synced table as it stands in the file.

    Attributes:
        id: its number in the log and the clocks.
        name: its name.
        key: names of the key columns.
        columns: names of the other columns, in the order of the log's mask bits.
        rowid: a name by which its rowid can be had; None when it has none, or when that is the key itself.
    """

    id: int
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    rowid: str | None

    @cached_property
    def sql_name(self) -> str:
        """Its name in statements, which a temporary table of the same name does not hide."""
        return f"main.{quote(self.name)}"

    @property
    def log(self) -> str:
        """The log that its triggers write to."""
        return LOGS[len(self.key) > 1]

    @cached_property
    def log_key(self) -> tuple[str, ...]:
        """The log's columns that hold the key."""
        return tuple(f"k{n}" for n in range(len(self.key)))


def captured_tables(connection: sqlite3.Connection) -> dict[str, CapturedTable]:
    """The synced tables of a file, by name."""
    rows = connection.execute(f"SELECT {TABLE_COLUMNS} FROM localstore_table AS t")
    return {row[1]: captured_table(*row) for row in rows}


@lru_cache(maxsize=1024)
def captured_table(id_: int, name: str, key: str, columns: str, rowid: str | None) -> CapturedTable:
    """A table from its record, of which it takes ``TABLE_COLUMNS``. Made once, as every write asks for some."""
    return CapturedTable(id_, name, tuple(json.loads(key)), tuple(json.loads(columns)), rowid)


def holds(connection: sqlite3.Connection, table: CapturedTable, key: Sequence[Value]) -> bool:
    """Whether a table has a row of this key."""
    same = " AND ".join(f"{quote(name)} = ?" for name in table.key)
    return connection.execute(f"SELECT 1 FROM {table.sql_name} WHERE {same}", key).fetchone() is not None


def held(connection: sqlite3.Connection, table: CapturedTable, keys: Sequence[Sequence[Value]]) -> list[int]:
    """The positions of those of the keys, given column by column, of which a table has rows."""
    same = " AND ".join(f"t.{quote(name)} = g.c{number}" for number, name in enumerate(table.key))
    sql = f"SELECT g.c{len(keys)} FROM {GIVEN} AS g CROSS JOIN {table.sql_name} AS t ON {same}"
    return [position for (position,) in execute_given(connection, sql, [*keys, range(len(keys[0]))])]


def attach(connection: sqlite3.Connection, names: Iterable[str]) -> list[CapturedTable]:
    """Make sure that these tables are captured as they stand now; triggers that are as they should be are left alone.

    Returns:
        The tables that were not captured before. Their rows are untouched and not in the log.
    """
    known = captured_tables(connection)
    added = []
    for name in names:
        key, columns, rowid = _shape(connection, name)
        before = known.get(name)
        if before is None or (before.key, before.columns, before.rowid) != (key, columns, rowid):
            connection.execute(
                "INSERT INTO localstore_table (name, key, columns, rowid) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET key = excluded.key, columns = excluded.columns, rowid = excluded.rowid",
                (name, json.dumps(key), json.dumps(columns), rowid),
            )
        table = captured_tables(connection)[name]
        _install(connection, table)
        if before is None:
            added.append(table)
    return added


def check_captured(connection: sqlite3.Connection) -> None:
    """Make sure that all synced tables are there as triggers and log know them; columns may have been added.

    Raises:
        SchemaError: one is not.
    """
    for table in captured_tables(connection).values():
        key, columns, _ = _shape(connection, table.name)
        is_as_known = (key, columns[: len(table.columns)]) == (table.key, table.columns)
        if not is_as_known or _installed(connection, table).keys() != _triggers(connection, table).keys():
            raise SchemaError(
                f"The synced table {table.name} was dropped, renamed or made anew in a write(), so that what was written to it"
                " would be lost to other devices. Everything was rolled back.",
                hint="Change tables by a migration: alembic upgrade head.",
            )


def follow_migrations(connection: sqlite3.Connection) -> None:
    """Bring what is known of captured tables in line with a file that something else may have migrated.

    A table that is gone, under another name, or has another key starts anew or never; what its log and clocks said is void.
    Where columns are gone or have other names, the log's masks have lost their meaning: the rows are sent whole.
    """
    for table in captured_tables(connection).values():
        key, columns, _ = _shape(connection, table.name)
        if key != table.key:
            for name in _installed(connection, table):  # a renamed table took them along
                connection.execute(f"DROP TRIGGER {quote(name)}")
            for system_table, column in (
                (table.log, "tbl"),
                ("localstore_clock", "tbl"),
                ("localstore_repaired", "tbl"),
                ("localstore_table", "id"),
            ):
                connection.execute(f"DELETE FROM {system_table} WHERE {column} = ?", (table.id,))
        elif columns[: len(table.columns)] == table.columns:  # nothing, or columns added at the end: masks mean what they did
            connection.execute("UPDATE localstore_table SET columns = ? WHERE id = ?", (json.dumps(columns), table.id))
        elif not set(table.columns) <= set(columns):
            connection.execute("UPDATE localstore_table SET columns = ? WHERE id = ?", (json.dumps(columns), table.id))
            connection.execute(
                f"UPDATE {table.log} SET op = {LoggedOp.UPDATE}, bits = {ALL_COLUMNS}"
                f" WHERE tbl = ? AND op & {KIND} = {LoggedOp.UPDATE}",
                (table.id,),
            )
    connection.execute(  # other constraints may have brought rows back
        "UPDATE localstore_state SET unsettled = max(unsettled, 1) WHERE EXISTS (SELECT 1 FROM localstore_repaired)"
    )


def log_all_rows(connection: sqlite3.Connection, table: CapturedTable) -> None:
    """Log every row of a table, so that rows from before capture are synced as well."""
    connection.execute(
        f"INSERT INTO {table.log} (tbl, op, {', '.join(table.log_key)})"
        f" SELECT {table.id}, {LoggedOp.SEED}, {', '.join(map(quote, table.key))} FROM {table.sql_name}"
    )


def set_capturing(connection: sqlite3.Connection, capturing: Capturing) -> None:
    """Say what all triggers of the file do, for the current transaction and those after it."""
    connection.execute("UPDATE localstore_state SET capturing = ?", (capturing,))


def _shape(connection: sqlite3.Connection, name: str) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """Key columns in key order, the other stored columns (each device computes generated ones anew), and the rowid's name."""
    rows = connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
    key = sorted((position, column, declared) for _, column, declared, _, _, position, _ in rows if position)
    others = [column for _, column, _, _, _, position, hidden in rows if not position and not hidden]
    is_the_key = len(key) == 1 and key[0][2].upper() == "INTEGER"
    free = _free_rowid_names(connection, name)
    return tuple(column for _, column, _ in key), tuple(others), None if is_the_key or not free else free[0]


def _free_rowid_names(connection: sqlite3.Connection, name: str) -> list[str]:
    """The names of a table's rowid that no column of it has taken; none when it is ``WITHOUT ROWID``."""
    if any(row[4] for row in connection.execute(f"PRAGMA main.table_list({quote(name)})")):
        return []
    taken = {row[1].casefold() for row in connection.execute(f"PRAGMA main.table_xinfo({quote(name)})")}
    return [alias for alias in _ROWID_NAMES if alias not in taken]


def _install(connection: sqlite3.Connection, table: CapturedTable) -> None:
    wanted = _triggers(connection, table)
    found = _installed(connection, table)
    for name in found:
        if found[name] != wanted.get(name):
            connection.execute(f"DROP TRIGGER {quote(name)}")
    for name, sql in wanted.items():
        if found.get(name) != sql:
            connection.execute(sql)


def _installed(connection: sqlite3.Connection, table: CapturedTable) -> dict[str, str]:
    """The statements that made a table's triggers in the file, by trigger name."""
    prefix = _prefix(table)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    return {name: sql for name, sql in rows if name.startswith(prefix)}


def _prefix(table: CapturedTable) -> str:
    return f"localstore_capture_{table.id}_"


def _triggers(connection: sqlite3.Connection, table: CapturedTable) -> dict[str, str]:
    """The statements that make a table's triggers, by trigger name."""
    untyped = _untyped_columns(connection, table)
    target, prefix = quote(table.name), _prefix(table)
    moved = [_differs(quote(column), column in untyped) for column in table.key]
    if table.rowid:  # which is nobody's business unless rowids are what is logged
        moved.append(f"({_differs(table.rowid, False)} AND (SELECT capturing FROM localstore_state) = {Capturing.BY_ROWID})")
    key_names = ", ".join([*map(quote, table.key), *_free_rowid_names(connection, table.name)])
    insert, delete = _log(table, LoggedOp.INSERT, "NEW"), _log(table, LoggedOp.DELETE, "OLD")
    sql = {
        "insert": f"AFTER INSERT ON {target} BEGIN {insert} END",
        "delete": f"AFTER DELETE ON {target} BEGIN {delete} END",
        "rekey": f"AFTER UPDATE OF {key_names} ON {target} WHEN {' OR '.join(moved)} BEGIN {delete} {insert} END",
    }
    size = min(MASK_BITS, -(-len(table.columns) // UPDATE_TRIGGERS)) or 1
    for start in range(0, len(table.columns), size):
        columns = table.columns[start : start + size]
        changed = [_differs(quote(column), column in untyped) for column in columns]
        bits = "1" if len(columns) == 1 else " | ".join(f"(({differs}) << {bit})" for bit, differs in enumerate(changed))
        sql[f"update_{start}"] = (
            f"AFTER UPDATE OF {', '.join(map(quote, columns))} ON {target} WHEN {' OR '.join(changed)}"
            f" BEGIN {_log(table, LoggedOp.UPDATE, 'NEW', bits=bits, start=start)} END"
        )
    return {prefix + name: f"CREATE TRIGGER {prefix}{name} {rest}" for name, rest in sql.items()}


def _log(table: CapturedTable, op: LoggedOp, row: str, *, bits: str = "NULL", start: int = 0) -> str:
    """A statement of a trigger that logs the row ``NEW`` or ``OLD``."""
    code = str(op + START * start)
    keys = [f"{row}.{quote(column)}" for column in table.key]
    if op is LoggedOp.DELETE:
        bits = f"OLD.{table.rowid}" if table.rowid else "NULL"
    elif table.rowid:
        by_rowid = f"CASE capturing WHEN {Capturing.BY_ROWID} THEN"
        code = f"{by_rowid} {op + START * start + BY_ROWID} ELSE {code} END"
        keys = [f"{by_rowid} {row}.{table.rowid} ELSE {keys[0]} END", *(f"{by_rowid} NULL ELSE {key} END" for key in keys[1:])]
    return (
        f"INSERT INTO {table.log} (tbl, op, bits, {', '.join(table.log_key)})"
        f" SELECT {table.id}, {code}, {bits}, {', '.join(keys)} FROM localstore_state WHERE capturing;"
    )


def _untyped_columns(connection: sqlite3.Connection, table: CapturedTable) -> set[str]:
    """Columns whose affinity does not settle the storage class, so that 1 and 1.0 are different values in them."""
    rows = connection.execute(f"PRAGMA main.table_xinfo({quote(table.name)})").fetchall()
    settled = ("INT", "CHAR", "CLOB", "TEXT", "REAL", "FLOA", "DOUB")  # https://www.sqlite.org/datatype3.html §3.1
    return {row[1] for row in rows if not any(word in row[2].upper() for word in settled)}


def _differs(column: str, untyped: bool) -> str:
    """Whether an update changed a column, bit for bit: a collation must not hide a change of case, nor 1 = 1.0 one of type."""
    old, new = f"OLD.{column}", f"NEW.{column}"
    differs = f"{old} COLLATE BINARY IS NOT {new}"
    return f"({differs} OR typeof({old}) <> typeof({new}))" if untyped else differs
