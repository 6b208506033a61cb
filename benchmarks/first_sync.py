"""What a first sync costs from the opening to the last row, through a folder with a snapshot of all flights.

The folder is filled once, by a device like any other, and holds the history as well, which a first sync need not read.
"""

import dataclasses
import sys
import time
from functools import cache
from pathlib import Path

from sqlmodel import func, select

from benchmarks.device import WAIT_SECONDS, device, folder_url
from benchmarks.kit import Case, Stopwatch
from benchmarks.processes import number_of
from benchmarks.snapshots import INSERT, ROWS, Flight, flights, insert_select, kept_directory
from localstore import Realm, Settings

__all__ = ["CASES", "open_with_all"]

A_CHUNK = 50_000


@cache
def _filled(count: int) -> Path:
    """A folder with so many flights in a snapshot, and in history."""
    directory = kept_directory() / f"first-sync-{count}"
    directory.mkdir()
    settings = Settings(snapshot_every=1)
    with device(directory, "writer", Flight, settings=settings) as (_, configuration), Realm.open(configuration) as realm:
        realm.sync_session.pause()
        for start in range(0, count, A_CHUNK):
            with realm.write() as tx:
                tx.connection().exec_driver_sql(INSERT, list(flights()[start : min(start + A_CHUNK, count)]))
        realm.sync_session.resume()
        assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        while not list(directory.glob("remote/*/snapshots/*.snapshot.json")):
            time.sleep(0.05)
    return directory / "remote"


def open_with_all(directory: Path, remote: str, count: int) -> float:
    """The seconds from opening a realm on a new file until all rows are there to be read."""
    watch = Stopwatch()
    with device(directory, "reader", Flight, remote=remote) as (_, configuration):
        with watch:
            realm = Realm.open(dataclasses.replace(configuration, wait_for_initial_remote_data=WAIT_SECONDS))
        with realm:
            assert realm.exec(select(func.count()).select_from(Flight)).one() == count
    return watch.seconds


def first_sync(directory: Path, count: int) -> float:
    return open_with_all(directory, folder_url(_filled(count)), count)


def first_sync_memory(directory: Path, count: int) -> float:
    return number_of("first_sync", directory, _filled(count), count)


def nothing_there_memory(directory: Path, count: int) -> float:
    return number_of("first_sync", directory, directory / "remote", 0)


_ALL = (
    Case("flights: first sync from a folder", "INSERT … SELECT, attached file", ROWS, first_sync, insert_select, aim="4 times"),
    Case(
        "flights: first sync, memory",
        "a first sync of nothing",
        ROWS,
        first_sync_memory,
        nothing_there_memory,
        unit="MB",
        aim="150 MB more",
    ),
)
CASES = tuple(case for case in _ALL if case.unit == "ms" or sys.platform == "linux")
"""Linux alone tells a process how much memory it has used."""
