"""What a session costs and how quick it is, each against a process without localstore or with as little of it as possible.

What can only be measured of a whole process runs in one of its own, see ``benchmarks.device``. The first number of such a case
is how many commits, realms, milliseconds or rows.
"""

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.device import device
from benchmarks.kit import INSERT, Case, Reading, execute_many, new_rows, percentile, plain_engine, set_pragmas
from benchmarks.processes import SECONDS, Process, number_of
from localstore import App, Credentials, Realm, Settings, SyncConfiguration
from localstore.adapter import Cursor, Hello, Limit, Page, PushResult, SealedChangeset, Welcome
from localstore.errors import Offline
from localstore.testing.memory import MemoryAdapter, MemoryRemote

__all__ = ["CASES", "latencies"]

GAP_SECONDS = 0.05  # between two commits, as of a person or an instrument, and not of a bulk load
_LOOKED_MS = 700  # for each of many idle realms: together long enough for each of them to look at the remote once


# -- from a commit on one device to its row on another


def latencies(directory: Path, count: int, remote: str | None = None) -> list[float]:
    """Seconds from the end of each ``write()`` here until the row can be read in another process, over a watched folder or a
    remote that is given.
    """
    found = []
    with device(directory, "writer", remote=remote) as (_, configuration), Realm.open(configuration) as realm:
        assert realm.sync_session.download_all_server_changes(timeout=SECONDS)
        with Process("see_rows", directory, count, *([remote] if remote else [])) as reader:
            assert reader.said() == "ready"
            for number in range(count):
                time.sleep(GAP_SECONDS)
                with realm.write() as tx:
                    tx.add(Reading(sensor="sensor", value=0.5, count=number))
                committed = time.monotonic()
                found.append(reader.number() - committed)
    return found


def _file_latencies(directory: Path, count: int) -> list[float]:
    """The same from a rename to what a bare watch hears of it."""
    found = []
    (directory / "watched").mkdir()
    with Process("see_files", directory / "watched", count) as watcher:
        assert watcher.said() == "ready"
        time.sleep(1)  # until the watch is set up, which nobody tells
        for number in range(count):
            time.sleep(GAP_SECONDS)
            file = directory / f"{number}"
            file.write_bytes(bytes(500))
            file.rename(directory / "watched" / f"{number}.changes")
            renamed = time.monotonic()
            found.append(watcher.number() - renamed)
    return found


def _half(of: Callable[[Path, int], list[float]]) -> Callable[[Path, int], float]:
    return lambda directory, count: percentile(of(directory, count), 50)


def _nearly_all(of: Callable[[Path, int], list[float]]) -> Callable[[Path, int], float]:
    return lambda directory, count: percentile(of(directory, count), 99)


# -- nothing to do


def _idle(what: str, realms: int | None = None) -> Callable[[Path, int], float]:
    """One figure of an idle process; the case's number is the milliseconds it is looked at, or that of the realms."""

    def measure(directory: Path, number: int) -> float:
        count, looked_ms = (realms, number) if realms is not None else (number, _LOOKED_MS * number)
        with Process("idle", directory, count, looked_ms) as process:
            found = process.said()
        assert isinstance(found, dict)
        return float(found[what])

    return measure


def _idle_with_one(what: str) -> Callable[[Path, int], float]:
    """Of one realm, for as long as many are looked at."""
    return lambda directory, number: _idle(what, realms=1)(directory, _LOOKED_MS * number)


# -- commands


class _Stubborn(MemoryAdapter):
    """Does what an adapter can do to keep a session waiting."""

    behaviour = "hangs"

    async def connect(self, hello: Hello) -> Welcome:
        if self.behaviour == "is offline":
            raise Offline("The remote cannot be reached.")
        if self.behaviour == "hangs":
            await _ignoring_cancellation()
        return await super().connect(hello)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        return await super().push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        if self.behaviour == "pulls for ever":
            await _ignoring_cancellation()
        return await super().pull(cursor, limit)

    async def close(self) -> None:
        if self.behaviour != "works":
            await _ignoring_cancellation()


