"""What the capture log says happened: row groups of one table, with the values that the rows have now.

Most transactions do one thing to rows of one table, each once: that is recognised and read in one go. Everything else is
gone through entry by entry. This module knows neither changesets nor bytes.
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import NamedTuple

import msgspec

from localstore.changes import Key, Op, RowGroup, Touch, Value, coalesce
from localstore.store.capture import BY_ROWID, KIND, START, CapturedTable, LoggedOp, captured_tables
from localstore.store.engine import quote

__all__ = ["Span", "note_unsealed", "touched_groups"]

_CHUNK = 500  # keys in one statement; below SQLite's lowest limit of parameters, with eight columns a key
_OPS = {LoggedOp.SEED: Op.INSERT, LoggedOp.INSERT: Op.INSERT, LoggedOp.UPDATE: Op.UPDATE, LoggedOp.DELETE: Op.DELETE}


class Span(NamedTuple):
    """Entries of one log: ``seq`` from ``first`` to ``last``."""

    log: str
    first: int
    last: int


class _Part(NamedTuple):
    """A table's entries in a span. ``op`` and ``bits`` are what all of them have, ``op`` None when they differ."""

    table: CapturedTable
    entries: int
    op: int | None
    bits: int | None


def touched_groups(connection: sqlite3.Connection, span: Span) -> Iterator[RowGroup]:
    """What the entries amount to. Rows that no changeset can hold are noted in ``localstore_unsealed`` instead."""
    tables = {table.id: table for table in captured_tables(connection).values()}
    likely = _likely_part(connection, span, tables)
    group = _simple_group(connection, span, likely) if likely else None
    if group is not None:
        yield group
        return
    for part in _parts(connection, span, tables):
        group = _simple_group(connection, span, part)
        if group is None:
            yield from _mixed_groups(connection, span, part.table)
        else:
            yield group


def note_unsealed(connection: sqlite3.Connection, table: CapturedTable, key: Key, reason: str) -> None:
    """Remember that a row does not travel, until it is changed into one that does."""
    connection.execute(
        "INSERT INTO localstore_unsealed (tbl, key, reason) VALUES (?, ?, ?)",
        (table.name, msgspec.msgpack.encode(key), reason),
    )


def _likely_part(connection: sqlite3.Connection, span: Span, tables: dict[int, CapturedTable]) -> _Part | None:
    """All of the span, should its first and last entry be of a kind: that those between are shows when they are counted."""
    ends = f"SELECT tbl, op, CASE op WHEN {LoggedOp.DELETE} THEN NULL ELSE bits END FROM {span.log} WHERE seq IN (?, ?)"
    kinds = set(connection.execute(ends, (span.first, span.last)).fetchall())
    if len(kinds) > 1:
        return None
    tbl, op, bits = kinds.pop()
    return _Part(tables[tbl], span.last - span.first + 1, op, bits)


def _parts(connection: sqlite3.Connection, span: Span, tables: dict[int, CapturedTable]) -> Iterator[_Part]:
    kinds = connection.execute(
        "SELECT tbl, count(*), CASE WHEN min(op) = max(op) THEN min(op) END, min(bits), max(bits)"
        f" FROM {span.log} WHERE seq BETWEEN ? AND ? GROUP BY tbl ORDER BY tbl",
        (span.first, span.last),
    ).fetchall()
    for tbl, count, op, lowest, highest in kinds:
        uniform = lowest == highest or op == LoggedOp.DELETE
        yield _Part(tables[tbl], count, op if uniform else None, lowest)


