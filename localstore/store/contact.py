"""When the remote was reached last, and how long it keeps what a device has missed: how long that device may stay away."""

from __future__ import annotations

from dataclasses import dataclass

from localstore.store.engine import driver_connection
from localstore.store.file import Store

__all__ = ["Contact", "last_contact", "note_contact"]

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
