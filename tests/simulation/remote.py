"""The remote of a simulation: one in memory that keeps snapshots and, if it is to, wants its users to log in."""

from __future__ import annotations

import dataclasses

from localstore.adapter import Capabilities, Cursor, Limit, Page
from localstore.environment import Environment
from localstore.testing.memory import _Line
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore.testing.memory_users import MemoryRemoteWithUsers

__all__ = ["Remote"]


class Remote(MemoryRemoteWithUsers, MemoryRemoteWithSnapshots):  # type: ignore[misc]  # adapters are the simulation's own
    """Both at once.

    Args:
        environment: where its clock, tokens and identity come from.
        horizon_days: devices that were away for longer have to be reset; None sets no limit.
        access_seconds: how long an access token lives; None lets everybody in without.
    """

    def __init__(self, environment: Environment, *, horizon_days: float | None, access_seconds: float | None) -> None:
        super().__init__(environment=environment)
        self.horizon_days = horizon_days
        self._wants_users = access_seconds is not None
        self.access_seconds = access_seconds or 1.0

    @property
    def capabilities(self) -> Capabilities:
        """What its adapters say of themselves."""
        return Capabilities(watch=True, ping=True, snapshots=True, users=self._wants_users)

    def pull(self, line: _Line, cursor: Cursor | None, limit: Limit, again: int = 0) -> Page:
        """What comes after a cursor, and before it so many that came there, as of a remote that gives them more than once."""
        page = super().pull(line, cursor, limit)
        if not again or cursor is None:
            return page
        start = int(bytes(cursor).split(b":")[1])
        before = self.changesets(line.partition)[max(0, start - again) : start]
        return dataclasses.replace(page, changesets=(*before, *page.changesets))

    def check(self, access_token: str | None) -> None:
        """Refuse an access token that is not good."""
        if self._wants_users:
            super().check(access_token)
