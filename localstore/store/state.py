"""The one row of ``localstore_state``, and the devices this file has heard of."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

__all__ = ["LAST", "LOCAL_USER", "State", "device_ids", "device_number", "load_state"]


LOCAL_USER = "local"
"""The one user of a remote without users; the layout's default."""

LAST = """max(s.last_number, coalesce((SELECT max(number) FROM localstore_outbox), 0)),
    max(s.last_stamp, coalesce((SELECT stamp FROM localstore_outbox ORDER BY number DESC LIMIT 1), 0))"""
"""``State.last_number`` and ``last_stamp``, of ``localstore_state AS s``: a commit leaves them in the outbox alone, as to write
them into the state as well would cost it a page."""


@dataclass(frozen=True, slots=True)
class State:
    """What a synced file knows about itself.

    Attributes:
        device: its identity.
        app, partition, user: whose data it holds.
        last_number: number of its last changeset, 0 for none.
        last_stamp: the highest stamp made or applied here.
        purged: what is older than this stamp may be forgotten, 0 when nothing was.
        folded: its own changesets up to this number are in the clocks.
        remote_id: the remote it syncs with, None before the first connect.
        cursor: how far that remote's history was applied; None for the beginning.
        reads_again: whether it goes back there once the remote has been met, see ``identity.read_again``.
    """

    device: bytes
    app: str
    partition: str
    user: str
    last_number: int
    last_stamp: int
    folded: int
    purged: int
    remote_id: str | None
    cursor: bytes | None
    reads_again: bool


def load_state(connection: sqlite3.Connection) -> State:
    row = connection.execute(
        f"SELECT device, app, partition, user, {LAST}, folded, purged, remote_id, cursor, reads_again <> 0"
        " FROM localstore_state AS s"
    ).fetchone()
    return State(*row)


def device_ids(connection: sqlite3.Connection) -> dict[bytes, int]:
    """Small numbers by which clocks name devices."""
    return dict(connection.execute("SELECT device, id FROM localstore_device"))


def device_number(connection: sqlite3.Connection, device: bytes) -> int:
    """The small number of a device, made now when it is new."""
    connection.execute("INSERT OR IGNORE INTO localstore_device (device) VALUES (?)", (device,))
    row = connection.execute("SELECT id FROM localstore_device WHERE device = ?", (device,)).fetchone()
    return int(row[0])
