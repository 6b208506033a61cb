"""Why a remote and a device cannot go on with each other, for programs. Knows nothing of the rest of the package."""

from __future__ import annotations

import enum

__all__ = ["ResetReason"]


class ResetReason(enum.Enum):
    """Why the histories of a device and its remote parted. The values are how ``ResetRequired.reason`` begins."""

    REMOTE_REPLACED = "remote replaced"
    """It was wiped, or another one has taken its place."""
    REMOTE_RESTORED = "remote restored"
    """It went back to an old state, as from a backup, or lost files: it has less than it had acknowledged."""
    HISTORY_TRIMMED = "history trimmed"
    """The device was away for longer than the remote keeps history."""
    UNSENT_TOO_LONG = "unsent too long"
    """Changes were unsent for so long that others may have forgotten what it takes to merge them."""
    DEVICE_FORKED = "device forked"
    """The device's file was copied, or restored from a backup."""
    HISTORY_DAMAGED = "history damaged"
    """The remote cannot go on with what it has of this device, or for it."""
    UNKNOWN_CURSOR = "unknown cursor"
    """The remote does not know the place in its history that the device has come to."""
    SCHEMA_INCOMPATIBLE = "schema incompatible"
    """The remote's schema changed in a way that asks for a new beginning."""
    OTHER = "other"

    @classmethod
    def of(cls, reason: str) -> ResetReason:
        """The kind that a reason in words belongs to."""
        return next((kind for kind in cls if reason.startswith(kind.value)), cls.OTHER)
