"""Making a file hold what another one holds that is attached: rows, clocks, devices and cursor, all of it by its name.

Rows that are the same in both are left alone, so that the application's triggers, and whoever watches, see what did change.
What only this file has and nobody syncs is not touched: other tables, indexes, triggers, views, conflicts, and what was set
aside. Nothing here knows why the file is to hold something else.

The caller owns the transaction, has sealed the capture log, and has turned constraints off. Capture triggers are dropped, and
have to be attached again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec

from localstore.changes import Key, Value
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.constraints import attempt, without_triggers
from localstore.store.driver import driver_errors
from localstore.store.engine import quote
from localstore.store.incoming import Incoming, copy_records, copy_rows, describe, keep_what_is_strange, silence
from localstore.store.repair import CHECK_ALL, Repairs
from localstore.store.repaired import Records
from localstore.store.snapshot_file import SCHEMA

__all__ = ["mirror"]

_TAKEN_WHOLE = ("seen", "unknown", "waiting")
_BY_TABLE = ("clock", "repaired")
_MOST_KEYS = 8
_STATE = (
    "device",
    "last_number",
    "last_stamp",
    "purged",
    "remote_id",
    "cursor",
    "unsent_cursor",
    "reads_again",
    "contact_ms",
    "horizon_s",
    "in_step_ms",
)


def mirror(connection: sqlite3.Connection, incoming: list[Incoming], *, keep_unsealed: bool) -> None:
    """Make this file hold what the attached store holds, and be the device that it is.

    Args:
        incoming: that store's tables.
        keep_unsealed: rows that no changeset can hold stay, where the other has none of the key.
    """
    silence(connection)
    _find_kept(connection, incoming, keep_unsealed)
    told = connection.execute("SELECT tbl, key FROM main.localstore_repaired WHERE hidden AND told").fetchall()
    _take_over_records(connection)
    ids = {table.source.id: describe(connection, table) for table in incoming}
    _empty_others(connection, incoming)
    unfit = [table for table in incoming if table.target is not None and not _match_rows(connection, _Pair.of(table))]
    for name in _BY_TABLE:
        copy_records(connection, name, ids)
    connection.executemany("UPDATE main.localstore_repaired SET told = 1 WHERE tbl = ? AND key = ? AND hidden", told)
    _take_in_hand(connection, unfit)
    for table in incoming:
        keep_what_is_strange(connection, table)


def _take_over_records(connection: sqlite3.Connection) -> None:
    """All that is not about one table. Devices keep the small numbers by which clocks name them there."""
    for name in (*_TAKEN_WHOLE, *_BY_TABLE, "device"):
        connection.execute(f"DELETE FROM main.localstore_{name}")
    for name in (*_TAKEN_WHOLE, "device"):
        connection.execute(f"INSERT INTO main.localstore_{name} SELECT * FROM {SCHEMA}.localstore_{name}")
    connection.execute("UPDATE main.localstore_table SET seeded = 0, seeds = 0")
    aside = "device, number, reason, sealed"
    connection.execute(f"INSERT OR IGNORE INTO main.localstore_aside ({aside}) SELECT {aside} FROM {SCHEMA}.localstore_aside")
    taken = ", ".join(f"{name} = s.{name}" for name in _STATE if name != "last_stamp")
    connection.execute(
        f"UPDATE main.localstore_state SET {taken}, last_stamp = max(main.localstore_state.last_stamp, s.last_stamp),"
        f" replay = 1, unsettled = {CHECK_ALL} FROM {SCHEMA}.localstore_state AS s"
    )


def _empty_others(connection: sqlite3.Connection, incoming: list[Incoming]) -> None:
    """Empty the synced tables that the other file does not have: what it knows of them is kept there as unknown."""
    there = {table.target.name for table in incoming if table.target is not None}
    for name, table in captured_tables(connection).items():
        if name in there:
            continue
        empty = f"DELETE FROM {table.sql_name} AS t WHERE NOT {_is_kept(table)}"
        if not _is_done(connection, partial(connection.execute, empty)):
            with without_triggers(connection, table):
                connection.execute(empty)


def _find_kept(connection: sqlite3.Connection, incoming: list[Incoming], keep_unsealed: bool) -> None:
    """Note the rows that stay although the other file has not got them; what else was said to be unsealed is void."""
    keys = ", ".join(f"k{number}" for number in range(_MOST_KEYS))
    connection.execute(f"CREATE TEMP TABLE localstore_kept (tbl, {keys})")
    sources = {table.target.name: table for table in incoming if table.target is not None}
    ours = captured_tables(connection)
    for id_, name, data in connection.execute("SELECT id, tbl, key FROM main.localstore_unsealed").fetchall():
        key = msgspec.msgpack.decode(data)
        if keep_unsealed and name in ours and not (name in sources and _is_there(connection, sources[name], key)):
            values = (ours[name].id, *key, *[None] * (_MOST_KEYS - len(key)))
            connection.execute(f"INSERT INTO temp.localstore_kept VALUES ({', '.join('?' * len(values))})", values)
        else:
            connection.execute("DELETE FROM main.localstore_unsealed WHERE id = ?", (id_,))


def _is_there(connection: sqlite3.Connection, table: Incoming, key: list[Value]) -> bool:
    same = " AND ".join(f"{quote(name)} = ?" for name in table.source.key)
    return connection.execute(f"SELECT 1 FROM {SCHEMA}.{quote(table.source.name)} WHERE {same}", key).fetchone() is not None


def _is_kept(table: CapturedTable) -> str:
    """A condition on the row ``t``. Text that is not UTF-8 is known by its bytes."""
    same = "".join(
        f" AND (k.k{number} = t.{quote(name)} OR k.k{number} = CAST(t.{quote(name)} AS BLOB))"
        for number, name in enumerate(table.key)
    )
    return f"EXISTS (SELECT 1 FROM temp.localstore_kept AS k WHERE k.tbl = {table.id}{same})"


@dataclass(frozen=True)
class _Pair:
    """Statements' parts about a table here (``t``) and the one that it is to be like (``f``)."""

    table: Incoming
    target: CapturedTable

    @classmethod
    def of(cls, table: Incoming) -> _Pair:
        assert table.target is not None
        return cls(table, table.target)

    @property
    def source(self) -> str:
        return f"{SCHEMA}.{quote(self.table.source.name)}"

    @property
    def same_key(self) -> str:
        pairs = zip(self.target.key, self.table.source.key, strict=True)
        return " AND ".join(f"t.{quote(ours)} = f.{quote(theirs)}" for ours, theirs in pairs)

    def differs(self, defaults: dict[str, str]) -> str:
        """Bit for bit, as a collation must not hide a change of case, nor 1 = 1.0 one of type."""
        values = [(f"t.{quote(ours)}", f"f.{quote(theirs)}") for theirs, ours in self.table.names.items()]
        values += [(f"t.{quote(name)}", source) for name, source in defaults.items()]
        differ = (f"{one} COLLATE BINARY IS NOT {other} OR typeof({one}) <> typeof({other})" for one, other in values)
        return " OR ".join(differ) or "0"

    def assignments(self, defaults: dict[str, str]) -> str:
        values = [(quote(ours), f"f.{quote(theirs)}") for theirs, ours in self.table.names.items()]
        values += [(quote(name), source) for name, source in defaults.items()]
        return ", ".join(f"{name} = {value}" for name, value in values)

    @property
    def listed(self) -> tuple[str, str]:
        """Key and columns that both have, as they are called here, and there."""
        theirs = (*self.table.source.key, *self.table.names)
        ours = (*self.target.key, *self.table.names.values())
        return ", ".join(map(quote, ours)), ", ".join(f"f.{quote(name)}" for name in theirs)


