"""Copying a store to a SQLite file without sync: the way to leave it for good, and to change the encryption key."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

from localstore.errors import StoreUnusable, TargetExists
from localstore.schema import SYSTEM_PREFIX
from localstore.store.driver import connect, driver_errors, driver_module
from localstore.store.engine import quote
from localstore.store.transfer import transfer

__all__ = ["copy_plain"]


def copy_plain(source: Path, target: Path, *, source_key: bytes | None = None, target_key: bytes | None = None) -> None:
    """Write the application's tables as they are at this moment to a new file, compact and with nothing of sync in it.

    The copy is made beside the target and renamed in, so that a crash leaves no half file under its name. It is encrypted
    from its first byte if the target is. Others may go on writing to the source meanwhile.

    Args:
        source: an open store's file.
        target: a path where nothing is yet.
        source_key, target_key: the files' encryption keys, None for plain files.

    Raises:
        TargetExists: something is there already; it was left as it is.
        StoreUnusable: the target's folder is missing or cannot be written.
        ImportError: encryption needs an extra that is not installed.
    """
    driver_module(target_key)
    if target.exists():
        raise TargetExists(f"{target} exists already and was left as it is.", hint="Choose another path, or delete it first.")
    aside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        aside.unlink(missing_ok=True)
        if source_key is None and target_key is None:
            _vacuum_into(source, aside)
            _strip(aside)
        else:
            _transfer(source, aside, source_key, target_key)
        _publish(aside, target)
    except driver_errors("DatabaseError", also=OSError) as error:
        raise StoreUnusable(
            f"The copy {target} could not be written ({error}). The store itself is untouched.",
            hint="Check that its folder exists, may be written, and has room.",
        ) from error
    finally:
        for path in (aside, aside.with_name(aside.name + "-journal")):
            path.unlink(missing_ok=True)


def _vacuum_into(source: Path, aside: Path) -> None:
    with closing(connect(source, None)) as connection:
        connection.execute("VACUUM INTO ?", (str(aside),))


def _transfer(source: Path, aside: Path, source_key: bytes | None, target_key: bytes | None) -> None:
    with closing(connect(source, source_key)) as reading, closing(connect(aside, target_key)) as writing:
        transfer(reading, writing)


def _strip(path: Path) -> None:
    """Drop our triggers and tables, and give back their room."""
    with closing(connect(path, None)) as connection:
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
