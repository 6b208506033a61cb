"""Connections to PostgreSQL that give up a server of which nothing is heard, as of one that is frozen.

Its own limits for a statement do not work then, and the network's neither: the system takes what is sent, and the connection is
as good as one on which a statement takes long. So whoever has one has it for longer than any statement may take.
This module knows no SQL, and is imported by those alone who connect to PostgreSQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import event

__all__ = ["give_up_after", "in_time"]

_T = TypeVar("_T")
_Call = Generator[Any, Any, _T]
"""A call of the driver's: yields what it waits for, and is sent what came of that; nothing, now and then, while it waits."""


def give_up_after(engine: sa.Engine, seconds: float) -> None:
    """Let calls of an engine's connections that hear nothing for so long fail, as when the connection was lost."""

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: _Call[_T], *arguments: Any, **more: Any) -> _T:
            return super().wait(in_time(gen, self.pgconn.finish, seconds), *arguments, **more)

    event.listen(engine, "do_connect", lambda _, __, first, named: Connection.connect(*first, **named))


def in_time(
    call: _Call[_T], give_up: Callable[[], None], seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> _Call[_T]:
    """The same call, which is given up when nothing came of it for so many seconds.

    Raises:
        OperationalError: it was.
    """
    until = monotonic() + seconds
    try:
        wanted = next(call)
        while True:
            came = yield wanted
            if came:
                until = monotonic() + seconds
            elif monotonic() >= until:
                give_up()
                raise psycopg.OperationalError(f"nothing was heard of the server for {seconds:.0f} seconds")
            wanted = call.send(came)
    except StopIteration as end:
        value: _T = end.value
        return value
