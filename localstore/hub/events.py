"""Who is told when something new came to a partition: one watch of the log for each, fanned out to all who listen here.

The log's watch says when, whichever process it was pushed through. What came is read then, once for all, and goes along with
the news if it is little; who pushed it is told only how far the log is by that. A topic counts what it told, so that who comes
back with the last count is told only what was missed. This module knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator
from dataclasses import dataclass

import msgspec

from localstore.adapter import Cursor, Limit, Page, SupportsWatch, SyncAdapter
from localstore.environment import Environment
from localstore.http_messages import NEWS_BYTES, News, encode_news
from localstore.hub.declining import Declined
from localstore.hub.lines import Lines
from localstore.wire import encode

__all__ = ["Brought", "Events", "Listener"]

_log = logging.getLogger("localstore.hub")
_AGAIN_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LOOK = Limit(max_bytes=1024 * 1024, max_count=1000)  # more than that is told without a look
_LINGER_SECONDS = 90.0  # longer than a device's poll takes to come back


@dataclass(frozen=True, slots=True)
class Brought:
    """What comes with the news, ready to be sent: ``data`` of an event, and how many changesets and bytes of these."""

    data: bytes
    count: int = 0
    byte_count: int = 0


@dataclass(frozen=True, slots=True)
class _News:
    """What was told last: for those whom it is news to, and for who made it."""

    brought: Brought
    moved: Brought


class Listener:
    """One device that wants to hear of a partition. Used from one task.

    Attributes:
        device: which.
        told: what it was told last.
        follows: whether it takes what is brought, and wants to know how far the log is.
        brought: what came with what it was told last, None when it has to be pulled.
        ended: whether nothing is told any more.
    """

    __slots__ = ("_bell", "_topic", "brought", "device", "ended", "follows", "told")

    def __init__(self, topic: _Topic, device: bytes, told: str | None, *, follows: bool) -> None:
        self._topic = topic
        self.follows = follows
        self._bell = asyncio.Event()
        self.device = device
        self.ended = False
        self.brought: Brought | None = None
        self.told = told

    @property
    def now(self) -> str:
        """What the topic has told up to now."""
        return self._topic.now

    def take_news(self) -> bool:
        """Whether there is something that was not told yet; from now on it was."""
        self._bell.clear()
        is_news, news = self._topic.is_news(self.told, self.device), self._topic.news_after(self.told)
        self.brought = None
        if news is not None and self.follows:
            self.brought = news.brought if is_news else news.moved
        self.told = self._topic.now
        return is_news

    async def wait(self) -> None:
        """Until something may have happened."""
        await self._bell.wait()

    def ring(self) -> None:
        self._bell.set()

    def end(self) -> None:
        """Nothing is told any more."""
        self.ended = True
        self._bell.set()


class _Topic:
    """One partition's news.

    Attributes:
        name: of this topic in this process; no other ever has it.
        count: how often something was told.
        head: a place in the log up to which everybody was told of everything; None when that is not known.
        fresh: a place in the log where it ended not long ago; None when that is not known.
        news: what was told last, where that is known and little.
        is_watched: whether the log tells of what comes to this partition.
    """

    def __init__(self, partition: str, name: str) -> None:
        self.partition = partition
        self.name = name
        self.count = 0
        self.listeners: dict[Listener, None] = {}
        self.watch: asyncio.Task[None] | None = None
        self.ending: asyncio.TimerHandle | None = None
        self.head: Cursor | None = None
        self.fresh: Cursor | None = None
        self.news: _News | None = None
        self.is_watched = False
        self._by: dict[int, bytes] = {}

    @property
    def now(self) -> str:
        return f"{self.name}-{self.count}"

    def ring(self, but: bytes | None, news: _News | None = None) -> None:
        """Something came, from a device if that is known, which need not hear of it."""
        self.count += 1
        self.news = news
        if but is not None:
            self._by[self.count] = but
            self._by.pop(self.count - 100, None)
        for listener in self.listeners:
            if listener.device != but or (news is not None and listener.follows):
                listener.ring()

    def is_news(self, told: str | None, device: bytes) -> bool:
        """Whether anything that was told since then came from others, as far as is known."""
        count = self._count(told)
        if count is None:
            return True
        missed = range(count + 1, self.count + 1)
        return len(missed) > 50 or any(self._by.get(number) != device for number in missed)

    def news_after(self, told: str | None) -> _News | None:
        """What was told since then, if that is known."""
        return self.news if self._count(told) == self.count - 1 else None

    def _count(self, told: str | None) -> int | None:
        """How much had been told by then; None when it was not by this topic."""
        name, _, digits = (told or "").rpartition("-")
        return int(digits) if name == self.name and digits.isdecimal() and len(digits) <= 18 else None


class Events:
    """The topics of one process.

    Args:
        lines: to the log.
        environment: time and randomness.
    """

    def __init__(self, lines: Lines, environment: Environment) -> None:
        self._lines = lines
        self._environment = environment
        self._topics: dict[str, _Topic] = {}
        self._device = environment.new_device()
        self._closed = False

    @property
    def listener_count(self) -> int:
        return sum(len(topic.listeners) for topic in self._topics.values())

    def pushed(self, partition: str, device: bytes) -> None:
        """A device has pushed through this process. That is told from here only where the log does not tell of it."""
        topic = self._topics.get(partition)
        if topic is not None and not topic.is_watched:
            topic.ring(device)

    def pulled(self, partition: str, head: Cursor) -> None:
        """A device has read up to here, and there was no more."""
        topic = self._topics.get(partition)
        if topic is not None and topic.head is None:
            topic.fresh = head

    @contextlib.contextmanager
    def listening(self, partition: str, device: bytes, told: str | None, *, follows: bool = False) -> Generator[Listener]:
        """Be told of a partition.

        Args:
            partition: which.
            device: who listens.
            told: what was told last, None at first.
            follows: whether it takes what is brought, and wants to know how far the log is.
        """
        topic = self._topic(partition)
        listener = Listener(topic, device, told, follows=follows)
        if self._closed:
            listener.end()
        topic.listeners[listener] = None
        try:
            yield listener
        finally:
            del topic.listeners[listener]
            if not topic.listeners and not self._closed:
                topic.ending = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._end, topic)

    def end_all(self) -> None:
        """The process is to end: who listens goes elsewhere."""
        self._closed = True
        for topic in self._topics.values():
            for listener in topic.listeners:
                listener.end()

    async def close(self) -> None:
        """Let go of everything."""
        self.end_all()
        for topic in list(self._topics.values()):
            self._end(topic)
            if topic.watch is not None:
                await asyncio.wait([topic.watch])

    def _topic(self, partition: str) -> _Topic:
        topic = self._topics.get(partition)
        if topic is None:
            topic = self._topics[partition] = _Topic(partition, self._environment.random_bytes(8).hex())
            topic.watch = asyncio.ensure_future(self._follow(topic))
        if topic.ending is not None:
            topic.ending.cancel()
            topic.ending = None
        return topic

    def _end(self, topic: _Topic) -> None:
        self._topics.pop(topic.partition, None)
        if topic.ending is not None:
            topic.ending.cancel()
        if topic.watch is not None:
            topic.watch.cancel()

    async def _follow(self, topic: _Topic) -> None:
        """Watch the log for a partition, again after every failure; who listens looks for itself then."""
        tries = 0
        while True:
            begun = self._environment.monotonic()
            try:
                async with self._lines.apart(self._lines.own(topic.partition, self._device)) as adapter:
                    await _watch(adapter, topic, self._lines.remote_id)
            except Declined as error:
                _log.warning("The log's watch ended: %s", error)
            topic.is_watched, topic.head, topic.fresh = False, None, None
            topic.ring(None)
            tries = 0 if self._environment.monotonic() - begun > _AGAIN_SECONDS[-1] else tries
            await self._environment.sleep(_AGAIN_SECONDS[min(tries, len(_AGAIN_SECONDS) - 1)])
            tries += 1


async def _watch(adapter: SyncAdapter, topic: _Topic, remote_id: str | None) -> None:
    if not adapter.capabilities.watch or not isinstance(adapter, SupportsWatch):
        await asyncio.Event().wait()  # nothing is told of what comes through other processes; the devices poll
        return
    async for _ in adapter.watch(None):
        topic.is_watched = True
        await _tell(adapter, topic, remote_id)


async def _tell(adapter: SyncAdapter, topic: _Topic, remote_id: str | None) -> None:
    """Tell of what came since the last look, to all whom it concerns: it is read first, so that what comes meanwhile is told
    by the next hint. Where the last look was is not known at first, nor after a great many changesets; then all are told.
    """
    start, is_known = topic.head or topic.fresh, topic.head is not None
    writers: set[bytes] = set()
    news: _News | None = None
    if start is not None:
        page = await adapter.pull(start, _LOOK)
        is_known = is_known and not page.more
        topic.head = topic.fresh = None if page.more else page.cursor
        writers = {sealed.device for sealed in page.changesets}
        news = _news(remote_id, start, page)
    if not is_known or len(writers) > 1:
        topic.ring(None, news)
    elif writers:
        topic.ring(next(iter(writers)), news)


def _news(remote_id: str | None, after: Cursor, page: Page) -> _News | None:
    """A page for who is where it begins; None when it is no whole one, or too much for those who are not."""
    byte_count = sum(one.byte_count for one in page.changesets)
    if remote_id is None or not page.changesets or page.more or page.warnings or page.passed_over or byte_count > NEWS_BYTES:
        return None
    moved = News(remote_id=remote_id, after=after, changesets=[], cursor=page.cursor)
    brought = msgspec.structs.replace(moved, changesets=[encode(one) for one in page.changesets])
    return _News(Brought(encode_news(brought), len(page.changesets), byte_count), Brought(encode_news(moved)))
