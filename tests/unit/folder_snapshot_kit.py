"""A shared folder in which time passes, and devices that push, read, make snapshots and trim there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

from localstore.adapter import Cursor, Hello, Limit, Page, SnapshotInfo
from localstore.testing.clock import ManualClock, environment
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import READER, A, make

DAY = 86_400.0
OLD, NEW, NEWEST = (random.Random(seed).randbytes(5000) for seed in range(3))


class Shared:
    """A folder, and devices that come to it under one clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self._seeds = iter(range(10_000))

    def line(self, device: bytes = READER, *, folder: Path | None = None, **hello: object) -> FolderAdapter:
        adapter = FolderAdapter(folder or self.folder, environment=environment(self.clock, next(self._seeds)))
        asyncio.run(adapter.connect(Hello(app="todo", partition="default", device=device, **hello)))  # type: ignore[arg-type]
        return adapter

    def push(self, device: bytes, first: int, last: int) -> None:
        for number in range(first, last + 1):  # a file each
            asyncio.run(self.line(device).push(make(device, number, number)))

    def head(self, device: bytes, cursor: Cursor | None = None) -> Cursor:
        return pull(self.line(device), cursor).cursor

    def write(self, device: bytes, content: bytes, cursor: Cursor | None = None) -> Cursor:
        """A snapshot at the head, as that device sees it which has read up to the cursor."""
        cursor = self.head(device, cursor)
        asyncio.run(self.line(device).write_snapshot(cursor, chunks(content)))
        return cursor

    def trim(self, device: bytes, before: Cursor) -> None:
        asyncio.run(self.line(device).trim(before))

    def write_and_trim(self, device: bytes, content: bytes, cursor: Cursor | None = None) -> Cursor:
        cursor = self.write(device, content, cursor)
        self.trim(device, cursor)
        return cursor

    def pass_days(self, days: float) -> None:
        self.clock.advance(days * DAY)

    def names(self, device: bytes) -> list[int]:
        """Numbers of the changesets that lie in a device's directory."""
        return sorted(int(path.name[:12]) for path in (self.folder / "p-default" / device.hex()).glob("*.changes"))

    def snapshots(self, end: str = ".sqlite") -> list[Path]:
        return sorted((self.folder / "p-default" / "snapshots").glob(f"*{end}"))

    def forget(self) -> Cursor:
        """Let the folder forget what lies in it now: a snapshot, the horizon, a newer one, a day, and a newer one again."""
        self.write_and_trim(A, OLD)
        self.pass_days(31)
        self.push_one_more(A)
        cursor = self.write_and_trim(A, NEW)
        self.pass_days(2)
        self.push_one_more(A)
        return self.write_and_trim(A, NEWEST, cursor)

    def push_one_more(self, device: bytes) -> None:
        welcome = asyncio.run(FolderAdapter(self.folder).connect(Hello(app="todo", partition="default", device=device)))
        self.push(device, welcome.last_number + 1, welcome.last_number + 1)


async def chunks(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


def pull(adapter: FolderAdapter, cursor: Cursor | None = None) -> Page:
    return asyncio.run(adapter.pull(cursor, Limit()))


def latest(adapter: FolderAdapter) -> SnapshotInfo | None:
    return asyncio.run(adapter.latest_snapshot())


def content(adapter: FolderAdapter, info: SnapshotInfo | None = None) -> bytes:
    async def read() -> bytes:
        found = info or await adapter.latest_snapshot()
        assert found is not None
        return b"".join([chunk async for chunk in adapter.read_snapshot(found)])

    return asyncio.run(read())


def numbers(page: Page, device: bytes) -> list[int]:
    return [sealed.number for sealed in page.changesets if sealed.device == device]
