"""Who may do what with which partition, and whose a device is, in SQL. Functions of a connection, each in one transaction.

What rows and fields inside a partition somebody sees is not asked here; there is one answer for the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from localstore.hub.access import Access
from localstore.hub.accounts import changes, tables
from localstore.hub.accounts.names import check_shared_partition
from localstore.hub.accounts.tables import EVERYONE

__all__ = ["Grant", "claim_device", "grant", "granted", "grants"]

_grant, _device = tables.grant, tables.device


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a user, or ``*`` for everyone without a grant of their own, may do with a partition."""

    partition: str
    user_id: str
    access: Access


def granted(connection: sa.Connection, user_id: str, partition: str) -> Access | None:
    """The user's own grant, or everyone's; None when there is neither."""
    rows = connection.execute(
        sa.select(_grant.c.user_id, _grant.c.access).where(
            _grant.c.partition == partition, _grant.c.user_id.in_((user_id, EVERYONE))
        )
    )
    found = {row.user_id: Access(row.access) for row in rows}
    return found.get(user_id, found.get(EVERYONE))


def grant(connection: sa.Connection, user_id: str, partition: str, access: Access | None) -> None:
    """Say what a user, or everyone, may do with a partition; None takes back what was said.

    Raises:
        ValueError: the partition cannot be shared.
    """
    check_shared_partition(partition)
    if access is None:
        connection.execute(sa.delete(_grant).where(_grant.c.partition == partition, _grant.c.user_id == user_id))
    elif not tables.insert_unless_there(connection, _grant, partition=partition, user_id=user_id, access=int(access)):
        mine = sa.and_(_grant.c.partition == partition, _grant.c.user_id == user_id)
        connection.execute(sa.update(_grant).where(mine).values(access=int(access)))
    changes.tell(connection)


def grants(connection: sa.Connection) -> list[Grant]:
    """All of them, by partition and user."""
    rows = connection.execute(sa.select(_grant).order_by(_grant.c.partition, _grant.c.user_id)).mappings()
    return [Grant(partition=row["partition"], user_id=row["user_id"], access=Access(row["access"])) for row in rows]


def owner_of_device(connection: sa.Connection, partition: str, device: bytes) -> str | None:
    """Whose a device is, None when nobody's."""
    mine = sa.and_(_device.c.partition == partition, _device.c.device == device)
    return connection.execute(sa.select(_device.c.user_id).where(mine)).scalar()


def claim_device(connection: sa.Connection, user_id: str, partition: str, device: bytes) -> bool:
    """Make a device a user's for good, if it is nobody's; whether it is theirs then."""
    if tables.insert_unless_there(connection, _device, partition=partition, device=device, user_id=user_id):
        return True
    return owner_of_device(connection, partition, device) == user_id
