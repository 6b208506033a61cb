"""Copying a store to a plain SQLite file: the way to leave sync for good."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

from localstore.errors import StoreUnusable, TargetExists
from localstore.schema import SYSTEM_PREFIX
from localstore.store.engine import quote

__all__ = ["copy_plain"]


def copy_plain(source: Path, target: Path) -> None:
    """Write the application's tables as they are at this moment to a new file, compact and with nothing of sync in it.

    The copy is made beside the target and renamed in, so that a crash leaves no half file under its name. Others may go on
    writing to the source meanwhile.

    Args:
        source: an open store's file.
        target: a path where nothing is yet.

    Raises:
        TargetExists: something is there already; it was left as it is.
        StoreUnusable: the target's folder is missing or cannot be written.
    """
    if target.exists():
        raise TargetExists(f"{target} exists already and was left as it is.", hint="Choose another path, or delete it first.")
    aside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        aside.unlink(missing_ok=True)
        _vacuum_into(source, aside)
        _strip(aside)
        _publish(aside, target)
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreUnusable(
            f"The copy {target} could not be written ({error}). The store itself is untouched.",
            hint="Check that its folder exists, may be written, and has room.",
        ) from error
    finally:
        for path in (aside, aside.with_name(aside.name + "-journal")):
            path.unlink(missing_ok=True)


def _vacuum_into(source: Path, aside: Path) -> None:
    connection = sqlite3.connect(source, isolation_level=None)
    try:
        connection.execute("VACUUM INTO ?", (str(aside),))
    finally:
        connection.close()


def _strip(path: Path) -> None:
    """Drop our triggers and tables, and give back their room."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        ours = connection.execute(
            "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'table')"
            " AND name LIKE ? ESCAPE '\\' ORDER BY type DESC",
            (SYSTEM_PREFIX.replace("_", "\\_") + "%",),
        ).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for kind, name in ours:  # triggers first: they mention the tables
            connection.execute(f"DROP {kind.upper()} {quote(name)}")
        connection.execute("COMMIT")
        connection.execute("VACUUM")
    finally:
        connection.close()


def _publish(aside: Path, target: Path) -> None:
    """Give the copy its name, durably, unless somebody took it meanwhile."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(aside, target)
    except FileExistsError:
        raise TargetExists(f"{target} exists already and was left as it is.", hint="Choose another path.") from None
    except OSError:  # a file system without links
        aside.rename(target)
