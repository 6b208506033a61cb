"""A remote in memory that keeps snapshots, and lets go of history that is in one.

``MemoryRemoteWithSnapshots`` is a ``MemoryRemote`` whose adapters are a ``SupportsSnapshots`` as well. Read it when you write
an adapter for such a remote. What is in a snapshot is not its business.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncGenerator, AsyncIterator

from localstore.adapter import Capabilities, Cursor, Limit, Page, SnapshotInfo, SupportsSnapshots, SyncAdapter
from localstore.errors import ResetRequired, SnapshotUnusable
from localstore.testing.memory import MemoryAdapter, MemoryRemote, _Line

__all__ = ["MemoryRemoteWithSnapshots", "MemorySnapshotAdapter"]

_CHUNK_BYTES = 64 * 1024


class MemoryRemoteWithSnapshots(MemoryRemote):
    """A shared history with the latest snapshot of each partition. Takes the arguments of ``MemoryRemote``."""

    def adapter(self) -> MemorySnapshotAdapter:
        """A new line to this remote."""
        return MemorySnapshotAdapter(self)

    def _start_anew(self) -> None:
        super()._start_anew()
        self._snapshots: dict[str, tuple[SnapshotInfo, bytes]] = {}
        self._without_beginning: set[str] = set()
        self._names = itertools.count(1)

    # The calls of the contract, as the adapter's lines make them.

    def pull(self, line: _Line, cursor: Cursor | None, limit: Limit) -> Page:
        with self._lock:
            self._history_of(line)
            if cursor is None and line.partition in self._without_beginning:
                raise ResetRequired("history trimmed", hint="Take the latest snapshot.")
        return super().pull(line, cursor, limit)

    def snapshot(self, line: _Line) -> tuple[SnapshotInfo, bytes] | None:
        with self._lock:
            history = self._history_of(line)
            found = self._snapshots.get(line.partition)
            if found is None:
                return None
            later = len(history.log) - self._position(found[0].cursor, history)
            return dataclasses.replace(found[0], later=later), found[1]

    def keep_snapshot(self, line: _Line, cursor: Cursor, content: bytes) -> None:
        with self._lock:
            self._position(cursor, self._history_of(line))
            info = SnapshotInfo(name=f"snapshot-{next(self._names)}", cursor=cursor, byte_count=len(content))
            self._snapshots[line.partition] = info, content

    def trim(self, line: _Line, before: Cursor) -> None:
        with self._lock:
            history = self._history_of(line)
            end, latest = self._position(before, history), self._snapshots.get(line.partition)
            if latest is not None:  # it may be of a device that was behind
                history.trimmed = max(history.trimmed, min(end, self._position(latest[0].cursor, history)))
                self._without_beginning.add(line.partition)


class MemorySnapshotAdapter(MemoryAdapter):
    """One device's line to a ``MemoryRemoteWithSnapshots``."""

    def __init__(self, remote: MemoryRemoteWithSnapshots) -> None:
        super().__init__(remote)
        self._snapshots = remote

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, snapshots=True)

    async def latest_snapshot(self) -> SnapshotInfo | None:
        await asyncio.sleep(0)
        found = self._snapshots.snapshot(self._connected())
        return found[0] if found else None

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        found = self._snapshots.snapshot(self._connected())
        if found is None or found[0] != info:
            raise SnapshotUnusable(f"The remote does not have {info.name} any more.", hint="Ask for the latest again.")
        for start in range(0, info.byte_count, _CHUNK_BYTES):
            await asyncio.sleep(0)
            yield found[1][start : start + _CHUNK_BYTES]

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        line = self._connected()
        content = b"".join([chunk async for chunk in chunks])
        await asyncio.sleep(0)
        self._snapshots.keep_snapshot(line, cursor, content)
        await asyncio.sleep(0)

    async def trim(self, before: Cursor) -> None:
        await asyncio.sleep(0)
        self._snapshots.trim(self._connected(), before)


_: tuple[type[SyncAdapter], type[SupportsSnapshots]] = (MemorySnapshotAdapter, MemorySnapshotAdapter)
