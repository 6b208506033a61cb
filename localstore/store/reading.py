"""Reading beyond single queries: the session of a snapshot, and a watch for commits. Knows engines, not what is in the file."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlmodel import Session

from localstore.errors import ReadOnlyRealm
from localstore.store.engine import translated

__all__ = ["Looks", "ReadSession", "Watcher", "snapshot"]

_WRITE_INSTEAD = "Write inside `with realm.write() as tx:`."


class ReadSession(Session):
    """The session of a ``read()``. What it cannot write is not dropped in silence, nor its snapshot left for another."""

    def flush(self, objects: Sequence[object] | None = None) -> None:
        if self.new or self.deleted or any(self.is_modified(touched) for touched in self.dirty):
            raise ReadOnlyRealm(
                "Objects were added, changed or deleted inside read(). Nothing was written.", hint=_WRITE_INSTEAD
            )

    def commit(self) -> None:
        self.flush()
        raise ReadOnlyRealm("commit() was called inside read(), where there is nothing to commit.", hint=_WRITE_INSTEAD)


@contextmanager
def snapshot(engine: sa.Engine, path: Path) -> Iterator[Session]:
    """A session that sees the state that the file is in now, and no other."""
    with ReadSession(engine, expire_on_commit=False, close_resets_only=False) as session:
        with translated(path):
            session.connection().exec_driver_sql("PRAGMA schema_version")  # reads: what it sees is settled from here on
        yield session
        session.flush()


class Watcher:
    """Tells cheaply whether anything was committed. Any thread may ask; the first time opens its connection, which stays.

    SQLite's ``data_version`` belongs to one connection and counts what all others have committed, in this process and
    elsewhere. So the connection is one that does nothing else.

    Args:
        engine: where the connection comes from.
        check_open: called before each answer; raises when there is none any more, as after ``close``.
    """

    def __init__(self, engine: sa.Engine, check_open: Callable[[], None]) -> None:
        self._engine = engine
        self._check_open = check_open
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def version(self) -> int:
        with self._lock:
            self._check_open()
            if self._connection is None:
                self._connection = _detached(self._engine)
            # All rows are fetched, as a statement that is not at its end would hold on to its snapshot.
            return int(self._connection.execute("PRAGMA data_version").fetchall()[0][0])

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()


class Looks:
    """Connections for short looks of our own at a file, without SQLAlchemy, which would take eight times as long: an idle
    session does nothing else. At most one is kept.

    Args:
        engine: where connections come from.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._idle: deque[sqlite3.Connection] = deque()

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the file, that of its first query."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _detached(self._engine)
        is_sound = False
        try:
            connection.execute("BEGIN")
            yield connection
            connection.execute("ROLLBACK")
            is_sound = True
        finally:
            if is_sound and not self._idle:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Let go of what is kept, when nobody looks any more."""
        while self._idle:
            self._idle.pop().close()


def _detached(engine: sa.Engine) -> sqlite3.Connection:
    """A connection that the pool knows nothing of any more."""
    pooled = engine.raw_connection()
    driver = pooled.driver_connection
    assert driver is not None
    pooled.detach()
    return cast("sqlite3.Connection", driver)
