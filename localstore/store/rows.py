"""The rows that a page of changesets touches: merged in memory, then written by ``executemany``.

Nothing here knows in which order changesets may come; that is ``store.apply``'s part.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from localstore.changes import Change, Changeset, Key, Op, RowGroup, Value, is_same, row_changes
from localstore.clock import Version
from localstore.store.bulk import INSERTS, MANY, Circumstances, Plan, carry_out
from localstore.store.capture import CapturedTable, captured_tables, holds
from localstore.store.clocks import ClockTable, Knowledge, key_value, saw_up_to
from localstore.store.column_rules import ColumnRules
from localstore.store.conflicts import A_DELETE_WINS, A_LATER_WRITE_WINS, note
from localstore.store.constraints import attempt, decides_conflicts, without_triggers
from localstore.store.engine import quote
from localstore.store.merge import LONG_AGO, PURGED, Lost, Mark, RowState, Saw, life_of, merge
from localstore.store.renames import RENAMED, read_renames
from localstore.store.repair import Repairs
from localstore.store.repaired import Repaired
from localstore.store.row_writing import defaults_of, same_key, write_rows

__all__ = ["Rows"]


@dataclass(slots=True)
class _Row:
    """A row at work. ``existed``: whether it was there before, shown or not; ``writes``: column values still to be written;
    ``repaired``: what the table does not show of it; ``is_put_back``: whether a clock in the file is void."""

    key: Key
    state: RowState
    existed: bool
    writes: dict[str, Value] = field(default_factory=dict)
    stored: dict[str, Value] | None = None
    repaired: Repaired | None = None
    is_put_back: bool = False


class Rows:
    """A working set of rows within one transaction. ``take`` changesets, then ``flush`` once."""

    def __init__(self, connection: sqlite3.Connection, own: bytes, now_ms: int, rules: ColumnRules) -> None:
        self._connection = connection
        self._own = own
        self._now_ms = now_ms
        self._rules = rules
        self._tables = captured_tables(connection)
        self._columns = {name: defaults_of(connection, table) for name, table in self._tables.items()}
        self._seeded = dict(connection.execute("SELECT name, seeded FROM localstore_table"))
        (self._purged,) = connection.execute("SELECT purged FROM localstore_state").fetchone()
        self._renames = read_renames(connection)
        self._known_shapes: set[tuple[str, tuple[str, ...], tuple[str, ...]]] = set()
        self._rows: dict[str, dict[Value, _Row]] = {}
        self.clocks = ClockTable(connection)
        self.knowledge = Knowledge(connection, self.clocks)
        self._repairs = Repairs(connection, self._tables)
        self._decides = decides_conflicts(connection, self._tables.values())
        self.conflicts = 0

    def take(self, changeset: Changeset, seen: Mapping[bytes, int] | None = None) -> None:
        """Merge another device's changeset. ``seen`` is what its writer knew, where that is not what its device is known to."""
        if seen is None:
            self.learn(changeset)
            seen = self.knowledge.of(changeset.device)
        self._take(changeset, seen)

    def learn(self, changeset: Changeset) -> None:
        """Note what the writer of a changeset had seen."""
        for dependency in changeset.depends:
            self.knowledge.learn(changeset.device, dependency.device, dependency.stamp)

    def replay(self) -> None:
        """Merge what ``_keep`` kept and this device knows by now."""
        kept = self._connection.execute(
            "SELECT id, device, number, stamp, changes FROM localstore_unknown ORDER BY stamp, device, number, id"
        ).fetchall()
        for id_, device, number, stamp, data in kept:
            group, seen = msgspec.msgpack.decode(data, type=tuple[RowGroup, dict[bytes, int]])
            self._connection.execute("DELETE FROM localstore_unknown WHERE id = ?", (id_,))
            self._take(Changeset(device, number, stamp, (), (group,)), seen)

    def take_own(self, changeset: Changeset) -> None:
        """Note one of our own changesets in the clocks; its values are in the tables already."""
        for group in changeset.groups:
            known, _ = self._split(group)
            if known is None:
                continue
            self._note_seeds(known)
            known = self._take_many(changeset, known, lambda _: True, own=True)
            if known is None:
                continue
            defaults = self._columns[known.table]
            for row, change in self._with_rows(known, own=True):
                merge(row.state, change, _version(changeset, known), lambda _: True, lambda _: None, defaults)

    def table_of(self, group: RowGroup) -> CapturedTable | None:
        """The table of this schema that a group's rows are in, None when it has none."""
        name = group.table if group.table in self._tables else self._renames.table(group.table, self._tables)
        return self._tables[name] if name is not None and len(self._tables[name].key) == len(group.key) else None

    def look_up(self, table: CapturedTable, keys: Iterable[Key]) -> Iterator[tuple[RowState, Callable[[str], Value]]]:
        """The clock of each row as it is by now, and what reads its merged values."""
        for row in self._look_up(table, list(keys)):
            yield row.state, self._reader(table, row)

    def put_back(self, table: CapturedTable, merged: Iterable[tuple[Key, RowState, Mapping[str, Value]]]) -> None:
        """Let rows be as given, whatever was merged into them; what is taken after this is merged on top.

        Args:
            merged: of each row its key, clock, and, if it lives, its values. A column that has none keeps its own.
        """
        given, rows = list(merged), self._rows.setdefault(table.name, {})
        for row, (key, state, values) in zip(self._look_up(table, [key for key, *_ in given]), given, strict=True):
            current = self._reader(table, row)
            before = {name: current(name) for name in table.columns}
            for name in table.columns if state.lives else ():
                if name not in values:
                    kept = row.state.mark(name) if row.state.lives else None
                    is_of_life = kept is not None and kept.life in map(life_of, state.lives)
                    state.marks[name] = kept if kept and is_of_life else Mark(LONG_AGO, life_of(state.lives[-1]))
            wanted = {**(before if row.state.lives else self._columns[table.name]), **values} if state.lives else {}
            same = () if not row.existed else [name for name, value in before.items() if is_same(wanted.get(name), value)]
            row.state, row.is_put_back = state, True
            row.writes = {name: value for name, value in wanted.items() if name in table.columns and name not in same}
            rows[key_value(key)] = row

    def _look_up(self, table: CapturedTable, keys: list[Key]) -> Iterator[_Row]:
        """Rows at work, or as they would be."""
        working = self._rows.get(table.name, {})
        recorded = dict(self.clocks.load(table.id, [value for value in map(key_value, keys) if value not in working]))
        repaired = self._repairs.records.load(table, keys)
        for key in keys:
            row = working.get(key_value(key))
            if row is None:
                state = recorded.get(key_value(key))
                if state is None:
                    state = RowState(lives=(PURGED,) if holds(self._connection, table, key) else ())
                row = _Row(key, state, existed=bool(state.lives), repaired=repaired.get(key))
            yield row

    @property
    def size(self) -> int:
        """How many rows are at work."""
        return sum(map(len, self._rows.values()))

    def flush(self) -> None:
        """Write rows and clocks, and repair what cannot be shown then."""
        for name, rows in self._rows.items():
            table = self._tables[name]
            self._write_rows(table, [row for row in rows.values() if not self._write_repaired(table, row)])
        self.flush_clocks()
        self._repairs.settle()

    def flush_clocks(self) -> None:
        """Write clocks only."""
        for name, rows in self._rows.items():
            table, void = self._tables[name], [key for key, row in rows.items() if row.is_put_back]
            if void:
                self._connection.executemany(
                    "DELETE FROM localstore_clock WHERE tbl = ? AND key = ?", ((table.id, key) for key in void)
                )
            self.clocks.save(table.id, ((key, row.state) for key, row in rows.items() if row.state.says_something))
        self._rows.clear()

    def _take(self, changeset: Changeset, seen: Mapping[bytes, int]) -> None:
        """Merge a changeset, or what was kept of one; ``seen`` is what its writer knew then, which may be more by now."""
        saw = saw_up_to(changeset.device, changeset.stamp, seen)
        for group in changeset.groups:
            known, unknown = self._split(group)
            if unknown is not None:
                self._keep(changeset, _version(changeset, group)[0], unknown, seen)
            if known is not None:
                self._note_seeds(known)
                left = self._take_many(changeset, known, saw)
                if left is not None:
                    self._take_group(changeset, left, saw)
            if group.table == RENAMED and self._learn_renames(group):
                self.replay()

    def _take_many(self, changeset: Changeset, group: RowGroup, saw: Saw, *, own: bool = False) -> RowGroup | None:
        """Take at once what can be taken of a large group, as what it does to most rows follows from their clocks alone.

        Returns:
            What is left of the group, to be taken row by row; None when nothing is.
        """
        table, is_new = self._tables[group.table], group.op in INSERTS
        asks_rules = group.op is Op.UPDATE and not self._rules.get(group.table, {}).keys().isdisjoint(group.columns)
        if group.row_count < MANY or table.name in self._decides or (asks_rules and not own):
            return group
        by = Circumstances(
            version=_version(changeset, group),
            saw=saw,
            is_noted=lambda lost: not own and self._is_noted(changeset, table, saw, lost),
            defaults=self._columns[table.name],
            is_there=not is_new if own or (is_new and not self._purged) else None,
        )
        plan = Plan(self._connection, self.clocks, table, group, by)
        left = plan.decide(apart=[self._rows.get(table.name, {}).keys(), self._repaired_keys(table)])
        if not own and not attempt(self._connection, partial(self._carry_out, table, plan)):
            return group  # not all of them can be shown, or not before others go
        plan.save_clocks()
        return left

    def _carry_out(self, table: CapturedTable, plan: Plan) -> None:
        for write in plan.writes():
            (self._repairs.went if write.deletes else self._repairs.changed)(table, write.keys(table))
            carry_out(self._connection, table, write)

    def _repaired_keys(self, table: CapturedTable) -> set[Value]:
        return {key for (key,) in self._connection.execute("SELECT key FROM localstore_repaired WHERE tbl = ?", (table.id,))}

    def _is_noted(self, changeset: Changeset, table: CapturedTable, saw: Saw, lost: Lost) -> bool:
        """Whether a value that gives way is a local one that the changeset's writer had not seen, or may be."""
        stamp, device = lost.mark.version
        if device == self._own and not saw((stamp or self._seeded[table.name], device)):
            return True
        return changeset.stamp < self._purged and lost.mark.version == PURGED

    def _take_group(self, changeset: Changeset, group: RowGroup, saw: Saw) -> None:
        table, defaults = self._tables[group.table], self._columns[group.table]
        version, rules = _version(changeset, group), self._rules.get(table.name, {})
        for row, change in self._with_rows(group):
            current = self._reader(table, row)
            merged = merge(row.state, change, version, saw, current, defaults, rules)
            for lost in merged.lost:
                if self._is_noted(changeset, table, saw, lost):
                    won = merged.writes.get(lost.column) if row.state.lives else None
                    self._note_conflict(table, row, (lost.column, current(lost.column), lost.mark.version), won, changeset)
            if row.state.lives:
                row.writes.update(merged.writes)
            else:
                row.writes.clear()

    def _with_rows(self, group: RowGroup, *, own: bool = False) -> Iterable[tuple[_Row, Change]]:
        """Each change of a group with its row, whose clock is read from the file at its first appearance.

        A row that has no record is older than all changes when it is there. Of our own changes, which are in the tables
        already, only the change itself says whether the row was there before.
        """
        table = self._tables[group.table]
        rows = self._rows.setdefault(group.table, {})
        changes = [(key_value(change.key), change) for change in row_changes(group)]
        new = [key for key, _ in changes if key not in rows]
        recorded = dict(self.clocks.load(table.id, new))
        repaired = self._repairs.records.load(table, (change.key for _, change in changes))
        for key, change in changes:
            row = rows.get(key)
            if row is None:
                state = recorded.get(key)
                if state is None:
                    is_there = change.op not in INSERTS if own else self._is_there(table, change)
                    state = RowState(lives=(PURGED,) if is_there else ())
                row = rows[key] = _Row(change.key, state, existed=bool(state.lives))
                row.repaired = repaired.get(change.key)
            yield row, change

    def _is_there(self, table: CapturedTable, change: Change) -> bool:
        """Whether the table holds a row without a record; nobody inserts one that is there, unless its record was purged."""
        return (bool(self._purged) or change.op not in INSERTS) and holds(self._connection, table, change.key)

    def _note_seeds(self, group: RowGroup) -> None:
        """Remember which tables have rows from before sync: their clocks are kept longer."""
        if group.op is Op.SEED:
            self._connection.execute("UPDATE localstore_table SET seeds = 1 WHERE name = ? AND NOT seeds", (group.table,))

    def _reader(self, table: CapturedTable, row: _Row) -> Callable[[str], Value]:
        def current(column: str) -> Value:
            if column in row.writes:
                return row.writes[column]
            if row.stored is None:
                row.stored = self._read(table, row.key) if row.existed else {}
                if row.repaired is not None:
                    row.stored.update(row.repaired.merged)
            return row.stored.get(column)

        return current

    def _read(self, table: CapturedTable, key: Key) -> dict[str, Value]:
        if not table.columns:
            return {}
        names = ", ".join(f"t.{quote(name)}" for name in table.columns)
        found = self._connection.execute(f"SELECT {names} FROM {table.sql_name} AS t WHERE {same_key(table)}", key).fetchone()
        return dict(zip(table.columns, found, strict=True)) if found else {}

    def _write_repaired(self, table: CapturedTable, row: _Row) -> bool:
        """Write to a row that is not shown as merged; False when the table has to be written as well."""
        repaired = row.repaired
        if repaired is None:
            return False
        kept = {**repaired.merged, **row.writes} if repaired.is_hidden else dict(repaired.merged)
        if not repaired.is_hidden:
            kept = {name: value for name, value in kept.items() if name not in row.writes}
        lives = bool(row.state.lives)
        record = Repaired(repaired.is_hidden and lives, kept if lives else {}, repaired.why, repaired.by)
        self._repairs.records.save(table, row.key, record)
        self._repairs.wake(table, row.key)
        return repaired.is_hidden

    def _write_rows(self, table: CapturedTable, rows: Collection[_Row]) -> None:
        """Write to the table what a constraint allows to be written as it is; else let ``settle`` find what can be shown."""
        self._repairs.went(table, [row.key for row in rows if row.existed and not row.state.lives])
        self._repairs.changed(table, [row.key for row in rows if row.state.lives and (row.writes or not row.existed)])
        self._write_what_fits(table, sorted(rows, key=lambda row: bool(row.state.lives)))  # deletes first, which make room

    def _write_what_fits(self, table: CapturedTable, rows: Sequence[_Row]) -> None:
        """Write rows, all at once or in ever smaller parts; take those in hand that break a constraint by themselves."""
        if attempt(self._connection, partial(self._write_all, table, rows)):
            return
        if len(rows) == 1:
            self._take_in_hand(table, rows[0])
            return
        half = len(rows) // 2
        self._write_what_fits(table, rows[:half])
        self._write_what_fits(table, rows[half:])

    def _write_all(self, table: CapturedTable, rows: Iterable[_Row]) -> None:
        writes = ((row.key, bool(row.state.lives), row.existed, row.writes) for row in rows)
        write_rows(self._connection, table, writes, aborts=table.name in self._decides)

    def _take_in_hand(self, table: CapturedTable, row: _Row) -> None:
        current = self._reader(table, row)
        merged = {column: current(column) for column in table.columns}
        with without_triggers(self._connection, table):
            self._connection.execute(f"DELETE FROM {table.sql_name} WHERE {same_key(table)}", row.key)
        self._repairs.take(table, row.key, merged)

    def _note_conflict(
        self,
        table: CapturedTable,
        row: _Row,
        lost: tuple[str, Value, tuple[int, bytes]],
        won: Value,
        changeset: Changeset,
    ) -> None:
        column, value, version = lost
        deleted = not row.state.lives
        if is_same(value, won) and not deleted:
            return  # both wrote the same
        winner = changeset.version if deleted else row.state.mark(column).version
        rule = _rule(deleted or winner < version, version, winner)
        where = (table.name, row.key, column)
        note(self._connection, self._now_ms, where, lost=(value, version), won=(won, winner), rule=rule)
        self.conflicts += 1

    def _split(self, group: RowGroup) -> tuple[RowGroup | None, RowGroup | None]:
        """The part of a group that this device's schema knows, under its own names, and the part that it does not know yet."""
        shape = (group.table, group.key, group.columns)
        if shape in self._known_shapes:
            return group, None
        name = group.table if group.table in self._tables else self._renames.table(group.table, self._tables)
        table = None if name is None else self._tables[name]
        if table is None or len(group.key) != len(table.key):
            return None, group
        if tuple(self._renames.columns(table.name, group.key, table.key).values()) != table.key:
            return None, group
        names = self._renames.columns(table.name, group.columns, self._columns[table.name])
        strange = [name for name in group.columns if name not in names]
        known = group.part(group.op, list(names)) if strange else group
        if not strange and (table.name, table.key, tuple(names.values())) == shape:
            self._known_shapes.add(shape)
        else:
            known = RowGroup(table.name, group.op, table.key, tuple(names.values()), known.values)
        unknown = group.part(Op.UPDATE, strange) if strange else None
        return (known if names or not strange or group.op is not Op.UPDATE else None), unknown

    def _learn_renames(self, group: RowGroup) -> bool:
        """Whether a group of links between names says anything new."""
        if group.op not in (Op.INSERT, Op.REPLACE) or len(group.key) != 3:
            return False
        news = [self._renames.add(*map(str, link)) for link in group.rows]
        return any(news)

    def _keep(self, changeset: Changeset, stamp: int, group: RowGroup, seen: Mapping[bytes, int]) -> None:
        # 0 is for the births of rows that a migration dropped, which come first; what is replayed of them has it too.
        number = max(changeset.number, 1)
        self._connection.execute(
            "INSERT INTO localstore_unknown (device, number, stamp, tbl, changes) VALUES (?, ?, ?, ?, ?)",
            (changeset.device, number, stamp, group.table, msgspec.msgpack.encode((group, seen))),
        )


def _rule(deleted: bool, lost: Version, won: Version) -> str:
    if lost == PURGED:
        return "it came too late to tell which is newer"
    if deleted:
        return A_DELETE_WINS
    return "both are from before sync; devices decide" if lost[0] == won[0] == 0 else A_LATER_WRITE_WINS


def _version(changeset: Changeset, group: RowGroup) -> Version:
    """What a group's changes are ranked by: seeds are older than every change, and devices decide between them."""
    return (0, changeset.device) if group.op is Op.SEED else changeset.version
