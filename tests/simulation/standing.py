"""How a device's file stands to the remote's history, and to what the application wrote into it, at every step.

The cursor is never ahead of the data, and what a device wrote it reads, until something else came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from localstore import wire
from localstore.changes import Key
from localstore.clock import stamp_ms
from localstore.wire import SealedChangeset
from tests.merging.schemas import Table
from tests.simulation.process import Process
from tests.simulation.remote import Remote
from tests.simulation.workloads.work import Change

__all__ = ["Shown", "Standing"]

Shown = dict[tuple[str, Key], tuple[object, ...] | None]
"""By table and key, what a row holds; None for one that is not there."""

_CHANGES_NO_ROW = {"write", "acknowledge", "acknowledged", "batch", "fold", "last_pending", "meet", "purge", "seal", "state"}
_TASKS_MAX = 60  # of one process at a time, callers' waits among them


@dataclass
class _Known:
    """What is known of a process's file.

    Attributes:
        cursor: how far it was when it was looked at last.
        before: the remote's history up to there.
        last: of each device, the last number in it.
        own: what was written here, and nothing has come since.
    """

    cursor: bytes | None = None
    before: list[SealedChangeset] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    own: Shown = field(default_factory=dict)


class Standing:
    """Looks into files.

    Args:
        remote: whose history they are of.
        tables: all there are.
    """

    def __init__(self, remote: Remote, tables: Sequence[Table]) -> None:
        self._remote = remote
        self._tables = {table.name: table for table in tables}
        self._known: dict[Process, _Known] = {}

    def died(self, process: Process) -> None:
        self._known.pop(process, None)

    def shown(self, session: Session, changes: Iterable[Change]) -> Shown:
        """What a transaction has made of the rows that it changed."""
        session.flush()
        return {(change.table, change.key): self._row(session, change.table, change.key) for change in changes}

    def wrote(self, process: Process, shown: Shown) -> None:
        """It was committed. What was written before may have been changed by this, as what refers to a row goes with it."""
        self._of(process).own = shown

    def worked(self, process: Process, name: str) -> None:
        """A call of the store was made, after which other values may well be there."""
        if name not in _CHANGES_NO_ROW:
            self._of(process).own.clear()

    def wrongs(self, process: Process, session: Session) -> list[str]:
        """What must not be so in any state of a file."""
        return [*self._ahead(self._of(process), session), *_waits_too_long(session), *self._forgotten(session)]

    def unlike_what_was_done(self, process: Process, session: Session, name: str) -> list[str]:
        """What must not be so after a call, nor after an application's write."""
        found = self._unread(process, self._of(process), session)
        if name == "apply":
            found += _waits_without_need(process, session)
        if len(process.tasks) > _TASKS_MAX:
            found.append(f"has {len(process.tasks)} tasks at a time")
        return found

    def _of(self, process: Process) -> _Known:
        return self._known.setdefault(process, _Known())

    def _ahead(self, known: _Known, session: Session) -> list[str]:
        """What came before the cursor and is neither applied nor waits; a history that is gone cannot be asked."""
        cursor = session.execute(sa.text("SELECT cursor FROM localstore_state")).scalar_one()
        if cursor is None or cursor == known.cursor:
            return []
        remote_id, digits, mark = cursor.split(b":")[:3]
        log, end = self._remote.changesets(), int(digits)
        if remote_id.decode() != self._remote.remote_id or end > len(log):
            return []
        if end and log[end - 1].digest.hex()[:16] != mark.decode():
            return []
        start = len(known.before)
        if log[:start] != known.before or end < start:  # it is another history, or the file went back in it
            known.last.clear()
            start = 0
        for sealed in log[start:end]:
            known.last[sealed.device.hex()] = max(sealed.number, known.last.get(sealed.device.hex(), 0))
        known.cursor, known.before = cursor, log[:end]
        had = _numbers(session)
        missing = {
            device[:6]: (number, had.get(device, 0)) for device, number in known.last.items() if had.get(device, 0) < number
        }
        return (
            [f"its cursor is ahead of its data: {missing}, of each device the last before it and what is there"]
            if missing
            else []
        )

    def _forgotten(self, session: Session) -> list[str]:
        """Whether a stamp is later than any that the file knows of: what is stamped next must be later than all of them."""
        device, latest, applied = session.execute(sa.text(_STAMPS)).one()
        sent = max((sealed.stamp for sealed in self._remote.changesets() if sealed.device == device), default=0)
        if latest >= max(sent, applied):
            return []
        return [f"has forgotten a stamp: {latest} is its last, {sent} it has sent, {applied} it has applied"]

    def _unread(self, process: Process, known: _Known, session: Session) -> list[str]:
        """What was written here and is not read; a row that is set aside is listed, and so explained."""
        different = [name for name, wanted in known.own.items() if self._row(session, *name) != wanted]
        if not different:
            return []
        listed = {(conflict.table, conflict.key) for conflict in process.realm.conflicts() if conflict.id < 0}
        return [f"does not read what it wrote: {name}" for name in different if name not in listed]

    def _row(self, session: Session, name: str, key: Key) -> tuple[object, ...] | None:
        table = self._tables[name]
        where = " AND ".join(f"{column} = :k{place}" for place, column in enumerate(table.key))
        values: dict[str, Any] = {f"k{place}": value for place, value in enumerate(key)}
        row = session.execute(sa.text(f"SELECT * FROM {name} WHERE {where}"), values).one_or_none()  # of an older schema, too
        return None if row is None else tuple(row)


