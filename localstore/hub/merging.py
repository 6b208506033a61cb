"""One snapshot of one partition: its history is merged in a file of the hub's own as a device does it, and the result goes to
the log, which then lets go of what is in it and old enough.

The file syncs by the very cycle that sessions have, and is never written to. Why a snapshot is made is not known here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from localstore.environment import Environment
from localstore.errors import Busy, LocalStoreError, Offline, ProtocolError, SnapshotUnusable, SyncError, Unauthorized
from localstore.hub.merged_files import MergedFile
from localstore.registry import AdapterFactory
from localstore.store.file import Store
from localstore.sync.compaction import Compaction
from localstore.sync.cycle import Cycle, Signals
from localstore.sync.letting_go import Lingering
from localstore.sync.line import Line
from localstore.sync.loop import BackgroundLoop
from localstore.sync.news import News
from localstore.sync.parts import Limits, SessionParts
from localstore.sync.retry import BackoffPolicy
from localstore.sync.waits import Waits

__all__ = ["LIMITS", "Merging"]

_log = logging.getLogger("localstore.hub")
LIMITS = Limits(
    connect_timeout=30.0,
    request_timeout=300.0,  # nobody waits for it
    ping_period=60.0,
    pong_timeout=30.0,
    urgent_pong_timeout=5.0,
    fast_reconnect_limit=60.0,
    poll=None,
    page_bytes=1024 * 1024,  # between two of which requests have their turn
    page_count=1000,
)
_NOT_THE_FILES = (Offline, Busy, Unauthorized, ProtocolError, SnapshotUnusable)
"""Errors that another file would meet as well."""


class _Told:
    """Hears what the cycle tells. What would be an application's business is the log's of the process."""

    def tell(self, news: News) -> None:
        """Nobody shows it."""

    def report(self, error: SyncError) -> None:
        _log.warning("While a snapshot is made: %s", error)

    async def caught_up(self, pull: Callable[[], Awaitable[None]]) -> None:
        """Nothing is written here."""


class Merging:
    """Makes the snapshots of one application's log.

    Args:
        make_log: a new line to the log.
        app: whose data it is.
        environment: the world.
    """

    def __init__(self, make_log: AdapterFactory, app: str, environment: Environment) -> None:
        self._make_log = make_log
        self._app = app
        self._environment = environment
        self._loop = BackgroundLoop("localstore-hub")  # sessions have one; nothing is ever given to it here

    async def snapshot(self, file: MergedFile, partition: str) -> int | None:
        """Make a snapshot.

        Args:
            file: of that partition, and this process's.
            partition: whose history it is.

        Returns:
            Its size; None when the file is not what the history makes of it just now.

        Raises:
            LocalStoreError: the log cannot be reached, or its content not be read.
        """
        try:
            return await self._try(file, partition)
        except _NOT_THE_FILES:
            raise
        except LocalStoreError as error:  # damaged, of an older schema, or the log is another one now
            _log.info("The file in which a partition is merged begins anew: %s", error)
        await self._environment.run_blocking(file.remove)
        return await self._try(file, partition)

    async def _try(self, file: MergedFile, partition: str) -> int | None:
        store: Store = await self._environment.run_blocking(file.open)
        adapter = None
        try:
            adapter = self._make_log()
            parts = self._parts(store, partition)
            line = Line(adapter, LIMITS, self._environment)
            await Cycle(parts, line=line, waits=Waits(), observer=_Told(), signals=Signals()).fill_once()
            return await Compaction(parts, line).make(None)
        finally:
            if adapter is not None:
                await asyncio.shield(asyncio.ensure_future(adapter.close()))
            await asyncio.shield(asyncio.ensure_future(_closed(self._environment, store)))

    def _parts(self, store: Store, partition: str) -> SessionParts:
        return SessionParts(
            store=store,
            app=self._app,
            partition=partition,
            make_adapter=self._make_log,
            lingering=Lingering(0, self._environment, self._loop),
            loop=self._loop,
            environment=self._environment,
            limits=LIMITS,
            backoff=BackoffPolicy(),
        )


async def _closed(environment: Environment, store: Store) -> None:
    await environment.run_blocking(store.close)
