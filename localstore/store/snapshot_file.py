"""What a snapshot is as a file: a plain SQLite database that a person can open, with a content check.

It holds the synced tables as they are shown, and beside them what merging knows of their rows: clocks, tombstones, what is not
shown as merged, what other devices had seen, changes of tables and columns that its writer did not know, and changesets that
wait for their turn. Its format has a number of its own (``PRAGMA user_version``); a file's layout may change without it. See
``docs/snapshots.md``.

This module knows bytes and declarations. What goes in is ``store.snapshot_writing``'s part, what becomes of it
``store.snapshot_loading``'s.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from localstore.errors import NewerFormat, SnapshotUnusable, StoreUnusable, TargetExists, WrongKey
from localstore.store.capture import CapturedTable
from localstore.store.driver import driver_errors
from localstore.store.engine import quote

__all__ = [
    "FORMAT",
    "SCHEMA",
    "TABLES",
    "attached",
    "check",
    "columns_of",
    "create",
    "is_copied_whole",
    "is_described",
    "seal",
    "set_up",
    "unusable",
]

FORMAT = 1
SCHEMA = "snapshot"
"""The name by which statements call the attached file."""
TABLES = {
    # Alone in the second page of the file, so that everybody knows where it lies: BLAKE2b of the file with zeros in its place.
    "digest": "digest BLOB NOT NULL",
    # One row. device: who wrote it; last_stamp: the highest stamp in it; purged: as in localstore_state.
    "snapshot": """
        app TEXT NOT NULL,
        partition TEXT NOT NULL,
        remote_id TEXT,
        cursor BLOB NOT NULL,
        device BLOB NOT NULL,
        last_stamp INTEGER NOT NULL,
        purged INTEGER NOT NULL""",
    # The synced tables; their columns as in a store's localstore_table.
    "table": """
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        key TEXT NOT NULL,
        columns TEXT NOT NULL,
        seeds INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        added TEXT NOT NULL""",
    # Every device with changesets in it, the writer like any other. number, stamp: its last changeset.
    "device": """
        id INTEGER PRIMARY KEY,
        device BLOB NOT NULL UNIQUE,
        number INTEGER NOT NULL,
        stamp INTEGER NOT NULL""",
    # From here on as in a store, column by column, so that SQLite copies whole records.
    "seen": """
        device INTEGER NOT NULL,
        other INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        PRIMARY KEY (device, other)""",
    "clock": """
        tbl INTEGER NOT NULL,
        key NOT NULL,
        born INTEGER,
        born_by INTEGER,
        died INTEGER,
        died_by INTEGER,
        generation INTEGER NOT NULL DEFAULT 0,
        detail BLOB,
        PRIMARY KEY (tbl, key)""",
    "repaired": """
        tbl INTEGER NOT NULL,
        key NOT NULL,
        hidden INTEGER NOT NULL,
        merged BLOB NOT NULL,
        why TEXT NOT NULL,
        winner,
        PRIMARY KEY (tbl, key)""",
    "unknown": """
        id INTEGER PRIMARY KEY,
        device BLOB NOT NULL,
        number INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        tbl TEXT NOT NULL,
        changes BLOB NOT NULL""",
    "waiting": """
        device BLOB NOT NULL,
        number INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (device, number)""",
}
"""The tables beside the application's, without ``localstore_``, as format 1 declares them."""

_WITHOUT_ROWID = {"seen", "clock", "repaired", "waiting"}
_APPLICATION_ID = 0x6C736E70  # "lsnp"
_PAGE = 4096
_DIGEST_BYTES = 16
_DIGEST_AT = 2 * _PAGE - _DIGEST_BYTES  # SQLite fills a page from its end
_CHUNK = 1 << 20
_MAGIC = b"SQLite format 3\0"


@contextmanager
def attached(connection: sqlite3.Connection, path: Path, key: bytes | None = None) -> Iterator[None]:
    """Let a connection that is in no transaction see a file as ``SCHEMA``, whatever the key of its own. It lets go of the
    file in the end, or when it is closed, should any cursor of it be left open.

    Args:
        key: of the file to be seen, None for a plain one.

    Raises:
        SnapshotUnusable: it cannot be attached, as when its texts are in another encoding, or this SQLite does not understand
            its declarations.
    """
    try:
        connection.execute(f"ATTACH ? AS {SCHEMA} KEY ?", (str(path), "" if key is None else f"x'{key.hex()}'"))
        connection.execute(f"SELECT 1 FROM {SCHEMA}.sqlite_master LIMIT 1").fetchall()  # reads all declarations
    except driver_errors("DatabaseError") as error:
        raise unusable(path, str(error)) from error
    try:
        yield
    finally:
        with suppress(*driver_errors("OperationalError")):
            connection.execute(f"DETACH {SCHEMA}")


