"""Changesets as they lie in a file. One that is not as it was written is the file's damage, and not that of a remote.

Knows neither which table they come from nor what becomes of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from localstore import wire
from localstore.changes import Changeset
from localstore.errors import MalformedChangeset, StoreDamaged
from localstore.store.failures import A_WAY_OUT
from localstore.wire import SealedChangeset

__all__ = ["read_changeset", "read_sealed"]


def read_sealed(data: bytes) -> SealedChangeset:
    """One that is to be sent, or moved.

    Raises:
        StoreDamaged: it is not as it was written. Sent like that, it would be in everybody's way for good.
    """
    with _whole():
        found = wire.decode(data)
        wire.verify(found)
        return found


def read_changeset(data: bytes) -> Changeset:
    """What is inside.

    Raises:
        StoreDamaged: it is not as it was written.
    """
    with _whole():
        return wire.unseal(wire.decode(data))


@contextmanager
def _whole() -> Iterator[None]:
    try:
        yield
    except MalformedChangeset as error:
        raise StoreDamaged(f"A changeset in the file is damaged: {error.message} It was left there.", hint=A_WAY_OUT) from error
