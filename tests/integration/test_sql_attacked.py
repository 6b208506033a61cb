"""A log in SQL under bad luck: locks that are held, servers that end transactions, names that are hard to write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from localstore.adapter import Hello, Limit
from localstore.errors import LocalStoreError, Offline
from localstore_adapters._sql_tables import LOG_TABLES
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.integration.test_sql_log import connected, run
from tests.postgres_server import PostgresServer


@pytest.fixture
def server(postgres: PostgresServer) -> PostgresServer:
    postgres.execute(f"TRUNCATE {', '.join(table.name for table in LOG_TABLES)} RESTART IDENTITY", postgres.database)
    return postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    server: PostgresServer = request.getfixturevalue("server")
    return server.url(server.database)


@contextlib.contextmanager
def transaction(server: PostgresServer) -> Iterator[Any]:
    """One of somebody else's."""
    import psycopg

    with psycopg.connect(server.url(server.database)) as connection:
        yield connection


async def waiting(server: PostgresServer, count: int) -> None:
    """Until so many wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with transaction(server) as connection:
        connection.autocommit = True
        while connection.execute(query).fetchone()[0] < count:  # noqa: ASYNC110 - the server has no other way to tell
            await asyncio.sleep(0.01)


LOCK = "SELECT 1 FROM localstore_log_partition WHERE name = %s FOR UPDATE"


def test_pushes_of_one_device_over_two_lines_take_their_locks_in_one_order(server: PostgresServer) -> None:
    """Whoever has the partition's lock can write the device's row, also while another push of the device waits."""

    async def story() -> None:
        async with connected(SqlStore(server.url(server.database))) as line:
            await line.push(1, 1)
            with transaction(server) as other:
                other.execute(LOCK, ["default"])
                pushing = asyncio.ensure_future(line.push(2, 2))
                await waiting(server, 1)
                other.execute("SET lock_timeout = '5s'; UPDATE localstore_log_device SET number = number")
                other.commit()
            assert (await pushing).acknowledged == 2

    run(story())


def test_a_device_that_is_new_takes_its_locks_in_the_same_order(server: PostgresServer) -> None:
    async def story() -> None:
        async with connected(SqlStore(server.url(server.database))) as line:
            with transaction(server) as other:
                other.execute(LOCK, ["default"])
                pushing = asyncio.ensure_future(line.push(1, 1))
                await waiting(server, 1)
                insert = "INSERT INTO localstore_log_device SELECT id, %s, 0 FROM localstore_log_partition"
                other.execute("SET lock_timeout = '5s'")
                other.execute(insert, [line.device])
                other.rollback()
            assert (await pushing).acknowledged == 1

    run(story())


def test_a_partition_that_is_locked_holds_up_no_other(server: PostgresServer) -> None:
    store = SqlStore(server.url(server.database))

    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            reader, *lines = [await stack.enter_async_context(connected(store, partition="locked")) for _ in range(21)]
            other = await stack.enter_async_context(connected(store, partition="other"))
            with transaction(server) as somebody:
                somebody.execute(LOCK, ["locked"])
                pushing = [asyncio.ensure_future(line.push(1, 1)) for line in lines]
                await waiting(server, 4)
                assert (await other.push(1, 1)).acknowledged == 1
                assert await reader.read() == [], "nor who reads"
                assert not any(push.done() for push in pushing)
            assert [(await push).acknowledged for push in pushing] == [1] * len(lines)

    run(story())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the server's processes in /proc")
def test_a_server_that_is_frozen_is_given_up_and_come_back_to(server: PostgresServer) -> None:
    """Nothing that the server or the network sees to would ever end a call."""
    store = SqlStore(server.url(server.database), patience=0.2)
    store.hold()
    with pytest.raises(Offline, match="nothing was heard"), store.reading() as connection, server.standing_still():
        connection.execute(sa.text("SELECT 1"))
    with store.reading() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    store.let_go()


def _sleep_in_a_transaction(store: SqlStore) -> None:
    with store.writing() as connection:
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '10ms'"))
        threading.Event().wait(0.1)
        connection.execute(sa.text("SELECT 1"))


def test_who_was_asleep_in_a_transaction_comes_back(server: PostgresServer) -> None:
    """The server has ended it meanwhile, and says so at the next word."""
    store = SqlStore(server.url(server.database))

    async def story() -> None:
        async with connected(store) as line:
            with pytest.raises(Offline):
                _sleep_in_a_transaction(store)
            assert (await line.push(1, 1)).acknowledged == 1

    run(story())


NAMES = ["a b", "ä" * 200, "\U0001f9e0", "e\u0301", "é", "Default", "user:1", "../..", "%s", "'; DROP TABLE x; --", "\\", ":a"]


def test_partitions_are_told_apart_letter_for_letter(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(connected(store, partition=name)) for name in NAMES]
            for line in lines:
                await line.push(1, 1)
            for line in lines:
                page = await line.adapter.pull(None, Limit())
                assert list(page.changesets) in ([], line.make(1, 1))
            async with connected(store, partition=NAMES[3]) as new:
                assert await new.read() == lines[3].make(1, 1)

    run(story())


@pytest.mark.parametrize("field", ["app", "partition"])
@pytest.mark.parametrize("name", ["a\0b", "\ud800", "".join(map(chr, range(0x4E00, 0x5E00))), "x\n"], ids=ascii)
def test_a_name_that_a_database_cannot_hold_is_an_error_of_the_contract(url: str, field: str, name: str) -> None:
    async def story() -> None:
        adapter = SqlAdapter(SqlStore(url))
        hello: dict[str, Any] = {"app": "todo", "partition": "default", field: name}
        try:
            with contextlib.suppress(LocalStoreError):
                await adapter.connect(Hello(device=bytes(16), **hello))
        finally:
            await adapter.close()

    run(story())


@pytest.mark.skipif(os.name == "nt", reason="it has no such modes")
def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with connected(SqlStore(f"sqlite:///{tmp_path / 'log.db'}")) as line:
            await line.push(1, 1)
            modes.update((path.name, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.glob("*"))  # noqa: ASYNC240

    modes: dict[str, int] = {}
    run(story())
    assert modes == dict.fromkeys(("log.db", "log.db-wal", "log.db-shm"), 0o600)


@pytest.mark.parametrize(
    ("trouble", "mended"), [("max_page_count = 1", "max_page_count = 9999"), ("query_only = 1", "query_only = 0")]
)
def test_a_full_disk_and_a_file_that_may_only_be_read_are_waited_for(tmp_path: Path, trouble: str, mended: str) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'log.db'}", connections=1)

    async def story() -> None:
        async with connected(store) as line:
            with store.writing() as connection:  # the only one there is
                connection.exec_driver_sql(f"PRAGMA {trouble}")
            with pytest.raises(Offline):
                await line.push(1, 200)
            with store.reading() as connection:
                connection.exec_driver_sql(f"PRAGMA {mended}")
            welcome = await line.connect_again()
            assert (await line.push(welcome.last_number + 1, welcome.last_number + 1)).acknowledged == welcome.last_number + 1

    run(story())


def test_a_server_that_may_only_be_read_is_waited_for(server: PostgresServer) -> None:
    """As a standby that has not taken over yet."""

    async def story() -> None:
        store = SqlStore(server.url(server.database))
        async with connected(store) as line:
            await line.push(1, 1)
        server.execute(f"ALTER DATABASE {server.database} SET default_transaction_read_only = on")
        try:
            async with connected(store, line.device, remote_id=line.welcome.remote_id) as again:
                with pytest.raises(Offline):
                    await again.push(2, 2)
        finally:
            server.execute(f"ALTER DATABASE {server.database} RESET default_transaction_read_only")
        async with connected(store, line.device, remote_id=line.welcome.remote_id) as again:
            assert (await again.push(2, 2)).acknowledged == 2

    run(story())
