"""What the contract does not say of a log in SQL: trimming, backups, other processes, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from localstore.adapter import Hello, Hint, Limit, SnapshotInfo
from localstore.environment import Environment
from localstore.errors import NewerFormat, Offline, ProtocolError, ResetRequired, SnapshotUnusable, Unauthorized
from localstore.registry import adapter_factory
from localstore.testing.conformance import Line, new_device
from localstore_adapters._sql_layout import LAYOUT, VERSION_TABLE
from localstore_adapters._sql_log import place_of
from localstore_adapters._sql_snapshots import CHUNK_BYTES
from localstore_adapters._sql_tables import CHUNK, LOG_TABLES, SNAPSHOT
from localstore_adapters.sql import SqlAdapter, SqlStore, migrate
from tests.postgres_server import PostgresServer

_T = TypeVar("_T")
_PATIENCE = 30.0
_DAY_MS = 86_400_000


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    async def in_time() -> _T:
        return await asyncio.wait_for(coroutine, _PATIENCE)

    return asyncio.run(in_time())


@contextlib.asynccontextmanager
async def connected(store: SqlStore, device: bytes | None = None, **hello: Any) -> AsyncIterator[Line]:
    introduction = dataclasses.replace(Hello(app="todo", partition="default", device=device or new_device()), **hello)
    adapter = SqlAdapter(store)
    try:
        yield Line(adapter, introduction, await adapter.connect(introduction))
    finally:
        await adapter.close()


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def snapshot(line: Line, *chunks: bytes) -> SnapshotInfo:
    """Write one where the line stands."""
    assert isinstance(line.adapter, SqlAdapter)
    assert line.cursor is not None
    await line.adapter.write_snapshot(line.cursor, chunks_of(*chunks))
    info = await line.adapter.latest_snapshot()
    assert info is not None
    return info


def count(store: SqlStore, table: sa.Table) -> int:
    store.hold()
    try:
        with store.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    finally:
        store.let_go()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    server.execute(f"TRUNCATE {', '.join(table.name for table in LOG_TABLES)} RESTART IDENTITY", server.database)
    return server.url(server.database)


def test_a_url_leads_to_one_store_for_all_its_lines(url: str) -> None:
    make = adapter_factory(url)
    one, other = make(), make()
    assert isinstance(one, SqlAdapter)
    assert isinstance(other, SqlAdapter)
    assert one._store is other._store


def test_the_end_of_a_snapshot_is_read_without_what_is_before_it(url: str) -> None:
    store = SqlStore(url)
    content = bytes(range(256)) * 10_000  # two chunks and a half

    async def story() -> None:
        async with connected(store) as line:
            await line.push(1, 1)
            await line.read()
            info = await snapshot(line, content)
            assert isinstance(line.adapter, SqlAdapter)
            for start in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(content) - 1):
                assert b"".join([chunk async for chunk in line.adapter.read_snapshot_from(info, start)]) == content[start:]
            with store.writing() as connection:
                connection.execute(sa.delete(CHUNK).where(CHUNK.c.number == 0))
            last = [chunk async for chunk in line.adapter.read_snapshot_from(info, 2 * CHUNK_BYTES)]
            assert last == [content[2 * CHUNK_BYTES :]]

    run(story())


def test_history_in_a_snapshot_is_let_go_of_and_stays_known(url: str) -> None:
    store = SqlStore(url, keep_days=0)

    async def story() -> None:
        async with connected(store) as writer, connected(store) as behind:
            for number in range(1, 1201):  # more than is let go of at once
                await writer.push(number, number) if number % 100 == 1 else None
                if number % 100 == 1:
                    await writer.push(number + 1, number + 99)
            await behind.pull(Limit(max_count=7))
            await writer.read()
            info = await snapshot(writer, b"all of it")
            assert isinstance(writer.adapter, SqlAdapter)
            await writer.adapter.trim(info.cursor)
            for cursor in (None, behind.cursor):
                with pytest.raises(ResetRequired, match="history trimmed"):
                    await behind.adapter.pull(cursor, Limit())
            assert (await writer.push(1195, 1202)).acknowledged == 1202
            behind.cursor = info.cursor
            assert await behind.read() == writer.make(1201, 1202)
            page = await behind.adapter.pull(info.cursor, Limit(max_count=1))
            assert page.remaining_bytes == writer.make(1202, 1202)[0].byte_count
            later = await writer.adapter.latest_snapshot()
            assert later is not None
            assert later.later == 2
        async with connected(store, writer.device, remote_id=writer.welcome.remote_id, cursor=info.cursor) as again:
            assert again.welcome.last_number == 1202
            assert again.welcome.horizon_days == 0

    run(story())


def test_a_devices_own_changesets_are_left_out_as_far_as_it_says_that_it_has_them(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as writer, connected(store) as other:
            await writer.push(1, 5)
            await other.push(1, 1)
            await writer.push(6, 7)
            pages = [await writer.pull(Limit(max_count=3)) for _ in range(3)]
            assert [page.changesets for page in pages] == [(), tuple(other.make(1, 1)), ()]
            assert [page.more for page in pages] == [True, True, False]
        known = {"remote_id": writer.welcome.remote_id, "acknowledged": 5}
        async with connected(store, writer.device, **known) as copy:
            page = await copy.adapter.pull(None, Limit())
            assert list(page.changesets) == [*other.make(1, 1), *writer.make(6, 7)], "it never sent these: it is told of a copy"

    run(story())


def test_history_is_kept_for_the_horizon_that_the_device_names(tmp_path: Path) -> None:
    now = [1_800_000_000_000]
    store = SqlStore(f"sqlite:///{tmp_path / 'log.db'}", environment=Environment(now_ms=lambda: now[0]))

    async def story() -> None:
        async with connected(store, horizon_days=2.0) as writer, connected(store) as new:
            await writer.push(1, 2)
            now[0] += _DAY_MS
            await writer.push(3, 4)
            await writer.read()
            info = await snapshot(writer, b"all")
            assert isinstance(writer.adapter, SqlAdapter)
            await writer.adapter.trim(info.cursor)
            assert len((await new.adapter.pull(None, Limit())).changesets) == 4
            now[0] += _DAY_MS
            await writer.adapter.trim(info.cursor)
            with pytest.raises(ResetRequired, match="history trimmed"):
                await new.adapter.pull(None, Limit())
            assert (await writer.connect_again()).horizon_days == 2.0

    run(story())


def test_a_snapshot_is_read_to_its_end_beside_the_next_one_and_the_one_after_ends_it(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as writer:
            await writer.push(1, 1)
            await writer.read()
            assert isinstance(writer.adapter, SqlAdapter)
            old = await snapshot(writer, b"x" * 3_000_000)
            reading = writer.adapter.read_snapshot(old)
            received = [await anext(reading)]
            assert len(received[0]) < 2_000_000, "in chunks, however it was written"
            await snapshot(writer, b"newer")
            received += [chunk async for chunk in reading]
            assert b"".join(received) == b"x" * 3_000_000
            await snapshot(writer, b"newest")
            with pytest.raises(SnapshotUnusable):
                await anext(writer.adapter.read_snapshot(old))
            assert (await snapshot(writer)).byte_count == 0

    run(story())
    assert count(store, SNAPSHOT) == 2
    assert count(store, CHUNK) == 1


def test_a_large_snapshot_is_taken_away_a_little_at_a_time_while_others_go_on(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as writer:
            await writer.push(1, 1)
            await writer.read()
            adapter = writer.adapter
            assert isinstance(adapter, SqlAdapter)
            line, place = adapter._connected(), place_of(writer.cursor, writer.welcome.remote_id)
            for chunks in (150, 1, 1):
                written = adapter._begin_snapshot(line)
                for _ in range(chunks):
                    adapter._add_chunk(line, written, b"a chunk")
                adapter._publish(line, written, place)
            assert (count(store, SNAPSHOT), count(store, CHUNK)) == (3, 152), "who publishes holds the lock"
            left = []
            while adapter._sweep():
                left.append((count(store, SNAPSHOT), count(store, CHUNK)))
            assert left == [(3, 88), (3, 24), (2, 2)]

    run(story())


def test_what_was_broken_off_is_cleared_away_by_whoever_writes_a_day_later(tmp_path: Path) -> None:
    now = [1_800_000_000_000]
    store = SqlStore(f"sqlite:///{tmp_path / 'log.db'}", environment=Environment(now_ms=lambda: now[0]))

    async def story() -> None:
        async with connected(store) as writer:
            await writer.push(1, 1)
            await writer.read()
            assert isinstance(writer.adapter, SqlAdapter)
            line = writer.adapter._connected()
            written = writer.adapter._begin_snapshot(line)  # and then its process is killed
            writer.adapter._add_chunk(line, written, b"half of it")
            await snapshot(writer, b"whole")
            assert count(store, SNAPSHOT) == 2
            now[0] += _DAY_MS + 1
            await snapshot(writer, b"whole again")
            assert count(store, SNAPSHOT) == 2
            with pytest.raises(Offline):
                writer.adapter._add_chunk(line, written, b"the other half")

    run(story())


def test_a_restored_backup_is_noticed_also_when_its_history_has_grown_again(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqlStore(f"sqlite:///{path}")

    async def story() -> None:
        async with connected(store) as writer, connected(store) as reader:
            await writer.push(1, 3)
            _back_up(path, tmp_path / "backup")
            await writer.push(4, 5)
            await reader.read()
        _replace(path, tmp_path / "backup")
        known = {"remote_id": reader.welcome.remote_id, "cursor": reader.cursor}
        with pytest.raises(ResetRequired, match="remote restored"):
            async with connected(store, reader.device, **known):
                pass
        async with connected(store) as other:
            await other.push(1, 5)
        with pytest.raises(ResetRequired, match="remote restored"):
            async with connected(store, reader.device, **known):
                pass
        async with connected(store, writer.device, remote_id=writer.welcome.remote_id) as again:
            assert again.welcome.last_number == 3

    run(story())


def _back_up(path: Path, backup: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)


def _replace(path: Path, backup: Path) -> None:
    for name in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    backup.replace(path)


def test_other_processes_are_heard_of(url: str) -> None:
    """Another store of the same database has no more in common with this one than another process."""
    here, elsewhere = SqlStore(url), SqlStore(url)

    async def story() -> None:
        async with connected(here) as watcher, connected(elsewhere) as writer:
            await writer.push(1, 1)
            await watcher.read()
            assert isinstance(watcher.adapter, SqlAdapter)
            hints = watcher.adapter.watch(watcher.cursor)
            for number in range(2, 5):  # the first may be for the beginning
                coming = asyncio.ensure_future(anext(hints))
                await writer.push(number, number)
                assert isinstance(await coming, Hint)
            await hints.aclose()

    run(story())


def test_a_listener_that_loses_the_server_wakes_everybody_and_listens_again(postgres: PostgresServer) -> None:
    here, elsewhere = SqlStore(postgres.url(postgres.database)), SqlStore(postgres.url(postgres.database))

    async def story() -> None:
        async with connected(here, partition="lost") as watcher, connected(elsewhere, partition="lost") as writer:
            assert isinstance(watcher.adapter, SqlAdapter)
            hints = watcher.adapter.watch(watcher.cursor)
            assert isinstance(await anext(hints), Hint)  # it listens from now on
            postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            assert isinstance(await anext(hints), Hint)
            for number in range(1, 4):
                coming = asyncio.ensure_future(anext(hints))
                await writer.push(number, number)
                assert isinstance(await coming, Hint)
            await hints.aclose()

    run(story())


def test_a_snapshot_of_another_partition_is_not_given(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store, partition="mine") as one, connected(store, partition="yours") as other:
            await one.push(1, 1)
            await one.read()
            info = await snapshot(one, b"mine alone")
            assert isinstance(other.adapter, SqlAdapter)
            with pytest.raises(SnapshotUnusable):
                await anext(other.adapter.read_snapshot(info))

    run(story())


def test_a_cursor_of_another_partition_is_not_taken(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store, partition="mine") as one, connected(store, partition="yours") as other:
            await one.push(1, 2)
            await other.push(1, 2)
            await one.read()
            with pytest.raises(ResetRequired):
                await other.adapter.pull(one.cursor, Limit())

    run(story())


def test_a_store_closes_everything_with_its_last_line(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as one, connected(store):
            await one.push(1, 1)
            assert store._open is not None
            threads.append(store._open.threads)

    threads: list[ThreadPoolExecutor] = []
    run(story())
    threads[0].shutdown()  # and what was under way has ended
    assert store._open is None


def test_a_writer_that_holds_the_file_holds_up_no_reader_and_no_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqlStore(f"sqlite:///{path}")

    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            reader, *writers = [await stack.enter_async_context(connected(store)) for _ in range(21)]
            await writers[0].push(1, 1)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as somebody:
                somebody.execute("BEGIN IMMEDIATE")
                pushing = [asyncio.ensure_future(writer.push(1, 2)) for writer in writers]
                assert await reader.read() == writers[0].make(1, 1)
                assert not any(push.done() for push in pushing)
                somebody.execute("COMMIT")
            assert [(await push).acknowledged for push in pushing] == [2] * 20

    run(story())


def test_many_lines_of_a_process_take_few_connections(postgres: PostgresServer) -> None:
    store = SqlStore(postgres.url(postgres.database))

    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(connected(store, partition=f"team {n % 7}")) for n in range(60)]
            await asyncio.gather(*(line.push(1, 3) for line in lines))
            with store.reading() as connection:
                count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'localstore'"
                assert connection.exec_driver_sql(count).scalar_one() <= 8
            for line in lines:
                assert len(await line.read()) == 3 * len([o for o in lines if o.hello.partition == line.hello.partition]) - 3

    run(story())


def test_a_role_needs_to_read_and_write_the_tables_and_no_more(postgres: PostgresServer) -> None:
    with contextlib.suppress(Exception):
        postgres.execute("CREATE ROLE till LOGIN")
    tables = ", ".join([VERSION_TABLE, *(table.name for table in LOG_TABLES)])
    postgres.execute(f"GRANT SELECT ON {tables} TO till", postgres.database)
    store = SqlStore(postgres.url(postgres.database, "till"), keep_days=0)

    async def story() -> None:
        with pytest.raises(Unauthorized):
            async with connected(store, partition="of the till"):
                pass
        postgres.execute(f"GRANT INSERT, UPDATE, DELETE ON {tables} TO till", postgres.database)
        async with connected(store, partition="of the till") as line:
            await line.push(1, 3)
            await line.push(2, 4)
            await line.read()
            info = await snapshot(line, b"all")
            assert isinstance(line.adapter, SqlAdapter)
            await line.adapter.trim(info.cursor)

    run(story())


def test_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    url = f"sqlite:///{path}"
    migrate(url)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = 'log_9999'")
    with pytest.raises(NewerFormat, match=f"log_9999.*{LAYOUT}"):
        migrate(url)

    async def story() -> None:
        with pytest.raises(NewerFormat):
            async with connected(SqlStore(url)):
                pass

    run(story())


def test_many_may_migrate_at_once(url: str, request: pytest.FixtureRequest) -> None:
    if url.startswith("postgresql"):
        server: PostgresServer = request.getfixturevalue("postgres")
        server.execute("DROP DATABASE IF EXISTS empty")
        server.execute("CREATE DATABASE empty")
        url = server.url("empty")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, [url] * 4))
    migrate(url)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database, but long enough to look like one might " * 20)
    with pytest.raises(ProtocolError):
        migrate(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"not a database")


def test_a_known_history_that_is_not_there_is_waited_for(url: str) -> None:
    async def story() -> None:
        with pytest.raises(Offline):
            async with connected(SqlStore(url), remote_id="f" * 32):
                pass

    run(story())


@pytest.mark.parametrize(
    ("user", "database", "error"),
    [("locked_out", "log", Unauthorized), ("nobody_known", "log", Unauthorized), ("postgres", "missing", Offline)],
)
def test_an_error_names_what_to_do_and_no_password(
    postgres: PostgresServer, user: str, database: str, error: type[Exception]
) -> None:
    with contextlib.suppress(Exception):
        postgres.execute("CREATE ROLE locked_out LOGIN PASSWORD 'another one'")
    url = postgres.url(database, f"{user}:s3cret-w%40rd")

    async def story() -> None:
        with pytest.raises(error) as caught:
            async with connected(SqlStore(url)):
                pass
        shown: BaseException | None = caught.value
        while shown is not None:
            assert "s3cret" not in f"{shown} {shown!r} {shown.args}"
            shown = shown.__cause__ or shown.__context__

    run(story())


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://host/file.db",
        "postgresql://emma:s3cret@word@host/todo",
        "postgresql://emma:s3cret/word@host/todo",
        "postgresql://emma:s3cret#word@host/todo",
        "postgresql+asyncpg://emma:s3cret@host/todo",
    ],
)
def test_a_url_that_names_no_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"'.*'") as caught:
        SqlAdapter.from_url(url)
    assert "s3cret" not in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """Whoever forgets a connection is told by the interpreter."""
    yield
    import gc

    gc.collect()
