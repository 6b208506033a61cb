"""Snapshots of a log in SQL: stored in chunks under a name of chance, and the latest once they are whole.

A chunk is written in a transaction of its own, so that nobody waits for a snapshot, and so are a few at a time taken away. The
two newest stay, for who is reading the one before; what broke off goes a day later, if its writer could not see to it.
What follows blocks; each call is one transaction that the caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from localstore.adapter import SnapshotInfo
from localstore.errors import Offline, SnapshotUnusable
from localstore_adapters._sql_log import Line, Place, cursor_of, locked, look
from localstore_adapters._sql_statements import NOW
from localstore_adapters._sql_tables import CHUNK, SNAPSHOT

__all__ = ["CHUNK_BYTES", "Written", "add_chunk", "begin", "discard", "latest", "publish", "read_chunk", "sweep"]

CHUNK_BYTES = 1 << 20
_KEPT = 2
_BROKEN_OFF_MS = 86_400_000
_SWEPT = 64  # chunks taken away in one transaction
_GOING = 0  # in place of when it was begun: it is being taken away


@dataclass
class Written:
    """A snapshot that is being written, as far as it is."""

    name: str
    chunks: int = 0
    byte_count: int = 0


def begin(connection: sa.Connection, line: Line, name: str) -> Written:
    """Make room for a snapshot."""
    look(connection, line, None)
    now_ms: int = connection.execute(sa.select(NOW)).scalar_one()
    connection.execute(sa.insert(SNAPSHOT).values(name=name, partition=line.partition, begun_ms=now_ms))
    return Written(name)


def add_chunk(connection: sa.Connection, line: Line, written: Written, content: bytes) -> None:
    """The next chunk, where the snapshot still is."""
    row = sa.select(SNAPSHOT.c.name, sa.literal(written.chunks), sa.literal(content)).where(_being(written))
    added = connection.execute(sa.insert(CHUNK).from_select(["snapshot", "number", "content"], row))
    if not added.rowcount:
        raise _cleared_away(line)


def publish(connection: sa.Connection, line: Line, written: Written, place: Place) -> None:
    """Make a snapshot the latest, and give up all but the one before it.

    Raises:
        ResetRequired: history does not go on from its place.
    """
    locked(connection, line)
    look(connection, line, place)
    serials = sa.select(sa.func.coalesce(sa.func.max(SNAPSHOT.c.serial), 0) + 1).where(SNAPSHOT.c.partition == line.partition)
    values = {
        "serial": connection.scalar(serials),
        "position": place.position,
        "mark": place.mark,
        "byte_count": written.byte_count,
        "chunks": written.chunks,
    }
    if not connection.execute(sa.update(SNAPSHOT).where(_being(written)).values(values)).rowcount:
        raise _cleared_away(line)
    old = [row.name for row in connection.execute(_newest_first(line).offset(_KEPT))]
    connection.execute(sa.update(SNAPSHOT).where(SNAPSHOT.c.name.in_(old)).values(serial=None, begun_ms=_GOING))


def discard(connection: sa.Connection, written: Written) -> None:
    """Give up a snapshot that is not whole."""
    connection.execute(sa.update(SNAPSHOT).where(_being(written)).values(begun_ms=_GOING))


def sweep(connection: sa.Connection) -> bool:
    """Take away some of what was given up, or broke off long ago; whether there may be more. Nobody waits long for it."""
    is_over = (SNAPSHOT.c.serial.is_(None), SNAPSHOT.c.begun_ms < NOW - _BROKEN_OFF_MS)
    connection.execute(sa.update(SNAPSHOT).where(*is_over, SNAPSHOT.c.begun_ms > _GOING).values(begun_ms=_GOING))
    name = connection.scalar(sa.select(SNAPSHOT.c.name).where(*is_over).limit(1))
    if name is None:
        return False
    some = sa.select(CHUNK.c.number).where(CHUNK.c.snapshot == name).order_by(CHUNK.c.number).limit(_SWEPT)
    connection.execute(sa.delete(CHUNK).where(CHUNK.c.snapshot == name, CHUNK.c.number.in_(some)))
    is_empty = ~sa.exists().where(CHUNK.c.snapshot == name)  # somebody else may be sweeping as well
    connection.execute(sa.delete(SNAPSHOT).where(SNAPSHOT.c.name == name, is_empty))
    return True


def latest(connection: sa.Connection, line: Line) -> SnapshotInfo | None:
    head = look(connection, line, None).head
    row = connection.execute(_newest_first(line).limit(1)).first()
    if row is None:
        return None
    place = Place(row.position, row.mark)
    later = max(0, head - place.position)
    return SnapshotInfo(name=row.name, cursor=cursor_of(line, place), byte_count=row.byte_count, later=later)


def read_chunk(connection: sa.Connection, line: Line, info: SnapshotInfo, number: int) -> bytes:
    """A chunk by its number; nothing after the last one.

    Raises:
        SnapshotUnusable: a newer snapshot has taken its place.
    """
    here = sa.and_(CHUNK.c.snapshot == SNAPSHOT.c.name, CHUNK.c.number == number)
    query = sa.select(SNAPSHOT.c.chunks, CHUNK.c.content).select_from(SNAPSHOT.outerjoin(CHUNK, here))
    mine = (SNAPSHOT.c.name == info.name, SNAPSHOT.c.partition == line.partition, SNAPSHOT.c.serial.is_not(None))
    row = connection.execute(query.where(*mine)).first()
    if row is None or (row.content is None and number < (row.chunks or 0)):
        raise SnapshotUnusable(f"The remote does not have {info.name} any more.", hint="Ask for the latest again.")
    return row.content or b""


def _newest_first(line: Line) -> sa.Select[Any, Any, Any, Any]:
    columns = (SNAPSHOT.c.name, SNAPSHOT.c.position, SNAPSHOT.c.mark, SNAPSHOT.c.byte_count)
    whole = sa.and_(SNAPSHOT.c.partition == line.partition, SNAPSHOT.c.serial.is_not(None))
    return sa.select(*columns).where(whole).order_by(SNAPSHOT.c.serial.desc())


def _being(written: Written) -> sa.ColumnElement[bool]:
    """A snapshot that is being written, and was not given up meanwhile."""
    return sa.and_(SNAPSHOT.c.name == written.name, SNAPSHOT.c.serial.is_(None), SNAPSHOT.c.begun_ms > _GOING)


def _cleared_away(line: Line) -> Offline:
    return Offline(f"The snapshot that was being written to {line.where} was cleared away. The one before is there.")
