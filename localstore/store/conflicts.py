"""Local values that lost against another device's: kept where a person can see them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import msgspec

from localstore.changes import Key, Value

__all__ = ["Conflict", "conflicts"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One local value that had to give way.

    Values and keys are as SQLite stores them (a UUID is 32 hexadecimal digits).

    Attributes:
        id: its number in this file.
        table, key, column: where the value was.
        lost_value, lost_stamp, lost_device: what this device wrote, when, and its identity.
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
    rows = connection.execute(
        "SELECT id, tbl, key, column, lost_value, lost_stamp, lost_device, won_value, won_stamp, won_device, rule"
        " FROM localstore_conflict ORDER BY id"
    )
    return [
        Conflict(
            id_, tbl, tuple(msgspec.msgpack.decode(key)), column, lost, stamp, by.hex(), won, won_stamp, won_by.hex(), rule
        )
        for id_, tbl, key, column, lost, stamp, by, won, won_stamp, won_by, rule in rows
    ]
