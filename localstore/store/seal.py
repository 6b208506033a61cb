"""Sealing: the capture log of one transaction becomes one changeset in the outbox, inside that transaction.

The touched rows are read once, as they are at commit. A transaction that changed nothing in the end seals nothing.
What the log says of each row is worked out in ``store.touched``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from itertools import chain

from localstore import wire
from localstore.changes import Changeset, Dependency, Key, Op, RowGroup
from localstore.clock import next_stamp
from localstore.errors import ChangesetTooLarge, LocalStoreError, SchemaMismatch, TextNotUnicode
from localstore.store.capture import LOGS, CapturedTable, captured_tables
from localstore.store.driver import driver_errors
from localstore.store.logged import Logged, Span, read_logged
from localstore.store.outbox import add
from localstore.store.repair import note_own
from localstore.store.touched import note_unsealed, touched_groups

__all__ = ["SealLimits", "has_unsealed", "seal_leftovers", "seal_log", "take_unsealed", "undeclared"]

_LEFTOVER_ENTRIES = 10_000
_HAS_ENTRIES = "SELECT " + " OR ".join(f"EXISTS (SELECT 1 FROM {log})" for log in LOGS)


@dataclass(frozen=True, slots=True)
class SealLimits:
    """What one changeset may hold.

    Attributes:
        max_bytes: largest body before compression.
        max_rows: most rows.
    """

    max_bytes: int = wire.MAX_CHANGESET_BYTES
    max_rows: int = wire.DEFAULT_CHANGESET_ROWS


def has_unsealed(connection: sqlite3.Connection) -> bool:
    """Whether triggers logged anything since the last seal."""
    return bool(connection.execute(_HAS_ENTRIES).fetchone()[0])


def seal_log(connection: sqlite3.Connection, *, now_ms: int, limits: SealLimits, limit: int | None = None) -> bool:
    """Seal what the log holds into one changeset.

    Args:
        now_ms: the wall clock.
        limits: what the changeset may hold.
        limit: take no more than so many entries of each log, the oldest; with 1, a single entry of a single log.

    Returns:
        Whether rows that are set aside may come back because of it, so that ``apply.catch_up`` should be called.

    Raises:
        ChangesetTooLarge, TextNotUnicode: the caller must roll back.
    """
    logged = read_logged(connection, limit)
    if not logged.spans:
        return False
    spans = logged.spans[:1] if limit == 1 else logged.spans
    groups = _groups(connection, logged, spans, by_others=limit is not None)
    if not groups:
        _clear(connection, spans, limit)
        return False
    rows = sum(group.row_count for group in groups)
    if rows > limits.max_rows:
        raise _too_large(f"{rows} rows", limits.max_rows, wire.MAX_CHANGESET_ROWS, "max_changeset_rows")
    number, stamp = logged.last_number + 1, next_stamp(logged.last_stamp, now_ms)
    depends = undeclared(connection, logged.device) if logged.news else ()
    changeset = Changeset(logged.device, number, stamp, depends, groups)
    sealed = wire.seal(changeset)
    if sealed.size > limits.max_bytes:
        counted = f"{sealed.rows} rows of together {sealed.size} bytes"
        raise _too_large(counted, limits.max_bytes, wire.MAX_CHANGESET_BYTES, "max_changeset_bytes")
    _clear(connection, spans, limit)
    if logged.repaired or limit is not None:
        note_own(connection, changeset, by_others=limit is not None)
    if depends:
        connection.execute("UPDATE localstore_device SET declared = number WHERE number > declared")
    for name in {group.table for group in groups if group.op is Op.SEED}:
        connection.execute("UPDATE localstore_table SET seeded = ? WHERE name = ?", (stamp, name))
    add(connection, sealed, groups)
    return logged.repaired


def _too_large(counted: str, limit: int, highest: int, setting: str) -> ChangesetTooLarge:
    """Names what was counted, the limit, and the ways out that there are: nobody reads a changeset beyond the highest."""
    unit = setting.rpartition("_")[2]
    remedy = "Write in several transactions"
    return ChangesetTooLarge(
        f"This transaction changed {counted}; a changeset may hold {limit} {unit} ({setting}). It was rolled back.",
        hint=f"{remedy}, or raise the setting {setting}, to {highest} at most." if limit < highest else f"{remedy}.",
    )


def _groups(connection: sqlite3.Connection, logged: Logged, spans: list[Span], *, by_others: bool) -> tuple[RowGroup, ...]:
    try:
        found = (touched_groups(connection, span, by_others=by_others, held=logged.held) for span in spans)
        return tuple(chain.from_iterable(found))
    except driver_errors("OperationalError") as error:
        if str(error).startswith(("no such column", "no such table")):
            raise SchemaMismatch(
                f"A synced table was changed while its file was open ({error}). A write() was rolled back; what other programs"
                " wrote stays in the file, and is sent once it was opened anew.",
                hint="Close the realm and open it again, with classes that fit.",
            ) from error
        if "decode" not in str(error):
            raise
        raise TextNotUnicode(
            f"This transaction wrote text that is not UTF-8 ({error}). It was rolled back.", hint="Store bytes as a BLOB."
        ) from error


def seal_leftovers(connection: sqlite3.Connection, *, now_ms: int, limits: SealLimits) -> None:
    """Seal what other programs wrote, in changesets of a bounded size, as nobody is there to split the transaction.

    A row that no changeset can hold must not keep the application from its file: it stays in its table, is noted in
    ``localstore_unsealed``, and does not travel.
    """
    limit = most = max(1, min(_LEFTOVER_ENTRIES, limits.max_rows // len(LOGS)))
    while has_unsealed(connection):
        try:
            seal_log(connection, now_ms=now_ms, limits=limits, limit=limit)
        except (ChangesetTooLarge, TextNotUnicode) as error:
            if limit == 1:
                _set_aside(connection, error)
            limit = max(1, limit // 10)
        else:
            limit = min(limit * 10, most)


def take_unsealed(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Table and reason of each row that could not be sealed and was not told of yet."""
    rows = connection.execute("SELECT tbl, reason FROM localstore_unsealed WHERE NOT told ORDER BY id").fetchall()
    if rows:
        connection.execute("UPDATE localstore_unsealed SET told = 1")
    return rows


