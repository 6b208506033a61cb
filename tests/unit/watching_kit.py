"""What SQLite does for a store: the statements it runs, the steps it takes and the bytes it writes, counted and not timed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from localstore import wire
from localstore.changes import Changeset, Op, RowGroup
from tests.unit.store_kit import other_program


@contextmanager
def each_connection(prepare: Callable[[sqlite3.Connection], None]) -> Iterator[None]:
    """Have every connection that SQLAlchemy makes meanwhile prepared before it is used."""

    def connected(driver: sqlite3.Connection, _record: object) -> None:
        prepare(driver)

    sa.event.listen(sa.Engine, "connect", connected)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "connect", connected)


def keep_log(connection: sqlite3.Connection) -> None:
    """Let the WAL grow, so that its size says how much was written."""
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def wal_bytes(path: Path) -> int:
    """How many bytes lie in the WAL."""
    return path.with_name(f"{path.name}-wal").stat().st_size


@dataclass
class Work:
    """What connections did.

    Attributes:
        steps: instructions of SQLite's virtual machine, which are as many for the same work on the same data.
        statements: in order, those inside of triggers too.
        changes: rows written by each transaction that was committed.
    """

    steps: int = 0
    statements: list[str] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    _begun: dict[int, int] = field(default_factory=dict)

    def watch(self, connection: sqlite3.Connection) -> None:
        def step() -> None:
            self.steps += 1

        def run(sql: str) -> None:
            self.statements.append(sql)
            verb = sql.split(maxsplit=1)[0].upper()
            if verb == "BEGIN":
                self._begun[id(connection)] = connection.total_changes
            elif verb == "COMMIT":
                self.changes.append(connection.total_changes - self._begun[id(connection)])

        connection.set_progress_handler(step, 1)
        connection.set_trace_callback(run)


@contextmanager
def work() -> Iterator[Work]:
    """What the connections do that are made from here on."""
    found = Work()
    with each_connection(found.watch):
        yield found


def fill_outbox(path: Path, count: int) -> None:
    """As many unsent changesets as a long time offline leaves."""
    with other_program(path) as connection:
        (device,) = connection.execute("SELECT device FROM localstore_state").fetchone()
        rows = []
        for number in range(1, count + 1):
            group = RowGroup("note", Op.INSERT, ("id",), ("title", "stars"), [[f"{number:08}"], ["unsent"], [number]])
            data = wire.encode(wire.seal(Changeset(device, number, number, (), (group,))))
            rows.append((number, number, 1, len(data), '{"note": 1}', data))
        connection.execute("BEGIN")
        into = "INSERT INTO localstore_outbox (number, stamp, rows, bytes, tables, sealed) VALUES (?, ?, ?, ?, ?, ?)"
        connection.executemany(into, rows)
        connection.execute("COMMIT")
