"""Faults strike where the plan says, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from localstore import Credentials
from localstore.adapter import Hello, Hint, Limit, SupportsUsers, SupportsWatch
from localstore.errors import Busy, Offline, ResetRequired, Unauthorized
from localstore.testing.conformance import make_changeset
from localstore.testing.faulty import Call, Fault, FaultyAdapter, Hang, LoseAnswer, Plan, Raise, Repeat, SmallPage, in_turn
from localstore.testing.memory import MemoryRemote
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore.testing.memory_users import MemoryRemoteWithUsers

A, B = b"A" * 16, b"B" * 16


@pytest.fixture
def remote() -> MemoryRemote:
    return MemoryRemote()


async def connected(remote: MemoryRemote, plan: Plan, device: bytes = A) -> FaultyAdapter:
    adapter = FaultyAdapter(remote.adapter(), plan)
    await adapter.connect(Hello(app="todo", partition="default", device=device))
    return adapter


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 10))


def test_without_faults_it_is_the_adapter_inside(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, lambda call: None)
        assert adapter.capabilities == remote.adapter().capabilities
        assert (await adapter.push([make_changeset(A, 1)])).acknowledged == 1
        assert len((await adapter.pull(None, Limit())).changesets) == 1
        await adapter.close()
        with pytest.raises(Offline):
            await adapter.pull(None, Limit())

    run(story())


def test_an_error_before_the_call_prevents_it(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, in_turn("push", Raise(Busy("later", retry_after=3))))
        with pytest.raises(Busy, match="later"):
            await adapter.push([make_changeset(A, 1)])
        assert remote.changesets() == []
        assert (await adapter.push([make_changeset(A, 1)])).acknowledged == 1

    run(story())


def test_a_lost_answer_comes_after_the_effect(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, in_turn("push", LoseAnswer(Offline("gone"))))
        with pytest.raises(Offline, match="gone"):
            await adapter.push([make_changeset(A, 1)])
        assert remote.changesets() == [make_changeset(A, 1)]

    run(story())


def test_a_repeated_call_is_made_twice(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, in_turn("push", Repeat()))
        assert (await adapter.push([make_changeset(A, 1)])).acknowledged == 1
        assert remote.changesets() == [make_changeset(A, 1)]

    run(story())


def test_small_pages_keep_to_the_smaller_limit(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, in_turn("pull", SmallPage(2), SmallPage(), None))
        await adapter.push([make_changeset(A, number) for number in range(1, 6)])
        page = await adapter.pull(None, Limit())
        assert ([sealed.number for sealed in page.changesets], page.more) == ([1, 2], True)
        page = await adapter.pull(page.cursor, Limit())
        assert [sealed.number for sealed in page.changesets] == [3]
        page = await adapter.pull(page.cursor, Limit())
        assert ([sealed.number for sealed in page.changesets], page.more) == ([4, 5], False)

    run(story())


@pytest.mark.parametrize(("fault", "stored"), [(Hang(), 0), (Hang(after=True), 1)])
def test_a_hang_lasts_until_it_is_cancelled(remote: MemoryRemote, fault: Fault, stored: int) -> None:
    async def story() -> None:
        adapter = await connected(remote, in_turn("push", fault))
        push = asyncio.ensure_future(adapter.push([make_changeset(A, 1)]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not push.done()
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        assert len(remote.changesets()) == stored

    run(story())


def test_the_plan_is_asked_once_for_each_call(remote: MemoryRemote) -> None:
    calls: list[Call] = []

    def plan(call: Call) -> None:
        calls.append(call)

    async def story() -> None:
        adapter = await connected(remote, plan)
        await adapter.pull(None, Limit())
        await adapter.pull(None, Limit())
        await adapter.push([make_changeset(A, 1)])
        await adapter.close()
        await adapter.close()

    run(story())
    expected = [("connect", 0), ("pull", 0), ("pull", 1), ("push", 0), ("close", 0), ("close", 1)]
    assert calls == [Call(name, index) for name, index in expected]


def test_hints_come_through_and_can_be_held_back(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, in_turn("watch", Raise(Offline("no watching"))))
        assert isinstance(adapter, SupportsWatch)
        with pytest.raises(Offline, match="no watching"):
            await anext(adapter.watch(None))
        other = await connected(remote, lambda call: None, B)
        await other.push([make_changeset(B, 1)])
        assert await anext(adapter.watch(None)) == Hint()

    run(story())


class TestUsers:
    GOOD = Credentials.api_key("key")

    def adapter(self, plan: Plan) -> FaultyAdapter:
        remote = MemoryRemoteWithUsers()
        remote.add_user("emma", self.GOOD)
        return FaultyAdapter(remote.adapter(), plan)

    def test_what_is_not_in_the_plan_goes_well(self) -> None:
        async def calls() -> None:
            adapter = self.adapter(lambda call: None)
            assert adapter.capabilities.users
            assert isinstance(adapter, SupportsUsers)
            tokens = await adapter.log_in(self.GOOD)
            new = await adapter.refresh(tokens.refresh_token)
            await adapter.log_out(new.refresh_token)
            with pytest.raises(Unauthorized):
                await adapter.refresh(new.refresh_token)

        asyncio.run(calls())

    @pytest.mark.parametrize("name", ["log_in", "refresh", "log_out"])
    def test_each_call_meets_its_fault(self, name: str) -> None:
        async def calls() -> None:
            adapter = self.adapter(in_turn(name, Raise(Busy("later"))))
            arguments = {"log_in": self.GOOD, "refresh": "token", "log_out": "token"}
            with pytest.raises(Busy):
                await getattr(adapter, name)(arguments[name])

        asyncio.run(calls())

    def test_an_adapter_without_users_cannot_log_in(self) -> None:
        adapter = FaultyAdapter(MemoryRemote().adapter(), lambda call: None)
        assert not adapter.capabilities.users
        with pytest.raises(Offline, match="knows no users"):
            asyncio.run(adapter.log_in(self.GOOD))


async def chunks() -> AsyncIterator[bytes]:
    for chunk in (b"a" * 70_000, b"snapshot"):
        yield chunk


def test_faults_strike_snapshots_as_well() -> None:
    remote = MemoryRemoteWithSnapshots()
    lost, broken_off = LoseAnswer(Offline("lost")), LoseAnswer(Offline("broken off"))
    faults = {"write_snapshot": [lost, Repeat()], "read_snapshot": [Raise(Busy("later")), broken_off], "trim": [lost]}

    def plan(call: Call) -> Fault | None:
        return in_turn(call.name, *faults.get(call.name, []))(call)

    async def story() -> None:
        adapter = FaultyAdapter(remote.adapter(), plan)
        await adapter.connect(Hello(app="todo", partition="default", device=A))
        cursor = (await adapter.pull(None, Limit())).cursor
        with pytest.raises(Offline, match="lost"):
            await adapter.write_snapshot(cursor, chunks())
        first = await adapter.latest_snapshot()
        await adapter.write_snapshot(cursor, chunks())
        info = await adapter.latest_snapshot()
        assert first is not None
        assert info is not None
        assert (first.name, info.name) == ("snapshot-1", "snapshot-3"), "one whose answer got lost, and one written twice"
        with pytest.raises(Busy, match="later"):
            await anext(adapter.read_snapshot(info))
        reading = adapter.read_snapshot(info)
        await anext(reading)
        with pytest.raises(Offline, match="broken off"):
            await anext(reading)
        assert b"".join([chunk async for chunk in adapter.read_snapshot(info)]) == b"a" * 70_000 + b"snapshot"
        with pytest.raises(Offline, match="lost"):
            await adapter.trim(cursor)
        with pytest.raises(ResetRequired, match="trimmed"):
            await adapter.pull(None, Limit())

    run(story())


def test_an_adapter_without_snapshots_has_none_with_faults_either(remote: MemoryRemote) -> None:
    async def story() -> None:
        adapter = await connected(remote, lambda call: None)
        assert not adapter.capabilities.snapshots
        with pytest.raises(Offline, match="keeps no snapshots"):
            await adapter.latest_snapshot()

    run(story())