def _match_rows(connection: sqlite3.Connection, pair: _Pair) -> bool:
    """Make a table hold the other's rows. False when this file cannot show all of them: then some are missing."""
    into = pair.target.sql_name
    if connection.execute(f"SELECT 1 FROM {into} LIMIT 1").fetchone() is None and _is_done(
        connection, lambda: copy_rows(connection, pair.table, pair.target)
    ):
        return True
    defaults = _defaults(connection, pair)
    if _is_done(connection, lambda: _change_what_differs(connection, pair, defaults)):
        return True
    with without_triggers(connection, pair.target):  # rows that give each other a value, or that a trigger does not let go
        connection.execute(
            f"DELETE FROM {into} AS t WHERE NOT EXISTS"
            f" (SELECT 1 FROM {pair.source} AS f WHERE {pair.same_key} AND NOT ({pair.differs(defaults)}))"
            f" AND NOT {_is_kept(pair.target)}"
        )
        if _is_done(connection, lambda: _insert_missing(connection, pair, "ABORT")):
            return True
        _insert_missing(connection, pair, "IGNORE")
    return False


def _change_what_differs(connection: sqlite3.Connection, pair: _Pair, defaults: dict[str, str]) -> None:
    into, same = pair.target.sql_name, pair.same_key
    connection.execute(
        f"DELETE FROM {into} AS t WHERE NOT EXISTS (SELECT 1 FROM {pair.source} AS f WHERE {same})"
        f" AND NOT {_is_kept(pair.target)}"
    )
    if pair.target.columns:
        connection.execute(
            f"UPDATE OR ABORT {into} AS t SET {pair.assignments(defaults)} FROM {pair.source} AS f"
            f" WHERE {same} AND ({pair.differs(defaults)})"
        )
    _insert_missing(connection, pair, "ABORT")


