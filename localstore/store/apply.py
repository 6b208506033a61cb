"""Applying other devices' changesets: in causal order, each once, with cursor, rows and clocks in one transaction.

A changeset's turn comes when its device's previous one and all that it depends on were applied, and its stamp is not too
far in the future. Until then it waits in the file, so that the cursor can go on. The caller owns the transaction and has
sealed the capture log; capturing is off while we write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from localstore import wire
from localstore.changes import Changeset
from localstore.clock import MAX_STAMP, stamp_ms
from localstore.errors import MalformedChangeset, ResetRequired
from localstore.store.capture import Capturing, captured_tables, set_capturing
from localstore.store.column_rules import ColumnRules
from localstore.store.driver import driver_errors
from localstore.store.repair import CHECK_ALL, Repairs
from localstore.store.rows import Rows
from localstore.store.state import State, device_number, load_state
from localstore.store.stored import read_changeset, read_sealed
from localstore.wire import SealedChangeset

__all__ = ["Applied", "apply", "cannot_apply", "catch_up", "fold", "has_waiting", "is_behind"]

_FOLD_CHUNK = 500


@dataclass(slots=True)
class Applied:
    """What became of a page.

    Attributes:
        changesets: how many were applied, from the page or from those that waited.
        rows: how many rows these changed.
        conflicts: how many local values lost.
        forgotten: how many conflicts left the list, as they were beyond its bounds.
        drifting: devices whose next changeset waits for our clock, with the milliseconds it is ahead.
        aside: changesets that cannot be applied and were set aside, with the reason.
    """

    changesets: int = 0
    rows: int = 0
    conflicts: int = 0
    forgotten: int = 0
    drifting: dict[bytes, int] = field(default_factory=dict)
    aside: list[tuple[bytes, int, str]] = field(default_factory=list)


def fold(connection: sqlite3.Connection, limit: int) -> bool:
    """Bring our own changesets into the clocks, which a commit leaves for later to be quick.

    Must be complete before anything else is applied, and before a changeset leaves the outbox.

    Returns:
        Whether some are left after ``limit`` changesets.
    """
    state = load_state(connection)
    if state.folded >= state.last_number:
        return False
    rows = Rows(connection, state.device, now_ms=0, rules={})  # our own changes win against nothing
    number = state.folded
    stored = connection.execute(
        "SELECT sealed FROM localstore_outbox WHERE number > ? ORDER BY number LIMIT ?", (number, limit)
    )
    for (data,) in stored.fetchall():
        changeset = read_changeset(data)
        rows.take_own(changeset)
        number = changeset.number
    rows.flush_clocks()
    connection.execute("UPDATE localstore_state SET folded = ?", (number,))
    return number < state.last_number


def cannot_apply() -> tuple[type[Exception], ...]:
    """What SQLite raises when a row itself is at fault, and not the disk or another program."""
    return driver_errors("IntegrityError", "DataError", also=OverflowError)


def has_waiting(connection: sqlite3.Connection) -> bool:
    """Whether changesets wait for their turn."""
    return connection.execute("SELECT 1 FROM localstore_waiting LIMIT 1").fetchone() is not None


def apply(
    connection: sqlite3.Connection,
    page: Sequence[SealedChangeset],
    *,
    cursor: bytes,
    now_ms: int,
    latest_ms: int,
    rules: ColumnRules,
    cautious: bool = False,
) -> Applied:
    """Apply a page and move the cursor.

    Args:
        page: the next part of the remote's history.
        cursor: where it goes on after that.
        now_ms: this device's clock.
        latest_ms: changesets stamped later than this have to wait.
        rules: by which columns are merged.
        cautious: one changeset at a time, setting aside what SQLite refuses; for a page that failed as a whole.

    Raises:
        ResetRequired: the page holds changesets of this device that it never made: its file was copied or restored.
        ProtocolError: a changeset is malformed or too new.
        The driver's ``Error``: SQLite refused a row, and ``cautious`` was not asked for.
    """
    replayed = catch_up(connection, now_ms, rules)  # a realm that was open while the file was migrated
    state = load_state(connection)
    turn = _Turns(connection, state, page, latest_ms)
    applied = Applied(conflicts=replayed, drifting=turn.drifting)
    set_capturing(connection, Capturing.OFF)
    if cautious:
        _take_each(connection, lambda: Rows(connection, state.device, now_ms, rules), turn, applied)
    else:
        _take_all(Rows(connection, state.device, now_ms, rules), turn, applied)
    set_capturing(connection, Capturing.BY_KEY)
    turn.finish()
    connection.execute(  # where to go on from for somebody who does not know whether the remote has what is unsent here
        "UPDATE localstore_state SET cursor = ?, last_stamp = max(last_stamp, ?), unsent_cursor ="
        " CASE WHEN EXISTS (SELECT 1 FROM localstore_outbox) THEN coalesce(unsent_cursor, cursor, x'') END",
        (cursor, turn.highest_stamp),
    )
    return applied


def _replay_unknown(connection: sqlite3.Connection, now_ms: int, rules: ColumnRules) -> int:
    """Merge what came for tables and columns that the schema has only now.

    Returns:
        How many local values lost.
    """
    connection.execute("UPDATE localstore_state SET replay = 0 WHERE replay")
    if connection.execute("SELECT 1 FROM localstore_unknown LIMIT 1").fetchone() is None:
        return 0
    while fold(connection, _FOLD_CHUNK):
        pass
    rows = Rows(connection, load_state(connection).device, now_ms, rules)
    set_capturing(connection, Capturing.OFF)
    rows.replay()
    rows.flush()
    set_capturing(connection, Capturing.BY_KEY)
    return rows.conflicts


def is_behind(connection: sqlite3.Connection, *, with_others: bool) -> bool:
    """Whether ``catch_up`` has something to do, be it only to check what other programs wrote."""
    replay, unsettled = _left(connection)
    return bool(replay) or (unsettled > 0 and (with_others or unsettled < CHECK_ALL))


def catch_up(connection: sqlite3.Connection, now_ms: int, rules: ColumnRules) -> int:
    """Merge what the schema knows only now, and let rows come back whose cause to be set aside this device took away.

    Returns:
        How many local values lost.
    """
    replay, unsettled = _left(connection)
    lost = _replay_unknown(connection, now_ms, rules) if replay else 0
    if unsettled:
        while fold(connection, _FOLD_CHUNK):  # which of two rows came first is in the clocks
            pass
        set_capturing(connection, Capturing.OFF)
        Repairs(connection, captured_tables(connection)).settle()
        set_capturing(connection, Capturing.BY_KEY)
    return lost


def _left(connection: sqlite3.Connection) -> tuple[int, int]:
    found: tuple[int, int] = connection.execute("SELECT replay, unsettled FROM localstore_state").fetchone()
    return found


def _take_all(rows: Rows, turn: _Turns, applied: Applied) -> None:
    for changeset in turn:
        rows.take(changeset)
        applied.changesets += 1
        applied.rows += changeset.row_count
    rows.flush()
    applied.conflicts += rows.conflicts


def _take_each(connection: sqlite3.Connection, new_rows: Callable[[], Rows], turn: _Turns, applied: Applied) -> None:
    for changeset in turn:
        connection.execute("SAVEPOINT changeset")
        try:
            rows = new_rows()
            rows.take(changeset)
            rows.flush()
        except cannot_apply() as error:
            connection.execute("ROLLBACK TO changeset")
            new_rows().learn(changeset)  # its writer knows that still, whatever became of its rows
            data = wire.encode(wire.seal(changeset))
            connection.execute(
                "INSERT OR REPLACE INTO localstore_aside (device, number, reason, sealed) VALUES (?, ?, ?, ?)",
                (changeset.device, changeset.number, str(error), data),
            )
            applied.aside.append((changeset.device, changeset.number, str(error)))
        else:
            applied.changesets += 1
            applied.rows += changeset.row_count
            applied.conflicts += rows.conflicts
        connection.execute("RELEASE changeset")


class _Turns:
    """Hands out the changesets whose turn has come, in causal order; iterating marks them as applied."""

    def __init__(self, connection: sqlite3.Connection, state: State, page: Iterable[SealedChangeset], latest_ms: int) -> None:
        self._connection = connection
        self._latest_ms = latest_ms
        self._own = state.device
        self._applied: dict[bytes, tuple[int, int]] = {  # device -> number and stamp of its last changeset applied
            device: (number, stamp)
            for device, number, stamp in connection.execute("SELECT device, number, stamp FROM localstore_device")
        }
        self._applied[state.device] = (state.last_number, state.last_stamp)
        self._moved: set[bytes] = set()
        self._page: dict[bytes, dict[int, SealedChangeset]] = {}
        self._waiting = {row[0] for row in connection.execute("SELECT DISTINCT device FROM localstore_waiting")}
        self._following: dict[bytes, SealedChangeset | None] = {}
        self._opened: dict[bytes, Changeset] = {}
        self.highest_stamp = 0
        self.drifting: dict[bytes, int] = {}
        for sealed in page:
            if sealed.number > self._number(sealed.device):
                self._check_not_own(sealed.device, sealed.number)
                self._page.setdefault(sealed.device, {})[sealed.number] = sealed

    def __iter__(self) -> _Turns:
        return self

    def __next__(self) -> Changeset:
        for device in sorted(self._page.keys() | self._waiting, key=self._stamp_of_next):
            changeset = self._ready(device)
            if changeset is not None:
                self._mark(changeset)
                return changeset
        raise StopIteration

    def finish(self) -> None:
        """Store how far each device got and what has to wait; forget those that waited and were applied."""
        for device in self._moved:
            id_ = device_number(self._connection, device)
            self._connection.execute(
                "UPDATE localstore_device SET number = ?, stamp = ? WHERE id = ?", (*self._applied[device], id_)
            )
        for device in self._waiting & self._moved:
            self._connection.execute(
                "DELETE FROM localstore_waiting WHERE device = ? AND number <= ?", (device, self._number(device))
            )
        for numbered in self._page.values():
            for sealed in numbered.values():
                wire.unseal(sealed)  # what is damaged must not get past the cursor
        self._connection.executemany(
            "INSERT OR IGNORE INTO localstore_waiting VALUES (?, ?, ?)",
            (
                (device, number, wire.encode(sealed))
                for device, numbered in self._page.items()
                for number, sealed in numbered.items()
            ),
        )

    def _number(self, device: bytes) -> int:
        return self._applied.get(device, (0, 0))[0]

    def _next(self, device: bytes) -> SealedChangeset | None:
        if device not in self._following:
            number = self._number(device) + 1
            found = self._page.get(device, {}).get(number)
            if found is None and device in self._waiting:
                row = self._connection.execute(
                    "SELECT sealed FROM localstore_waiting WHERE device = ? AND number = ?", (device, number)
                ).fetchone()
                found = read_sealed(row[0]) if row else None
            self._following[device] = found
        return self._following[device]

    def _stamp_of_next(self, device: bytes) -> int:
        """Oldest first: a changeset is stamped later than what it depends on, so this is mostly causal order already."""
        following = self._next(device)
        return following.stamp if following else MAX_STAMP

    def _ready(self, device: bytes) -> Changeset | None:
        sealed = self._next(device)
        if sealed is None:
            return None
        ahead_ms = stamp_ms(sealed.stamp) - self._latest_ms
        if ahead_ms > 0:
            self.drifting[device] = ahead_ms
            return None
        changeset = self._opened.get(device)
        if changeset is None:
            changeset = self._opened[device] = wire.unseal(sealed)
        for dependency in changeset.depends:
            if dependency.number > self._number(dependency.device):
                self._check_not_own(dependency.device, dependency.number)
                return None
        return changeset

    def _mark(self, changeset: Changeset) -> None:
        device = changeset.device
        if changeset.stamp <= self._applied.get(device, (0, 0))[1]:
            raise MalformedChangeset(
                f"Changeset {changeset.number} of device {device.hex()[:8]} is not stamped after the one before it."
            )
        self._applied[device] = (changeset.number, changeset.stamp)
        self._moved.add(device)
        self._page.get(device, {}).pop(changeset.number, None)
        self._opened.pop(device, None)
        self._following.pop(device, None)
        self.highest_stamp = max(self.highest_stamp, changeset.stamp)

    def _check_not_own(self, device: bytes, number: int) -> None:
        if device == self._own:
            raise ResetRequired(
                f"device forked (the remote has changeset {number} of this device, which this file never made)",
                hint="The file was copied, or restored from a backup. Its data is untouched, and nothing was uploaded since.",
            )
