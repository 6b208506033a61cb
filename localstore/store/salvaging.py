"""Reading what a damaged file has not sent: its identity, and those changesets of its outbox that are as they were written.

Rows are read one by one, from both ends, and by number in between, as SQLite gives up at the first page that makes no sense to
it. A disk that could not be read for a moment looks the same to it, so that what seems to be lost is looked for again. What
becomes of it is not known here.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localstore.errors import DiskFailed, DiskFull, LocalStoreError, StoreBusy, StoreDamaged, StoreUnusable
from localstore.store.driver import connect, driver_errors
from localstore.store.failures import A_WAY_OUT, failure
from localstore.store.state import State
from localstore.store.stored import read_sealed
from localstore.wire import SealedChangeset

__all__ = ["Salvaged", "read_damaged"]

_LOOKED_AHEAD = 1000
"""Numbers without a row, or whose row cannot be read, after which nothing more is looked for where the end cannot be read."""
_NUMBERS_MAX = 1_000_000
"""Up to which number each is looked for, should the file say that there are so many."""
_TRIES = 5  # of a file that reads otherwise each time
_CHUNK_BYTES = 1 << 20
_STATE = """SELECT device, app, partition, user, last_number, last_stamp, folded, purged, remote_id, cursor, reads_again <> 0
    FROM localstore_state"""


@dataclass
class Salvaged:
    """What could be read.

    Attributes:
        state: of the file.
        unsent: changesets that the file does not know to be at the remote, in order.
        lost: numbers of those between and before them that could not be read, and why.
        rest: a number from which on there may be others that cannot be read, and why; None where the end is known.
        acknowledged: the highest number that the remote has acknowledged; 0 where that cannot be read.
    """

    state: State
    unsent: list[SealedChangeset] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    rest: tuple[int, str] | None = None
    acknowledged: int = 0


def read_damaged(path: Path, key: bytes | None) -> Salvaged:
    """Read what can be read of a file that nobody has open.

    Raises:
        FileNotFoundError: there is none.
        StoreDamaged: not even whose it is can be read.
        StoreUnusable: it does not sync.
        DiskFailed, DiskFull, StoreBusy: the disk cannot be read just now, or SQLite has no room beside the file.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    before: Salvaged | None = None
    for _ in range(_TRIES):
        found = _read(path, key)
        if found == before or not (found.lost or found.rest):
            return found
        _read_through(path)
        before = found
    raise _unread(path, "it is another one each time")


def _read_through(path: Path) -> None:
    """See that the disk can be read: SQLite takes a read that failed for damage."""
    for name in (path.name, f"{path.name}-wal"):
        try:
            with path.with_name(name).open("rb", buffering=0) as file:
                while file.read(_CHUNK_BYTES):
                    pass
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unread(path, error) from error


def _unread(path: Path, why: object) -> DiskFailed:
    return DiskFailed(
        f"The disk that holds {path} could not be read ({why}). Nothing was sent.",
        hint="See whether it is still connected, and try again. If it is broken, copy what can be read of the file and of what"
        " lies beside it to another one, and salvage that.",
    )


def _read(path: Path, key: bytes | None) -> Salvaged:
    """Read what can be read at this moment."""
    try:
        opened = connect(path, key)
    except driver_errors("DatabaseError") as error:
        raise _of_disk(error, path) or _beyond_reading(path, error) from error
    with closing(opened) as connection:
        salvaged = Salvaged(_state(connection, path))
        reading = _Reading(connection, salvaged.state.last_number)
        for number, data in sorted(reading.rows()):
            sealed = _as_written(number, data)
            if isinstance(sealed, str):
                salvaged.lost[number] = sealed
            else:
                salvaged.unsent.append(sealed)
        if salvaged.unsent and salvaged.unsent[-1].device != salvaged.state.device:  # the digest is that of a changeset alone
            salvaged.state = replace(salvaged.state, device=salvaged.unsent[-1].device)
        salvaged.lost.update(reading.unreadable)
        salvaged.rest = reading.rest
        if reading.first is not None:
            salvaged.acknowledged = reading.first - 1
    return salvaged


