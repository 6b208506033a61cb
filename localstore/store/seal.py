"""Sealing: the capture log of one transaction becomes one changeset in the outbox, inside that transaction.

The touched rows are read once, as they are at commit. A transaction that changed nothing in the end seals nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from localstore import wire
from localstore.changes import Changeset, Dependency, Key, Op, RowGroup, Touch, Value, coalesce
from localstore.clock import next_stamp
from localstore.errors import ChangesetTooLarge, LocalStoreError, TextNotUnicode
from localstore.store.capture import MASK_BITS, CapturedTable, captured_tables
from localstore.store.driver import driver_errors
from localstore.store.engine import quote
from localstore.store.state import load_state

__all__ = ["has_unsealed", "seal_leftovers", "seal_log", "take_unsealed"]

_LEFTOVER_ENTRIES = 10_000


def has_unsealed(connection: sqlite3.Connection) -> bool:
    """Whether triggers logged anything since the last seal."""
    return connection.execute("SELECT 1 FROM localstore_log LIMIT 1").fetchone() is not None


def seal_log(connection: sqlite3.Connection, *, now_ms: int, max_bytes: int, limit: int | None = None) -> int | None:
    """Seal what the log holds into one changeset.

    Args:
        now_ms: the wall clock.
        max_bytes: largest body of a changeset before compression.
        limit: take no more than so many entries, the oldest.

    Returns:
        The changeset's number, or None when the log amounts to no change.

    Raises:
        ChangesetTooLarge, TextNotUnicode: the caller must roll back.
    """
    upto = _last_entry(connection, limit)
    if upto is None:
        return None
    groups = _groups(connection, upto)
    if not groups:
        connection.execute("DELETE FROM localstore_log WHERE seq <= ?", (upto,))
        return None
    state = load_state(connection)
    number, stamp = state.last_number + 1, next_stamp(state.last_stamp, now_ms)
    depends = _undeclared(connection, state.device)
    sealed = wire.seal(Changeset(state.device, number, stamp, depends, groups))
    if sealed.size > max_bytes:
        raise ChangesetTooLarge(
            f"This transaction changed {sealed.rows} rows, {sealed.size} bytes; a changeset may hold"
            f" {max_bytes}. It was rolled back.",
            hint="Write in several transactions, or raise the setting max_changeset_bytes.",
        )
    connection.execute("DELETE FROM localstore_log WHERE seq <= ?", (upto,))
    if depends:
        connection.execute("UPDATE localstore_device SET declared = number WHERE number > declared")
    connection.execute("UPDATE localstore_state SET last_number = ?, last_stamp = ?", (number, stamp))
    data = wire.encode(sealed)
    connection.execute("INSERT INTO localstore_outbox VALUES (?, ?, ?, ?, ?)", (number, stamp, sealed.rows, len(data), data))
    return number


def _groups(connection: sqlite3.Connection, upto: int) -> tuple[RowGroup, ...]:
    try:
        return tuple(_read_groups(connection, upto))
    except driver_errors("OperationalError") as error:
        if "decode" not in str(error):
            raise
        raise TextNotUnicode(
            f"This transaction wrote text that is not UTF-8 ({error}). It was rolled back.", hint="Store bytes as a BLOB."
        ) from error


def seal_leftovers(connection: sqlite3.Connection, *, now_ms: int, max_bytes: int) -> None:
    """Seal what other programs wrote, in changesets of a bounded size, as nobody is there to split the transaction.

    A row that no changeset can hold must not keep the application from its file: it stays in its table, is noted in
    ``localstore_unsealed``, and does not travel.
    """
    limit = _LEFTOVER_ENTRIES
    while has_unsealed(connection):
        try:
            seal_log(connection, now_ms=now_ms, max_bytes=max_bytes, limit=limit)
        except (ChangesetTooLarge, TextNotUnicode) as error:
            if limit == 1:
                _set_aside(connection, error)
            limit = max(1, limit // 10)
        else:
            limit = min(limit * 10, _LEFTOVER_ENTRIES)


def take_unsealed(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Table and reason of each row that could not be sealed and was not told of yet."""
    rows = connection.execute("SELECT tbl, reason FROM localstore_unsealed WHERE NOT told ORDER BY id").fetchall()
    if rows:
        connection.execute("UPDATE localstore_unsealed SET told = 1")
    return rows


