"""What has to hold: while a run goes on, in every state that an application sees; and when the faults have stopped.

It looks at devices through what the library offers to applications, and at the files for what must not be in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlmodel import Session

from localstore.changes import Key
from localstore.errors import ProtocolError, SyncError
from localstore.sync.state import CONNECTIONS, ConnectionState, ConnectionStateChange
from localstore.wire import SealedChangeset
from tests.merging.oracle import Entry, Lost
from tests.merging.schemas import Table
from tests.simulation.between import opened
from tests.simulation.disk import Disk
from tests.simulation.oracle import History, Rows
from tests.simulation.process import DATABASE, Device, Process
from tests.simulation.standing import Standing
from tests.simulation.workloads.work import Change, Work

__all__ = ["Checks", "Written", "Wrong"]

_LAST_NUMBER = "SELECT max(last_number, coalesce((SELECT max(number) FROM localstore_outbox), 0)) FROM localstore_state"
_STEPS = {(old, new) for (old, _), new in CONNECTIONS.items() if old is not new}


class Wrong(AssertionError):  # noqa: N818
    """Something that must hold does not."""


@dataclass(frozen=True)
class Written:
    """A write that was committed.

    Attributes:
        device, writer: who wrote.
        device_id, number: its changeset; if it changed nothing, the one before it, or 0.
        changes: what it did.
    """

    device: str
    writer: str
    device_id: str
    number: int
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return f"wrote {self.number}: " + ", ".join(f"{change.action} {change.table} {change.key}" for change in self.changes)


@dataclass
class Checks:
    """Looks at devices, and remembers what they wrote.

    Attributes:
        works: the workloads.
        standing: of files.
        fail: is told what is wrong.
        written: what was committed and, as far as can be known, not taken back by a disk.
        parted: how often the remote lost what it had.
        resets: whether a client reset may be needed for whatever happened.
        twice: identities under which there is, or was, more than one file. Until that is noticed each takes the changesets of
            the other for its own, and what builds upon them for what may be shown.
    """

    works: Sequence[Work]
    standing: Standing
    fail: Callable[[Wrong], object]
    written: list[Written] = field(default_factory=list)
    parted: int = 0
    resets: bool = False
    twice: set[str] = field(default_factory=set)
    _versions: dict[Process, int] = field(default_factory=dict)
    _connections: dict[Process, ConnectionState] = field(default_factory=dict)
    _ids: dict[Process, str] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        return [table for work in self.works for table in work.tables]

    # -- what happened

    def part(self) -> None:
        """The remote has lost what it had."""
        self.parted += 1
        self.resets = True

    def trimmed(self) -> None:
        """The remote keeps what it has, and does not go on with devices from where they are."""
        self.resets = True

    def part_device(self, device: Device, becomes: str) -> None:
        """A device loses what is on its disk, and has the identity of another file then."""
        self.resets = True
        self.twice.add(becomes)
        process = device.process
        if process is not None:
            of = process.run(lambda: process.device_id)
            self.written = [one for one in self.written if one.device_id != of]

    # -- while it goes on

    def opened(self, process: Process) -> None:
        """A process begins."""
        if process.device.has_lost_commits:
            process.device.has_lost_commits = False
            self._forget_lost(process)
        self._versions.pop(process, None)
        self._ids[process] = process.device_id
        self._connections[process] = process.session.connection_state
        process.session.on_connection_state_change(lambda change: self._connected(process, change))
        self.look(process, "open")

    def _forget_lost(self, process: Process) -> None:
        """What a disk did not keep was not written; what of it was written as another device, before a reset, nobody knows."""
        of, last, name = process.device_id, last_number(process), process.name
        self.written = [one for one in self.written if one.device != name or (one.device_id == of and one.number <= last)]

    def look(self, process: Process, name: str) -> None:
        """See whether what is visible after a call of the store may be so, if it is anything new."""
        self.standing.worked(process, name)
        realm = process.realm
        if process.is_dead or realm.is_closed:
            return
        version = realm.version
        if self._versions.get(process) == version:
            return
        self._versions[process] = version
        with realm.read() as session:
            found = self._wrongs(process, session)
            if process.device_id not in self.twice:
                found += self.standing.unlike_what_was_done(process, session, name)
        if not self.resets and process.device_id != self._ids[process]:
            found.append(f"was reset, and nothing had happened that needs it: {process.session.last_reset}")
        if found:
            self.fail(Wrong(f"{process.name}: {'; '.join(found)}"))

    def look_at(self, process: Process, disk: Disk) -> None:
        """See whether what was visible between two transactions of a call may be so."""
        if process.is_dead or process.realm.is_closed:
            return
        with opened(disk, DATABASE, process.device.folder.with_suffix(".between")) as session:
            found = self._wrongs(process, session)
        if found:
            self.fail(Wrong(f"{process.name}, between two transactions: {'; '.join(found)}"))

    def _wrongs(self, process: Process, session: Session) -> list[str]:
        """What must not be in any state of a file. What a twin sent counts as a file's own, which need not be given to it."""
        is_twice = session.execute(sa.text("SELECT lower(hex(device)) FROM localstore_state")).scalar_one() in self.twice
        works = [work for work in self.works if not (work.needs_all and (self.parted or is_twice))]
        found = [wrong for work in works for wrong in work.wrongs(session)]
        return found if is_twice else [*found, *self.standing.wrongs(process, session)]

    def heard(self, process: Process, error: SyncError) -> None:
        """The error handler was called."""
        if isinstance(error, ProtocolError):
            self.fail(Wrong(f"{process.name} was told of a bug: {error!r} because of {error.__cause__!r}"))

    def died(self, process: Process) -> None:
        self.standing.died(process)
        self._versions.pop(process, None)
        self._connections.pop(process, None)
        self._ids.pop(process, None)

    def waits(self, process: Process) -> bool:
        """Whether something came before its time."""
        return waiting(process) > 0

    def _connected(self, process: Process, change: ConnectionStateChange) -> None:
        before = self._connections[process]
        self._connections[process] = change.new_state
        if change.old_state is not before or (change.old_state, change.new_state) not in _STEPS:
            self.fail(Wrong(f"{process.name}: the connection went from {before} to {change}"))

    # -- at the end

    def all_is_well(self, devices: Sequence[Device], changesets: Iterable[SealedChangeset]) -> None:
        """Everybody shows the same, and what the rules make of everything that was ever written."""
        changesets = list(changesets)
        history = History(self.tables, changesets)
        for device in devices:
            tables = known_tables(device, self.tables)
            found, wanted = rows(device, tables), history.rows(tables)
            if found != wanted:
                raise Wrong(f"{device.name} does not show what the oracle does: {_differences(found, wanted)}")
        for device in devices:
            assert device.process is not None
            problems = [*wrongs_in_file(device.process), *wrong_conflicts(device.process, history, exactly=not self.resets)]
            if problems:
                raise Wrong(f"{device.name}: {'; '.join(problems)}")
        self._nothing_is_lost(changesets, history)

    def _nothing_is_lost(self, changesets: Iterable[SealedChangeset], history: History) -> None:
        """Every write has arrived, as the changeset that it was or, after a client reset, as another one."""
        if self.parted:
            return
        there = {(sealed.device.hex(), sealed.number) for sealed in changesets}
        for one in self.written:
            if one.number and (one.device_id, one.number) not in there and not self.resets:
                raise Wrong(f"never arrived: {one.writer} {one}")
            for action, table, key in one.changes:
                if action == "insert" and not history.was_deleted(table, key) and not history.is_left(table, key):
                    raise Wrong(f"is lost: {key} of {table}, which {one.writer} wrote as {one.number} of {one.device_id[:6]}")


