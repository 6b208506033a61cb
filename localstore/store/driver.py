"""The two SQLite drivers: the standard library's for plain files, SQLCipher's for encrypted ones.

The only place that knows that there are two. Their connections have the same methods, so the rest of the store writes
``sqlite3.Connection`` for either; their error classes have nothing in common, so ``except`` clauses ask here for them.

Each driver brings an SQLite library of its own, and two of them must never have the same file open in one process: when
either closes it, the operating system drops the locks of both (https://www.sqlite.org/howtocorrupt.html §2.2.1). So
whoever opens a store claims its file for one of them.
"""

from __future__ import annotations

import functools
import importlib
import os
import sqlite3
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import cast

from localstore.errors import StoreUnusable
from localstore.store.failures import ANOTHER_FILE
from localstore.store.forking import connection_class, left_behind

__all__ = [
    "NO_PAGE_LIMIT",
    "check_encrypts",
    "claim",
    "connect",
    "driver_errors",
    "driver_module",
    "release",
    "unlock",
    "unreadable",
]

_CIPHER = "sqlcipher3.dbapi2"
NO_PAGE_LIMIT = "max_page_count=4294967294"
"""A pragma for before ``VACUUM``, which takes a damaged page number above that limit for a disk that is full."""
_COMPATIBILITY = 4  # SQLCipher's file format: said, as a later SQLCipher may have another default

_claims: dict[Path, list[bool]] = {}  # for each open store of a file whether it is encrypted; of the process, as its locks are
_claiming = threading.Lock()
_parents: list[Path] = []
"""Files that were open when this process was forked."""


def driver_errors(*names: str, also: type[Exception] | None = None) -> tuple[type[Exception], ...]:
    """Both drivers' error classes of these names, such as ``IntegrityError``, and one more; for ``except`` clauses."""
    modules = [sqlite3, *filter(None, [sys.modules.get(_CIPHER)])]
    classes = tuple(getattr(module, name) for module in modules for name in names)
    return classes if also is None else (*classes, also)


def driver_module(key: bytes | None) -> ModuleType:
    """The driver for files with this key; None is a plain file.

    Raises:
        ImportError: encryption needs an extra that is not installed.
    """
    if key is None:
        return sqlite3
    try:
        module = importlib.import_module(_CIPHER)
    except ImportError as error:
        raise ImportError(
            "An encryption_key needs SQLCipher. Nothing was opened. Install it: pip install 'localstore-sync[cipher]'"
        ) from error
    check_encrypts(module)
    return module


def check_encrypts(module: ModuleType) -> None:
    """Refuse a driver that was built with a plain SQLite, which takes every key and encrypts nothing.

    Raises:
        ImportError: it is one.
    """
    with closing(module.connect(":memory:")) as connection:
        if connection.execute("PRAGMA cipher_version").fetchone() is None:
            raise ImportError(
                "The installed sqlcipher3 was built without SQLCipher and would not encrypt. Nothing was opened."
                " Install it from its wheel: pip install --force-reinstall --only-binary sqlcipher3 'localstore-sync[cipher]'"
            )


def connect(path: Path, key: bytes | None, *, timeout: float = 5.0) -> sqlite3.Connection:
    """A connection of one's own to a file, in autocommit; nothing is read yet.

    Args:
        key: the file's key, None for a plain file.
        timeout: seconds to wait for another program's lock.
    """
    module = driver_module(key)
    connection = module.connect(str(path), isolation_level=None, timeout=timeout, factory=connection_class(module))
    if key is not None:
        unlock(connection, key)
    return cast("sqlite3.Connection", connection)


def unlock(connection: sqlite3.Connection, key: bytes) -> None:
    """Give a new connection the key, before anything else is done with it.

    Done here and not through SQLAlchemy, which may log what it executes. What SQLite would put into temporary files stays in
    memory, as SQLCipher encrypts the database and its journals, and nothing else.
    """
    connection.execute("PRAGMA cipher_log_level = NONE")  # it prints on stderr what we raise
    connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
    connection.execute(f"PRAGMA cipher_compatibility = {_COMPATIBILITY}")
    connection.execute("PRAGMA temp_store = MEMORY")


def unreadable(path: Path, key: bytes | None) -> StoreUnusable:
    """The error for a file of which SQLite said that it is no database: what it may be instead, and what helps."""
    if key is None:
        return StoreUnusable(
            f"{path} is not a usable SQLite database: it is encrypted, or something else. It was not changed.",
            hint=f"If it is encrypted, open it with its encryption_key; {ANOTHER_FILE}",
        )
    if _is_plain(path):
        return StoreUnusable(
            f"{path} is not encrypted, but an encryption_key was given. It was not changed.",
            hint="Open it without encryption_key; write_copy_to(LocalConfiguration(..., encryption_key=...)) makes an"
            " encrypted copy.",
        )
    return StoreUnusable(
        f"{path} cannot be read with this encryption_key: it has another key, or is damaged. It was not changed.",
        hint=f"Open it with the key that it was made with; {ANOTHER_FILE}",
    )


def claim(path: Path, *, encrypted: bool) -> None:
    """Note that a store opens the file; ``release`` when it is closed.

    Raises:
        StoreUnusable: it is open in this process with the other driver.
        ForkedProcess: this process was forked while any file was open.
    """
    _watch_forks()
    if _parents:
        raise left_behind(path)
    with _claiming:
        claims = _claims.setdefault(path, [])
        if (not encrypted) in claims:
            how = "without an encryption_key, so it cannot be opened with one" if encrypted else "with an encryption_key"
            raise StoreUnusable(
                f"{path} is already open in this process {how}. It was not changed.",
                hint="Give every realm on a file the same encryption_key, or close the others first.",
            )
        claims.append(encrypted)


def release(path: Path, *, encrypted: bool) -> None:
    """A store that claimed the file has closed it."""
    with _claiming:
        _claims[path].remove(encrypted)
        if not _claims[path]:
            del _claims[path]


@functools.cache
def _watch_forks() -> None:
    """Let a forked child know what was open, whatever other threads are doing at that moment."""
    if sys.platform != "win32":
        os.register_at_fork(before=_claiming.acquire, after_in_parent=_claiming.release, after_in_child=_leave_claims)


def _leave_claims() -> None:
    _parents.extend(_claims)
    _claiming.release()


def _is_plain(path: Path) -> bool:
    """Whether SQLite can read the file without a key. Asked of SQLCipher's library, which has it open; takes no lock."""
    module = importlib.import_module(_CIPHER)
    with suppress(module.Error), closing(module.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()
        return True
    return False
