"""The memory remote beyond the contract: names, what tests can see of it, repeatability."""

from __future__ import annotations

import asyncio

import pytest

from localstore.adapter import Hello, Hint, Limit
from localstore.errors import Offline, ProtocolError, ResetRequired
from localstore.registry import adapter_factory
from localstore.testing.clock import ManualClock, environment
from localstore.testing.conformance import make_changeset
from localstore.testing.memory import MemoryAdapter, MemoryRemote

A, B = b"A" * 16, b"B" * 16


def hello(device: bytes, app: str = "todo") -> Hello:
    return Hello(app=app, partition="default", device=device)


def test_one_name_is_one_remote_in_the_whole_process() -> None:
    one, other = MemoryAdapter.from_url("memory://test-one-name"), adapter_factory("memory://test-one-name")()
    third = MemoryAdapter.from_url("memory://test-another-name")
    ids = [asyncio.run(adapter.connect(hello(A))).remote_id for adapter in (one, other, third)]
    assert ids[0] == ids[1] == MemoryRemote.named("test-one-name").remote_id
    assert ids[2] != ids[0]


def test_a_url_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="memory://todo"):
        MemoryAdapter.from_url("memory://")


def test_tests_can_see_what_is_stored() -> None:
    remote = MemoryRemote()
    adapter = remote.adapter()
    sent = [make_changeset(A, 1), make_changeset(A, 2)]

    async def story() -> None:
        await adapter.connect(hello(A))
        await adapter.push(sent)

    asyncio.run(story())
    assert remote.changesets() == remote.changesets("default") == sent
    assert remote.changesets("another") == []


def test_the_same_seed_gives_the_same_remote() -> None:
    clock = ManualClock(5000)
    remotes = [MemoryRemote(environment=environment(clock, seed)) for seed in (1, 1, 2)]
    welcomes = [asyncio.run(remote.adapter().connect(hello(A))) for remote in remotes]
    assert welcomes[0] == welcomes[1]
    assert welcomes[0].remote_id != welcomes[2].remote_id
    assert welcomes[0].time_ms == 5000


def test_another_application_is_told_whose_remote_it_is() -> None:
    remote = MemoryRemote()
    asyncio.run(remote.adapter().connect(hello(A)))
    with pytest.raises(ProtocolError, match="'todo', not of 'notes'"):
        asyncio.run(remote.adapter().connect(hello(A, app="notes")))


def test_a_line_must_be_connected_first() -> None:
    with pytest.raises(Offline, match="not connected"):
        asyncio.run(MemoryRemote().adapter().push([make_changeset(A, 1)]))


def test_a_batch_that_is_no_run_of_this_device_is_a_wrong_argument() -> None:
    async def story() -> None:
        adapter = MemoryRemote().adapter()
        await adapter.connect(hello(A))
        for batch in ([], [make_changeset(B, 1)], [make_changeset(A, 1), make_changeset(A, 3)]):
            with pytest.raises(ValueError, match="batch"):
                await adapter.push(batch)

    asyncio.run(story())


def test_going_offline_ends_a_watch_at_once() -> None:
    async def story() -> None:
        remote = MemoryRemote()
        adapter = remote.adapter()
        await adapter.connect(hello(A))
        coming = asyncio.ensure_future(anext(adapter.watch(None)))
        await asyncio.sleep(0)
        remote.go_offline()
        with pytest.raises(Offline):
            await coming

    asyncio.run(story())


def test_own_pushes_wake_only_the_others() -> None:
    async def story() -> None:
        remote = MemoryRemote()
        one, other = remote.adapter(), remote.adapter()
        await one.connect(hello(A))
        await other.connect(hello(B))
        hints = [asyncio.ensure_future(anext(adapter.watch(None))) for adapter in (one, other)]
        await asyncio.sleep(0)
        await one.push([make_changeset(A, 1)])
        assert await asyncio.wait_for(hints[1], 10) == Hint()
        assert not hints[0].done()
        hints[0].cancel()

    asyncio.run(story())


def test_a_new_device_reads_a_trimmed_history_in_pages_and_one_that_was_in_the_middle_cannot_go_on() -> None:
    remote = MemoryRemote()

    async def story() -> int:
        adapter = remote.adapter()
        await adapter.connect(hello(A))
        await adapter.push([make_changeset(A, number) for number in (1, 2, 3)])
        old = await adapter.pull(None, Limit(max_bytes=1000, max_count=1))
        remote.trim_history()
        with pytest.raises(ResetRequired, match="history trimmed"):
            await adapter.pull(old.cursor, Limit(max_bytes=1000, max_count=1))
        new = remote.adapter()
        await new.connect(hello(B))
        count, page = 0, await new.pull(None, Limit(max_bytes=1000, max_count=1))
        while page.more:
            count += len(page.changesets)
            page = await new.pull(page.cursor, Limit(max_bytes=1000, max_count=1))
        return count + len(page.changesets)

    assert asyncio.run(story()) == 3
