"""Loading a snapshot into a store that holds nothing yet, so that it goes on as if it had applied the history.

Rows and clocks go from file to file inside SQLite. Devices keep the small numbers by which clocks name them, as a store that
holds nothing has given none away. What the snapshot knows and this store's schema does not is kept aside, like what a
migration drops; columns that only this store has are as after a migration that added them; renames are followed.

The caller owns the transaction, has attached the file and checked its content, and has turned constraints off.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from localstore.clock import stamp_ms
from localstore.errors import RealmNotEmpty, ResetRequired
from localstore.store.apply import catch_up
from localstore.store.capture import LOGS, CapturedTable, attach, captured_tables
from localstore.store.clocks import ClockTable
from localstore.store.column_rules import ColumnRules
from localstore.store.driver import driver_errors
from localstore.store.dropped import keep_columns, keep_table
from localstore.store.engine import quote
from localstore.store.renames import Renames
from localstore.store.repair import CHECK_ALL
from localstore.store.repaired import rename_columns
from localstore.store.snapshot_file import SCHEMA, columns_of, is_copied_whole, is_described, unusable
from localstore.store.state import load_state

__all__ = ["load"]

_EMPTY_IF_UNUSED = (
    *LOGS,
    *(f"localstore_{name}" for name in ("outbox", "waiting", "unknown", "aside", "unsealed", "clock", "seen", "repaired")),
)


@dataclass(frozen=True)
class _Incoming:
    """A table of the snapshot.

    Attributes:
        source: as the snapshot describes it.
        target: the table of this store that it means; None when there is none, or it has another key.
        names: the columns that both have, by the snapshot's names.
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


def load(connection: sqlite3.Connection, path: Path, *, now_ms: int, latest_ms: int, rules: ColumnRules) -> None:
    """Take over all that the attached snapshot holds, and its cursor.

    Args:
        path: where the snapshot lies, for messages.
        now_ms: this device's clock.
        latest_ms: stamps later than this have to wait, and so has the whole snapshot.
        rules: by which columns are merged.

    Raises:
        RealmNotEmpty: the store has applied or written something.
        SnapshotUnusable: it is another application's, partition's or remote's, does not fit the schema, or is from the future.
        ResetRequired: it holds changesets of this device.
    """
    _check_empty(connection)
    with _explained(path):
        _check_is_ours(connection, path, latest_ms)
        incoming = _incoming(connection, path)
        _silence(connection)
        _take_over(connection, incoming)
        for table in incoming:
            _keep_what_is_strange(connection, table)
        catch_up(connection, now_ms, rules)  # what of it this schema knows, and whether its constraints show the same
        attach(connection, list(captured_tables(connection)))


# -- whether it may be loaded


def _check_empty(connection: sqlite3.Connection) -> None:
    state = load_state(connection)
    tables = [*_EMPTY_IF_UNUSED, *(quote(name) for name in captured_tables(connection))]
    used = " OR ".join(f"EXISTS (SELECT 1 FROM main.{table})" for table in tables)
    applied = "EXISTS (SELECT 1 FROM main.localstore_device WHERE number > 0)"
    if state.cursor is not None or state.last_number or connection.execute(f"SELECT {used} OR {applied}").fetchone()[0]:
        raise RealmNotEmpty(
            "A snapshot can be loaded only into a realm that holds nothing yet. Nothing was changed.",
            hint="Take the remote's history instead.",
        )


