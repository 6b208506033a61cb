"""Recovering unsent changes: what they become on top of a state that they were not written on.

Each unsent changeset becomes one of the file's new identity, written now by somebody who knows all that is there, so that every
replica merges it alike. The rules are those of Realm's client reset:

===================  ====================================================================
an unsent change     on top of what the remote has
===================  ====================================================================
insert, replace      the row is there with these values, also where the remote has, or had, another
update               its values win, where the row is there; else it is dropped, and listed as a conflict
delete               the row goes, also where the remote changed it since
from before sync     only where no row is, or was; else it is dropped, and listed where it differs
===================  ====================================================================

A changeset of which nothing is left is left out. Knows neither why this is done, nor how the state came about.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from localstore import wire
from localstore.changes import Change, Changeset, Dependency, Key, Op, RowGroup, Value, is_same, row_changes
from localstore.clock import Version, next_stamp
from localstore.store.apply import cannot_apply
from localstore.store.capture import CapturedTable
from localstore.store.column_rules import ColumnRules
from localstore.store.conflicts import A_DELETE_WINS, NOT_IN_REMOTE, note
from localstore.store.merge import LONG_AGO, RowState
from localstore.store.outbox import add
from localstore.store.rows import Rows
from localstore.store.seal import undeclared
from localstore.store.state import load_state
from localstore.store.stored import read_sealed

__all__ = ["Dropped", "Plan", "Recovered", "recover"]

_AT_WORK = 20_000  # rows in memory until they are written
_LISTED = 1000  # rows of which it is said that their changes were dropped
_FROM_BEFORE = "a row from before sync gives way to the remote's"


class Plan(Protocol):
    """Which changesets the remote has already: by number and digest, or all up to a number."""

    @property
    def stored(self) -> Mapping[int, bytes]: ...
    @property
    def stored_up_to(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Dropped:
    """An unsent change of a row that has no place: table, key, and why. Its values are in the conflicts list."""

    table: str
    key: Key
    reason: str


@dataclass(slots=True)
class Recovered:
    """What became of unsent changesets; ``number`` and ``last_stamp`` are those of the last new one."""

    number: int = 0
    last_stamp: int = 0
    skipped: int = 0
    conflicts: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    dropped_count: int = 0
    aside: list[tuple[int, str]] = field(default_factory=list)

    def drop(self, table: str, key: Key, reason: str) -> None:
        self.dropped_count += 1
        if len(self.dropped) < _LISTED:
            self.dropped.append(Dropped(table, key, reason))


def recover(
    connection: sqlite3.Connection, plan: Plan, *, old: bytes, last_stamp: int, now_ms: int, rules: ColumnRules
) -> Recovered:
    """Turn the outbox into changesets of the new identity, merged on top of what is there.

    The caller owns the transaction, and has turned constraints and capturing off.

    Args:
        plan: which changesets are left out.
        old: the device that wrote the outbox.
        last_stamp: the highest that is known.
        now_ms: this device's clock.
        rules: by which columns are merged.
    """
    for cautious in (False, True):
        connection.execute("SAVEPOINT recovery")
        recovery = _Recovery(connection, plan, (old, now_ms), rules, Recovered(last_stamp=last_stamp), cautious=cautious)
        try:
            recovery.run()
        except cannot_apply():
            if cautious or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO recovery")
        else:
            connection.execute("RELEASE recovery")
            break
        connection.execute("RELEASE recovery")
    return recovery.done


class _Recovery:
    def __init__(
        self,
        connection: sqlite3.Connection,
        plan: Plan,
        who: tuple[bytes, int],
        rules: ColumnRules,
        done: Recovered,
        *,
        cautious: bool,
    ) -> None:
        self._connection = connection
        self._plan = plan
        self._old, self._now_ms = who
        self._rules = rules
        self._cautious = cautious
        self._device = load_state(connection).device
        self._depends = undeclared(connection, self._device)
        self._rows = self._new_rows()
        self.done = done

    def run(self) -> None:
        for number, data in self._unsent():
            if number <= self._plan.stored_up_to:  # whatever has become of it
                self.done.skipped += 1
                continue
            sealed = read_sealed(data)
            if self._plan.stored.get(number) == sealed.digest:
                self.done.skipped += 1
            elif self._cautious:
                self._take_alone(wire.unseal(sealed))
            else:
                self._take(wire.unseal(sealed))
            if self._rows.size > _AT_WORK:
                self._rows.flush()
        self._rows.flush()

    def _new_rows(self) -> Rows:
        return Rows(self._connection, self._device, self._now_ms, self._rules)

    def _unsent(self) -> Iterator[tuple[int, bytes]]:
        """Takes them out of the outbox one by one. What they become goes in under a number that is no higher: each becomes one
        changeset at most, and they are counted from one."""
        last = 0
        while row := self._connection.execute(
            "SELECT number, sealed FROM localstore_outbox WHERE number > ? ORDER BY number LIMIT 1", (last,)
        ).fetchone():
            last, data = row
            self._connection.execute("DELETE FROM localstore_outbox WHERE number = ?", (last,))
            yield last, data

    def _take_alone(self, unsent: Changeset) -> None:
        """Take one by itself, so that what SQLite refuses in it concerns no other; it is kept whole, set aside."""
        before = replace(self.done, dropped=[*self.done.dropped], aside=[*self.done.aside])
        depends = self._depends
        self._connection.execute("SAVEPOINT changeset")
        try:
            self._take(unsent)
            self._rows.flush()
        except cannot_apply() as error:
            self._connection.execute("ROLLBACK TO changeset")
            self._rows, self.done, self._depends = self._new_rows(), before, depends
            self.done.aside.append((unsent.number, str(error)))
            self._connection.execute(
                "INSERT OR REPLACE INTO localstore_aside (device, number, reason, sealed) VALUES (?, ?, ?, ?)",
                (unsent.device, unsent.number, str(error), wire.encode(wire.seal(unsent))),
            )
        self._connection.execute("RELEASE changeset")

    def _take(self, unsent: Changeset) -> None:
        found = (self._on_top(unsent, group) for group in unsent.groups)
        groups = tuple(group for group in found if group is not None)
        if not groups:
            return
        changeset = self._next(self._depends, groups)
        if self._depends and wire.seal(changeset).size > wire.MAX_CHANGESET_BYTES:  # then that goes ahead by itself
            self._make_room()
            ahead = self._next(self._depends, ())
            self._send(ahead)
            self._rows.learn(ahead)
            changeset = self._next((), groups)
        self._send(changeset)
        self._rows.take(changeset)
        for group in groups:
            table = self._rows.table_of(group)
            if table is not None and group.op is Op.SEED:
                self._connection.execute("UPDATE localstore_table SET seeded = ? WHERE id = ?", (changeset.stamp, table.id))

    def _next(self, depends: tuple[Dependency, ...], groups: tuple[RowGroup, ...]) -> Changeset:
        stamp = next_stamp(self.done.last_stamp, self._now_ms)
        return Changeset(self._device, self.done.number + 1, stamp, depends, groups)

    def _send(self, changeset: Changeset) -> None:
        add(self._connection, wire.seal(changeset), changeset.groups)
        self.done.number, self.done.last_stamp = changeset.number, changeset.stamp
        if changeset.depends:
            self._connection.execute("UPDATE localstore_device SET declared = number WHERE number > declared")
            self._depends = ()

    def _make_room(self) -> None:
        """Let what is left of the outbox give way for one changeset more."""
        self._connection.execute("UPDATE localstore_outbox SET number = -number - 1 WHERE number > ?", (self.done.number,))
        self._connection.execute("UPDATE localstore_outbox SET number = -number WHERE number < 0")

    # -- the rules

    def _on_top(self, unsent: Changeset, group: RowGroup) -> RowGroup | None:
        """What is left of a group of changes."""
        table = self._rows.table_of(group)
        if table is None or group.op in (Op.INSERT, Op.REPLACE):
            return group
        rule = {Op.UPDATE: self._update, Op.DELETE: self._delete, Op.SEED: self._seed}[group.op]
        changes = list(row_changes(group))
        looked_up = self._rows.look_up(table, [change.key for change in changes])
        kept = [
            rule(unsent, table, change, state, current) for change, (state, current) in zip(changes, looked_up, strict=True)
        ]
        return group if all(kept) else group.only(kept)

    def _update(
        self, unsent: Changeset, table: CapturedTable, change: Change, state: RowState, _: Callable[[str], Value]
    ) -> bool:
        if state.lives:
            return True
        reason = A_DELETE_WINS if state.died else NOT_IN_REMOTE
        self._drop(unsent.version, table, change, (dict.fromkeys(change.values), state.died or LONG_AGO), reason)
        return False

    def _delete(
        self, unsent: Changeset, table: CapturedTable, change: Change, state: RowState, _: Callable[[str], Value]
    ) -> bool:
        return bool(state.lives) or state.died is None  # another device may bring a row that the remote does not know of

    def _seed(
        self, unsent: Changeset, table: CapturedTable, change: Change, state: RowState, current: Callable[[str], Value]
    ) -> bool:
        if state.died is None and not state.lives:
            return True
        won = {name: current(name) if state.lives and name in table.columns else None for name in change.values}
        version = state.lives[-1] if state.lives else state.died or LONG_AGO
        self._drop((0, unsent.device), table, change, (won, version), _FROM_BEFORE if state.lives else A_DELETE_WINS)
        return False

    def _drop(
        self, lost: Version, table: CapturedTable, change: Change, won: tuple[Mapping[str, Value], Version], reason: str
    ) -> None:
        """List the values that a change brought in vain."""
        differs = False
        for column, value in change.values.items():
            if reason != _FROM_BEFORE or not is_same(value, won[0][column]):
                differs = True
                where = (table.name, change.key, column)
                note(self._connection, self._now_ms, where, lost=(value, lost), won=(won[0][column], won[1]), rule=reason)
                self.done.conflicts += 1
        if differs:
            self.done.drop(table.name, change.key, reason)
