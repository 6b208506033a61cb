"""Devices without files, threads and sessions: the store's own functions on SQLite databases in memory, hundreds a second.

What ``store.file`` does in one transaction is one transaction here, with the same calls in the same order. That it is so is
checked on whole stores by ``tests/unit/test_repair.py`` and the tests beside it, which are slower and run fewer histories.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache

import sqlalchemy as sa

from localstore import wire
from localstore.changes import Key, row_changes
from localstore.store import apply as applying
from localstore.store import layout, outbox, purge
from localstore.store.capture import LOGS, Capturing, attach, set_capturing
from localstore.store.conflicts import Conflict, conflicts
from localstore.store.engine import driver_connection, quote
from localstore.store.renames import RENAMED
from localstore.store.seal import SealLimits, seal_leftovers, seal_log
from localstore.store.set_aside import set_aside
from localstore.store.state import load_state
from localstore.wire import SealedChangeset
from tests.merging.oracle import Known, RowName, Told
from tests.merging.schemas import Row, Table, ddl

__all__ = ["Device", "Network", "prepared"]

LIMITS = SealLimits()
DRIFT_MS = 1 << 40  # nothing waits for a clock


@lru_cache(maxsize=1)
def _blank() -> bytes:
    """A database with the system tables and nothing else, which take longest to make."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        layout.upgrade(connection)
    with engine.connect() as connection:
        found = driver_connection(connection).serialize()
    engine.dispose()
    return found


def prepared(tables: Sequence[Table]) -> bytes:
    """A database with system tables, tables and triggers, of no device yet."""
    connection = _opened(_blank())
    connection.execute("INSERT INTO localstore_state (id, device, app, partition) VALUES (1, x'', 'proof', 'default')")
    for statement in ddl(tables):
        connection.execute(statement)
    attach(connection, [RENAMED, *(table.name for table in tables)])
    connection.execute("UPDATE localstore_state SET replay = 1")  # as opening does when tables are new
    found = connection.serialize()
    connection.close()
    return found


def _opened(data: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1000)
    connection.deserialize(data)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA recursive_triggers=ON")
    return connection


class Device:
    """One replica, as ``store.file`` drives it."""

    def __init__(self, data: bytes, id_: bytes, tables: Sequence[Table]) -> None:
        self.id = id_
        self._tables = tables
        self.connection = _opened(data)
        self.connection.execute("UPDATE localstore_state SET device = ?", (id_,))

    def write(self, statements: Iterable[str], now_ms: int, *, deferred: bool) -> None:
        """One ``write()``: what SQLite refuses is left out, and all of it when it refuses the commit."""
        unsettled = False
        with suppress(sqlite3.IntegrityError), self._transaction():
            self._seal_leftovers(now_ms)
            if deferred:
                self.connection.execute("PRAGMA defer_foreign_keys=ON")
            for statement in statements:
                if statement.startswith(("UPDATE", "DELETE")):
                    set_capturing(self.connection, Capturing.BY_ROWID)
                self._try(statement)
            set_capturing(self.connection, Capturing.BY_KEY)
            if deferred and self.connection.execute("PRAGMA foreign_key_check").fetchone():
                # SQLite 3.40 counts wrong when a row that refers to itself is given the key it has, and would commit this
                raise sqlite3.IntegrityError("FOREIGN KEY constraint failed")
            unsettled = seal_log(self.connection, now_ms=now_ms, limits=LIMITS)
        if unsettled:
            self.catch_up(now_ms)

    def write_as_another_program(self, statements: Iterable[str]) -> None:
        """Every statement a transaction, and no foreign keys."""
        self.connection.execute("PRAGMA foreign_keys=OFF")
        self.connection.execute("PRAGMA recursive_triggers=OFF")
        for statement in statements:
            with suppress(sqlite3.IntegrityError):
                self.connection.execute(statement)
        self.connection.execute("PRAGMA recursive_triggers=ON")
        self.connection.execute("PRAGMA foreign_keys=ON")

    def catch_up(self, now_ms: int) -> None:
        with self._transaction(unconstrained=True):
            self._seal_leftovers(now_ms)
            applying.catch_up(self.connection, now_ms, rules={})

    def apply(self, page: Sequence[SealedChangeset], now_ms: int) -> applying.Applied:
        try:
            return self._apply(page, now_ms, cautious=False)
        except applying.cannot_apply():
            return self._apply(page, now_ms, cautious=True)

    def _apply(self, page: Sequence[SealedChangeset], now_ms: int, *, cautious: bool) -> applying.Applied:
        with self._transaction(unconstrained=True):
            self._seal_leftovers(now_ms)
            self._fold()
            latest_ms = now_ms + DRIFT_MS
            return applying.apply(
                self.connection, page, cursor=b"0", now_ms=now_ms, latest_ms=latest_ms, rules={}, cautious=cautious
            )

    def acknowledge(self) -> None:
        """The remote has everything: the outbox is emptied."""
        with self._transaction():
            self._fold()
        with self._transaction():
            outbox.acknowledge(self.connection, load_state(self.connection).last_number, limit=1 << 30)

    def purge(self, before: int) -> int:
        """Forget clocks; returns how many."""
        found, _ = purge.forgettable(self.connection, purge.BEGINNING, before)
        with self._transaction():
            return purge.forget(self.connection, found, before)

    def restart(self) -> None:
        """Nothing is left of a process but what its file has."""
        data = self.connection.serialize()
        self.connection.close()
        self.connection = _opened(data)

    def sealed_after(self, number: int) -> list[SealedChangeset]:
        rows = self.connection.execute("SELECT sealed FROM localstore_outbox WHERE number > ? ORDER BY number", (number,))
        return [wire.decode(data) for (data,) in rows.fetchall()]

    # -- what can be seen of it

    def tables(self) -> dict[str, dict[Key, Row]]:
        found = {}
        for table in self._tables:
            names = (*table.key, *table.column_names)
            rows = self.connection.execute(f"SELECT {', '.join(map(quote, names))} FROM {quote(table.name)}").fetchall()
            found[table.name] = {row[: len(table.key)]: dict(zip(names, row, strict=True)) for row in rows}
        return found

    def set_aside(self) -> list[Conflict]:
        return set_aside(self.connection)

    def conflicts(self) -> list[Conflict]:
        return conflicts(self.connection)

    def progress(self) -> dict[bytes, int]:
        """How many changesets of each device it has."""
        numbers = dict(self.connection.execute("SELECT device, number FROM localstore_device"))
        return {**numbers, self.id: load_state(self.connection).last_number}

    def wrongs(self) -> list[object]:
        """What must never be found in a file between two transactions."""
        counted = [*LOGS, "localstore_unsealed", "localstore_aside", "localstore_unknown"]
        found: list[object] = [
            name for name in counted if self.connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is not None
        ]
        found += self.connection.execute("PRAGMA foreign_key_check").fetchall()
        found += [text for (text,) in self.connection.execute("PRAGMA integrity_check") if text != "ok"]
        capturing = self.connection.execute("SELECT capturing FROM localstore_state").fetchone()
        return found + ([] if capturing == (Capturing.BY_KEY,) else [capturing])

    def close(self) -> None:
        self.connection.close()

    # -- parts of transactions

    def _fold(self) -> None:
        state = load_state(self.connection)
        while state.folded < state.last_number and applying.fold(self.connection, 500):
            pass

    def _seal_leftovers(self, now_ms: int) -> None:
        seal_leftovers(self.connection, now_ms=now_ms, limits=LIMITS)

    def _try(self, statement: str) -> None:
        self.connection.execute("SAVEPOINT one")
        try:
            self.connection.execute(statement)
        except sqlite3.IntegrityError:
            self.connection.execute("ROLLBACK TO one")
        self.connection.execute("RELEASE one")

    @contextmanager
    def _transaction(self, *, unconstrained: bool = False) -> Iterator[None]:
        if unconstrained:
            self.connection.execute("PRAGMA foreign_keys=OFF")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        finally:
            if unconstrained:
                self.connection.execute("PRAGMA foreign_keys=ON")


