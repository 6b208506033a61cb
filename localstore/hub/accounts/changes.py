"""A number in the database that goes up with every change that may end something: by one small read each process notices.

Whoever ends a log-in, or changes what somebody may do, calls ``tell`` last in the same transaction. It makes others wait who
change something as well, and nobody who only reads.
"""

from __future__ import annotations

import sqlalchemy as sa

from localstore.hub.accounts import tables

__all__ = ["latest", "tell"]


def tell(connection: sa.Connection) -> None:
    """What other processes have looked up may not hold any more."""
    connection.execute(sa.update(tables.change).values(number=tables.change.c.number + 1))


def latest(connection: sa.Connection) -> int:
    """The number of the last change."""
    return int(connection.execute(sa.select(tables.change.c.number)).scalar_one())
