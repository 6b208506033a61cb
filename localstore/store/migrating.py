"""Migrations of a synced file by something else, such as the application's Alembic: what is done around one transaction.

Before it changes anything, what was captured so far is sealed and brought into the clocks, and the capture triggers are
dropped: a migration is not captured, and no ``DROP COLUMN`` stumbles over a trigger. Renames are followed one by one, and
what is dropped is kept aside. In the end triggers, clocks and what else goes by a table's or column's name are brought in line
with the tables as they are then.
All of it belongs to the migration's own transaction, so that a rollback or a crash leaves everything as it was.

This module knows nothing of Alembic; see ``localstore.alembic_plugin``.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace

from localstore.environment import Environment
from localstore.store.apply import fold
from localstore.store.capture import LOGS, CapturedTable, attach, captured_tables, follow_migrations
from localstore.store.clocks import ClockTable
from localstore.store.dropped import keep_columns, keep_table
from localstore.store.engine import quote
from localstore.store.identity import ensure_identity
from localstore.store.renames import RENAMED, record
from localstore.store.repaired import rename_columns
from localstore.store.seal import SealLimits, seal_leftovers

__all__ = ["FileMigration"]

_FOLD_CHUNK = 500
_NAME = r'(?:"(?:[^"]|"")+"|`(?:[^`]|``)+`|\[[^\]]+\]|[^\W\d][\w$]*)'
_DROP = re.compile(
    rf"\s*(?:ALTER\s+TABLE\s+(?:main\s*\.\s*)?(?P<of>{_NAME})\s+DROP\s+(?:COLUMN\s+)?(?P<column>{_NAME})"
    rf"|DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:main\s*\.\s*)?(?P<table>{_NAME}))\s*;?\s*",
    re.IGNORECASE,
)
_RENAME = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<table>{_NAME})\s+RENAME\s+"
    rf"(?:(?:COLUMN\s+)?(?P<column>{_NAME})\s+)?TO\s+(?P<new>{_NAME})\s*;?\s*",
    re.IGNORECASE,
)


class FileMigration:
    """One transaction in which something else changes the tables of a synced file. The caller owns the transaction.

    Args:
        connection: in a transaction, in which nothing was written yet.
        environment: clock, and an identity for a copy that was not opened yet.
        limits: what a changeset may hold, for what was captured before.
    """

    def __init__(self, connection: sqlite3.Connection, *, environment: Environment, limits: SealLimits) -> None:
        self._connection = connection
        now_ms = environment.now_ms()
        ensure_identity(connection, environment.new_device)
        follow_migrations(connection)
        seal_leftovers(connection, now_ms=now_ms, limits=limits)
        while fold(connection, _FOLD_CHUNK):
            pass
        self._before = _application_tables(connection)
        self._has_kept = False
        self._remade: set[str] = set()
        self.silence()

    def silence(self) -> None:
        """Drop the capture triggers; again when a rollback to a savepoint may have brought them back."""
        triggers = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'localstore\\_capture\\_%' ESCAPE '\\'"
            " AND tbl_name <> ?",
            (RENAMED,),
        )
        for (name,) in triggers.fetchall():
            self._connection.execute(f"DROP TRIGGER {quote(name)}")

    def precede(self, statement: str) -> None:
        """Keep aside what a statement is about to drop."""
        found = _DROP.fullmatch(statement)
        if found is None:
            return
        name = _unquoted(found["of"] or found["table"])
        if found["column"] is not None:
            self.drop_columns(name, [_unquoted(found["column"])])
        elif name.casefold() in self._remade:
            self._remade.remove(name.casefold())
        elif (table := self._as_it_stands(name)) is not None:
            keep_table(self._connection, table, self._names_in_clocks(table))
            self._has_kept = True

    def drop_columns(self, table: str, names: Iterable[str]) -> None:
        """Columns of a table are about to be dropped."""
        captured = self._as_it_stands(table)
        if captured is not None:
            going = {name.casefold() for name in names}
            columns = [name for name in captured.columns if name.casefold() in going]
            if columns:
                keep_columns(self._connection, captured, columns, self._names_in_clocks(captured))
                self._has_kept = True

    def remake(self, table: str, *, without: Iterable[str]) -> None:
        """A copy without some of its columns is about to take a table's place; what else it holds goes on living there."""
        self._remade.add(table.casefold())
        self.drop_columns(table, without)

    def follow(self, statement: str) -> None:
        """Take note of a statement that was carried out, should it be a rename."""
        found = _RENAME.fullmatch(statement)
        if found is None or (found["schema"] and _unquoted(found["schema"]).casefold() != "main"):
            return
        if found["column"] is None:
            self._rename_table(_unquoted(found["table"]), _unquoted(found["new"]))
        else:
            self.rename_columns(_unquoted(found["table"]), {_unquoted(found["column"]): _unquoted(found["new"])})

    def rename_columns(self, table: str, names: Mapping[str, str]) -> None:
        """Columns of a table have new names."""
        captured = self._find(table)
        if captured is not None:
            new = {old.casefold(): name for old, name in names.items()}
            key = [new.get(name.casefold(), name) for name in captured.key]
            columns = [new.get(name.casefold(), name) for name in captured.columns]
            self._describe(captured.id, captured.name, key, columns)

    def finish(self) -> None:
        """Bring everything in line with the tables as they are now, and capture again."""
        connection = self._connection
        self._let_replacements_take_over()
        named = _application_tables(connection)  # as before, under the names of now
        follow_migrations(connection)
        attach(connection, [table.name for table in _application_tables(connection).values()])
        after = _application_tables(connection)
        clocks = ClockTable(connection)
        for id_, before in self._before.items():
            if id_ not in after:
                connection.execute("DELETE FROM localstore_unsealed WHERE tbl = ?", (before.name,))
                continue
            self._settle_names(before, named[id_], after[id_], clocks)
            new_columns = [name for name in after[id_].columns if name not in named[id_].columns]
            if new_columns:
                clocks.add_columns(id_, new_columns)
        if after != self._before or self._has_kept:
            connection.execute("UPDATE localstore_state SET replay = 1 WHERE EXISTS (SELECT 1 FROM localstore_unknown)")

    def _find(self, name: str) -> CapturedTable | None:
        tables = _application_tables(self._connection).values()
        return next((table for table in tables if table.name.casefold() == name.casefold()), None)

    def _as_it_stands(self, name: str) -> CapturedTable | None:
        """A captured table with those of its columns that are still there; None when it cannot be read."""
        captured = self._find(name)
        if captured is None or captured.id not in self._before:
            return None
        there = {row[1] for row in self._connection.execute(f"PRAGMA table_xinfo({quote(name)})")}
        columns = tuple(column for column in captured.columns if column in there)
        return replace(captured, columns=columns) if there.issuperset(captured.key) else None

    def _names_in_clocks(self, table: CapturedTable) -> dict[str, str]:
        """Clocks go by the names of before until the end."""
        described = captured_tables(self._connection)[table.name]
        return dict(zip(described.columns, self._before[table.id].columns, strict=True))

    def _describe(self, id_: int, name: str, key: Iterable[str], columns: Iterable[str]) -> None:
        self._connection.execute(
            "UPDATE localstore_table SET name = ?, key = ?, columns = ? WHERE id = ?",
            (name, json.dumps(list(key)), json.dumps(list(columns)), id_),
        )

    def _rename_table(self, old: str, new: str) -> None:
        captured = self._find(old)
        if captured is None:
            return
        namesake = self._find(new)
        if namesake is not None and namesake.id != captured.id:  # dropped before, or SQLite had refused the name
            _forget(self._connection, namesake.id)
        self._describe(captured.id, new, captured.key, captured.columns)

    def _let_replacements_take_over(self) -> None:
        """A table that was renamed and dropped, while another took its name, was replaced: that is no rename."""
        present = _table_names(self._connection)
        for id_, table in _application_tables(self._connection).items():
            before = self._before.get(id_)
            if before and table.name not in present and before.name in present and self._find(before.name) is None:
                self._describe(id_, before.name, before.key, before.columns)

    def _settle_names(self, before: CapturedTable, named: CapturedTable, after: CapturedTable, clocks: ClockTable) -> None:
        """Carry a table's new names to all that goes by name, and let other devices know of them."""
        if before.name != after.name:
            record(self._connection, "", before.name, after.name)
            for table in ("conflict", "unsealed"):
                self._connection.execute(f"UPDATE localstore_{table} SET tbl = ? WHERE tbl = ?", (after.name, before.name))
        there = {*after.key, *after.columns}
        for old, new in zip(before.key + before.columns, named.key + named.columns, strict=True):
            swapped = new in before.key + before.columns and old in there  # such names mean different things on either side
            if old != new and new in there and not swapped:
                record(self._connection, before.name, old, new)
        names = {old: new for old, new in zip(before.columns, named.columns, strict=True) if new in after.columns}
        if names != {name: name for name in before.columns}:
            clocks.rename_columns(after.id, names)
            rename_columns(self._connection, after, names)
            self._rename_in_conflicts(after.name, {old: new for old, new in names.items() if old != new})

    def _rename_in_conflicts(self, table: str, names: Mapping[str, str]) -> None:
        if names:
            cases = " ".join("WHEN ? THEN ?" for _ in names)
            self._connection.execute(
                f'UPDATE localstore_conflict SET "column" = CASE "column" {cases} ELSE "column" END WHERE tbl = ?',
                (*(name for pair in names.items() for name in pair), table),
            )


def _application_tables(connection: sqlite3.Connection) -> dict[int, CapturedTable]:
    return {table.id: table for table in captured_tables(connection).values() if table.name != RENAMED}


def _table_names(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _forget(connection: sqlite3.Connection, table: int) -> None:
    for system_table, column in (
        *((log, "tbl") for log in LOGS),
        ("localstore_clock", "tbl"),
        ("localstore_repaired", "tbl"),
        ("localstore_table", "id"),
    ):
        connection.execute(f"DELETE FROM {system_table} WHERE {column} = ?", (table,))


def _unquoted(name: str) -> str:
    marks = {'"': '"', "`": "`", "[": "]"}
    if name[0] not in marks:
        return name
    return name[1:-1].replace(marks[name[0]] * 2, marks[name[0]]) if name[0] != "[" else name[1:-1]
