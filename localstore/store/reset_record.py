"""The one row of ``localstore_reset``: the client reset that is under way, or was not confirmed by the remote yet.

Each function is one transaction, or a part of its caller's. What the words in it mean is decided in ``sync``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from localstore.store.engine import driver_connection
from localstore.store.file import Store

__all__ = ["ResetRecord", "forget_reset", "is_blank", "last_reset", "note_reset", "note_step"]


@dataclass(frozen=True, slots=True)
class ResetRecord:
    """What is known of the last reset.

    Attributes:
        mode: what it does with unsent changes.
        reason: why it was asked for.
        started_ms: when it began.
        version: of the library that began it.
        step: how far it got.
        backup: where the file as it was before lies, None as long as there is none.
    """

    mode: str
    reason: str
    started_ms: int
    version: str
    step: str
    backup: str | None = None


def last_reset(store: Store) -> ResetRecord | None:
    """The reset that was not confirmed yet, None when there is none."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        row = connection.execute("SELECT mode, reason, started_ms, version, step, backup FROM localstore_reset").fetchone()
    return None if row is None else ResetRecord(*row)


def note_reset(store: Store, record: ResetRecord) -> None:
    """Put a reset in the place of what was known of the last one."""
    values = (record.mode, record.reason, record.started_ms, record.version, record.step, record.backup)
    with store.transaction() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO localstore_reset (id, mode, reason, started_ms, version, step, backup)"
            " VALUES (1, ?, ?, ?, ?, ?, ?)",
            values,
        )


def note_step(connection: sqlite3.Connection, step: str, *, only_from: str) -> bool:
    """Go on from one step to the next, in the caller's transaction; False when somebody else did so before."""
    return connection.execute("UPDATE localstore_reset SET step = ? WHERE step = ?", (step, only_from)).rowcount == 1


def forget_reset(store: Store) -> None:
    """The remote has confirmed it."""
    if last_reset(store) is not None:
        with store.transaction() as connection:
            connection.execute("DELETE FROM localstore_reset")


def is_blank(store: Store) -> bool:
    """Whether the file never had data: none of its own, nor any of another device."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        found = connection.execute(
            "SELECT (SELECT last_number FROM localstore_state)"
            " OR EXISTS (SELECT 1 FROM localstore_outbox)"
            " OR EXISTS (SELECT 1 FROM localstore_log)"
            " OR EXISTS (SELECT 1 FROM localstore_log_wide)"
            " OR EXISTS (SELECT 1 FROM localstore_device)"
            " OR EXISTS (SELECT 1 FROM localstore_waiting)"
            " OR EXISTS (SELECT 1 FROM localstore_unsealed)"
        ).fetchone()
    return not found[0]
