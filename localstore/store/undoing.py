"""Undoing what the remote refused: the rows of a refused changeset go back to what the remote has of them.

What this device wrote of them besides, and has not sent yet, is merged on top again, so that they end as if the refused
changeset had never been written. What is lost by that is in the conflicts list. References and unique values end as repair
says.

What the remote has is known from a *fresh* store, filled from the remote's history up to the place where this file is. Nothing
here knows where that comes from, nor why a remote refuses. What was undone stays marked until somebody was told of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from localstore.changes import Change, Changeset, Key, Op, RowGroup, Value, row_changes
from localstore.clock import Version
from localstore.store import outbox
from localstore.store.apply import cannot_apply, fold
from localstore.store.capture import CapturedTable, Capturing, captured_tables, holds, set_capturing
from localstore.store.clocks import ClockTable, Knowledge, key_value
from localstore.store.column_rules import ColumnRules
from localstore.store.conflicts import REFUSED, forget_oldest, note
from localstore.store.constraints import without_triggers
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.losses import known_changes, note_lost
from localstore.store.merge import LONG_AGO, PURGED, RowState
from localstore.store.repaired import Records
from localstore.store.rows import Rows
from localstore.store.seal import seal_leftovers
from localstore.store.state import device_ids, load_state
from localstore.store.stored import read_changeset

__all__ = [
    "HAVE_UNDONE",
    "TO_TELL",
    "TO_UNDO",
    "Refusal",
    "Undone",
    "UndoneWrite",
    "note_told",
    "refusals",
    "standing",
    "undo_refused",
    "undone",
]

TO_UNDO, TO_TELL = 1, 2
"""What is still to be done about a refused changeset, as its mark in ``localstore_aside`` says."""
HAVE_UNDONE = f"UPDATE localstore_aside SET undo = {TO_TELL} WHERE undo = {TO_UNDO}"
"""The statement that goes with whatever put their rows back."""

_PORTION = 20_000  # rows put back in one go
_FOLD_CHUNK = 500


@dataclass(frozen=True, slots=True)
class UndoneWrite:
    """A row that went back to what the remote has: table, key, the refused changeset's number, and the remote's reason."""

    table: str
    key: Key
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Undone:
    """A refused changeset that was undone, and of which nobody was told yet: its device and number, and its rows."""

    device: bytes
    number: int
    writes: tuple[UndoneWrite, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A changeset that the remote refused and that is to be undone."""

    changeset: Changeset
    reason: str

    @property
    def rule(self) -> str:
        """By which its values are lost."""
        return REFUSED + self.reason

    def writes(self, rows: Rows) -> Iterator[UndoneWrite]:
        """Its rows."""
        for table, change in known_changes(rows, self.changeset):
            yield UndoneWrite(table.name, change.key, self.changeset.number, self.reason)


def standing(store: Store) -> frozenset[int]:
    """What is still to be done about any refused changeset."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        return frozenset(mark for (mark,) in connection.execute("SELECT DISTINCT undo FROM localstore_aside WHERE undo"))


def undone(store: Store) -> list[Undone]:
    """What was undone and nobody was told of, in the order in which it was written."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        rows = Rows(connection, load_state(connection).device, store.now_ms(), store.rules)
        return [
            Undone(refusal.changeset.device, refusal.changeset.number, tuple(refusal.writes(rows)))
            for refusal in refusals(connection, TO_TELL)
        ]


def note_told(store: Store, told: Iterable[Undone]) -> None:
    """Somebody was told; what another process undid meanwhile is not among it."""
    with store.transaction() as connection:
        connection.executemany(
            f"UPDATE localstore_aside SET undo = 0 WHERE device = ? AND number = ? AND undo = {TO_TELL}",
            [(one.device, one.number) for one in told],
        )


def undo_refused(store: Store, fresh: Store, *, cursor: bytes | None) -> bool:
    """Put rows of refused changesets back to what the remote has, all of them in one transaction.

    Args:
        store: which set them aside.
        fresh: another device's store of the same schema, at the same place of the same history.
        cursor: where this store was when that was so.

    Returns:
        Whether it was done, see ``undone``; False when one of the two is elsewhere, and nothing was changed: this store's own
        changesets that were acknowledged may not be in the other's history yet.
    """
    fresh.catch_up()
    store.fold()
    try:
        return _undo(store, fresh, cursor, disturbed=True)
    except cannot_apply():  # by a trigger of the application
        return _undo(store, fresh, cursor, disturbed=False)


def refusals(connection: sqlite3.Connection, mark: int = TO_UNDO) -> list[Refusal]:
    """The changesets that are to be undone, in the order in which they were written; or those with another mark."""
    rows = connection.execute("SELECT reason, sealed FROM localstore_aside WHERE undo = ? ORDER BY number", (mark,))
    return [Refusal(read_changeset(sealed), reason) for reason, sealed in rows]


def _undo(store: Store, fresh: Store, cursor: bytes | None, *, disturbed: bool) -> bool:
    options, now_ms = store.options, store.now_ms()
    with fresh.snapshot() as session, store.transaction(unconstrained=True) as connection:
        there = driver_connection(session.connection())
        seal_leftovers(connection, now_ms=now_ms, limits=options.limits)
        while fold(connection, _FOLD_CHUNK):
            pass
        if not _is_same_place(connection, there, cursor):
            return False
        undoing = _Undoing(connection, there, now_ms, store.rules)
        set_capturing(connection, Capturing.OFF)
        with ExitStack() as undisturbed:
            for table in () if disturbed else captured_tables(connection).values():
                undisturbed.enter_context(without_triggers(connection, table))
            undoing.run()
        set_capturing(connection, Capturing.BY_KEY)
        connection.execute(HAVE_UNDONE)
        if undoing.conflicts:
            forget_oldest(connection, undoing.conflicts, now_ms, options.conflicts_max_age, options.conflicts_max_count)
    return True


