"""Rules for when things go wrong: out of reach, emptied, exchanged, trimmed."""

from __future__ import annotations

import pytest

from localstore.adapter import Cursor, Limit, SupportsSnapshots
from localstore.errors import Offline, ResetRequired, SyncError
from localstore.reasons import ResetReason
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite

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

    def test_a_device_that_lacks_what_was_trimmed_is_told_so_and_served_nothing(self, remote: RemoteUnderTest) -> None:
        trimmable = self.need_trim(remote)

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as behind:
                await writer.push(1, 6)
                await behind.pull(Limit(max_count=2))
                trimmable.trim_history()
                await writer.push(7, 8)
                with pytest.raises(ResetRequired) as caught:
                    await behind.pull()
                assert caught.value.kind is ResetReason.HISTORY_TRIMMED
            with pytest.raises(ResetRequired) as caught:  # at connect already, or at the latest by the pull
                async with self.line(remote, behind.device, remote_id=behind.welcome.remote_id, cursor=behind.cursor) as again:
                    await again.adapter.pull(behind.cursor, Limit())
            assert caught.value.kind is ResetReason.HISTORY_TRIMMED

        self.run(rule())

    def test_a_device_that_has_read_what_was_trimmed_goes_on(self, remote: RemoteUnderTest) -> None:
        trimmable = self.need_trim(remote)

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await writer.push(1, 6)
                await writer.read()
                await reader.read()
                trimmable.trim_history()
                assert (await writer.push(5, 8)).acknowledged == 8, "what was trimmed is still known to be there"
                assert await reader.read() == writer.make(7, 8)
            async with self.line(remote, writer.device, remote_id=writer.welcome.remote_id, cursor=writer.cursor) as again:
                assert again.welcome.last_number == 8

        self.run(rule())

    def test_trimming_loses_nothing_that_a_new_device_needs(self, remote: RemoteUnderTest) -> None:
        """It gets all of it as history, or the latest snapshot and what came after that."""
        trimmable = self.need_trim(remote)

        async def rule() -> None:
            async with self.line(remote) as writer:
                await writer.push(1, 6)
                trimmable.trim_history()
                await writer.push(7, 8)
            async with self.line(remote) as new:
                try:
                    received = await new.read()
                except ResetRequired:
                    new.cursor = await self._cursor_of_snapshot(new)
                    assert await new.read() == writer.make(7, 8)
                else:
                    assert received == writer.make(1, 8)

        self.run(rule())

    async def _cursor_of_snapshot(self, line: Line) -> Cursor:
        """Where history goes on after the latest snapshot, which has to be whole."""
        power = line.adapter
        assert isinstance(power, SupportsSnapshots), "history is gone, and nothing makes up for it"
        info = await power.latest_snapshot()
        assert info is not None, "history is gone, and no snapshot makes up for it"
        assert sum([len(chunk) async for chunk in power.read_snapshot(info)]) == info.byte_count
        return info.cursor
