"""Realms in memory: ordinary files in a private directory that goes with the last store in it. Knows nothing of what they hold.

SQLite's own databases in memory were tried and do not keep the promise that no read waits for a writer: ``:memory:`` and
``memdb`` have no write-ahead log (``PRAGMA journal_mode=WAL`` answers ``memory``), so that with several connections a read
during ``BEGIN IMMEDIATE``, and a write during a read, is "database is locked" at once (tried with 3.40). So the directory
lies on a file system that is memory itself where the system has one for everybody, as Linux has ``/dev/shm``, and else among
the temporary files.

What is left behind by a process that was killed is removed when another one makes a realm in memory: a living one holds a
lock on a file in its directory. By name they are shared within one process, which is why this module keeps a table of its own.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from localstore.errors import StoreUnusable
from localstore.store.held import locked

__all__ = ["hold", "is_memory", "place", "place_of"]

_SHARED_MEMORY = Path("/dev/shm")
_FILE = "realm.db"
_IN_USE = "in-use"
_ATTEMPTS = 100  # to make a directory that no other process takes for a leftover before it is locked


@dataclass
class _Place:
    """A directory of this process, and how many stores and openings use it."""

    name: Path
    directory: Path
    lock: int
    users: int = 0


_places: dict[Path, _Place] = {}
_changing = threading.RLock()


@contextmanager
def place(name: Path) -> Iterator[Path]:
    """Where the realm of this name lies, made when there is none; it stays at least as long as the block."""
    with _changing:
        path = place_of(name) or _make(name)
        let_go = hold(path)
    try:
        yield path
    finally:
        let_go()


def place_of(name: Path) -> Path | None:
    """Where the open realm of this name lies, None when there is none."""
    with _changing:
        return next((path for path, found in _places.items() if found.name == name), None)


def hold(path: Path) -> Callable[[], None]:
    """Keep a realm in memory until what is returned is called, by the last holder for its end. Does nothing for other files."""
    with _changing:
        found = _places.get(path)
        if found is None:
            return lambda: None
        found.users += 1
    return lambda: _let_go(path, found)


def _let_go(path: Path, found: _Place) -> None:
    with _changing:
        found.users -= 1
        if not found.users and _places.pop(path, None) is not None:
            _remove(found)


def _make(name: Path) -> Path:
    root = _root()
    _remove_leftovers(root)
    _watch_this_process()
    for _ in range(_ATTEMPTS):
        directory = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=root)).resolve()
        with suppress(FileNotFoundError):
            lock = locked(directory / _IN_USE)
            if lock is not None:
                _places[directory / _FILE] = _Place(name, directory, lock)
                return directory / _FILE
    raise StoreUnusable(f"No directory could be made for the realm {name.name} in {root}.", hint="Try again.")


@functools.cache
def _watch_this_process() -> None:
    """Tidy up at the end of the interpreter, and let no forked child take its parent's realms for its own."""
    atexit.register(_remove_all)
    if sys.platform != "win32":
        os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_forget_all)


def _root() -> Path:
    if sys.platform == "linux" and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


def is_memory() -> bool:
    """Whether such a directory is memory indeed, and not among the temporary files."""
    return _root() == _SHARED_MEMORY


def _prefix() -> str:
    return f"localstore-{_user()}-"


def _user() -> int:
    return os.getuid() if sys.platform != "win32" else 0


def _remove_all() -> None:
    """At the end of the interpreter, for realms that were not closed."""
    with _changing:
        while _places:
            _remove(_places.popitem()[1])


def _forget_all() -> None:
    for found in _places.values():
        os.close(found.lock)  # the parent keeps the lock
    _places.clear()
    _changing.release()


def _remove(found: _Place) -> None:
    if sys.platform == "win32":  # where an open file cannot be removed
        os.close(found.lock)
        shutil.rmtree(found.directory, ignore_errors=True)
    else:
        shutil.rmtree(found.directory, ignore_errors=True)
        os.close(found.lock)


def _remove_leftovers(root: Path) -> None:
    """Remove this user's directories that no living process holds."""
    for directory in root.glob(f"{_prefix()}*"):
        with suppress(OSError):
            known = directory.lstat()
            if not directory.is_symlink() and directory.is_dir() and (sys.platform == "win32" or known.st_uid == _user()):
                _remove_leftover(directory)


def _remove_leftover(directory: Path) -> None:
    if sys.platform == "win32":
        (directory / _IN_USE).unlink()  # refused as long as a process has it open
        shutil.rmtree(directory, ignore_errors=True)
        return
    lock = locked(directory / _IN_USE)
    if lock is not None:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
