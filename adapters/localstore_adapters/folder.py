"""A shared folder as a remote: a network share, a USB disk, or whatever Syncthing, Dropbox and the like keep in step.

    <folder>/remote.json                                        whose history this is
    <folder>/<partition>/<device>/<first>-<last>-<hash>.changes  one push, immutable

Every device writes into its own directory alone and nothing is ever rewritten, so that no two devices can be in each other's
way, whatever carries the files. There is no server and no lock, and so no order between devices either.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec

from localstore.adapter import Capabilities, Cursor, Hello, Hint, Limit, Page, PushResult, Refusal, SyncAdapter, Welcome
from localstore.changes import Device, Number
from localstore.environment import Environment
from localstore.errors import Offline, ResetRequired
from localstore.urls import redacted, split_url
from localstore.wire import MAX_CHANGESET_BYTES, SealedChangeset
from localstore_adapters._folder_files import (
    make_directory,
    parse_device,
    parse_name,
    reaching,
    safe_name,
    sweep,
    write_changes,
)
from localstore_adapters._folder_history import FolderHistory
from localstore_adapters._folder_identity import identify, read_identity
from localstore_adapters._folder_inotify import can_listen, is_local_disk
from localstore_adapters._folder_watch import can_watch, changed_paths, told_paths

__all__ = ["FolderAdapter"]

_T = TypeVar("_T")
_WORLD = Environment()
_POLL_SECONDS = 5.0  # notifications do not come through network mounts
_LOCAL_POLL_SECONDS = 60.0  # from a disk of this computer they do come


class _Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a cursor holds: in which history, and each other device's last number that was read."""

    remote_id: str
    numbers: dict[Device, Number]


@dataclass(frozen=True)
class _Line:
    """What the adapter remembers of its connect."""

    remote_id: str
    device: bytes
    history: FolderHistory


class FolderAdapter:
    """One device's line to a shared folder.

    Args:
        folder: the folder; made at the very first connect if its parent exists.
        environment: clock, randomness, and where blocking work is done.
        poll_seconds: how often the session should look for news, and the watch for a folder that was exchanged; None leaves it
            to what is known of the disk.
        listens: whether Linux itself is asked for notifications; else watchfiles is, where it is installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        environment: Environment = _WORLD,
        poll_seconds: float | None = None,
        listens: bool | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._environment = environment
        self._given_seconds = poll_seconds
        self._listens = can_listen() if listens is None else listens
        self._is_local = False
        self._watch_failed = False
        self._line: _Line | None = None
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
            _position(hello.cursor, identity.remote_id)
            history = FolderHistory(self.folder / safe_name(hello.partition), hello.device, self._environment.monotonic)
            sweep(history.path / hello.device.hex())
            history.scan()
            last_number = history.last_own_number()
        line = _Line(identity.remote_id, hello.device, history)
        return line, Welcome(remote_id=identity.remote_id, last_number=last_number)

    def _push(self, line: _Line, batch: Sequence[SealedChangeset]) -> PushResult:
        with reaching(self.folder):
            self._check_identity(line)
            line.history.scan()
            last = line.history.last_own_number()
            if batch[0].number > last + 1:
                raise ResetRequired("device forked", hint=f"The folder has this device's changesets up to {last} only.")
            missing = batch[_count_stored(line, batch) :]
            refused = next((sealed for sealed in missing if sealed.byte_count > MAX_CHANGESET_BYTES), None)
            taken = missing if refused is None else missing[: refused.number - missing[0].number]
            if taken:
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
            position = _position(cursor, line.remote_id)
            line.history.scan()
            found = line.history.page(position.numbers, limit)
            if line.history.warnings:
                self._check_identity(line)  # unreadable for a reason of their own, or because the disk went away just now
        numbers = dict(sorted(found.positions.items()))
        return Page(
            changesets=found.changesets,
            cursor=Cursor(msgspec.msgpack.encode(_Position(line.remote_id, numbers))),
            more=found.more,
            remaining_bytes=found.remaining_bytes,
            warnings=line.history.warnings,
            passed_over=line.history.passed_over,
        )

    def _has_news(self, line: _Line, cursor: Cursor | None) -> bool:
        with reaching(self.folder):
            line.history.scan()
            return line.history.has_news(_position(cursor, line.remote_id).numbers)

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


def _position(cursor: Cursor | None, remote_id: str) -> _Position:
    if cursor is None:
        return _Position(remote_id, {})
    try:
        position = msgspec.msgpack.decode(cursor, type=_Position)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResetRequired("unknown cursor") from error
    if position.remote_id != remote_id:
        raise ResetRequired("unknown cursor", hint="It belongs to another history.")
    return position


def _is_run(device: bytes, batch: Sequence[SealedChangeset]) -> bool:
    """Whether a batch is what may be pushed: consecutive numbers of one device."""
    numbers = [sealed.number for sealed in batch if sealed.device == device]
    return bool(batch) and numbers == list(range(batch[0].number, batch[0].number + len(batch)))


def _count_stored(line: _Line, batch: Sequence[SealedChangeset]) -> int:
    """How many of a batch's first changesets are stored already, with the same content."""
    count = 0
    for ours, stored in zip(batch, line.history.own_changesets(batch[0].number - 1), strict=False):
        if ours.digest != stored.digest:
            raise ResetRequired("device forked", hint=f"Number {ours.number} is stored with other content.")
        count += 1
    return count


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


_: type[SyncAdapter] = FolderAdapter