def create(path: Path) -> None:
    """Make an empty file that only this user may read, as it may hold what an encrypted store keeps from others.

    Raises:
        TargetExists: something is there already; it was left as it is.
        StoreUnusable: its folder is missing or cannot be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise TargetExists(f"{path} exists already and was left as it is.", hint="Choose another path.") from None
    except OSError as error:
        raise _unwritable(path, error) from error


def set_up(connection: sqlite3.Connection) -> None:
    """Make the tables that are ours in the attached file, which is empty; the first statements of a transaction."""
    connection.execute(f"PRAGMA {SCHEMA}.user_version = {FORMAT}")
    connection.execute(f"PRAGMA {SCHEMA}.application_id = {_APPLICATION_ID}")
    for name, columns in TABLES.items():
        suffix = " WITHOUT ROWID" if name in _WITHOUT_ROWID else ""
        connection.execute(f"CREATE TABLE {SCHEMA}.localstore_{name} ({columns}\n){suffix}")
    connection.execute(f"INSERT INTO {SCHEMA}.localstore_digest VALUES (zeroblob({_DIGEST_BYTES}))")


def seal(path: Path) -> None:
    """Write the digest into a file that is complete, and bring it to the disk.

    Raises:
        StoreUnusable: the disk does not take it.
    """
    try:
        with path.open("r+b") as file:
            digest, slot = _digest(file)
            assert slot == bytes(_DIGEST_BYTES), "SQLite put the digest elsewhere"
            file.seek(_DIGEST_AT)
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def check(path: Path) -> None:
    """See that a file is a snapshot, whole, as it was written, and of a format that we know.

    Raises:
        SnapshotUnusable: it is not.
        NewerFormat: its format is newer.
        WrongKey: it is encrypted.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
            if not header.startswith(_MAGIC) or int.from_bytes(header[68:72], "big") != _APPLICATION_ID:
                _check_plain(path, header)
                raise unusable(path, "it is no snapshot, or cut short")
            digest, slot = _digest(file)
    except OSError as error:
        raise unusable(path, f"it cannot be read: {error}") from error
    if digest != slot:
        raise unusable(path, "it is damaged: its content does not agree with its digest")
    number = int.from_bytes(header[60:64], "big")
    if number > FORMAT:
        raise NewerFormat(
            f"The snapshot {path} has format {number}; this localstore knows up to {FORMAT}. Nothing was loaded.",
            hint="Upgrade localstore on this device (pip install -U localstore-sync).",
        )
    if number < 1:
        raise unusable(path, f"it has format {number}, which there is none of")


def _check_plain(path: Path, header: bytes) -> None:
    from localstore.snapshot_cipher import MAGIC  # only who meets an encrypted remote needs it

    if header.startswith(MAGIC):
        raise WrongKey(
            f"The snapshot {path} is encrypted, and this app was given no key for its remote. Nothing was loaded.",
            hint="Make the app with remote=encrypted(..., key=...), or passphrase=..., as on the other devices.",
        )


def is_copied_whole(connection: sqlite3.Connection, one: str, other: str, table: str, columns: int) -> bool:
    """Whether a table has the same declaration in two schemas and so many columns, none of them generated. Then
    ``SELECT *`` brings what a list of columns would, and SQLite copies records as they are where nothing hinders it.
    """
    found = [
        connection.execute(
            f"SELECT sql FROM {schema}.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)
        ).fetchone()
        for schema in (one, other)
    ]
    stored = connection.execute(f"PRAGMA {one}.table_xinfo({quote(table)})").fetchall()
    return found[0] == found[1] is not None and len(stored) == columns


def columns_of(connection: sqlite3.Connection, schema: str, table: str) -> str:
    """The columns of one of our tables, for a statement."""
    return ", ".join(quote(row[1]) for row in connection.execute(f"PRAGMA {schema}.table_info({table})"))


def is_described(connection: sqlite3.Connection, schema: str, table: CapturedTable) -> bool:
    """Whether a table has just the columns that it is said to have. To be asked before its columns are named in statements:
    SQLite takes a name in quotation marks that it does not know for a text."""
    stored = connection.execute(f"PRAGMA {schema}.table_xinfo({quote(table.name)})").fetchall()
    return sorted(table.key + table.columns) == sorted(row[1] for row in stored if not row[6])


def unusable(path: Path, why: str) -> SnapshotUnusable:
    """The error for a snapshot that cannot be loaded."""
    return SnapshotUnusable(
        f"The snapshot {path} cannot be loaded: {why}. Nothing was changed.", hint="Take the remote's history instead."
    )


def _digest(file: BinaryIO) -> tuple[bytes, bytes]:
    """The digest of a file's content, and what lies in the digest's place."""
    hashed = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    head = file.read(2 * _PAGE)
    hashed.update(head[:_DIGEST_AT] + bytes(_DIGEST_BYTES))
    while chunk := file.read(_CHUNK):
        hashed.update(chunk)
    return hashed.digest(), head[_DIGEST_AT:]


def _unwritable(path: Path, error: OSError) -> StoreUnusable:
    return StoreUnusable(
        f"The snapshot {path} could not be written ({error}). The store itself is untouched.",
        hint="Check that its folder exists, may be written, and has room.",
    )