def last_number(process: Process) -> int:
    """The number of the last changeset that a device has made."""
    with process.realm.read() as session:
        return int(session.execute(sa.text(_LAST_NUMBER)).scalar_one())


def waiting(process: Process) -> int:
    """How many changesets came before what they depend on, or before their time."""
    with process.realm.read() as session:
        return int(session.execute(sa.text("SELECT count(*) FROM localstore_waiting")).scalar_one())


def applied(process: Process) -> dict[str, int]:
    """The last number that a device has applied of each device, itself among them."""
    with process.realm.read() as session:
        found = session.execute(sa.text("SELECT lower(hex(device)), number FROM localstore_device ORDER BY 1"))
        had = {str(device): int(number) for device, number in found}
    return {**had, process.device_id: last_number(process)}


def known_tables(device: Device, tables: Sequence[Table]) -> list[Table]:
    """The tables with the columns that are in a device's file: it may be older than others, and not know them all."""
    assert device.process is not None
    found = []
    with device.process.realm.read() as session:
        for table in tables:
            there = set(session.execute(sa.text(f"SELECT name FROM pragma_table_info('{table.name}')")).scalars())
            if there:
                columns = tuple(column for column in table.columns if column.name in there)
                found.append(dataclasses.replace(table, columns=columns))
    return found


