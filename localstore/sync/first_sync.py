"""The first sync of a file that holds nothing: the remote's newest snapshot, so that only what came after it is pulled.

A snapshot that cannot be used is told, and history takes its place. It is fetched into a file of its own, in any number of
parts, and loaded in one transaction: whatever breaks that off, the file holds nothing as before. What comes before and after is
the cycle's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localstore.adapter import SnapshotInfo
from localstore.errors import Busy, NewerFormat, RealmNotEmpty, ResetRequired, SnapshotUnusable, SyncError
from localstore.reasons import ResetReason
from localstore.store.snapshots import can_load_snapshot, load_snapshot, snapshot_number
from localstore.sync.blocking import in_thread
from localstore.sync.line import Line
from localstore.sync.parts import SessionParts
from localstore.sync.snapshot_files import snapshot_file

__all__ = ["FirstSync", "Unseen"]

_TRIES = 3  # snapshots that are replaced by newer ones while they are fetched


@dataclass(frozen=True)
class Unseen:
    """Changesets that somebody has to see one by one: those of a device after a number. A snapshot with any of them is passed
    over."""

    device: bytes
    after: int


class FirstSync:
    """Brings a session's file to the remote's newest snapshot, if it can.

    Args:
        parts: of the session.
        line: to the remote, connected by the time it is used.
        unseen: changesets that may not come with a snapshot.
        report: is told of a snapshot that cannot be used.
    """

    def __init__(self, parts: SessionParts, line: Line, unseen: Unseen | None, report: Callable[[SyncError], object]) -> None:
        self._parts = parts
        self._environment = parts.environment
        self._store = parts.store
        self._line = line
        self._unseen = unseen
        self._report = report
        self._problem: SnapshotUnusable | None = None
        self._has_told = False

    async def take(self) -> int | None:
        """Load the newest snapshot that can be used.

        Returns:
            Its size; None when none was loaded, and the file is as it was.

        Raises:
            SyncError: the remote cannot be asked, or there is no room now.
        """
        self._problem = None
        info = await self._line.latest_snapshot()
        if info is None or not await in_thread(self._environment, can_load_snapshot, self._store):
            return None
        problem: SyncError | None = None
        tried: set[str] = set()
        while info is not None and info.name not in tried and len(tried) < _TRIES:
            tried.add(info.name)
            try:
                return info.byte_count if await self._fetch_and_load(info) else None
            except RealmNotEmpty:  # written to meanwhile, or filled by another process
                return None
            except (SnapshotUnusable, NewerFormat) as error:
                problem = error
            info = await self._line.latest_snapshot()
        if problem is not None:
            self._problem = _told(problem)
            if not self._has_told:
                self._has_told = True
                self._report(self._problem)
        return None

    def explained(self, error: ResetRequired) -> SyncError:
        """What is to be said when history cannot take the snapshot's place: a reset would begin with the same snapshot, while
        another device may make a newer one any day."""
        if self._problem is None or error.kind is not ResetReason.HISTORY_TRIMMED:
            return error
        return SnapshotUnusable(
            f"{self._problem.message} The remote has let go of the history before it, so that this device has to wait for a"
            " newer snapshot.",
            hint="Give this device the tables and the version of localstore that the others have.",
        )

    async def _fetch_and_load(self, info: SnapshotInfo) -> bool:
        async with snapshot_file(self._parts) as path:
            if path is None:
                return False
            with ExitStack() as opened:
                await self._fetch(info, path, opened)
            return await in_thread(self._environment, self._load, path)

    async def _fetch(self, info: SnapshotInfo, path: Path, opened: ExitStack) -> None:
        file = await in_thread(self._environment, _created, path)
        opened.callback(_let_go, file)
        count = 0
        async with aclosing(self._line.read_snapshot(info)) as chunks:
            async for chunk in chunks:
                count += len(chunk)
                if count > info.byte_count:
                    break
                await in_thread(self._environment, _write, file, path, chunk)
        await in_thread(self._environment, _close, file, path)
        if count != info.byte_count:
            raise SnapshotUnusable(f"The snapshot {info.name} should have {info.byte_count} bytes, and has {count} or more.")

    def _load(self, path: Path) -> bool:
        unseen = self._unseen
        if unseen is not None and snapshot_number(self._store, path, unseen.device) > unseen.after:
            return False
        load_snapshot(self._store, path)
        return True


def _created(path: Path) -> BinaryIO:
    """A new file that only this user may read."""
    try:
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600), "wb")
    except OSError as error:
        raise _no_room(path, error) from error


def _write(file: BinaryIO, path: Path, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise _no_room(path, error) from error


def _close(file: BinaryIO, path: Path) -> None:
    try:
        file.close()
    except OSError as error:
        raise _no_room(path, error) from error


def _let_go(file: BinaryIO) -> None:
    with suppress(OSError):  # it tries once more to write what there was no room for
        file.close()


def _no_room(path: Path, error: OSError) -> Busy:
    return Busy(
        f"A snapshot of the remote could not be kept at {path}: {error.strerror or error}. Nothing was changed.",
        hint="Free some space there; sync then goes on by itself.",
    )


def _told(problem: SyncError) -> SnapshotUnusable:
    """What is told of a snapshot that was passed over: never a fatal error, as history takes its place."""
    if isinstance(problem, SnapshotUnusable):
        return problem
    told = SnapshotUnusable(problem.message, hint=problem.hint)
    told.__cause__ = problem
    return told
