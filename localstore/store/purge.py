"""Forgetting: clocks of rows that nothing which may still arrive can need.

A row's clock decides between a change that arrives and what the row went through. A clock can go when two things hold for
every changeset that may still be applied here: it is stamped later than all that the clock holds, and its writer had seen
all of it. Then a row that is there, with no record, merges like one that is older than everything, and a row that is not
there like one that never was.

Both hold for what is older than twice the *client maximum offline time*: what a device brings was written by somebody who knew
all that was at the remote that long ago at most, or is written anew, see ``sync.offline_time``; and what others had written by
then was in their hands for no longer than the same time again. Nothing here relies on this device's clock alone: one that is a
year ahead must not forget a year too early. This module decides and deletes; who calls it, and when, is ``store.file``'s part.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from operator import itemgetter

from localstore import wire
from localstore.changes import Value
from localstore.clock import stamp_at, stamp_ms
from localstore.errors import StoreBusy
from localstore.store.capture import CapturedTable, captured_tables, holds
from localstore.store.clocks import ClockTable, key_of
from localstore.store.constraints import has_unique
from localstore.store.merge import RowState
from localstore.store.renames import read_renames

__all__ = ["BEGINNING", "PORTION", "ROUND_MS", "Purging", "Record", "can_forget", "forget", "forgettable", "horizon"]

PORTION = 2000  # records looked at in one go
_CHUNK = 400  # records deleted in one transaction: a few milliseconds
ROUND_MS = 3_600_000  # a round through all records begins at most so often

Record = tuple[int, Value]
"""Table and key of a record in ``localstore_clock``."""
BEGINNING: Record = (-1, None)
_Connecting = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Purging:
    """Goes through the records of a file, a portion at a time. SQLite uses the freed pages for what is written next.

    Args:
        reading: a connection that takes no lock; the portion is looked for with it.
        writing: a transaction, which keeps writers waiting for the milliseconds that deleting takes.
        offline_s: the client maximum offline time.
    """

    def __init__(self, reading: _Connecting, writing: _Connecting, *, offline_s: float) -> None:
        self._reading = reading
        self._writing = writing
        self._offline_ms = int(offline_s * 1000)
        self._after: Record | None = None  # the last record looked at; None between two rounds
        self._begun_ms: int | None = None

    def step(self, now_ms: int, remote_ms: int | None) -> int:
        """Look at the next portion. A round begins at most once in ``ROUND_MS``; a wall clock that steps delays none for long.

        Returns:
            How many records were deleted. When the lock was not to be had, they are left for the next round.
        """
        if self._after is None:
            if self._begun_ms is not None and abs(now_ms - self._begun_ms) < ROUND_MS:
                return 0
            self._begun_ms, self._after = now_ms, BEGINNING
        with self._reading() as connection:
            before = horizon(connection, now_ms=now_ms, remote_ms=remote_ms, offline_ms=self._offline_ms)
            found, self._after = forgettable(connection, self._after, before)
        count = 0
        with suppress(StoreBusy):
            for start in range(0, len(found), _CHUNK):
                with self._writing() as connection:
                    before = horizon(connection, now_ms=now_ms, remote_ms=remote_ms, offline_ms=self._offline_ms)
                    count += forget(connection, found[start : start + _CHUNK], before)
        return count


def horizon(connection: sqlite3.Connection, *, now_ms: int, remote_ms: int | None, offline_ms: int) -> int:
    """The stamp before which everything was seen by everyone who may still write; 0 when that cannot be said.

    Args:
        now_ms: this device's clock, which is believed only as far as another clock confirms it: the remote's, or that of a
            device whose changes were applied.
        remote_ms: the remote's clock, None when it has none.
        offline_ms: the client maximum offline time.
    """
    (others,) = connection.execute(
        "SELECT coalesce(max(stamp), 0) FROM localstore_device WHERE device <> (SELECT device FROM localstore_state)"
    ).fetchone()
    confirmed_ms = min(now_ms, max(remote_ms or 0, stamp_ms(others)))
    (unsent,) = connection.execute("SELECT min(stamp) FROM localstore_outbox").fetchone()
    since = [stamp for (stamp,) in _oldest_waiting(connection)] + ([] if unsent is None else [unsent])
    return stamp_at(max(0, min([confirmed_ms, *map(stamp_ms, since)]) - 2 * offline_ms))


def forgettable(connection: sqlite3.Connection, after: Record, before: int) -> tuple[list[Record], Record | None]:
    """Records of the next portion that look as if they could go, and where the portion ends; None at the end of all."""
    rows = connection.execute(
        "SELECT tbl, key, max(coalesce(born, 0), coalesce(died, 0)) FROM localstore_clock"
        " WHERE (tbl, key) > (?, ?) ORDER BY tbl, key LIMIT ?",
        (*after, PORTION),
    ).fetchall()
    end = rows[-1][:2] if len(rows) == PORTION else None
    return [(tbl, key) for tbl, key, newest in rows if newest < before], end


def forget(connection: sqlite3.Connection, records: Iterable[Record], before: int) -> int:
    """Delete those of the records that nothing can need any more; the caller owns the transaction.

    Returns:
        How many.
    """
    tables = {table.id: table for table in captured_tables(connection).values()}
    busy = _tables_with_unknown_columns(connection) | _tables_in_dispute(connection, tables.values())
    seeds = {id_ for (id_,) in connection.execute("SELECT id FROM localstore_table WHERE seeds")}
    clocks = ClockTable(connection)
    forgotten: list[Record] = []
    for id_, group in groupby(records, itemgetter(0)):
        table = tables[id_]
        if table.name in busy:
            continue
        for key, state in clocks.load(id_, [key for _, key in group]):
            if can_forget(state, table.columns, before, seeds=id_ in seeds) and _is_as_merged(connection, table, key, state):
                forgotten.append((id_, key))
    connection.executemany("DELETE FROM localstore_clock WHERE tbl = ? AND key = ?", forgotten)
    if forgotten:
        connection.execute("UPDATE localstore_state SET purged = max(purged, ?)", (before,))
    return len(forgotten)


def can_forget(state: RowState, columns: Iterable[str], before: int, *, seeds: bool) -> bool:
    """Whether all that a clock holds is older than ``before``.

    Args:
        state: the row's clock.
        columns: of the table, but for its key.
        before: a stamp.
        seeds: whether devices have rows of this table from before sync. More may come at any time, of whatever row, and
            are older than everything: what would keep them out has to stay.
    """
    versions = [*state.lives, *(mark.version for mark in state.marks.values())]
    versions += [rival.mark.version for rivals in state.runners_up.values() for rival in rivals]
    versions += [state.died] if state.died is not None else []
    if any(version[0] >= before for version in versions):
        return False
    return not seeds or (bool(state.lives) and all(state.mark(column).version[0] for column in columns))


def _is_as_merged(connection: sqlite3.Connection, table: CapturedTable, key: Value, state: RowState) -> bool:
    """Whether the table shows what the clock says: without a record, the table is all that tells."""
    return holds(connection, table, key_of(table, key)) == bool(state.lives)


def _tables_in_dispute(connection: sqlite3.Connection, tables: Iterable[CapturedTable]) -> set[str]:
    """Tables some of whose rows are in each other's way: which of them came first decides what is shown if one goes."""
    repaired = {id_ for (id_,) in connection.execute("SELECT DISTINCT tbl FROM localstore_repaired")}
    return {table.name for table in tables if table.id in repaired and has_unique(connection, table)}


def _oldest_waiting(connection: sqlite3.Connection) -> Iterable[tuple[int]]:
    """The stamp of each device's first changeset that waits."""
    rows = connection.execute(
        "SELECT sealed FROM localstore_waiting AS w"
        " WHERE number = (SELECT min(number) FROM localstore_waiting WHERE device = w.device)"
    )
    return [(wire.decode(sealed).stamp,) for (sealed,) in rows]


def _tables_with_unknown_columns(connection: sqlite3.Connection) -> set[str]:
    """Tables some of whose changes are kept aside, to be merged by today's clocks when the schema has room for them."""
    tables, renames = captured_tables(connection), read_renames(connection)
    names = (renames.table(name, tables) for (name,) in connection.execute("SELECT DISTINCT tbl FROM localstore_unknown"))
    return {name for name in names if name is not None}
