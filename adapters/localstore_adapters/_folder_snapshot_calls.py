"""The calls about snapshots that a session makes on a shared folder, done beside its event loop and broken off anywhere.

What lies in the folder is the business of ``_folder_snapshots``; how blocking work is done in turn, the adapter's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from localstore.adapter import Cursor, SnapshotInfo
from localstore.changes import Device, Number
from localstore.errors import SnapshotUnusable
from localstore_adapters._folder_cursor import cursor_of, numbers_of
from localstore_adapters._folder_files import Unpublished, reaching
from localstore_adapters._folder_snapshots import FolderSnapshots

__all__ = ["SnapshotCalls"]

_CHUNK_BYTES = 1 << 20


class SnapshotCalls:
    """What a ``SupportsSnapshots`` does, for one connected line.

    Args:
        folder: for messages.
        snapshots: of the partition.
        remote_id: of the folder.
        in_turn: does blocking work, one job at a time.
        check: sees that the folder is still the one it was.
        count_after: how many changesets there are after a place.
    """

    def __init__(
        self,
        folder: Path,
        snapshots: FolderSnapshots,
        remote_id: str,
        in_turn: Callable[..., Awaitable[Any]],
        check: Callable[[], None],
        count_after: Callable[[Mapping[Device, Number]], int],
    ) -> None:
        self._folder = folder
        self._snapshots = snapshots
        self._remote_id = remote_id
        self._in_turn = in_turn
        self._check = check
        self._count_after = count_after

    async def latest(self) -> SnapshotInfo | None:
        found: SnapshotInfo | None = await self._in_turn(self._latest)
        return found

    async def read(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        chunks = self._chunks_of(info)  # opened with the first chunk, in a thread
        try:
            while chunk := await self._in_turn(self._next_of, chunks):
                yield chunk
        finally:
            await self._in_turn(chunks.close)

    async def write(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        written = self._snapshots.unpublished()
        try:
            await self._in_turn(self._write, written, b"")
            async for chunk in chunks:
                await self._in_turn(self._write, written, chunk)
            await self._in_turn(self._publish, written, cursor)
        finally:
            await self._in_turn(written.discard)

    async def trim(self, before: Cursor) -> None:
        await self._in_turn(self._trim, before)

    # What follows runs in worker threads.

    def _latest(self) -> SnapshotInfo | None:
        with reaching(self._folder):
            self._check()
            self._snapshots.look()
            found = self._snapshots.latest()
            if found is None:
                return None
            return SnapshotInfo(
                name=found.name,
                cursor=cursor_of(self._remote_id, found.numbers),
                byte_count=found.byte_count,
                later=self._count_after(found.numbers),
            )

    def _chunks_of(self, info: SnapshotInfo) -> Generator[bytes]:
        self._check()
        self._snapshots.look()
        snapshot = self._snapshots.named(info.name)
        if snapshot is None:
            raise SnapshotUnusable(f"The folder does not have {info.name} any more.", hint="Ask for the latest again.")
        yield from self._snapshots.read(snapshot, _CHUNK_BYTES)

    def _next_of(self, chunks: Generator[bytes]) -> bytes:
        with reaching(self._folder):
            return next(chunks, b"")

    def _write(self, written: Unpublished, chunk: bytes) -> None:
        with reaching(self._folder):
            self._check()
            written.write(chunk)

    def _publish(self, written: Unpublished, cursor: Cursor) -> None:
        with reaching(self._folder):
            self._check()
            self._snapshots.publish(written, numbers_of(cursor, self._remote_id))

    def _trim(self, before: Cursor) -> None:
        with reaching(self._folder):
            self._check()
            self._snapshots.trim(numbers_of(before, self._remote_id))
