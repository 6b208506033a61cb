"""Local values that lost against another device's: kept where a person can see them, up to bounds of age and number.

A conflict's id is also when it was noted: a stamp of this device's clock, greater than all that are in the list. So the oldest
are found by the primary key, and need no index of their own. Ids below ``_FIRST_ID`` were counted from one by earlier
versions, and say nothing of the time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from localstore.changes import Key, Value
from localstore.clock import Version, stamp_at

__all__ = [
    "A_DELETE_WINS",
    "A_LATER_WRITE_WINS",
    "NOT_IN_REMOTE",
    "REFUSED",
    "Conflict",
    "conflicts",
    "find",
    "forget",
    "forget_oldest",
    "is_of_lost_row",
    "note",
    "of_one_loss",
]

A_DELETE_WINS = "a delete beats every update"
"""The rule by which a value goes together with its row."""

A_LATER_WRITE_WINS = "the later write wins"
"""The rule by which most values lose."""
NOT_IN_REMOTE = "the remote has no such row any more"
"""The rule by which a value is lost at a client reset whose row the remote does not have, nor knows to be deleted."""
REFUSED = "the remote refused it: "
"""What rules begin with by which a value is lost that the remote refused; its reason follows."""

_PORTION = 1000  # forgotten beyond as many as were added, so that no transaction is long after the bounds were lowered
_FIRST_ID = 1 << 32
_COLUMNS = 'id, tbl, key, "column", lost_value, lost_stamp, lost_device, won_value, won_stamp, won_device, rule'

_decode_key = msgspec.msgpack.Decoder(tuple).decode


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """One local value that had to give way.

    Values and keys are as SQLite stores them (a UUID is 32 hexadecimal digits).

    Attributes:
        id: names it in this file; later ones have greater ids. Below zero for rows that are set aside, and for references that
            are not shown, as what they refer to was deleted: these are not restored, but come back with it.
        table, key, column: where the value was.
        lost_value, lost_stamp, lost_device: what this device wrote, or another one where it is set aside; when, and by whom.
        won_value, won_stamp, won_device: what stands there now; None when the row was deleted.
        rule: why, in words.
    """

    id: int
    table: str
    key: Key
    column: str
    lost_value: Value
    lost_stamp: int
    lost_device: str
    won_value: Value
    won_stamp: int
    won_device: str
    rule: str


def conflicts(connection: sqlite3.Connection) -> list[Conflict]:
    """All conflicts of a file, oldest first."""
    return list(_read(connection, "ORDER BY id"))


def find(connection: sqlite3.Connection, id_: int) -> Conflict | None:
    """The conflict with an id, None when it is not in the list."""
    return next(_read(connection, "WHERE id = ?", id_), None)


def of_one_loss(connection: sqlite3.Connection, conflict: Conflict) -> list[Conflict]:
    """All values of a conflict's row that lost against the same changeset, oldest first."""
    return list(
        _read(
            connection,
            "WHERE tbl = ? AND key = ? AND won_stamp = ? AND won_device = ? ORDER BY id",
            conflict.table,
            msgspec.msgpack.encode(conflict.key),
            conflict.won_stamp,
            bytes.fromhex(conflict.won_device),
        )
    )


def is_of_lost_row(rule: str) -> bool:
    """Whether, by this rule, a value may have been lost together with its row."""
    return rule in (A_DELETE_WINS, NOT_IN_REMOTE) or rule.startswith(REFUSED)


def note(
    connection: sqlite3.Connection,
    now_ms: int,
    where: tuple[str, Key, str],
    lost: tuple[Value, Version],
    won: tuple[Value, Version],
    rule: str,
) -> None:
    """Add a conflict to the list: table, key and column, and either value with its version."""
    table, key, column = where
    connection.execute(
        f"INSERT INTO localstore_conflict ({_COLUMNS}) VALUES"
        " (max(coalesce((SELECT max(id) FROM localstore_conflict), 0) + 1, ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (stamp_at(now_ms), table, msgspec.msgpack.encode(key), column, lost[0], *lost[1], won[0], *won[1], rule),
    )


def forget(connection: sqlite3.Connection, settled: list[Conflict]) -> None:
    """Take conflicts off the list."""
    connection.executemany("DELETE FROM localstore_conflict WHERE id = ?", ((conflict.id,) for conflict in settled))


def forget_oldest(connection: sqlite3.Connection, added: int, now_ms: int, max_age: float, max_count: int) -> int:
    """Take off the list what is beyond its bounds, after some were added; at most so many and a portion.

    Args:
        added: how many were added in this transaction.
        now_ms: this device's clock.
        max_age: in seconds, how long a conflict stays.
        max_count: how many stay; the oldest go first.

    Returns:
        How many went.
    """
    earliest = stamp_at(max(0, now_ms - int(max_age * 1000)))
    kept_from = connection.execute(
        "SELECT id FROM localstore_conflict ORDER BY id DESC LIMIT 1 OFFSET ?", (max_count - 1,)
    ).fetchone()
    gone = connection.execute(
        "DELETE FROM localstore_conflict WHERE id IN (SELECT id FROM localstore_conflict"
        " WHERE id < ? OR (id >= ? AND id < ?) ORDER BY id LIMIT ?)",
        (kept_from[0] if kept_from else 0, _FIRST_ID, earliest, added + _PORTION),
    )
    return gone.rowcount


def _read(connection: sqlite3.Connection, which: str, *parameters: Value) -> Iterator[Conflict]:
    names: dict[bytes, str] = {}
    rows = connection.execute(f"SELECT {_COLUMNS} FROM localstore_conflict {which}", parameters)
    for id_, table, key, column, lost, lost_stamp, lost_by, won, won_stamp, won_by, rule in rows:
        yield Conflict(
            id=id_,
            table=table,
            key=_decode_key(key),
            column=column,
            lost_value=lost,
            lost_stamp=lost_stamp,
            lost_device=names.get(lost_by) or names.setdefault(lost_by, lost_by.hex()),
            won_value=won,
            won_stamp=won_stamp,
            won_device=names.get(won_by) or names.setdefault(won_by, won_by.hex()),
            rule=rule,
        )
