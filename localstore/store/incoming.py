"""The tables of another file that is attached, as they stand to this file's: which means which, and what is taken over of them.

What the other file knows and this one's schema does not is kept aside, like what a migration drops; columns that only this
file has are as after a migration that added them; renames are followed. The other file is a snapshot or a store: what is read
here looks the same in both. Nothing here knows why it is taken over, nor what this file held before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace

from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.clocks import ClockTable
from localstore.store.dropped import keep_columns, keep_table
from localstore.store.engine import quote
from localstore.store.renames import Renames
from localstore.store.repaired import rename_columns
from localstore.store.snapshot_file import SCHEMA, columns_of, is_copied_whole, is_described

__all__ = [
    "DoesNotFitError",
    "Incoming",
    "copy_records",
    "copy_rows",
    "describe",
    "keep_what_is_strange",
    "read_incoming",
    "silence",
]


class DoesNotFitError(Exception):
    """The attached file cannot be taken over exactly; the text says why."""


@dataclass(frozen=True)
class Incoming:
    """A table of the attached file.

    Attributes:
        source: as the attached file describes it.
        target: the table of this store that it means; None when there is none, or it has another key.
        names: the columns that both have, by the attached file's names.
        facts: seeds, generation, and the columns that came with each generation as JSON.
    """

    source: CapturedTable
    target: CapturedTable | None
    names: Mapping[str, str]
    facts: tuple[int, int, str]

    @property
    def strange(self) -> list[str]:
        """Columns that this store's schema does not have."""
        return [name for name in self.source.columns if name not in self.names]

    @property
    def new(self) -> list[str]:
        """Columns that only this store's schema has."""
        there = set(self.names.values())
        return [name for name in self.target.columns if name not in there] if self.target else []

    @property
    def is_renamed(self) -> bool:
        return any(old != new for old, new in self.names.items())


def read_incoming(connection: sqlite3.Connection) -> list[Incoming]:
    """The attached file's tables. Those that this store has come first, in its order: so clocks are written from end to end.

    Raises:
        DoesNotFitError: what can be done with them would not be exact.
    """
    ours = captured_tables(connection)
    renames = Renames(connection.execute(f"SELECT tbl, old, new FROM {SCHEMA}.localstore_renamed"))
    described = f"SELECT id, name, key, columns, seeds, generation, added FROM {SCHEMA}.localstore_table"
    rows = connection.execute(described).fetchall()
    found = []
    for id_, name, key, columns, *facts in rows:
        source = CapturedTable(id_, name, tuple(json.loads(key)), tuple(json.loads(columns)), None)
        meant = renames.table(name, ours)
        target = None if meant is None else ours[meant]
        if target and tuple(renames.columns(target.name, source.key, target.key).values()) != target.key:
            target = None
        names = renames.columns(target.name, source.columns, target.columns) if target else {}
        found.append(Incoming(source, target, names, (facts[0], facts[1], facts[2])))
    _check_fits(connection, found)
    return sorted(found, key=lambda table: (table.target is None, table.target.id if table.target else table.source.id))


def _check_fits(connection: sqlite3.Connection, incoming: list[Incoming]) -> None:
    """Refuse what cannot be done exactly."""
    targets = [table.target.id for table in incoming if table.target]
    if len(targets) != len(set(targets)):
        raise DoesNotFitError("two of its tables are one on this device")
    for table in incoming:
        if not is_described(connection, SCHEMA, table.source):
            raise DoesNotFitError(f"its table {table.source.name} is not as it is described")


def silence(connection: sqlite3.Connection) -> None:
    """Drop the capture triggers until all is there: SQLite calls even those that do nothing, row by row."""
    triggers = connection.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE 'localstore\\_capture\\_%' ESCAPE '\\'"
    )
    for (name,) in triggers.fetchall():
        connection.execute(f"DROP TRIGGER main.{quote(name)}")


def describe(connection: sqlite3.Connection, table: Incoming) -> int:
    """Note what is known of a table; returns its number here. One that is not here gets a number for as long as this takes."""
    if table.target is None:
        connection.execute(
            "INSERT INTO main.localstore_table (name, key, columns) VALUES (?, '[]', '[]')",
            (f"localstore_incoming_{table.source.id}",),
        )
        (id_,) = connection.execute("SELECT last_insert_rowid()").fetchone()
    else:
        id_ = table.target.id
    connection.execute(
        "UPDATE main.localstore_table SET seeds = ?, generation = ?, added = ? WHERE id = ?", (*table.facts, id_)
    )
    return int(id_)


def copy_rows(connection: sqlite3.Connection, table: Incoming, target: CapturedTable) -> None:
    """Copy all rows of a table into one that is empty."""
    source, into = table.source, target.sql_name
    is_alike = (source.name, source.key, source.columns) == (target.name, target.key, target.columns)
    if is_alike and is_copied_whole(connection, "main", SCHEMA, target.name, len(target.key) + len(target.columns)):
        connection.execute(f"INSERT INTO {into} SELECT * FROM {SCHEMA}.{quote(source.name)}")
        return
    theirs = ", ".join(map(quote, (*source.key, *table.names)))
    ours = ", ".join(map(quote, (*target.key, *table.names.values())))
    connection.execute(f"INSERT INTO {into} ({ours}) SELECT {theirs} FROM {SCHEMA}.{quote(source.name)}")


def copy_records(connection: sqlite3.Connection, name: str, ids: Mapping[int, int]) -> None:
    """Copy records that name their table by its number."""
    into, source = f"main.localstore_{name}", f"{SCHEMA}.localstore_{name}"
    columns = columns_of(connection, SCHEMA, f"localstore_{name}")
    is_alike = columns == columns_of(connection, "main", f"localstore_{name}")
    if is_alike and all(theirs == ours for theirs, ours in ids.items()):
        connection.execute(f"INSERT INTO {into} SELECT * FROM {source}")
        return
    rest = columns.partition(", ")[2]
    for theirs, ours in ids.items():
        connection.execute(f"INSERT INTO {into} (tbl, {rest}) SELECT {ours}, {rest} FROM {source} WHERE tbl = {theirs}")


def keep_what_is_strange(connection: sqlite3.Connection, table: Incoming) -> None:
    """Keep aside what this schema has no place for, and bring what is known of the rest in line with it."""
    if table.target is None:
        (id_,) = connection.execute(
            "SELECT id FROM main.localstore_table WHERE name = ?", (f"localstore_incoming_{table.source.id}",)
        ).fetchone()
        keep_table(connection, replace(table.source, id=id_), {}, schema=SCHEMA)
        for system_table, column in (("clock", "tbl"), ("repaired", "tbl"), ("table", "id")):
            connection.execute(f"DELETE FROM main.localstore_{system_table} WHERE {column} = ?", (id_,))
        return
    if table.strange:
        keep_columns(connection, replace(table.source, id=table.target.id), table.strange, {}, schema=SCHEMA)
    clocks = ClockTable(connection)
    if table.strange or table.is_renamed:
        clocks.rename_columns(table.target.id, table.names)
        rename_columns(connection, table.target, table.names)
    if table.new:
        clocks.add_columns(table.target.id, table.new)
