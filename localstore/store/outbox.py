"""The outbox: changesets that the remote has not acknowledged, oldest first, one row each."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from localstore import wire
from localstore.changes import Changeset, RowGroup
from localstore.clock import stamp_ms, stamp_time
from localstore.store.stored import read_sealed
from localstore.wire import SealedChangeset

__all__ = [
    "Pending",
    "PendingChangeset",
    "acknowledge",
    "acknowledged",
    "add",
    "batch",
    "last_pending",
    "pending",
    "refuse",
    "totals",
]


@dataclass(frozen=True, slots=True)
class PendingChangeset:
    """An unsent changeset, as ``realm.pending()`` lists it.

    Attributes:
        number: which of this device's changesets it is.
        stamp: its place in the order of all changes; ``time`` is the same for people.
        tables: how many rows it changes, by table.
        byte_count: about its size on the wire.
        age: seconds since it was written, by this device's clock.
        last_error: why it was not sent when that was tried last; None when nothing went wrong since.
    """

    number: int
    stamp: int
    tables: Mapping[str, int]
    byte_count: int
    age: float
    last_error: str | None = None

    @property
    def rows(self) -> int:
        """How many rows it changes."""
        return sum(self.tables.values())

    @property
    def time(self) -> str:
        return stamp_time(self.stamp).isoformat()


@dataclass(frozen=True, slots=True)
class Pending:
    """How much the remote has not acknowledged.

    Attributes:
        changesets: how many; a transaction each.
        byte_count: their size on the wire.
        acknowledged: the highest number that was acknowledged, 0 for none.
        unsealed: whether another program wrote to the file and nothing has sealed that yet.
    """

    changesets: int = 0
    byte_count: int = 0
    acknowledged: int = 0
    unsealed: bool = False

    def __bool__(self) -> bool:
        return self.changesets > 0 or self.unsealed


def totals(connection: sqlite3.Connection, *, unsealed: bool) -> Pending:
    """What is unsent, without a list of it."""
    count, size = connection.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM localstore_outbox").fetchone()
    return Pending(count, size, acknowledged(connection), unsealed)


def add(connection: sqlite3.Connection, sealed: SealedChangeset, groups: Iterable[RowGroup]) -> None:
    """Put a changeset in, whose groups of changes are given beside its sealed form."""
    tables: dict[str, int] = {}
    for group in groups:
        tables[group.table] = tables.get(group.table, 0) + group.row_count
    data = wire.encode(sealed)
    connection.execute(
        "INSERT INTO localstore_outbox (number, stamp, rows, bytes, tables, sealed) VALUES (?, ?, ?, ?, ?, ?)",
        (sealed.number, sealed.stamp, sealed.rows, sealed.byte_count, msgspec.json.encode(tables).decode(), data),
    )


def pending(connection: sqlite3.Connection, *, now_ms: int, last_error: str | None = None) -> list[PendingChangeset]:
    """All unsent changesets, oldest first. ``last_error`` is the session's."""
    return [
        PendingChangeset(number, stamp, json.loads(tables), size, max(0, now_ms - stamp_ms(stamp)) / 1000, last_error)
        for number, stamp, tables, size in connection.execute(
            "SELECT number, stamp, tables, bytes FROM localstore_outbox ORDER BY number"
        )
    ]


def last_pending(connection: sqlite3.Connection) -> int | None:
    """The highest unsent number, None when everything was acknowledged."""
    row = connection.execute("SELECT max(number) FROM localstore_outbox").fetchone()
    return None if row[0] is None else int(row[0])


def acknowledged(connection: sqlite3.Connection) -> int:
    """The highest number that was acknowledged, 0 for none."""
    row = connection.execute(
        "SELECT coalesce((SELECT min(number) FROM localstore_outbox) - 1, last_number) FROM localstore_state"
    ).fetchone()
    return int(row[0])


def batch(connection: sqlite3.Connection, *, max_bytes: int, max_count: int) -> list[SealedChangeset]:
    """The oldest unsent changesets within the limits; at least one when there is any."""
    found: list[SealedChangeset] = []
    total = 0
    for size, data in connection.execute("SELECT bytes, sealed FROM localstore_outbox ORDER BY number LIMIT ?", (max_count,)):
        total += size
        if found and total > max_bytes:
            break
        found.append(read_sealed(data))
    return found


def acknowledge(connection: sqlite3.Connection, number: int, *, limit: int) -> int:
    """Let go of what the remote has, up to ``number``, but of no more than ``limit`` changesets; returns how many.

    What the clocks do not know yet stays, whatever the remote says: it was written since.
    """
    known = "number <= ? AND number <= (SELECT folded FROM localstore_state)"
    oldest = f"SELECT number FROM localstore_outbox WHERE {known} ORDER BY number LIMIT ?"
    return connection.execute(f"DELETE FROM localstore_outbox WHERE number IN ({oldest})", (number, limit)).rowcount


def refuse(connection: sqlite3.Connection, number: int, reason: str) -> None:
    """Set a changeset aside that the remote will never take. Its rows stay as they are until they are put back to what the
    remote has, see ``store.undoing``.

    An empty one goes in its place, so that no other device waits for its number for ever.
    """
    row = connection.execute("SELECT stamp, sealed FROM localstore_outbox WHERE number = ?", (number,)).fetchone()
    if row is None:
        return
    stamp, data = row
    original = read_sealed(data)
    depends = wire.unseal(original).depends
    # OR IGNORE: when the empty one is refused as well, the original must not make room for it
    connection.execute(
        "INSERT OR IGNORE INTO localstore_aside (device, number, reason, sealed, undo) VALUES (?, ?, ?, ?, 1)",
        (original.device, number, reason, data),
    )
    empty = wire.seal(Changeset(original.device, number, stamp, depends, ()))
    connection.execute(
        "UPDATE localstore_outbox SET rows = 0, tables = '{}', bytes = ?, sealed = ? WHERE number = ?",
        (empty.byte_count, wire.encode(empty), number),
    )
