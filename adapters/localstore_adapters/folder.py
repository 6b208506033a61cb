"""A shared folder as a remote: a network share, a USB disk, or whatever Syncthing, Dropbox and the like keep in step.

    <folder>/remote.json                                        whose history this is
    <folder>/<partition>/<device>/<first>-<last>-<hash>.changes  one push, immutable
    <folder>/<partition>/snapshots/                              what history may be forgotten for

Every device writes into its own directory alone and nothing is ever rewritten, so that no two devices can be in each other's
way, whatever carries the files. There is no server and no lock, and so no order between devices either.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from localstore.adapter import (
    Capabilities,
    Cursor,
    Hello,
    Hint,
    Limit,
    Page,
    PushResult,
    Refusal,
    SnapshotInfo,
    SupportsSnapshots,
    SyncAdapter,
    Welcome,
)
from localstore.changes import Device, Number
from localstore.environment import Environment
from localstore.errors import Offline, ResetRequired
from localstore.urls import redacted, split_url
from localstore.wire import MAX_CHANGESET_BYTES, SealedChangeset
from localstore_adapters._folder_cursor import cursor_of, numbers_of
from localstore_adapters._folder_files import (
    make_directory,
    parse_device,
    parse_name,
    reaching,
    safe_name,
    sweep,
    write_changes,
)
from localstore_adapters._folder_history import FilesPage, FolderHistory
from localstore_adapters._folder_identity import identify, read_identity
from localstore_adapters._folder_inotify import can_listen, is_local_disk
from localstore_adapters._folder_own import Absence, check_damaged, count_stored
from localstore_adapters._folder_snapshot_calls import SnapshotCalls
from localstore_adapters._folder_snapshots import FolderSnapshots
from localstore_adapters._folder_watch import can_watch, changed_paths, told_paths

__all__ = ["FolderAdapter"]

_T = TypeVar("_T")
_WORLD = Environment()
_POLL_SECONDS = 5.0  # notifications do not come through network mounts
_KEEP_DAYS = 30.0
_DAY_MS = 86_400_000
_LOOKS_MAX = 3  # at a folder in which files go away just now
_LOCAL_POLL_SECONDS = 60.0  # from a disk of this computer they do come


@dataclass(frozen=True)
class _Line:
    """What the adapter remembers of its connect."""

    remote_id: str
    device: bytes
    history: FolderHistory
    snapshots: FolderSnapshots

    def look(self) -> None:
        """See what is there now."""
        self.snapshots.look()  # first: what goes meanwhile went for a reason that is known by then
        self.history.floors = self.snapshots.floors
        self.history.own_floor = self.snapshots.holds(self.device)
        self.history.scan()

    def count_after(self, numbers: Mapping[Device, Number]) -> int:
        """How many changesets there are after a place."""
        self.look()
        return self.history.count_all_after(numbers)


class FolderAdapter:
    """One device's line to a shared folder.

    Args:
        folder: the folder; made at the very first connect if its parent exists.
        environment: clock, randomness, and where blocking work is done.
        poll_seconds: how often the session should look for news, and the watch for a folder that was exchanged; None leaves it
            to what is known of the disk.
        listens: whether Linux itself is asked for notifications; else watchfiles is, where it is installed.
        keep_days: how long history is kept that is in a snapshot; None leaves it to the devices, see ``Hello.horizon_days``.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        environment: Environment = _WORLD,
        poll_seconds: float | None = None,
        listens: bool | None = None,
        keep_days: float | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._environment = environment
        self._given_seconds = poll_seconds
        self._keep_days = keep_days
        self._listens = can_listen() if listens is None else listens
        self._is_local = False
        self._watch_failed = False
        self._line: _Line | None = None
        self._absence = Absence(self.folder, environment.monotonic)
        self._job: asyncio.Future[Any] | None = None
        self._watches: list[asyncio.Event] = []

    @classmethod
    def from_url(cls, url: str) -> FolderAdapter:
        """A line to the folder that a URL names.

        Args:
            url: ``folder:///absolute/path``, on Windows also ``folder:///C:/path`` and ``folder://server/share/path``;
                special characters percent-encoded.
        """
        return cls(folder_path(url))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            ordered=False,
            poll_seconds=self._poll_seconds,
            watch=self._listens or can_watch(),
            snapshots=True,
            max_changeset_bytes=MAX_CHANGESET_BYTES,
        )

    @property
    def _poll_seconds(self) -> float:
        is_told = self._listens and self._is_local and not self._watch_failed
        return self._given_seconds or (_LOCAL_POLL_SECONDS if is_told else _POLL_SECONDS)

    async def connect(self, hello: Hello) -> Welcome:
        self._line, welcome = await self._in_turn(self._connect, hello)
        return welcome

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        line = self._connected()
        if not _is_run(line.device, batch):
            raise ValueError("A batch is a run of consecutive numbers of the connected device, and not empty.")
        return await self._in_turn(self._push, line, batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        return await self._in_turn(self._pull, self._connected(), cursor, limit)

    async def latest_snapshot(self) -> SnapshotInfo | None:
        return await self._snapshot_calls().latest()

    def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        return self._snapshot_calls().read(info)

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        await self._snapshot_calls().write(cursor, chunks)

    async def trim(self, before: Cursor) -> None:
        await self._snapshot_calls().trim(before)

    def _snapshot_calls(self) -> SnapshotCalls:
        line = self._connected()
        check = functools.partial(self._check_identity, line)
        return SnapshotCalls(self.folder, line.snapshots, line.remote_id, self._in_turn, check, line.count_after)

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        line = self._connected()
        if not self.capabilities.watch:
            raise Offline("Watching a folder needs watchfiles.", hint="pip install 'localstore-sync[folder]'")
        stop = asyncio.Event()
        self._watches.append(stop)
        begun = False
        try:
            async with aclosing(self._changes(line, stop)) as changes:
                async for paths in changes:
                    came_before = not paths and await self._in_turn(self._has_news, line, cursor)
                    begun, self._watch_failed = True, False
                    if came_before or any(_is_news(path, line) for path in paths):
                        yield Hint()
        except Offline:
            if begun:
                yield Hint()  # that it went away is news as well: the next call sees it
            raise
        finally:
            self._watches.remove(stop)
        if not stop.is_set() and not self._watch_failed:
            self._watch_failed = True
            yield Hint()  # once, so that who relied on it looks, and from then on as often as without

    def _changes(self, line: _Line, stop: asyncio.Event) -> AsyncGenerator[list[Path]]:
        """Paths that come, by whatever way this system has."""
        if not self._listens:
            return changed_paths(self.folder, self._environment, self._poll_seconds, stop)
        part, own = line.history.path, line.device.hex()
        return told_paths(self.folder, part, own, self._environment, self._poll_seconds, stop)

    async def close(self) -> None:
        self._line = None
        for stop in self._watches:
            stop.set()

    def _connected(self) -> _Line:
        if self._line is None:
            raise Offline(f"This line to the folder {self.folder} is not connected. Nothing was sent.", hint="Connect first.")
        return self._line

    async def _in_turn(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Do blocking work beside the event loop, one job at a time.

        A cancelled call's thread cannot be stopped: its work is left to end, and the next call waits for that.
        """
        while self._job is not None and not self._job.done():
            await asyncio.wait([self._job])
        job = self._job = asyncio.ensure_future(_kept_quiet(self._environment.run_blocking(work, *arguments)))
        await asyncio.wait([job])
        outcome = job.result()
        if isinstance(outcome, Exception):
            raise outcome
        result: _T = outcome
        return result

    # What follows runs in worker threads.

    def _connect(self, hello: Hello) -> tuple[_Line, Welcome]:
        with reaching(self.folder):
            identity = identify(self.folder, hello, self._environment)
            self._is_local = is_local_disk(self.folder)
            numbers = numbers_of(hello.cursor, identity.remote_id)
            part = self.folder / safe_name(hello.partition)
            days = hello.horizon_days or _KEEP_DAYS
            days = days if self._keep_days is None else self._keep_days
            history = FolderHistory(part, hello.device, self._environment.monotonic)
            history.own_number = numbers.get(hello.device, 0)
            snapshots = FolderSnapshots(
                part,
                identity.remote_id,
                hello.device,
                now_ms=self._environment.now_ms,
                random_bytes=self._environment.random_bytes,
                keep_ms=int(days * _DAY_MS),
            )
            sweep(part / hello.device.hex())
            snapshots.sweep()
            line = _Line(identity.remote_id, hello.device, history, snapshots)
            line.look()
            last_number = history.last_own_number()
            self._absence.check(last_number, hello.acknowledged)
        horizon_days = days if snapshots.exist else None  # where nobody makes any, nothing is forgotten
        return line, Welcome(remote_id=identity.remote_id, last_number=last_number, horizon_days=horizon_days)

    def _push(self, line: _Line, batch: Sequence[SealedChangeset]) -> PushResult:
        with reaching(self.folder):
            self._check_identity(line)
            line.look()
            last = line.history.last_own_number()
            self._absence.check(last, batch[0].number - 1)
            if batch[0].number > last + 1:
                raise ResetRequired("remote restored", hint=f"The folder has this device's changesets up to {last} only.")
            missing = batch[count_stored(line.history, batch) :]
            refused = next((sealed for sealed in missing if sealed.byte_count > MAX_CHANGESET_BYTES), None)
            taken = missing if refused is None else missing[: refused.number - missing[0].number]
            if taken:
                check_damaged(line.history, taken)
                self._write(line, taken)
        if refused is None:
            return PushResult(acknowledged=batch[-1].number)
        reason = f"It has {refused.byte_count} bytes; a folder takes up to {MAX_CHANGESET_BYTES}."
        return PushResult(acknowledged=refused.number - 1, refusals=(Refusal(number=refused.number, reason=reason),))

    def _write(self, line: _Line, batch: Sequence[SealedChangeset]) -> None:
        directory = line.history.path / line.device.hex()
        make_directory(directory.parent)
        make_directory(directory)
        name = write_changes(directory, batch, self._environment.random_bytes)
        self._check_identity(line)  # nothing is acknowledged that went to another disk than the one we looked at
        line.history.trust(name)

    def _pull(self, line: _Line, cursor: Cursor | None, limit: Limit) -> Page:
        with reaching(self.folder):
            self._check_identity(line)
            numbers = numbers_of(cursor, line.remote_id)
            found, looks = self._page(line, numbers, limit), 1
            while line.history.is_outdated and looks < _LOOKS_MAX:  # files were trimmed just now
                found, looks = self._page(line, numbers, limit), looks + 1
            own = max(line.history.own_number, numbers.get(line.device, 0))
            if line.history.warnings:
                self._check_identity(line)  # unreadable for a reason of their own, or because the disk went away just now
        after = found.positions | ({line.device: own} if own else {})  # a snapshot at this cursor holds them as well
        return Page(
            changesets=found.changesets,
            cursor=cursor_of(line.remote_id, after),
            more=found.more or line.history.is_trimmed_after(found.positions),
            remaining_bytes=found.remaining_bytes,
            warnings=line.history.warnings + line.snapshots.warnings,
            passed_over=line.history.passed_over,
        )

    def _page(self, line: _Line, numbers: Mapping[Device, Number], limit: Limit) -> FilesPage:
        line.look()
        line.history.last_own_number()  # to tell of a damaged end
        self._check_not_trimmed(line, numbers)
        return line.history.page(numbers, limit)

    def _check_not_trimmed(self, line: _Line, numbers: Mapping[Device, Number]) -> None:
        if not line.history.is_trimmed_after(numbers):
            return
        if not line.snapshots.hold_what_is_gone():
            raise Offline(
                f"The folder {self.folder} is still being copied: what this device needs next was let go of, and no snapshot"
                " that holds it is whole yet. Local data is safe.",
                hint="Wait until the folder is complete; sync then goes on by itself.",
            )
        raise ResetRequired("history trimmed", hint="Take the latest snapshot.")

    def _has_news(self, line: _Line, cursor: Cursor | None) -> bool:
        with reaching(self.folder):
            line.look()
            return line.history.has_news(numbers_of(cursor, line.remote_id))

    def _check_identity(self, line: _Line) -> None:
        """Every call looks anew: a disk can be exchanged between two of them."""
        identity = read_identity(self.folder)
        if identity is None:
            raise Offline(
                f"The folder {self.folder} went away. Local data is safe, and what is unsent stays in the outbox.",
                hint="Connect the disk or share again; sync then goes on by itself.",
            )
        if identity.remote_id != line.remote_id:
            raise ResetRequired("remote replaced", hint=f"The folder {self.folder} holds another history now.")


def folder_path(url: str, *, windows: bool = os.name == "nt") -> str:
    """The path in a folder's URL.

    Raises:
        ValueError: it is not an absolute path, or has characters that should be percent-encoded.
    """
    parts = split_url(url)
    if parts.query or parts.fragment:
        raise ValueError(f"{redacted(url)!r} has a '?' or '#'. Write these as %3F and %23 in the URL of a folder.")
    path = unquote(parts.path)
    if windows and parts.netloc and path:
        return f"//{parts.netloc}{path}"
    if parts.netloc or not path.startswith("/") or path == "/":
        raise ValueError(
            f"{redacted(url)!r} names no folder. Write its absolute path after three slashes, as in 'folder:///mnt/share/todo'."
        )
    return path[1:] if windows and re.match(r"/[A-Za-z]:", path) else path


def _is_run(device: bytes, batch: Sequence[SealedChangeset]) -> bool:
    """Whether a batch is what may be pushed: consecutive numbers of one device."""
    numbers = [sealed.number for sealed in batch if sealed.device == device]
    return bool(batch) and numbers == list(range(batch[0].number, batch[0].number + len(batch)))


def _is_news(path: Path, line: _Line) -> bool:
    """Whether a path is a whole file of another device in this partition."""
    partition, device, name = ("", "", "", *path.parts)[-3:]
    return (
        partition == line.history.path.name and parse_name(name) is not None and parse_device(device) not in (None, line.device)
    )


async def _kept_quiet(work: Awaitable[Any]) -> Any:
    """An error as a value: nobody may be left to take it, and asyncio complains of errors that nobody took."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - raised again by whoever waits
        return error


_: tuple[type[SyncAdapter], type[SupportsSnapshots]] = (FolderAdapter, FolderAdapter)
