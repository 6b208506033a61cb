"""Notifications from Linux: all that comes is told, nothing is done as long as nothing comes, and nothing is left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from localstore.adapter import Hello, Hint
from localstore.environment import Environment
from localstore_adapters._folder_files import write_changes
from localstore_adapters._folder_inotify import _OVERFLOW, Listener, _descriptors, can_listen, is_local_disk
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import A, B, make

pytestmark = pytest.mark.skipif(not can_listen(), reason="this system has no inotify")
SECONDS = 20
C = b"C" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    gc.collect()  # event loops of other tests, and what listened in them
    return tmp_path / "shared"


def descriptors() -> int:
    """How many of the system's descriptors for notifications this process has open."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(link.is_symlink() and str(link.readlink()).endswith("inotify") for link in links)


def watches() -> int:
    """How many directories are watched through them."""
    found = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            found += info.read_text().count("inotify wd:")
        except OSError:
            continue  # closed since
    return found


async def connected(folder: Path, device: bytes = A, **changes: Any) -> FolderAdapter:
    adapter = FolderAdapter(folder, **changes)
    await adapter.connect(Hello(app="todo", partition="default", device=device))
    return adapter


async def heard(hints: AsyncGenerator[Hint]) -> None:
    await asyncio.wait_for(anext(hints), SECONDS)


def others_file(folder: Path, device: bytes, number: int) -> None:
    """As another device's process writes it, with its directories if need be."""
    directory = folder / "p-default" / device.hex()
    directory.mkdir(parents=True, exist_ok=True)
    write_changes(directory, make(device, number, number), os.urandom)


class Counting:
    """An environment that notes what is done beside the event loop."""

    def __init__(self) -> None:
        self.calls = 0
        self.environment = dataclasses.replace(Environment(), run_blocking=self.run)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.calls += 1
        return function(*arguments)


def test_every_file_is_a_hint_whatever_was_there_before(folder: Path) -> None:
    async def story() -> None:
        adapter = await connected(folder)
        async with aclosing(adapter.watch(None)) as hints:
            coming = asyncio.ensure_future(heard(hints))
            await asyncio.wait([coming], timeout=0.05)  # no partition is there yet
            for device in (B, C):
                for number in (1, 2, 3):
                    others_file(folder, device, number)
                    await coming
                    coming = asyncio.ensure_future(heard(hints))
            coming.cancel()
            await asyncio.wait([coming])

    asyncio.run(story())


def test_nothing_is_done_as_long_as_nothing_comes(folder: Path) -> None:
    """No thread waits, no clock is looked at: an idle session costs nothing."""

    async def story() -> None:
        counting = Counting()
        adapter = await connected(folder, environment=counting.environment)
        async with aclosing(adapter.watch(None)) as hints:
            coming = asyncio.ensure_future(heard(hints))
            await asyncio.wait([coming], timeout=0.1)
            before, turns = counting.calls, 0
            loop = asyncio.get_running_loop()
            select = loop._selector.select  # type: ignore[attr-defined]

            def counted(timeout: float | None) -> Any:
                nonlocal turns
                turns += 1
                return select(timeout)

            loop._selector.select = counted  # type: ignore[attr-defined]
            await asyncio.wait([coming], timeout=0.2)
            assert counting.calls == before
            assert turns <= 3  # those of this test's own timer
            coming.cancel()
            await asyncio.wait([coming])

    asyncio.run(story())


def test_a_hundred_watches_take_one_descriptor_and_a_watch_for_each_directory(folder: Path) -> None:
    """Linux gives each user 128 of them, mostly."""

    async def story() -> None:
        before = descriptors()
        adapters = [await connected(folder, bytes([number]) * 16) for number in range(100, 200)]
        others_file(folder, B, 1)
        streams = [adapter.watch(None) for adapter in adapters]
        await asyncio.gather(*map(heard, streams))
        assert descriptors() == before + 1
        assert watches() == 3  # the folder, the partition, and the device in it
        others_file(folder, B, 2)
        await asyncio.gather(*map(heard, streams))
        for stream in streams:
            await stream.aclose()
        assert descriptors() == before

    asyncio.run(story())


