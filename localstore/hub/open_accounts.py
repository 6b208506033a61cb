"""Accounts of a hub that asks nobody who they are, for trusted networks, tests and demos. All may read and write everything."""

from __future__ import annotations

import math
from typing import NoReturn

from localstore.adapter import Credentials, Tokens
from localstore.errors import Unauthorized
from localstore.hub.access import Access, Accounts, Person, owner_of

__all__ = ["EVERYBODY", "OpenAccounts"]

EVERYBODY = ""
"""The id of the only user."""


class OpenAccounts:
    """Everybody is the same user, who needs no token. There are no private partitions, as there is nobody to own one."""

    async def log_in(self, credentials: Credentials, address: str) -> Tokens:
        _refuse()

    async def refresh(self, refresh_token: str) -> Tokens:
        _refuse()

    async def log_out(self, refresh_token: str) -> None:
        return

    async def authenticate(self, access_token: str | None) -> Person:
        return Person(user_id=EVERYBODY, email=None, expires_at=math.inf)

    async def access(self, person: Person, partition: str) -> Access:
        return Access.WRITE if owner_of(partition) is None else Access.NONE

    async def claim_device(self, person: Person, partition: str, device: bytes) -> bool:
        return True

    async def ready(self) -> None:
        return

    async def close(self) -> None:
        return


def _refuse() -> NoReturn:
    raise Unauthorized("This hub has no users.", hint="Add users=no to its URL, as in 'https://host/app?users=no'.")


_: type[Accounts] = OpenAccounts
