"""Wake-ups from the file system, where it has them. They fail silently on network mounts, so nothing may rely on them.

This module knows paths only: no changesets, no remote.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from localstore.environment import Environment
from localstore.errors import Offline

__all__ = ["can_watch", "changed_paths"]

_STEP_MS = 5  # with a debounce of 100 ms: 7 ms from a rename to the wake-up, also under a steady stream of files
_DEBOUNCE_MS = 100


def can_watch() -> bool:
    """Whether watchfiles is installed: ``pip install 'localstore-sync[folder]'``."""
    return importlib.util.find_spec("watchfiles") is not None


async def changed_paths(
    folder: Path, environment: Environment, tick_seconds: float, stop: asyncio.Event
) -> AsyncGenerator[list[Path]]:
    """Paths that came or changed below a folder. The first list is empty: from then on nothing is missed.

    Raises:
        Offline: the folder cannot be watched, or is not the same any more; notifications would stay out silently.
    """
    from watchfiles import Change, awatch

    inode = await environment.run_blocking(_inode, folder)
    tick_ms = max(1, round(tick_seconds * 1000))
    batches = awatch(
        folder,
        watch_filter=None,
        step=_STEP_MS,
        debounce=_DEBOUNCE_MS,
        rust_timeout=tick_ms,
        yield_on_timeout=True,
        stop_event=stop,
    )
    coming = asyncio.ensure_future(_next(batches))
    try:
        await asyncio.sleep(0)  # lets the watch be set up
        yield []
        while (batch := await coming) is not None:
            coming = asyncio.ensure_future(_next(batches))
            if paths := [Path(path) for change, path in batch if change is not Change.deleted]:
                yield paths
            elif inode != await environment.run_blocking(_inode, folder):
                raise Offline(
                    f"The folder {folder} was replaced. Local data is safe.", hint="Sync connects to it again by itself."
                )
    except OSError as error:
        raise Offline(
            f"The folder {folder} cannot be watched: {error.strerror or error}. Local data is safe, and sync goes on "
            "by looking from time to time."
        ) from error
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        with contextlib.suppress(OSError):
            await batches.aclose()


async def _next(batches: AsyncGenerator[set[tuple[Any, str]]]) -> set[tuple[Any, str]] | None:
    return await anext(batches, None)


def _inode(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return (found.st_dev, found.st_ino)
