"""What a cycle tells its session as it happens. Plain values: what follows from them is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from localstore.errors import SyncError
from localstore.sync.state import ConnectionEvent

__all__ = ["Connection", "Emptied", "Failed", "Heard", "MayStayAway", "News", "ReachedHead", "Received", "Resetting", "Sent"]


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection is being made, was made, or was lost."""

    event: ConnectionEvent


@dataclass(frozen=True, slots=True)
class Failed:
    """Something went wrong; ``retry_in`` seconds to the next attempt, None when there will be none."""

    error: SyncError
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class Received:
    """A part of the remote's history is in the file; ``left`` bytes are still to come, None when nobody knows."""

    byte_count: int
    left: int | None


@dataclass(frozen=True, slots=True)
class ReachedHead:
    """Everything that the remote had is in the file, but for what is damaged or was passed over there, in words."""

    damage: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """The remote has something new."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The remote has acknowledged changesets of so many bytes, up to a number."""

    number: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class Emptied:
    """The outbox is empty."""


@dataclass(frozen=True, slots=True)
class Resetting:
    """A client reset begins or has ended."""

    under_way: bool


@dataclass(frozen=True, slots=True)
class MayStayAway:
    """When the remote will have forgotten what this device has not seen by then, milliseconds since the Unix epoch; None when
    never."""

    until_ms: int | None


News = Connection | Failed | Received | ReachedHead | Heard | Sent | Emptied | Resetting | MayStayAway
