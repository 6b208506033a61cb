"""How long a device may stay away from its remote, the word of warning before that time is over, and how long a change may be
unsent.

What the remote keeps it says at each connect; when it was reached last is noted in the file, but rarely, so that a session
with nothing to do writes nothing.

Others forget what nobody may need any more, see ``store.purge``. They rely on it that what anybody brings was written with all
in mind that they had sent, but for the last client maximum offline time. A device that was away for longer, or could receive
all the time and not send, must not bring its changes as they are: a client reset writes them anew, on top of what others did.
"""

from __future__ import annotations

from localstore.environment import Environment
from localstore.errors import OfflineTooLong, ResetRequired
from localstore.reasons import ResetReason
from localstore.store.contact import Contact, in_step_ms, last_contact, note_contact, note_in_step, unsent_since
from localstore.store.file import Store

__all__ = ["OfflineTime"]

_NOTE_MS = 3_600_000  # contacts closer to each other than this are one
_DAY_S = 86_400.0
_DAY_MS = 86_400_000


class OfflineTime:
    """One session's contacts with its remote. All but what begins with ``is_`` and ``may_`` reads or writes the file.

    Times in milliseconds, where they are given, are by the remote's clock, or by this device's where that has none.

    Args:
        store: the file.
        environment: the world.
    """

    def __init__(self, store: Store, environment: Environment) -> None:
        self._store = store
        self._environment = environment
        self._longest_ms = int(store.options.client_maximum_offline_time * 1000)
        self._in_step_ms = 0  # as far as it was noted
        self._horizon_s: float | None = None
        self._due: float | None = None
        self._warned = False

    def reached(self, horizon_days: float | None) -> int | None:
        """The remote answered a connect, and said how long it keeps history; returns until when this device may stay away."""
        self._horizon_s = None if horizon_days is None else horizon_days * _DAY_S
        self._in_step_ms = in_step_ms(self._store)
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

    def is_news(self, time_ms: int) -> bool:
        """Whether that this device was in step at a time is worth writing down."""
        return not 0 <= time_ms - self._in_step_ms < _NOTE_MS

    def in_step(self, time_ms: int) -> None:
        """All that others had sent by then was received; nothing is unsent now, or this is not noted."""
        if note_in_step(self._store, time_ms):
            self._in_step_ms = time_ms

    def may_be_over(self, now_ms: int) -> bool:
        """Whether something may be unsent for too long."""
        return not self._in_step_ms or now_ms - self._in_step_ms > self._longest_ms

    def check_unsent(self, now_ms: int) -> None:
        """See that what is unsent is young enough to be sent as it is; others' changes have been received.

        Raises:
            ResetRequired: it is not.
        """
        since = unsent_since(self._store, within_ms=self._longest_ms)
        if since is not None and now_ms - since > self._longest_ms:
            raise ResetRequired(
                f"{ResetReason.UNSENT_TOO_LONG.value}: there is something that was written without what others sent in the last"
                f" {(now_ms - since) / _DAY_MS:.1f} days",
                hint="Raise client_maximum_offline_time, on all devices, where they stay away for longer.",
            )
