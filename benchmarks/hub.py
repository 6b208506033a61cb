"""What sync through a hub costs: one hub process on loopback, in front of SQLite and of PostgreSQL, and devices beside it.

The hub is started as its owner would, without users and without limits of rate. What many devices do at once is done by one
process for all of them, ``benchmarks.hub_devices``. The first number of a case is how many rows, changesets, commits or devices
there are.
"""

import asyncio
import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlmodel import SQLModel, func, select

from benchmarks.databases import Database, in_file, on_server, plain_commits
from benchmarks.device import WAIT_SECONDS, device
from benchmarks.first_sync import open_with_all
from benchmarks.hub_devices import APP, READER, WRITER, fill, hello
from benchmarks.kit import INSERT, Case, Reading, Stopwatch, new_rows, percentile, plain_bulk_insert
from benchmarks.processes import Process, number_of
from benchmarks.sessions import latencies
from benchmarks.snapshots import INSERT as INSERT_FLIGHTS
from benchmarks.snapshots import ROWS, Flight, flights, insert_select, kept_directory
from localstore import Realm, Settings
from localstore.adapter import Cursor, Limit
from localstore.testing.conformance import make_changeset
from localstore_adapters.http import HttpAdapter
from localstore_adapters.sql import SqlAdapter

__all__ = ["CASES"]

_ROOT = Path(__file__).parents[1]
_UNLIMITED = {"LOCALSTORE_HUB_USER_RATE": "0", "LOCALSTORE_HUB_ADDRESS_RATE": "0"}
_A_TRANSACTION = 100_000
_SENDERS = 50
_PULLERS = 20
_PULLS = 100
_TO_SMALL = 1_000
"""How many times as many changesets a large log has as a small one."""
_LOOKED_MS_MAX = 25_000  # more than a heartbeat


@dataclass(frozen=True)
class _Hub:
    """A running one."""

    url: str
    pid: int

    def memory(self, what: str) -> float:
        """Its bytes of memory, now (``VmRSS``) or at most so far (``VmHWM``)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{what}:"))

    def processor_seconds(self) -> float:
        """What it has used so far."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _hub(store: str) -> Iterator[_Hub]:
    """A hub in front of a log, as a process of its own."""
    command = [sys.executable, "-m", "localstore.cli", "hub", "serve", "--app", APP, "--open", "--port", "0"]
    environment = {**os.environ, **_UNLIMITED, "LOCALSTORE_HUB_STORE": store}
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said:
                raise RuntimeError("The hub did not start.")
            yield _Hub(f"{said.split()[-1]}?users=no", process.pid)
        finally:
            process.terminate()


@contextmanager
def _started(database: Database, directory: Path) -> Iterator[_Hub]:
    with database(directory) as store, _hub(store) as hub:
        yield hub


@contextmanager
def _realm(directory: Path, name: str, remote: str, table: type[SQLModel] = Reading) -> Iterator[Realm]:
    settings = Settings(snapshot_every=1)  # where devices make snapshots
    opened = device(directory, name, table, remote=remote, settings=settings)
    with opened as (_, configuration), Realm.open(configuration) as realm:
        yield realm


# -- a bulk load, up and down


def _upload(realm: Realm, count: int, watch: Stopwatch) -> None:
    rows = new_rows(count)
    with watch:
        with realm.write() as tx:
            tx.connection().exec_driver_sql(INSERT, rows)
        assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)


def _uploaded(database: Database) -> Callable[[Path, int], float]:
    """From the beginning of the transaction until the hub has acknowledged it."""

    def subject(directory: Path, count: int) -> float:
        watch = Stopwatch()
        with _started(database, directory) as hub, _realm(directory, "sender", hub.url) as realm:
            assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
            _upload(realm, count, watch)
        return watch.seconds

    return subject


def _downloaded(database: Database) -> Callable[[Path, int], float]:
    """From the opening of a fresh device's realm until all rows are there."""

    def subject(directory: Path, count: int) -> float:
        watch = Stopwatch()
        with _started(database, directory) as hub:
            with _realm(directory, "sender", hub.url) as realm:
                _upload(realm, count, Stopwatch())
            with device(directory, "receiver", remote=hub.url) as (_, configuration):
                with watch:
                    realm = Realm.open(configuration)
                    assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
                with realm:
                    assert realm.exec(select(func.count()).select_from(Reading)).one() == count
        return watch.seconds

    return subject


# -- a first sync from a snapshot