def test_one_watch_that_ends_takes_nothing_from_the_others(folder: Path) -> None:
    async def story() -> None:
        first, second = await connected(folder, A), await connected(folder, C)
        others_file(folder, B, 1)
        streams = [adapter.watch(None) for adapter in (first, second)]
        await asyncio.gather(*map(heard, streams))
        await streams[0].aclose()
        others_file(folder, B, 2)
        await heard(streams[1])
        await streams[1].aclose()

    asyncio.run(story())


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01])
def test_watches_that_are_cancelled_while_they_begin_leave_nothing(folder: Path, delay: float) -> None:
    async def story() -> None:
        before = descriptors()
        adapters = [await connected(folder, bytes([number]) * 16) for number in range(10)]
        others_file(folder, B, 1)
        for adapter in adapters:
            coming = asyncio.ensure_future(heard(adapter.watch(None)))
            await asyncio.wait([coming], timeout=delay)
            coming.cancel()
            await asyncio.wait([coming])
        hints = adapters[0].watch(None)
        await heard(hints)
        others_file(folder, B, 2)
        await heard(hints)
        await hints.aclose()
        for _ in range(200):  # a thread lets go of the last one
            gc.collect()
            if descriptors() == before:
                break
            await asyncio.sleep(0.01)
        assert descriptors() == before

    asyncio.run(story())


def test_a_device_whose_directory_went_and_came_again_is_heard(folder: Path) -> None:
    async def story() -> None:
        adapter = await connected(folder)
        others_file(folder, B, 1)
        async with aclosing(adapter.watch(None)) as hints:
            await heard(hints)
            directory = folder / "p-default" / B.hex()
            directory.rename(folder / "elsewhere")
            coming = asyncio.ensure_future(heard(hints))
            await asyncio.wait([coming], timeout=0.1)
            (folder / "elsewhere").rename(directory)
            await coming
            others_file(folder, B, 2)
            await heard(hints)

    asyncio.run(story())


def test_who_missed_something_looks_for_itself(folder: Path) -> None:
    """As when more came than the system keeps."""

    async def story() -> None:
        adapter = await connected(folder)
        others_file(folder, B, 1)
        async with aclosing(adapter.watch(None)) as hints:
            await heard(hints)
            coming = asyncio.ensure_future(heard(hints))
            await asyncio.wait([coming], timeout=0.1)
            (descriptor,) = _descriptors.values()
            descriptor._pass_on(-1, _OVERFLOW, b"")
            await coming

    asyncio.run(story())


def test_a_directory_that_is_not_there_cannot_be_listened_to(folder: Path) -> None:
    async def story() -> None:
        listener = Listener(Environment().run_blocking)
        with pytest.raises(FileNotFoundError):
            await listener.add(folder / "missing")
        listener.close()

    before = descriptors()
    asyncio.run(story())
    assert descriptors() == before


def test_a_disk_of_this_computer_is_looked_at_seldom_and_others_often(folder: Path) -> None:
    async def story() -> None:
        adapter = await connected(folder)
        assert adapter.capabilities.poll_seconds == (60 if is_local_disk(folder) else 5)
        assert (await connected(folder, listens=False)).capabilities.poll_seconds == 5
        assert (await connected(folder, poll_seconds=7)).capabilities.poll_seconds == 7

    asyncio.run(story())
    assert not is_local_disk(folder / "missing")
    assert not is_local_disk(Path("/proc/self"))


def test_where_no_watch_is_to_be_had_it_is_told_once_and_the_disk_looked_at_often(folder: Path) -> None:
    """As when a user has used up the system's watches."""

    async def story() -> None:
        async def full(function: Callable[..., Any], *arguments: Any) -> Any:
            if getattr(function, "__name__", "") == "watch":
                raise OSError(errno.ENOSPC, "no watches left")
            return function(*arguments)

        before = descriptors()
        adapter = await connected(folder, environment=dataclasses.replace(Environment(), run_blocking=full))
        assert [hint async for hint in adapter.watch(None)] == [Hint()]
        assert [hint async for hint in adapter.watch(None)] == []
        assert adapter.capabilities.poll_seconds == 5
        assert descriptors() == before

    asyncio.run(story())
