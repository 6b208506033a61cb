"""What a client reset comes to, as tables: by strategy, by what the remote allows, and by how the last one ended. Pure.

A reset that the remote asks for again, before it has confirmed the last one, is a loop: what was tried then is not tried again.
What failed before it changed anything is no loop, and may always be tried again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from localstore.client_reset import ClientReset, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.reasons import ResetReason

__all__ = ["FIRST", "LOST_BY_REMOTE", "NEXT", "WITHOUT_RECOVERY", "Attempt", "End", "Mode", "decide"]


class Mode(enum.Enum):
    """What becomes of changes that the remote does not have."""

    RECOVER = "recover"
    DISCARD = "discard"
    SEED = "seed"
    """They, and all else that the remote does not have any more, become new changes."""


class End(enum.Enum):
    """How a reset ended that the remote has not confirmed."""

    BROKEN_OFF = "broken off"
    """It did not come to changing anything: it was killed, or failed before."""
    FAILED = "failed"
    """What it did with unsent changes could not be done; nothing was changed."""
    IN_VAIN = "in vain"
    """It was carried out, and the remote asked for another one at once."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A reset that was tried and not confirmed since.

    Attributes:
        mode: what it did with unsent changes.
        may_recover: whether the remote let it bring them along.
        version: of the library.
        end: how it ended.
    """

    mode: Mode
    may_recover: bool
    version: str
    end: End


LOST_BY_REMOTE = frozenset({ResetReason.REMOTE_REPLACED, ResetReason.REMOTE_RESTORED, ResetReason.UNKNOWN_CURSOR})
"""Reasons that say that the remote lost what it had."""

_Strategy = type[RecoverOrDiscard] | type[Recover] | type[Discard] | type[SeedRemote]

FIRST: dict[_Strategy, Mode] = {
    RecoverOrDiscard: Mode.RECOVER,
    Recover: Mode.RECOVER,
    Discard: Mode.DISCARD,
    SeedRemote: Mode.SEED,
}
"""What a strategy does where nothing speaks against it."""

WITHOUT_RECOVERY: dict[_Strategy, Mode | None] = {
    RecoverOrDiscard: Mode.DISCARD,
    Recover: None,
    Discard: Mode.DISCARD,
    SeedRemote: None,
}
"""What it does where the remote does not let the device bring anything along; None fails."""

_RATHER_DISCARDS: dict[_Strategy, Mode | None] = {**FIRST, RecoverOrDiscard: Mode.DISCARD}
_FAILS: dict[_Strategy, Mode | None] = dict.fromkeys(FIRST)
_DISCARDS: dict[_Strategy, Mode | None] = {**_FAILS, Discard: Mode.DISCARD, RecoverOrDiscard: Mode.DISCARD}

NEXT: dict[tuple[End, Mode], Mapping[_Strategy, Mode | None]] = {
    (End.BROKEN_OFF, Mode.RECOVER): FIRST,
    (End.BROKEN_OFF, Mode.SEED): FIRST,
    (End.BROKEN_OFF, Mode.DISCARD): _RATHER_DISCARDS,  # which had its reasons; being broken off is none to begin with others
    (End.FAILED, Mode.RECOVER): _RATHER_DISCARDS,
    (End.FAILED, Mode.SEED): _RATHER_DISCARDS,
    (End.FAILED, Mode.DISCARD): _RATHER_DISCARDS,
    (End.IN_VAIN, Mode.RECOVER): _DISCARDS,
    (End.IN_VAIN, Mode.SEED): _DISCARDS,
    (End.IN_VAIN, Mode.DISCARD): _FAILS,
}
"""What it does after an attempt of that mode that ended so; None fails."""


def decide(strategy: ClientReset, kind: ResetReason, *, may_recover: bool, version: str, last: Attempt | None) -> Mode | str:
    """What to do with unsent changes, or in words why the reset cannot be done.

    Args:
        strategy: the application's, but not ``Manual``, which has nothing to decide.
        kind: why the remote asks for a reset.
        may_recover: whether it lets the device bring changes along.
        version: of this library: another one may do better than the last attempt's.
        last: an attempt that was not confirmed; None also when nothing is known against it.
    """
    if isinstance(strategy, Manual):
        raise TypeError("Manual leaves the decision to the application.")
    chosen = type(strategy)
    mode = FIRST[chosen]
    if last is not None and last.may_recover is may_recover and last.version == version:
        following = NEXT[last.end, last.mode][chosen]
        if following is None:
            return f"the last reset ({last.mode.value}) did not help: the remote asks for another one"
        mode = following
    if mode is not Mode.DISCARD and not may_recover:
        without = WITHOUT_RECOVERY[chosen]
        if without is None:
            return "the remote does not allow this device to bring unsent changes along"
        mode = without
    return Mode.RECOVER if mode is Mode.SEED and kind not in LOST_BY_REMOTE else mode
