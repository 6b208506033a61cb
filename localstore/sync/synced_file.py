"""A synced file that is open in this process, and who holds it open."""

from __future__ import annotations

from typing import Any

from localstore.store.file import Store
from localstore.sync.session import SyncSession
from localstore.sync.state import SessionState

__all__ = ["Hold", "SyncedFile"]


class Hold:
    """One realm's hold on a file, which is let go of once, also when Ctrl-C made a first attempt come to nothing."""

    def __init__(self) -> None:
        self.is_released = False


class SyncedFile:
    """A synced file that is open in this process, shared by all realms on it.

    Args:
        store: the file.
        user: whose it is; nothing is known of users here.
        partition, encryption_key: what it was opened with.
    """

    def __init__(self, store: Store, user: Any, partition: str, encryption_key: bytes | None) -> None:
        self.store = store
        self.user = user
        self.partition = partition
        self.encryption_key = encryption_key
        self.session: SyncSession
        self.realms = 0
        self.tables: set[str] = set()
        self.closing = False

    @property
    def has_session(self) -> bool:
        """Whether its session goes on, or did until now: of one that has ended nothing is left when realms alone hold the file,
        as after closing the app."""
        return not (self.session.has_ended and self.realms)

    @property
    def unused(self) -> bool:
        """Whether no realm is open on it, and its session has ended or only rests."""
        return self.realms == 0 and self.session.state in (SessionState.INACTIVE, SessionState.PAUSED)
