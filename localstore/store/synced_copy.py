"""What makes a copy of a file one that syncs: as a new device that knows what the source knew of the remote, or as a file whose
rows are all to be uploaded.

Both are nobody's until they are opened (``store.identity``), so that a copy may be copied further.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import UnsentChanges
from localstore.store import layout
from localstore.store.copy import copy_plain, copy_whole
from localstore.store.driver import connect
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.identity import NOBODY, forget_identity
from localstore.store.open_file import StoreOptions
from localstore.store.tables import bring_up_to_date
from localstore.store.unsent import has_unsent

__all__ = ["SyncedTarget", "copy_as_another_device", "copy_to_upload"]


@dataclass(frozen=True, kw_only=True)
class SyncedTarget:
    """The file that a copy becomes.

    Attributes:
        path: where nothing is yet.
        app, partition, user: whose data it is to be.
        tables: of the schema that it is to be opened with.
        options: how it is used; the encryption key is among them.
    """

    path: Path
    app: str
    partition: str
    user: str
    tables: Sequence[sa.Table]
    options: StoreOptions


def copy_as_another_device(store: Store, target: SyncedTarget, *, with_unsent: bool) -> None:
    """Copy a synced file as a device that has what this one has, and goes on from where it is in the remote's history.

    Args:
        store: open, of the same application and partition.
        target: the copy.
        with_unsent: also when changes are unsent; the copy sends them as its own then, and this file still does.

    Raises:
        UnsentChanges: changes are unsent, and that was not asked for. There is no copy.
        What ``copy_plain`` raises.
    """
    source_key, target_key = store.options.encryption_key, target.options.encryption_key

    def become_another(path: Path) -> None:
        with closing(connect(path, target_key)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not with_unsent:
                _check_nothing_unsent(store, connection)
            forget_identity(connection, target.user)
            connection.execute("COMMIT")

    if not with_unsent:  # seen before anything is written, and once more in what was
        with closing(connect(store.path, source_key)) as connection:
            _check_nothing_unsent(store, connection)
    copy_whole(store.path, target.path, source_key=source_key, target_key=target_key, finish=become_another)


def copy_to_upload(store: Store, target: SyncedTarget) -> None:
    """Copy what a file's tables show as a synced file that was never opened: opening it makes changesets of all rows.

    Args:
        store: open, local or of another application or partition.
        target: the copy.

    Raises:
        SchemaMismatch, SchemaError: the tables are not as the target's schema declares them. There is no copy.
        What ``copy_plain`` raises.
    """

    def become_synced(path: Path) -> None:
        copy = Store(path, synced=False, options=target.options, now_ms=store.now_ms)
        try:
            copy.connect()
            with copy.connection() as connection:
                layout.upgrade(connection)
                driver_connection(connection).execute(
                    "INSERT INTO localstore_state (id, device, app, partition, user) VALUES (1, ?, ?, ?, ?)",
                    (NOBODY, target.app, target.partition, target.user),
                )
                bring_up_to_date(connection, target.tables)
        finally:
            copy.close()

    copy_plain(
        store.path,
        target.path,
        source_key=store.options.encryption_key,
        target_key=target.options.encryption_key,
        finish=become_synced,
    )


def _check_nothing_unsent(store: Store, connection: sqlite3.Connection) -> None:
    if has_unsent(connection):
        raise UnsentChanges(
            f"{store.path} holds changes that the remote has not acknowledged. They are safe in it; no copy was written.",
            hint="Wait for sync_session.upload_all_local_changes() first, or let the copy send them as well:"
            " write_copy_to(..., with_unsent=True).",
        )