async def _ignoring_cancellation() -> None:
    """For some seconds, which is for ever here."""
    until = time.monotonic() + 5
    while (left := until - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


BEHAVIOURS = ("works", "is offline", "hangs", "pulls for ever")


def worst_command(directory: Path, rounds: int) -> float:
    """The longest that ``pause``, ``resume``, ``reconnect`` or ``close`` took, over all that adapters may do meanwhile."""
    return max(_worst_with(directory / behaviour, behaviour, rounds) for behaviour in BEHAVIOURS)


def _worst_with(directory: Path, behaviour: str, rounds: int) -> float:
    directory.mkdir()
    remote = MemoryRemote()
    worst = 0.0

    def make() -> _Stubborn:
        adapter = _Stubborn(remote)
        adapter.behaviour = behaviour
        return adapter

    app = App.create("benchmarks", remote=make, settings=Settings())
    configuration = SyncConfiguration(
        app.login(Credentials.anonymous()), schema={Reading}, path=directory / "device.db", stop_policy="immediately"
    )
    for number in range(rounds):
        realm = Realm.open(configuration)
        with realm.write() as tx:
            tx.add(Reading(sensor="sensor", value=0.5, count=number))
        time.sleep(0.01)
        session = realm.sync_session
        for command in (app.sync.reconnect, session.pause, session.resume, session.pause, session.resume, realm.close):
            began = time.perf_counter()
            command()
            worst = max(worst, time.perf_counter() - began)
    threading.Thread(target=app.close, daemon=True).start()
    return worst


def worst_close(directory: Path, rounds: int) -> float:
    """The longest that closing a plain file took after a commit, as many times: the disk's part of closing a realm."""
    worst = 0.0
    plain_engine(directory).dispose()
    for row in new_rows(rounds * len(BEHAVIOURS)):
        connection = sqlite3.connect(directory / "plain.db")
        set_pragmas(connection)
        execute_many(connection, INSERT, [row])
        began = time.perf_counter()
        connection.close()
        worst = max(worst, time.perf_counter() - began)
    return worst


# -- memory


def _sending(in_one: int) -> Callable[[Path, int], float]:
    """The most memory of a process that sends so many rows, which another wrote so many in a transaction."""

    def measure(directory: Path, rows: int) -> float:
        number_of("write_unsent", directory, rows, min(rows, in_one))
        return number_of("transfer", directory, "sender")

    return measure


def _receiving(in_one: int) -> Callable[[Path, int], float]:
    def measure(directory: Path, rows: int) -> float:
        _sending(in_one)(directory, rows)
        return number_of("transfer", directory, "receiver")

    return measure


def nothing_to_send(directory: Path, rows: int) -> float:
    """The most memory of a process that opens a new realm, and finds nothing."""
    return number_of("transfer", directory, "empty")


_SEEN, _HEARD = "commits, seen by another process", "rename, heard by a watch"
_ALONE, _EMPTY = "a bare watch of the folder", "a process with nothing to send"

_ALL = (
    Case(f"{_SEEN}: p50", _HEARD, 200, _half(latencies), _half(_file_latencies), aim="30 ms"),
    Case(f"{_SEEN}: p99", _HEARD, 200, _nearly_all(latencies), _nearly_all(_file_latencies)),
    Case("ms idle: processor", _ALONE, 20_000, _idle("cpu", 1), _idle("cpu", 0), unit="%", aim="0.2 %"),
    Case("ms idle: sent to the disk", _ALONE, 20_000, _idle("disk", 1), _idle("disk", 0), unit="MB", aim="nothing"),
    Case("realms idle: processor", "one realm", 100, _idle("cpu"), _idle_with_one("cpu"), unit="%", aim="1 %"),
    Case("realms idle: memory", "one realm", 100, _idle("memory"), _idle_with_one("memory"), unit="MB", aim="100 MB more"),
    Case("rounds of commands: the slowest", "closing a plain file", 20, worst_command, worst_close, aim="50 ms"),
    *(
        Case(
            f"rows by {in_one:,}, {what}: memory", _EMPTY, 1_000_000, of(in_one), nothing_to_send, unit="MB", aim="150 MB more"
        )
        for what, of in (("sent", _sending), ("received", _receiving))
        for in_one in (1_000, 100_000)
    ),
)
CASES = tuple(case for case in _ALL if case.unit == "ms" or sys.platform == "linux")
"""Linux alone tells a process what it has used."""
