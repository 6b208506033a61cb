"""Who somebody is and what they may do: the seam between the hub's endpoints and its accounts.

Endpoints know only what is here; how accounts keep users, tokens and grants is theirs. This module must know neither HTTP nor
SQL.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from localstore.adapter import Credentials, Tokens

__all__ = ["PRIVATE", "Access", "Accounts", "Person", "owner_of", "private_partition"]

PRIVATE = "user:"
"""How the names of private partitions begin; the rest is the user's id."""


class Access(enum.IntEnum):
    """What a user may do with a partition as a whole. Each value includes the smaller ones."""

    NONE = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True, kw_only=True)
class Person:
    """A user whose access token is good.

    Attributes:
        user_id: the same at every log-in.
        email: None for a user without one.
        expires_at: Unix seconds at which the access token ends, by the hub's clock.
    """

    user_id: str
    email: str | None
    expires_at: float


class Accounts(Protocol):
    """Users, their log-ins and their rights. Every call may come from many tasks at once and leaves the event loop free."""

    async def log_in(self, credentials: Credentials, address: str) -> Tokens:
        """Tokens for a user, who asks from a network address.

        Raises:
            Unauthorized: these credentials are not taken; why is not told.
            RateLimited: too many tries of this address, or for this email.
            Busy: more are logging in than can be checked now.
        """
        ...

    async def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for old ones, as ``SupportsUsers.refresh`` says.

        Raises:
            Unauthorized, Busy: as there.
        """
        ...

    async def log_out(self, refresh_token: str) -> None:
        """End the log-in that a refresh token belongs to. Twice is fine."""
        ...

    async def authenticate(self, access_token: str | None) -> Person:
        """Whose token this is. Cheap: it may be asked for every request, and notices within seconds that a log-in has ended.

        Raises:
            Unauthorized: the token is not good, or not any more.
            Busy: it could not be looked up.
        """
        ...

    async def access(self, person: Person, partition: str) -> Access:
        """What a person may do with a partition; a name that cannot be one is ``NONE``."""
        ...

    async def claim_device(self, person: Person, partition: str, device: bytes) -> bool:
        """Make a device of a partition this person's for good, if it is nobody's. False when it is another user's."""
        ...

    async def ready(self) -> None:
        """Come back when accounts can answer.

        Raises:
            Busy: they cannot now.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        ...


def private_partition(user_id: str) -> str:
    """The partition that is one user's alone."""
    return PRIVATE + user_id


def owner_of(partition: str) -> str | None:
    """The id of the user whose private partition this is; None for one that may be shared."""
    return partition.removeprefix(PRIVATE) if partition.startswith(PRIVATE) else None
