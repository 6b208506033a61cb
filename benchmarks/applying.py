"""What another device's changesets cost once they are here: decode, check, merge, clocks and rows, one transaction a page."""

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.kit import INSERT, Case, Reading, Stopwatch, check_point, new_rows, new_values, plain_bulk_insert, plain_updates
from localstore import wire
from localstore.changes import Changeset, Op, RowGroup
from localstore.clock import next_stamp
from localstore.environment import DEVICE_BYTES, Environment
from localstore.schema import tables_of
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced

__all__ = ["CASES"]

COLUMNS = tuple(INSERT.partition("(")[2].partition(")")[0].split(", "))
FEW = 1000
PAGES = 100  # of one change each: a single one is too short to measure


@contextmanager
def _store(file: Path) -> Iterator[Store]:
    options, environment = StoreOptions(), Environment()
    with closing(open_synced(file, tables_of({Reading}), app="benchmarks", options=options, environment=environment)) as store:
        yield store


@dataclass
class _Sender:
    """Another device, of which there is nothing but its changesets."""

    device: bytes = b"s" * DEVICE_BYTES
    number: int = 0
    stamp: int = 0

    def insert(self, rows: list[tuple[Any, ...]]) -> bytes:
        return self._sealed(Op.INSERT, COLUMNS[1:], rows)

    def update(self, changes: list[tuple[Any, ...]]) -> bytes:
        return self._sealed(Op.UPDATE, ("value",), [(key, value) for value, key in changes])

    def _sealed(self, op: Op, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> bytes:
        self.number += 1
        self.stamp = next_stamp(self.stamp, Environment().now_ms())
        values = [list(column) for column in zip(*rows, strict=True)]
        group = RowGroup("reading", op, COLUMNS[:1], columns, values)
        return wire.encode(wire.seal(Changeset(self.device, self.number, self.stamp, (), (group,))))


def _apply(store: Store, page: Iterable[bytes]) -> None:
    after = store.state().cursor
    applied = store.apply([wire.decode(data) for data in page], after=after, cursor=b"%d" % (int(after or b"0") + 1))
    assert applied is not None
    assert applied.changesets


def inserts(directory: Path, count: int) -> float:
    data, watch = _Sender().insert(new_rows(count)), Stopwatch()
    with _store(directory / "receiver.db") as store, watch:
        _apply(store, [data])
    return watch.seconds


def updates(directory: Path, count: int) -> float:
    return _updates(directory, count, forgotten=False)


def updates_of_old_rows(directory: Path, count: int) -> float:
    return _updates(directory, count, forgotten=True)


def _updates(directory: Path, count: int, *, forgotten: bool) -> float:
    """``forgotten``: the rows are so old that they have no clocks any more."""
    sender, rows, watch, file = _Sender(), new_rows(count), Stopwatch(), directory / "receiver.db"
    with _store(file) as store:
        _apply(store, [sender.insert(rows)])
        if forgotten:
            with store.transaction() as connection:
                connection.execute("DELETE FROM localstore_clock")
                connection.execute("UPDATE localstore_state SET purged = last_stamp + 1")
            sender.stamp = store.state().purged
        check_point(file)
        data = sender.update(new_values(rows))
        with watch:
            _apply(store, [data])
    return watch.seconds


def one_row_inserts(directory: Path, count: int) -> float:
    sender, watch = _Sender(), Stopwatch()
    page = [sender.insert([row]) for row in new_rows(count)]
    with _store(directory / "receiver.db") as store, watch:
        _apply(store, page)
    return watch.seconds


def one_row_updates(directory: Path, count: int) -> float:
    sender, rows, watch, file = _Sender(), new_rows(count), Stopwatch(), directory / "receiver.db"
    with _store(file) as store:
        _apply(store, [sender.insert(rows)])
        check_point(file)
        page = [sender.update([change]) for change in new_values(rows)]
        with watch:
            _apply(store, page)
    return watch.seconds


def one_change_to_many_rows(directory: Path, count: int) -> float:
    return _one_change(count)


def one_change_to_few_rows(directory: Path, count: int) -> float:
    return _one_change(min(count, FEW))


def _one_change(count: int) -> float:
    file, sender, rows = _received(count)
    watch = Stopwatch()
    with _store(file) as store:
        check_point(file)
        for number in range(PAGES):
            data = sender.update(new_values([rows[number * 7919 % count]]))
            with watch:
                _apply(store, [data])
    return watch.seconds


@cache
def _received(count: int) -> tuple[Path, _Sender, list[tuple[Any, ...]]]:
    """A file with so many rows of another device. Made once, as that takes a while."""
    directory = Path(tempfile.mkdtemp(prefix="localstore-benchmark-"))
    atexit.register(shutil.rmtree, directory)
    sender, rows, file = _Sender(), new_rows(count), directory / "receiver.db"
    with _store(file) as store:
        for start in range(0, count, 100_000):
            _apply(store, [sender.insert(rows[start : start + 100_000])])
    return file, sender, rows


CASES = (
    Case("rows applied", "sqlite3 executemany", 100_000, inserts, plain_bulk_insert),
    Case("single-column updates applied", "sqlite3 executemany", 100_000, updates, plain_updates),
    Case("updates applied, clocks forgotten", "sqlite3 executemany", 100_000, updates_of_old_rows, plain_updates),
    Case("changesets applied, an insert each", "sqlite3 executemany", 10_000, one_row_inserts, plain_bulk_insert),
    Case("changesets applied, an update each", "sqlite3 executemany", 10_000, one_row_updates, plain_updates),
    Case("rows there: apply 100 changes", "with 1,000 rows there", 1_000_000, one_change_to_many_rows, one_change_to_few_rows),
)
