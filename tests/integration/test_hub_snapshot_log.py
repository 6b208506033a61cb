"""Snapshots that a hub makes of a log in SQL: trimmed behind the horizon, by one process at a time, killed at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra hub")

from localstore import Realm
from localstore.adapter import Hello, Limit, SnapshotInfo
from localstore.environment import Environment
from localstore.errors import ResetRequired
from localstore.hub.lines import Lines
from localstore.hub.snapshot_maker import SnapshotMaker
from localstore.registry import adapter_factory
from localstore.testing.clock import environment
from localstore.testing.conformance import new_device
from localstore_adapters._sql_tables import LOG_TABLES
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.integration.snapshot_maker_process import EVERY, maker
from tests.integration.test_killed_snapshots import A_MOMENT, A_WHILE, comes
from tests.postgres_server import PostgresServer
from tests.unit.session_kit import PATIENCE, World, add, texts

DAY_S = 86_400
HELLO = Hello(app="kit", partition="default", device=new_device())


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    server.execute(f"TRUNCATE {', '.join(table.name for table in LOG_TABLES)} RESTART IDENTITY", server.database)
    return server.url(server.database)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def write_many(realm: Realm, count: int, word: str) -> None:
    for number in range(count):
        add(realm, f"{word} {number}")
    assert realm.sync_session.upload_all_local_changes(PATIENCE)


def look(of: SnapshotMaker) -> None:
    of.note("default")
    of.look_at_all()
    asyncio.run(of.step())


def test_the_log_is_trimmed_behind_the_horizon_and_who_was_away_longer_is_reset(world: World, tmp_path: Path) -> None:
    surroundings = environment(world.clock, seed=5)
    store = SqlStore(f"sqlite:///{tmp_path / 'log.db'}", environment=surroundings)

    def line() -> SqlAdapter:
        return SqlAdapter(store)

    hub = SnapshotMaker(
        Lines(line, "kit", max_lines=1, max_calls=1, environment=surroundings),
        every=EVERY,
        horizon_days=30,
        keeps_snapshots=True,
        files=maker("memory://unused", tmp_path / "hub", surroundings)._files,
        environment=surroundings,
        metrics=maker("memory://unused", tmp_path, surroundings)._metrics,
    )
    away = world.device("away", remote=line, snapshot_every=0)
    realm = away.open()
    write_many(realm, 2, "from the one that goes")
    realm.sync_session.pause()
    add(realm, "unsent")
    busy = world.open("busy", remote=line, snapshot_every=0)
    write_many(busy, 2 * EVERY, "early")
    look(hub)
    assert first_position(store) == 1, "it is in a snapshot, and young"
    world.clock.advance(31 * DAY_S)
    write_many(busy, EVERY, "late")
    look(hub)
    assert first_position(store) == 2 * EVERY + 3, "what is in both snapshots and old is let go of"
    realm.sync_session.resume()
    assert realm.sync_session.upload_all_local_changes(PATIENCE)
    assert realm.sync_session.last_reset is not None
    assert busy.sync_session.download_all_server_changes(PATIENCE)
    assert texts(realm) == texts(busy)
    assert "unsent" in texts(busy)


def test_a_snapshot_that_grew_old_is_enough_to_trim_by(world: World, tmp_path: Path) -> None:
    surroundings = environment(world.clock, seed=5)
    store = SqlStore(f"sqlite:///{tmp_path / 'log.db'}", environment=surroundings)
    hub = maker("memory://unused", tmp_path / "hub", surroundings)
    hub._lines.make = hub._merging._make_log = lambda: SqlAdapter(store)
    write_many(world.open(remote=lambda: SqlAdapter(store), snapshot_every=0), EVERY, "early")
    look(hub)
    assert first_position(store) == 1
    world.clock.advance(31 * DAY_S)
    look(hub)
    assert first_position(store) is None, "though nothing came since"


def test_a_log_that_was_emptied_is_not_begun_anew_by_the_hub_itself(world: World, tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    url = f"sqlite:///{file}"
    hub = maker(url, tmp_path / "hub", environment(world.clock, seed=5))
    device = world.device(remote=adapter_factory(url), snapshot_every=0)
    write_many(device.open(), EVERY, "note")
    look(hub)
    device.close()
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    look(hub)
    look(hub)
    assert not file.exists()


def first_position(store: SqlStore) -> int | None:
    """Of the oldest changeset that the log still has."""
    store.hold()
    try:
        with store.reading() as connection:
            row = connection.exec_driver_sql("SELECT min(position) FROM localstore_log_changeset").one()
            found: int | None = row[0]
            return found
    finally:
        store.let_go()


def test_a_task_is_claimed_by_one_line_at_a_time(postgres: PostgresServer) -> None:
    url = postgres.url(postgres.database)

    async def steps() -> None:
        one, other = SqlAdapter(SqlStore(url)), SqlAdapter(SqlStore(url))
        elsewhere = SqlAdapter(SqlStore(url))
        await one.connect(HELLO)
        await other.connect(HELLO)
        await elsewhere.connect(Hello(app="kit", partition="another", device=new_device()))
        try:
            async with one.claimed("snapshot") as is_ours:
                assert is_ours
                for line, expected in ((other, False), (elsewhere, True)):
                    async with line.claimed("snapshot") as also:
                        assert also is expected
            async with other.claimed("snapshot") as is_ours:
                assert is_ours
        finally:
            for line in (one, other, elsewhere):
                await line.close()

    postgres.execute(f"TRUNCATE {', '.join(table.name for table in LOG_TABLES)} RESTART IDENTITY", postgres.database)
    asyncio.run(asyncio.wait_for(steps(), PATIENCE))


def test_a_hub_on_another_computer_passes_over_what_is_claimed(world: World, tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.url(postgres.database)
    postgres.execute(f"TRUNCATE {', '.join(table.name for table in LOG_TABLES)} RESTART IDENTITY", postgres.database)
    write_many(world.open(remote=adapter_factory(url), snapshot_every=0), EVERY, "note")

    async def latest() -> SnapshotInfo | None:
        line = SqlAdapter(SqlStore(url))
        await line.connect(HELLO)
        try:
            return await line.latest_snapshot()
        finally:
            await line.close()

    async def look_while_it_is_claimed() -> None:
        line = SqlAdapter(SqlStore(url))
        await line.connect(HELLO)
        async with line.claimed("snapshot"):
            hub = maker(url, tmp_path / "here", Environment())
            hub.note("default")
            await hub.step()
        await line.close()

    asyncio.run(look_while_it_is_claimed())
    assert asyncio.run(latest()) is None
    look(maker(url, tmp_path / "there", Environment()))
    assert asyncio.run(latest()) is not None


@contextlib.contextmanager
def process(url: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-m", "tests.integration.snapshot_maker_process", url, str(directory)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.slow
def test_a_hub_that_is_killed_while_it_makes_snapshots_loses_and_leaves_nothing(tmp_path: Path, url: str, world: World) -> None:
    chance = random.Random(7)
    make_log, directory = adapter_factory(url), tmp_path / "hub"
    realm = world.open(remote=make_log, snapshot_every=0)
    killed_at_it = 0
    for number in range(8):
        write_many(realm, 2 * EVERY, f"round {number}")
        with process(url, directory):
            killed_at_it += comes(lambda: list(directory.rglob("*.snapshot-*")), A_WHILE)
            time.sleep(chance.random() * A_MOMENT)
    assert killed_at_it
    write_many(realm, EVERY, "last")
    look(maker(url, directory, Environment()))

    async def history() -> int | None:
        line = make_log()
        await line.connect(HELLO)
        try:
            with contextlib.suppress(ResetRequired):
                await line.pull(None, Limit())
            assert isinstance(line, SqlAdapter)
            info = await line.latest_snapshot()
            return None if info is None else info.later
        finally:
            await line.close()

    assert asyncio.run(history()) == 0, "the last one is a whole snapshot of all"
    assert not list(directory.rglob("*.snapshot-*"))
    with world.device("new", remote=make_log, snapshot_every=0).open() as new:
        assert new.sync_session.download_all_server_changes(PATIENCE)
        assert texts(new) == texts(realm)
