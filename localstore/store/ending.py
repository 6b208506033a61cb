"""The end of a write transaction, whatever moment an exception or Ctrl-C chooses; knows nothing of what is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from localstore.store.writer import Writer

__all__ = ["ending"]


@contextmanager
def ending(session: Session, writer: Writer, abandoned: Callable[[], None]) -> Iterator[Session]:
    """Roll back what an exception of any kind left unfinished, and let go of the connection.

    Args:
        session: whose transaction it is.
        writer: whose connection the session uses.
        abandoned: called after it was rolled back.
    """
    ended, outer = False, sys.exception()
    try:
        try:
            yield session
            Session.close(session)
            writer.retire()
            ended = True
        except (SQLAlchemyError, AssertionError) as error:
            raise _interruption(error, outer) or error  # noqa: B904  as it is
        finally:
            if not ended:
                _abandon(session, writer)
    finally:
        if not ended:
            _abandon(session, writer)  # again, should Ctrl-C have come in the middle
            abandoned()


def _abandon(session: Session, writer: Writer) -> None:
    """Roll back. An exception is on its way already, and tells more than what may go wrong here."""
    ended = False
    try:
        session.rollback()
        Session.close(session)
        writer.roll_back()
        writer.retire()
        ended = True
    except Exception:  # noqa: BLE001  Ctrl-C within SQLAlchemy leaves a session that can do nothing more
        pass
    finally:
        if not ended:
            writer.retire()
            writer.renew()


def _interruption(error: Exception, outer: BaseException | None) -> BaseException | None:
    """The Ctrl-C or the like because of which SQLAlchemy failed: one in the midst of it may end in an error of its own.

    ``outer`` is what was being handled when the block was entered, as when an application saves its state on Ctrl-C.
    """
    context = error.__context__
    while isinstance(context, Exception) and context is not outer:
        context = context.__context__
    return None if context is outer else context
