"""What a migration drops is kept aside, as if this device had never known it: in the form of changes of a newer schema.

Without that, a device that had a column and dropped it would know less of it than one that never had it, and the two would
differ when the column comes back. Values keep the versions that they were written with, so that merging them again changes
nothing where they are known. Nothing here knows why something is dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from localstore.changes import Key, Op, RowGroup, Value
from localstore.clock import Version
from localstore.store.capture import CapturedTable
from localstore.store.clocks import ClockTable, key_of, key_value
from localstore.store.engine import quote
from localstore.store.merge import LONG_AGO, PURGED, Mark, RowState
from localstore.store.repaired import Records
from localstore.store.state import load_state

__all__ = ["keep_columns", "keep_table"]

_ROWS = 500  # read at a time
_MANY = 20_000  # rows kept in one go, so that memory stays bounded

_Kind = tuple[Op, Version, Version | None, tuple[str, ...]]
"""What rows of one group have in common: their change, its version, the life it belongs to, and their columns."""


def keep_columns(
    connection: sqlite3.Connection,
    table: CapturedTable,
    columns: Sequence[str],
    known: Mapping[str, str],
    *,
    schema: str = "main",
) -> None:
    """Keep the values of columns that are about to be dropped.

    Args:
        table: as it is described in the file now.
        columns: of that table.
        known: the names by which clocks know its columns, where they differ.
        schema: of the table itself; all that is known of it is in ``main``.
    """
    kept = _Kept(connection, table)
    for key, values, state in _rows(connection, table, columns, known, schema):
        kept.add_marks(key, values, state, known, born=None)
    kept.write()


def keep_table(connection: sqlite3.Connection, table: CapturedTable, known: Mapping[str, str], *, schema: str = "main") -> None:
    """Keep all rows of a table that is about to be dropped, and what is known of deleted ones; as ``keep_columns``."""
    kept = _Kept(connection, table)
    for key, state in _deleted(connection, table):
        assert state.died is not None
        kept.add((Op.DELETE, state.died, None, ()), key)
    for key, values, state in _rows(connection, table, table.columns, known, schema):
        *older, born = state.lives
        if state.died is not None:
            kept.add((Op.DELETE, state.died, None, ()), key)
        for life in older:
            kept.add((_insert_of(life), life, None, ()), key)
        brought = {name: value for name, value in values.items() if state.mark(known.get(name, name)).version == born}
        kept.add((_insert_of(born), born, None, tuple(brought)), key + tuple(brought.values()))
        kept.add_marks(key, values, state, known, born=born)
    kept.write()


class _Kept:
    """Rows by what they have in common, until they are written."""

    def __init__(self, connection: sqlite3.Connection, table: CapturedTable) -> None:
        self._connection = connection
        self._table = table
        self._rows: dict[_Kind, list[tuple[Value, ...]]] = {}
        self._count = 0

    def add(self, kind: _Kind, row: tuple[Value, ...]) -> None:
        self._rows.setdefault(kind, []).append(row)
        self._count += 1
        if self._count >= _MANY:
            self.write()

    def add_marks(
        self,
        key: tuple[Value, ...],
        values: Mapping[str, Value],
        state: RowState,
        known: Mapping[str, str],
        *,
        born: Version | None,
    ) -> None:
        """Each value with who set it, and those that would win if lives ended; nothing that ``born`` brought or nobody set."""
        found: dict[tuple[Version, Version], dict[str, Value]] = {}
        for name, value in values.items():
            column = known.get(name, name)
            winner = state.mark(column)
            offers = [] if winner.version == born else [(winner, value)]
            offers += [(rival.mark, rival.value) for rival in state.runners_up.get(column, ())]
            for mark, offered in offers:
                if mark.version != LONG_AGO:
                    found.setdefault((mark.version, mark.life), {})[name] = offered
        for (version, life), changed in found.items():
            self.add((Op.UPDATE, version, life, tuple(changed)), key + tuple(changed.values()))

    def write(self) -> None:
        """Put them where changes wait that this device's schema does not know."""
        for (op, (stamp, device), life, columns), rows in self._rows.items():
            group = RowGroup(
                self._table.name, op, self._table.key, columns, [list(values) for values in zip(*rows, strict=True)]
            )
            number = int(op is Op.UPDATE)  # a row's birth comes before what else is kept of that version
            seen = {} if life is None else {life[1]: max(life[0], 1)}
            self._connection.execute(
                "INSERT INTO localstore_unknown (device, number, stamp, tbl, changes) VALUES (?, ?, ?, ?, ?)",
                (device, number, stamp, self._table.name, msgspec.msgpack.encode((group, seen))),
            )
        self._rows.clear()
        self._count = 0


def _rows(
    connection: sqlite3.Connection, table: CapturedTable, columns: Sequence[str], known: Mapping[str, str], schema: str
) -> Iterator[tuple[Key, dict[str, Value], RowState]]:
    """Key, values as merged and clock of the rows that have a clock; what was never synced belongs to this device alone. What
    stands for a clock that was purged has to be newer than the default that a column will have when it comes back."""
    clocks, own = ClockTable(connection), load_state(connection)
    marks = {known.get(name, name): Mark((PURGED[0], own.device), PURGED) for name in columns}
    purged = RowState(lives=(PURGED,), marks=marks) if own.purged else None
    merged = _merged(connection, table, columns, known, schema)
    while rows := list(islice(merged, _ROWS)):
        states = dict(clocks.load(table.id, [key_value(key) for key, _ in rows]))
        for key, values in rows:
            state = states.get(key_value(key), purged)
            if state is not None and state.lives:
                yield key, values, state


def _merged(
    connection: sqlite3.Connection, table: CapturedTable, columns: Sequence[str], known: Mapping[str, str], schema: str
) -> Iterator[tuple[Key, dict[str, Value]]]:
    """Key and values of each row as merging left it, be it shown or not."""
    width = len(table.key)
    aside = {key: record for (_, key), record in Records(connection, {table.name: table}).of([table.name])}

    def unseen(key: Key) -> dict[str, Value]:
        kept = aside[key].merged if key in aside else {}
        return {name: kept[known.get(name, name)] for name in columns if known.get(name, name) in kept}

    names = ", ".join(map(quote, (*table.key, *columns)))
    for row in connection.execute(f"SELECT {names} FROM {schema}.{quote(table.name)}"):
        yield row[:width], {**dict(zip(columns, row[width:], strict=True)), **unseen(row[:width])}
    for key, record in aside.items():
        if record.is_hidden:
            yield key, unseen(key)


def _deleted(connection: sqlite3.Connection, table: CapturedTable) -> Iterable[tuple[tuple[Value, ...], RowState]]:
    keys = connection.execute("SELECT key FROM localstore_clock WHERE tbl = ? AND born IS NULL", (table.id,)).fetchall()
    for key, state in ClockTable(connection).load(table.id, [key for (key,) in keys]):
        if state.died is not None:
            yield key_of(table, key), state


def _insert_of(life: Version) -> Op:
    return Op.SEED if life[0] == 0 else Op.INSERT