def rows(device: Device, tables: Sequence[Table]) -> Rows:
    """What a device shows."""
    assert device.process is not None
    with device.process.realm.read() as session:
        return {table.name: _rows(session, table) for table in tables}


def _rows(session: Session, table: Table) -> dict[Key, tuple[object, ...]]:
    width = len(table.key)
    columns = ", ".join([*table.key, *table.column_names])
    found = session.execute(sa.text(f"SELECT {columns} FROM {table.name}"))
    return {tuple(row[:width]): tuple(row[width:]) for row in found}


def wrongs_in_file(process: Process) -> list[str]:
    """What must not be in a file when all has come to rest."""
    with process.realm.read() as session:
        found = [f"foreign key: {tuple(row)}" for row in session.execute(sa.text("PRAGMA foreign_key_check"))]
        found += [f"integrity: {row[0]}" for row in session.execute(sa.text("PRAGMA integrity_check")) if row[0] != "ok"]
        for table in ("outbox", "waiting"):
            count = session.execute(sa.text(f"SELECT count(*) FROM localstore_{table}")).scalar_one()
            found += [f"{count} changesets are left in localstore_{table}"] if count else []
    return found


def wrong_conflicts(process: Process, history: History, *, exactly: bool) -> list[str]:
    """What a device's lists of values that lost and of what is set aside lack, or have and should not.

    Args:
        process: of the device.
        history: everything.
        exactly: also for values that lost, some of which a client reset knows nothing of.
    """
    found = process.realm.conflicts()
    aside = {Entry(c.table, c.key, c.column, c.lost_value, c.won_value) for c in found if c.id < 0}
    said = _lacks_and_has("set aside", aside, history.set_aside(), history.set_aside())
    if exactly:
        lost = {Lost(c.table, c.key, c.column, c.lost_value, c.lost_stamp) for c in found if c.id >= 0}
        said += _lacks_and_has("conflicts", lost, *history.lost_by(process.device_id))
    return said


def _lacks_and_has(what: str, listed: Set[object], must: Set[object], may: Set[object]) -> list[str]:
    lacks, has = sorted(must - listed, key=str)[:3], sorted(listed - may, key=str)[:3]
    return [*([f"{what}: lacks {lacks}"] if lacks else []), *([f"{what}: has {has}, which should not be"] if has else [])]


def _differences(found: Rows, wanted: Rows) -> str:
    said = []
    for table, there in found.items():
        for key in sorted({*there, *wanted[table]}, key=repr):
            if there.get(key) != wanted[table].get(key):
                said.append(f"{table} {key}: {there.get(key)!r:.200} instead of {wanted[table].get(key)!r:.200}")
    return "; ".join(said[:5]) + (f" and {len(said) - 5} more" if len(said) > 5 else "")
