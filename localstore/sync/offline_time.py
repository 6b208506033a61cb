"""How long a device may stay away from its remote, and the word of warning before that time is over.

What the remote keeps it says at each connect; when it was reached last is noted in the file, but rarely, so that a session
with nothing to do writes nothing.
"""

from __future__ import annotations

from localstore.environment import Environment
from localstore.errors import OfflineTooLong
from localstore.store.contact import Contact, last_contact, note_contact
from localstore.store.file import Store

__all__ = ["OfflineTime"]

_NOTE_MS = 3_600_000  # contacts closer to each other than this are one
_DAY_S = 86_400.0
_DAY_MS = 86_400_000


class OfflineTime:
    """One session's contacts with its remote. All but ``is_due`` read or write the file.

    Args:
        store: the file.
        environment: the world.
    """

    def __init__(self, store: Store, environment: Environment) -> None:
        self._store = store
        self._environment = environment
        self._horizon_s: float | None = None
        self._due: float | None = None
        self._warned = False

    def reached(self, horizon_days: float | None) -> int | None:
        """The remote answered a connect, and said how long it keeps history; returns until when this device may stay away."""
        self._horizon_s = None if horizon_days is None else horizon_days * _DAY_S
        return self.again()

    def is_due(self) -> bool:
        """Whether the last contact was noted so long ago that ``again`` has something to write."""
        return self._due is not None and self._environment.monotonic() >= self._due

    def again(self) -> int | None:
        """The remote answered; returns until when this device may stay away."""
        self._due = self._environment.monotonic() + _NOTE_MS / 1000
        now = Contact(self._environment.now_ms(), self._horizon_s)
        known = last_contact(self._store)
        if known.horizon_s != now.horizon_s or not 0 <= now.time_ms - known.time_ms < _NOTE_MS:
            note_contact(self._store, now)
        return now.deadline_ms

    def warning(self) -> OfflineTooLong | None:
        """What to tell the user when the remote cannot be reached: once, when little time is left."""
        if self._warned:
            return None
        now_ms = self._environment.now_ms()
        contact = last_contact(self._store)
        if contact.deadline_ms is None or not contact.is_near(now_ms):
            return None
        self._warned = True
        away, left = (now_ms - contact.time_ms) / _DAY_MS, (contact.deadline_ms - now_ms) / _DAY_MS
        when = f"In {left:.1f} days" if left > 0 else "By now"
        return OfflineTooLong(
            f"The remote was not reached for {away:.1f} days. {when} it will have forgotten what this device has missed, which"
            " needs a client reset then. Unsent changes stay in the file.",
            deadline_ms=contact.deadline_ms,
            hint="Connect the device.",
        )
