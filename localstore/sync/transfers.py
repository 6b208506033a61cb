"""A session's transfers in either direction, and those who watch how far they are.

What was sent is counted by what the file says is left, so that uploads by another process of the same device count too.
Thread-safe; knows nothing of the remote.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from localstore.store.outbox import Pending
from localstore.sync.news import Connection, Emptied, News, ReachedHead, Received, Sent
from localstore.sync.parts import SessionParts
from localstore.sync.progress import Direction, Meter, Progress, ProgressMode, Tracking
from localstore.sync.state import ConnectionEvent
from localstore.sync.stream import Stream
from localstore.sync.telling import Coalesced

__all__ = ["Transfers"]


class Transfers:
    """Meters of both directions, and the streams that follow them.

    Args:
        parts: of the session.
        check_may_wait: as for a ``Stream``.
    """

    def __init__(self, parts: SessionParts, check_may_wait: Callable[[], None]) -> None:
        self._check_may_wait = check_may_wait
        self._store = parts.store
        self._lock = threading.Lock()
        self._meters = {direction: Meter() for direction in Direction}
        # nobody can read a stream any more that nobody holds
        self._tracked = weakref.WeakKeyDictionary[Stream[Progress], tuple[Direction, Tracking]]()
        self._sent: list[Sent] = []
        self._looking = Coalesced(parts.loop, parts.environment, self._store.totals, self._looked)
        self._ended = False
        self.pending = Pending()

    def progress(self, direction: Direction, mode: ProgressMode) -> Stream[Progress]:
        """A stream of one direction's progress."""
        if not isinstance(direction, Direction) or not isinstance(mode, ProgressMode):
            raise TypeError(f"progress takes a Direction and a ProgressMode, not {direction!r} and {mode!r}.")
        stream: Stream[Progress] = Stream(self._forget, latest_only=True, check_may_wait=self._check_may_wait)
        pending = self._store.totals() if direction is Direction.UPLOAD and not self._ended else None
        with self._lock:
            if self._ended:
                stream.end()
                return stream
            meter = self._meters[direction]
            if pending is not None:
                if not self._watches(Direction.UPLOAD):
                    meter.lose_sight()
                    meter.base = meter.moved  # nobody counted: as far as anybody can tell it begins now
                self._count(pending)
            self._tracked[stream] = (direction, Tracking(mode, meter))
            self._advance(direction)
        return stream

    def hear(self, news: News) -> None:
        """Take in what the cycle tells."""
        match news:
            case Received(byte_count, left):
                self._move(Direction.DOWNLOAD, byte_count, left)
            case ReachedHead():
                self._move(Direction.DOWNLOAD, 0, 0)
            case Connection(ConnectionEvent.LOST):
                with self._lock:
                    self._meters[Direction.DOWNLOAD].lose_sight()
            case Sent():
                with self._lock:
                    if self._watches(Direction.UPLOAD):
                        self._sent.append(news)
                self.changed()
            case Emptied():  # perhaps by another process
                self.changed()
            case _:
                pass

    def changed(self) -> None:
        """The outbox changed."""
        with self._lock:
            is_watched = not self._ended and self._watches(Direction.UPLOAD)
        if is_watched:
            self._looking.poke()

    def look(self) -> Pending:
        """How much is unsent."""
        self.pending = self._store.totals()
        return self.pending

    def end(self) -> None:
        """Nothing will move any more."""
        with self._lock:
            self._ended = True
            streams = list(self._tracked)
            self._tracked.clear()
        for stream in streams:
            stream.end()

    def _looked(self, pending: Pending) -> None:
        with self._lock:
            self._count(pending)
            self._advance(Direction.UPLOAD)

    def _count(self, pending: Pending) -> None:
        """Bring the upload's meter up to what the file says: what it does not hold any more was sent."""
        covered = [sent for sent in self._sent if sent.number <= pending.acknowledged]
        self._sent = [sent for sent in self._sent if sent.number > pending.acknowledged]
        self._meters[Direction.UPLOAD].advance(sum(sent.byte_count for sent in covered), pending.byte_count)

    def _move(self, direction: Direction, byte_count: int, left: int | None) -> None:
        with self._lock:
            self._meters[direction].advance(byte_count, left)
            self._advance(direction)

    def _advance(self, direction: Direction) -> None:
        """Tell those who follow a direction what is new, and end what is over."""
        meter = self._meters[direction]
        for stream, (followed, tracking) in list(self._tracked.items()):
            if followed is direction:
                progress = tracking.next(meter)
                if progress is not None:
                    stream.put(progress)
                if tracking.is_over:
                    del self._tracked[stream]
                    stream.end()

    def _watches(self, direction: Direction) -> bool:
        return any(followed is direction for followed, _ in self._tracked.values())

    def _forget(self, stream: Stream[Progress]) -> None:
        with self._lock:
            self._tracked.pop(stream, None)
