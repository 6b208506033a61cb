"""One log in SQL: what a line's calls read and write, each in one transaction that the caller owns.

Positions are given out under the lock of the partition's row, which is held until the commit: they become visible in their
order, so that whoever has read up to one has missed none before it. What is read is read by one statement, which sees one
moment.
This module knows no pool, no threads and no cancellation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from localstore.adapter import Cursor, Hello, Limit, Page, PushResult, Refusal
from localstore.errors import Offline, ProtocolError, ResetRequired
from localstore.wire import SealedChangeset, decode, encode
from localstore_adapters import _sql_statements as sql
from localstore_adapters._sql_tables import CHANGESET, PARTITION, REMOTE, SNAPSHOT

__all__ = [
    "Appended",
    "Line",
    "Place",
    "append",
    "append_at_once",
    "cursor_of",
    "emptied",
    "has_news",
    "line_of",
    "locked",
    "look",
    "make_partition",
    "make_remote",
    "page",
    "place_of",
    "trim",
    "welcome_of",
]

Appended = tuple[PushResult, int, int]
"""The answer to a push, how many changesets were stored, and the position of the last."""
_TRIM_COUNT = 500  # let go of in one transaction: appenders wait for it


@dataclass(frozen=True)
class Line:
    """As whom a line speaks, and to which history.

    Attributes:
        where: the database's URL, for messages.
        partition: its row's id.
    """

    where: str
    remote_id: str
    partition: int
    device: bytes


@dataclass(frozen=True)
class Place:
    """A position, and the mark of what was stored there; 0 is the beginning."""

    position: int = 0
    mark: bytes = b""


def cursor_of(line: Line, place: Place) -> Cursor:
    return Cursor(f"{line.remote_id}:{place.position}:{place.mark.hex()}".encode())


def place_of(cursor: Cursor | None, remote_id: str) -> Place:
    """The place that a cursor of this remote stands for.

    Raises:
        ResetRequired: it is none of this remote's.
    """
    if cursor is None:
        return Place()
    owner, digits, mark, *rest = (*bytes(cursor).split(b":"), b"", b"")
    try:
        if owner == remote_id.encode() and digits.isdigit() and len(digits) < 19 and not any(rest):
            return Place(int(digits), bytes.fromhex(mark.decode("ascii")))
    except ValueError:
        pass
    raise ResetRequired("unknown cursor")


def make_remote(connection: sa.Connection, app: str, remote_id: str) -> None:
    """Give a database that has no history yet an identity; the first one to do so wins."""
    row = sa.select(sa.literal(1), sa.literal(app), sa.literal(remote_id), sql.NOW).where(sa.true())
    new = sql.insert(connection.dialect.name, REMOTE).from_select(["id", "app", "remote_id", "made_ms"], row)
    connection.execute(new.on_conflict_do_nothing())


def line_of(connection: sa.Connection, hello: Hello, where: str) -> Line | None:
    """A line for a device that introduces itself; None when there is no history, or no partition of that name yet.

    Raises:
        ResetRequired: the history is another one than the device knows.
        ProtocolError: it is another application's.
    """
    query = sa.select(REMOTE.c.app, REMOTE.c.remote_id, PARTITION.c.id).select_from(
        REMOTE.outerjoin(PARTITION, PARTITION.c.name == hello.partition)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    if row.app != hello.app:
        raise ProtocolError(
            f"The log in {where} holds the data of {row.app!r}, not of {hello.app!r}. Nothing was read or written.",
            hint="Give each application a database or a schema of its own.",
        )
    if hello.remote_id not in (None, row.remote_id):
        raise ResetRequired("remote replaced", hint=f"{where} holds another history than the one known here.")
    return None if row.id is None else Line(where, row.remote_id, row.id, hello.device)


def make_partition(connection: sa.Connection, name: str) -> None:
    values = {"name": name, "head": 0, "total": 0, "trimmed": 0, "trimmed_mark": b"", "trimmed_total": 0}
    connection.execute(sql.insert(connection.dialect.name, PARTITION).values(values).on_conflict_do_nothing())


def welcome_of(connection: sa.Connection, line: Line) -> tuple[int, int, bool]:
    """The highest number of the line's device, the log's time, and whether there is a snapshot."""
    row = connection.execute(sql.DEVICE_STATE, _of(line)).one()
    return row.number or 0, row.now_ms, bool(row.snapshots)


def append(connection: sa.Connection, line: Line, batch: Sequence[SealedChangeset], mark: bytes, most: int) -> Appended:
    """Store what is not stored yet of a batch, in a transaction that writes.

    Args:
        mark: fresh random bytes.
        most: bytes of a changeset that is not refused.
    """
    partition = locked(connection, line)
    state = connection.execute(sql.DEVICE_STATE, _of(line)).one()
    last: int = state.number or 0
    if batch[0].number > last + 1:
        raise ResetRequired("remote restored", hint=f"The remote has its changesets up to {last} only.")
    fresh = batch[max(0, last + 1 - batch[0].number) :]
    if len(fresh) < len(batch):
        _check_same(connection, line, batch[: len(batch) - len(fresh)])
    refused = next((sealed for sealed in fresh if sealed.byte_count > most), None)
    taken = fresh if refused is None else fresh[: refused.number - fresh[0].number]
    if taken:
        _insert_all(connection, line, partition, taken, state.now_ms, mark)
    head = partition.head + len(taken)
    if refused is None:
        return PushResult(acknowledged=batch[-1].number), len(taken), head
    reason = f"It has {refused.byte_count} bytes; this remote takes up to {most}."
    refusals = (Refusal(number=refused.number, reason=reason),)
    return PushResult(acknowledged=refused.number - 1, refusals=refusals), len(taken), head


def append_at_once(connection: sa.Connection, line: Line, batch: Sequence[SealedChangeset], mark: bytes) -> int | None:
    """Store a batch of which nothing is stored yet in one statement, on PostgreSQL.

    Returns:
        The position of the last; None when nothing was done, as it is not so simple: see ``append``.
    """
    so_far = list(itertools.accumulate(sealed.byte_count for sealed in batch))
    values = {
        **_of(line),
        "remote_id": line.remote_id,
        "first": batch[0].number,
        "last": batch[-1].number,
        "count": len(batch),
        "byte_count": so_far[-1],
        "mark": mark,
        "so_far": so_far,
        "digests": [sealed.digest for sealed in batch],
        "sealed": [encode(sealed) for sealed in batch],
    }
    head: int | None = connection.execute(sql.APPEND_AT_ONCE, values).scalar()
    return head


def page(connection: sa.Connection, line: Line, cursor: Cursor | None, limit: Limit, known: int) -> Page:
    """The changesets after a cursor: a range of the primary key, and one statement.

    Args:
        connection: to the database.
        line: who asks.
        cursor, limit: as ``SyncAdapter.pull`` says.
        known: up to this number the device has its own changesets, so that they are left out. Later ones are of a copy of it,
            which it has to hear of.
    """
    place = place_of(cursor, line.remote_id)
    values = {"max_count": limit.max_count, "max_bytes": limit.max_bytes, "device": line.device, "known": known}
    rows = connection.execute(sql.PAGE, {**_at(line, place), **values}).all()
    check_place(rows[0] if rows else None, line, place)
    found = [row for row in rows if row.position is not None]
    if [row.position for row in found] != list(range(place.position + 1, place.position + 1 + len(found))):
        raise ProtocolError(f"The log in {line.where} is damaged: it lacks changesets after position {place.position}.")
    end = Place(found[-1].position, found[-1].mark) if found else place
    read = found[-1].log_total if found else rows[0].at_total
    return Page(
        changesets=tuple(decode(row.sealed) for row in found if row.sealed is not None),
        cursor=cursor_of(line, end),
        more=end.position < rows[0].head,
        remaining_bytes=max(0, rows[0].total - (rows[0].trimmed_total if read is None else read)),
    )


def look(connection: sa.Connection, line: Line, place: Place | None) -> Any:
    """The partition's row, after seeing that it is the line's, and goes on from a place if one is given."""
    row = connection.execute(sql.LOOK, _at(line, place or Place())).first()
    check_place(row, line, place)
    return row


def check_place(row: Any, line: Line, place: Place | None) -> None:
    """Whether the history is the line's, and goes on from a place if one is given, by what was read of it."""
    if row is None:
        raise emptied(line.where)
    if row.remote_id != line.remote_id or row.head is None:
        raise ResetRequired("remote replaced", hint=f"{line.where} holds another history now.")
    if place is None:
        return
    if place.position > row.head:
        raise ResetRequired("remote restored", hint="The device has read more than there is.")
    if place.position < row.trimmed:
        raise ResetRequired("history trimmed", hint="Take the latest snapshot.")
    known = row.trimmed_mark if place.position == row.trimmed else row.at_mark
    if known != place.mark:
        raise ResetRequired("remote restored", hint="What the device has read last is not what is there now.")


