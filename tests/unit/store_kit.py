"""What the tests of the store share: stores on a clock that stands still, and a view of their files from outside.

Files are read through plain ``sqlite3`` connections of our own, so that no test depends on the store to see what it did.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from localstore import wire
from localstore.changes import Changeset, Key, Op, Value, row_changes
from localstore.store import outbox
from localstore.store.apply import Applied
from localstore.store.capture import LOGS, captured_tables
from localstore.store.clocks import ClockTable
from localstore.store.engine import quote
from localstore.store.file import Store
from localstore.store.merge import RowState
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced
from localstore.testing.clock import ManualClock, environment
from localstore.wire import SealedChangeset

APP = "notes"
UNLIMITED = 1 << 40

METADATA = sa.MetaData()
NOTE = sa.Table(
    "note",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("title", sa.String),
    sa.Column("stars", sa.Integer),
)
LINK = sa.Table(
    "link",
    METADATA,
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("target", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("label", sa.String),
)

Row = dict[str, Value]
Table = dict[Key, Row]
Statement = str | tuple[Any, ...]
"""SQL, or SQL followed by its parameters."""


def open_store(
    path: Path,
    tables: Sequence[sa.Table] = (NOTE,),
    *,
    clock: ManualClock | None = None,
    seed: int = 0,
    app: str = APP,
    partition: str = "default",
    **options: Any,
) -> Store:
    """A synced store; the seed decides which device identity a new file gets."""
    world = environment(clock or ManualClock(), seed)
    return open_synced(path, tables, app=app, partition=partition, options=StoreOptions(**options), environment=world)


def write(store: Store, *statements: Statement) -> None:
    """Run statements in one write transaction."""
    with store.write() as tx:
        for statement in statements:
            sql, *parameters = (statement,) if isinstance(statement, str) else statement
            tx.connection().exec_driver_sql(sql, tuple(parameters))


@contextmanager
def other_program(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as any other program opens it: SQLite's defaults, every statement a transaction unless it says BEGIN."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def query(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with other_program(path) as connection:
        return connection.execute(sql, parameters).fetchall()


def rows_of(path: Path, table: str = NOTE.name) -> Table:
    """A table's stored columns by key."""
    with other_program(path) as connection:
        described = connection.execute(f"PRAGMA table_xinfo({quote(table)})").fetchall()
        key = [name for _, name in sorted((row[5], row[1]) for row in described if row[5])]
        columns = [row[1] for row in described if not row[5] and not row[6]]
        selected = ", ".join(map(quote, key + columns))
        found = connection.execute(f"SELECT {selected} FROM {quote(table)}").fetchall()
    return {row[: len(key)]: dict(zip(columns, row[len(key) :], strict=True)) for row in found}


