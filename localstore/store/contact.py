"""When the remote was reached last, how long it keeps what a device has missed, and since when the device has something unsent:
how long it may stay away, and what is unsent be so.
"""

from __future__ import annotations

from dataclasses import dataclass

from localstore.clock import stamp_ms
from localstore.store.engine import driver_connection
from localstore.store.file import Store

__all__ = ["Contact", "in_step_ms", "last_contact", "note_contact", "note_in_step", "unsent_since"]

_WARN_PART = 0.2
_WARN_MS = 3 * 86_400_000


@dataclass(frozen=True, slots=True)
class Contact:
    """The last contact.

    Attributes:
        time_ms: when it was, by this device's clock; 0 for never.
        horizon_s: how long the remote keeps history, as it said then; None for ever.
    """

    time_ms: int = 0
    horizon_s: float | None = None

    @property
    def deadline_ms(self) -> int | None:
        """When the remote will have forgotten what this device has missed by then; None when it never does."""
        if not self.time_ms or self.horizon_s is None:
            return None
        return self.time_ms + int(self.horizon_s * 1000)

    def is_near(self, now_ms: int) -> bool:
        """Whether less is left than a fifth of the horizon, or than three days of a long one."""
        if self.deadline_ms is None or self.horizon_s is None:
            return False
        return self.deadline_ms - now_ms < min(_WARN_MS, _WARN_PART * self.horizon_s * 1000)


def last_contact(store: Store) -> Contact:
    """What the file knows of the last contact."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        return Contact(*connection.execute("SELECT contact_ms, horizon_s FROM localstore_state").fetchone())


def note_contact(store: Store, contact: Contact) -> None:
    """Remember a contact."""
    with store.transaction() as connection:
        connection.execute("UPDATE localstore_state SET contact_ms = ?, horizon_s = ?", (contact.time_ms, contact.horizon_s))


def in_step_ms(store: Store) -> int:
    """When this device was in step last, as told to ``note_in_step``; 0 for never."""
    with store.read() as session:
        (time_ms,) = driver_connection(session.connection()).execute("SELECT in_step_ms FROM localstore_state").fetchone()
        return int(time_ms)


def note_in_step(store: Store, time_ms: int) -> bool:
    """Remember when all that others had sent by then was here, unless something is unsent; returns whether nothing is."""
    with store.transaction() as connection:
        noted = connection.execute(
            "UPDATE localstore_state SET in_step_ms = ? WHERE NOT EXISTS (SELECT 1 FROM localstore_outbox)", (time_ms,)
        )
        return noted.rowcount > 0


def unsent_since(store: Store, *, within_ms: int) -> int | None:
    """A time before what is unsent was written, and by which this device knew all that others had sent: when it was in step
    last. One that never was has known nothing of others.

    Args:
        store: the file.
        within_ms: how long others' changes may take to arrive.

    Returns:
        Milliseconds since the Unix epoch; None when nothing is unsent, or no one else has written anything since.
    """
    with store.read() as session:
        connection = driver_connection(session.connection())
        (oldest,) = connection.execute("SELECT min(stamp) FROM localstore_outbox").fetchone()
        (others,) = connection.execute(
            "SELECT coalesce(max(stamp), 0) FROM localstore_device WHERE device <> (SELECT device FROM localstore_state)"
        ).fetchone()
        (in_step,) = connection.execute("SELECT in_step_ms FROM localstore_state").fetchone()
    if oldest is None or not others or (in_step and stamp_ms(others) < in_step - within_ms):
        return None
    return int(in_step) or stamp_ms(oldest)
