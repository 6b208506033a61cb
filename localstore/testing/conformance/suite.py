"""What all rules share: changesets to send, a device's line that checks every page, and skipping out loud."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from localstore.adapter import Capabilities, Cursor, Hello, Limit, Page, PushResult, SyncAdapter, Welcome
from localstore.changes import Changeset, Dependency, Op, RowGroup
from localstore.clock import stamp_at
from localstore.testing.conformance.remote import POWERS, CanBeWiped, CanGoOffline, CanRefuse, CanTrim, RemoteUnderTest
from localstore.wire import SealedChangeset, seal

__all__ = ["Line", "Suite", "make_changeset", "new_device", "numbers_by_device"]

_T = TypeVar("_T")
_START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z: in the past, so that no remote minds the stamps
_PAGES_MAX = 10_000


def new_device() -> bytes:
    return os.urandom(16)


def make_changeset(
    device: bytes, number: int, text: str = "", *, blob_bytes: int = 0, depends: Sequence[Dependency] = (), rows: int = 1
) -> SealedChangeset:
    """A sealed changeset that inserts notes.

    Args:
        device, number: which one.
        text: makes the content differ under one number.
        blob_bytes: size of a blob that cannot be compressed.
        depends: what it depends on.
        rows: how many rows; with 0 it is an empty changeset, as sent for a refused one.
    """
    blob = random.Random(number).randbytes(blob_bytes)
    keys = [f"{device.hex()}-{number}-{row}" for row in range(rows)]
    group = RowGroup("note", Op.INSERT, ("id",), ("text", "blob"), [keys, [text] * rows, [blob] * rows])
    groups = (group,) if rows else ()
    return seal(Changeset(device, number, stamp_at(_START_MS + number), tuple(depends), groups))


def numbers_by_device(changesets: Iterable[SealedChangeset]) -> dict[bytes, list[int]]:
    numbers: dict[bytes, list[int]] = {}
    for sealed in changesets:
        numbers.setdefault(sealed.device, []).append(sealed.number)
    return numbers


@dataclass
class Line:
    """A connected device, as the suite plays it."""

    adapter: SyncAdapter
    hello: Hello
    welcome: Welcome
    cursor: Cursor | None = None
    received: list[SealedChangeset] = field(default_factory=list)

    @property
    def device(self) -> bytes:
        return self.hello.device

    async def connect_again(self) -> Welcome:
        """As a session does after an error: it knows the remote and where it stands."""
        return await self.adapter.connect(dataclasses.replace(self.hello, remote_id=self.welcome.remote_id, cursor=self.cursor))

    def make(self, first: int, last: int, text: str = "") -> list[SealedChangeset]:
        """Changesets of this device; the same ones for the same arguments."""
        return [make_changeset(self.device, number, text) for number in range(first, last + 1)]

    async def push(self, first: int, last: int) -> PushResult:
        return await self.adapter.push(self.make(first, last))

    async def pull(self, limit: Limit | None = None) -> Page:
        """One page from where this line stands; it must keep to the limit and to the order of numbers."""
        limit = limit or Limit()
        page = await self.adapter.pull(self.cursor, limit)
        assert len(page.changesets) <= limit.max_count
        byte_count = sum(sealed.byte_count for sealed in page.changesets)
        assert byte_count <= limit.max_bytes or len(page.changesets) == 1, "a page may exceed its bytes by one changeset alone"
        assert page.changesets or not page.more or page.cursor != self.cursor, "a page must get on"
        self.cursor = page.cursor
        self.received.extend(page.changesets)
        return page

    async def read(self, limit: Limit | None = None) -> list[SealedChangeset]:
        """Pull to the head; only what other devices made, as a device's own changesets may be left out."""
        before = len(self.received)
        for _ in range(_PAGES_MAX):
            if not (await self.pull(limit)).more:
                return [sealed for sealed in self.received[before:] if sealed.device != self.device]
        pytest.fail(f"The head was not reached in {_PAGES_MAX} pages.")


class Suite:
    """Base of all rules.

    Attributes:
        powers: what the remote can do beyond the contract; see ``remote.POWERS``.
        skips: powers that it lacks on purpose.
        timeout: for one test, in seconds; a test that hangs fails.
    """

    powers: frozenset[str] = frozenset()
    skips: frozenset[str] = frozenset()
    timeout: float = 60.0

    @pytest.fixture
    def remote(self) -> RemoteUnderTest:
        raise NotImplementedError("Write a fixture named 'remote' that returns a fresh, empty RemoteUnderTest.")

    def hello(self, device: bytes) -> Hello:
        """How a device introduces itself; override it where a remote wants a token or knows certain applications only."""
        return Hello(app="conformance", partition="default", device=device)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        async def in_time() -> _T:
            return await asyncio.wait_for(coroutine, self.timeout)

        return asyncio.run(in_time())

    @contextlib.asynccontextmanager
    async def line(self, remote: RemoteUnderTest, device: bytes | None = None, **hello: Any) -> AsyncGenerator[Line]:
        """A connected device; closed at the end. Keywords change its ``Hello``."""
        introduction = dataclasses.replace(self.hello(device or new_device()), **hello)
        adapter = remote.make_adapter()
        try:
            yield Line(adapter, introduction, await adapter.connect(introduction))
        finally:
            await adapter.close()

    async def stored(self, remote: RemoteUnderTest) -> list[SealedChangeset]:
        """Everything in the remote, as a device sees it that never was there."""
        async with self.line(remote) as reader:
            return await reader.read()

    def capabilities(self, remote: RemoteUnderTest) -> Capabilities:
        adapter = remote.make_adapter()
        self.run(adapter.close())
        return adapter.capabilities

    def need(self, power: str) -> None:
        """Skip a rule whose power is not claimed; fail where skipping was not declared."""
        assert power in POWERS
        if power in self.powers:
            return
        if os.environ.get("CI") and power not in self.skips:
            pytest.fail(f"{type(self).__name__} neither claims the power {power!r} nor declares in 'skips' that it lacks it.")
        pytest.skip(f"the remote lacks the power {power!r}")

    def need_offline(self, remote: RemoteUnderTest) -> CanGoOffline:
        self.need("offline")
        assert isinstance(remote, CanGoOffline), "the power 'offline' needs go_offline() and go_online()"
        return remote

    def need_wipe(self, remote: RemoteUnderTest) -> CanBeWiped:
        self.need("wipe")
        assert isinstance(remote, CanBeWiped), "the power 'wipe' needs wipe()"
        return remote

    def need_refuse(self, remote: RemoteUnderTest) -> CanRefuse:
        self.need("refuse")
        assert isinstance(remote, CanRefuse), "the power 'refuse' needs refuse_larger_than()"
        return remote

    def need_trim(self, remote: RemoteUnderTest) -> CanTrim:
        self.need("trim")
        assert isinstance(remote, CanTrim), "the power 'trim' needs trim_history()"
        return remote
