"""A log in an SQL database as a remote: ``sqlite:///file.db`` and ``postgresql://user@host/name``.

All lines of a process to one database share a small pool of connections (``_sql_store``). What a call reads and writes is in
``_sql_log`` and ``_sql_snapshots``, each in one transaction; how news is heard of, in ``_sql_hints``. This module puts them
under the contract: one call of a line at a time, in a thread, and cancelled at any await without anything half done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa

from localstore.adapter import (
    Capabilities,
    Cursor,
    Hello,
    Hint,
    Limit,
    Page,
    PushResult,
    SnapshotInfo,
    SupportsPing,
    SupportsSnapshots,
    SupportsWatch,
    SyncAdapter,
    Welcome,
)
from localstore.errors import Offline, ProtocolError, SyncError
from localstore.wire import SealedChangeset
from localstore_adapters import _sql_log as log
from localstore_adapters import _sql_snapshots as snapshots
from localstore_adapters._sql_claims import Claim
from localstore_adapters._sql_hints import Bell
from localstore_adapters._sql_layout import LAYOUT, layout_of
from localstore_adapters._sql_store import SqlStore
from localstore_adapters._sql_together import Part

__all__ = ["SqlAdapter", "SqlStore", "migrate"]

_T = TypeVar("_T")
_KEEP_DAYS = 30.0
_POLL_SECONDS = 30.0
_MARK_BYTES = 8
_DAY_MS = 86_400_000


def migrate(url: str) -> None:
    """Make the tables of a log in a database, or bring them to this library's layout. Blocks; any number may at once.

    Args:
        url: ``sqlite:///file.db`` or ``postgresql://user@host/name``.

    Raises:
        NewerFormat: they are of a later localstore.
        Offline, Busy, Unauthorized: the database cannot be reached, or does not let this user do it.
    """
    store = SqlStore(url)
    store.hold()
    try:
        store.migrate()
    finally:
        store.let_go()


class SqlAdapter:
    """One device's line to a log in an SQL database.

    Args:
        store: the database, shared by all its lines.
    """

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._is_held = False
        self._line: log.Line | None = None
        self._keep_days = _KEEP_DAYS
        self._known = 0  # the device has its own changesets up to here, by what it said itself
        self._job: asyncio.Future[object] | None = None
        self._bells: dict[Bell, None] = {}

    @classmethod
    def from_url(cls, url: str) -> SqlAdapter:
        """A line to the database that a URL names.

        Args:
            url: ``sqlite:///relative/file.db``, ``sqlite:////absolute/file.db`` or ``postgresql://user:password@host/name``,
                with libpq's parameters after a question mark; special characters percent-encoded.
        """
        return cls(SqlStore.shared(url))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            ordered=True,
            poll_seconds=_POLL_SECONDS,
            max_changeset_bytes=self._store.max_changeset_bytes,
            watch=True,
            ping=self._store.address.path is None,
            snapshots=True,
        )

    async def connect(self, hello: Hello) -> Welcome:
        if not self._is_held:
            self._store.hold()
            self._is_held = True
        self._line, welcome = await self._in_turn(self._connect, hello)
        self._known = hello.acknowledged
        return welcome

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        line = self._connected()
        if not _is_run(line.device, batch):
            raise ValueError("A batch is a run of consecutive numbers of the connected device, and not empty.")
        if self._store.is_postgres:
            result = await self._in_turn(self._push, line, batch, writes=True)
        else:
            result = await self._after_the_last(
                lambda: self._store.run(self._finish, line, self._begin(line, batch), writes=True, lane=line.partition)
            )
        self._known = max(self._known, result.acknowledged)
        return result

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        return await self._in_turn(self._pull, self._connected(), cursor, limit, self._known)

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        line = self._connected()
        bell = Bell(line.partition, line.device)
        self._bells[bell] = None
        try:
            with self._store.hints.listening(bell):  # before looking, so that nothing falls in between
                if await self._store.run(self._has_news, line, cursor):
                    yield Hint()
                while True:
                    await bell.wait()
                    if self._line != line:
                        return
                    yield Hint()
        finally:
            del self._bells[bell]

    async def ping(self) -> None:
        line = self._connected()
        await self._store.run(self._has_news, line, None)

    async def latest_snapshot(self) -> SnapshotInfo | None:
        return await self._in_turn(self._latest_snapshot, self._connected())

    def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        return self.read_snapshot_from(info, 0)

    async def read_snapshot_from(self, info: SnapshotInfo, start: int) -> AsyncGenerator[bytes]:
        """The same from a place on; what is before that is not read."""
        line = self._connected()
        number, passed = divmod(start, snapshots.CHUNK_BYTES)
        while chunk := await self._in_turn(self._read_chunk, line, info, number):
            yield chunk[passed:]
            number, passed = number + 1, 0

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        line = self._connected()
        place = log.place_of(cursor, line.remote_id)
        written = await self._in_turn(self._begin_snapshot, line, writes=True)
        try:
            async for chunk in _in_size(chunks, snapshots.CHUNK_BYTES):
                await self._in_turn(self._add_chunk, line, written, chunk, writes=True)
            await self._in_turn(self._publish, line, written, place, writes=True)
        except BaseException:
            await self._in_turn(self._discard, written, writes=True)
            raise
        while await self._in_turn(self._sweep, writes=True):
            pass

    async def trim(self, before: Cursor) -> None:
        line = self._connected()
        place = log.place_of(before, line.remote_id)
        while await self._in_turn(self._trim, line, place, writes=True):
            pass

    @contextlib.asynccontextmanager
    async def claimed(self, task: str) -> AsyncGenerator[bool]:
        """Have a task of the connected partition for oneself, for the block; False while another process has it. Whoever is
        killed has it no longer."""
        line = self._connected()
        claim = Claim(self._store, f"{line.remote_id} {line.partition} {task}")
        try:
            yield await self._store.run(claim.take)
        finally:
            await asyncio.wait([self._store.run(claim.let_go)])

    async def close(self) -> None:
        self._line = None
        for bell in self._bells:
            bell.ring()
        if self._is_held:
            self._is_held = False
            await asyncio.wait([self._store.run(self._store.let_go)])

    def _connected(self) -> log.Line:
        if self._line is None:
            raise Offline(
                f"This line to {self._store.address.shown} is not connected. Nothing was sent.", hint="Connect first."
            )
        return self._line

    async def _in_turn(self, work: Callable[..., _T], *arguments: object, writes: bool = False) -> _T:
        """Do blocking work beside the event loop, one job at a time."""
        lane = self._line.partition if writes and self._line is not None else None
        return await self._after_the_last(lambda: self._store.run(work, *arguments, writes=writes, lane=lane))

    async def _after_the_last(self, begin: Callable[[], asyncio.Future[_T]]) -> _T:
        """Begin a job and wait for it. What a cancelled call has left is waited for before."""
        while self._job is not None and not self._job.done():
            await asyncio.wait([self._job])
        job = begin()
        self._job = job  # type: ignore[assignment]
        await asyncio.wait([job])
        return job.result()

    def _begin(self, line: log.Line, batch: Sequence[SealedChangeset]) -> Part[sa.Connection, log.Appended]:
        """Of a file: what lines push while a transaction is committed goes together into the next."""
        mark, most = self._store.environment.random_bytes(_MARK_BYTES), self._store.max_changeset_bytes
        return self._store.together.add(lambda connection: log.append(connection, line, batch, mark, most))

    # What follows runs in threads.

    def _finish(self, line: log.Line, part: Part[sa.Connection, log.Appended]) -> PushResult:
        return self._told(line, self._store.together.finish(part))

    def _connect(self, hello: Hello) -> tuple[log.Line, Welcome]:
        store = self._store
        line = self._find(hello) or self._make(hello)
        with store.reading() as connection:
            if hello.cursor is not None:
                log.look(connection, line, log.place_of(hello.cursor, line.remote_id))
            last_number, now_ms, has_snapshots = log.welcome_of(connection, line)
        self._keep_days = hello.horizon_days or _KEEP_DAYS if store.keep_days is None else store.keep_days
        horizon_days = self._keep_days if has_snapshots else None  # where nobody makes any, nothing is forgotten
        return line, Welcome(remote_id=line.remote_id, last_number=last_number, time_ms=now_ms, horizon_days=horizon_days)

    def _find(self, hello: Hello) -> log.Line | None:
        """The line to what is there; None when something is missing. A device's very first connect makes the tables."""
        store, shown = self._store, self._store.address.shown
        is_first = hello.remote_id is None and hello.cursor is None
        if is_first and store.is_missing():
            store.migrate()
        with store.reading() as connection:
            layout = layout_of(connection, shown)
            if layout == LAYOUT:
                return log.line_of(connection, hello, shown)
        if layout is not None:
            raise ProtocolError(
                f"The log in {shown} has layout {layout}; this localstore works with {LAYOUT}. Nothing was changed.",
                hint="Upgrade it, once for all who use it, with localstore_adapters.sql.migrate(url).",
            )
        if not is_first:
            raise log.emptied(shown)
        store.migrate()
        return None

    def _make(self, hello: Hello) -> log.Line:
        """What a history lacks: at a device's very first connect its identity, later a partition only."""
        store = self._store
        with store.writing() as connection:
            if hello.remote_id is None and hello.cursor is None:
                log.make_remote(connection, hello.app, store.environment.random_bytes(16).hex())
            log.make_partition(connection, hello.partition)
            line = log.line_of(connection, hello, store.address.shown)
            if line is None:
                raise log.emptied(store.address.shown)
        return line

    def _push(self, line: log.Line, batch: Sequence[SealedChangeset]) -> PushResult:
        store, most = self._store, self._store.max_changeset_bytes
        mark = store.environment.random_bytes(_MARK_BYTES)
        if store.is_postgres and all(sealed.byte_count <= most for sealed in batch):
            with store.reading() as connection:
                head = log.append_at_once(connection, line, batch, mark)
            if head is not None:
                store.hints.stored(line.partition, head, len(batch), line.device)
                return PushResult(acknowledged=batch[-1].number)
        with store.writing() as connection:
            appended = log.append(connection, line, batch, mark, most)
        return self._told(line, appended)

    def _told(self, line: log.Line, appended: log.Appended) -> PushResult:
        result, count, head = appended
        if count:
            self._store.hints.stored(line.partition, head, count, line.device)
        return result

    def _pull(self, line: log.Line, cursor: Cursor | None, limit: Limit, known: int) -> Page:
        with self._store.reading() as connection:
            return log.page(connection, line, cursor, limit, known)

    def _has_news(self, line: log.Line, cursor: Cursor | None) -> bool:
        with self._store.reading() as connection:
            return log.has_news(connection, line, cursor)

    def _latest_snapshot(self, line: log.Line) -> SnapshotInfo | None:
        with self._store.reading() as connection:
            return snapshots.latest(connection, line)

    def _read_chunk(self, line: log.Line, info: SnapshotInfo, number: int) -> bytes:
        with self._store.reading() as connection:
            return snapshots.read_chunk(connection, line, info, number)

    def _begin_snapshot(self, line: log.Line) -> snapshots.Written:
        name = self._store.environment.random_bytes(16).hex()
        with self._store.writing() as connection:
            return snapshots.begin(connection, line, name)

    def _add_chunk(self, line: log.Line, written: snapshots.Written, chunk: bytes) -> None:
        with self._store.writing() as connection:
            snapshots.add_chunk(connection, line, written, chunk)
        written.chunks += 1
        written.byte_count += len(chunk)

    def _publish(self, line: log.Line, written: snapshots.Written, place: log.Place) -> None:
        with self._store.writing() as connection:
            snapshots.publish(connection, line, written, place)

    def _discard(self, written: snapshots.Written) -> None:
        with contextlib.suppress(SyncError), self._store.writing() as connection:  # what went wrong is what is told
            snapshots.discard(connection, written)

    def _sweep(self) -> bool:
        with contextlib.suppress(SyncError), self._store.writing() as connection:  # whoever writes the next one goes on
            return snapshots.sweep(connection)
        return False

    def _trim(self, line: log.Line, place: log.Place) -> bool:
        with self._store.writing() as connection:
            return log.trim(connection, line, place, int(self._keep_days * _DAY_MS))


def _is_run(device: bytes, batch: Sequence[SealedChangeset]) -> bool:
    """Whether a batch is what may be pushed: consecutive numbers of one device."""
    numbers = [sealed.number for sealed in batch if sealed.device == device]
    return bool(batch) and numbers == list(range(batch[0].number, batch[0].number + len(batch)))


async def _in_size(chunks: AsyncIterator[bytes], size: int) -> AsyncGenerator[bytes]:
    """The same bytes in chunks of one size, but for the last."""
    held = bytearray()
    async for chunk in chunks:
        for start in range(0, len(chunk), size):
            held += chunk[start : start + size]
            if len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
    if held:
        yield bytes(held)


_contract: tuple[type[SyncAdapter], type[SupportsSnapshots]] = (SqlAdapter, SqlAdapter)
_powers: tuple[type[SupportsWatch], type[SupportsPing]] = (SqlAdapter, SqlAdapter)
