"""The cases: each does the same work with localstore and without it, on fresh files with the same pragmas."""

import atexit
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event
from sqlmodel import Field, Session, SQLModel, create_engine, select

from localstore import App, Credentials, Realm, SyncConfiguration, uuid7

__all__ = ["CASES", "Case"]

WAIT_SECONDS = 300
PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "recursive_triggers = ON")
WRITER_PRAGMAS = ("cache_size = -16384", "wal_autocheckpoint = 4000")
"""What a realm's writer has besides: for baselines that are to have the same settings, not SQLite's own."""
UPDATE = "UPDATE reading SET value = ? WHERE id = ?"
INSERT = "INSERT INTO reading (id, sensor, value, count, note) VALUES (?, ?, ?, ?, ?)"


class Reading(SQLModel, table=True):
    """A row as data loggers write it."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    sensor: str
    value: float
    count: int
    note: str | None = None


@dataclass(frozen=True)
class Case:
    """One comparison. Both sides take a fresh directory and a number of rows, and return the seconds the work took."""

    name: str
    baseline_name: str
    rows: int
    subject: Callable[[Path, int], float]
    baseline: Callable[[Path, int], float]


def _changes(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(row[2] + 1, row[0]) for row in rows]


def _objects(count: int) -> list[Reading]:
    return [Reading(sensor=f"sensor {number % 40}", value=number / 7, count=number) for number in range(count)]


def _rows(count: int) -> list[tuple[Any, ...]]:
    return [(uuid7().hex, f"sensor {number % 40}", number / 7, number, None) for number in range(count)]


def _check_point(file: Path) -> None:
    """Bring what was written before into the database itself, lest what is measured next has to."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