def _set_aside(connection: sqlite3.Connection, error: LocalStoreError) -> None:
    """Take the oldest entry out of the log."""
    seq, tbl, *values = connection.execute(
        "SELECT seq, tbl, k0, k1, k2, k3, k4, k5, k6, k7 FROM localstore_log ORDER BY seq LIMIT 1"
    ).fetchone()
    table = next(table for table in captured_tables(connection).values() if table.id == tbl)
    reason = "it is too large" if isinstance(error, ChangesetTooLarge) else "it holds text that is not UTF-8"
    _note_unsealed(connection, table, tuple(values[: len(table.key)]), reason)
    connection.execute("DELETE FROM localstore_log WHERE seq = ?", (seq,))


def _note_unsealed(connection: sqlite3.Connection, table: CapturedTable, key: Key, reason: str) -> None:
    """Remember that a row does not travel, until it is changed into one that does."""
    connection.execute(
        "INSERT INTO localstore_unsealed (tbl, key, reason) VALUES (?, ?, ?)",
        (table.name, msgspec.msgpack.encode(key), reason),
    )


def _last_entry(connection: sqlite3.Connection, limit: int | None) -> int | None:
    sql = "SELECT max(seq) FROM localstore_log"
    if limit is not None:
        sql = f"SELECT max(seq) FROM (SELECT seq FROM localstore_log ORDER BY seq LIMIT {limit})"
    upto = connection.execute(sql).fetchone()[0]
    return None if upto is None else int(upto)


def _undeclared(connection: sqlite3.Connection, own: bytes) -> tuple[Dependency, ...]:
    """What other devices did that was applied here since our last changeset."""
    news = connection.execute(
        "SELECT device, number, stamp FROM localstore_device WHERE number > declared AND device <> ? ORDER BY id", (own,)
    )
    return tuple(Dependency(*row) for row in news)


def _read_groups(connection: sqlite3.Connection, upto: int) -> Iterator[RowGroup]:
    tables = {table.id: table for table in captured_tables(connection).values()}
    kinds = connection.execute(
        "SELECT tbl, count(*), min(op), max(op) FROM localstore_log WHERE seq <= ? GROUP BY tbl ORDER BY tbl", (upto,)
    ).fetchall()
    for tbl, count, lowest, highest in kinds:
        table = tables[tbl]
        if lowest == highest == Op.INSERT:
            group = _insert_group(connection, table, upto, count)
            if group is not None:
                yield group
                continue
        yield from _coalesced_groups(connection, table, upto)


def _insert_group(connection: sqlite3.Connection, table: CapturedTable, upto: int, count: int) -> RowGroup | None:
    """The common case in one read: nothing but inserts. None when a key was inserted twice, which another program's
    ``INSERT OR REPLACE`` without recursive triggers can do."""
    rows = _read_rows(connection, table, table.columns, upto)
    values = _transposed(rows, len(table.key) + len(table.columns))
    distinct = len(set(zip(*values[: len(table.key)], strict=True)))
    if not len(rows) == distinct == count:
        return None
    return RowGroup(table.name, Op.INSERT, table.key, table.columns, values)


