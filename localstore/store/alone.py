"""Being alone with a file: what may only be done while nobody else has it open, in this process or another.

Files are never opened here but through SQLite: closing any other descriptor of a file would drop the locks that this process
holds on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from localstore.errors import LocalStoreError, StoreBusy, StoreUnusable
from localstore.store.driver import claim, connect, driver_errors, release
from localstore.store.engine import driver_connection, sole_engine, translated

__all__ = ["alone_with", "remove", "remove_if_empty", "remove_names", "remove_unread", "settling"]

_BESIDE = ("-wal", "-shm", "-journal")


@contextmanager
def alone_with(path: Path, key: bytes | None, *, to_remove: bool = False) -> Iterator[sa.Connection]:
    """The only connection to a file, in no transaction. Who wants to open it meanwhile waits.

    Args:
        key: the file's encryption key, None for a plain file.
        to_remove: as is needed for ``remove``: nobody opens any file in its folder meanwhile.

    Raises:
        StoreBusy: anybody has the file open.
        StoreUnusable: it is not a database, or has another key.
    """
    with ExitStack() as stack:
        claim(path, encrypted=key is not None)
        stack.callback(release, path, encrypted=key is not None)
        if to_remove:
            stack.enter_context(_folder_locked(path.parent, exclusive=True))
        engine = sole_engine(path, key)
        stack.callback(engine.dispose)
        stack.enter_context(translated(path))
        try:
            connection = stack.enter_context(engine.connect())
            connection.begin().commit()
        except OperationalError as error:
            if "BUSY" not in str(getattr(error.orig, "sqlite_errorname", "")):
                raise
            raise StoreBusy(
                f"{path} is open, in this process or another. Nothing was done to it.",
                hint="Close all its realms; app.sync.wait_for_sessions_to_terminate() waits for those that still upload.",
            ) from error
        yield connection


def remove(path: Path, connection: sa.Connection) -> None:
    """Remove a file and what SQLite keeps beside it, by its only connection, which is in no transaction.

    Raises:
        StoreUnusable: the system does not allow it. The database is whole.
    """
    driver = driver_connection(connection)
    with suppress(*driver_errors("OperationalError")):  # on a full disk, where a file must still be removable
        driver.execute("PRAGMA journal_mode=DELETE").fetchall()
    with suppress(
        *driver_errors("OperationalError")
    ):  # so that closing the connection removes nothing that is another's by then
        driver.execute("PRAGMA journal_mode=OFF").fetchall()
    if sys.platform == "win32":  # where an open file cannot be removed, which keeps it from who opens it just now
        connection.close()
        connection.engine.dispose()
    remove_names(path)


def remove_names(path: Path) -> None:
    """Remove a file and what lies beside it, which nobody has open.

    Raises:
        StoreUnusable: the system does not allow it.
    """
    try:
        for suffix in (*_BESIDE, ""):  # the database last: until then nobody can make a new one, whose files these would be
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnusable(
            f"{path} cannot be removed ({error}).", hint="Check that its folder may be written and no other program uses it."
        ) from error


def remove_unread(path: Path) -> bool:
    """Remove a file whose key is not known, if nobody has it open: SQLite takes its log away with the last connection.

    Returns:
        Whether it is gone; one whose program was killed keeps its log, and is left alone.
    """
    with _folder_locked(path.parent, exclusive=True):
        if path.with_name(path.name + "-wal").exists():
            return False
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnusable(
                f"{path} cannot be removed ({error.strerror}).", hint="Check who may write its folder."
            ) from error
    return True


def remove_if_empty(path: Path, key: bytes | None) -> None:
    """Remove a file in which nobody has made anything, if nobody has it open; else leave it alone."""
    with suppress(LocalStoreError, OSError, *driver_errors("Error", also=DBAPIError)):
        if _size_of(path) == 0:
            _remove_bare(path, key)
            return
        _remove_if_without_tables(path, key)


def _remove_if_without_tables(path: Path, key: bytes | None) -> None:
    with alone_with(path, key, to_remove=True) as connection:
        with connection.begin():
            is_empty = connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is None
        if is_empty:
            remove(path, connection)


def _remove_bare(path: Path, key: bytes | None) -> None:
    """Remove a file of no bytes, as is left when the disk had no room for the first of them.

    It is not in WAL mode yet, so SQLite's lock tells little of those who have it open: none of ours has, as the first of them
    would have written to it. To take the lock writes a journal, for which there may be no room either.
    """
    with ExitStack() as stack:
        claim(path, encrypted=key is not None)
        stack.callback(release, path, encrypted=key is not None)
        stack.enter_context(_folder_locked(path.parent, exclusive=True))
        driver = stack.enter_context(closing(connect(path, key, timeout=0)))
        driver.execute("PRAGMA journal_mode=MEMORY").fetchall()
        driver.execute("BEGIN EXCLUSIVE")
        if _size_of(path) == 0:
            if sys.platform == "win32":  # where an open file cannot be removed
                driver.close()
            path.unlink()


@contextmanager
def settling(path: Path) -> Iterator[bool]:
    """The moment in which a file is made, or the first lock taken on one; yields whether there is none yet.

    Who has a file open, but has not read from it yet, holds no lock in SQLite's eyes. Were it removed in this moment, he would
    go on with a file that nobody can find, and, with the log of its successor, which goes by the same name, spoil that one too.
    So nobody removes anything meanwhile. And those who switch a new file to WAL mode do it one by one, as SQLite would
    tell one of two that it is locked, without any wait.
    """
    with _folder_locked(path.parent, exclusive=not _size_of(path)):
        yield _size_of(path) is None


def _size_of(path: Path) -> int | None:
    """A file's size, None when there is none that could be opened."""
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextmanager
def _folder_locked(folder: Path, *, exclusive: bool) -> Iterator[None]:
    """A lock on the folder itself, so that no other file has to lie about. Does its best: not all file systems know locks."""
    if sys.platform == "win32":  # where no open file can be removed
        yield
        return
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # what is wrong with it is said by whoever opens or removes the file
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
