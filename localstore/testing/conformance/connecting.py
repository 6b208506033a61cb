"""Rules of ``connect`` and ``close``."""

from __future__ import annotations

import contextlib

import pytest

from localstore.adapter import Limit, SupportsSnapshots, SupportsUsers, SupportsWatch
from localstore.errors import ProtocolError, ResetRequired
from localstore.testing.conformance.remote import POWERS, RemoteUnderTest
from localstore.testing.conformance.suite import Suite, new_device

__all__ = ["ConnectingRules"]


class ConnectingRules(Suite):
    def test_capabilities_are_what_the_adapter_can_do(self, remote: RemoteUnderTest) -> None:
        adapter = remote.make_adapter()
        capabilities = adapter.capabilities
        assert capabilities.max_batch_bytes > 0
        assert capabilities.max_batch_count > 0
        assert capabilities.max_changeset_bytes is None or capabilities.max_changeset_bytes > 0
        assert capabilities.poll_seconds > 0
        assert isinstance(adapter, SupportsWatch) or not capabilities.watch
        assert isinstance(adapter, SupportsSnapshots) or not capabilities.snapshots
        assert isinstance(adapter, SupportsUsers) or not capabilities.users
        self.run(adapter.close())

    def test_declared_powers_are_known_and_true(self, remote: RemoteUnderTest) -> None:
        assert self.powers <= POWERS
        assert self.skips <= POWERS
        assert not self.powers & self.skips
        capabilities = self.capabilities(remote)
        for power in ("watch", "ping", "snapshots"):
            assert (power in self.powers) == getattr(capabilities, power), f"the power and the capability {power!r}"

    def test_all_devices_see_one_remote_id(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other:
                assert one.welcome.remote_id
                assert one.welcome.remote_id == other.welcome.remote_id
                async with self.line(remote, one.device, remote_id=one.welcome.remote_id) as again:
                    assert again.welcome.remote_id == one.welcome.remote_id

        self.run(rule())

    def test_another_remote_id_asks_for_a_reset(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 1)
            with pytest.raises(ResetRequired):
                async with self.line(remote, line.device, remote_id="f" * 32):
                    pass

        self.run(rule())

    def test_welcome_tells_the_highest_number_of_this_device(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                assert line.welcome.last_number == 0
                await line.push(1, 2)
                await line.push(3, 3)
            async with self.line(remote, line.device) as again, self.line(remote) as other:
                assert again.welcome.last_number == 3
                assert other.welcome.last_number == 0

        self.run(rule())

    def test_connecting_again_on_one_line_changes_nothing(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 2)
                assert (await line.connect_again()).last_number == 2
                assert (await line.push(3, 3)).acknowledged == 3
            assert [sealed.number for sealed in await self.stored(remote)] == [1, 2, 3]

        self.run(rule())

    def test_closing_twice_is_fine(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 1)
                await line.adapter.close()
                await line.adapter.close()
            never_connected = remote.make_adapter()
            await never_connected.close()
            await never_connected.close()

        self.run(rule())

    def test_partitions_do_not_mix(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            device = new_device()
            async with self.line(remote, partition="one") as one, self.line(remote, device, partition="One/ä") as other:
                await one.push(1, 3)
                await other.push(1, 1)
                assert await other.read() == []
            async with self.line(remote, device, partition="one") as same_device:
                assert same_device.welcome.last_number == 0
                assert await same_device.read() == one.make(1, 3)

        self.run(rule())

    def test_another_application_is_never_served_this_data(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 1)
            with contextlib.suppress(ProtocolError):  # turned away, or given a history of its own
                async with self.line(remote, app="another") as other:
                    assert list((await other.adapter.pull(None, Limit())).changesets) == []

        self.run(rule())