def exactly(value: Any) -> Any:
    """A value that is equal only to itself, where Python calls 1 and 1.0 equal; goes into containers."""
    if isinstance(value, Mapping):
        return {exactly(key): exactly(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(exactly, value))
    return str(value) if isinstance(value, str) else (type(value).__name__, repr(value))


def sealed_in(path: Path) -> list[SealedChangeset]:
    """What lies in the outbox, oldest first."""
    with other_program(path) as connection:
        return outbox.batch(connection, max_bytes=UNLIMITED, max_count=UNLIMITED)


def changesets_in(path: Path) -> list[Changeset]:
    """What lies in the outbox, opened."""
    return [wire.unseal(sealed) for sealed in sealed_in(path)]


def is_clean(path: Path) -> bool:
    """Whether the capture log is empty and capturing is on, as it has to be between transactions."""
    logged = " + ".join(f"(SELECT count(*) FROM {log})" for log in LOGS)
    counted = f"SELECT {logged}, (SELECT capturing FROM localstore_state)"
    return query(path, counted) == [(0, 1)]


Changes = dict[tuple[str, Key], tuple[Op, Row]]
Clocks = dict[tuple[str, Value], Any]
"""By table, and by key as clocks name it."""


def changes_of(changesets: Iterable[Changeset]) -> Changes:
    """Row by row what changesets say; each row may be in them once."""
    found: Changes = {}
    for changeset in changesets:
        for group in changeset.groups:
            for change in row_changes(group):
                assert (group.table, change.key) not in found, f"{change} comes twice"
                found[group.table, change.key] = (change.op, change.values)
    return found


def difference(table: str, before: Table, after: Table) -> Changes:
    """What makes one state of a table out of another."""
    found: Changes = {}
    for key in before.keys() | after.keys():
        if key not in after:
            found[table, key] = (Op.DELETE, {})
        elif key not in before:
            found[table, key] = (Op.INSERT, after[key])
        else:
            differing = {name: value for name, value in after[key].items() if exactly(value) != exactly(before[key][name])}
            if differing:
                found[table, key] = (Op.UPDATE, differing)
    return found


def replayed(table: str, before: Table, changesets: Iterable[Changeset]) -> Table:
    """A table after changesets were carried out one by one, by the book."""
    state = {key: dict(row) for key, row in before.items()}
    for changeset in changesets:
        for group in changeset.groups:
            for change in row_changes(group) if group.table == table else ():
                if change.op is Op.INSERT:
                    assert change.key not in state, f"{change} is there already"
                else:
                    assert change.key in state, f"{change} is of no row"
                if change.op is Op.DELETE:
                    del state[change.key]
                elif change.op is Op.UPDATE:
                    state[change.key].update(change.values)
                else:
                    state[change.key] = dict(change.values)
    return state


def clocks_of(path: Path) -> Clocks:
    """The clock of every row that has one, in a form that is equal on equal replicas."""
    with other_program(path) as connection:
        connection.execute("PRAGMA query_only = ON")
        clocks = ClockTable(connection)
        found: Clocks = {}
        for table in captured_tables(connection).values():
            keys = connection.execute("SELECT key FROM localstore_clock WHERE tbl = ?", (table.id,)).fetchall()
            for key, state in clocks.load(table.id, [key for (key,) in keys]):
                found[table.name, key] = clock_of(state, table.columns)
    return found


def clock_of(state: RowState, columns: Iterable[str]) -> Any:
    """A row's clock without the shortcuts of how it is kept."""
    if not state.lives:
        return state.died
    marks = {column: state.mark(column) for column in columns}
    rivals = {column: {(rival.mark, exactly(rival.value)) for rival in kept} for column, kept in state.runners_up.items()}
    return state.lives, state.died, marks, rivals


_devices: list[Device] = []


def close_devices() -> None:
    """Close what a test left open, so that no file is left to the garbage collector."""
    while _devices:
        _devices.pop().close()


class Device:
    """A store with a name, and the simplest of remotes: whoever calls ``receive`` is the network."""

    def __init__(
        self, folder: Path, name: str, tables: Sequence[sa.Table] = (NOTE,), *, clock: ManualClock | None = None, **options: Any
    ) -> None:
        self.name = name
        self.path = folder / f"{name}.db"
        self.clock = clock or ManualClock()
        self.store: Store
        self._tables = tables
        self._options = options
        self._open()
        _devices.append(self)

    def _open(self) -> None:
        seed = int.from_bytes(self.name.encode(), "big")
        self.store = open_store(self.path, self._tables, clock=self.clock, seed=seed, **self._options)

    @property
    def id(self) -> bytes:
        return self.store.state().device

    def write(self, *statements: Statement) -> SealedChangeset:
        """One write transaction, and the changeset it became."""
        write(self.store, *statements)
        return sealed_in(self.path)[-1]

    def receive(self, *page: SealedChangeset) -> Applied:
        """Apply a page and move the cursor."""
        cursor = self.store.state().cursor
        following = int(cursor or b"0") + 1
        applied = self.store.apply(page, after=cursor, cursor=b"%d" % following)
        assert applied is not None
        return applied

    def sealed(self) -> list[SealedChangeset]:
        """All its changesets that nobody acknowledged."""
        return sealed_in(self.path)

    def rows(self, table: str = NOTE.name) -> Table:
        return rows_of(self.path, table)

    def row(self, *key: Value, table: str = NOTE.name) -> Row | None:
        return self.rows(table).get(key)

    def clocks(self) -> Clocks:
        return clocks_of(self.path)

    def reopen(self, tables: Sequence[sa.Table] | None = None) -> None:
        """Close the file and open it again, perhaps with another schema."""
        self.store.close()
        self._tables = tables or self._tables
        self._open()

    def close(self) -> None:
        self.store.close()


@contextmanager
def devices(
    folder: Path, names: str, tables: Sequence[sa.Table] = (NOTE,), *, clock: ManualClock | None = None
) -> Iterator[list[Device]]:
    """A device for each letter, closed in the end."""
    opened = [Device(folder, name, tables, clock=clock) for name in names]
    try:
        yield opened
    finally:
        for device in opened:
            device.close()


def exchange(*group: Device) -> None:
    """Every device receives all that the others have."""
    everything = [sealed for device in group for sealed in device.sealed()]
    for device in group:
        device.receive(*everything)


def check_equal(*group: Device, tables: tuple[str, ...] = ("note",)) -> None:
    """All devices hold the same, rows and clocks, and captured nothing of what they merged."""
    first = group[0]
    for device in group[1:]:
        for table in tables:
            assert device.rows(table) == first.rows(table)
    for device in group:
        device.store.acknowledge(device.store.state().last_number)  # brings its own changes into the clocks
        assert is_clean(device.path)
    for device in group[1:]:
        assert device.clocks() == first.clocks()
