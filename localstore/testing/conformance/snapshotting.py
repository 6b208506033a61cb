"""Rules of snapshots: whole or not there, in nobody's way, and with the history behind them as good as all of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from localstore.adapter import Cursor, Limit, SnapshotInfo, SupportsSnapshots
from localstore.errors import Offline, ResetRequired, SnapshotUnusable
from localstore.reasons import ResetReason
from localstore.testing.conformance.cancelling import MOMENTS, WAITS_MAX, Moment, break_off
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Line, Suite

__all__ = ["SnapshottingRules"]

_OLD = [b"old ", random.Random(1).randbytes(200_000), b"", b"snapshot"]
_TRIES = 3
_NEW = [b"new ", random.Random(2).randbytes(300_000), b"snapshot"]


def _power(line: Line) -> SupportsSnapshots:
    assert isinstance(line.adapter, SupportsSnapshots)
    return line.adapter


async def _chunks(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def _broken(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    yield chunks[0]
    raise OSError("The snapshot cannot be read to its end.")


async def _write(line: Line, chunks: Sequence[bytes]) -> Cursor:
    """Write a snapshot where the line stands, which has to be the head."""
    await line.read()
    assert line.cursor is not None
    await _power(line).write_snapshot(line.cursor, _chunks(chunks))
    return line.cursor


async def _latest(line: Line) -> SnapshotInfo:
    info = await _power(line).latest_snapshot()
    assert info is not None, "there is no snapshot"
    return info


async def _content(line: Line) -> bytes:
    """What the latest snapshot holds. A writer that was broken off may still finish, and take its place meanwhile."""
    for _ in range(_TRIES):
        info = await _latest(line)
        try:
            content = b"".join([chunk async for chunk in _power(line).read_snapshot(info)])
        except SnapshotUnusable:
            continue
        assert len(content) == info.byte_count
        return content
    pytest.fail(f"The latest snapshot could not be read {_TRIES} times, though nobody wrote another.")


class SnapshottingRules(Suite):
    def test_a_snapshot_comes_back_bit_for_bit_with_its_cursor(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as new:
                assert await _power(new).latest_snapshot() is None
                await writer.push(1, 3)
                cursor = await _write(writer, _OLD)
                assert (await _latest(new)).cursor == cursor
                assert await _content(new) == b"".join(_OLD)
                await _write(writer, _NEW)
                assert await _content(new) == b"".join(_NEW)

        self.run(rule())

    def test_a_new_device_goes_on_after_the_snapshot(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as writer:
                await writer.push(1, 3)
                await _write(writer, _OLD)
                await writer.push(4, 5)
                async with self.line(remote) as new:
                    info = await _latest(new)
                    new.cursor = info.cursor
                    assert await new.read() == writer.make(4, 5)
                    assert info.later in (None, 2)

        self.run(rule())

    def test_snapshots_of_partitions_do_not_mix(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote, partition="one") as one, self.line(remote, partition="other") as other:
                await one.push(1, 1)
                await _write(one, _OLD)
                assert await _power(other).latest_snapshot() is None

        self.run(rule())

    def test_others_push_and_pull_while_a_snapshot_is_written(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as other, self.line(remote) as new:
                await other.push(1, 3)
                await _write(writer, _OLD)

                async def slowly() -> AsyncIterator[bytes]:
                    for number, chunk in enumerate(_NEW, 4):
                        yield chunk
                        await other.push(number, number)
                        assert await _content(new) == b"".join(_OLD), "only whole snapshots are seen"

                assert writer.cursor is not None
                await _power(writer).write_snapshot(writer.cursor, slowly())
                assert await _content(new) == b"".join(_NEW)
                new.cursor = (await _latest(new)).cursor
                assert await new.read() == other.make(4, 6)

        self.run(rule())

    def test_a_snapshot_is_read_whole_or_not_at_all_while_a_newer_one_is_written(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await writer.push(1, 1)
                await _write(writer, _OLD)
                content = b""
                try:
                    async for chunk in _power(reader).read_snapshot(await _latest(reader)):
                        content += chunk
                        await _write(writer, _NEW)
                    assert content == b"".join(_OLD)
                except SnapshotUnusable:
                    pass
                assert await _content(reader) == b"".join(_NEW)

        self.run(rule())

    def test_a_snapshot_that_breaks_off_leaves_the_one_before(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as reader:
                await writer.push(1, 1)
                cursor = await _write(writer, _OLD)
                with pytest.raises(OSError, match="cannot be read to its end"):
                    await _power(writer).write_snapshot(cursor, _broken(_NEW))
                assert await _content(reader) == b"".join(_OLD)

        self.run(rule())

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_a_snapshot_cancelled_at_any_wait_is_there_or_not(self, remote: RemoteUnderTest, moment: Moment) -> None:
        self.need("snapshots")

        async def rule() -> None:
            for wait in range(WAITS_MAX):
                async with self.line(remote) as writer, self.line(remote) as reader:
                    await writer.push(1, 1)
                    await _write(writer, _OLD)
                    struck = await break_off(_write(writer, _NEW), wait, moment)
                    assert await _content(reader) in (b"".join(_OLD), b"".join(_NEW))
                    await writer.connect_again()
                    await _write(writer, _NEW)
                    assert await _content(reader) == b"".join(_NEW)
                if not struck:
                    return
            pytest.fail(f"Writing one snapshot waited {WAITS_MAX} times.")

        self.run(rule())

    def test_two_devices_that_write_a_snapshot_at_once_leave_a_whole_one(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as one, self.line(remote) as other:
                await one.push(1, 1)
                await asyncio.gather(_write(one, _OLD), _write(other, _NEW))
                assert await _content(one) in (b"".join(_OLD), b"".join(_NEW))

        self.run(rule())

    def test_trimming_before_a_snapshot_leaves_nobody_a_gap(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as writer, self.line(remote) as behind:
                await writer.push(1, 6)
                await behind.pull(Limit(max_count=2))
                await _power(writer).trim(await _write(writer, _OLD))
                assert (await writer.push(5, 8)).acknowledged == 8, "what was trimmed is still known to be there"
                assert [sealed for sealed in await writer.read() if sealed.device != writer.device] == []
                for cursor in (behind.cursor, None):
                    await self._check_reset_or_all(remote, cursor, writer)
                async with self.line(remote) as new:
                    new.cursor = (await _latest(new)).cursor
                    assert await _content(new) == b"".join(_OLD)
                    assert await new.read() == writer.make(7, 8)

        self.run(rule())

    def test_two_devices_that_let_go_at_once_leave_a_snapshot_that_one_can_go_on_from(self, remote: RemoteUnderTest) -> None:
        """The one that is further makes its snapshot first, and trims last."""
        self.need("snapshots")

        async def rule() -> None:
            async with self.line(remote) as behind, self.line(remote) as ahead, self.line(remote) as new:
                await behind.push(1, 3)
                await behind.read()
                await ahead.push(1, 3)
                cursor = await _write(ahead, _NEW)
                assert behind.cursor is not None
                await _power(behind).write_snapshot(behind.cursor, _chunks(_OLD))
                await _power(ahead).trim(cursor)
                await _power(behind).trim(behind.cursor)
                content = await _content(new)
                new.cursor = (await _latest(new)).cursor
                received = await new.read()
                assert content == b"".join(_NEW) or received == ahead.make(1, 3)

        self.run(rule())

    async def _check_reset_or_all(self, remote: RemoteUnderTest, cursor: Cursor | None, writer: Line) -> None:
        """Who stands before what was trimmed is told so, or given all of it: some remotes let go of it later."""
        async with self.line(remote) as line:
            line.cursor = cursor
            try:
                received = await line.read()
            except ResetRequired as error:
                if error.kind is ResetReason.HISTORY_TRIMMED:
                    return
                raise
        assert received == writer.make(1 if cursor is None else 3, 8)

    def test_snapshots_are_out_of_reach_with_the_remote(self, remote: RemoteUnderTest) -> None:
        self.need("snapshots")
        switch = self.need_offline(remote)

        async def rule() -> None:
            async with self.line(remote) as writer:
                await writer.push(1, 1)
                cursor = await _write(writer, _OLD)
                info = await _latest(writer)
                switch.go_offline()
                with pytest.raises(Offline):
                    await _power(writer).latest_snapshot()
                with pytest.raises(Offline):
                    await anext(aiter(_power(writer).read_snapshot(info)))
                with pytest.raises(Offline):
                    await _power(writer).write_snapshot(cursor, _chunks(_NEW))
                with pytest.raises(Offline):
                    await _power(writer).trim(cursor)
                switch.go_online()
                await writer.connect_again()
                assert await _content(writer) == b"".join(_OLD)

        self.run(rule())
