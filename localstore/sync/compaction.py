"""Compaction: one of the devices writes a snapshot for all from time to time, and the remote lets go of what is in it.

Which one is a rule that needs no agreement: the device with the lowest id of those that wrote lately. Each of the others has
to see more of history go by before it does the same, the further behind the more, so that one that has died, or cannot, keeps
nobody waiting for ever. Two that do it at once do no harm: both snapshots are good.

A snapshot is nothing that anybody waits for: what keeps this device from making one is logged, and sync goes on.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from localstore.adapter import Cursor
from localstore.clock import stamp_ms
from localstore.environment import Environment
from localstore.errors import Busy, LocalStoreError, Offline, SnapshotUnusable
from localstore.store.activity import Activity, activity
from localstore.store.snapshots import write_snapshot
from localstore.sync.blocking import in_thread
from localstore.sync.line import Line
from localstore.sync.parts import SessionParts
from localstore.sync.snapshot_files import snapshot_file

__all__ = ["Compaction", "rank"]

_log = logging.getLogger("localstore.sync")
_LATELY_MS = 7 * 86_400_000
_LOOKS = 10  # at the remote, while as much happens as a snapshot is made for
_CHUNK_BYTES = 1 << 20


def rank(seen: Activity) -> int:
    """How many devices that wrote lately come before this one, which is the one to act when there is none."""
    return sum(device < seen.device for device, ms in seen.others.items() if seen.latest_ms - ms <= _LATELY_MS)


class Compaction:
    """One session's part in it.

    Args:
        parts: of the session.
        line: to the remote.
    """

    def __init__(self, parts: SessionParts, line: Line) -> None:
        self._parts = parts
        self._environment = parts.environment
        self._line = line
        self._looked_at: int | None = None

    async def step(self, remote_ms: int | None, *, at_head: bool) -> bool:
        """Write a snapshot if it is this device's turn. To be called with nothing left to send.

        Args:
            remote_ms: the remote's clock.
            at_head: whether history was read to its head just before; others go on from there that load the snapshot.

        Returns:
            Whether it is to be called again when that is so.

        Raises:
            Offline, Busy: the remote is out of reach. It is not tried again soon.
        """
        every = self._parts.limits.snapshot_every
        if not every or not self._line.wants_snapshots:
            return False
        try:
            if await self._is_due(every):
                if not at_head:
                    self._looked_at = None
                    return True
                await self.make(remote_ms)
        except (Offline, Busy):
            raise
        except LocalStoreError as error:  # also what would end a session elsewhere: others may well make one
            if self._parts.store.is_closed:
                raise
            _log.warning("%s makes no snapshot now: %s", self._parts.store.path.name, error)
        return False

    async def _is_due(self, every: int) -> bool:
        seen = await in_thread(self._environment, activity, self._parts.store)
        if self._looked_at is not None and seen.changesets - self._looked_at < max(1, every // _LOOKS):
            return False
        self._looked_at = seen.changesets
        info = await self._line.latest_snapshot()
        later = seen.changesets if info is None else info.later
        return later is not None and later >= every * (1 + rank(seen))

    async def make(self, remote_ms: int | None) -> int | None:
        """Write a snapshot whoever's turn it is, and let the remote go of what is in it.

        Returns:
            Its size; None when it cannot be made now.

        Raises:
            LocalStoreError: it failed.
        """
        async with snapshot_file(self._parts) as path:
            cursor = None if path is None else await self._write(path, remote_ms)
            if path is None or cursor is None:
                return None
            byte_count: int = await self._environment.run_blocking(_size, path)
            await self._line.write_snapshot(cursor, _chunks(self._environment, path), byte_count)
        await self._line.trim(cursor)
        return byte_count

    async def _write(self, path: Path, remote_ms: int | None) -> Cursor | None:
        """The cursor of the snapshot that was written; None when there is none."""
        environment, store = self._environment, self._parts.store
        state = await in_thread(environment, store.state)
        cursor = state.cursor
        if cursor is None or _is_ahead(state.last_stamp, remote_ms, store.options.max_clock_drift):
            return None
        try:
            if await in_thread(environment, write_snapshot, store, path, cursor=cursor, remote_ms=remote_ms):
                return Cursor(cursor)
        except Busy as error:  # no room here, or somebody writes for long: nothing is wrong with the line
            _log.warning("%s makes no snapshot now: %s", store.path.name, error)
            return None
        if await in_thread(environment, store.last_pending) is not None:
            self._looked_at = None  # something was written just now; again when it is sent
        return None


def _is_ahead(stamp: int, remote_ms: int | None, drift: float) -> bool:
    """Whether nobody could load a snapshot with this stamp for a while, as a clock is ahead of the remote's."""
    return remote_ms is not None and stamp_ms(stamp) - remote_ms > drift * 1000


async def _chunks(environment: Environment, path: Path) -> AsyncIterator[bytes]:
    """A file's bytes. It is opened for each chunk, so that none is left open when this is broken off."""
    start = 0
    while chunk := await in_thread(environment, functools.partial(_part, path, start)):
        yield chunk
        start += len(chunk)


def _part(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(_CHUNK_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SnapshotUnusable:
    return SnapshotUnusable(f"The snapshot {path} cannot be read: {error.strerror or error}.")
