"""Rules of ``pull``: pages join, cursors last, and every device's changesets come in the order of their numbers."""

from __future__ import annotations

import pytest

from localstore.adapter import Cursor, Limit
from localstore.errors import ResetRequired
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite, make_changeset, numbers_by_device

__all__ = ["PullingRules"]

_LIMITS = [
    Limit(max_count=1),
    Limit(max_count=2),
    Limit(max_count=3),
    Limit(max_count=7),
    Limit(max_bytes=1),
    Limit(max_bytes=700),
    Limit(max_bytes=3000),
    Limit(max_bytes=3000, max_count=4),
    Limit(),
]
_UNKNOWN_CURSORS = [b"", b"\x00", b"no cursor of yours", b"\xff" * 20, b"-1", b"99999999999", b"\x93\x01\x02\x03"]


async def _fill(*writers: Line) -> int:
    """Changesets of several devices, pushed in turns in batches of several sizes; how many there are."""
    for first, last in ((1, 1), (2, 5), (6, 7), (8, 12)):
        for writer in writers:
            await writer.push(first, last)
    return 12 * len(writers)


class PullingRules(Suite):
    @pytest.mark.parametrize("limit", _LIMITS, ids=lambda limit: f"{limit.max_bytes}-bytes-{limit.max_count}-count")
    def test_pages_join_without_gap_or_repeat(self, remote: RemoteUnderTest, limit: Limit) -> None:
        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other, self.line(remote) as reader:
                await _fill(one, other)
                numbers = numbers_by_device(await reader.read(limit))
                assert numbers == {one.device: list(range(1, 13)), other.device: list(range(1, 13))}

        self.run(rule())

    def test_a_page_holds_one_changeset_at_least_whatever_its_size(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                sent = [make_changeset(writer.device, number, blob_bytes=50_000) for number in (1, 2)]
                await writer.adapter.push(sent)
                page = await reader.pull(Limit(max_bytes=100))
                assert list(page.changesets) == sent[:1]
                assert page.more
                page = await reader.pull(Limit(max_bytes=100))
                assert list(page.changesets) == sent[1:]

        self.run(rule())

    def test_every_device_comes_in_the_order_of_its_numbers(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other:
                count = await _fill(one, other)
            stored = await self.stored(remote)
            assert len(stored) == count
            assert all(numbers == sorted(numbers) for numbers in numbers_by_device(stored).values())

        self.run(rule())

    def test_an_empty_remote_gives_an_empty_last_page(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as reader:
                page = await reader.pull()
                assert (list(page.changesets), page.more) == ([], False)
                async with self.line(remote) as writer:
                    await writer.push(1, 1)
                assert await reader.read() == writer.make(1, 1)

        self.run(rule())

    def test_pulling_at_the_head_gives_nothing_until_something_comes(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await _fill(writer)
                await reader.read()
                for _ in range(2):
                    page = await reader.pull()
                    assert (list(page.changesets), page.more) == ([], False)
                await writer.push(13, 14)
                assert await reader.read() == writer.make(13, 14)

        self.run(rule())

    def test_a_cursor_outlives_its_line(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other, self.line(remote) as reader:
                count = await _fill(one, other)
                await reader.pull(Limit(max_count=5))
                assert reader.cursor is not None
                kept = Cursor(bytes(bytearray(reader.cursor)))  # as a store gives it back
                hello = {"cursor": kept, "remote_id": reader.welcome.remote_id}
                async with self.line(remote, reader.device, **hello) as again:
                    again.cursor = kept
                    received = [*reader.received, *await again.read()]
                assert len(received) == count
                assert {len(set(numbers)) for numbers in numbers_by_device(received).values()} == {12}

        self.run(rule())

    def test_another_device_goes_on_from_a_cursor(self, remote: RemoteUnderTest) -> None:
        """A copy of a file does, and lacks what the device that it was copied from sent since."""

        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other:
                await other.push(1, 3)
                await one.push(1, 3)
                await one.read()
                await one.push(4, 6)
                await other.push(4, 6)
                async with self.line(remote, cursor=one.cursor, remote_id=one.welcome.remote_id) as copy:
                    copy.cursor = one.cursor
                    received = numbers_by_device(await copy.read())
                assert received[other.device] == [4, 5, 6]
                assert received[one.device] in ([4, 5, 6], [1, 2, 3, 4, 5, 6])

        self.run(rule())

    def test_reading_takes_nothing_away(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await _fill(writer)
                page = await reader.adapter.pull(None, Limit(max_count=5))
                again = await reader.adapter.pull(None, Limit(max_count=5))
                assert list(page.changesets) == list(again.changesets)
                assert await reader.read() == writer.make(1, 12)
            assert await self.stored(remote) == writer.make(1, 12)

        self.run(rule())

    def test_own_changesets_come_back_unchanged_or_not_at_all(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer:
                await _fill(writer)
                await writer.read()
                assert writer.received in ([], writer.make(1, 12))

        self.run(rule())

    def test_what_is_pushed_between_two_pages_is_not_lost(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other, self.line(remote) as reader:
                for number in range(1, 9):
                    await one.push(number, number)
                    await other.push(number, number)
                    await reader.pull(Limit(max_count=1))
                await reader.read()
                numbers = numbers_by_device(reader.received)
                assert numbers == {one.device: list(range(1, 9)), other.device: list(range(1, 9))}

        self.run(rule())

    @pytest.mark.parametrize("cursor", _UNKNOWN_CURSORS, ids=bytes.hex)
    def test_an_unknown_cursor_asks_for_a_reset(self, remote: RemoteUnderTest, cursor: bytes) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer:
                await _fill(writer)
            async with self.line(remote) as reader:
                with pytest.raises(ResetRequired):
                    await reader.adapter.pull(Cursor(cursor), Limit())
            with pytest.raises(ResetRequired):  # at connect already, or at the latest by the pull
                async with self.line(remote, cursor=Cursor(cursor), remote_id=reader.welcome.remote_id) as reader:
                    await reader.adapter.pull(Cursor(cursor), Limit())

        self.run(rule())
