"""What a client reset comes to, as tables: by strategy, by what the remote allows, and by how the last one ended. Pure.

A reset that the remote asks for again, before it has confirmed the last one, is a loop: what was tried then is not tried again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from localstore.client_reset import ClientReset, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.reasons import ResetReason

__all__ = ["FIRST", "LOST_BY_REMOTE", "NEXT", "WITHOUT_RECOVERY", "Attempt", "Mode", "decide"]


class Mode(enum.Enum):
    """What becomes of changes that the remote does not have."""

    RECOVER = "recover"
    DISCARD = "discard"
    SEED = "seed"
    """They, and all else that the remote does not have any more, become new changes."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A reset that was tried and not confirmed since.

    Attributes:
        mode: what it did with unsent changes.
        may_recover: whether the remote let it bring them along.
        version: of the library.
    """

    mode: Mode
    may_recover: bool
    version: str


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

NEXT: dict[tuple[Mode, _Strategy], Mode | None] = {
    (Mode.DISCARD, Discard): None,
    (Mode.DISCARD, Recover): None,
    (Mode.DISCARD, SeedRemote): None,
    (Mode.DISCARD, RecoverOrDiscard): None,
    (Mode.RECOVER, Discard): Mode.DISCARD,
    (Mode.RECOVER, Recover): None,
    (Mode.RECOVER, SeedRemote): None,
    (Mode.RECOVER, RecoverOrDiscard): Mode.DISCARD,
    (Mode.SEED, Discard): Mode.DISCARD,
    (Mode.SEED, Recover): None,
    (Mode.SEED, SeedRemote): None,
    (Mode.SEED, RecoverOrDiscard): Mode.DISCARD,
}
"""What it does after an attempt of that mode that was in vain; None fails."""


def decide(strategy: ClientReset, kind: ResetReason, *, may_recover: bool, version: str, last: Attempt | None) -> Mode | str:
    """What to do with unsent changes, or in words why the reset cannot be done.

    Args:
        strategy: the application's, but not ``Manual``, which has nothing to decide.
        kind: why the remote asks for a reset.
        may_recover: whether it lets the device bring changes along.
        version: of this library: another one may do better than the last attempt's.
        last: an attempt that was not confirmed.
    """
    if isinstance(strategy, Manual):
        raise TypeError("Manual leaves the decision to the application.")
    chosen = type(strategy)
    mode: Mode | None = FIRST[chosen]
    if not may_recover:
        mode = WITHOUT_RECOVERY[chosen]
        if mode is None:
            return "the remote does not allow this device to bring unsent changes along"
    if last is not None and last.may_recover is may_recover and last.version == version:
        mode = NEXT[last.mode, chosen]
        if mode is None:
            return f"the last reset ({last.mode.value}) did not help: the remote asks for another one"
    if mode is Mode.SEED and kind not in LOST_BY_REMOTE:
        return Mode.RECOVER
    return mode  # type: ignore[return-value]  # None was answered above
