"""Connections to a database that holds a log: how they are made, and what is seen to before one is used.

An SQLite file can be exchanged while it is open, as a disk is; so a connection knows which file it has, and is used for
no other.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from localstore.errors import Offline
from localstore_adapters._sql_statements import CLOCK_FUNCTION
from localstore_adapters._sql_url import Address

__all__ = ["WRITES", "gone", "inode_of", "make_engine", "make_file", "open_file"]

WRITES = "localstore_writes"
"""The execution option of a connection whose next transaction writes."""
_OWNERS_ALONE = 0o600
_WAIT_SECONDS = 10  # for a lock, a connection, a host
_POSTGRES_OPTIONS: dict[str, Any] = {
    "connect_timeout": _WAIT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "localstore",
}
_POSTGRES_SETTINGS = f"""
    SET lock_timeout = '{_WAIT_SECONDS}s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '15s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""  # whoever stops in the middle of a transaction lets go of its lock; nothing is acknowledged that is not on the disk


def make_engine(address: Address, connections: int, now_ms: Callable[[], int], patience: float) -> sa.Engine:
    """A pool of connections, none of which is made yet.

    Args:
        address: where to.
        connections: how many.
        now_ms: the clock of an SQLite file.
        patience: how many seconds a server may let nothing be heard.
    """
    options: dict[str, Any] = {
        "poolclass": QueuePool,
        "pool_size": connections,
        "max_overflow": 2,  # whoever holds the connections while others are at work
        "pool_timeout": _WAIT_SECONDS,
        "pool_use_lifo": True,
        "hide_parameters": True,
        "enable_from_linting": False,  # every partition belongs to the one remote there is
    }
    if address.path is None:
        given = address.url.query
        arguments = {name: value for name, value in _POSTGRES_OPTIONS.items() if name not in given}
        engine = sa.create_engine(address.url, connect_args=arguments, **options)
        from localstore.patience import give_up_after  # it needs the driver, and not everybody has that

        give_up_after(engine, patience)
        event.listen(engine, "connect", _prepare_postgres)
        return engine
    path = address.path
    engine = sa.create_engine(address.url, creator=lambda: open_file(path), **options)

    def note_file(connection: Any, record: Any) -> None:
        record.info["inode"] = connection.inode
        connection.create_function(CLOCK_FUNCTION, 0, now_ms)

    def check_file(_: object, record: Any, __: object) -> None:
        inode = inode_of(path)
        if inode is None:
            raise gone(address)
        if inode != record.info["inode"]:
            raise exc.InvalidatePoolError("The file was exchanged.")  # all are made anew

    event.listen(engine, "connect", note_file)
    event.listen(engine, "checkout", check_file)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def inode_of(path: Path) -> tuple[int, int] | None:
    """Which file is at a path; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def gone(address: Address) -> Offline:
    return Offline(
        f"The file {address.shown} is not there. Local data is safe, and what is unsent stays in the outbox.",
        hint="Bring it back; sync then goes on by itself.",
    )


class _File(sqlite3.Connection):
    """A connection that knows which file it has open."""

    inode: tuple[int, int] | None = None


def open_file(path: Path, mode: str = "rw") -> _File:
    """A connection to a file that is there; nothing is made in its place."""
    before = inode_of(path)
    options: dict[str, Any] = {"timeout": _WAIT_SECONDS, "isolation_level": None, "check_same_thread": False, "factory": _File}
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, **options)
    assert isinstance(connection, _File)
    connection.execute("PRAGMA synchronous = FULL")
    connection.inode = inode_of(path)
    if before not in (None, connection.inode):
        connection.close()
        raise sqlite3.OperationalError("it was exchanged while it was opened")
    return connection


def make_file(path: Path) -> None:
    """An SQLite file that is ready for readers beside a writer, if there is none.

    A new one is its owner's alone, with what SQLite lays beside it; who wants to share it tells the system.
    """
    with contextlib.suppress(FileExistsError, FileNotFoundError):  # the folder is missing: said when it is opened
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _OWNERS_ALONE))
    with contextlib.closing(open_file(path, "rwc")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def _prepare_postgres(connection: Any, _: object) -> None:
    try:
        was, connection.autocommit = connection.autocommit, True
        connection.execute(_POSTGRES_SETTINGS)
        connection.autocommit = was
    except BaseException:
        connection.close()  # nobody else does: the pool has not seen it yet
        raise


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")
