"""Snapshots of a store: the merged state at a cursor, written from one synced file and loaded into an empty one.

A first sync takes the latest snapshot and what came after it, in place of all of history. Here is what has to be done before
and around; ``docs/snapshots.md`` says what a snapshot is. Nothing here knows when one is made, or how it travels.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from localstore.clock import latest_believed_ms
from localstore.store import snapshot_loading, snapshot_writing
from localstore.store.driver import connect, driver_errors
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.purge import horizon
from localstore.store.seal import seal_leftovers
from localstore.store.snapshot_file import attached, check
from localstore.store.state import load_state

__all__ = ["can_load_snapshot", "load_snapshot", "snapshot_number", "write_snapshot"]

_STEPS = 100_000  # of SQLite's virtual machine, between two looks


def write_snapshot(store: Store, path: Path, *, cursor: bytes, remote_ms: int | None = None) -> bool:
    """Write the merged state at a cursor to a new file. Others may go on writing meanwhile.

    The file is plain SQLite, whatever the store's own key, as the devices that load it have others. Who makes one of an
    encrypted store chooses a ``path`` where it may lie; only this user may read it.

    Args:
        store: a synced store. To be called when it is at the head of the remote's history and has sent what it had.
        path: where nothing is yet.
        cursor: where the remote's history goes on after what the snapshot holds.
        remote_ms: the remote's clock, None when it has none. What is older than the horizon needs no clock in a snapshot.

    Returns:
        Whether it was written, and else there is no file. It is not when the store's cursor is another, or the store holds what
        the history does not have: unsent changes, changesets that were set aside. These do not belong into a snapshot, and
        nobody can take them out of merged rows. Those that wait for their turn wait in it. What was sent since the cursor may
        be in it: whoever loads it knows these changesets by device and number when they come.

    Raises:
        TargetExists: something is at ``path``; it was left as it is.
        StoreUnusable: ``path`` cannot be written, or there is no room (``DiskFull``, ``DiskFailed``). Nothing is left there.
        RealmClosed: the store was closed meanwhile. Nothing is left there.
    """
    store.seal()
    store.catch_up()
    store.fold()
    offline_ms = int(store.options.client_maximum_offline_time * 1000)
    before = partial(horizon, now_ms=store.now_ms(), remote_ms=remote_ms, offline_ms=offline_ms)
    with store.read(), closing(connect(store.path, store.options.encryption_key)) as connection:  # so that closing it waits
        connection.set_progress_handler(lambda: store.is_closed, _STEPS)  # and not for long
        try:
            return snapshot_writing.write(connection, path, cursor=cursor, horizon=before)
        except driver_errors("OperationalError"):
            store.check_open()
            raise


def can_load_snapshot(store: Store) -> bool:
    """Whether a store has applied and written nothing yet, so that it can begin with a snapshot."""
    with store.read() as session:
        return snapshot_loading.is_empty(driver_connection(session.connection()))


def snapshot_number(store: Store, path: Path, device: bytes) -> int:
    """The number of a device's last changeset that is in a snapshot, 0 when there is none.

    Args:
        store: that the snapshot is for, which tells how its file is opened.
        path: of the snapshot.
        device: whose number.

    Raises:
        SnapshotUnusable, NewerFormat, WrongKey: as for ``load_snapshot``.
    """
    check(path)
    with store.read(), closing(connect(store.path, store.options.encryption_key)) as connection, attached(connection, path):
        return snapshot_loading.number_in(connection, device)


def load_snapshot(store: Store, path: Path) -> None:
    """Load a snapshot into a store that has applied and written nothing yet: rows, clocks and cursor in one transaction.

    Afterwards the store goes on as if it had applied the history up to the snapshot's cursor.

    Raises:
        SnapshotUnusable: the file is no snapshot, damaged, of another application, partition or remote, does not fit this
            device's schema, or holds changes from further in the future than ``max_clock_drift``.
        NewerFormat: only a newer localstore can read it.
        WrongKey: it is encrypted.
        RealmNotEmpty: the store has applied or written something.
        ResetRequired: the snapshot holds changesets of this device, which this file never made.
        StoreUnusable: there is no room (``DiskFull``, ``DiskFailed``).
        StoreBusy: another program kept the file too long.
    """
    check(path)
    with store.transaction(unconstrained=True, beside=path) as connection:
        now_ms, options = store.now_ms(), store.options
        seal_leftovers(connection, now_ms=now_ms, limits=options.limits)
        latest_ms = latest_believed_ms(load_state(connection).last_stamp, now_ms, options.max_clock_drift)
        snapshot_loading.load(connection, path, now_ms=now_ms, latest_ms=latest_ms, rules=store.rules)
