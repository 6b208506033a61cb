"""Where a snapshot lies while it is fetched or sent: in a directory of its own beside its realm's file, and in memory when that
file is encrypted.

What a process that was killed left there is removed by ``remove_leftovers``, what another one is at work with is not: both may
be processes of the same file. What a snapshot is for is not known here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from localstore.errors import DiskFailed
from localstore.store import memory
from localstore.store.file import Store
from localstore.store.held import locked

__all__ = ["remove_leftovers", "snapshot_place"]

_SNAPSHOT, _IN_USE = "snapshot", "in-use"


@contextmanager
def snapshot_place(store: Store, random_bytes: Callable[[int], bytes]) -> Iterator[Path | None]:
    """A path where nothing is yet, for the block; what lies there is removed in the end.

    A snapshot is a plain file. That of an encrypted store may lie in memory alone: where the system has no such place, there is
    None.

    Raises:
        DiskFailed: no place can be made.
    """
    unique = store.path.with_name(f"{store.path.name}.snapshot-{random_bytes(4).hex()}")
    with ExitStack() as stack:
        if store.options.encryption_key is None:
            yield stack.enter_context(_directory(unique)) / _SNAPSHOT
        elif memory.is_memory():
            path = stack.enter_context(memory.place(unique)).with_name(_SNAPSHOT)
            stack.callback(_remove_file, path)
            yield path
        else:
            yield None


def remove_leftovers(file: Path) -> None:
    """Remove what processes that were killed left beside a realm's file, or beside a second file of it. Does its best."""
    name = re.compile(re.escape(file.name) + r"(\.fresh-[0-9a-f]{8})?\.snapshot-[0-9a-f]{8}")
    with suppress(OSError):
        for path in [path for path in file.parent.iterdir() if name.fullmatch(path.name)]:
            with suppress(OSError):
                _remove_leftover(path)


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    try:
        path.mkdir(mode=0o700)
        lock = locked(path / _IN_USE)
    except OSError as error:
        raise DiskFailed(
            f"A snapshot cannot be kept at {path}: {error.strerror or error}. Nothing was changed.",
            hint="See that its folder may be written and has room; sync then goes on by itself.",
        ) from error
    try:
        yield path
    finally:
        with suppress(OSError):  # it is removed later, like that of a process that was killed
            _remove(path, lock)


def _remove_leftover(directory: Path) -> None:
    if directory.is_symlink() or not directory.is_dir():
        return
    if sys.platform == "win32":
        (directory / _IN_USE).unlink(missing_ok=True)  # refused as long as a process has it open
        _remove(directory, None)
    elif (lock := locked(directory / _IN_USE)) is not None:
        _remove(directory, lock)


def _remove(directory: Path, lock: int | None) -> None:
    """Remove what is ours in it, and it when that was all."""
    try:
        (directory / _SNAPSHOT).unlink(missing_ok=True)
        if sys.platform == "win32" and lock is not None:  # where an open file cannot be removed
            os.close(lock)
            lock = None
        (directory / _IN_USE).unlink(missing_ok=True)
        directory.rmdir()
    finally:
        if lock is not None:
            os.close(lock)


def _remove_file(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
