"""What a session does when its device and the remote cannot go on with each other: values for ``SyncConfiguration``.

A strategy says what becomes of changes that the remote does not have, and whom to call. What each comes to in which case is
decided in ``sync.reset_rules`` and carried out in ``sync.reset``; nothing here acts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localstore.errors import ClientResetRequired
from localstore.reasons import ResetReason

if TYPE_CHECKING:
    from sqlmodel import Session

    from localstore.realm import Realm
    from localstore.sync.session import SyncSession

__all__ = [
    "AfterReset",
    "BeforeReset",
    "ClientReset",
    "ClientResetReport",
    "Discard",
    "Manual",
    "ManualReset",
    "Recover",
    "RecoverOrDiscard",
    "SeedRemote",
    "check_client_reset",
]

BeforeReset = Callable[["Realm"], object]
"""Called with the realm as it is before the reset, which can be read only."""
AfterReset = Callable[["Realm", "Session"], object]
"""Called with the realm as it was, and a write transaction of its own on the realm as it is now. The transaction commits when
the callback returns, and is rolled back when it raises."""
ManualReset = Callable[["SyncSession", ClientResetRequired], object]
"""Called when the session has ended, and the reset is up to the application."""


@dataclass(frozen=True, kw_only=True)
class RecoverOrDiscard:
    """Bring unsent changes along; where that was tried in vain, or the remote does not allow it, go without them.

    It does not fall back within one attempt: what failed to recover is discarded when the session starts the next time.

    Attributes:
        on_before: called before the file changes.
        on_after_recovery: called after a reset that brought unsent changes along.
        on_after_discard: called after one that did not.
        on_manual_fallback: called when the reset failed.
    """

    on_before: BeforeReset | None = None
    on_after_recovery: AfterReset | None = None
    on_after_discard: AfterReset | None = None
    on_manual_fallback: ManualReset | None = None

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class _OneWay:
    """A strategy that knows one thing to do.

    Attributes:
        on_before: called before the file changes.
        on_after: called after it has.
        on_manual_fallback: called when the reset failed.
    """

    on_before: BeforeReset | None = None
    on_after: AfterReset | None = None
    on_manual_fallback: ManualReset | None = None

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Recover(_OneWay):
    """Bring unsent changes along; where that cannot be done, the reset fails and nothing is changed."""


@dataclass(frozen=True, kw_only=True)
class Discard(_OneWay):
    """Take the remote's state; changes that it does not have are only in the backup afterwards."""


@dataclass(frozen=True, kw_only=True)
class SeedRemote(_OneWay):
    """Where the remote lost what it had (it was wiped, replaced, or went back to an old state), give it this device's data
    again, merged with what others gave it. In all other cases it is ``Recover``.
    """


@dataclass(frozen=True, kw_only=True)
class Manual:
    """Do nothing but end the session: the application resets the file itself, see ``ClientResetRequired``.

    Attributes:
        on_client_reset: called when the session has ended.
    """

    on_client_reset: ManualReset

    def __post_init__(self) -> None:
        _check(self)


ClientReset = RecoverOrDiscard | Recover | Discard | SeedRemote | Manual


@dataclass(frozen=True, kw_only=True)
class ClientResetReport:
    """What the last client reset of a file did, as ``session.last_reset`` tells it.

    Of one that an earlier process carried out, and that the remote has not confirmed yet, the file does not know the numbers
    any more: they are 0, and ``time_ms`` is when it began.

    Attributes:
        kind, reason: why it was done, for programs and in words.
        mode: what became of unsent changes: ``"recover"``, ``"discard"``, or ``"seed"`` when the remote was filled again.
        time_ms: when it was done, milliseconds since the Unix epoch.
        backup: the file as it was before; None when it held nothing.
        recovered: how many changesets the device made of what it brought along.
        skipped: how many unsent changesets the remote turned out to have.
        discarded: how many were not brought along; they are in the backup.
        dropped: of how many rows changes had no place any more, as the remote does not have the rows. They are in
            ``realm.conflicts()``.
    """

    kind: ResetReason
    reason: str
    mode: str
    time_ms: int
    backup: Path | None
    recovered: int = 0
    skipped: int = 0
    discarded: int = 0
    dropped: int = 0


def check_client_reset(strategy: object) -> None:
    """Refuse what is no strategy.

    Raises:
        TypeError: as it says.
    """
    if not isinstance(strategy, ClientReset):
        raise TypeError(
            "client_reset takes RecoverOrDiscard(), Recover(), Discard(), SeedRemote() or Manual(on_client_reset=...),"
            f" not {strategy!r}."
        )


def _check(strategy: _OneWay | RecoverOrDiscard | Manual) -> None:
    for name, callback in vars(strategy).items():
        if callback is None and name != "on_client_reset":
            continue
        if not callable(callback):
            raise TypeError(f"{name} is a function, not {callback!r}.")
        if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__):
            raise TypeError(f"{name} is called in a worker thread, not awaited: make {callback!r} a plain function.")
