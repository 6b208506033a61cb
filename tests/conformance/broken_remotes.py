"""Adapters with one bug each, for the test that the suite catches them. Not collected by itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import pytest

from localstore import Credentials
from localstore.adapter import Capabilities, Cursor, Hello, Hint, Limit, Page, PushResult, SealedChangeset, Tokens, Welcome
from localstore.errors import Offline, ResetRequired, Unauthorized
from localstore.reasons import ResetReason
from localstore.testing.conformance import AdapterConformance, UsersConformance
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots, MemorySnapshotAdapter
from localstore.testing.memory_users import MemoryRemoteWithUsers, MemoryUserAdapter


class Wrapped:
    """Delegates everything to a memory adapter; the bugs override one call each."""

    def __init__(self, inner: MemoryAdapter) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def connect(self, hello: Hello) -> Welcome:
        self.hello = hello
        return await self.inner.connect(hello)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        return await self.inner.push(batch)

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        return await self.inner.pull(cursor, limit)

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        async for hint in self.inner.watch(cursor):
            yield hint

    async def ping(self) -> None:
        await self.inner.ping()

    async def close(self) -> None:
        await self.inner.close()


class NoDedup(Wrapped):
    """Hands out what was pushed twice a second time."""

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        log = self.inner._remote._histories[self.hello.partition].log
        again = [sealed for sealed in batch if sealed in log]
        result = await self.inner.push(batch)
        log.extend(again)
        return result


class SkipsOne(Wrapped):
    """Its cursor stands one changeset too far after a full page."""

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        page = await self.inner.pull(cursor, limit)
        if not page.more:
            return page
        return dataclasses.replace(page, cursor=(await self.inner.pull(page.cursor, Limit(max_count=1))).cursor)


class Acknowledges(Wrapped):
    """Swallows an error and acknowledges what was never stored."""

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        try:
            return await self.inner.push(batch)
        except (Offline, ResetRequired):
            return PushResult(acknowledged=batch[-1].number)


class Forgets(Wrapped):
    """Acknowledges the whole batch and stores all of it but the end."""

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        if len(batch) > 1:
            await self.inner.push(batch[:-1])
        return PushResult(acknowledged=batch[-1].number)


class NotAtomic(Wrapped):
    """Takes down which numbers it has, and what is under them only afterwards."""

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        log = self.inner._remote._histories[self.hello.partition].log
        before = len(log)
        result = await self.inner.push(batch)
        late = log[before:]
        del log[before:]
        await asyncio.sleep(0)
        log.extend(late)
        return result


class TakesAnyCursor(Wrapped):
    """Starts from the beginning when it does not know the cursor."""

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        try:
            return await self.inner.pull(cursor, limit)
        except ResetRequired:
            return await self.inner.pull(None, limit)


class SpansWhatIsTrimmed(Wrapped):
    """Goes on behind what was trimmed, as if nothing were missing."""

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        try:
            return await self.inner.pull(cursor, limit)
        except ResetRequired as error:
            if error.kind is not ResetReason.HISTORY_TRIMMED:
                raise
            page = await self.inner.pull(None, Limit())
            return dataclasses.replace(page, changesets=page.changesets[-2:])


class NeverMore(Wrapped):
    """Says that the head was reached after every page."""

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        return dataclasses.replace(await self.inner.pull(cursor, limit), more=False)


class Reorders(Wrapped):
    """Sends pages backwards."""

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        page = await self.inner.pull(cursor, limit)
        return dataclasses.replace(page, changesets=page.changesets[::-1])


class OneHistory(Wrapped):
    """Puts all partitions into one."""

    async def connect(self, hello: Hello) -> Welcome:
        return await super().connect(dataclasses.replace(hello, partition="default"))


class NeverHints(Wrapped):
    """Claims to watch, and stays silent."""

    async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
        async for hint in self.inner.watch(cursor):
            if hint.reason == "never":
                yield hint


class AlwaysAlive(Wrapped):
    """Answers a ping by itself."""

    async def ping(self) -> None:
        pass


class Broken:
    def __init__(self, wrap: Callable[[MemoryAdapter], Wrapped]) -> None:
        self._wrap = wrap
        self._remote = MemoryRemote()
        self.go_offline, self.go_online = self._remote.go_offline, self._remote.go_online
        self.wipe, self.trim_history = self._remote.wipe, self._remote.trim_history

    def make_adapter(self) -> Wrapped:
        return self._wrap(self._remote.adapter())


class Base(AdapterConformance):
    powers = frozenset({"offline", "wipe", "trim", "watch", "ping"})
    skips = frozenset({"refuse", "snapshots"})
    timeout = 5.0
    hint_timeout = 0.01
    wrap: Callable[[MemoryAdapter], Wrapped]

    @pytest.fixture
    def remote(self) -> Broken:
        return Broken(type(self).wrap)


class TestSound(Base):
    wrap = Wrapped


class TestNoDedup(Base):
    wrap = NoDedup


class TestSkipsOne(Base):
    wrap = SkipsOne


class TestAcknowledges(Base):
    wrap = Acknowledges


class TestForgets(Base):
    wrap = Forgets


class TestNotAtomic(Base):
    wrap = NotAtomic


class TestTakesAnyCursor(Base):
    wrap = TakesAnyCursor


class TestSpansWhatIsTrimmed(Base):
    wrap = SpansWhatIsTrimmed


class TestNeverMore(Base):
    wrap = NeverMore


class TestReorders(Base):
    wrap = Reorders


class TestOneHistory(Base):
    wrap = OneHistory


class TestNeverHints(Base):
    wrap = NeverHints


class TestAlwaysAlive(Base):
    wrap = AlwaysAlive


class HalfSnapshots(MemorySnapshotAdapter):
    """Shows a snapshot while it is being written, and what there is of one that broke off."""

    async def write_snapshot(self, cursor: Cursor, chunks: AsyncIterator[bytes]) -> None:
        content = b""
        async for chunk in chunks:
            content += chunk
            self._snapshots.keep_snapshot(self._connected(), cursor, content)


class TrimsBlindly(MemorySnapshotAdapter):
    """Lets go of more than the latest snapshot makes up for."""

    async def trim(self, before: Cursor) -> None:
        self._snapshots.trim_history()
        self._connected()


class BrokenSnapshots(Broken):
    def __init__(self, wrap: Callable[[MemoryRemoteWithSnapshots], MemorySnapshotAdapter]) -> None:
        remote = MemoryRemoteWithSnapshots()
        self.make_adapter = lambda: wrap(remote)
        self.go_offline, self.go_online = remote.go_offline, remote.go_online


class BaseOfSnapshots(Base):
    powers = frozenset({"offline", "watch", "ping", "snapshots"})
    wrap_snapshots: Callable[[MemoryRemoteWithSnapshots], MemorySnapshotAdapter]

    @pytest.fixture
    def remote(self) -> BrokenSnapshots:
        return BrokenSnapshots(type(self).wrap_snapshots)


class TestSoundSnapshots(BaseOfSnapshots):
    wrap_snapshots = MemorySnapshotAdapter


class TestHalfSnapshots(BaseOfSnapshots):
    wrap_snapshots = HalfSnapshots


class TestTrimsBlindly(BaseOfSnapshots):
    wrap_snapshots = TrimsBlindly


class WrappedWithUsers(MemoryUserAdapter):
    """A sound line to a remote with users; the bugs override one call each."""


class ChecksOnlyOnce(WrappedWithUsers):
    """Looks at the token at the connect, and never again."""

    def _check_token(self) -> None:
        pass


class NeverRotates(WrappedWithUsers):
    """Gives a new access token, and the refresh token that it was shown."""

    async def refresh(self, refresh_token: str) -> Tokens:
        return dataclasses.replace(await super().refresh(refresh_token), refresh_token=refresh_token)


class StaysLoggedIn(WrappedWithUsers):
    """Says that the user is logged out, and does nothing."""

    async def log_out(self, refresh_token: str) -> None:
        pass


class TellsThePassword(WrappedWithUsers):
    """Quotes what it does not take."""

    async def log_in(self, credentials: Credentials) -> Tokens:
        try:
            return await super().log_in(credentials)
        except Unauthorized as error:
            raise Unauthorized(f"{credentials.secret!r} is wrong") from error


class BrokenWithUsers:
    good = Credentials.api_key("the-right-key")
    bad = Credentials.api_key("the-wrong-key")

    def __init__(self, wrap: Callable[[MemoryRemoteWithUsers], WrappedWithUsers]) -> None:
        self._wrap = wrap
        self._remote = MemoryRemoteWithUsers()
        self._remote.add_user("emma", self.good)
        self.expire_access_tokens = self._remote.expire_access_tokens

    def make_adapter(self) -> WrappedWithUsers:
        return self._wrap(self._remote)


class BaseOfUsers(UsersConformance):
    timeout = 5.0
    wrap: Callable[[MemoryRemoteWithUsers], WrappedWithUsers]

    @pytest.fixture
    def remote(self) -> BrokenWithUsers:
        return BrokenWithUsers(type(self).wrap)


class TestSoundUsers(BaseOfUsers):
    wrap = WrappedWithUsers


class TestChecksOnlyOnce(BaseOfUsers):
    wrap = ChecksOnlyOnce


class TestNeverRotates(BaseOfUsers):
    wrap = NeverRotates


class TestStaysLoggedIn(BaseOfUsers):
    wrap = StaysLoggedIn


class TestTellsThePassword(BaseOfUsers):
    wrap = TellsThePassword