class Network:
    """Devices, everything they ever wrote, and what each of them was given: known here without asking any of them."""

    def __init__(self, tables: Sequence[Table], count: int) -> None:
        data = prepared(tables)
        self.tables = tables
        self.devices = [Device(data, bytes([n + 1]) * 16, tables) for n in range(count)]
        self.now_ms = [1_700_000_000_000] * count
        self.made: list[list[SealedChangeset]] = [[] for _ in range(count)]
        self.seen: dict[tuple[int, int], Known] = {}
        self.told: dict[RowName, list[Told]] = {}
        self._given: list[set[tuple[int, int]]] = [set() for _ in range(count)]
        self._known: list[Known] = [(0,) * count] * count

    def known(self, index: int) -> Known:
        """How many changesets of each device a device has applied, if it did as it should."""
        return self._known[index]

    def notice(self, index: int) -> None:
        """Take note of what a device has made since."""
        for sealed in self.devices[index].sealed_after(len(self.made[index])):
            self.made[index].append(sealed)
            assert sealed.number == len(self.made[index])
            seen = self._with(self._known[index], index, sealed.number)
            self._known[index] = self.seen[index, sealed.number] = seen
            for group in wire.unseal(sealed).groups:
                for change in row_changes(group):
                    told = Told(index, sealed.number, (sealed.stamp, sealed.device), seen, change.op, change.values)
                    self.told.setdefault((group.table, change.key), []).append(told)

    def deliver(self, to: int, page: Sequence[tuple[int, int]]) -> applying.Applied:
        """Give changesets to a device, named by device and number."""
        sealed = [self.made[device][number - 1] for device, number in page]
        applied = self.devices[to].apply(sealed, self.now_ms[to])
        self.notice(to)
        self._given[to].update(name for name in page if name[0] != to)
        self._known[to] = self._in_turn(to)
        return applied

    def horizon(self, index: int) -> int:
        """The latest stamp that all which is still to come to a device is later than, and whose writers had seen all before."""
        to_come = [name for name in self.seen if name[1] > self._known[index][name[0]]]
        known = [*(self.seen[name] for name in to_come), *self._known]
        unseen = [self._stamp(name) for name in self.seen if any(name[1] > seen[name[0]] for seen in known)]
        following = [load_state(device.connection).last_stamp + 1 for device in self.devices]
        return min([*unseen, *map(self._stamp, to_come), *following])

    def close(self) -> None:
        for device in self.devices:
            device.close()

    def _stamp(self, name: tuple[int, int]) -> int:
        return self.made[name[0]][name[1] - 1].stamp

    def _in_turn(self, index: int) -> Known:
        """A changeset is applied when all that its writer had seen is."""
        known, left = self._known[index], self._given[index]
        while True:
            ready = [name for name in left if name[1] == known[name[0]] + 1 and self._depends_on_less(name, known)]
            if not ready:
                return known
            for device, number in ready:
                known = self._with(known, device, number)

    def _depends_on_less(self, name: tuple[int, int], known: Known) -> bool:
        device, number = name
        return all(seen <= had for seen, had in zip(self._with(self.seen[name], device, number - 1), known, strict=True))

    @staticmethod
    def _with(known: Known, device: int, number: int) -> Known:
        return (*known[:device], number, *known[device + 1 :])
