"""Rules of ``push``: stored once, whole, bit for bit, and never two things under one number."""

from __future__ import annotations

import hashlib
import random

import msgspec
import pytest

from localstore.errors import Offline, ResetRequired
from localstore.reasons import ResetReason
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Suite, make_changeset
from localstore.wire import SealedChangeset, encode

__all__ = ["PushingRules"]

_REBATCHED = [  # what is sent while every answer is lost, and what is sent again
    ([(1, 3)], [(1, 3)]),
    ([(1, 3)], [(1, 5)]),
    ([(1, 3)], [(2, 5)]),
    ([(1, 3)], [(3, 3), (4, 5)]),
    ([(1, 5)], [(2, 3), (4, 5)]),
    ([(1, 1), (2, 2), (3, 5)], [(1, 5)]),
    ([(1, 2), (3, 4)], [(2, 3), (4, 5)]),
]


class PushingRules(Suite):
    def test_a_pushed_batch_is_acknowledged_and_reaches_others(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                result = await writer.push(1, 4)
                assert result.acknowledged == 4
                assert result.refusals == ()
                assert await reader.read() == writer.make(1, 4)

        self.run(rule())

    def test_push_twice_stores_once(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                first = await line.push(1, 3)
                second = await line.push(1, 3)
                assert (first.acknowledged, second.acknowledged) == (3, 3)
            assert await self.stored(remote) == line.make(1, 3)

        self.run(rule())

    @pytest.mark.parametrize(("lost", "again"), _REBATCHED, ids=str)
    def test_a_lost_acknowledgement_is_recovered_by_pushing_again(
        self, remote: RemoteUnderTest, lost: list[tuple[int, int]], again: list[tuple[int, int]]
    ) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                for first, last in lost:
                    await line.push(first, last)
            async with self.line(remote, line.device) as line:
                stored = max(last for _, last in lost)
                for first, last in again:
                    result = await line.push(first, last)
                    assert last <= result.acknowledged <= max(last, stored)
                    assert result.refusals == ()
            assert await self.stored(remote) == line.make(1, max(again[-1][1], stored))

        self.run(rule())

    @pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 3), (3, 5)])
    def test_a_number_with_other_content_asks_for_a_reset(self, remote: RemoteUnderTest, first: int, last: int) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                await line.push(1, 3)
            async with self.line(remote, line.device) as copied_file:
                with pytest.raises(ResetRequired, match="device forked"):
                    await copied_file.adapter.push(copied_file.make(first, last, "written after the file was copied"))
            assert await self.stored(remote) == line.make(1, 3)

        self.run(rule())

    @pytest.mark.parametrize("stored", [0, 2])
    def test_a_gap_in_the_numbers_asks_for_a_reset(self, remote: RemoteUnderTest, stored: int) -> None:
        async def rule() -> None:
            async with self.line(remote) as line:
                if stored:
                    await line.push(1, stored)
                with pytest.raises((ResetRequired, Offline)) as told:  # lost, or away for a while
                    await line.push(stored + 2, stored + 3)
                if isinstance(told.value, ResetRequired):
                    assert told.value.kind is ResetReason.REMOTE_RESTORED
            assert await self.stored(remote) == line.make(1, stored)

        self.run(rule())

    def test_changesets_come_back_bit_for_bit(self, remote: RemoteUnderTest) -> None:
        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                sent = [
                    make_changeset(writer.device, 1, "\N{SNOWMAN}\x00\ud7ff\U0010ffff line\r\nend"),
                    make_changeset(writer.device, 2, rows=0),
                    make_changeset(writer.device, 3, "x" * 10_000),
                    make_changeset(writer.device, 4, blob_bytes=10_000),
                    make_changeset(writer.device, 5, rows=500),
                ]
                await writer.adapter.push(sent)
                received = await reader.read()
                assert list(map(encode, received)) == list(map(encode, sent))

        self.run(rule())

    def test_changesets_are_not_opened(self, remote: RemoteUnderTest) -> None:
        """A body may be encrypted, or of a format to come."""

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                sealed = _opaque(writer.device, 1)
                assert (await writer.adapter.push([sealed])).acknowledged == 1
                assert await reader.read() == [sealed]

        self.run(rule())

    def test_one_changeset_may_be_larger_than_a_batch(self, remote: RemoteUnderTest) -> None:
        capabilities = self.capabilities(remote)
        byte_count = min(capabilities.max_batch_bytes + 1, (capabilities.max_changeset_bytes or 2**62) - 10_000)

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                large = make_changeset(writer.device, 1, blob_bytes=byte_count)
                assert (await writer.adapter.push([large])).acknowledged == 1
                assert (await writer.push(2, 2)).acknowledged == 2
                assert await reader.read() == [large, *writer.make(2, 2)]

        self.run(rule())

    def test_a_batch_may_hold_as_many_changesets_as_the_adapter_says(self, remote: RemoteUnderTest) -> None:
        count = min(self.capabilities(remote).max_batch_count, 2000)

        async def rule() -> None:
            async with self.line(remote) as line:
                assert (await line.push(1, count)).acknowledged == count
            assert len(await self.stored(remote)) == count

        self.run(rule())

    def test_a_refusal_is_data_and_nothing_after_it_is_stored(self, remote: RemoteUnderTest) -> None:
        refusing = self.need_refuse(remote)

        async def rule() -> None:
            async with self.line(remote) as line:
                refusing.refuse_larger_than(5000)
                large = make_changeset(line.device, 3, blob_bytes=20_000)
                result = await line.adapter.push([*line.make(1, 2), large, *line.make(4, 5)])
                assert result.acknowledged == 2
                assert result.refusals[0].number == 3
                assert result.refusals[0].reason
            assert await self.stored(remote) == line.make(1, 2)

        self.run(rule())

    def test_an_empty_changeset_takes_the_number_of_a_refused_one(self, remote: RemoteUnderTest) -> None:
        refusing = self.need_refuse(remote)

        async def rule() -> None:
            async with self.line(remote) as line:
                refusing.refuse_larger_than(5000)
                assert (await line.adapter.push([make_changeset(line.device, 1, blob_bytes=20_000)])).acknowledged == 0
                sent = [make_changeset(line.device, 1, rows=0), *line.make(2, 2)]
                assert (await line.adapter.push(sent)).acknowledged == 2
            assert await self.stored(remote) == sent

        self.run(rule())

    def test_what_is_stored_is_not_refused_later(self, remote: RemoteUnderTest) -> None:
        refusing = self.need_refuse(remote)

        async def rule() -> None:
            async with self.line(remote) as line:
                large = make_changeset(line.device, 1, blob_bytes=20_000)
                await line.adapter.push([large])
                refusing.refuse_larger_than(5000)
                result = await line.adapter.push([large, *line.make(2, 2)])
                assert (result.acknowledged, result.refusals) == (2, ())

        self.run(rule())


def _opaque(device: bytes, number: int) -> SealedChangeset:
    """A changeset whose body no adapter can decode. Its digest is right, and worked out here independently of the library."""
    like = make_changeset(device, number)
    body = random.Random(number).randbytes(400)
    header = (like.format, device, number, like.stamp, like.rows, like.codec, len(body))
    digest = hashlib.blake2b(msgspec.msgpack.encode(header) + body, digest_size=16).digest()
    return SealedChangeset(*header, digest, body)
