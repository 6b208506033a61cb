"""Rules for when things go wrong: out of reach, emptied, exchanged, trimmed."""

from __future__ import annotations

import pytest

from localstore.adapter import Limit
from localstore.errors import Offline, ResetRequired, SyncError
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Suite

__all__ = ["FailingRules"]


class FailingRules(Suite):
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