def _insert_missing(connection: sqlite3.Connection, pair: _Pair, otherwise: str) -> None:
    """Insert rows that are not there. By what SQLite says of their keys, as to ask for them would need a temporary table."""
    ours, theirs = pair.listed
    key = ", ".join(map(quote, pair.target.key))
    connection.execute(
        f"INSERT OR {otherwise} INTO {pair.target.sql_name} ({ours}) SELECT {theirs} FROM {pair.source} AS f WHERE 1"
        f" ON CONFLICT ({key}) DO NOTHING"
    )


def _is_done(connection: sqlite3.Connection, write: Callable[[], object]) -> bool:
    """Whether rows could be written; else all is as before, be it that a constraint or that a trigger was against it."""
    try:
        return attempt(connection, write)
    except driver_errors("IntegrityError"):
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO attempt")
        connection.execute("RELEASE attempt")
        return False


def _defaults(connection: sqlite3.Connection, pair: _Pair) -> dict[str, str]:
    """What columns that only this file has hold where nobody set them, as SQL."""
    rows = connection.execute(f"PRAGMA main.table_xinfo({quote(pair.target.name)})").fetchall()
    sources = {row[1]: "NULL" if row[4] is None else f"({row[4]})" for row in rows}
    return {name: sources[name] for name in pair.table.new}


def _take_in_hand(connection: sqlite3.Connection, unfit: list[Incoming]) -> None:
    """Let repair decide which rows are shown of those that cannot all be, as this file has a constraint of its own."""
    if not unfit:
        return
    tables = captured_tables(connection)
    repairs, records = Repairs(connection, tables), Records(connection, tables)
    for table in unfit:
        pair = _Pair.of(table)
        for key, values in list(_missing(connection, pair)):
            record = records.load(pair.target, [key]).get(key)
            repairs.take(pair.target, key, {**values, **(record.merged if record else {})})
    repairs.settle()
    connection.execute(f"UPDATE main.localstore_state SET unsettled = {CHECK_ALL}")  # for what is taken over after this


def _missing(connection: sqlite3.Connection, pair: _Pair) -> Iterator[tuple[Key, dict[str, Value]]]:
    """The other's rows that are not in the table here."""
    _, theirs = pair.listed
    width, names = len(pair.target.key), list(pair.table.names.values())
    for row in connection.execute(
        f"SELECT {theirs} FROM {pair.source} AS f WHERE NOT EXISTS"
        f" (SELECT 1 FROM {pair.target.sql_name} AS t WHERE {pair.same_key})"
    ):
        yield tuple(row[:width]), dict(zip(names, row[width:], strict=True))
