"""What a session says about itself: one value that tells what it does, why it does nothing, and what is still to be done.

Pure: the session notes facts as they happen, and this module makes of them what a person wants to know. It knows neither
the file nor the remote.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime

from localstore.errors import Offline, Refused, SyncError, Unauthorized
from localstore.store.outbox import Pending
from localstore.sync.news import Connection, Failed, Heard, MayStayAway, News, ReachedHead, Received, Resetting, Sent
from localstore.sync.state import ConnectionEvent, ConnectionState, SessionState

__all__ = ["Facts", "Reason", "SyncStatus", "describe", "note", "reason_of"]


class Reason(enum.Enum):
    """What a session does at this moment, or why it does nothing."""

    IN_STEP = "in step"
    """Everything was sent and received; it waits for news."""
    SYNCING = "syncing"
    """Changes are on their way."""
    CONNECTING = "connecting"
    OFFLINE = "offline"
    """The remote cannot be reached; it tries again at ``next_attempt``."""
    BACKING_OFF = "backing off"
    """The remote can be reached and failed, or asked to wait; it tries again at ``next_attempt``."""
    WAITING_FOR_TOKEN = "waiting for token"
    """The user's access token is being renewed."""
    RESETTING = "resetting"
    """A client reset is under way: the histories of device and remote parted."""
    PAUSED = "paused by the user"
    REFUSED = "refused"
    """The remote does not take this user, or this device's changes; see ``last_error``."""
    FAILED = "failed"
    """An error stopped the session for good; see ``last_error``. ``resume()`` tries again."""
    CLOSED = "closed"
    """The realm or the app was closed, or the user logged out."""


@dataclass(slots=True)
class Facts:
    """What a session has noted; times in milliseconds since the Unix epoch, by this device's clock.

    Attributes:
        at_head: the remote's head was reached, and nothing was heard of since that is not in the file.
        resetting: a client reset is under way.
        retry_ms: when the next attempt is due, while it waits after an error.
        sent_ms, received_ms: when the remote last acknowledged, and when something or nothing was last received.
        error: what went wrong last; None when nothing did since it connected.
        deadline_ms: when the remote will have forgotten what this device has not seen yet, None when never.
        damage, passed_over: what was skipped at the remote when its head was last reached, in words.
    """

    at_head: bool = False
    resetting: bool = False
    retry_ms: int | None = None
    sent_ms: int | None = None
    received_ms: int | None = None
    error: SyncError | None = None
    deadline_ms: int | None = None
    damage: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


def note(facts: Facts, news: News, now_ms: int) -> None:
    """Take in what a cycle tells."""
    match news:
        case Connection(ConnectionEvent.ATTEMPT):
            facts.retry_ms = None
        case Connection(ConnectionEvent.WELCOME):
            facts.error = None
        case Connection(ConnectionEvent.LOST) | Heard():
            facts.at_head = False
        case Failed(error, retry_in):
            facts.error = error
            facts.retry_ms = None if retry_in is None else now_ms + round(retry_in * 1000)
        case Received():
            facts.received_ms = now_ms
        case ReachedHead(damage, passed_over):
            facts.at_head, facts.received_ms = True, now_ms
            facts.damage, facts.passed_over = damage, passed_over
        case Sent():
            facts.sent_ms = now_ms
        case Resetting(under_way):
            facts.resetting = under_way
        case MayStayAway(until_ms):
            facts.deadline_ms = until_ms


@dataclass(frozen=True, kw_only=True)
class SyncStatus:
    """A session at one moment.

    Attributes:
        state: whether it may sync.
        connection_state: whether the remote is reached.
        why: what it does, or why it does nothing.
        next_attempt: when it tries again after an error; None when it is not waiting for that.
        pending_changesets, pending_bytes: what the remote has not acknowledged, and its size on the wire.
        last_upload: when the remote last acknowledged something; None when it did not since the session started.
        last_download: when the head was last reached or a part of the history received; None likewise.
        last_error: what went wrong last, also what passes by itself; None when nothing did since it connected.
        is_caught_up: the remote's head was reached, and nothing that is not in the file was heard of since.
        is_synced: caught up, and nothing is pending.
        offline_deadline: when the remote will have forgotten what a device that stays away misses, which needs a client
            reset; None when it keeps everything, or was never reached. Unsent changes have a limit of their own.
        damage: what is damaged at the remote or not localstore's, in words, as of the last time its head was reached. It is
            picked up when it is whole; what it holds up is not there until then, though the session is in step.
        passed_over: likewise what asks nothing of anybody, such as files that are still arriving.
    """

    state: SessionState
    connection_state: ConnectionState
    why: Reason
    next_attempt: datetime | None = None
    pending_changesets: int = 0
    pending_bytes: int = 0
    last_upload: datetime | None = None
    last_download: datetime | None = None
    last_error: SyncError | None = None
    is_caught_up: bool = False
    is_synced: bool = False
    offline_deadline: datetime | None = None
    damage: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def is_error_transient(self) -> bool:
        """Whether the last error passes by itself; False when there was none."""
        return self.last_error is not None and not self.last_error.is_fatal

    def __str__(self) -> str:
        """One line for a person."""
        said = self.why.value
        if self.next_attempt is not None:
            said += f" until {self.next_attempt.astimezone():%H:%M:%S}"
        if self.pending_changesets:
            plural = "" if self.pending_changesets == 1 else "s"
            said += f", {self.pending_changesets} changeset{plural} ({self.pending_bytes:,} bytes) to send"
        if self.damage:
            said += f", {len(self.damage)} problem{'' if len(self.damage) == 1 else 's'} at the remote"
        if self.last_error is not None:
            said += f" ({self.last_error.message})"
        return said


def describe(state: SessionState, connection: ConnectionState, facts: Facts, pending: Pending) -> SyncStatus:
    """What the facts amount to."""
    caught_up = facts.at_head and connection is ConnectionState.CONNECTED
    return SyncStatus(
        state=state,
        connection_state=connection,
        why=reason_of(state, connection, facts, has_pending=bool(pending)),
        next_attempt=_time(facts.retry_ms),
        pending_changesets=pending.changesets,
        pending_bytes=pending.byte_count,
        last_upload=_time(facts.sent_ms),
        last_download=_time(facts.received_ms),
        last_error=facts.error,
        is_caught_up=caught_up,
        is_synced=caught_up and not pending,
        offline_deadline=_time(facts.deadline_ms),
        damage=facts.damage,
        passed_over=facts.passed_over,
    )


def reason_of(state: SessionState, connection: ConnectionState, facts: Facts, *, has_pending: bool) -> Reason:
    """Why things are as they are; the first that applies."""
    if state is SessionState.PAUSED:
        return Reason.PAUSED
    if state is SessionState.WAITING_FOR_ACCESS_TOKEN:
        return Reason.WAITING_FOR_TOKEN
    if state is SessionState.INACTIVE:
        return _why_inactive(facts.error)
    if facts.resetting:
        return Reason.RESETTING
    if connection is ConnectionState.CONNECTED:
        return Reason.IN_STEP if facts.at_head and not has_pending else Reason.SYNCING
    if facts.retry_ms is not None:
        return Reason.OFFLINE if isinstance(facts.error, Offline) else Reason.BACKING_OFF
    return Reason.CONNECTING


def _why_inactive(error: SyncError | None) -> Reason:
    if error is None or not error.is_fatal:
        return Reason.CLOSED
    return Reason.REFUSED if isinstance(error, Unauthorized | Refused) else Reason.FAILED


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
