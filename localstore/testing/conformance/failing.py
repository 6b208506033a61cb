"""Rules for when things go wrong: out of reach, broken off, emptied, exchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from localstore.adapter import Limit
from localstore.errors import Offline, ResetRequired, SyncError
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Suite

__all__ = ["FailingRules"]

_LOOP_STEPS = (0, 1, 2, 3, 5, 10)  # turns of the event loop before a call is cancelled
_DELAYS = (0.001, 0.004, 0.015)  # and seconds, for work that goes on in a thread or across a network


async def _cancel_after(call: Awaitable[object], point: float) -> None:
    task = asyncio.ensure_future(call)
    if isinstance(point, int):
        for _ in range(point):
            await asyncio.sleep(0)
    else:
        await asyncio.wait([task], timeout=point)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error


class FailingRules(Suite):
    @pytest.mark.parametrize("point", [*_LOOP_STEPS, *_DELAYS])
    def test_a_cancelled_push_leaves_all_or_nothing_of_each_changeset(self, remote: RemoteUnderTest, point: float) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 2)
                await _cancel_after(line.push(3, 6), point)
            stored = await self.stored(remote)
            assert stored == line.make(1, len(stored)), "whatever is seen is whole and in order"
            async with self.line(remote, line.device) as line:
                assert (await line.push(3, 5)).acknowledged >= 5
                assert (await line.push(5, 8)).acknowledged == 8
            assert await self.stored(remote) == line.make(1, 8)

        self.run(rule())

    @pytest.mark.parametrize("point", [*_LOOP_STEPS, *_DELAYS])
    def test_a_line_is_usable_after_a_cancelled_call(self, remote: RemoteUnderTest, point: float) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await writer.push(1, 3)
                await _cancel_after(writer.push(4, 6), point)
                await writer.connect_again()
                assert (await writer.push(4, 7)).acknowledged == 7
                await _cancel_after(reader.adapter.pull(None, Limit()), point)
                await reader.connect_again()
                assert await reader.read() == writer.make(1, 7)

        self.run(rule())

    def test_every_call_says_offline_when_the_remote_is_out_of_reach(self, remote: RemoteUnderTest) -> None:
        switch = self.need_offline(remote)

        async def rule() -> None:
            async with self.line(remote) as line, self.line(remote) as other:
                await line.push(1, 1)
                switch.go_offline()
                with pytest.raises(Offline):
                    await line.push(2, 2)
                with pytest.raises(Offline):
                    await other.adapter.pull(None, Limit())
                with pytest.raises(Offline):
                    await line.connect_again()
                with pytest.raises(Offline):
                    async with self.line(remote, line.device, remote_id=line.welcome.remote_id):
                        pass

        self.run(rule())

    def test_after_an_outage_connecting_again_is_enough(self, remote: RemoteUnderTest) -> None:
        switch = self.need_offline(remote)

        async def rule() -> None:
            async with self.line(remote) as line, self.line(remote) as reader:
                await line.push(1, 2)
                await reader.read()
                switch.go_offline()
                with pytest.raises(Offline):
                    await line.push(3, 4)
                switch.go_online()
                for one in (line, reader):
                    welcome = await one.connect_again()
                    assert welcome.remote_id == one.welcome.remote_id
                assert (await line.push(3, 4)).acknowledged == 4
                assert await reader.read() == line.make(3, 4)
            assert await self.stored(remote) == line.make(1, 4)

        self.run(rule())

    def test_a_replaced_remote_is_noticed_at_connect(self, remote: RemoteUnderTest) -> None:
        replaceable = self.need_wipe(remote)

        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 2)
                await line.read()
            replaceable.wipe()
            async with self.line(remote) as newcomer:
                assert newcomer.welcome.remote_id != line.welcome.remote_id
                assert newcomer.welcome.last_number == 0
                assert await newcomer.read() == []
            with pytest.raises(ResetRequired):
                async with self.line(remote, line.device, remote_id=line.welcome.remote_id, cursor=line.cursor):
                    pass

        self.run(rule())

    def test_a_remote_replaced_under_an_open_line_acknowledges_and_serves_nothing(self, remote: RemoteUnderTest) -> None:
        replaceable = self.need_wipe(remote)

        async def rule() -> None:
            async with self.line(remote) as line, self.line(remote) as reader:
                await line.push(1, 2)
                await reader.read()
                replaceable.wipe()
                async with self.line(remote) as newcomer:
                    await newcomer.push(1, 9)
                with pytest.raises(SyncError):
                    await line.push(3, 3)
                with pytest.raises(SyncError):
                    await reader.pull()
                assert await self.stored(remote) == newcomer.make(1, 9)

        self.run(rule())

    def test_a_cursor_of_a_replaced_remote_is_unknown(self, remote: RemoteUnderTest) -> None:
        replaceable = self.need_wipe(remote)

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await writer.push(1, 2)
                await reader.read()
            replaceable.wipe()
            async with self.line(remote) as newcomer, self.line(remote) as again:
                await newcomer.push(1, 9)
                again.cursor = reader.cursor
                with pytest.raises(ResetRequired):
                    await again.pull()

        self.run(rule())
