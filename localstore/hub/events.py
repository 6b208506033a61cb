"""Who is told when something new came to a partition: one watch of the log for each, fanned out to all who listen here.

What was pushed through this process is told at once; what came through another one, as soon as the log's watch says so. The
watch tells of both: after a push through here it is looked at whether there is more than that, so that nobody is woken twice
for it, and who pushed not at all. A topic counts what it told, so that who comes back with the last count is told only what was
missed. This module knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator

from localstore.adapter import Cursor, Hello, Limit, SupportsWatch, SyncAdapter
from localstore.environment import Environment
from localstore.hub.declining import Declined
from localstore.hub.lines import Lines

__all__ = ["Events", "Listener"]

_log = logging.getLogger("localstore.hub")
_AGAIN_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LOOK = Limit(max_bytes=1024 * 1024, max_count=1000)  # more than that is told without a look
_TOLD_MAX = 10_000
_LINGER_SECONDS = 90.0  # longer than a device's poll takes to come back


class Listener:
    """One device that wants to hear of a partition. Used from one task."""

    __slots__ = ("_bell", "_topic", "device", "ended", "told")

    def __init__(self, topic: _Topic, device: bytes, told: str | None) -> None:
        self._topic = topic
        self._bell = asyncio.Event()
        self.device = device
        self.ended = False
        self.told = told

    @property
    def now(self) -> str:
        """What the topic has told up to now."""
        return self._topic.now

    def take_news(self) -> bool:
        """Whether there is something that was not told yet; from now on it was."""
        self._bell.clear()
        has_news = self.told != self._topic.now and self._topic.is_news(self.told, self.device)
        self.told = self._topic.now
        return has_news

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
        pushed: what was pushed through this process, by device the highest number.
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
        self.pushed: dict[bytes, int] = {}
        self._by: dict[int, bytes] = {}

    @property
    def now(self) -> str:
        return f"{self.name}-{self.count}"

    def ring(self, but: bytes | None) -> None:
        """Something came, from a device if that is known, which need not hear of it."""
        self.count += 1
        if but is not None:
            self._by[self.count] = but
            self._by.pop(self.count - 100, None)
        for listener in self.listeners:
            if listener.device != but:
                listener.ring()

    def is_news(self, told: str | None, device: bytes) -> bool:
        """Whether anything that was told since then came from others, as far as is known."""
        name, _, digits = (told or "").rpartition("-")
        if name != self.name or not digits.isdecimal() or len(digits) > 18:
            return True
        missed = range(int(digits) + 1, self.count + 1)
        return len(missed) > 50 or any(self._by.get(count) != device for count in missed)


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

    def pushed(self, partition: str, device: bytes, number: int) -> None:
        """A device has pushed through this process, up to a number."""
        if topic := self._topics.get(partition):
            if len(topic.pushed) >= _TOLD_MAX:
                topic.pushed.clear()
            topic.pushed[device] = max(number, topic.pushed.get(device, 0))
            topic.ring(device)

    def pulled(self, partition: str, head: Cursor) -> None:
        """A device has read up to here, and there was no more."""
        topic = self._topics.get(partition)
        if topic is not None and topic.head is None:
            topic.fresh = head

    @contextlib.contextmanager
    def listening(self, partition: str, device: bytes, told: str | None) -> Generator[Listener]:
        """Be told of a partition.

        Args:
            partition: which.
            device: who listens.
            told: what was told last, None at first.
        """
        topic = self._topic(partition)
        listener = Listener(topic, device, told)
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
            hello = Hello(app=self._lines.app, partition=topic.partition, device=self._device)
            try:
                async with self._lines.apart(hello) as adapter:
                    await _watch(adapter, topic)
            except Declined as error:
                _log.warning("The log's watch ended: %s", error)
            topic.head = topic.fresh = None
            topic.ring(None)
            tries = 0 if self._environment.monotonic() - begun > _AGAIN_SECONDS[-1] else tries
            await self._environment.sleep(_AGAIN_SECONDS[min(tries, len(_AGAIN_SECONDS) - 1)])
            tries += 1


async def _watch(adapter: SyncAdapter, topic: _Topic) -> None:
    if not adapter.capabilities.watch or not isinstance(adapter, SupportsWatch):
        await asyncio.Event().wait()  # nothing is told of what comes through other processes; the devices poll
        return
    async for _ in adapter.watch(None):
        await _tell(adapter, topic)


async def _tell(adapter: SyncAdapter, topic: _Topic) -> None:
    """Tell of what came since the last look, to all whom it concerns: it is read first, so that what comes meanwhile is told
    by the next hint. Where the last look was is not known at first, nor after a great many changesets; then all are told.
    """
    start, is_known = topic.head or topic.fresh, topic.head is not None
    writers: set[bytes] = set()
    if start is not None:
        page = await adapter.pull(start, _LOOK)
        is_known = is_known and not page.more
        topic.head = topic.fresh = None if page.more else page.cursor
        writers = {sealed.device for sealed in page.changesets if sealed.number > topic.pushed.get(sealed.device, 0)}
    if not is_known or len(writers) > 1:
        topic.ring(None)
    elif writers:
        topic.ring(next(iter(writers)))
