"""SQLite's errors by name: which have a remedy, and become errors of ours that say what happened and what to do.

The names are those of https://www.sqlite.org/rescode.html; a driver's exception has its own in ``sqlite_errorname``. What
is not named here is a matter of the application's statements, and passes as it is.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from localstore.errors import (
    DiskFailed,
    DiskFull,
    LocalStoreError,
    NotWritable,
    ReadOnlyRealm,
    StoreBusy,
    StoreDamaged,
    StoreUnusable,
)

__all__ = ["ANOTHER_FILE", "A_WAY_OUT", "DISK_ERRORS", "failure", "file_exchanged", "identity_of", "is_unread"]

DISK_ERRORS: tuple[type[LocalStoreError], ...] = (DiskFull, DiskFailed, NotWritable, StoreDamaged)
"""What may strike any statement, and is not about what the statement says."""

A_WAY_OUT = (
    "See whether the disk is still connected, and try again. If it is the file, close the realm and move it away with what lies"
    " beside it: a new one is filled by its remote, and its session's salvage() sends what the old one had not sent. Restore a"
    " file that does not sync from a backup."
)
"""What to do about a file that is damaged."""

ANOTHER_FILE = (
    "if it is damaged, move it away with what lies beside it: a new one is filled by its remote. Restore a file that does not"
    " sync from a backup."
)
"""What to do about a file of which nothing can be read, as the end of a sentence."""

_UNREAD = "statements in progress"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_DAMAGED = "SQLITE_CORRUPT"  # also what it makes of EIO when it reads a page
_OUT_OF_REACH = ("SQLITE_CANTOPEN", "SQLITE_PERM")
_NEEDS_ROOM = tuple(f"SQLITE_IOERR_{what}" for what in ("WRITE", "FSYNC", "TRUNCATE", "SHMSIZE", "SHMMAP"))
_LITTLE_BYTES = 128 * 1024  # less than SQLite takes for a write-ahead log and its index


def failure(code: str, text: str, path: Path, *, writing: bool = False) -> LocalStoreError | None:
    """The error of ours for one of SQLite's, None when it has none.

    Args:
        code: the name of SQLite's result code, such as ``SQLITE_IOERR_WRITE``.
        text: SQLite's own words.
        path: the file that it is about.
        writing: whether it came from a transaction that may write.
    """
    if _UNREAD in text:
        return LocalStoreError(
            f"A statement that writes to {path} and returns rows was not read to its end. Everything was rolled back.",
            hint="Read all of its result, as with .all(), before the block ends.",
        )
    if code.startswith(_BUSY):
        return StoreBusy(
            f"{path} is being written by another thread or process. Nothing was written.",
            hint="Try again, keep write() blocks short, or raise the setting busy_timeout.",
        )
    if code.startswith("SQLITE_NOTADB"):
        return StoreUnusable(
            f"{path} is not a usable SQLite database ({text}). It was not changed.",
            hint=f"See whether it is the right one; {ANOTHER_FILE}",
        )
    if code.startswith(_DAMAGED):
        return StoreDamaged(
            f"{path} is damaged, or its disk cannot be read ({text}). The transaction was rolled back; nothing was changed.",
            hint=A_WAY_OUT,
        )
    if code.startswith(_OUT_OF_REACH):
        return StoreUnusable(f"{path} cannot be opened ({text}). Nothing was changed.", hint=_why_out_of_reach(path))
    if code == "SQLITE_READONLY_DBMOVED":
        return file_exchanged(path)
    if code == "SQLITE_READONLY" and not writing:
        return ReadOnlyRealm(
            "Something was written through a read. Nothing was changed.", hint="Write inside `with realm.write() as tx:`."
        )
    # the second is what a lock for writing says of a file that may only be read
    if code.startswith("SQLITE_READONLY") or (code == "SQLITE_IOERR_LOCK" and _may_only_be_read(path)):
        return NotWritable(
            f"{path} may not be written ({text}). Nothing was changed.",
            hint="Give this user the right to write the file and its folder, and see whether the disk is mounted read-only.",
        )
    return _disk_failure(code, text, path)


def is_unread(error: Exception) -> bool:
    """Whether a commit failed because of a statement that writes and returns rows which were not all read."""
    return _UNREAD in str(error)


def file_exchanged(path: Path) -> StoreUnusable:
    """The error for an open file that is not what lies at its path any more: what is written to it would be lost."""
    return StoreUnusable(
        f"{path} was moved, replaced or deleted while it was open. Nothing was written.",
        hint="Close the realm, and open it where the file is now.",
    )


def identity_of(path: Path, known: tuple[int, int] | None) -> tuple[int, int] | None:
    """Which file lies at a path, None when there is none; ``known`` when nobody can tell."""
    if os.name == "nt":  # where an open file cannot be moved
        return known
    try:
        found = os.stat(path)  # noqa: PTH116  the other way takes twice as long, and every write asks
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return known
    return found.st_dev, found.st_ino


def _disk_failure(code: str, text: str, path: Path) -> LocalStoreError | None:
    if code in ("SQLITE_FULL", "SQLITE_NOLFS") or (code in _NEEDS_ROOM and _has_no_room(path)):
        return DiskFull(
            f"The disk that holds {path} is full. The transaction was rolled back; everything before it is safe.",
            hint="Make room and try again.",
        )
    if code.startswith("SQLITE_IOERR"):
        return DiskFailed(
            f"The disk that holds {path} could not be read or written ({text}, {code}). The transaction was rolled back.",
            hint="See whether it is still connected, has room, and whether a quota or a limit on the size of files is reached;"
            " then try again.",
        )
    return None


def _why_out_of_reach(path: Path) -> str:
    """What to do about a file that cannot be opened, by what lies at its path."""
    folder = path.parent
    with suppress(OSError):  # a name that is too long, a folder that may not be looked into
        if path.is_dir():
            return "It is a folder: give the path of a file in it."
        if folder.exists() and not folder.is_dir():
            return f"Its folder exists, but as a file: {folder}. Choose another path."
        if not folder.exists():
            return f"Make sure that its folder exists: {folder} does not. It is not made, lest a misspelt path go unnoticed."
    return "Check that its folder exists and that this user may write the file and the folder."


def _may_only_be_read(path: Path) -> bool:
    return os.access(path, os.R_OK) and not os.access(path, os.W_OK)


def _has_no_room(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE_BYTES
    except OSError:
        return False