def _is_same_place(here: sqlite3.Connection, there: sqlite3.Connection, cursor: bytes | None) -> bool:
    """By what was applied of each device: two devices at the same place may have different cursors."""
    state = load_state(here)
    own = state.device
    others = [
        dict(side.execute("SELECT device, number FROM localstore_device WHERE number").fetchall()) for side in (here, there)
    ]
    for known in others:
        known.pop(own, None)
    return state.cursor == cursor and others[0] == others[1] and outbox.acknowledged(here) <= _number(there, own)


def _number(there: sqlite3.Connection, device: bytes) -> int:
    found = there.execute("SELECT number FROM localstore_device WHERE device = ?", (device,)).fetchone()
    return int(found[0]) if found else 0


class _Undoing:
    """One undoing, within a transaction."""

    def __init__(self, here: sqlite3.Connection, there: sqlite3.Connection, now_ms: int, rules: ColumnRules) -> None:
        self._here = here
        self._there = there
        self._now_ms = now_ms
        self._own = load_state(here).device
        self._rows = Rows(here, self._own, now_ms, rules)
        self._tables = captured_tables(here)
        self._refusals = refusals(here)
        self.conflicts = 0

    def run(self) -> None:
        writes = [write for refusal in self._refusals for write in refusal.writes(self._rows)]
        reasons = {(write.table, write.key): write.reason for write in reversed(writes)}
        left = iter(reasons.items())
        while portion := dict(islice(left, _PORTION)):
            self._put_back(portion)
        for refusal in self._refusals:
            self.conflicts += note_lost(
                self._here,
                self._rows,
                refusal.changeset,
                own=(self._own,),
                rules=(refusal.rule, refusal.rule),
                now_ms=self._now_ms,
            )

    def _put_back(self, reasons: Mapping[tuple[str, Key], str]) -> None:
        by_table: dict[str, list[Key]] = {}
        for name, key in reasons:
            by_table.setdefault(name, []).append(key)
        lived = {
            (name, key)
            for name, keys in by_table.items()
            for key, (state, _) in zip(keys, self._rows.look_up(self._tables[name], keys), strict=True)
            if state.lives
        }
        for name, keys in by_table.items():
            self._rows.put_back(self._tables[name], self._merged_there(name, keys))
        later = list(self._merge_unsent({name: set(keys) for name, keys in by_table.items()}))
        for version, table, change in later:
            if (table.name, change.key) in lived:
                self._note_if_gone(version, table, change, REFUSED + reasons[table.name, change.key])
        self._rows.flush()

    def _merged_there(self, name: str, keys: list[Key]) -> Iterator[tuple[Key, RowState, dict[str, Value]]]:
        """What merging left there of rows; of those in a table that is not there, nothing."""
        table = captured_tables(self._there).get(name)
        if table is None or table.key != self._tables[name].key:
            return
        clocks = dict(ClockTable(self._there).load(table.id, list(map(key_value, keys))))
        records = Records(self._there, {name: table})
        aside = records.load(table, keys)
        for key in keys:
            state = clocks.get(key_value(key))
            if state is None:
                state = RowState(lives=(PURGED,) if holds(self._there, table, key) else ())
            yield key, state, records.merged(table, key, aside.get(key)) if state.lives else {}

    def _merge_unsent(self, keys: Mapping[str, Collection[Key]]) -> Iterator[tuple[Version, CapturedTable, Change]]:
        """Merge what this device wrote of rows and the remote does not have; yields what it was."""
        sent, seen = _number(self._there, self._own), dict[bytes, int]()
        if self._own in device_ids(self._there):
            seen.update(Knowledge(self._there, ClockTable(self._there)).of(self._own))
        for changeset in self._unsent():
            seen.update({dependency.device: dependency.stamp for dependency in changeset.depends})
            if changeset.number <= sent:
                continue
            groups = tuple(self._about(changeset.groups, keys))
            self._rows.take(Changeset(self._own, changeset.number, changeset.stamp, (), groups), dict(seen))
            for group in groups:
                table = self._rows.table_of(group)
                if table is not None and group.op is not Op.DELETE:
                    yield from ((changeset.version, table, change) for change in row_changes(group))

    def _unsent(self) -> Iterator[Changeset]:
        """What is in the outbox, one by one, and with no statement open in between, which may be about anything."""
        number = 0
        one = "SELECT number, sealed FROM localstore_outbox WHERE number > ? ORDER BY number LIMIT 1"
        while found := self._here.execute(one, (number,)).fetchone():
            number, data = found
            yield read_changeset(data)

    def _about(self, groups: Iterable[RowGroup], keys: Mapping[str, Collection[Key]]) -> Iterator[RowGroup]:
        for group in groups:
            table = self._rows.table_of(group)
            wanted = keys.get(table.name, ()) if table is not None else ()
            left = group.only([key in wanted for key in zip(*group.values[: len(group.key)], strict=True)])
            if left is not None:
                yield left

    def _note_if_gone(self, version: Version, table: CapturedTable, change: Change, rule: str) -> None:
        """List what this device wrote later of a row that is not there any more, unless it deleted it itself."""
        ((state, _),) = self._rows.look_up(table, [change.key])
        winner = state.died or LONG_AGO
        if state.lives or winner[1] == self._own:
            return
        for column, value in change.values.items():
            where = (table.name, change.key, column)
            note(self._here, self._now_ms, where, lost=(value, version), won=(None, winner), rule=rule)
            self.conflicts += 1
