"""A stream of values from the background thread to any reader: ``for`` in a thread, ``async for`` in any event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from localstore.errors import StreamOverflow
from localstore.store.forking import of_this_process

__all__ = ["Broadcast", "Stream"]

T = TypeVar("T")
_BUFFER = 64


class _Nothing:
    """In place of a value where there was none yet."""


_NOTHING = _Nothing()
_log = logging.getLogger("localstore.sync")


class Stream(Generic[T]):
    """Values from the moment it was made, in order, until its source closes it.

    One reader each. A reader that falls more than 64 values behind gets ``StreamOverflow`` after those it still has; one
    that wants the ``latest_only`` misses values that were overtaken before it read them, and never the last one, nor does it
    get the same value twice in a row.

    Args:
        on_close: is called when the reader closes it.
        latest_only: whether the reader wants no other.
        check_may_wait: raises when this thread is the one that the values come from, and would wait for itself.
    """

    def __init__(
        self,
        on_close: Callable[[Stream[T]], None],
        *,
        latest_only: bool = False,
        check_may_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_close = on_close
        self._check_may_wait = check_may_wait
        self._latest_only = latest_only
        self._last: T | _Nothing = _NOTHING
        self._values: deque[T] = deque()
        self._lock = threading.RLock()  # by itself in each ``with``: Ctrl-C could come between a Condition's and its block
        self._changed = threading.Condition(self._lock)
        self._ended = False
        self._overflown = False
        self._wakers: list[Callable[[], object]] = []
        of_this_process(self)

    def put(self, value: T) -> None:
        """Add a value; never waits."""
        with self._lock:
            if self._ended or (self._latest_only and value == self._last):
                return
            self._last = value
            if self._latest_only:
                self._values.clear()
            if len(self._values) >= _BUFFER:
                self._overflown = self._ended = True
            else:
                self._values.append(value)
            self._notify()

    def begin_with(self, value: T) -> None:
        """Add a value unless a newer one came before."""
        with self._lock:
            if self._last is _NOTHING:
                self.put(value)

    def end(self) -> None:
        """No more values will come."""
        with self._lock:
            self._ended = True
            self._notify()

    def close(self) -> None:
        """Stop reading; what was not read yet is dropped."""
        with self._lock:
            self._values.clear()
            self._overflown = False
        self.end()
        self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            if not (self._values or self._ended):
                self._check_may_wait()
            self._changed.wait_for(lambda: self._values or self._ended)
            return self._take(StopIteration)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        while True:
            with self._lock:
                if self._values or self._ended:
                    return self._take(StopAsyncIteration)
                ready.clear()
                waker = functools.partial(loop.call_soon_threadsafe, ready.set)
                self._wakers.append(waker)
            try:
                await ready.wait()
            finally:  # a reader that gives up leaves nothing behind
                with self._lock:
                    if waker in self._wakers:
                        self._wakers.remove(waker)

    def _take(self, end: type[Exception]) -> T:
        if self._values:
            return self._values.popleft()
        if self._overflown:
            raise StreamOverflow(
                "Values came faster than they were read, and some were dropped.", hint="Read the stream in a loop."
            )
        raise end

    def _notify(self) -> None:
        self._changed.notify_all()
        for wake in self._wakers:
            with suppress(RuntimeError):  # the reader's event loop is gone, and so is the reader
                wake()
        self._wakers.clear()


class Broadcast(Generic[T]):
    """Values for any number of streams and callbacks, in the same order for all of them.

    ``put`` never waits and calls nobody, so that it may be used under a lock; ``deliver``, without any, calls the callbacks.

    Args:
        check_may_wait: as for a ``Stream``.
    """

    def __init__(self, check_may_wait: Callable[[], None] = lambda: None) -> None:
        self._check_may_wait = check_may_wait
        self._lock = threading.Lock()
        self._streams = weakref.WeakSet[Stream[T]]()  # nobody can read a stream any more that nobody holds
        self._listeners: list[Callable[[T], object]] = []
        self._undelivered: deque[T | _Nothing] = deque()
        self._delivering = False
        self._ended = False

    @property
    def has_readers(self) -> bool:
        """Whether anybody would get a value."""
        return bool(self._streams or self._listeners)

    def stream(self, *, latest_only: bool = False) -> Stream[T]:
        """All values from now on."""
        stream: Stream[T] = Stream(self._forget, latest_only=latest_only, check_may_wait=self._check_may_wait)
        with self._lock:
            if not self._ended:
                self._streams.add(stream)
                return stream
        stream.end()
        return stream

    def listen(self, callback: Callable[[T], object], *, distinct: bool = False) -> Callable[[], None]:
        """Call back with each value from now on; with ``distinct`` not with the same value twice in a row.

        Returns:
            What ends that; to be called from anywhere, also inside the callback, and as often as one likes.
        """

        if not callable(callback):
            raise TypeError(f"The callback is a function of one argument, not {callback!r}.")
        last: T | _Nothing = _NOTHING

        def listener(value: T) -> None:  # the same callback may be registered twice, and each is ended by itself
            nonlocal last
            if not (distinct and value == last):
                last = value
                callback(value)

        with self._lock:
            if not self._ended:
                self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def put(self, value: T) -> None:
        """Give a value to all streams, and note it for the callbacks."""
        with self._lock:
            if self._ended:
                return
            streams = list(self._streams)
            if self._listeners:
                self._undelivered.append(value)
        for stream in streams:
            stream.put(value)

    def deliver(self) -> None:
        """Call the callbacks with what was put. One thread at a time does so, for all; what a callback raises is logged."""
        while self._deliver_one():
            pass

    def _deliver_one(self) -> bool:
        is_ours = False
        try:
            with self._lock:
                if self._delivering or not self._undelivered:
                    return False
                self._delivering = is_ours = True
                value, listeners = self._undelivered.popleft(), list(self._listeners)
                if isinstance(value, _Nothing):
                    self._listeners.clear()
                    return True
            for listener in listeners:
                if listener in self._listeners:  # one before it may have ended it
                    _call(listener, value)
            return True
        finally:
            if is_ours:
                self._delivering = False

    def end(self) -> None:
        """No more values will come: streams end, and callbacks are forgotten once they have heard what was put."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            streams = list(self._streams)
            self._streams.clear()
            self._undelivered.append(_NOTHING)
        for stream in streams:
            stream.end()

    def _forget(self, stream: Stream[T]) -> None:
        with self._lock:
            self._streams.discard(stream)


def _call(listener: Callable[[T], object], value: T) -> None:
    try:
        listener(value)
    except (Exception, SystemExit):  # noqa: BLE001  a callback of the application's must not stop its sync
        _log.exception("A callback failed; sync goes on.")