def emptied(where: str) -> Offline:
    """What is said to who knows a history that is not there."""
    return Offline(
        f"The database {where} has no history any more: it was emptied, or is being restored. Local data is safe.",
        hint="Restore it; if it was emptied for good, let a device that never used it connect first: the others begin anew.",
    )


def has_news(connection: sa.Connection, line: Line, cursor: Cursor | None) -> bool:
    """Whether another device's changesets come after the cursor."""
    look(connection, line, None)
    place = place_of(cursor, line.remote_id)
    return bool(connection.scalar(sql.OTHERS, {**_of(line), "position": place.position}))


def trim(connection: sa.Connection, line: Line, before: Place, keep_ms: int) -> bool:
    """Let go of some changesets up to a place that are old enough and in every whole snapshot; whether there may be more."""
    partition = locked(connection, line)
    in_snapshots = connection.scalar(
        sa.select(sa.func.min(SNAPSHOT.c.position)).where(
            SNAPSHOT.c.partition == line.partition, SNAPSHOT.c.serial.is_not(None)
        )
    )
    end = min(before.position, in_snapshots or 0, partition.trimmed + _TRIM_COUNT)
    old = CHANGESET.c.stored_ms <= sql.NOW - keep_ms
    rows = connection.execute(
        sa.select(CHANGESET.c.position, CHANGESET.c.mark, CHANGESET.c.total, old.label("is_old"))
        .where(CHANGESET.c.partition == line.partition, CHANGESET.c.position > partition.trimmed, CHANGESET.c.position <= end)
        .order_by(CHANGESET.c.position)
    ).all()
    count = next((index for index, row in enumerate(rows) if not row.is_old), len(rows))
    if not count:
        return False
    last = rows[count - 1]
    values = {"trimmed": last.position, "trimmed_mark": last.mark, "trimmed_total": last.total}
    connection.execute(sa.update(PARTITION).where(PARTITION.c.id == line.partition).values(values))
    gone = sa.and_(CHANGESET.c.partition == line.partition, CHANGESET.c.position <= last.position)
    connection.execute(sa.delete(CHANGESET).where(gone))
    return count == len(rows) == _TRIM_COUNT


