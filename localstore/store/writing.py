"""The session with which an application writes. Who holds the lock, and what commits together, is the store's business."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm.exc import ObjectDeletedError
from sqlmodel import Session

from localstore.errors import CommitInsideWrite

__all__ = ["WriteSession", "fill", "load_expired"]


class WriteSession(Session):
    """The session of a ``write()``. What is committed in the middle of the block could not be rolled back at its end."""

    def commit(self) -> None:
        raise CommitInsideWrite(
            "commit() was called inside write(), which commits once, at the end of its block. Nothing was committed.",
            hint="Leave the call out; flush() sends what is pending to the database, begin_nested() makes a savepoint.",
        )


def load_expired(session: Session) -> None:
    """Read again what SQL computed, such as ``task.count = Task.count + 1``: after the block it could not be any more."""
    for state in session.identity_map.all_states():
        if state.expired_attributes and (found := state.obj()) is not None:
            with suppress(ObjectDeletedError):  # a statement deleted its row
                getattr(found, next(iter(state.expired_attributes)))  # one loads them all


def fill(connection: sa.Connection, initial_data: Callable[[Session], None]) -> None:
    """Let an application write as in a ``write()``, inside a transaction that our caller has begun and will end."""
    with WriteSession(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as session:
        initial_data(session)
        session.flush()
        load_expired(session)
        Session.commit(session)  # releases the session's savepoint; the transaction goes on
