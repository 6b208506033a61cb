"""How lines that are not needed any more are let go of: at once, or after they were kept for the file's next session, so that a
program that opens its file often need not make a new one every time.

All of it runs in the background loop. It knows no sessions, and nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from localstore.adapter import SyncAdapter
from localstore.environment import Environment, SessionLoop
from localstore.sync.redaction import redacted_error

__all__ = ["Lingering", "let_go"]

_log = logging.getLogger("localstore.sync")
_CLOSE_SECONDS = 10.0  # how long an adapter may take to let go
_HURRIED_SECONDS = 2.0  # the same when the session has something else to do behind it


class Lingering:
    """The lines of one app that nobody uses at the moment.

    Args:
        seconds: how long each is kept.
        environment: the world.
        loop: where all of it runs.
    """

    def __init__(self, seconds: float, environment: Environment, loop: SessionLoop) -> None:
        self._seconds = seconds
        self._environment = environment
        self._loop = loop
        self._kept: dict[Path, tuple[SyncAdapter, Collection[str], asyncio.Task[None]]] = {}

    def end(self) -> None:
        """Keep nothing any more; what is kept ends with the loop. For any thread."""
        self._seconds = 0

    def take(self, path: Path) -> SyncAdapter | None:
        """The line that a file had, if it is still there."""
        kept = self._kept.pop(path, None)
        if kept is None:
            return None
        adapter, _, task = kept
        task.cancel()
        return adapter

    async def leave(self, path: Path, adapter: SyncAdapter, secrets: Collection[str]) -> None:
        """Keep a line that its session does not need any more, or let go of it."""
        if not self._seconds or path in self._kept:
            await let_go(adapter, self._loop, secrets)
        else:
            self._kept[path] = (adapter, secrets, self._loop.begin(self._wait(path, adapter, secrets)))

    def drop(self) -> None:
        """Let go of all."""
        for path, (adapter, secrets, _) in list(self._kept.items()):
            self.take(path)  # whose task may not have begun, and would not let go of anything
            self._loop.begin(let_go(adapter, self._loop, secrets))

    async def _wait(self, path: Path, adapter: SyncAdapter, secrets: Collection[str]) -> None:
        try:
            await self._environment.sleep(self._seconds)
        finally:
            if self._kept.get(path, (None,))[0] is adapter:  # else a session took it
                del self._kept[path]
                await let_go(adapter, self._loop, secrets)


async def let_go(adapter: SyncAdapter, loop: SessionLoop, secrets: Collection[str] = (), *, hurried: bool = False) -> None:
    """Close an adapter, in the task that used it. That it fails or hangs concerns nobody: it is not used any more.

    Args:
        adapter: what to close.
        loop: where that is done.
        secrets: what the log may not quote.
        hurried: whether this is not the last thing that the task does.
    """
    try:
        with loop.letting_go():
            async with asyncio.timeout(_HURRIED_SECONDS if hurried else _CLOSE_SECONDS):
                await adapter.close()
    except Exception as error:  # noqa: BLE001
        _log.warning("%s could not be closed.", type(adapter).__name__, exc_info=redacted_error(error, secrets))
