"""Copying an open file to a new one, as it is at one moment: the file work, whatever the copy is for.

A copy is made beside its target and gets its name when it is complete and on the disk, so that no crash leaves half a file
under that name. What a killed process leaves beside it, the next copy to the same target removes.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from localstore.directories import sync_directory
from localstore.errors import DiskFull, LocalStoreError, StoreDamaged, StoreUnusable, TargetExists
from localstore.schema import SYSTEM_PREFIX
from localstore.store.driver import NO_PAGE_LIMIT, connect, driver_errors, driver_module
from localstore.store.engine import quote
from localstore.store.failures import DISK_ERRORS, failure
from localstore.store.transfer import transfer

__all__ = ["copy_plain", "copy_whole"]

Finish = Callable[[Path], None]
"""What is done to a copy before it gets its name; it lies at the path."""
_ATTEMPTS = 100  # to make a file that no other process takes for a leftover before it is locked
_BESIDE = ("-wal", "-shm", "-journal")


def _as_it_is(_: Path) -> None:
    pass


def copy_plain(
    source: Path,
    target: Path,
    *,
    source_key: bytes | None = None,
    target_key: bytes | None = None,
    finish: Finish = _as_it_is,
) -> None:
    """Write the application's tables as they are at this moment to a new file, compact and with nothing of sync in it.

    The copy is encrypted from its first byte if the target is. Others may go on writing to the source meanwhile.

    Args:
        source: an open store's file.
        target: a path where nothing is yet.
        source_key, target_key: the files' encryption keys, None for plain files.
        finish: what it raises is raised again, and there is no copy.

    Raises:
        TargetExists: something is there already; it was left as it is.
        StoreUnusable: the target's folder is missing or cannot be written; ``DiskFull`` when there is no room.
        StoreDamaged: the source cannot be read.
        ImportError: encryption needs an extra that is not installed.
    """
    with _new_file(source, target, target_key) as aside:
        if source_key is None and target_key is None:
            _vacuum_into(source, aside, None)
            _strip(aside)
        else:
            _transfer(source, aside, source_key, target_key, with_ours=False)
        finish(aside)


def copy_whole(
    source: Path, target: Path, *, source_key: bytes | None, target_key: bytes | None, finish: Finish = _as_it_is
) -> None:
    """The same with all that we keep in the file. It is the same device as the source, unless ``finish`` changes that."""
    with _new_file(source, target, target_key) as aside:
        if source_key == target_key:
            _vacuum_into(source, aside, source_key)
        else:
            _transfer(source, aside, source_key, target_key, with_ours=True)
        finish(aside)


@contextmanager
def _new_file(source: Path, target: Path, key: bytes | None) -> Iterator[Path]:
    """Where to make a file that is to have a name; it gets it at the end of the block, unless that was left by an exception."""
    driver_module(key)
    _check_free(target)
    aside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    remove_broken_off(target.parent, lambda name: name.startswith(f".{target.name}.") and name.endswith(".tmp"))
    try:
        with _held(aside):
            yield aside
            _publish(aside, target)
    except driver_errors("DatabaseError", also=OSError) as error:
        raise _failure(error, source, target) from error
    finally:
        with suppress(OSError):  # what cannot be removed now is so another time, like that of a process that was killed
            _remove(aside)


def _failure(error: Exception, source: Path, target: Path) -> LocalStoreError:
    code = str(getattr(error, "sqlite_errorname", ""))
    found = failure(code, str(error), source, writing=True)
    if found is not None and (isinstance(found, StoreDamaged) or code.startswith("SQLITE_NOTADB")):
        return found  # of the two files, it is not the new one that makes no sense
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    kind = DiskFull if is_full else type(found) if isinstance(found, DISK_ERRORS) else StoreUnusable
    return kind(
        f"The copy {target} could not be written ({error}). The store itself is untouched.",
        hint="Check that its folder exists, may be written, and has room.",
    )


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise TargetExists(f"{target} exists already and was left as it is.", hint="Choose another path, or delete it first.")
    for suffix in _BESIDE:
        beside = target.with_name(target.name + suffix)
        if os.path.lexists(beside):
            raise TargetExists(
                f"{beside} exists, and would be taken for a part of the copy. Nothing was written.",
                hint="It is left of another database of this name. Choose another path, or delete it first.",
            )


def _vacuum_into(source: Path, aside: Path, key: bytes | None) -> None:
    """SQLite's own way, which keeps the source's key."""
    with closing(connect(source, key)) as connection:
        connection.execute(f"PRAGMA {NO_PAGE_LIMIT}")
        connection.execute("VACUUM INTO ?", (str(aside),))


def _transfer(source: Path, aside: Path, source_key: bytes | None, target_key: bytes | None, *, with_ours: bool) -> None:
    with closing(connect(source, source_key)) as reading, closing(connect(aside, target_key)) as writing:
        transfer(reading, writing, with_ours=with_ours)


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
    sync_directory(target.parent)


# -- what a killed process left


@contextmanager
def _held(aside: Path) -> Iterator[None]:
    """Make an empty file and keep it locked, by which others see that somebody works on it."""
    descriptor = _made(aside)
    try:
        yield
    finally:
        os.close(descriptor)


def _made(aside: Path) -> int:
    for _ in range(_ATTEMPTS):
        descriptor = os.open(aside, os.O_CREAT | os.O_RDWR, 0o666)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # somebody took it for a leftover before it was locked
    raise StoreUnusable(f"{aside} was removed again and again. The store itself is untouched.", hint="Try again.")


def remove_broken_off(folder: Path, is_one: Callable[[str], bool]) -> None:
    """Remove what copies left that were broken off, as far as it can be told.

    Args:
        folder: where they were to lie.
        is_one: by its name, whether something was on its way to be one of those copies that are meant.
    """
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208  no pattern: the name may hold any character
            if is_one(name):
                _remove_unless_held(folder / name)


def _remove_unless_held(leftover: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if _lock(descriptor):
                _remove(leftover)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Take the lock that goes with an open file; False when another has it, None where there are none."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(aside: Path) -> None:
    for path in (aside, *(aside.with_name(aside.name + suffix) for suffix in _BESIDE)):
        path.unlink(missing_ok=True)
