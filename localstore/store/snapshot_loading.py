"""Loading a snapshot into a store that holds nothing yet, so that it goes on as if it had applied the history.

Rows and clocks go from file to file inside SQLite. Devices keep the small numbers by which clocks name them, as a store that
holds nothing has given none away. What the snapshot knows and this store's schema does not is kept aside, like what a
migration drops; columns that only this store has are as after a migration that added them; renames are followed.

The caller owns the transaction, has attached the file and checked its content, and has turned constraints off.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localstore import wire
from localstore.clock import stamp_ms
from localstore.errors import ProtocolError, RealmNotEmpty, ResetRequired
from localstore.store.apply import catch_up
from localstore.store.capture import LOGS, attach, captured_tables
from localstore.store.column_rules import ColumnRules
from localstore.store.driver import driver_errors
from localstore.store.engine import quote
from localstore.store.incoming import (
    DoesNotFitError,
    Incoming,
    copy_records,
    copy_rows,
    describe,
    keep_what_is_strange,
    read_incoming,
    silence,
)
from localstore.store.repair import CHECK_ALL
from localstore.store.snapshot_file import SCHEMA, unusable
from localstore.store.state import load_state

__all__ = ["is_empty", "load", "number_in"]

_EMPTY_IF_UNUSED = (
    *LOGS,
    *(f"localstore_{name}" for name in ("outbox", "waiting", "unknown", "aside", "unsealed", "clock", "seen", "repaired")),
)


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
        incoming = read_incoming(connection)
        silence(connection)
        _take_over(connection, incoming)
        for table in incoming:
            keep_what_is_strange(connection, table)
        catch_up(connection, now_ms, rules)  # what of it this schema knows, and whether its constraints show the same
        attach(connection, list(captured_tables(connection)))


# -- whether it may be loaded


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the store has applied and written nothing yet."""
    state = load_state(connection)
    tables = [*_EMPTY_IF_UNUSED, *(quote(name) for name in captured_tables(connection))]
    used = " OR ".join(f"EXISTS (SELECT 1 FROM main.{table})" for table in tables)
    applied = "EXISTS (SELECT 1 FROM main.localstore_device WHERE number > 0)"
    return not (
        state.cursor is not None or state.last_number or connection.execute(f"SELECT {used} OR {applied}").fetchone()[0]
    )


def number_in(connection: sqlite3.Connection, device: bytes) -> int:
    """The number of a device's last changeset that is in the attached snapshot, applied or waiting; 0 when there is none."""
    tables = (f"SELECT number FROM {SCHEMA}.localstore_{name} WHERE device = ?1" for name in ("device", "waiting"))
    found = connection.execute(f"SELECT coalesce(max(number), 0) FROM ({' UNION ALL '.join(tables)})", (device,)).fetchone()
    return int(found[0])


def _check_empty(connection: sqlite3.Connection) -> None:
    if not is_empty(connection):
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
    if number := number_in(connection, state.device):
        raise ResetRequired(
            f"device forked (the snapshot has changeset {number} of this device, which this file never made)",
            hint="The file was copied, or restored from a backup. Nothing was changed.",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of what SQLite, or a trigger of the application, refuses that it does not fit; disks and locks are others' part."""
    try:
        yield
    except DoesNotFitError as error:
        raise unusable(path, str(error)) from error
    except (ValueError, TypeError, KeyError) as error:  # what should be JSON or MessagePack is not
        raise unusable(path, f"it is malformed: {error}") from error
    except driver_errors("Error") as error:
        if not str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH")):
            raise
        raise unusable(path, f"it does not fit this device's tables: {error}") from error


# -- taking it over


def _take_over(connection: sqlite3.Connection, incoming: list[Incoming]) -> None:
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
    _take_over_waiting(connection)
    ids = {table.source.id: describe(connection, table) for table in incoming}
    for table in incoming:
        if table.target is not None:
            copy_rows(connection, table, table.target)
    for name in ("clock", "repaired"):
        copy_records(connection, name, ids)


def _take_over_waiting(connection: sqlite3.Connection) -> None:
    """Changesets that wait go on waiting here. What is damaged must not get past the cursor."""
    for device, number, data in connection.execute(f"SELECT device, number, sealed FROM {SCHEMA}.localstore_waiting"):
        try:
            changeset = wire.unseal(wire.decode(data))
        except ProtocolError as error:
            raise DoesNotFitError(f"a changeset that waits in it cannot be read: {error.message}") from error
        if (changeset.device, changeset.number) != (device, number):
            raise DoesNotFitError("a changeset that waits in it is another than it is said to be")
    connection.execute(
        f"INSERT INTO main.localstore_waiting SELECT device, number, sealed FROM {SCHEMA}.localstore_waiting AS w"
        f" WHERE NOT EXISTS (SELECT 1 FROM {SCHEMA}.localstore_device AS d WHERE d.device = w.device AND d.number >= w.number)"
    )