def _coalesced_groups(connection: sqlite3.Connection, table: CapturedTable, upto: int) -> Iterator[RowGroup]:
    results = _results(connection, table, upto)
    carried = {kind: _carried(table, *kind) for kind in set(results.values())}
    needed = tuple(name for name in table.columns if any(name in columns for columns in carried.values()))
    width = len(table.key)
    present: dict[Key, tuple[Value, ...]] = {}
    if any(op is not Op.DELETE for op, _ in carried):
        present = {row[:width]: row[width:] for row in _read_rows(connection, table, needed, upto)}
    rows_of: dict[tuple[Op, tuple[str, ...]], list[tuple[Value, ...]]] = {}
    for key, (op, mask) in results.items():
        if op is not Op.DELETE and key not in present:  # gone without a trigger: another program's INSERT OR REPLACE
            if op is not Op.INSERT:
                rows_of.setdefault((Op.DELETE, ()), []).append(key)
            elif None in key:
                _note_unsealed(connection, table, key, "its key is null")
            continue
        columns = carried[op, mask]
        values = present.get(key, ())
        row = key + (values if columns == needed else tuple(values[needed.index(name)] for name in columns))
        rows_of.setdefault((op, columns), []).append(row)
    for (op, columns), rows in rows_of.items():
        yield RowGroup(table.name, op, table.key, columns, _transposed(rows, width + len(columns)))


def _results(connection: sqlite3.Connection, table: CapturedTable, upto: int) -> dict[Key, tuple[Op, int]]:
    """What the log amounts to, row by row; corrected where triggers and earlier trouble make it say less than there is."""
    touches = list(_touches(connection, table, upto))
    results = coalesce(touches)
    for key in dict.fromkeys(touch.key for touch in touches if touch.op is Op.INSERT):
        gone = results.get(key, (Op.DELETE, 0))[0] is Op.DELETE
        if gone and _is_there(connection, table, key):  # a trigger put back what the statement that fired it deleted
            results[key] = (Op.REPLACE, 0)
    for id_, data in connection.execute("SELECT id, key FROM localstore_unsealed WHERE tbl = ?", (table.name,)).fetchall():
        key = tuple(msgspec.msgpack.decode(data))
        if key in results:  # what was held back before goes out with this change
            connection.execute("DELETE FROM localstore_unsealed WHERE id = ?", (id_,))
            if results[key][0] is Op.UPDATE:
                results[key] = (Op.INSERT, 0)
    return results


def _carried(table: CapturedTable, op: Op, mask: int) -> tuple[str, ...]:
    """The columns whose values a change brings along."""
    if op is Op.DELETE:
        return ()
    return tuple(name for bit, name in enumerate(table.columns) if mask >> bit & 1) if op is Op.UPDATE else table.columns


def _touches(connection: sqlite3.Connection, table: CapturedTable, upto: int) -> Iterator[Touch]:
    ops = {int(op): op for op in Op}
    entries = connection.execute(
        f"SELECT op, part, mask, {', '.join(table.log_key)} FROM localstore_log WHERE tbl = ? AND seq <= ? ORDER BY seq",
        (table.id, upto),
    )
    for op, part, mask, *key in entries:
        yield Touch(ops[op], tuple(key), (mask or 0) << (MASK_BITS * (part or 0)))


def _read_rows(
    connection: sqlite3.Connection, table: CapturedTable, columns: Sequence[str], upto: int
) -> list[tuple[Value, ...]]:
    """Key and columns of the touched rows that exist; a row touched more than once comes more than once."""
    names = ", ".join(f"t.{quote(name)}" for name in (*table.key, *columns))
    same_key = " AND ".join(f"t.{quote(name)} = l.{logged}" for name, logged in zip(table.key, table.log_key, strict=True))
    return connection.execute(
        f"SELECT {names} FROM localstore_log AS l JOIN {quote(table.name)} AS t ON {same_key}"
        " WHERE l.tbl = ? AND l.seq <= ? ORDER BY l.seq",
        (table.id, upto),
    ).fetchall()


def _is_there(connection: sqlite3.Connection, table: CapturedTable, key: Key) -> bool:
    same_key = " AND ".join(f"{quote(name)} = ?" for name in table.key)
    return connection.execute(f"SELECT 1 FROM {quote(table.name)} WHERE {same_key}", key).fetchone() is not None


def _transposed(rows: Iterable[tuple[Value, ...]], width: int) -> list[list[Value]]:
    return [list(values) for values in zip(*rows, strict=True)] or [[] for _ in range(width)]