class _Stopwatch:
    """Seconds spent inside ``with`` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._began


# -- with localstore


@contextmanager
def _paused_realm(directory: Path, name: str = "device") -> Iterator[Realm]:
    """A synced realm whose session does nothing in the background."""
    remote = (directory / "remote").as_uri().replace("file:", "folder:", 1)
    with closing(App.create("benchmarks", remote=remote)) as app:
        config = SyncConfiguration(app.login(Credentials.anonymous()), schema={Reading}, path=directory / f"{name}.db")
        with Realm.open(config) as realm:
            realm.sync_session.pause()
            yield realm


def _insert(realm: Realm, count: int) -> float:
    rows, watch = _rows(count), _Stopwatch()
    with watch, realm.write() as tx:
        tx.connection().exec_driver_sql(INSERT, rows)
    return watch.seconds


def captured_bulk_insert(directory: Path, count: int) -> float:
    with _paused_realm(directory) as realm:
        return _insert(realm, count)


def captured_updates(directory: Path, count: int) -> float:
    with _paused_realm(directory) as realm:
        rows = _rows(count)
        with realm.write() as tx:
            tx.connection().exec_driver_sql(INSERT, rows)
        _check_point(realm.path)
        changes, watch = _changes(rows), _Stopwatch()
        with watch, realm.write() as tx:
            tx.connection().exec_driver_sql(UPDATE, changes)
    return watch.seconds


def captured_objects(directory: Path, count: int) -> float:
    objects, watch = _objects(count), _Stopwatch()
    with _paused_realm(directory) as realm, watch, realm.write() as tx:
        tx.add_all(objects)
    return watch.seconds


def captured_single_writes(directory: Path, count: int) -> float:
    watch = _Stopwatch()
    with _paused_realm(directory) as realm, watch:
        for number in range(count):
            with realm.write() as tx:
                tx.add(Reading(sensor="sensor", value=number / 7, count=number))
    return watch.seconds


def realm_select(directory: Path, count: int) -> float:
    watch = _Stopwatch()
    with _paused_realm(directory) as realm:
        _insert(realm, count)
        with watch:
            found = realm.exec(select(Reading)).all()
    assert len(found) == count
    return watch.seconds


def receive(directory: Path, count: int) -> float:
    """Pull, decode, merge and commit what another device uploaded, through a folder."""
    watch = _Stopwatch()
    with _paused_realm(directory, "sender") as sender:
        _insert(sender, count)
        sender.sync_session.resume()
        assert sender.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
    with _paused_realm(directory, "receiver") as receiver:
        with watch:
            receiver.sync_session.resume()
            assert receiver.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        assert len(receiver.exec(select(Reading.id)).all()) == count
    return watch.seconds


def opening_a_full_file(directory: Path, count: int) -> float:
    return _opening(_full_file(count))


def opening_an_empty_file(directory: Path, count: int) -> float:
    with _paused_realm(directory):
        pass
    return _opening(directory / "device.db")


def _opening(file: Path) -> float:
    """With a remote that cannot be reached, so that nothing is sent meanwhile."""
    remote = (file.parent / "missing" / "remote").as_uri().replace("file:", "folder:", 1)
    watch = _Stopwatch()
    with closing(App.create("benchmarks", remote=remote)) as app:
        user = app.login(Credentials.anonymous())
        config = SyncConfiguration(user, schema={Reading}, path=file, stop_policy="immediately")
        with watch:
            realm = Realm.open(config)
        realm.close()
    return watch.seconds


@cache
def _full_file(count: int) -> Path:
    """A file with so many rows and, for each 50 of them, an unsent changeset. Made once, as that takes a while."""
    directory = Path(tempfile.mkdtemp(prefix="localstore-benchmark-"))
    atexit.register(shutil.rmtree, directory)
    with _paused_realm(directory) as realm:
        for start in range(0, count, 100_000):
            _insert(realm, min(100_000, count - start))
        for number in range(count // 50):
            with realm.write() as tx:
                tx.connection().exec_driver_sql("UPDATE reading SET count = -1 WHERE rowid = ?", (number + 1,))
    return directory / "device.db"


def import_localstore(directory: Path, count: int) -> float:
    return _import("localstore")


def import_sqlmodel(directory: Path, count: int) -> float:
    return _import("sqlmodel")


def _import(module: str) -> float:
    """Importing in a fresh interpreter, without its own start."""
    code = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8").stdout)


# -- without it


def _plain_engine(directory: Path) -> Engine:
    engine = create_engine(f"sqlite:///{directory / 'plain.db'}")
    event.listen(engine, "connect", lambda connection, _: _set_pragmas(connection, PRAGMAS + WRITER_PRAGMAS))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    SQLModel.metadata.create_all(engine)
    return engine


def _set_pragmas(connection: sqlite3.Connection, pragmas: tuple[str, ...] = PRAGMAS) -> None:
    connection.isolation_level = None
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _plain_file(directory: Path) -> Iterator[sqlite3.Connection]:
    _plain_engine(directory).dispose()
    with closing(sqlite3.connect(directory / "plain.db")) as connection:
        _set_pragmas(connection)
        yield connection


def _execute_many(connection: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(statement, rows)
    connection.execute("COMMIT")


def plain_bulk_insert(directory: Path, count: int) -> float:
    rows, watch = _rows(count), _Stopwatch()
    with _plain_file(directory) as connection, watch:
        _execute_many(connection, INSERT, rows)
    return watch.seconds


def plain_updates(directory: Path, count: int) -> float:
    rows, watch = _rows(count), _Stopwatch()
    with _plain_file(directory) as connection:
        _execute_many(connection, INSERT, rows)
        _check_point(directory / "plain.db")
        changes = _changes(rows)
        with watch:
            _execute_many(connection, UPDATE, changes)
    return watch.seconds


def plain_objects(directory: Path, count: int) -> float:
    engine, objects, watch = _plain_engine(directory), _objects(count), _Stopwatch()
    with watch, Session(engine, expire_on_commit=False) as session:
        session.add_all(objects)
        session.commit()
    engine.dispose()
    return watch.seconds


def plain_single_writes(directory: Path, count: int) -> float:
    engine, watch = _plain_engine(directory), _Stopwatch()
    with watch:
        for number in range(count):
            with Session(engine, expire_on_commit=False) as session:
                session.add(Reading(sensor="sensor", value=number / 7, count=number))
                session.commit()
    engine.dispose()
    return watch.seconds


def plain_select(directory: Path, count: int) -> float:
    plain_bulk_insert(directory, count)
    engine, watch = _plain_engine(directory), _Stopwatch()
    with watch, Session(engine) as session:
        found = session.exec(select(Reading)).all()
    engine.dispose()
    assert len(found) == count
    return watch.seconds


CASES = (
    Case("rows in one write()", "sqlite3 executemany", 100_000, captured_bulk_insert, plain_bulk_insert),
    Case("single-column updates in one write()", "sqlite3 executemany", 100_000, captured_updates, plain_updates),
    Case("objects by tx.add_all", "SQLModel session", 20_000, captured_objects, plain_objects),
    Case("one-row write()s", "SQLModel sessions", 2_000, captured_single_writes, plain_single_writes),
    Case("rows selected", "SQLModel session", 100_000, realm_select, plain_select),
    Case("rows received through a folder", "sqlite3 executemany", 100_000, receive, plain_bulk_insert),
    Case("rows, a 50th of it unsent: open", "open an empty file", 1_000_000, opening_a_full_file, opening_an_empty_file),
    Case("import of localstore", "import of sqlmodel", 1, import_localstore, import_sqlmodel),
)