def _set_aside(connection: sqlite3.Connection, error: LocalStoreError) -> None:
    """Take the oldest entry out of its log. Other programs' entries have keys, never rowids."""
    span = read_logged(connection, 1).spans[0]
    (tbl,) = connection.execute(f"SELECT tbl FROM {span.log} WHERE seq = ?", (span.first,)).fetchone()
    table = next(table for table in captured_tables(connection).values() if table.id == tbl)
    key = _read_key(connection, span, table)
    reason = "it is too large" if isinstance(error, ChangesetTooLarge) else "it holds text that is not UTF-8"
    note_unsealed(connection, table, key, reason)
    _clear(connection, [span], 1)


def _read_key(connection: sqlite3.Connection, span: Span, table: CapturedTable) -> Key:
    """The key of a span's first entry; its parts as bytes should one of them be text that is not UTF-8."""
    entry = f"FROM {span.log} WHERE seq = {span.first}"
    try:
        found = connection.execute(f"SELECT {', '.join(table.log_key)} {entry}").fetchone()
    except driver_errors("OperationalError"):
        casts = (f"CAST({name} AS BLOB)" for name in table.log_key)
        found = connection.execute(f"SELECT {', '.join(casts)} {entry}").fetchone()
    return tuple(found)


def _clear(connection: sqlite3.Connection, spans: list[Span], limit: int | None) -> None:
    for span in spans:
        if limit is None:
            connection.execute(f"DELETE FROM {span.log}")  # all of it, which SQLite does without looking at each row
        else:
            connection.execute(f"DELETE FROM {span.log} WHERE seq <= ?", (span.last,))


def undeclared(connection: sqlite3.Connection, own: bytes) -> tuple[Dependency, ...]:
    """What other devices did that was applied here since our last changeset."""
    news = connection.execute(
        "SELECT device, number, stamp FROM localstore_device WHERE number > declared AND device <> ? ORDER BY id", (own,)
    )
    return tuple(Dependency(*row) for row in news)
