"""Writing what one database holds into another that is new, when SQLite cannot do it itself: across drivers and keys.

``VACUUM INTO`` stays with the source's key, and a file that is open with one driver must not be opened with the other
(see ``driver``). So the rows go through here, and nothing but the two files ever holds them. It takes the order in which
SQLite's own VACUUM works: tables and indexes first, then rows, then what could react to them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from localstore.schema import SYSTEM_PREFIX
from localstore.store.driver import driver_errors
from localstore.store.engine import quote

__all__ = ["transfer"]

_BATCH = 1000  # rows in memory at a time
_BEFORE = ("encoding", "auto_vacuum")  # these can only be said while a file is empty
_AFTER = ("user_version", "application_id")
_ROWID_NAMES = ("rowid", "_rowid_", "oid")


class _Entry(NamedTuple):
    """A row of ``sqlite_master``."""

    type: str
    name: str
    table: str
    root: int | None
    sql: str | None

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(SYSTEM_PREFIX) or self.table.startswith(SYSTEM_PREFIX)

    @property
    def is_sqlites(self) -> bool:
        return self.sql is None or self.name.startswith("sqlite_")

    @property
    def is_stored(self) -> bool:
        """Whether it has pages of its own, which views, triggers and virtual tables have not."""
        return bool(self.root)


def transfer(source: sqlite3.Connection, target: sqlite3.Connection, *, with_ours: bool = False) -> None:
    """Write the application's tables, indexes, views and triggers, as they are at this moment.

    Args:
        source: others may write to its file meanwhile.
        target: of an empty file that nobody else knows, and that is worth nothing if this fails.
        with_ours: our tables and triggers as well.
    """
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "ignore_check_constraints=ON", "temp_store=MEMORY"):
        target.execute(f"PRAGMA {pragma}")
    source.execute("BEGIN")
    try:
        _take_over(source, target, _BEFORE)
        target.execute("BEGIN")
        _transfer_all(source, target, with_ours)
        _take_over(source, target, _AFTER)
        target.execute("COMMIT")
    finally:
        source.execute("ROLLBACK")


def _transfer_all(source: sqlite3.Connection, target: sqlite3.Connection, with_ours: bool) -> None:
    everything = list(map(_Entry._make, source.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master")))
    theirs = [entry for entry in everything if (with_ours or not entry.is_ours) and not entry.is_sqlites]
    tables = [entry.name for entry in theirs if entry.type == "table" and entry.is_stored]
    for type_ in ("table", "index"):
        _create(target, (entry for entry in theirs if entry.type == type_ and entry.is_stored))
    for name in tables:
        _transfer_rows(source, target, name)
    for entry in everything:
        if entry.name == "sqlite_sequence":
            _transfer_sequences(source, target)
        elif entry.name == "sqlite_stat1":
            target.execute("ANALYZE")
    for type_ in ("view", "trigger"):
        _create(target, (entry for entry in theirs if entry.type == type_))
    _declare(target, [entry for entry in theirs if entry.type == "table" and not entry.is_stored])


def _take_over(source: sqlite3.Connection, target: sqlite3.Connection, pragmas: Iterable[str]) -> None:
    for pragma in pragmas:
        value = source.execute(f"PRAGMA {pragma}").fetchone()[0]
        target.execute(f"PRAGMA {pragma} = {quote(str(value))}")


def _create(target: sqlite3.Connection, entries: Iterable[_Entry]) -> None:
    for entry in entries:
        target.execute(entry.sql or "")


def _declare(target: sqlite3.Connection, virtual: list[_Entry]) -> None:
    """Enter virtual tables as VACUUM does: to create them would create their shadow tables, which are there already."""
    if not virtual:
        return
    target.execute("PRAGMA writable_schema = ON")
    target.executemany("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", virtual)
    target.execute("PRAGMA writable_schema = OFF")


def _transfer_rows(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> None:
    columns = _columns(source, table)
    names = ", ".join(columns)
    text = _Text()
    source.text_factory = text
    try:
        rows = source.execute(f"SELECT {names} FROM {quote(table)}")
        while batch := rows.fetchmany(_BATCH):
            insert = f"INSERT INTO {quote(table)} ({names}) VALUES "
            if not text.is_broken:
                target.executemany(f"{insert} ({', '.join('?' * len(columns))})", batch)
                continue
            for row in batch:
                values = [_bytes_of(value) for value in row]
                marks = ("?" if new is old else "CAST(? AS TEXT)" for new, old in zip(values, row, strict=True))
                target.execute(f"{insert} ({', '.join(marks)})", values)
    finally:
        source.text_factory = str


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns that are stored, with the rowid where there is one: other tables may refer to it."""
    stored = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({quote(table)})") if not row[6]]
    taken = {name.lower() for name in stored}
    names = [quote(name) for name in stored]
    for rowid in (name for name in _ROWID_NAMES if name not in taken):
        try:
            connection.execute(f"SELECT {rowid} FROM {quote(table)} LIMIT 0")
        except driver_errors("OperationalError"):
            break  # WITHOUT ROWID
        return [rowid, *names]
    return names


def _transfer_sequences(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """The counters of AUTOINCREMENT keys, which may be ahead of the rows."""
    if target.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone() is None:
        return
    rows = source.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
    target.execute("DELETE FROM sqlite_sequence")
    target.executemany(
        "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [row for row in rows if not row[0].startswith(SYSTEM_PREFIX)]
    )


class _Text:
    """Decodes text, also what is not UTF-8, of which SQL can store any amount.

    Attributes:
        is_broken: whether any was met so far; then it holds surrogates in place of the bytes that are none.
    """

    def __init__(self) -> None:
        self.is_broken = False

    def __call__(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.is_broken = True
            return raw.decode(errors="surrogateescape")


def _bytes_of(value: object) -> object:
    """The bytes of text that is not UTF-8; every other value as it is."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogateescape")
    return value
