"""Seeding: what a file holds becomes changesets of a new device, so that a remote that lost its data is filled again.

The changes of one stamp become one changeset with that stamp. So of what several devices bring, each column ends with the
value that was written last, as it would have if the remote had lost nothing. A stamp may come once from a device, and too many
changes of one are spread over several: the later ones have stamps that are greater by one each.

What the changes are is found out in ``store.seed_changes``; here they are put into changesets. All of it goes from table to
table inside the file, a portion at a time, so that no table has to fit into memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from localstore import wire
from localstore.changes import Changeset, Op, RowGroup, Value
from localstore.clock import stamp_at
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.clocks import key_of
from localstore.store.engine import quote
from localstore.store.given import GIVEN, execute_given
from localstore.store.outbox import add
from localstore.store.rows import Rows
from localstore.store.seal import SealLimits
from localstore.store.seed_changes import CHANGES, KEPT_ASIDE, collect
from localstore.store.stored import read_changeset

__all__ = ["seed", "seeding_horizon", "take_seeds"]

_AT_A_TIME = 20_000  # changes whose values are looked up together, in the order in which the rows lie
_ROWS = 50_000  # in one changeset; more of one stamp are spread
_AT_WORK = 20_000  # rows in memory until they are written

_Kind = tuple[str, Op, tuple[str, ...], tuple[str, ...]]
"""Table, what happened, key and columns."""
_Row = tuple[Value, ...]


def seeding_horizon(now_ms: int, last_ms: int, offline_ms: int) -> int:
    """The stamp from which on devices know clocks for certain. They keep them for twice the time that a device may be away;
    half of that time is left for the changesets to arrive."""
    return stamp_at(max(0, max(now_ms, last_ms) - offline_ms * 3 // 2))


def seed(connection: sqlite3.Connection, device: bytes, *, before: int, limits: SealLimits) -> int:
    """Put changesets into the outbox, which is empty, that make all that this file holds.

    Args:
        device: that they are of.
        before: what is older is from before sync, see ``seeding_horizon``.
        limits: what a changeset may hold.

    Returns:
        How many they are.
    """
    collect(connection, before)
    seeding = _Seeding(connection, device, limits)
    for stamp, kind, row in _changes(connection):
        seeding.put(stamp, kind, row)
    seeding.finish()
    connection.execute(f"DROP TABLE {CHANGES}")
    return seeding.number


def take_seeds(connection: sqlite3.Connection, rows: Rows, count: int) -> None:
    """Merge these changesets on top of what the file holds by now."""
    for number in range(1, count + 1):
        (data,) = connection.execute("SELECT sealed FROM localstore_outbox WHERE number = ?", (number,)).fetchone()
        changeset = read_changeset(data)
        rows.take(changeset)
        for group in changeset.groups:
            table = rows.table_of(group)
            if table is not None and group.op is Op.SEED:
                connection.execute("UPDATE localstore_table SET seeded = ? WHERE id = ?", (changeset.stamp, table.id))
        if rows.size > _AT_WORK:
            rows.flush()
    rows.flush()


class _Seeding:
    """Changes on their way into changesets."""

    def __init__(self, connection: sqlite3.Connection, device: bytes, limits: SealLimits) -> None:
        self._connection = connection
        self._device = device
        self._limits = limits
        self._stamp = 0  # of the changes at hand
        self._last_stamp = 0  # of the last changeset
        self._groups: dict[_Kind, list[_Row]] = {}
        self._count = 0
        self.number = 0

    def put(self, stamp: int, kind: _Kind, row: _Row) -> None:
        # Deletes are spread only if they must be: a row that was made again has a stamp that may be greater by one only.
        most = self._limits.max_rows if kind[1] is Op.DELETE else min(_ROWS, self._limits.max_rows)
        if stamp != self._stamp or self._count >= most:
            self.finish()
        self._stamp = stamp
        self._groups.setdefault(kind, []).append(row)
        self._count += 1

    def finish(self) -> None:
        """Send what is at hand."""
        if self._groups:
            self._send([(kind, rows) for kind, rows in self._groups.items()])
        self._groups, self._count = {}, 0

    def _send(self, kinds: Sequence[tuple[_Kind, list[_Row]]]) -> None:
        """Send changes, in several changesets when one cannot hold them."""
        groups = tuple(RowGroup(*kind[:2], *kind[2:], _by_column(rows)) for kind, rows in kinds)
        stamp = max(self._stamp, self._last_stamp + 1)
        sealed = wire.seal(Changeset(self._device, self.number + 1, stamp, (), groups))
        parts = _halves(kinds) if sealed.size > self._limits.max_bytes else ()
        if parts:
            for part in parts:
                self._send(part)
            return
        add(self._connection, sealed, groups)
        self.number, self._last_stamp = self.number + 1, stamp


def _halves(kinds: Sequence[tuple[_Kind, list[_Row]]]) -> tuple[list[tuple[_Kind, list[_Row]]], ...]:
    """Two parts of changes; nothing when there is but one value left."""
    if len(kinds) > 1:
        return list(kinds[: len(kinds) // 2]), list(kinds[len(kinds) // 2 :])
    ((kind, rows),) = kinds
    if len(rows) > 1:
        return [(kind, rows[: len(rows) // 2])], [(kind, rows[len(rows) // 2 :])]
    name, op, key, columns = kind
    if len(columns) < 2:
        return ()
    (row,), half = rows, len(columns) // 2
    first = (name, op, key, columns[:half]), [row[: len(key) + half]]
    rest = (name, Op.UPDATE, key, columns[half:]), [row[: len(key)] + row[len(key) + half :]]
    return [first], [rest]


def _by_column(rows: list[_Row]) -> list[list[Value]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _changes(connection: sqlite3.Connection) -> Iterator[tuple[int, _Kind, _Row]]:
    """All changes in the order of their stamps, with values."""
    tables = {table.id: table for table in captured_tables(connection).values()}
    found = connection.execute(f"SELECT stamp, tbl, op, key, detail FROM {CHANGES} ORDER BY stamp, tbl, op, key")
    while portion := list(islice(found, _AT_A_TIME)):
        shown = _shown(connection, tables, [(tbl, key) for _, tbl, op, key, detail in portion if _is_shown(op, detail)])
        for stamp, tbl, op, key, detail in portion:
            if op == KEPT_ASIDE:
                yield from _kept_aside(connection, stamp, key)
                continue
            table = tables[tbl]
            if _is_shown(op, detail):
                columns, row = table.columns, shown[tbl, key]
            else:
                values = msgspec.msgpack.decode(detail) if detail else {}
                columns, row = tuple(values), (*key_of(table, key), *values.values())
            yield stamp, (table.name, Op(op), table.key, columns), row


def _is_shown(op: int, detail: bytes | None) -> bool:
    """Whether a change brings what its table shows of the row."""
    return detail is None and op in (Op.INSERT, Op.SEED)


def _shown(
    connection: sqlite3.Connection, tables: dict[int, CapturedTable], wanted: list[tuple[int, Value]]
) -> dict[tuple[int, Value], _Row]:
    """Keys and values of rows, as their tables show them."""
    found: dict[tuple[int, Value], _Row] = {}
    for tbl in {tbl for tbl, _ in wanted}:
        table, keys = tables[tbl], sorted((key for other, key in wanted if other == tbl), key=_order)
        parts = list(zip(*(key_of(table, key) for key in keys), strict=True))
        names = ", ".join(f"t.{quote(name)}" for name in table.key + table.columns)
        same = " AND ".join(f"t.{quote(name)} = g.c{number}" for number, name in enumerate(table.key))
        sql = f"SELECT g.c{len(parts)}, {names} FROM {GIVEN} AS g CROSS JOIN {table.sql_name} AS t ON {same}"
        for position, *row in execute_given(connection, sql, [*parts, range(len(keys))]):
            found[tbl, keys[position]] = tuple(row)
    return found


def _order(value: Value) -> tuple[int, Value]:
    """SQLite's order of values of different kinds, or nearly."""
    return (2 if isinstance(value, bytes) else 1 if isinstance(value, str) else 0, value)


def _kept_aside(connection: sqlite3.Connection, stamp: int, id_: int) -> Iterator[tuple[int, _Kind, _Row]]:
    """A group of changes that this schema does not know, as it came."""
    (data,) = connection.execute("SELECT changes FROM localstore_unknown WHERE id = ?", (id_,)).fetchone()
    group, _ = msgspec.msgpack.decode(data, type=tuple[RowGroup, dict[bytes, int]])
    op = Op.SEED if stamp == 0 and group.op is not Op.UPDATE else group.op
    for row in group.rows:
        yield stamp, (group.table, op, group.key, group.columns), row
