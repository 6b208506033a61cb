"""A synced file's identity as a device: how a copy goes without one, and how it gets its own.

No two files may be the same device. A copy may be copied further, as one that is bundled with an application, so it is nobody
until it is opened: then it becomes a new device, which knows all that the one it was copied from knew of the remote. What that
one had not sent yet becomes the new device's own first changesets, with the stamps that they had: who gets them from both
devices sees that they say the same.

The caller owns the transaction. Nothing here knows how a copy is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from localstore import wire
from localstore.changes import Changeset, Dependency, Op, RowGroup
from localstore.environment import DEVICE_BYTES
from localstore.store.capture import captured_tables
from localstore.store.clocks import ClockTable, key_value
from localstore.store.renames import read_renames
from localstore.store.state import device_number, load_state
from localstore.store.stored import read_changeset

__all__ = ["NOBODY", "ensure_identity", "forget_identity", "read_again"]

NOBODY = b""
"""The identity of a copy that was not opened yet."""
_SHARED_BYTES = DEVICE_BYTES // 2


def forget_identity(connection: sqlite3.Connection, user: str) -> None:
    """Make a copy of a synced file nobody's: the device that it was is one of the others from here on.

    Args:
        connection: to a file that nobody else knows yet.
        user: whose the file is to be.
    """
    state = load_state(connection)
    if state.device == NOBODY:  # a copy of a copy that was never opened
        connection.execute("UPDATE localstore_state SET user = ?", (user,))
        return
    _take_for_sent(connection, state.device)
    first = _first_unsent(connection)
    number, stamp = (state.last_number, state.last_stamp) if first is None else (first[0] - 1, first[1] - 1)
    connection.execute(
        "UPDATE localstore_device SET number = ?, stamp = ? WHERE id = ?",
        (number, stamp, device_number(connection, state.device)),
    )
    connection.execute(  # as far as it is known, see snapshot_writing
        "INSERT OR REPLACE INTO localstore_seen SELECT own.id, other.id, other.stamp"
        " FROM localstore_device AS own JOIN localstore_device AS other ON other.id <> own.id"
        " WHERE own.device = ? AND other.number > 0 AND other.declared = other.number",
        (state.device,),
    )
    if first is None:  # its first changeset will tell what it knew by then
        connection.execute("UPDATE localstore_device SET declared = 0")
        connection.execute("UPDATE localstore_state SET folded = 0, unsent_cursor = NULL")
    connection.execute("UPDATE localstore_table SET seeded = 0 WHERE seeded <= ?", (stamp,))
    connection.execute(
        "UPDATE localstore_state SET device = ?, user = ?, last_number = 0, last_stamp = ?,"
        " reads_again = unsent_cursor IS NOT NULL",
        (NOBODY, user, state.last_stamp),
    )
    connection.execute("DELETE FROM localstore_reset")


def ensure_identity(connection: sqlite3.Connection, new_device: Callable[[], bytes]) -> None:
    """Give a file an identity that has none yet."""
    (device,) = connection.execute("SELECT device FROM localstore_state").fetchone()
    if device != NOBODY:
        return
    device = new_device()
    first = _first_unsent(connection)
    if first is not None:
        device = _take_over(connection, device, first[0] - 1, first[1])
    connection.execute("UPDATE localstore_state SET device = ?", (device,))


def read_again(connection: sqlite3.Connection) -> None:
    """Let a copy with unsent changes go back to where none of them had come from the remote, which may have had them since, as
    the other device's: what follows there from that one can be applied only after them. What is known already is passed over.

    Not before the remote has seen how much of its history the copy knows: it may have lost some of that.
    """
    connection.execute(
        "UPDATE localstore_state SET cursor = nullif(unsent_cursor, x''), unsent_cursor = NULL, reads_again = 0"
        " WHERE reads_again"
    )


def _take_over(connection: sqlite3.Connection, device: bytes, before: int, first_stamp: int) -> bytes:
    """Make the unsent changesets, which come after number ``before``, this device's own.

    Returns:
        The device's identity: the first half is the other's. Where stamps are equal, as those of all seeds are, devices decide
        who wins, and what it has merged was decided by the other's.
    """
    (folded,) = connection.execute("SELECT folded FROM localstore_state").fetchone()
    device = _unsent(connection, before + 1).device[:_SHARED_BYTES] + device[_SHARED_BYTES:]
    clocks = ClockTable(connection)
    known = _known_at_first(connection)
    for number in _numbers(connection):
        changeset = _unsent(connection, number)
        if number == before + 1:
            if folded > before:
                clocks.hand_over(changeset.device, device, first_stamp)
            known += _last_sent(connection, changeset.device, before)
        if number <= folded:
            _hand_over_seeds(connection, clocks, changeset, device)
        depends = known + changeset.depends if number == before + 1 else changeset.depends
        data = wire.encode(wire.seal(Changeset(device, number - before, changeset.stamp, depends, changeset.groups)))
        connection.execute(
            "UPDATE localstore_outbox SET number = ?, bytes = ?, sealed = ? WHERE number = ?",
            (number - before, len(data), data, number),
        )
    connection.execute("UPDATE localstore_state SET folded = ?", (max(0, folded - before),))
    return device


def _take_for_sent(connection: sqlite3.Connection, device: bytes) -> None:
    """Leave to the other device what others have seen of it: that is at the remote, though its acknowledgement is not here.

    They changed that device's rows, and the clocks that were merged say so; of the same rows of a new one they knew nothing.
    """
    connection.execute(
        "DELETE FROM localstore_outbox WHERE stamp <= (SELECT max(stamp) FROM localstore_seen WHERE other = ?)"
        " AND number <= (SELECT folded FROM localstore_state)",  # it is: nothing is applied before all is
        (device_number(connection, device),),
    )


def _first_unsent(connection: sqlite3.Connection) -> tuple[int, int] | None:
    """Number and stamp of the oldest changeset in the outbox."""
    found: tuple[int, int] | None = connection.execute(
        "SELECT number, stamp FROM localstore_outbox ORDER BY number LIMIT 1"
    ).fetchone()
    return found


def _numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM localstore_outbox ORDER BY number").fetchall()]


def _unsent(connection: sqlite3.Connection, number: int) -> Changeset:
    (data,) = connection.execute("SELECT sealed FROM localstore_outbox WHERE number = ?", (number,)).fetchone()
    return read_changeset(data)


def _known_at_first(connection: sqlite3.Connection) -> tuple[Dependency, ...]:
    """What the other device had declared before its unsent changesets and did not again in them, so that this one has to.

    Of what it declared in them, it is not known any more what it had declared before; they do it in time.
    """
    later = {other.device for number in _numbers(connection) for other in _unsent(connection, number).depends}
    found = connection.execute(
        "SELECT device, number, stamp FROM localstore_device WHERE number > 0 AND declared = number ORDER BY id"
    )
    return tuple(Dependency(*row) for row in found if row[0] not in later)


def _last_sent(connection: sqlite3.Connection, device: bytes, before: int) -> tuple[Dependency, ...]:
    """The other device's last changeset at the remote, on which its next one depends without saying so."""
    if not before:
        return ()
    connection.execute("UPDATE localstore_device SET declared = number WHERE device = ?", (device,))
    found = connection.execute("SELECT device, number, stamp FROM localstore_device WHERE device = ?", (device,))
    return tuple(Dependency(*row) for row in found)


def _hand_over_seeds(connection: sqlite3.Connection, clocks: ClockTable, changeset: Changeset, device: bytes) -> None:
    """Rows from before sync have all the same stamp, so that only their changeset says which of them were not sent."""
    tables = captured_tables(connection)
    renames = read_renames(connection)
    for group in _seeds(changeset):
        name = renames.table(group.table, tables)
        if name is not None:
            keys = [key_value(key) for key in zip(*group.values[: len(group.key)], strict=True)]
            clocks.hand_over_seeds(tables[name].id, keys, changeset.device, device)


def _seeds(changeset: Changeset) -> Iterator[RowGroup]:
    return (group for group in changeset.groups if group.op is Op.SEED)