def _simple_group(connection: sqlite3.Connection, span: Span, part: _Part) -> RowGroup | None:
    """The common case in one read: one thing was done to each row, once. None when it is not so."""
    table, op = part.table, part.op
    if op is None or _has_unsealed_rows(connection, table):
        return None
    kind = Op.SEED if op == LoggedOp.SEED else _OPS[LoggedOp(op & KIND)]
    columns = _carried(table, kind, (part.bits or 0) << (op // START))
    with _no_garbage_collection():
        rows = _read_keys(connection, span, part) if kind is Op.DELETE else _read_rows(connection, span, part, columns)
    values = _columnar(rows, len(table.key) + len(columns))
    keys = values[: len(table.key)]
    distinct = len(set(keys[0]) if len(keys) == 1 else set(zip(*keys, strict=True)))
    if not len(rows) == distinct == part.entries or any(None in column for column in keys):
        return None
    return RowGroup(table.name, kind, table.key, columns, values)


def _mixed_groups(connection: sqlite3.Connection, span: Span, table: CapturedTable) -> Iterator[RowGroup]:
    results = _results(connection, span, table)
    carried = {kind: _carried(table, *kind) for kind in set(results.values())}
    needed = tuple(name for name in table.columns if any(name in columns for columns in carried.values()))
    width = len(table.key)
    wanted = [key for key, (op, _) in results.items() if op is not Op.DELETE and None not in key]
    present = {row[:width]: row[width:] for row in _find_rows(connection, table, needed, wanted)}
    rows_of: dict[tuple[Op, tuple[str, ...]], list[tuple[Value, ...]]] = {}
    for key, (op, mask) in results.items():
        if op is not Op.DELETE and key not in present:  # gone without a trigger: another program's INSERT OR REPLACE
            if None in key:
                note_unsealed(connection, table, key, "its key is null")
            elif op is not Op.INSERT:
                rows_of.setdefault((Op.DELETE, ()), []).append(key)
            continue
        columns = carried[op, mask]
        values = present.get(key, ())
        row = key + (values if columns == needed else tuple(values[needed.index(name)] for name in columns))
        rows_of.setdefault((op, columns), []).append(row)
    seeds = _are_seeds(connection, span, table)
    for (op, columns), rows in rows_of.items():
        yield RowGroup(table.name, Op.SEED if seeds else op, table.key, columns, _columnar(rows, width + len(columns)))


def _results(connection: sqlite3.Connection, span: Span, table: CapturedTable) -> dict[Key, tuple[Op, int]]:
    """What the log amounts to, row by row; corrected where triggers and earlier trouble make it say less than there is."""
    touches = _touches(connection, span, table)
    results = coalesce(touches)
    inserted = dict.fromkeys(touch.key for touch in touches if touch.op is Op.INSERT)
    gone = [key for key in inserted if results.get(key, (Op.DELETE, 0))[0] is Op.DELETE and None not in key]
    for key in _find_rows(connection, table, (), gone):  # a trigger put back what the statement that fired it deleted
        results[key] = (Op.REPLACE, 0)
    for id_, data in connection.execute("SELECT id, key FROM localstore_unsealed WHERE tbl = ?", (table.name,)).fetchall():
        key = tuple(msgspec.msgpack.decode(data))
        if key in results:  # what was held back before goes out with this change
            connection.execute("DELETE FROM localstore_unsealed WHERE id = ?", (id_,))
            if results[key][0] is Op.UPDATE:
                results[key] = (Op.INSERT, 0)
    return results


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
        f"SELECT l.k0, {names} FROM {span.log} AS l CROSS JOIN {quote(table.name)} AS t ON t.{table.rowid} = l.k0"
        f" WHERE l.tbl = ? AND l.seq BETWEEN ? AND ? AND l.op & {BY_ROWID}",
        (table.id, span.first, span.last),
    )
    return {row[0]: row[1:] for row in rows}


def _read_rows(connection: sqlite3.Connection, span: Span, part: _Part, columns: Sequence[str]) -> list[tuple[Value, ...]]:
    """Key and columns of the rows that one kind of entry is about, as far as they exist."""
    table = part.table
    names = ", ".join(f"t.{quote(name)}" for name in (*table.key, *columns))
    pairs = zip(table.key, table.log_key, strict=True)
    same = " AND ".join(f"t.{quote(name)} = l.{logged}" for name, logged in pairs)
    if part.op and part.op & BY_ROWID:
        same = f"t.{table.rowid} = l.k0"
    return connection.execute(
        f"SELECT {names} FROM {span.log} AS l CROSS JOIN {quote(table.name)} AS t ON {same}"
        " WHERE l.seq BETWEEN ? AND ? AND l.tbl = ? AND l.op = ? AND l.bits IS ?",
        (span.first, span.last, table.id, part.op, part.bits),
    ).fetchall()


def _read_keys(connection: sqlite3.Connection, span: Span, part: _Part) -> list[tuple[Value, ...]]:
    """The keys of the rows that entries of deletes are about."""
    return connection.execute(
        f"SELECT {', '.join(part.table.log_key)} FROM {span.log} WHERE seq BETWEEN ? AND ? AND tbl = ? AND op = ?",
        (span.first, span.last, part.table.id, part.op),
    ).fetchall()


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
    names = ", ".join(map(quote, (*table.key, *columns)))
    width = len(table.key)
    left = quote(table.key[0]) if width == 1 else f"({', '.join(map(quote, table.key))})"
    for start in range(0, len(keys), _CHUNK // width):
        chunk = keys[start : start + _CHUNK // width]
        marks = ", ".join("?" if width == 1 else f"({', '.join('?' * width)})" for _ in chunk)
        wanted = marks if width == 1 else f"VALUES {marks}"
        parameters = [value for key in chunk for value in key]
        yield from connection.execute(f"SELECT {names} FROM {quote(table.name)} WHERE {left} IN ({wanted})", parameters)


def _has_unsealed_rows(connection: sqlite3.Connection, table: CapturedTable) -> bool:
    found = connection.execute("SELECT 1 FROM localstore_unsealed WHERE tbl = ? LIMIT 1", (table.name,))
    return found.fetchone() is not None


def _columnar(rows: Iterable[tuple[Value, ...]], width: int) -> list[list[Value]]:
    rows = list(rows)
    return [list(map(itemgetter(n), rows)) for n in range(width)]
