"""The changes that would make a file's merged rows anew, each with the stamp that it had.

What merging knows of a row is less than its history, and enough: when it was inserted and deleted last, and when each column
was set. So a row becomes an insert with all its values, an update for every later stamp at which columns were set, and a
delete for its tombstone. Inserts bring what the row holds in the end, so that no row is ever seen with half of its values.

What is older than a horizon, or has no clock at all, becomes a row from before sync (``Op.SEED``), as other devices may have
forgotten the clocks by which they would have to tell which is newer. Tombstones that old are left out.

Two devices' inserts of one row are told apart by their clocks, but an update that its writer made to the earlier of them is
here one of the later: only a delete between the two, that comes from elsewhere, would see the difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec

from localstore.changes import Key, Op, RowGroup, Value
from localstore.clock import Version
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.clocks import ClockTable, key_of, key_value
from localstore.store.engine import quote
from localstore.store.merge import LONG_AGO, PURGED, Mark, RowState
from localstore.store.repaired import Records

__all__ = ["CHANGES", "KEPT_ASIDE", "collect"]

CHANGES = "main.localstore_seeding"
"""Stamp, table, ``Op``, key, and values by column where they are not just what the table shows. In order, and gone with the
transaction."""
KEPT_ASIDE = 0
"""In place of an ``Op``: the key is a row of ``localstore_unknown``."""
_ROWS = 500  # looked at in one go

_Change = tuple[int, Op, dict[str, Value]]


def collect(connection: sqlite3.Connection, before: int) -> None:
    """Find all changes, and note them in ``CHANGES``.

    Args:
        connection: in a transaction of our own; everything has been folded and caught up.
        before: the horizon, a stamp.
    """
    connection.execute(
        f"CREATE TABLE {CHANGES} (stamp INTEGER NOT NULL, tbl INTEGER NOT NULL, op INTEGER NOT NULL, key NOT NULL, detail,"
        " PRIMARY KEY (stamp, tbl, op, key)) WITHOUT ROWID"
    )
    connection.create_function("localstore_key", -1, lambda *key: key_value(key))
    for table in captured_tables(connection).values():
        _collect_plain(connection, table, before)
        for key, state, merged in _others(connection, table):
            _note(connection, table, key, _changes_of(state, merged, table.columns, before))
        _leave_out_unsealed(connection, table)
    _collect_unknown(connection, before)


def _collect_plain(connection: sqlite3.Connection, table: CapturedTable, before: int) -> None:
    """Most rows: born, and that is all; or deleted; or without a clock. For these SQLite needs no help."""
    into = f"INSERT INTO {CHANGES} (stamp, tbl, op, key)"
    of_table, values = f"tbl = {table.id}", {"before": before}
    plain = f"{of_table} AND born IS NOT NULL AND {_plain(table)}"
    clock = "FROM localstore_clock AS c WHERE"
    connection.execute(f"{into} SELECT born, tbl, {Op.INSERT}, key {clock} {plain} AND born >= :before", values)
    connection.execute(f"{into} SELECT 0, tbl, {Op.SEED}, key {clock} {plain} AND born < :before", values)
    gone = f"{of_table} AND born IS NULL AND died >= :before"
    connection.execute(f"{into} SELECT died, tbl, {Op.DELETE}, key {clock} {gone}", values)
    key = ", ".join(f"t.{quote(name)}" for name in table.key)
    key = f"+{key}" if len(table.key) == 1 else f"localstore_key({key})"  # without an affinity, as keys of clocks are
    no_clock = f"NOT EXISTS (SELECT 1 FROM localstore_clock AS c WHERE {of_table} AND c.key = {key})"
    no_record = f"NOT EXISTS (SELECT 1 FROM localstore_repaired AS r WHERE r.tbl = {table.id} AND r.key = {key})"
    connection.execute(
        f"{into} SELECT 0, {table.id}, {Op.SEED}, {key} FROM {table.sql_name} AS t WHERE {no_clock} AND {no_record}"
    )


def _plain(table: CapturedTable) -> str:
    """Whether a clock tells of a birth and nothing else, and the table shows the row as merged."""
    return (
        f"died IS NULL AND detail IS NULL AND generation = (SELECT generation FROM localstore_table WHERE id = {table.id})"
        f" AND NOT EXISTS (SELECT 1 FROM localstore_repaired AS r WHERE r.tbl = {table.id} AND r.key = c.key)"
    )


def _others(connection: sqlite3.Connection, table: CapturedTable) -> Iterator[tuple[Key, RowState, dict[str, Value]]]:
    """Key, clock and merged values of the rows that are not plain."""
    clocks, records = ClockTable(connection), Records(connection, {table.name: table})
    keys = connection.execute(
        f"SELECT key FROM localstore_clock AS c WHERE tbl = {table.id} AND born IS NOT NULL AND NOT ({_plain(table)})"
        f" UNION SELECT key FROM localstore_repaired WHERE tbl = {table.id}"
    )
    while portion := [key for (key,) in islice(keys, _ROWS)]:
        states = dict(clocks.load(table.id, portion))
        aside = records.load(table, (key_of(table, key) for key in portion))
        for value in portion:
            key = key_of(table, value)
            state = states.get(value) or RowState(lives=(PURGED,))
            if state.lives:
                yield key, state, records.merged(table, key, aside.get(key))


def _changes_of(state: RowState, merged: Mapping[str, Value], columns: tuple[str, ...], before: int) -> Iterator[_Change]:
    """The changes that make one row."""
    offers = {name: _offers(state, name, merged.get(name)) for name in columns}
    inserted: set[int] = set()
    if any(life[0] < before for life in state.lives):
        inserted.add(0)
        yield 0, Op.SEED, {name: _oldest(values, before) for name, values in offers.items() if values}
    died = state.died if state.died is not None and state.died[0] >= before else None
    # Devices that seeded the same row gave it lives of one stamp, which are one here.
    for life in {life[0]: life for life in state.lives if life[0] >= before}.values():
        inserted.add(life[0])
        yield life[0], Op.INSERT, dict(_brought(offers, life, is_last=life == state.lives[-1]))
    if died is not None:  # a replacement is taken apart: as one, it would end the life that another device's makes of it
        yield died[0] - (died[0] in inserted), Op.DELETE, {}
    for stamp in sorted({mark.version[0] for values in offers.values() for mark, _ in values}):
        if stamp >= before and stamp not in inserted:
            yield (
                stamp,
                Op.UPDATE,
                {name: v for name, values in offers.items() for mark, v in values if mark.version[0] == stamp},
            )


def _offers(state: RowState, column: str, value: Value) -> list[tuple[Mark, Value]]:
    """The value of a column, and those that would be its value if lives ended; without a default that nobody set."""
    found = [(state.mark(column), value), *((rival.mark, rival.value) for rival in state.runners_up.get(column, ()))]
    return [(mark, offered) for mark, offered in found if mark.version != LONG_AGO]


def _oldest(offers: list[tuple[Mark, Value]], before: int) -> Value:
    return next((value for mark, value in offers if mark.version[0] < before), offers[0][1])


def _brought(offers: Mapping[str, list[tuple[Mark, Value]]], life: Version, *, is_last: bool) -> Iterator[tuple[str, Value]]:
    """What an insert brings: its own values, or what took their place since; where nothing is left of it, as another insert of
    the row came later, what the row holds in the end. So nobody sees a row without its values who has not got that one yet."""
    for name, values in offers.items():
        own = [value for mark, value in values if mark.version[0] == life[0]]
        since = [value for mark, value in values if mark.life[0] == life[0] or (is_last and mark.version > life)]
        if values:
            yield name, (own or since or [values[0][1]])[0]


def _set_at(offers: Mapping[str, list[tuple[Mark, Value]]], stamp: int) -> Iterator[tuple[str, Value]]:
    return ((name, value) for name, values in offers.items() for mark, value in values if mark.version[0] == stamp)


def _note(connection: sqlite3.Connection, table: CapturedTable, key: Key, changes: Iterator[_Change]) -> None:
    connection.executemany(
        f"INSERT INTO {CHANGES} VALUES (?, ?, ?, ?, ?)",
        [(stamp, table.id, op, key_value(key), msgspec.msgpack.encode(values)) for stamp, op, values in changes],
    )


def _leave_out_unsealed(connection: sqlite3.Connection, table: CapturedTable) -> None:
    """Rows that no changeset can hold. Text that is not UTF-8 is known by its bytes."""
    found = connection.execute("SELECT key FROM localstore_unsealed WHERE tbl = ?", (table.name,)).fetchall()
    for (data,) in found:
        key = key_value(tuple(msgspec.msgpack.decode(data)))
        connection.execute(
            f"DELETE FROM {CHANGES} WHERE stamp = 0 AND tbl = ? AND (key = ? OR CAST(key AS BLOB) = ?)", (table.id, key, key)
        )


def _collect_unknown(connection: sqlite3.Connection, before: int) -> None:
    """What came for tables and columns that this schema does not have: it goes on as it came, but for what is too old."""
    rows = connection.execute("SELECT id, stamp, changes FROM localstore_unknown")
    for id_, stamp, data in rows.fetchall():
        group, _ = msgspec.msgpack.decode(data, type=tuple[RowGroup, dict[bytes, int]])
        is_old = stamp < before
        if is_old and group.op is Op.DELETE:
            continue
        at = stamp if not is_old else before if group.op is Op.UPDATE else 0
        connection.execute(f"INSERT INTO {CHANGES} VALUES (?, -1, {KEPT_ASIDE}, ?, NULL)", (at, id_))