def _flights_in(store: str, directory: Path, count: int) -> None:
    """Bring so many flights into a log, and a snapshot of them, by a device beside the hub."""
    with _realm(directory, "writer", store, Flight) as realm:
        realm.sync_session.pause()
        for start in range(0, count, _A_TRANSACTION):
            with realm.write() as tx:
                tx.connection().exec_driver_sql(INSERT_FLIGHTS, list(flights()[start : min(start + _A_TRANSACTION, count)]))
        realm.sync_session.resume()
        assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        while not asyncio.run(_has_snapshot(store)):
            time.sleep(0.05)


async def _has_snapshot(store: str) -> bool:
    adapter = SqlAdapter.from_url(store)
    await adapter.connect(hello(READER))
    found = await adapter.latest_snapshot()
    await adapter.close()
    return found is not None


def _first_sync(database: Database) -> Callable[[Path, int], float]:
    def subject(directory: Path, count: int) -> float:
        with database(directory) as store:
            _flights_in(store, directory, count)
            with _hub(store) as hub:
                return open_with_all(directory, hub.url, count)

    return subject


# -- many small changesets


def _pushed(database: Database, what: str, *, hubs: int = 1, partitions: int = 1) -> Callable[[Path, int], float]:
    """One figure of so many one-row changesets that devices push at once, each one after the other."""

    def subject(directory: Path, count: int) -> float:
        each = max(1, count // _SENDERS)
        with database(directory) as store, ExitStack() as stack:
            urls = " ".join([stack.enter_context(_hub(store)).url for _ in range(hubs)])
            senders = Process("push_one_by_one", directory, urls, min(count, _SENDERS), each, partitions)
            with senders:
                found = senders.said()
        assert isinstance(found, dict)
        return float(found[what])

    return subject


def _spread(name: str, database: Database, hubs: int, partitions: int) -> tuple[Case, ...]:
    """The same through more hubs, or into more partitions, against one of each."""
    what, one = f"pushes, hubs: {hubs}, partitions: {partitions}, {name}", "one hub, one partition"
    figures = ((what, "seconds"), (f"{what}: p99", "p99"))
    return tuple(
        Case(title, one, 10_000, _pushed(database, figure, hubs=hubs, partitions=partitions), _pushed(database, figure))
        for title, figure in figures
    )


def _committed(database: Database, hundredth: int | None) -> Callable[[Path, int], float]:
    """As many plain commits, one after the other: what all took, or what so many of a hundred take at most."""

    def baseline(directory: Path, count: int) -> float:
        found = plain_commits(database, directory, count)
        return sum(found) if hundredth is None else percentile(found, hundredth)

    return baseline


def _seen(database: Database, hundredth: int) -> Callable[[Path, int], float]:
    def subject(directory: Path, count: int) -> float:
        with _started(database, directory) as hub:
            return percentile(latencies(directory, count, hub.url), hundredth)

    return subject


# -- what a hub takes


def _idle(what: str, part: int = 1) -> Callable[[Path, int], float]:
    """Memory for each device that waits for news, or the part of the processor's time that all take; of so many, or a part."""

    def measure(directory: Path, count: int) -> float:
        devices, looked_ms = max(1, count // part), min(_LOOKED_MS_MAX, 1_000 + 15 * count)
        with _started(in_file, directory) as hub:
            with Process("listen", directory, hub.url, 1, 0) as one:  # what the first one costs
                assert one.said() == "ready"
            before = hub.memory("VmRSS")
            with Process("listen", directory, hub.url, devices, looked_ms) as listeners:
                assert listeners.said() == "ready"
                spent, begun = hub.processor_seconds(), time.monotonic()
                time.sleep(looked_ms / 1000)
                share = (hub.processor_seconds() - spent) / (time.monotonic() - begun)
                return share if what == "cpu" else max(0.0, hub.memory("VmRSS") - before) / devices

    return measure


def _bare_connection(directory: Path, connections: int) -> float:
    """Memory for each connection of a server that does nothing with them."""
    with ExitStack() as stack, Process("hold", directory) as server:
        port = int(server.number())
        held = [stack.enter_context(closing(socket.create_connection(("127.0.0.1", port)))) for _ in range(connections)]
        before = server.number()
        held[-1].sendall(b"all are here")
        return max(0.0, server.number() - before) / connections


def _pulled_at_once(directory: Path, count: int) -> float:
    """The most memory of a hub from which many devices pull so many rows each, which came in large transactions."""
    with _started(in_file, directory) as hub:
        with _realm(directory, "sender", hub.url) as realm:
            for start in range(0, count, _A_TRANSACTION):
                _upload(realm, min(_A_TRANSACTION, count - start), Stopwatch())
        assert number_of("pull_all", directory, hub.url, _PULLERS) == count
        return hub.memory("VmHWM")


def _nothing_pulled(directory: Path, count: int) -> float:
    with _started(in_file, directory) as hub:
        number_of("pull_all", directory, hub.url, 1)
        return hub.memory("VmHWM")


# -- a large log


@cache
def _filled(database: Database, count: int) -> tuple[str, Cursor | None]:
    """A log of so many changesets, and the cursor at its end. Made once, as that takes a while."""
    stack = ExitStack()
    atexit.register(stack.close)
    directory = kept_directory() / f"log-{count}"
    directory.mkdir(exist_ok=True)
    store = stack.enter_context(database(directory))
    return store, asyncio.run(fill(store, count))


def _pulled_from(database: Database, part: int = 1) -> Callable[[Path, int], float]:
    """The median of pulls of one new changeset, from a log of so many or a part of it."""

    def measure(_: Path, count: int) -> float:
        store, cursor = _filled(database, max(1, count // part))
        with _hub(store) as hub:
            return percentile(asyncio.run(_pulls(hub.url, cursor)), 50)

    return measure


async def _pulls(url: str, cursor: Cursor | None) -> list[float]:
    writer, reader = HttpAdapter.from_url(url), HttpAdapter.from_url(url)
    last = (await writer.connect(hello(WRITER))).last_number
    await reader.connect(hello(READER))
    cursor = (await reader.pull(cursor, Limit())).cursor
    found = []
    for number in range(last + 1, last + 1 + _PULLS):
        await writer.push([make_changeset(WRITER, number)])
        begun = time.perf_counter()
        page = await reader.pull(cursor, Limit())
        found.append(time.perf_counter() - begun)
        assert len(page.changesets) == 1
        cursor = page.cursor
    await writer.close()
    await reader.close()
    return found


def _cases(name: str, database: Database) -> tuple[Case, ...]:
    rows, flight_rows = "sqlite3 executemany", "INSERT … SELECT, attached file"
    commits, small = "plain commits, one by one", "a log of a 1,000th"
    return (
        Case(f"rows uploaded, {name}", rows, 100_000, _uploaded(database), plain_bulk_insert, aim="850 ms"),
        Case(f"rows downloaded, {name}", rows, 100_000, _downloaded(database), plain_bulk_insert, aim="410 ms"),
        Case(f"flights from a snapshot, {name}", flight_rows, ROWS, _first_sync(database), insert_select),
        Case(f"pushes, 50 devices, {name}", commits, 10_000, _pushed(database, "seconds"), _committed(database, None)),
        Case(f"pushes, 50 devices, {name}: p99", commits, 10_000, _pushed(database, "p99"), _committed(database, 99)),
        Case(f"commits seen, {name}: p50", commits, 200, _seen(database, 50), _committed(database, 50), aim="10 ms"),
        Case(f"commits seen, {name}: p99", commits, 200, _seen(database, 99), _committed(database, 99), aim="40 ms"),
        Case(f"in the log, one pulled, {name}", small, 10_000_000, _pulled_from(database), _pulled_from(database, _TO_SMALL)),
    )


_OF_PROCESSES = (
    Case(
        "devices idle at a hub: memory of each",
        "a bare server's",
        2_000,
        _idle("memory"),
        _bare_connection,
        unit="kB",
        aim="50 kB",
    ),
    Case("devices idle at a hub: processor", "one device", 2_000, _idle("cpu"), _idle("cpu", 2_000), unit="%", aim="5 %"),
    Case(
        "rows, pulled by 20 at once: a hub's memory",
        "a hub with nothing",
        1_000_000,
        _pulled_at_once,
        _nothing_pulled,
        unit="MB",
        aim="400 MB",
    ),
)
CASES = (
    *_cases("SQLite", in_file),
    *_cases("PostgreSQL", on_server),
    *_spread("SQLite", in_file, 1, 50),
    *(case for hubs, partitions in ((1, 50), (2, 1), (2, 50)) for case in _spread("PostgreSQL", on_server, hubs, partitions)),
    *(_OF_PROCESSES if sys.platform == "linux" else ()),
)
"""Linux alone tells of another process what it has used."""