def _as_written(number: object, data: object) -> SealedChangeset | str:
    """A changeset, or why it is none."""
    if not isinstance(data, bytes):
        return "It is not there any more."
    try:
        sealed = read_sealed(data)
    except StoreDamaged as error:
        return str(error.__cause__)
    return sealed if sealed.number == number else f"In its place is number {sealed.number}."


def _state(connection: sqlite3.Connection, path: Path) -> State:
    try:
        row = _row_of_state(connection, path)
    except driver_errors("DatabaseError"):
        connection.execute("PRAGMA writable_schema = ON")  # then SQLite also reads a file that is shorter than it should be
        try:
            row = connection.execute(_STATE).fetchone()
        except driver_errors("DatabaseError") as error:
            raise _of_disk(error, path) or _beyond_reading(path, error) from error
    if row is None or not isinstance(row[0], bytes) or not isinstance(row[4], int):
        raise _beyond_reading(path, "its identity is gone")
    return State(*row)


def _row_of_state(connection: sqlite3.Connection, path: Path) -> Any:
    try:
        return connection.execute(_STATE).fetchone()
    except driver_errors("OperationalError") as error:
        if "no such table" not in str(error):
            raise
        raise StoreUnusable(
            f"{path} is no synced file, and has nothing to send.", hint="Name the file that is damaged."
        ) from error


def _of_disk(error: Exception, path: Path) -> LocalStoreError | None:
    """What SQLite does not call damage, if it is so."""
    told = failure(getattr(error, "sqlite_errorname", ""), str(error), path)
    return told if isinstance(told, DiskFull | DiskFailed | StoreBusy) else None


def _beyond_reading(path: Path, why: object) -> StoreDamaged:
    return StoreDamaged(f"{path} is damaged so that not even whose it is can be read ({why}).", hint=A_WAY_OUT)


class _Reading:
    """The outbox of a file, row by row.

    Attributes:
        first: the number that it begins with, None when it is empty or that cannot be read.
        unreadable: numbers whose rows cannot be read, and why.
        rest: the number from which on none can, where nobody knows how many there are, and why.
    """

    def __init__(self, connection: sqlite3.Connection, left: int) -> None:
        self._connection = connection
        self._left = min(left, _NUMBERS_MAX)  # the last number that left the outbox, as a rule
        self._is_whole = False
        self.first: int | None = None
        self.unreadable: dict[int, str] = {}
        self.rest: tuple[int, str] | None = None

    def rows(self) -> Iterator[tuple[int, bytes]]:
        upwards = dict(self._scan("ASC"))
        if self._is_whole:
            self.first = min(upwards, default=None)
            yield from upwards.items()
            return
        found = {**dict(self._scan("DESC")), **upwards}
        last = max(upwards, default=0)
        above = [number for number in found if number > last]
        missing = range(last + 1, min(above)) if above else None
        found.update(self._one_by_one(last + 1, missing))
        yield from found.items()

    def _scan(self, order: str) -> Iterator[tuple[int, bytes]]:
        """Rows from one end up to the first that cannot be read."""
        try:
            yield from self._connection.execute(f"SELECT number, sealed FROM localstore_outbox ORDER BY number {order}")
            self._is_whole = True
        except driver_errors("DatabaseError"):
            pass

    def _one_by_one(self, first: int, numbers: range | None) -> Iterator[tuple[int, bytes]]:
        """Rows by their numbers; where these are not known, until nothing comes for long."""
        number, in_vain, unreadable = first, 0, dict[int, str]()
        while number < numbers.stop if numbers is not None else number <= self._left or in_vain < _LOOKED_AHEAD:
            row = self._row(number, unreadable)
            in_vain = 0 if row is not None else in_vain + (number > self._left)
            if row is not None:
                yield row
            if row is not None or numbers is not None:
                self.unreadable.update(unreadable)
                unreadable.clear()
            number += 1
        self.rest = min(unreadable.items(), default=None)

    def _row(self, number: int, unreadable: dict[int, str]) -> tuple[int, bytes] | None:
        try:
            row = self._connection.execute("SELECT sealed FROM localstore_outbox WHERE number = ?", (number,)).fetchone()
        except driver_errors("DatabaseError") as error:
            unreadable[number] = str(error)
            return None
        return None if row is None else (number, row[0])
