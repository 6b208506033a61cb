"""Rules of ``ping``: a sign of life is given by a remote that lives, and by no other."""

from __future__ import annotations

import asyncio

import pytest

from localstore.adapter import Limit, SupportsPing
from localstore.errors import Offline
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite

__all__ = ["PingingRules"]


async def _ping(line: Line) -> None:
    assert isinstance(line.adapter, SupportsPing)
    await line.adapter.ping()


class PingingRules(Suite):
    def test_a_remote_that_lives_answers_a_ping(self, remote: RemoteUnderTest) -> None:
        self.need("ping")

        async def rule() -> None:
            async with self.line(remote) as line:
                assert line.adapter.capabilities.ping
                await _ping(line)
                await line.push(1, 2)
                await _ping(line)

        self.run(rule())

    def test_a_ping_beside_another_call_disturbs_neither(self, remote: RemoteUnderTest) -> None:
        self.need("ping")

        async def rule() -> None:
            async with self.line(remote) as line, self.line(remote) as reader:
                await asyncio.gather(line.push(1, 5), _ping(line))
                page, _ = await asyncio.gather(reader.adapter.pull(None, Limit()), _ping(reader))
                assert list(page.changesets) == line.make(1, 5)

        self.run(rule())

    def test_a_remote_out_of_reach_answers_no_ping(self, remote: RemoteUnderTest) -> None:
        self.need("ping")
        switch = self.need_offline(remote)

        async def rule() -> None:
            async with self.line(remote) as line:
                switch.go_offline()
                with pytest.raises(Offline):
                    await _ping(line)
                switch.go_online()

        self.run(rule())

    def test_a_line_that_is_not_connected_answers_no_ping(self, remote: RemoteUnderTest) -> None:
        self.need("ping")

        async def rule() -> None:
            async with self.line(remote) as line:
                await line.adapter.close()
                with pytest.raises(Offline):
                    await _ping(line)

        self.run(rule())
