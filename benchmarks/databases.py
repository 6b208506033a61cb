"""What a log in an SQL database costs, against plain inserts of the same bytes into a table with a key.

No realm: the adapter alone. For PostgreSQL a server is started as the tests do it, with data safe on the disk at each commit.
"""

import asyncio
import atexit
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.kit import Case, Stopwatch
from localstore.adapter import Hello, Limit
from localstore.testing.conformance import make_changeset
from localstore.wire import SealedChangeset, encode
from localstore_adapters.sql import SqlAdapter, migrate
from tests.postgres_server import PostgresServer, running

__all__ = ["CASES", "Database", "in_file", "on_server", "plain_commits"]

WRITER, READER = b"W" * 16, b"R" * 16
BATCH_COUNT = 1_000
PLAIN = "CREATE TABLE plain (position INTEGER PRIMARY KEY, device {blob}, number INTEGER, sealed {blob})"
INSERT = "INSERT INTO plain (position, device, number, sealed) VALUES (?, ?, ?, ?)"
_numbers = itertools.count()
Database = Callable[[Path], Any]
"""Where a log can be: gives a URL for as long as it is entered."""


@contextmanager
def in_file(directory: Path) -> Iterator[str]:
    yield f"sqlite:///{directory / 'log.db'}"


@cache
def _server() -> PostgresServer:
    """One for all, as starting it takes longer than most cases."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running())


@contextmanager
def on_server(_: Path) -> Iterator[str]:
    """A database of its own."""
    server, name = _server(), f"log_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    migrate(server.url(name))
    yield server.url(name)


def new_changesets(count: int) -> list[SealedChangeset]:
    return [make_changeset(WRITER, number) for number in range(1, count + 1)]


def pushed(database: Database, size: int) -> Callable[[Path, int], float]:
    """One device pushes one-row changesets, so many at once."""

    def subject(directory: Path, count: int) -> float:
        changesets, watch = new_changesets(count), Stopwatch()

        async def story(url: str) -> None:
            adapter = SqlAdapter.from_url(url)
            await adapter.connect(Hello(app="benchmarks", partition="default", device=WRITER))
            with watch:
                for first in range(0, count, size):
                    await adapter.push(changesets[first : first + size])
            await adapter.close()

        with database(directory) as url:
            asyncio.run(story(url))
        return watch.seconds

    return subject


def pulled(database: Database) -> Callable[[Path, int], float]:
    """Another device pulls all of it."""

    def subject(directory: Path, count: int) -> float:
        changesets, watch = new_changesets(count), Stopwatch()

        async def story(url: str) -> int:
            writer, reader = SqlAdapter.from_url(url), SqlAdapter.from_url(url)
            for adapter, device in ((writer, WRITER), (reader, READER)):
                await adapter.connect(Hello(app="benchmarks", partition="default", device=device))
            for first in range(0, count, BATCH_COUNT):
                await writer.push(changesets[first : first + BATCH_COUNT])
            cursor, more, received = None, True, 0
            with watch:
                while more:
                    page = await reader.pull(cursor, Limit())
                    cursor, more, received = page.cursor, page.more, received + len(page.changesets)
            await writer.close()
            await reader.close()
            return received

        with database(directory) as url:
            assert asyncio.run(story(url)) == count
        return watch.seconds

    return subject


@contextmanager
def plain_table(database: Database, directory: Path) -> Iterator[tuple[Any, str]]:
    """A connection of the driver's to a plain table, and its insert."""
    with database(directory) as url:
        if url.startswith("sqlite"):
            with closing(sqlite3.connect(directory / "plain.db", isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(PLAIN.format(blob="BLOB"))
                yield connection, INSERT
            return
        import psycopg

        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute(PLAIN.format(blob="BYTEA"))
            yield connection, INSERT.replace("?", "%s")


def plainly_written(database: Database, size: int) -> Callable[[Path, int], float]:
    """The same bytes, so many rows in a transaction."""

    def baseline(directory: Path, count: int) -> float:
        rows, watch = _rows(count), Stopwatch()
        with plain_table(database, directory) as (connection, insert), watch:
            for first in range(0, count, size):
                _insert(connection, insert, rows[first : first + size])
        return watch.seconds

    return baseline


def plain_commits(database: Database, directory: Path, count: int) -> list[float]:
    """The seconds that each of so many inserts of a changeset took, each a transaction."""
    rows, found = _rows(count), []
    with plain_table(database, directory) as (connection, insert):
        for row in rows:
            begun = time.perf_counter()
            connection.execute(insert, row)
            found.append(time.perf_counter() - begun)
    return found


def plainly_read(database: Database) -> Callable[[Path, int], float]:
    """The same bytes in the order of their key."""

    def baseline(directory: Path, count: int) -> float:
        watch = Stopwatch()
        with plain_table(database, directory) as (connection, insert):
            _insert(connection, insert, _rows(count))
            with watch:
                assert len(connection.execute("SELECT position, sealed FROM plain ORDER BY position").fetchall()) == count
        return watch.seconds

    return baseline


def _rows(count: int) -> list[tuple[Any, ...]]:
    return [(sealed.number, WRITER, sealed.number, encode(sealed)) for sealed in new_changesets(count)]


def _insert(connection: Any, insert: str, rows: list[tuple[Any, ...]]) -> None:
    if len(rows) == 1:
        connection.execute(insert, rows[0])  # a transaction by itself
        return
    connection.execute("BEGIN")
    connection.cursor().executemany(insert, rows)
    connection.execute("COMMIT")


def _cases(name: str, database: Database) -> tuple[Case, ...]:
    one_by_one, at_once = "plain inserts, each committed", "plain inserts in transactions of 1,000"
    return (
        Case(f"pushes of one changeset, {name}", one_by_one, 500, pushed(database, 1), plainly_written(database, 1)),
        Case(
            f"changesets pushed by the thousand, {name}",
            at_once,
            10_000,
            pushed(database, BATCH_COUNT),
            plainly_written(database, BATCH_COUNT),
        ),
        Case(f"changesets pulled, {name}", "selecting the same rows", 10_000, pulled(database), plainly_read(database)),
    )


CASES = (*_cases("SQLite", in_file), *_cases("PostgreSQL", on_server))
