"""What the cases share: a table, rows for it, a stopwatch, and the baselines, which do the work without localstore."""

import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event
from sqlmodel import Field, Session, SQLModel, create_engine, select

from localstore import uuid7

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
    """One comparison. Both sides take a fresh directory and a number of rows, and return the seconds the work took, or, where
    the unit is ``MB`` or ``kB``, bytes, of the disk or of memory as the name says, or, where it is ``%``, a part of the
    processor's time.

    ``aim`` is what the project set itself, where it is no ratio.
    """

    name: str
    baseline_name: str
    rows: int
    subject: Callable[[Path, int], float]
    baseline: Callable[[Path, int], float]
    unit: str = "ms"
    aim: str = ""


def new_values(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(row[2] + 1, row[0]) for row in rows]


def new_objects(count: int) -> list[Reading]:
    return [Reading(sensor=f"sensor {number % 40}", value=number / 7, count=number) for number in range(count)]


def new_rows(count: int) -> list[tuple[Any, ...]]:
    return [(uuid7().hex, f"sensor {number % 40}", number / 7, number, None) for number in range(count)]


def check_point(file: Path) -> None:
    """Bring what was written before into the database itself, lest what is measured next has to."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


class Stopwatch:
    """Seconds spent inside ``with`` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._began


def percentile(values: Sequence[float], hundredth: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[hundredth - 1] if len(values) > 1 else values[0]


# -- the baselines


def plain_engine(directory: Path) -> Engine:
    engine = create_engine(f"sqlite:///{directory / 'plain.db'}")
    event.listen(engine, "connect", lambda connection, _: set_pragmas(connection, PRAGMAS + WRITER_PRAGMAS))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    SQLModel.metadata.create_all(engine)
    return engine


def set_pragmas(connection: sqlite3.Connection, pragmas: tuple[str, ...] = PRAGMAS) -> None:
    connection.isolation_level = None
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def plain_file(directory: Path) -> Iterator[sqlite3.Connection]:
    plain_engine(directory).dispose()
    with closing(sqlite3.connect(directory / "plain.db")) as connection:
        set_pragmas(connection)
        yield connection


def execute_many(connection: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(statement, rows)
    connection.execute("COMMIT")


def plain_bulk_insert(directory: Path, count: int) -> float:
    rows, watch = new_rows(count), Stopwatch()
    with plain_file(directory) as connection, watch:
        execute_many(connection, INSERT, rows)
    return watch.seconds


def plain_updates(directory: Path, count: int) -> float:
    rows, watch = new_rows(count), Stopwatch()
    with plain_file(directory) as connection:
        execute_many(connection, INSERT, rows)
        check_point(directory / "plain.db")
        changes = new_values(rows)
        with watch:
            execute_many(connection, UPDATE, changes)
    return watch.seconds


def plain_objects(directory: Path, count: int) -> float:
    engine, objects, watch = plain_engine(directory), new_objects(count), Stopwatch()
    with watch, Session(engine, expire_on_commit=False) as session:
        session.add_all(objects)
        session.commit()
    engine.dispose()
    return watch.seconds


def plain_single_writes(directory: Path, count: int) -> float:
    engine, watch = plain_engine(directory), Stopwatch()
    with watch:
        for number in range(count):
            with Session(engine, expire_on_commit=False) as session:
                session.add(Reading(sensor="sensor", value=number / 7, count=number))
                session.commit()
    engine.dispose()
    return watch.seconds


def plain_select(directory: Path, count: int) -> float:
    plain_bulk_insert(directory, count)
    engine, watch = plain_engine(directory), Stopwatch()
    with watch, Session(engine) as session:
        found = session.exec(select(Reading)).all()
    engine.dispose()
    assert len(found) == count
    return watch.seconds
