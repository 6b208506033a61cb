"""Which partitions get a new snapshot, and when: after so many changesets, by one process at a time, while devices are served.

A process looks after the partitions that devices used through it, and keeps in memory alone what it knows of them: another
one, or the same after a restart, finds out anew. Where the hub knows no models, or a partition is encrypted, it makes no
snapshots, and lets the log go of what is old and in those that devices made.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from localstore.adapter import Cursor, Limit, SnapshotInfo, SyncAdapter
from localstore.environment import Environment
from localstore.errors import LocalStoreError, ResetRequired, WrongKey
from localstore.hub.lines import Lines
from localstore.hub.merged_files import MergedFiles
from localstore.hub.merging import LIMITS, Merging
from localstore.hub.metrics import Metrics
from localstore.sync.line import Line
from localstore.wire import ENCRYPTED

__all__ = ["SnapshotMaker", "SupportsClaims"]

_log = logging.getLogger("localstore.hub")
_LOOKS = 10  # at a partition, while as much happens as a snapshot is made for
_ROUND_SECONDS = 3600.0  # after which all are looked at: what was young is old by then, and what failed may succeed
_MAX_PARTITIONS = 100_000  # that are known at one time


@runtime_checkable
class SupportsClaims(Protocol):
    """What an adapter may be besides, whose log processes of several computers serve."""

    def claimed(self, task: str) -> AbstractAsyncContextManager[bool]:
        """Have a task of the connected partition for oneself, for the block; False while another process has it. Whoever
        is killed has it no longer."""
        ...


@dataclass(slots=True)
class _Known:
    """What this process knows of a partition.

    Attributes:
        new: changesets that came through this process since the last look.
        counted: how many were in the log up to ``cursor``, where there is no snapshot to count from.
        is_encrypted: nobody can read it here.
        is_due: it is to be looked at.
    """

    new: int = 0
    counted: int = 0
    cursor: Cursor | None = None
    is_encrypted: bool = False
    is_due: bool = True


class SnapshotMaker:
    """The one of a process. Used from its event loop.

    Args:
        lines: to the log.
        every: after how many changesets a snapshot is made.
        horizon_days: how old history is at least that the log lets go of.
        keeps_snapshots: whether the log does; else there is nothing to do.
        files: where partitions are merged; None where the hub makes no snapshots.
        environment: the world.
        metrics: what is counted.
    """

    def __init__(
        self,
        lines: Lines,
        *,
        every: int,
        horizon_days: float,
        keeps_snapshots: bool,
        files: MergedFiles | None,
        environment: Environment,
        metrics: Metrics,
    ) -> None:
        self._lines = lines
        self._every = every
        self._horizon_days = horizon_days
        self._keeps_snapshots = keeps_snapshots
        self._files = files if every else None
        self._environment = environment
        self._metrics = metrics
        self._merging = Merging(lines.make, lines.app, environment)
        self._device = environment.new_device()
        self._partitions: OrderedDict[str, _Known] = OrderedDict()
        self._wanted = asyncio.Event()

    def note(self, partition: str, changesets: int = 0) -> None:
        """A partition is used, and so many changesets were stored in it. Costs next to nothing."""
        if not self._keeps_snapshots:
            return
        known = self._partitions.get(partition)
        if known is None:
            known = self._partitions[partition] = _Known()
            if len(self._partitions) > _MAX_PARTITIONS:
                self._partitions.popitem(last=False)
        known.new += changesets
        if known.is_due or (self._every and known.new >= max(1, self._every // _LOOKS)):
            known.is_due = True
            self._wanted.set()

    async def run(self) -> None:
        """Look after partitions until cancelled."""
        while True:
            rest = asyncio.ensure_future(self._environment.sleep(_ROUND_SECONDS))
            wanted = asyncio.ensure_future(self._wanted.wait())
            try:
                await asyncio.wait({rest, wanted}, return_when=asyncio.FIRST_COMPLETED)
                if not wanted.done():
                    self.look_at_all()
            finally:
                rest.cancel()
                wanted.cancel()
            await self.step()

    def look_at_all(self) -> None:
        """Let the next step look at every partition."""
        for known in self._partitions.values():
            known.is_due = True

    async def step(self) -> None:
        """Look at each partition at which there may be something to do, one after the other."""
        self._wanted.clear()
        for partition, known in list(self._partitions.items()):
            if not known.is_due:
                continue
            known.is_due, known.new = False, 0
            try:
                await self._look(partition, known)
            except WrongKey:
                known.is_encrypted = True
            except ResetRequired:  # there is another history, of which nothing is known yet
                self._lines.met(None)
                self._partitions[partition] = _Known()
            except Exception as error:  # noqa: BLE001  nobody waits for it: it is told, and tried again after a while
                self._metrics.snapshots_failed.inc()
                _log.warning("A partition gets no snapshot now: %s", error, exc_info=_unexpected(error))

    async def _look(self, partition: str, known: _Known) -> None:
        async with self._line(partition) as line:
            info = await line.latest_snapshot()
            if self._files is not None and not known.is_encrypted and await self._is_due(line, info, known):
                if await self._make(line, info, self._files, partition):
                    known.counted, known.cursor = 0, None
            elif info is not None:
                await line.trim(info.cursor)

    @contextlib.asynccontextmanager
    async def _line(self, partition: str) -> AsyncGenerator[Line]:
        adapter = self._lines.make()
        try:
            line = Line(adapter, LIMITS, self._environment)
            hello = self._lines.own(partition, self._device)
            welcome = await line.connect(dataclasses.replace(hello, horizon_days=self._horizon_days))
            self._lines.met(welcome.remote_id)
            yield line
        finally:
            await asyncio.shield(asyncio.ensure_future(adapter.close()))

    async def _is_due(self, line: Line, info: SnapshotInfo | None, known: _Known) -> bool:
        if info is not None and info.later is not None:
            return info.later >= self._every
        more = True
        while more and known.counted < self._every:  # there is none: how much history there is shows by reading it
            limit = Limit(max_bytes=LIMITS.page_bytes, max_count=self._every - known.counted)
            page = await line.pull(known.cursor, limit)
            if any(sealed.codec == ENCRYPTED for sealed in page.changesets):
                raise WrongKey("The partition is encrypted.")
            known.counted, known.cursor, more = known.counted + len(page.changesets), page.cursor, page.more
        return known.counted >= self._every

    async def _make(self, line: Line, info: SnapshotInfo | None, files: MergedFiles, partition: str) -> bool:
        """Whether a snapshot was made; not when somebody else is at it, or was until now."""
        async with _claimed(line.adapter) as is_ours:
            with files.held(partition) as file:
                if not is_ours or file is None or await line.latest_snapshot() != info:
                    return False
                begun = self._environment.monotonic()
                byte_count = await self._merging.snapshot(file, partition)
                if byte_count is None:
                    return False
                self._metrics.made_snapshot(byte_count, self._environment.now_ms())
                seconds = self._environment.monotonic() - begun
                _log.info("A snapshot of %d bytes was made in %.1f s.", byte_count, seconds)
                return True


def _claimed(adapter: SyncAdapter) -> AbstractAsyncContextManager[bool]:
    return adapter.claimed("snapshot") if isinstance(adapter, SupportsClaims) else contextlib.nullcontext(True)


def _unexpected(error: Exception) -> Exception | None:
    """What is told with all that led to it."""
    return None if isinstance(error, LocalStoreError) else error
