"""The hub's own lines to the log, which must not begin a history: a log that is empty all at once may be being restored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import httpx2

from localstore.adapter import Cursor, Hello, Hint, Welcome
from localstore.errors import Offline
from localstore.testing.conformance.suite import new_device
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore_adapters.http import HttpAdapter
from tests.unit.hub_kit import APP, PATIENCE, RunningHub, run, running_hub


async def is_ready(hub: RunningHub) -> bool:
    async with httpx2.AsyncClient() as client:
        return (await client.get(f"{hub.address}/ready")).status_code == 200


def test_a_watch_that_is_begun_again_is_of_the_history_that_is_known() -> None:
    remote = MemoryRemote()
    hellos: list[Hello] = []

    again = threading.Event()

    class Away(MemoryAdapter):
        async def connect(self, hello: Hello) -> Welcome:
            hellos.append(hello)
            if len(hellos) == 3:
                again.set()
            return await super().connect(hello)

        async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
            if len(hellos) < 3:  # the device, and the first watch
                raise Offline("The log is away.")
            async with aclosing(super().watch(cursor)) as hints:
                async for hint in hints:
                    yield hint

    async def steps() -> None:
        with running_hub(lambda: Away(remote)) as hub:
            adapter, device = HttpAdapter.from_url(hub.address + "?users=no"), new_device()
            await adapter.connect(Hello(app=APP, partition="default", device=device))
            async with aclosing(adapter.watch(None)) as hints:
                await anext(hints)  # it has begun
                assert await asyncio.to_thread(again.wait, PATIENCE)
            await adapter.close()
        assert [hello.remote_id for hello in hellos] == [None, remote.remote_id, remote.remote_id]

    run(steps())


def test_who_asks_whether_it_is_ready_begins_no_history_where_one_is_known() -> None:
    remote = MemoryRemote()
    hellos: list[Hello] = []

    class Noting(MemoryAdapter):
        async def connect(self, hello: Hello) -> Welcome:
            hellos.append(hello)
            return await super().connect(hello)

    async def steps() -> None:
        with running_hub(lambda: Noting(remote)) as hub:
            assert await is_ready(hub), "the first device has to get through"
            assert await is_ready(hub)
            remote.wipe()
            assert await is_ready(hub), "another history is one"
        assert [hello.remote_id is None for hello in hellos] == [True, False, False]

    run(steps())
