"""Positions of an SQL log never skip a late committer: many writing processes, killed at any moment, commits that take their
time, and readers that pull all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localstore.adapter import Cursor, Hello, Limit
from localstore.errors import Busy, Offline, ProtocolError
from localstore.testing.conformance import Line, new_device
from localstore_adapters.sql import SqlAdapter, migrate
from tests.postgres_server import PostgresServer, running

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_WRITERS = 6
_READERS = 3
_KILLS = 20
_BETWEEN = 40  # changesets that a reader sees from one kill to the next
_PATIENCE = 120.0
_SLOW_COMMITS = """
    CREATE OR REPLACE FUNCTION pg_temp_slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(random() * 0.01); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON localstore_log_changeset
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.number % 3 = 0) EXECUTE FUNCTION pg_temp_slow();
"""  # a commit waits, after the positions were given out


@dataclass
class Writer:
    """A device in a process of its own, which is started again with the same identity."""

    url: str
    options: tuple[str, ...] = ()
    device: bytes = field(default_factory=new_device)
    acknowledged: int = 0
    starts: int = 0
    has_stored: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self.starts += 1
        told = [self.url, self.device.hex(), str(self.starts), *self.options]
        command = [sys.executable, "-m", "tests.integration.sql_writer", *told]
        self.process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.listener = threading.Thread(target=self._listen, args=(self.process,))
        self.listener.start()

    def kill(self) -> None:
        self.process.kill()
        self.listener.join(_PATIENCE)
        assert self.process.stderr is not None
        complaint = self.process.stderr.read().decode()
        self.process.stderr.close()
        assert self.process.wait(_PATIENCE) < 0, complaint  # it was alive until now

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as told:
            for line in told:
                if line.endswith(b"\n"):
                    assert int(line) >= self.acknowledged, "what was acknowledged is known to the next connect"
                    self.acknowledged = int(line)
                    if self.acknowledged:
                        self.has_stored.set()


class Reader(threading.Thread):
    """Pulls until it is told to come to an end, and sees that it misses nothing and sees nothing twice."""

    def __init__(self, url: str, on_progress: Callable[[], None]) -> None:
        super().__init__()
        self.url = url
        self.on_progress = on_progress
        self.numbers: dict[bytes, int] = {}
        self.order: list[tuple[bytes, int]] = []
        self.problem: BaseException | None = None
        self.ending = threading.Event()

    def run(self) -> None:
        try:
            asyncio.run(self._read())
        except BaseException as problem:  # noqa: BLE001 - raised by whoever joins
            self.problem = problem
            self.on_progress()

    def end(self) -> None:
        self.ending.set()
        self.join(_PATIENCE)
        if self.problem is not None:
            raise self.problem

    async def _read(self) -> None:
        chance = random.Random(id(self))
        adapter, cursor = SqlAdapter.from_url(self.url), None
        hello = Hello(app="torture", partition="default", device=new_device())
        await adapter.connect(hello)
        try:
            while True:
                was_ending = self.ending.is_set()
                cursor, more = await self._pull(adapter, hello, cursor, Limit(max_count=chance.randint(1, 50)))
                if was_ending and not more:
                    break
        finally:
            await adapter.close()

    async def _pull(self, adapter: SqlAdapter, hello: Hello, cursor: Cursor | None, limit: Limit) -> tuple[Cursor | None, bool]:
        try:
            page = await adapter.pull(cursor, limit)
        except (Offline, Busy):
            with contextlib.suppress(Offline, Busy):
                await adapter.connect(hello)
            return cursor, True
        for sealed in page.changesets:
            assert sealed.number == self.numbers.get(sealed.device, 0) + 1, "missed, or seen twice"
            self.numbers[sealed.device] = sealed.number
            self.order.append((sealed.device, sealed.number))
        if page.changesets:
            self.on_progress()
        return page.cursor, page.more


@contextlib.contextmanager
def reading(url: str) -> Iterator[tuple[list[Reader], Callable[[int], None]]]:
    """Readers, and a wait until the first of them has seen so many changesets more."""
    seen = threading.Condition()

    def progress() -> None:
        with seen:
            seen.notify_all()

    readers = [Reader(url, progress) for _ in range(_READERS)]

    def wait_for(count: int) -> None:
        goal = len(readers[0].order) + count
        with seen:
            assert seen.wait_for(lambda: len(readers[0].order) >= goal or any(r.problem for r in readers), _PATIENCE)
        for reader in readers:
            if reader.problem is not None:
                raise reader.problem

    for reader in readers:
        reader.start()
    try:
        yield readers, wait_for
    finally:
        for reader in readers:
            reader.ending.set()
        for reader in readers:
            reader.join(_PATIENCE)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'log.db'}"
        migrate(url)
        return url
    server: PostgresServer = request.getfixturevalue("postgres")
    server.execute("DROP DATABASE IF EXISTS torture WITH (FORCE)")
    server.execute("CREATE DATABASE torture")
    migrate(server.url("torture"))
    server.execute(_SLOW_COMMITS, "torture")
    return server.url("torture")


def test_nobody_misses_or_sees_twice_what_killed_writers_and_slow_commits_leave(url: str) -> None:
    torture(url)


def test_positions_that_are_given_out_without_a_lock_are_noticed(url: str) -> None:
    """The torture is worth something, and a reader never goes on over a gap."""
    with pytest.raises((AssertionError, ProtocolError), match=r"missed|it lacks changesets"):
        torture(url, "planted", kills=10 * _KILLS)  # it shows by chance, and ends this at once


def torture(url: str, *options: str, kills: int = _KILLS) -> None:
    chance = random.Random(7)
    writers = [Writer(url, options) for _ in range(_WRITERS)]
    with reading(url) as (readers, wait_for):
        for writer in writers:
            writer.start()
        try:
            for _ in range(kills):
                wait_for(_BETWEEN)
                writer = chance.choice(writers)
                writer.kill()
                writer.start()
            for writer in writers:  # a process may take longer to start than all others to be killed
                assert writer.has_stored.wait(_PATIENCE)
        finally:
            for writer in writers:
                writer.kill()
        for reader in readers:
            reader.end()
    assert all(reader.order == readers[0].order for reader in readers)
    for writer in writers:
        assert readers[0].numbers[writer.device] >= writer.acknowledged > 0, "acknowledged is stored"


def test_a_server_that_is_restarted_under_load_loses_and_doubles_nothing() -> None:
    with running() as server:
        url = server.url(server.database)
        with reading(url) as (readers, wait_for):
            pushers = [Pusher(url) for _ in range(_WRITERS)]
            for pusher in pushers:
                pusher.start()
            try:
                for mode in ("immediate", "fast", "immediate", "fast", "immediate"):
                    wait_for(_BETWEEN)
                    server.stop(mode)
                    server.start()
                wait_for(_BETWEEN)
            finally:
                for pusher in pushers:
                    pusher.ending.set()
                for pusher in pushers:
                    pusher.join(_PATIENCE)
            for reader in readers:
                reader.end()
    assert all(reader.order == readers[0].order for reader in readers)
    for pusher in pushers:
        assert pusher.problem is None
        assert readers[0].numbers[pusher.device] >= pusher.acknowledged > 0


class Pusher(threading.Thread):
    """A device that pushes as a session does: after ``Offline`` and ``Busy`` it connects and pushes the same again."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.device = new_device()
        self.acknowledged = 0
        self.ending = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._push())
        except BaseException as problem:  # noqa: BLE001 - looked at in the end
            self.problem = problem

    async def _push(self) -> None:
        adapter = SqlAdapter.from_url(self.url)
        hello = Hello(app="torture", partition="default", device=self.device)
        while not self.ending.is_set():
            with contextlib.suppress(Offline, Busy):
                line = Line(adapter, hello, await adapter.connect(hello))
                assert line.welcome.last_number >= self.acknowledged, "acknowledged is stored"
                while not self.ending.is_set():
                    self.acknowledged = (await line.push(self.acknowledged + 1, self.acknowledged + 2)).acknowledged
        await adapter.close()