def _check_is_ours(connection: sqlite3.Connection, path: Path, latest_ms: int) -> None:
    app, partition, remote_id, last_stamp = connection.execute(
        f"SELECT app, partition, remote_id, last_stamp FROM {SCHEMA}.localstore_snapshot"
    ).fetchone()
    state = load_state(connection)
    if (app, partition) != (state.app, state.partition):
        raise unusable(path, f"it is of the application {app!r}, partition {partition!r}")
    if state.remote_id is not None and remote_id is not None and remote_id != state.remote_id:
        raise unusable(path, "it is of another remote")
    if stamp_ms(last_stamp) > latest_ms:
        raise unusable(path, f"it holds changes from {stamp_ms(last_stamp) - latest_ms} ms after the time that we may believe")
    if connection.execute(f"SELECT 1 FROM {SCHEMA}.sqlite_master WHERE type NOT IN ('table', 'index')").fetchone():
        raise unusable(path, "it holds more than tables")
    own = f"SELECT number FROM {SCHEMA}.localstore_device WHERE device = ? AND number > 0"
    if (found := connection.execute(own, (state.device,)).fetchone()) is not None:
        raise ResetRequired(
            f"device forked (the snapshot has changeset {found[0]} of this device, which this file never made)",
            hint="The file was copied, or restored from a backup. Nothing was changed.",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of what SQLite, or a trigger of the application, refuses that it does not fit; disks and locks are others' part."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:  # what should be JSON or MessagePack is not
        raise unusable(path, f"it is malformed: {error}") from error
    except driver_errors("Error") as error:
        if not str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH")):
            raise
        raise unusable(path, f"it does not fit this device's tables: {error}") from error


def _incoming(connection: sqlite3.Connection, path: Path) -> list[_Incoming]:
    """The snapshot's tables. Those that this store has come first, in its order: so its clocks are written from end to end."""
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
        found.append(_Incoming(source, target, names, (facts[0], facts[1], facts[2])))
    _check_fits(connection, path, found)
    return sorted(found, key=lambda table: (table.target is None, table.target.id if table.target else table.source.id))


def _check_fits(connection: sqlite3.Connection, path: Path, incoming: list[_Incoming]) -> None:
    """Refuse what cannot be done exactly."""
    targets = [table.target.id for table in incoming if table.target]
    if len(targets) != len(set(targets)):
        raise unusable(path, "two of its tables are one on this device")
    for table in incoming:
        if not is_described(connection, SCHEMA, table.source):
            raise unusable(path, f"its table {table.source.name} is not as it is described")


# -- taking it over


def _silence(connection: sqlite3.Connection) -> None:
    """Drop the capture triggers until all is there: SQLite calls even those that do nothing, row by row."""
    triggers = connection.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE 'localstore\\_capture\\_%' ESCAPE '\\'"
    )
    for (name,) in triggers.fetchall():
        connection.execute(f"DROP TRIGGER main.{quote(name)}")


def _take_over(connection: sqlite3.Connection, incoming: list[_Incoming]) -> None:
    connection.execute("DELETE FROM main.localstore_device")  # at most this one, which has no number in any clock yet
    connection.execute(
        f"INSERT INTO main.localstore_device (id, device, number, stamp) SELECT id, device, number, stamp"
        f" FROM {SCHEMA}.localstore_device"
    )
    for name in ("seen", "unknown"):
        connection.execute(f"INSERT INTO main.localstore_{name} SELECT * FROM {SCHEMA}.localstore_{name}")
    connection.execute(
        "UPDATE main.localstore_state SET cursor = s.cursor, last_stamp = max(main.localstore_state.last_stamp, s.last_stamp),"
        " purged = s.purged, remote_id = coalesce(main.localstore_state.remote_id, s.remote_id), replay = 1,"
        f" unsettled = {CHECK_ALL} FROM {SCHEMA}.localstore_snapshot AS s"
    )
    ids = {table.source.id: _describe(connection, table) for table in incoming}
    for table in incoming:
        if table.target is not None:
            _copy_rows(connection, table, table.target)
    for name in ("clock", "repaired"):
        _copy_by_table(connection, name, ids)


def _describe(connection: sqlite3.Connection, table: _Incoming) -> int:
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


def _copy_rows(connection: sqlite3.Connection, table: _Incoming, target: CapturedTable) -> None:
    source, into = table.source, target.sql_name
    is_alike = (source.name, source.key, source.columns) == (target.name, target.key, target.columns)
    if is_alike and is_copied_whole(connection, "main", SCHEMA, target.name, len(target.key) + len(target.columns)):
        connection.execute(f"INSERT INTO {into} SELECT * FROM {SCHEMA}.{quote(source.name)}")
        return
    theirs = ", ".join(map(quote, (*source.key, *table.names)))
    ours = ", ".join(map(quote, (*target.key, *table.names.values())))
    connection.execute(f"INSERT INTO {into} ({ours}) SELECT {theirs} FROM {SCHEMA}.{quote(source.name)}")


def _copy_by_table(connection: sqlite3.Connection, name: str, ids: Mapping[int, int]) -> None:
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


def _keep_what_is_strange(connection: sqlite3.Connection, table: _Incoming) -> None:
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