def _numbers(session: Session) -> dict[str, int]:
    """Up to which number of each device there is no gap, in what was applied and what waits together."""
    had = {str(device): int(number) for device, number in session.execute(sa.text(_APPLIED))}
    for device, number in session.execute(sa.text(_WAITING)):
        if number == had.get(device, 0) + 1:
            had[device] = number
    return had


def _waits_too_long(session: Session) -> list[str]:
    """What waits for its turn and had it."""
    return [f"{number} of {device[:6]} waits, and was applied" for device, number in session.execute(sa.text(_PAST))]


def _waits_without_need(process: Process, session: Session) -> list[str]:
    """What waits and would be the next of its device, with all that it depends on applied and its time come."""
    following = list(session.execute(sa.text(_WAITING_SEALED)))
    if not following:
        return []
    had = {str(device): int(number) for device, number in session.execute(sa.text(_APPLIED))}
    latest_ms = process.device.clock.now_ms() + int(process.device.settings["max_clock_drift"] * 1000)
    found = []
    for device, number, sealed in following:
        changeset = wire.unseal(wire.decode(sealed))
        is_known = all(had.get(depends.device.hex(), 0) >= depends.number for depends in changeset.depends)
        if number == had.get(device, 0) + 1 and is_known and stamp_ms(changeset.stamp) <= latest_ms:
            found.append(f"{number} of {device[:6]} waits, and there is nothing that it waits for")
    return found


_STAMPS = """
    SELECT device, max(last_stamp, coalesce((SELECT max(stamp) FROM localstore_outbox), 0)),
        coalesce((SELECT max(stamp) FROM localstore_device), 0) FROM localstore_state"""
_APPLIED = """
    SELECT lower(hex(device)), max(number) FROM (
        SELECT device, number FROM localstore_device
        UNION ALL SELECT device, max(last_number, coalesce((SELECT max(number) FROM localstore_outbox), 0))
            FROM localstore_state
    ) GROUP BY device"""
_PAST = """
    SELECT lower(hex(w.device)), w.number FROM localstore_waiting AS w
    JOIN localstore_device AS d ON d.device = w.device AND d.number >= w.number"""
_WAITING_SEALED = "SELECT lower(hex(device)), number, sealed FROM localstore_waiting"
_WAITING = "SELECT lower(hex(device)), number FROM localstore_waiting ORDER BY device, number"
