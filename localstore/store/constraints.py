"""What SQLite says of a row that is to be shown: whether it can be, which row is in its way, and which came first.

Nothing here parses an index: SQLite tries the row and tells, so collations, expressions and partial indexes mean to us what
they mean to it. The rows' order is the rule of ``docs/merging.md``. Knows nothing of references.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from localstore.changes import Key, Value
from localstore.clock import Version
from localstore.store.capture import CapturedTable
from localstore.store.clocks import ClockTable, key_value
from localstore.store.driver import driver_errors
from localstore.store.engine import quote
from localstore.store.merge import LONG_AGO, PURGED, RowState

__all__ = ["Broken", "Constraints", "Place", "attempt", "decides_conflicts", "has_unique", "without_triggers"]

Place = tuple[bool, Version, str, tuple[tuple[int, Value], ...]]
"""Where a row stands among those that cannot all be shown: whether a reference was replaced, version, table, and key."""
_NAMES = re.compile(r""" '(?:[^']|'')*' | "((?:[^"]|"")*)" | `((?:[^`]|``)*)` | \[([^]]*)\] | (\w+) """, re.X)
_BROKEN = ("UNIQUE constraint", "CHECK constraint", "NOT NULL constraint")
_NOT_THE_ROW = "no such "  # table, column or function: what SQLite says of the statement, or of a trigger
_KINDS = {int: 0, float: 0, str: 1, bytes: 2}


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a row cannot be in its table: ``why`` as SQLite says it, and the row in its way when it has to be unique."""

    why: str
    by: Key | None = None


def attempt(connection: sqlite3.Connection, write: Callable[[], object]) -> bool:
    """Write rows; returns False, and undoes it, when a constraint is broken by that, or an expression fails.

    Raises:
        The driver's ``Error``: anything else, also what an application's trigger raises. The transaction is to be rolled back.
    """
    connection.execute("SAVEPOINT attempt")
    try:
        write()
    except driver_errors("IntegrityError", "OperationalError") as error:
        if not str(error).startswith(_BROKEN) and not _has_no_value(error):
            raise
        _undo(connection, "attempt")
        return False
    connection.execute("RELEASE attempt")
    return True


@contextmanager
def without_triggers(connection: sqlite3.Connection, table: CapturedTable) -> Iterator[None]:
    """An application's triggers do not run while rows are taken out of a table to be put back: nobody deleted them."""
    rows = connection.execute(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE", (table.name,)
    )
    triggers = {name: sql for name, sql in rows.fetchall() if not name.startswith("localstore_")}
    for name in triggers:
        connection.execute(f"DROP TRIGGER main.{quote(name)}")
    yield
    for sql in triggers.values():
        connection.execute(sql)


def decides_conflicts(connection: sqlite3.Connection, tables: Iterable[CapturedTable]) -> set[str]:
    """Names of the tables that say themselves what becomes of rows in the way (``UNIQUE ... ON CONFLICT REPLACE``)."""
    rows = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql LIKE '%ON%CONFLICT%'")
    found = {name.casefold() for (name,) in rows}
    return {table.name for table in tables if table.name.casefold() in found}


def has_unique(connection: sqlite3.Connection, table: CapturedTable) -> bool:
    """Whether anything beside the key has to be unique."""
    return any(True for _ in _unique_indexes(connection, table))


