"""Sync through a hub: ``https://host/app``, with users, news within milliseconds, and snapshots.

The adapter is a thin line: messages over and back, errors by what the session must do. It keeps no state but what ``connect``
said, and any call may be broken off: the connections it used are thrown away then, and others made for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from localstore.adapter import (
    Capabilities,
    Credentials,
    Cursor,
    Hello,
    Hint,
    Limit,
    Page,
    PushResult,
    Refusal,
    SealedChangeset,
    SnapshotInfo,
    SupportsPing,
    SupportsSnapshots,
    SupportsUsers,
    SupportsWatch,
    SyncAdapter,
    Tokens,
    Welcome,
)
from localstore.errors import Offline, ProtocolError, SyncError, Unauthorized
from localstore.http_messages import (
    ConnectReply,
    ConnectRequest,
    DoneReply,
    LoginRequest,
    PageReply,
    PingReply,
    PullRequest,
    PushReply,
    PushRequest,
    RefreshRequest,
    SnapshotReply,
    TokensReply,
)
from localstore.wire import MAX_CHANGESET_BYTES, decode, encode

try:
    from localstore_adapters._http_snapshots import Sending, part_of
    from localstore_adapters._http_watch import Place, Silent, events, polls
    from localstore_adapters._http_wire import TooLarge, Wire
except ImportError as error:
    raise ImportError("A hub is reached with httpx2. Install it: pip install 'localstore-sync[http]'") from error
from localstore_adapters._http_options import HttpOptions, read_url

__all__ = ["HttpAdapter"]

T = TypeVar("T")
_SMALL_BYTES = 64 * 1024
_CURSOR_BYTES = 4 * 1024 * 1024
_PAGE_SPARE_BYTES = 8 * 1024 * 1024  # what a page has besides its changesets: the cursor, and warnings
_POLL_SECONDS = 60.0
_RESUMES = 5  # of one snapshot that breaks off, each of which has to get on
_HEARTBEAT_SECONDS = 20.0


@dataclass(frozen=True)
class _Line:
    """What the adapter remembers of its connect."""

    hello: Hello
    reply: ConnectReply

    @property
    def place(self) -> dict[str, str]:
        return {
            "partition": self.hello.partition,
            "device": self.hello.device.hex(),
            "remote_id": self.reply.remote_id,
        }


class HttpAdapter:
    """One device's line to a hub.

    Args:
        options: where the hub is, and how to get there.
    """

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._line: _Line | None = None
        self._wire: Wire | None = None
        self._worn: list[Wire] = []
        self._context: ssl.SSLContext | None = None
        self._watches: set[asyncio.Event] = set()
        self._is_held_up = False

    @classmethod
    def from_url(cls, url: str) -> HttpAdapter:
        """A line to the hub that a URL names.

        Args:
            url: ``https://host/app``, or ``http://`` on a network that can be trusted; after a ``?`` ``users=no`` for a hub
                that has none, ``watch=auto|events|poll|no``, ``ca=<PEM file>``, ``proxy=<URL>`` and ``timeout=<seconds>``.
        """
        return cls(read_url(url))

    @property
    def capabilities(self) -> Capabilities:
        common = Capabilities(
            ordered=True,
            watch=self._options.watch != "no",
            ping=True,
            snapshots=True,
            users=self._options.users,
            poll_seconds=_POLL_SECONDS,
        )
        if self._line is None:
            return common
        reply = self._line.reply
        return dataclasses.replace(
            common,
            max_batch_bytes=reply.max_batch_bytes,
            max_batch_count=reply.max_batch_count,
            max_changeset_bytes=reply.max_changeset_bytes,
            poll_seconds=reply.poll_seconds,
            devices_write_snapshots=reply.devices_write_snapshots,
        )

    async def connect(self, hello: Hello) -> Welcome:
        self._line = None
        request = ConnectRequest(
            app=hello.app,
            partition=hello.partition,
            device=hello.device,
            remote_id=hello.remote_id,
            cursor=hello.cursor,
            horizon_days=hello.horizon_days,
        )
        try:
            reply = await self._post("connect", request, ConnectReply, _SMALL_BYTES, token=hello.token)
        except Unauthorized as error:
            if not self._options.users:
                raise Unauthorized("This hub has users.", hint="Leave users=no out of its URL, and log in.") from error
            raise
        self._line = _Line(hello, reply)
        return Welcome(
            remote_id=reply.remote_id,
            last_number=reply.last_number,
            time_ms=reply.time_ms,
            horizon_days=reply.horizon_days,
        )

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        line = self._connected()
        try:
            return await self._push(line, batch)
        except TooLarge as error:
            if len(batch) > 1:  # something on the way, or a hub whose limit is lower than a batch: half of it is sent
                return await self.push(batch[: len(batch) // 2])
            if not error.by_hub:
                raise Offline(error.message, hint=error.hint) from None
            refusal = Refusal(number=batch[0].number, reason=error.message)
            return PushResult(acknowledged=batch[0].number - 1, refusals=(refusal,))

    async def _push(self, line: _Line, batch: Sequence[SealedChangeset]) -> PushResult:
        request = PushRequest(
            partition=line.hello.partition,
            device=line.hello.device,
            remote_id=line.reply.remote_id,
            batch=[encode(sealed) for sealed in batch],
        )
        reply = await self._post("push", request, PushReply, _CURSOR_BYTES, token=line.hello.token, changesets=len(batch))
        refusals = tuple(Refusal(number=one.number, reason=one.reason) for one in reply.refusals)
        return PushResult(acknowledged=reply.acknowledged, refusals=refusals)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        line = self._connected()
        request = PullRequest(
            partition=line.hello.partition,
            device=line.hello.device,
            remote_id=line.reply.remote_id,
            cursor=cursor,
            max_bytes=limit.max_bytes,
            max_count=limit.max_count,
        )
        most = max(limit.max_bytes, MAX_CHANGESET_BYTES) + _PAGE_SPARE_BYTES
        reply = await self._post("pull", request, PageReply, most, token=line.hello.token)
        return Page(
            changesets=tuple(decode(sealed) for sealed in reply.changesets),
            cursor=Cursor(reply.cursor),
            more=reply.more,
            remaining_bytes=reply.remaining_bytes,
            warnings=tuple(reply.warnings),
            passed_over=tuple(reply.passed_over),
        )

    async def ping(self) -> None:
        line = self._connected()
        await self._post("ping", None, PingReply, _SMALL_BYTES, token=line.hello.token)

    async def close(self) -> None:
        self._line = None
        for stop in self._watches:
            stop.set()
        self._wear()
        await self._tidy()

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        line, stop = self._connected(), asyncio.Event()
        wire = Wire(self._options, self._tls())  # of its own: a call that is broken off leaves it alone
        self._watches.add(stop)
        try:
            async with aclosing(self._hints(wire, line)) as hints:
                while (hint := await _unless(stop, hints)) is not None:
                    yield hint
        except SyncError as error:
            yield Hint(reason="lost")  # that it went away is news as well: the next call sees why
            if isinstance(error, Offline):
                raise
        finally:
            self._watches.discard(stop)
            await wire.close()

    async def _hints(self, wire: Wire, line: _Line) -> AsyncGenerator[Hint]:
        hello, beat = line.hello, line.reply.heartbeat_seconds
        place = Place(hello.partition, hello.device, beat, lambda: self._token(line), line.reply.remote_id)
        if self._options.watch != "poll" and not self._is_held_up:
            try:
                async with aclosing(events(wire, place)) as hints:
                    async for hint in hints:
                        yield hint
            except Silent:
                if self._options.watch == "events":
                    raise
                self._is_held_up = True
        async with aclosing(polls(wire, place)) as hints:
            async for hint in hints:
                yield hint

    def _token(self, line: _Line) -> str | None:
        """The access token that was told last."""
        return (self._line or line).hello.token

    async def log_in(self, credentials: Credentials) -> Tokens:
        request = LoginRequest(provider=credentials.provider, email=credentials.email, secret=credentials.secret)
        return _tokens(await self._post("login", request, TokensReply, _SMALL_BYTES))

    async def refresh(self, refresh_token: str) -> Tokens:
        return _tokens(await self._post("refresh", RefreshRequest(refresh_token=refresh_token), TokensReply, _SMALL_BYTES))

    async def log_out(self, refresh_token: str) -> None:
        with contextlib.suppress(Unauthorized):  # it is logged out then
            await self._post("logout", RefreshRequest(refresh_token=refresh_token), DoneReply, _SMALL_BYTES)

    async def latest_snapshot(self) -> SnapshotInfo | None:
        line = self._connected()
        async with self._using() as wire:
            reply = await wire.get("snapshot", line.place, SnapshotReply, _CURSOR_BYTES, token=line.hello.token)
        if reply is None:
            return None
        return SnapshotInfo(name=reply.name, cursor=Cursor(reply.cursor), byte_count=reply.byte_count, later=reply.later)

    async def read_snapshot(self, info: SnapshotInfo) -> AsyncGenerator[bytes]:
        """Its bytes. A connection that is lost on the way is made anew, and goes on where it was."""
        line, start, resumes = self._connected(), 0, 0
        wire = Wire(self._options, self._tls())
        try:
            while start < info.byte_count:
                before = start
                try:
                    async with aclosing(part_of(wire, line.place, line.hello.token, info, start)) as chunks:
                        async for chunk in chunks:
                            start += len(chunk)
                            yield chunk
                except Offline:
                    resumes += 1
                    if start == before or resumes > _RESUMES:
                        raise
        finally:
            await wire.close()

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        line = self._connected()
        told = Sending(chunks)
        try:
            async with self._using() as wire:
                await wire.send("snapshot", {**line.place, "cursor": cursor.hex()}, aiter(told), token=line.hello.token)
        except SyncError:
            if told.error is not None:
                raise told.error from None
            raise

    async def trim(self, before: Cursor) -> None:
        line = self._connected()
        async with self._using() as wire:
            await wire.send("trim", {**line.place, "cursor": before.hex()}, None, token=line.hello.token)

    def _connected(self) -> _Line:
        if self._line is None:
            raise Offline(
                f"This line to the hub {self._options.base} is not connected. Nothing was sent.", hint="Connect first."
            )
        return self._line

    async def _post(
        self,
        name: str,
        message: msgspec.Struct | None,
        reply: type[T],
        limit: int,
        *,
        token: str | None = None,
        changesets: int = 0,
    ) -> T:
        async with self._using() as wire:
            return await wire.post(name, message, reply, limit, token=token, changesets=changesets)

    @contextlib.asynccontextmanager
    async def _using(self) -> AsyncGenerator[Wire]:
        """The connections for calls. Whatever interrupts one, and it may be anything at any time, they are not used again."""
        await self._tidy()
        wire = self._wire
        if wire is None:
            wire = self._wire = Wire(self._options, self._tls())
        try:
            yield wire
        except BaseException as error:
            if not isinstance(error, SyncError) or isinstance(error, Offline):
                self._wear(wire)
            raise

    def _wear(self, wire: Wire | None = None) -> None:
        """Use connections no more; they are closed where that can be waited for."""
        if self._wire is not None and wire in (None, self._wire):
            self._worn.append(self._wire)
            self._wire = None

    async def _tidy(self) -> None:
        while self._worn:
            await self._worn[-1].close()
            self._worn.pop()

    def _tls(self) -> ssl.SSLContext | None:
        """How the hub's certificate is checked, made once: that takes as long as many calls."""
        if self._context is None and self._options.base.startswith("https:"):
            try:
                self._context = ssl.create_default_context(cafile=self._options.ca)
            except OSError as error:
                raise ProtocolError(f"The certificates in {self._options.ca} cannot be read: {error.strerror}.") from error
        return self._context


async def _unless(stop: asyncio.Event, hints: AsyncGenerator[Hint]) -> Hint | None:
    """The next hint; None at their end, or when it is enough."""
    coming = asyncio.ensure_future(anext(hints, None))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([coming, stopped], return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else None
    finally:
        stopped.cancel()
        coming.cancel()
        await asyncio.wait([coming])
        if not coming.cancelled():
            coming.exception()  # retrieved, whoever was told


def _tokens(reply: TokensReply) -> Tokens:
    return Tokens(
        user_id=reply.user_id,
        access_token=reply.access_token,
        expires_in=reply.expires_in,
        refresh_token=reply.refresh_token,
    )


_: tuple[type[SyncAdapter], type[SupportsWatch], type[SupportsPing], type[SupportsSnapshots], type[SupportsUsers]] = (
    HttpAdapter,
    HttpAdapter,
    HttpAdapter,
    HttpAdapter,
    HttpAdapter,
)
