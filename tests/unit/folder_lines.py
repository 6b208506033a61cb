"""Devices on a shared folder, as the tests of the folder adapter play them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from localstore.adapter import Cursor, Hello, Limit, Page, Welcome
from localstore.testing.conformance import make_changeset
from localstore.wire import SealedChangeset
from localstore_adapters.folder import FolderAdapter

A, B, READER = b"A" * 16, b"B" * 16, b"R" * 16


def make(device: bytes, first: int, last: int) -> list[SealedChangeset]:
    return [make_changeset(device, number) for number in range(first, last + 1)]


def connect(folder: Path, device: bytes = READER, **hello: Any) -> tuple[FolderAdapter, Welcome]:
    adapter = FolderAdapter(folder)
    return adapter, asyncio.run(adapter.connect(Hello(app="todo", partition="default", device=device, **hello)))


def push(folder: Path, device: bytes, first: int, last: int) -> Path:
    """Push changesets; the file that they are in."""
    adapter, _ = connect(folder, device)
    before = set(files(folder))
    asyncio.run(adapter.push(make(device, first, last)))
    (new,) = set(files(folder)) - before
    return new


def pull(adapter: FolderAdapter, cursor: Cursor | None = None, **limit: int) -> Page:
    return asyncio.run(adapter.pull(cursor, Limit(**limit)))


def numbers(page: Page) -> list[tuple[bytes, int]]:
    return sorted((sealed.device, sealed.number) for sealed in page.changesets)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "remote.json")


def replace(path: Path, data: bytes) -> None:
    """As a sync tool does: written aside and renamed in."""
    aside = path.with_name(".syncthing.x.tmp")
    aside.write_bytes(data)
    aside.replace(path)


def exchange(folder: Path) -> Path:
    """Unplug the disk; the empty mount point stays. Returns where the content is."""
    unplugged = folder.rename(folder.with_name("unplugged"))
    folder.mkdir()
    return unplugged
