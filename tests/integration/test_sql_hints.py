"""What a log in SQL tells those who watch it in the same process: what is little comes along, and is what a pull gives."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest

from localstore.adapter import Cursor, Hint, Limit, Page
from localstore.testing.conformance import Line, new_device
from localstore_adapters._sql_tables import LOG_TABLES
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.integration.test_sql_log import connected, run
from tests.postgres_server import PostgresServer

_LITTLE = 32 * 1024


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """Of a server: a look at an SQLite file may come before the line has said what it stored, and then it is read."""
    server = postgres
    server.execute(f"TRUNCATE {', '.join(table.name for table in LOG_TABLES)} RESTART IDENTITY", server.database)
    return server.url(server.database)


@contextlib.asynccontextmanager
async def watched(line: Line) -> AsyncIterator[AsyncIterator[Hint]]:
    """What a line is told, from a moment on in which it is sure to hear."""
    assert isinstance(line.adapter, SqlAdapter)
    async with contextlib.aclosing(line.adapter.watch(None)) as hints:
        for _ in ("there is something already", "the server listens"):
            assert await anext(hints) == Hint()
        yield hints


async def pulled(line: Line, after: Cursor | None) -> Page:
    return await line.adapter.pull(after, Limit())


async def caught_up(line: Line) -> Cursor:
    page = await pulled(line, None)
    assert not page.more
    return page.cursor


def test_what_is_pushed_is_brought_to_who_watches_and_is_what_a_pull_gives(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as writer, connected(store) as reader:
            await writer.push(1, 1)
            async with watched(reader) as hints:
                cursor = await caught_up(reader)
                for first, last in [(2, 2), (3, 5)]:
                    await writer.push(first, last)
                    hint = await anext(hints)
                    page = await pulled(reader, cursor)
                    assert hint == Hint(after=cursor, page=Page(changesets=page.changesets, cursor=page.cursor, more=False))
                    assert len(page.changesets) == last + 1 - first
                    cursor = page.cursor

    run(story())


def test_what_comes_at_once_from_several_is_left_to_a_pull(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as one, connected(store) as two, connected(store) as reader:
            await one.push(1, 1)
            async with watched(reader) as hints:
                cursor = await caught_up(reader)
                waiting = asyncio.ensure_future(anext(hints))
                await asyncio.sleep(0)
                await asyncio.gather(one.push(2, 2), two.push(1, 1))
                told = [await waiting]
                while len(told) < 2 and told[0].page is not None:
                    told.append(await anext(hints))
                for hint in told:  # each alone, one after the other; or together, without
                    if hint.page is not None:
                        assert hint.after == cursor
                        cursor = hint.page.cursor
                assert len((await pulled(reader, None)).changesets) == 3

    run(story())


def test_much_is_left_to_a_pull(url: str) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as writer, connected(store) as reader:
            await writer.push(1, 1)
            async with watched(reader) as hints:
                await writer.adapter.push(writer.make(2, 2, os.urandom(_LITTLE).hex()))
                assert await anext(hints) == Hint()

    run(story())


def test_who_pushed_it_itself_is_not_brought_it(url: str) -> None:
    store, device = SqlStore(url), new_device()

    async def story() -> None:
        async with connected(store, device) as one, connected(store, device) as twin, connected(store) as other:
            await other.push(1, 1)
            async with watched(twin) as hints:
                await one.push(1, 1)
                await other.push(2, 2)
                hint = await anext(hints)
                assert hint.page is not None
                assert [sealed.device for sealed in hint.page.changesets] == [other.device]

    run(story())


@pytest.mark.parametrize("twice", [False, True])
def test_a_push_that_comes_again_is_no_news(url: str, twice: bool) -> None:
    store = SqlStore(url)

    async def story() -> None:
        async with connected(store) as writer, connected(store) as reader:
            await writer.push(1, 1)
            async with watched(reader) as hints:
                cursor = await caught_up(reader)
                if twice:
                    await writer.push(1, 1)
                await writer.push(1, 2)  # of which the first is there
                hint = await anext(hints)
                assert hint.after == cursor
                assert hint.page is not None
                assert [sealed.number for sealed in hint.page.changesets] == [2]

    run(story())
