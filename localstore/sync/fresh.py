"""A second file that is filled with all that the remote has through a line of its own, as by a device that is new to it.

What it is for is not known here: a client reset, or the undoing of refused changes. It is removed in the end, and one that
was left behind by a crash when a session starts, and before a new one is made.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from localstore.adapter import (
    Capabilities,
    Cursor,
    Hello,
    Limit,
    Page,
    PushResult,
    SealedChangeset,
    SnapshotInfo,
    SupportsSnapshots,
    SyncAdapter,
    Welcome,
)
from localstore.environment import Environment
from localstore.errors import LocalStoreError, Offline, RealmClosed, SyncError
from localstore.store.file import Store
from localstore.store.likeness import open_like, owner_of_like, remove_like
from localstore.store.snapshot_place import remove_leftovers
from localstore.sync.backups import remove_half_backups
from localstore.sync.blocking import in_thread
from localstore.sync.cycle import Cycle, Observer, Signals
from localstore.sync.first_sync import Unseen
from localstore.sync.letting_go import let_go
from localstore.sync.line import Line
from localstore.sync.news import Connection, Failed, News
from localstore.sync.parts import SessionParts
from localstore.sync.reports import Reports
from localstore.sync.waits import Waits

__all__ = ["Beside", "Fresh", "fresh_file", "tidy"]

_log = logging.getLogger("localstore.sync")


def fresh_path(store: Store, environment: Environment) -> Path:
    """Where a second file of a store is to lie as long as it is needed: beside it, and in no other process's way."""
    return store.path.with_name(f"{store.path.name}.fresh-{environment.random_bytes(4).hex()}")


def leftovers(store: Store) -> list[Path]:
    """Second files of a store that lie there, also of those who are at work just now."""
    name = re.compile(re.escape(f"{store.path.name}.fresh-") + "[0-9a-f]{8}")
    try:
        return [path for path in store.path.parent.iterdir() if name.fullmatch(path.name)]
    except OSError:  # a folder may be closed to those who look around in it
        return []


def tidy(store: Store) -> None:
    """Remove what processes that were killed left beside a store: second files, and snapshots and backups on their way."""
    remove_leftovers(store.path)
    remove_half_backups(store.path)
    for path in leftovers(store):
        with suppress(LocalStoreError):  # somebody is at work there, or may not remove it
            remove_like(path, owner_of_like(store), store.options.encryption_key)


@dataclass
class Fresh:
    """A file that is being filled.

    Attributes:
        store: the file.
        cycle: fills it: ``cycle.fill()``.
        in_use: for whoever reads it in another way than through its store, in a thread: it is not removed meanwhile.
        stored: digests of the wanted changesets that came by, by number.
    """

    store: Store
    cycle: Cycle
    in_use: AbstractContextManager[object]
    stored: dict[int, bytes] = field(default_factory=dict)


@asynccontextmanager
async def fresh_file(
    parts: SessionParts,
    wanted: Unseen,
    *,
    observer: Observer,
    signals: Signals,
    blindly: bool = False,
    reports: Reports | None = None,
) -> AsyncIterator[Fresh]:
    """A file like that of a session, and what fills it, for the block.

    Args:
        parts: of the session.
        wanted: changesets to look out for.
        observer: hears of the line to the remote.
        signals: the session's pokes, so that ``reconnect()`` ends a wait here as well.
        blindly: take a snapshot also when some of these are in it, as the history that holds them is gone.
        reports: what was told before, and is not to be told again.
    """
    adapter = _Noting(parts.make_adapter(), wanted)
    try:
        async with _opened(parts) as (store, in_use):
            line = Line(adapter, parts.limits, parts.environment)
            unseen = None if blindly else wanted
            beside = replace(parts, store=store)
            cycle = Cycle(beside, line=line, waits=Waits(), observer=observer, signals=signals, unseen=unseen, reports=reports)
            yield Fresh(store, cycle, in_use, adapter.stored)
    finally:  # last of all: the session has to wait for an adapter that hangs
        await let_go(adapter, parts.loop, parts.secrets, hurried=True)


@asynccontextmanager
async def _opened(parts: SessionParts) -> AsyncIterator[tuple[Store, AbstractContextManager[object]]]:
    environment = parts.environment
    second = await in_thread(environment, _Second, parts.store, environment)
    try:
        yield await in_thread(environment, second.open), second.in_use
    finally:
        await environment.run_blocking(second.remove)


class _Second:
    """The second file of a store. It may be removed at any moment and is gone then, also when the store was closed meanwhile.

    Attributes:
        in_use: held while it is opened or read, which nothing breaks off, and while it is removed.
    """

    def __init__(self, original: Store, environment: Environment) -> None:
        self._original = original
        self._environment = environment
        self._owner, self._key = owner_of_like(original), original.options.encryption_key
        self.in_use = threading.Lock()
        self._store: Store | None = None
        self._is_gone = False
        self._path = fresh_path(original, environment)
        tidy(original)

    def open(self) -> Store:
        with self.in_use:
            if self._is_gone:
                raise RealmClosed(f"{self._path} is not needed any more.")
            self._store = open_like(self._original, self._path, self._environment)
            return self._store

    def remove(self) -> None:
        """Remove the file. What cannot be removed now is when the next one is made."""
        with self.in_use:
            self._is_gone = True
            try:
                if self._store is not None:
                    self._store.close()
                remove_like(self._path, self._owner, self._key)
            except LocalStoreError as error:
                _log.warning("%s could not be removed: %s", self._path.name, error)


class Beside:
    """What the session hears of a line beside its own.

    Args:
        observer: the session.
        instead: whether the line stands in for the session's own, so that its connection and errors are the session's; else
            the session reads the same history by itself, and has told of it.
    """

    def __init__(self, observer: Observer, *, instead: bool) -> None:
        self._observer = observer
        self._instead = instead

    def tell(self, news: News) -> None:
        """Pass on what concerns the line, and not what its file came to hold."""
        if self._instead and isinstance(news, Connection | Failed):
            self._observer.tell(news)

    def report(self, error: SyncError) -> None:
        if self._instead:
            self._observer.report(error)

    async def caught_up(self, pull: Callable[[], Awaitable[None]]) -> None:
        """What is done then is said to ``Cycle.fill``."""


class _Noting:
    """An adapter that notes which of the wanted changesets its pages hold."""

    def __init__(self, inner: SyncAdapter, wanted: Unseen) -> None:
        self._inner = inner
        self._wanted = wanted
        self.stored: dict[int, bytes] = {}

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._inner.capabilities, watch=False, ping=False)

    async def connect(self, hello: Hello) -> Welcome:
        return await self._inner.connect(hello)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        return await self._inner.push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        page = await self._inner.pull(cursor, limit)
        for sealed in page.changesets:
            if sealed.device == self._wanted.device and sealed.number > self._wanted.after:
                self.stored[sealed.number] = sealed.digest
        return page

    async def latest_snapshot(self) -> SnapshotInfo | None:
        return await self._snapshots().latest_snapshot()

    def read_snapshot(self, info: SnapshotInfo) -> AsyncIterator[bytes]:
        return self._snapshots().read_snapshot(info)

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        raise Offline("A second file makes no snapshots.")

    async def trim(self, before: Cursor) -> None:
        raise Offline("A second file trims nothing.")

    async def close(self) -> None:
        await self._inner.close()

    def _snapshots(self) -> SupportsSnapshots:
        if not isinstance(self._inner, SupportsSnapshots):
            raise Offline("The adapter inside keeps no snapshots.")
        return self._inner
