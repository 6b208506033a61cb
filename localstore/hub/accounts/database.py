"""The accounts' database as one value: transactions for functions of a connection, run where they hold up no event loop.

Any SQL database of the two kinds will do, the hub's log's too. What the functions do is none of its business. No error of it
holds the URL's password.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from localstore.environment import Environment
from localstore.errors import Busy
from localstore.urls import redacted, split_url

__all__ = ["Database"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_AT_ONCE = 5
"""How many transactions one process has open at most; the others wait."""
_WAIT_SECONDS = 10
_PATIENCE_SECONDS = 40.0
"""Longer than a statement may take; a server of which nothing is heard for so long, as it is frozen, is given up."""
_POSTGRES_LIMITS = f"-c lock_timeout={_WAIT_SECONDS}s -c statement_timeout=30s -c idle_in_transaction_session_timeout=30s"


class Database:
    """A pool of connections. ``read`` and ``write`` are for event loops, ``reading`` and ``writing`` for everybody else."""

    def __init__(self, url: str, environment: Environment) -> None:
        """Nothing is connected yet.

        Raises:
            ValueError: the URL names no database of the two kinds.
            ImportError: the driver is not installed; the message has the command.
        """
        self._run = environment.run_blocking
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._engine = _postgres(url) if split_url(url).scheme.partition("+")[0] == "postgresql" else _sqlite(url)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads.

        Raises:
            Busy: the database could not be asked.
        """
        with _errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end of the block. On SQLite nobody else writes meanwhile.

        Raises:
            Busy: the database could not be asked.
        """
        with _errors(), self._engine.connect() as connection:
            connection.execution_options(localstore_writes=True)
            with connection.begin():
                yield connection

    async def read(self, function: Callable[Concatenate[sa.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What a function of a connection returns, in a transaction that only reads; raises what ``reading`` raises."""

        def call() -> _T:
            with self.reading() as connection:
                return function(connection, *args, **kwargs)

        return await self._in_turn(call)

    async def write(self, function: Callable[Concatenate[sa.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The same in a transaction that writes."""

        def call() -> _T:
            with self.writing() as connection:
                return function(connection, *args, **kwargs)

        return await self._in_turn(call)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    async def _in_turn(self, call: Callable[[], _T]) -> _T:
        async with self._turns:
            result: _T = await self._run(call)
            return result


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (exc.OperationalError, exc.ProgrammingError, exc.InterfaceError, exc.TimeoutError) as error:
        if _lacks_table(error):
            message = "The accounts are not there: their database was emptied, or is being restored."
            raise Busy(message, retry_after=1.0) from error
        is_statements = getattr(getattr(error, "orig", None), "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        if is_statements or isinstance(error, exc.ProgrammingError):  # the statement's own fault
            raise
        raise Busy("The accounts cannot be asked now: their database does not answer, or is busy.", retry_after=1.0) from error


def _lacks_table(error: exc.SQLAlchemyError) -> bool:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) == "42P01" or "no such table" in str(cause)


def _postgres(url: str) -> sa.Engine:
    if importlib.util.find_spec("psycopg") is None:
        raise ImportError("Accounts in PostgreSQL need psycopg: pip install 'localstore-sync[postgres]'")
    parsed = _parsed(url)
    options = f"{_POSTGRES_LIMITS} {parsed.query.get('options', '')}"  # what the URL says goes before
    engine = sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=_AT_ONCE,
        max_overflow=0,
        pool_timeout=_WAIT_SECONDS,
        pool_pre_ping=True,  # a restarted server is nobody's business
        connect_args={"connect_timeout": _WAIT_SECONDS, "options": options},
        hide_parameters=True,
    )
    from localstore.patience import give_up_after  # it needs the driver

    give_up_after(engine, _PATIENCE_SECONDS)
    return engine


def _sqlite(url: str) -> sa.Engine:
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise ValueError(_wrong(url))
    path = Path(parsed.database).absolute()
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), pool_size=_AT_ONCE, max_overflow=0, hide_parameters=True
    )

    @event.listens_for(engine, "do_connect")
    def keep_private(_: object, record: Any, *__: object) -> None:
        _keep_private(path)
        record.info["file"] = _file_at(path)

    @event.listens_for(engine, "checkout")
    def check_file(_: object, record: Any, __: object) -> None:
        if record.info["file"] != _file_at(path):
            raise exc.InvalidatePoolError("The file was exchanged, as when a backup is put back.")

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins transactions, see below
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000}")
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("localstore_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file is at a path, None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _keep_private(path: Path) -> None:
    """The file, and what SQLite lays beside it, is the owner's alone: it has password hashes in it."""
    if not path.parent.is_dir():
        raise ValueError(f"The folder of {path} does not exist. Make it first.")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        file = path.with_name(name)
        if file.exists() and file.stat().st_mode & 0o077 and os.name == "posix":
            file.chmod(file.stat().st_mode & 0o700)


def _parsed(url: str) -> sa.URL:
    parsed: Any = None
    with suppress(exc.ArgumentError, ValueError):  # whose text must not come along as context
        parsed = sa.make_url(url)
    if not isinstance(parsed, sa.URL):
        raise ValueError(_wrong(url))
    return parsed


def _wrong(url: str) -> str:
    return f"{redacted(url)!r} is no URL of a database. Write it as 'sqlite:///hub.db' or 'postgresql://host/name'."
