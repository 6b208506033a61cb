"""Wake-ups from the file system, where it has them. They fail silently on network mounts, so nothing may rely on them.

This module knows paths only: no changesets, no remote.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from localstore.environment import Environment
from localstore.errors import Offline
from localstore_adapters._folder_inotify import Listener

__all__ = ["can_watch", "changed_paths", "told_paths"]

# 7 ms from a rename to the wake-up, also under a steady stream of files; the filter of watchfiles would hide some of ours.
_OPTIONS: dict[str, Any] = {"step": 5, "debounce": 100, "watch_filter": None, "yield_on_timeout": True}


def can_watch() -> bool:
    """Whether watchfiles is installed: ``pip install 'localstore-sync[folder]'``."""
    return importlib.util.find_spec("watchfiles") is not None


async def changed_paths(
    folder: Path, environment: Environment, tick_seconds: float, stop: asyncio.Event
) -> AsyncGenerator[list[Path]]:
    """Paths that came or changed below a folder. The first list is empty: from then on nothing is missed.

    Ends at once where the system cannot watch.

    Raises:
        Offline: the folder is not there, or not the same any more; notifications would stay out silently.
    """
    from watchfiles import Change, awatch

    inode = await environment.run_blocking(_inode, folder)
    if inode is None:
        raise _gone(folder)
    batches = awatch(folder, rust_timeout=max(1, round(tick_seconds * 1000)), stop_event=stop, **_OPTIONS)
    coming = asyncio.ensure_future(_next(batches))
    try:
        await asyncio.sleep(0)  # lets the watch be set up
        yield []
        while (batch := await coming) is not None:
            coming = asyncio.ensure_future(_next(batches))
            if paths := [Path(path) for change, path in batch if change is not Change.deleted]:
                yield paths
            elif inode != await environment.run_blocking(_inode, folder):
                raise _gone(folder)
    except FileNotFoundError as error:
        raise _gone(folder) from error
    except (OSError, RuntimeError):
        return  # the system has no more watches, or none for this disk; the session looks from time to time anyway
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        if not coming.cancelled():
            coming.exception()  # nobody is left who wants to know
        await batches.aclose()


async def told_paths(
    folder: Path, part: Path, own: str, environment: Environment, tick_seconds: float, stop: asyncio.Event
) -> AsyncGenerator[list[Path]]:
    """The same from Linux itself, for what other devices have in one partition; it costs nothing as long as nothing comes.

    Args:
        folder, part: the shared folder, and the partition's in it, which need not exist.
        own: the name of this device's directory, which need not be watched.
        environment: where blocking work is done.
        tick_seconds: how often to see whether the folder is still the same.
        stop: set to end it.
    """
    inode = await environment.run_blocking(_inode, folder)
    if inode is None:
        raise _gone(folder)
    try:
        listener = Listener(environment.run_blocking)
    except OSError:
        return  # as above
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await listener.add(folder)
        await _add_below(listener, part, own, environment)
        yield []
        while not stop.is_set():
            await _heard(listener, stopping, tick_seconds)
            lost, paths = listener.is_lost, listener.take()
            if (lost or not paths) and inode != await environment.run_blocking(_inode, folder):
                raise _gone(folder)
            if lost or part in paths:
                paths += await _add_below(listener, part, own, environment)
            for directory in {path for path in paths if path.parent == part and path.name != own}:
                paths += await _add(listener, directory, environment)
            if paths and not stop.is_set():
                yield paths
    except OSError:
        return
    finally:
        stopping.cancel()
        listener.close()


async def _heard(listener: Listener, stopping: asyncio.Future[Any], seconds: float) -> None:
    """Wait until something was heard, the end, or the time."""
    hearing = asyncio.ensure_future(listener.heard.wait())
    try:
        await asyncio.wait({hearing, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hearing.cancel()


async def _add_below(listener: Listener, part: Path, own: str, environment: Environment) -> list[Path]:
    """Hear of a partition and of the devices in it; returns what is there already."""
    found = []
    for directory in await _add(listener, part, environment):
        if directory.name != own:
            found += await _add(listener, directory, environment)
    return found


async def _add(listener: Listener, directory: Path, environment: Environment) -> list[Path]:
    """Hear of what comes into a directory, if it is one; returns what is in it already."""
    try:
        await listener.add(directory)
        found: list[Path] = await environment.run_blocking(_paths_in, directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return found


def _paths_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def _next(batches: AsyncGenerator[set[tuple[Any, str]]]) -> set[tuple[Any, str]] | None:
    return await anext(batches, None)


def _inode(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one in its place; None when there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _gone(folder: Path) -> Offline:
    return Offline(
        f"The folder {folder} went away, or another one took its place. Local data is safe.",
        hint="Sync connects to it again by itself.",
    )