class Constraints:
    """The constraints of a file's tables, within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._clocks = ClockTable(connection)
        self._columns: dict[str, tuple[str, ...]] = {}

    def place(self, table: CapturedTable, key: Key, *, is_altered: bool) -> Place:
        """Where a row stands: the lower one is shown when two cannot both be. A forgotten clock must not change it, so of
        rows that are shown with another value than merged only the key counts."""
        version = LONG_AGO if is_altered else self.version(table, key)
        return (is_altered, version, table.name, tuple((_KINDS[type(value)], value) for value in key))

    def version(self, table: CapturedTable, key: Key) -> Version:
        """The latest change of a column that a unique constraint looks at."""
        columns = self._looked_at(table)
        if not columns:
            return LONG_AGO
        found = dict(self._clocks.load(table.id, [key_value(key)]))
        state = found.get(key_value(key)) or RowState(lives=(PURGED,))
        if not state.lives:
            return LONG_AGO
        return max(state.lives[-1] if column in table.key else state.mark(column).version for column in columns)

    def remember(self, table: CapturedTable, key: Key) -> None:
        """Give a row that goes out of its table a clock, where it was forgotten: without one, it would count as deleted."""
        wanted = key_value(key)
        if not any(True for _ in self._clocks.load(table.id, [wanted])):
            self._clocks.save(table.id, [(wanted, RowState(lives=(PURGED,)))])

    def insert(self, table: CapturedTable, key: Key, values: Mapping[str, Value]) -> Broken | None:
        """Put a row into its table, unless that breaks a constraint."""
        names = (*table.key, *values)
        row = (*key, *values.values())
        listed, marks = ", ".join(map(quote, names)), ", ".join("?" * len(names))
        insert = f"INSERT OR ABORT INTO {table.sql_name} ({listed}) VALUES ({marks})"
        try:
            self._connection.execute(insert, row)
        except driver_errors("IntegrityError", "OperationalError") as error:
            why = str(error)
            if isinstance(error, driver_errors("OperationalError")) and not _has_no_value(error):
                raise
            return Broken(why, self._in_the_way(table, insert, row) if why.startswith("UNIQUE") else None)
        return None

    def _in_the_way(self, table: CapturedTable, insert: str, row: Sequence[Value]) -> Key | None:
        """A row that has what ``row`` has and only one can have: the one that SQLite would update instead of inserting."""
        keys = ", ".join(map(quote, table.key))
        same = f"{quote(table.key[0])} = {quote(table.key[0])}"
        self._connection.execute("SAVEPOINT question")
        try:
            found = self._connection.execute(f"{insert} ON CONFLICT DO UPDATE SET {same} RETURNING {keys}", row).fetchall()
        except driver_errors("IntegrityError"):  # a trigger of the application does not have it
            found = []
        _undo(self._connection, "question")
        return tuple(found[0]) if found else None

    def _looked_at(self, table: CapturedTable) -> tuple[str, ...]:
        """The columns that unique constraints look at, also in expressions and ``WHERE``; generated ones may look at all."""
        if table.name not in self._columns:
            found: set[str] = set()
            columns = {name.casefold(): name for name in table.key + table.columns}
            for index, sql in _unique_indexes(self._connection, table):
                parts = [row[2] for row in self._connection.execute(f"PRAGMA main.index_xinfo({quote(index)})") if row[5]]
                names = {part.casefold() for part in parts if part is not None} | set(_names(sql or ""))
                is_generated = any(part is not None and part.casefold() not in columns for part in parts)
                found |= set(columns.values()) if is_generated else {columns[name] for name in names if name in columns}
            self._columns[table.name] = tuple(sorted(found))
        return self._columns[table.name]


def _has_no_value(error: Exception) -> bool:
    """Whether an expression of a check, an index or a generated column fails on a row, as on text that should be JSON."""
    return getattr(error, "sqlite_errorname", None) == "SQLITE_ERROR" and not str(error).startswith(_NOT_THE_ROW)


def _undo(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(f"ROLLBACK TO {name}")
    connection.execute(f"RELEASE {name}")


def _unique_indexes(connection: sqlite3.Connection, table: CapturedTable) -> Iterator[tuple[str, str | None]]:
    """Name of each unique index beside the key's, and the statement that made it; a constraint of the table has none."""
    for row in connection.execute(f"PRAGMA main.index_list({quote(table.name)})").fetchall():
        if row[2] and row[3] != "pk":
            (sql,) = connection.execute("SELECT sql FROM main.sqlite_master WHERE name = ?", (row[1],)).fetchone()
            yield row[1], sql


def _names(sql: str) -> Iterator[str]:
    """Everything in a statement after its table that could be the name of a column."""
    for match in _NAMES.finditer(sql[sql.find("(") :]):
        found = next((group for group in match.groups() if group is not None), None)
        if found is not None:
            yield found.casefold()
