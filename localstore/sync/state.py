"""The two state machines of a session, as total tables: every state with every event, also the ignored ones.

Pure: ``session.py`` feeds events in and carries the effects out. The behaviour is that of Realm's sync sessions: an offline
session stays ACTIVE, and PAUSED is left by ``resume()`` alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "CONNECTIONS",
    "TRANSITIONS",
    "ConnectionEvent",
    "ConnectionState",
    "ConnectionStateChange",
    "Effect",
    "Event",
    "SessionState",
    "Transition",
]


class SessionState(enum.Enum):
    """Whether a session may sync, whatever the network."""

    ACTIVE = "active"
    PAUSED = "paused"
    INACTIVE = "inactive"
    DYING = "dying"
    """The realm was closed, and its last changes are still on their way out."""
    WAITING_FOR_ACCESS_TOKEN = "waiting for access token"


class ConnectionState(enum.Enum):
    """Whether a session reaches its remote."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class ConnectionStateChange:
    """One step of a session's connection."""

    old_state: ConnectionState
    new_state: ConnectionState


class Event(enum.Enum):
    """What can happen to a session. ``..._STALE``: the user's token must be renewed first."""

    OPEN = enum.auto()
    OPEN_STALE = enum.auto()
    PAUSE = enum.auto()
    RESUME = enum.auto()
    RESUME_STALE = enum.auto()
    CLOSE = enum.auto()
    CLOSE_AFTER_UPLOAD = enum.auto()
    UPLOADED = enum.auto()
    TOKEN_RENEWED = enum.auto()
    TOKEN_KEPT = enum.auto()
    """Renewing failed for a reason that may pass: go on with the old token and let the remote decide."""
    TOKEN_REFUSED = enum.auto()
    FATAL_ERROR = enum.auto()
    LOG_OUT = enum.auto()
    LOG_IN = enum.auto()
    LOG_IN_STALE = enum.auto()


class Effect(enum.Flag):
    """What a transition asks of the shell."""

    NONE = 0
    START = enum.auto()
    """Run the cycle."""
    STOP = enum.auto()
    """End the cycle and the connection, at once."""
    RENEW_TOKEN = enum.auto()
    ABORT_WAITS = enum.auto()
    """Break waits off: with the error that caused the transition, else with ``OperationAborted``."""
    REPORT = enum.auto()
    """Give the error to the error handler."""


@dataclass(frozen=True, slots=True)
class Transition:
    """Where an event leads."""

    state: SessionState
    effects: Effect = Effect.NONE


_A, _P, _I, _D, _W = (
    SessionState.ACTIVE,
    SessionState.PAUSED,
    SessionState.INACTIVE,
    SessionState.DYING,
    SessionState.WAITING_FOR_ACCESS_TOKEN,
)
_END = Effect.STOP | Effect.ABORT_WAITS
_FAIL = Effect.STOP | Effect.ABORT_WAITS | Effect.REPORT


def _row(state: SessionState, **changes: Transition) -> dict[tuple[SessionState, Event], Transition]:
    """A state's cells; an event that is not named is ignored."""
    return {(state, event): changes.get(event.name, Transition(state)) for event in Event}


TRANSITIONS: dict[tuple[SessionState, Event], Transition] = {
    **_row(
        _A,
        PAUSE=Transition(_P, _END),
        CLOSE=Transition(_I, _END),
        CLOSE_AFTER_UPLOAD=Transition(_D),
        TOKEN_REFUSED=Transition(_I, _FAIL),
        FATAL_ERROR=Transition(_I, _FAIL),
        LOG_OUT=Transition(_I, _END),
    ),
    **_row(
        _P,
        RESUME=Transition(_A, Effect.START),
        RESUME_STALE=Transition(_W, Effect.RENEW_TOKEN),
    ),
    **_row(
        _I,
        OPEN=Transition(_A, Effect.START),
        OPEN_STALE=Transition(_W, Effect.RENEW_TOKEN),
        PAUSE=Transition(_P),
        RESUME=Transition(_A, Effect.START),
        RESUME_STALE=Transition(_W, Effect.RENEW_TOKEN),
        LOG_IN=Transition(_A, Effect.START),
        LOG_IN_STALE=Transition(_W, Effect.RENEW_TOKEN),
    ),
    **_row(
        _D,
        OPEN=Transition(_A),
        OPEN_STALE=Transition(_W, Effect.STOP | Effect.RENEW_TOKEN),
        PAUSE=Transition(_P, _END),
        RESUME=Transition(_A),
        RESUME_STALE=Transition(_W, Effect.STOP | Effect.RENEW_TOKEN),
        CLOSE=Transition(_I, _END),
        UPLOADED=Transition(_I, _END),
        TOKEN_REFUSED=Transition(_I, _END),
        FATAL_ERROR=Transition(_I, _END),
        LOG_OUT=Transition(_I, _END),
    ),
    **_row(
        _W,
        PAUSE=Transition(_P, _END),
        CLOSE=Transition(_I, _END),
        CLOSE_AFTER_UPLOAD=Transition(_I, _END),
        TOKEN_RENEWED=Transition(_A, Effect.START),
        TOKEN_KEPT=Transition(_A, Effect.START),
        TOKEN_REFUSED=Transition(_I, _FAIL),
        FATAL_ERROR=Transition(_I, _FAIL),
        LOG_OUT=Transition(_I, _END),
    ),
}


class ConnectionEvent(enum.Enum):
    """What can happen to a connection."""

    ATTEMPT = enum.auto()
    WELCOME = enum.auto()
    LOST = enum.auto()


CONNECTIONS: dict[tuple[ConnectionState, ConnectionEvent], ConnectionState] = {
    (ConnectionState.DISCONNECTED, ConnectionEvent.ATTEMPT): ConnectionState.CONNECTING,
    (ConnectionState.DISCONNECTED, ConnectionEvent.WELCOME): ConnectionState.DISCONNECTED,
    (ConnectionState.DISCONNECTED, ConnectionEvent.LOST): ConnectionState.DISCONNECTED,
    (ConnectionState.CONNECTING, ConnectionEvent.ATTEMPT): ConnectionState.CONNECTING,
    (ConnectionState.CONNECTING, ConnectionEvent.WELCOME): ConnectionState.CONNECTED,
    (ConnectionState.CONNECTING, ConnectionEvent.LOST): ConnectionState.DISCONNECTED,
    (ConnectionState.CONNECTED, ConnectionEvent.ATTEMPT): ConnectionState.CONNECTING,
    (ConnectionState.CONNECTED, ConnectionEvent.WELCOME): ConnectionState.CONNECTED,
    (ConnectionState.CONNECTED, ConnectionEvent.LOST): ConnectionState.DISCONNECTED,
}