def locked(connection: sa.Connection, line: Line) -> Any:
    """The partition's row, which is ours until the transaction ends. SQLite has locked everything already."""
    row = connection.execute(sql.LOCK, {"partition": line.partition}).first()
    if row is None or row.remote_id != line.remote_id:
        look(connection, line, None)  # says which of the two it is
    return row


def _of(line: Line) -> dict[str, Any]:
    return {"partition": line.partition, "device": line.device}


def _at(line: Line, place: Place) -> dict[str, Any]:
    return {"partition": line.partition, "position": place.position}


def _check_same(connection: sa.Connection, line: Line, batch: Sequence[SealedChangeset]) -> None:
    """See that what is stored already is what comes again. What was let go of cannot be compared."""
    numbers = {"first": batch[0].number, "last": batch[-1].number}
    stored = {row.number: row.digest for row in connection.execute(sql.STORED, {**_of(line), **numbers})}
    for sealed in batch:
        if stored.get(sealed.number, sealed.digest) != sealed.digest:
            raise ResetRequired("device forked", hint=f"Number {sealed.number} is stored with other content.")


def _insert_all(
    connection: sa.Connection, line: Line, partition: Any, taken: Sequence[SealedChangeset], now_ms: int, mark: bytes
) -> None:
    total, rows = partition.total, []
    for position, sealed in enumerate(taken, partition.head + 1):
        total += sealed.byte_count
        rows.append(
            {
                "partition": line.partition,
                "position": position,
                "total": total,
                "mark": mark,
                "device": line.device,
                "number": sealed.number,
                "digest": sealed.digest,
                "stored_ms": now_ms,
                "sealed": encode(sealed),
            }
        )
    connection.execute(sql.INSERT_CHANGESETS, rows)
    head = {"partition": line.partition, "new_head": partition.head + len(rows), "new_total": total}
    connection.execute(sql.SET_HEAD, head)
    connection.execute(sql.SET_DEVICE[connection.dialect.name], {**_of(line), "number": taken[-1].number})
