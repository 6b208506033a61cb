"""Writing a snapshot: the merged state of exactly what the remote's history holds up to a cursor, as one file.

All of it is read in one read transaction, which keeps nobody from writing meanwhile, and goes from file to file inside SQLite,
so that no table has to fit into memory. A store that holds anything of its own, which the history does not have, makes none.
Who wants a snapshot, and where it goes, is not known here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from localstore.store.capture import LOGS, captured_tables
from localstore.store.engine import quote, translated
from localstore.store.snapshot_file import SCHEMA, attached, columns_of, create, is_copied_whole, is_described, seal, set_up
from localstore.store.state import load_state
from localstore.store.undoing import TO_UNDO

__all__ = ["write"]

_OF_ITS_OWN = (
    *LOGS,
    *(f"localstore_{name}" for name in ("outbox", "unsealed")),
    f"localstore_aside WHERE undo = {TO_UNDO} OR device <> (SELECT device FROM main.localstore_state)",
)
"""What is in these is not in the history, or is in the history and not in the tables. What the remote refused of this device is
in neither once it is undone."""
_FOR_A_NEW_FILE = ("page_size = 4096", "auto_vacuum = NONE", "journal_mode = OFF", "synchronous = OFF")
Horizon = Callable[[sqlite3.Connection], int]
"""The stamp before which everything was seen by everyone who may still write: ``purge.horizon``."""


def write(source: sqlite3.Connection, path: Path, *, cursor: bytes, horizon: Horizon) -> bool:
    """Write a snapshot to a path where nothing is.

    Args:
        source: a connection of our own to a store, in no transaction; the store has sealed, folded and caught up.
        path: of the snapshot, a plain file whatever the store's key is.
        cursor: of the remote's history, that the snapshot is to be of.
        horizon: clocks that are older in all are left out, as if they had been purged.

    Returns:
        Whether it was written. Not when the store is elsewhere than at ``cursor``, has unsent changes, or changesets that it
        set aside and has not undone, so that its tables are not what the history makes of them.

    Raises:
        TargetExists: something is at ``path``.
        StoreUnusable: there is no room, or ``path`` cannot be written. Nothing is left there.
    """
    create(path)
    written = False
    try:
        with translated(path, writing=True), attached(source, path):
            written = _write(source, cursor, horizon)
        if written:
            seal(path)
    except BaseException:
        written = False
        raise
    finally:
        if not written:
            with suppress(OSError):  # it goes with the place that it lies in, at the latest when the next session starts
                path.unlink(missing_ok=True)
    return written


def _write(source: sqlite3.Connection, cursor: bytes, horizon: Horizon) -> bool:
    for pragma in _FOR_A_NEW_FILE:
        source.execute(f"PRAGMA {SCHEMA}.{pragma}")
    source.execute("PRAGMA ignore_check_constraints = ON")  # who shows such rows has good reason to
    source.execute("BEGIN")
    try:
        if not _is_at(source, cursor):
            return False
        set_up(source)
        _copy_tables(source)
        _copy_devices(source)
        _copy_clocks(source, horizon(source))
        for table in ("localstore_repaired", "localstore_unknown", "localstore_waiting"):
            columns = columns_of(source, SCHEMA, table)
            source.execute(f"INSERT INTO {SCHEMA}.{table} ({columns}) SELECT {columns} FROM main.{table}")
        source.execute("COMMIT")
    finally:
        if source.in_transaction:
            source.execute("ROLLBACK")
    return True


def _is_at(source: sqlite3.Connection, cursor: bytes) -> bool:
    """Whether the tables are what the history up to the cursor makes of them."""
    if load_state(source).cursor != cursor:
        return False
    own = " OR ".join(f"EXISTS (SELECT 1 FROM main.{table})" for table in _OF_ITS_OWN)
    left = source.execute(f"SELECT replay OR unsettled OR {own} FROM main.localstore_state").fetchone()[0]
    return not left and all(is_described(source, "main", table) for table in captured_tables(source).values())


def _copy_tables(source: sqlite3.Connection) -> None:
    """The synced tables as they are shown, without their indexes, and what is known of each."""
    for table in captured_tables(source).values():
        (sql,) = source.execute(
            "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table.name,)
        ).fetchone()
        source.execute(f"CREATE TABLE {SCHEMA}.{sql.removeprefix('CREATE TABLE ')}")  # SQLite writes it like that, always
        into, columns = f"{SCHEMA}.{quote(table.name)}", table.key + table.columns
        if is_copied_whole(source, "main", SCHEMA, table.name, len(columns)):
            source.execute(f"INSERT INTO {into} SELECT * FROM {table.sql_name}")
        else:
            names = ", ".join(map(quote, columns))
            source.execute(f"INSERT INTO {into} ({names}) SELECT {names} FROM {table.sql_name}")
    facts = "id, name, key, columns, seeds, generation, added"
    source.execute(f"INSERT INTO {SCHEMA}.localstore_table SELECT {facts} FROM main.localstore_table")


def _copy_devices(source: sqlite3.Connection) -> None:
    """How far each device got, and what it had seen. The writer becomes one like any other.

    What it had seen at its last changeset is known where it has declared all that it applied of a device. What came since, its
    next changeset declares, before anybody asks.
    """
    state = load_state(source)
    source.execute(f"INSERT INTO {SCHEMA}.localstore_device SELECT id, device, number, stamp FROM main.localstore_device")
    source.execute(  # its next stamp will be higher than the last it has heard of
        f"UPDATE {SCHEMA}.localstore_device SET number = ?, stamp = ? WHERE device = ?",
        (state.last_number, state.last_stamp, state.device),
    )
    source.execute(f"INSERT INTO {SCHEMA}.localstore_seen SELECT * FROM main.localstore_seen")
    source.execute(
        f"INSERT OR REPLACE INTO {SCHEMA}.localstore_seen SELECT own.id, other.id, other.stamp"
        " FROM main.localstore_device AS own JOIN main.localstore_device AS other ON other.id <> own.id"
        " WHERE own.device = ? AND other.number > 0 AND other.declared = other.number",
        (state.device,),
    )
    source.execute(
        f"INSERT INTO {SCHEMA}.localstore_snapshot SELECT app, partition, remote_id, cursor, device, ?, purged"
        " FROM main.localstore_state",
        (state.last_stamp,),
    )


def _copy_clocks(source: sqlite3.Connection, before: int) -> None:
    """The clocks, but for those that ``store.purge`` would forget and that are told at a glance: nearly all of them."""
    copied = f"INSERT INTO {SCHEMA}.localstore_clock SELECT * FROM main.localstore_clock"
    if not source.execute(f"SELECT EXISTS (SELECT 1 FROM main.localstore_clock AS c WHERE {_IS_OLD})", (before,)).fetchone()[0]:
        source.execute(copied)
        return
    source.execute(f"{copied} AS c WHERE NOT ({_IS_OLD})", (before,))
    source.execute(f"UPDATE {SCHEMA}.localstore_snapshot SET purged = max(purged, ?)", (before,))


_IS_OLD = """detail IS NULL AND max(coalesce(born, 0), coalesce(died, 0)) < ?
    AND tbl IN (SELECT id FROM main.localstore_table WHERE NOT seeds)
    AND NOT EXISTS (SELECT 1 FROM main.localstore_repaired AS r WHERE r.tbl = c.tbl)
    AND NOT EXISTS (SELECT 1 FROM main.localstore_unknown)"""
