"""What the capture log says happened: row groups of one table, with the values that the rows have now.

Most transactions do one thing to rows of one table, each once: that is recognised and read in one go. Everything else is
gone through entry by entry. This module knows neither changesets nor bytes.
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import itemgetter

import msgspec

from localstore.changes import Key, Op, RowGroup, Touch, Value, coalesce
from localstore.store.capture import (
    BY_ROWID,
    KIND,
    START,
    CapturedTable,
    LoggedOp,
    captured_tables,
)
from localstore.store.engine import quote
from localstore.store.logged import Part, Span

__all__ = ["note_unsealed", "touched_groups"]

_FIRST_READS = (16, 64, 256, 1024)  # rows
_CHUNK = 500  # keys in one statement; below SQLite's lowest limit of parameters, with eight columns a key
_OPS = {LoggedOp.SEED: Op.INSERT, LoggedOp.INSERT: Op.INSERT, LoggedOp.UPDATE: Op.UPDATE, LoggedOp.DELETE: Op.DELETE}


def touched_groups(
    connection: sqlite3.Connection, span: Span, *, by_others: bool = False, held: bool = True
) -> Iterator[RowGroup]:
    """What the entries amount to. Rows that no changeset can hold are noted in ``localstore_unsealed`` instead.

    Args:
        span: the entries.
        by_others: whether other programs may have caused them, whose ``INSERT OR REPLACE`` can delete unseen.
        held: whether there may be rows in ``localstore_unsealed``.
    """
    group = _simple_group(connection, span, span.likely, held=held) if span.likely else None
    if group is not None:
        yield group
        return
    for part in _parts(connection, span):
        group = _simple_group(connection, span, part, held=held)
        if group is None:
            yield from _mixed_groups(connection, span, part.table, delete_if_in_doubt=by_others)
        else:
            yield group


def note_unsealed(connection: sqlite3.Connection, table: CapturedTable, key: Key, reason: str) -> None:
    """Remember that a row does not travel, until it is changed into one that does."""
    connection.execute(
        "INSERT INTO localstore_unsealed (tbl, key, reason) VALUES (?, ?, ?)",
        (table.name, msgspec.msgpack.encode(key), reason),
    )


def _parts(connection: sqlite3.Connection, span: Span) -> Iterator[Part]:
    tables = {table.id: table for table in captured_tables(connection).values()}
    kinds = connection.execute(
        "SELECT tbl, count(*), CASE WHEN min(op) = max(op) THEN min(op) END, min(bits), max(bits)"
        f" FROM {span.log} WHERE seq BETWEEN ? AND ? GROUP BY tbl ORDER BY tbl",
        (span.first, span.last),
    ).fetchall()
    for tbl, count, op, lowest, highest in kinds:
        uniform = lowest == highest or op == LoggedOp.DELETE
        yield Part(tables[tbl], count, op if uniform else None, lowest)


def _simple_group(connection: sqlite3.Connection, span: Span, part: Part, *, held: bool) -> RowGroup | None:
    """The common case in one read: one thing was done to each row, once. None when it is not so."""
    table, op = part.table, part.op
    if op is None or (held and _has_unsealed_rows(connection, table)):
        return None
    kind = Op.SEED if op == LoggedOp.SEED else _OPS[LoggedOp(op & KIND)]
    columns = _carried(table, kind, (part.bits or 0) << (op // START))
    cursor = _keys_of(connection, span, part) if kind is Op.DELETE else _rows_of(connection, span, part, columns)
    rows = cursor.fetchall() if part.entries <= _FIRST_READS[0] else _read_once(cursor, len(table.key))
    if rows is None or len(rows) != part.entries:
        return None
    values = _columnar(rows, len(table.key) + len(columns))
    keys = values[: len(table.key)]
    distinct = set(keys[0]) if len(keys) == 1 else set(zip(*keys, strict=True))
    if len(distinct) < part.entries or any(None in column for column in keys):
        return None
    return RowGroup(table.name, kind, table.key, columns, values)


def _mixed_groups(
    connection: sqlite3.Connection, span: Span, table: CapturedTable, *, delete_if_in_doubt: bool = False
) -> Iterator[RowGroup]:
    touches = _touches(connection, span, table)
    needed = table.columns if _has_unsealed_rows(connection, table) else _needed(table, touches)
    width = len(table.key)
    keys = list(dict.fromkeys(touch.key for touch in touches))
    present = {row[:width]: row[width:] for row in _find_rows(connection, table, needed, keys)}
    results = coalesce(touches, present, delete_if_in_doubt=delete_if_in_doubt)
    _release_unsealed(connection, table, results)
    _set_null_keys_aside(connection, table, touches, results)
    rows_of: dict[tuple[Op, tuple[str, ...]], list[tuple[Value, ...]]] = {}
    for key, (op, mask) in results.items():
        columns = _carried(table, op, mask)
        values = () if op is Op.DELETE else present[key]
        row = key + (values if columns == needed else tuple(values[needed.index(name)] for name in columns))
        rows_of.setdefault((op, columns), []).append(row)
    seeds = _are_seeds(connection, span, table)
    for (op, columns), rows in rows_of.items():
        yield RowGroup(table.name, Op.SEED if seeds else op, table.key, columns, _columnar(rows, width + len(columns)))


def _needed(table: CapturedTable, touches: Iterable[Touch]) -> tuple[str, ...]:
    """The columns whose values may be carried by what the touches amount to."""
    mask = 0
    for touch in touches:
        mask |= touch.mask if touch.op is Op.UPDATE else -1
    return _carried(table, Op.UPDATE, mask)


def _set_null_keys_aside(
    connection: sqlite3.Connection, table: CapturedTable, touches: Iterable[Touch], results: dict[Key, tuple[Op, int]]
) -> None:
    """SQLite lets any program write rows whose key is null; on another device nobody could say which row is meant."""
    null = {touch.key: touch for touch in touches if None in touch.key}
    for key, latest in null.items():
        results.pop(key, None)
        if latest.op is not Op.DELETE:
            note_unsealed(connection, table, key, "its key is null")


def _release_unsealed(connection: sqlite3.Connection, table: CapturedTable, results: dict[Key, tuple[Op, int]]) -> None:
    """What was held back before goes out with this change, whole."""
    held = connection.execute("SELECT id, key FROM localstore_unsealed WHERE tbl = ?", (table.name,)).fetchall()
    for id_, data in held:
        key = tuple(msgspec.msgpack.decode(data))
        if key in results:
            connection.execute("DELETE FROM localstore_unsealed WHERE id = ?", (id_,))
            if results[key][0] is Op.UPDATE:
                results[key] = (Op.INSERT, 0)


def _are_seeds(connection: sqlite3.Connection, span: Span, table: CapturedTable) -> bool:
    """Whether the entries are of rows from before the table was synced. They are sealed before anything else is logged."""
    others = f"SELECT 1 FROM {span.log} WHERE tbl = ? AND seq BETWEEN ? AND ? AND op <> {LoggedOp.SEED} LIMIT 1"
    return connection.execute(others, (table.id, span.first, span.last)).fetchone() is None


def _carried(table: CapturedTable, op: Op, mask: int) -> tuple[str, ...]:
    """The columns whose values a change brings along."""
    if op is Op.DELETE:
        return ()
    return tuple(name for bit, name in enumerate(table.columns) if mask >> bit & 1) if op is Op.UPDATE else table.columns


def _touches(connection: sqlite3.Connection, span: Span, table: CapturedTable) -> list[Touch]:
    """A table's entries, oldest first, with the keys of rows that were logged by rowid.

    A rowid means the row that has it now, up to the latest delete of a row with that rowid; before, it meant that row.
    """
    entries = connection.execute(
        f"SELECT op, bits, {', '.join(table.log_key)} FROM {span.log} WHERE tbl = ? AND seq BETWEEN ? AND ? ORDER BY seq DESC",
        (table.id, span.first, span.last),
    ).fetchall()
    key_of = _keys_by_rowid(connection, span, table)
    touches = []
    for op, bits, *logged in entries:
        kind, key = LoggedOp(op & KIND), tuple(logged)
        if op & BY_ROWID:
            if key[0] not in key_of:
                continue  # gone without a trigger
            key = key_of[key[0]]
        elif kind is LoggedOp.DELETE:
            key_of[bits] = key
            bits = 0
        touches.append(Touch(_OPS[kind], key, (bits or 0) << (op // START)))
    touches.reverse()
    return touches


def _keys_by_rowid(connection: sqlite3.Connection, span: Span, table: CapturedTable) -> dict[Value, Key]:
    """The keys that rows logged by rowid have now."""
    if table.rowid is None:
        return {}
    names = ", ".join(f"t.{quote(name)}" for name in table.key)
    rows = connection.execute(
        f"SELECT l.k0, {names} FROM {span.log} AS l CROSS JOIN {table.sql_name} AS t ON t.{table.rowid} = l.k0"
        f" WHERE l.tbl = ? AND l.seq BETWEEN ? AND ? AND l.op & {BY_ROWID}",
        (table.id, span.first, span.last),
    )
    return {row[0]: row[1:] for row in rows}


def _rows_of(connection: sqlite3.Connection, span: Span, part: Part, columns: tuple[str, ...]) -> sqlite3.Cursor:
    """Key and columns of the rows that one kind of entry is about, as far as they exist."""
    by_rowid = bool(part.op and part.op & BY_ROWID)
    wanted = (span.first, span.last, part.table.id, part.op, part.bits)
    return connection.execute(_rows_sql(part.table, columns, by_rowid), wanted)


@lru_cache(maxsize=4096)
def _rows_sql(table: CapturedTable, columns: tuple[str, ...], by_rowid: bool) -> str:
    names = ", ".join(f"t.{quote(name)}" for name in (*table.key, *columns))
    pairs = zip(table.key, table.log_key, strict=True)
    same = f"t.{table.rowid} = l.k0" if by_rowid else " AND ".join(f"t.{quote(name)} = l.{logged}" for name, logged in pairs)
    return (
        f"SELECT {names} FROM {table.log} AS l CROSS JOIN {table.sql_name} AS t ON {same}"
        " WHERE l.seq BETWEEN ? AND ? AND l.tbl = ? AND l.op = ? AND l.bits IS ?"
    )


def _keys_of(connection: sqlite3.Connection, span: Span, part: Part) -> sqlite3.Cursor:
    """The keys of the rows that entries of deletes are about."""
    return connection.execute(
        f"SELECT {', '.join(part.table.log_key)} FROM {span.log} WHERE seq BETWEEN ? AND ? AND tbl = ? AND op = ?",
        (span.first, span.last, part.table.id, part.op),
    )


def _read_once(cursor: sqlite3.Cursor, width: int) -> list[tuple[Value, ...]] | None:
    """All rows, or None when a key soon comes a second time: a large row touched often must not fill the memory."""
    key_of = itemgetter(*range(width))
    keys: set[Value | Key] = set()
    rows: list[tuple[Value, ...]] = []
    with _no_garbage_collection():
        for size in _FIRST_READS:
            chunk = cursor.fetchmany(size)
            rows += chunk
            keys.update(map(key_of, chunk))
            if len(keys) < len(rows):
                return None
            if len(chunk) < size:
                return rows
        rows += cursor.fetchall()
    return rows


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python looks for cycles every few hundred objects made; many rows are many objects, and none of them in a cycle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _find_rows(
    connection: sqlite3.Connection, table: CapturedTable, columns: Sequence[str], keys: Sequence[Key]
) -> Iterator[tuple[Value, ...]]:
    """Key and columns of those of the keys' rows that exist."""
    names = ", ".join(f"t.{quote(name)}" for name in (*table.key, *columns))  # SQLite takes an unknown "name" alone for a text
    width = len(table.key)
    left = quote(table.key[0]) if width == 1 else f"({', '.join(map(quote, table.key))})"
    for start in range(0, len(keys), _CHUNK // width):
        chunk = keys[start : start + _CHUNK // width]
        marks = ", ".join("?" if width == 1 else f"({', '.join('?' * width)})" for _ in chunk)
        wanted = marks if width == 1 else f"VALUES {marks}"
        parameters = [value for key in chunk for value in key]
        yield from connection.execute(f"SELECT {names} FROM {table.sql_name} AS t WHERE {left} IN ({wanted})", parameters)


def _has_unsealed_rows(connection: sqlite3.Connection, table: CapturedTable) -> bool:
    found = connection.execute("SELECT 1 FROM localstore_unsealed WHERE tbl = ? LIMIT 1", (table.name,))
    return found.fetchone() is not None


def _columnar(rows: Iterable[tuple[Value, ...]], width: int) -> list[list[Value]]:
    rows = list(rows)
    return [list(map(itemgetter(n), rows)) for n in range(width)]
