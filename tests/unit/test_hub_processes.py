"""Several processes of one hub: none holds what another would miss. Here each is a server of its own in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import httpx2

from localstore.adapter import Hello, Hint, Limit, Page
from localstore.http_messages import NEWS_BYTES
from localstore.hub.access import Access
from localstore.hub.serving import listen
from localstore.testing.conformance.suite import make_changeset, new_device
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore_adapters.http import HttpAdapter
from tests.unit.hub_kit import APP, PlayedAccounts, RunningHub, run, running_hub


@pytest.fixture
def hubs() -> Generator[tuple[RunningHub, RunningHub]]:
    """Two processes in front of one log."""
    remote = MemoryRemote()
    with running_hub(remote.adapter, heartbeat=0.2) as one, running_hub(remote.adapter, heartbeat=0.2) as other:
        yield one, other


@contextlib.asynccontextmanager
async def connected(
    hub: RunningHub, device: bytes | None = None, *, options: str = "?users=no", token: str | None = None
) -> AsyncGenerator[tuple[HttpAdapter, bytes]]:
    adapter, device = HttpAdapter.from_url(hub.address + options), device or new_device()
    try:
        await adapter.connect(Hello(app=APP, partition="default", device=device, token=token))
        yield adapter, device
    finally:
        await adapter.close()


@contextlib.asynccontextmanager
async def watching(adapter: HttpAdapter) -> AsyncGenerator[AsyncGenerator[Hint]]:
    """Hints of a stream that has begun, which it says by one; a log that is empty gives no others."""
    async with contextlib.aclosing(adapter.watch(None)) as hints:
        await anext(hints)
        yield hints


def test_a_push_through_one_process_wakes_a_device_at_another(hubs: tuple[RunningHub, RunningHub]) -> None:
    async def steps() -> None:
        async with connected(hubs[0]) as (writer, device), connected(hubs[1]) as (reader, _):
            async with watching(reader) as hints:
                await writer.push([make_changeset(device, 1)])
                assert await anext(hints) == Hint()
            page = await reader.pull(None, Limit())
            assert list(page.changesets) == [make_changeset(device, 1)]

    run(steps())


def test_small_news_come_with_their_event(hubs: tuple[RunningHub, RunningHub]) -> None:
    async def steps() -> None:
        async with (
            connected(hubs[0]) as (writer, device),
            connected(hubs[1]) as (reader, _),
            watching(reader) as hints,
        ):
            cursor = (await reader.pull(None, Limit())).cursor
            for number in (1, 2):
                await writer.push([make_changeset(device, number)])
                hint = await anext(hints)
                pulled = await reader.pull(cursor, Limit())
                assert list(pulled.changesets) == [make_changeset(device, number)]
                brought = Page(changesets=pulled.changesets, cursor=pulled.cursor, more=False)
                assert hint == Hint(after=cursor, page=brought)
                cursor = pulled.cursor
            async with httpx2.AsyncClient() as client:
                metrics = (await client.get(f"http://127.0.0.1:{hubs[1].port}/metrics")).text
            assert "localstore_hub_pulled_changesets_total 4.0" in metrics, "two were brought, and two pulled"

    run(steps())


def test_who_pushed_is_told_how_far_the_log_is_by_that(hubs: tuple[RunningHub, RunningHub]) -> None:
    async def steps() -> None:
        async with connected(hubs[0]) as (writer, device), watching(writer) as hints:
            cursor = (await writer.pull(None, Limit())).cursor
            await writer.push([make_changeset(device, 1)])
            hint = await anext(hints)
            assert hint.page is None or not hint.page.changesets, "the first time it is not known who pushed"
            cursor = (await writer.pull(cursor, Limit())).cursor
            await writer.push([make_changeset(device, 2)])
            moved = await anext(hints)
            assert (moved.after, moved.page and moved.page.changesets) == (cursor, ())
            assert moved.page is not None
            assert (await writer.pull(moved.page.cursor, Limit())).changesets == ()

    run(steps())


def test_of_large_news_an_event_only_tells(hubs: tuple[RunningHub, RunningHub]) -> None:
    async def steps() -> None:
        async with (
            connected(hubs[0]) as (writer, device),
            connected(hubs[1]) as (reader, _),
            watching(reader) as hints,
        ):
            await reader.pull(None, Limit())
            await writer.push([make_changeset(device, 1, blob_bytes=NEWS_BYTES)])
            assert await anext(hints) == Hint()

    run(steps())


def test_a_device_goes_on_at_another_process_where_it_was(hubs: tuple[RunningHub, RunningHub]) -> None:
    async def steps() -> None:
        async with connected(hubs[0]) as (adapter, device):
            await adapter.push([make_changeset(device, 1)])
            async with connected(hubs[1], device) as (again, _):
                await again.push([make_changeset(device, 2)])
            assert (await adapter.push([make_changeset(device, 3)])).acknowledged == 3, "though this line had seen 1 alone"

    run(steps())


def test_a_device_that_polls_is_told_of_news(hubs: tuple[RunningHub, RunningHub]) -> None:
    async def steps() -> None:
        poll = "?users=no&watch=poll"
        async with (
            connected(hubs[0]) as (writer, device),
            connected(hubs[1], options=poll) as (reader, _),
            watching(reader) as hints,
        ):
            await writer.push([make_changeset(device, 1)])
            assert await anext(hints) == Hint()

    run(steps())


def test_a_stream_ends_within_a_heartbeat_when_access_is_taken() -> None:
    accounts = PlayedAccounts("emma")
    accounts.grants["emma", "default"] = Access.READ

    async def steps() -> None:
        with running_hub(accounts=lambda: accounts, heartbeat=0.1) as hub:
            async with connected(hub, options="", token="emma") as (reader, _), watching(reader) as hints:
                accounts.grants.clear()
                told = [hint async for hint in hints]
                assert told == [Hint(reason="lost")], "so that the session looks, and is told why"

    run(steps())


def test_a_hub_that_ends_lets_its_streams_go_at_once() -> None:
    async def steps() -> None:
        with running_hub(heartbeat=600.0, shutdown_timeout=60.0) as hub:
            async with connected(hub) as (reader, _), watching(reader) as hints:
                await asyncio.to_thread(hub.stop)  # within the kit's patience, not the time limit for an end
                with pytest.raises(Exception, match="cannot be reached"):
                    async for _ in hints:
                        pass

    run(steps())


def test_a_log_that_fails_is_left_for_a_new_line_to_it() -> None:
    class Flaky(MemoryAdapter):
        opened = 0
        failing = False

        async def connect(self, hello: Hello) -> object:  # type: ignore[override]
            type(self).opened += 1
            return await super().connect(hello)

        async def push(self, batch: object) -> object:  # type: ignore[override]
            if type(self).failing:
                raise RuntimeError("a connection of the log broke")
            return await super().push(batch)  # type: ignore[arg-type]

    remote = MemoryRemote()

    async def steps() -> None:
        with running_hub(lambda: Flaky(remote)) as hub:
            async with connected(hub) as (adapter, device):
                await adapter.push([make_changeset(device, 1)])
                assert Flaky.opened == 1, "the line is kept"
                Flaky.failing = True
                with pytest.raises(Exception, match="tried again"):
                    await adapter.push([make_changeset(device, 2)])
                Flaky.failing = False
                assert (await adapter.push([make_changeset(device, 2)])).acknowledged == 2
                assert Flaky.opened == 2, "and made anew after an error"

    run(steps())


def test_lines_that_are_long_unused_are_closed() -> None:
    closed: list[bytes] = []

    class Telling(MemoryAdapter):
        async def close(self) -> None:
            closed.append(b"")
            await super().close()

    remote = MemoryRemote()

    async def steps() -> None:
        with running_hub(lambda: Telling(remote), max_lines=2) as hub:
            for _ in range(4):
                async with connected(hub):
                    pass
            assert len(closed) == 2

    run(steps())


async def _streamed(adapter: HttpAdapter, told: asyncio.Queue[str], name: str) -> None:
    async for hint in adapter.watch(None):
        if hint.page is None or hint.page.changesets:
            told.put_nowait(name)


def test_who_pushed_is_not_woken_and_nobody_is_woken_twice() -> None:
    remote = MemoryRemote()

    async def steps() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        with running_hub(remote.adapter) as hub, running_hub(remote.adapter) as other:
            async with connected(hub) as (writer, device), connected(hub) as (reader, _), connected(other) as (far, distant):
                streams = [
                    asyncio.ensure_future(_streamed(writer, told, "writer")),
                    asyncio.ensure_future(_streamed(reader, told, "reader")),
                ]
                assert {await told.get(), await told.get()} == {"writer", "reader"}, "each stream begins with one"
                await reader.pull(None, Limit())
                await far.push([make_changeset(distant, 1)])
                assert {await told.get(), await told.get()} == {"writer", "reader"}, "what came elsewhere is for both"
                for number in (1, 2, 3):
                    await writer.push([make_changeset(device, number)])
                    assert await told.get() == "reader"
                await far.push([make_changeset(distant, 2)])
                assert {await told.get(), await told.get()} == {"writer", "reader"}, "and so is this"
                for stream in streams:
                    stream.cancel()
                await asyncio.wait(streams)

    run(steps())


def test_who_comes_before_the_server_runs_is_not_turned_away() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()
