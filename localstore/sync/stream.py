"""A stream of values from the background thread to any reader: ``for`` in a thread, ``async for`` in any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from localstore.errors import StreamOverflow

__all__ = ["Stream"]

T = TypeVar("T")
_BUFFER = 64


class Stream(Generic[T]):
    """Values from the moment it was made, in order, until its source closes it.

    One reader each. A reader that falls more than 64 values behind gets ``StreamOverflow`` after those it still has.
    """

    def __init__(self, on_close: Callable[[Stream[T]], None]) -> None:
        self._on_close = on_close
        self._values: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._overflown = False
        self._wakers: list[Callable[[], object]] = []

    def put(self, value: T) -> None:
        """Add a value; never waits."""
        with self._changed:
            if self._ended:
                return
            if len(self._values) >= _BUFFER:
                self._overflown = self._ended = True
            else:
                self._values.append(value)
            self._notify()

    def end(self) -> None:
        """No more values will come."""
        with self._changed:
            self._ended = True
            self._notify()

    def close(self) -> None:
        """Stop reading; what was not read yet is dropped."""
        with self._changed:
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
        with self._changed:
            self._changed.wait_for(lambda: self._values or self._ended)
            return self._take(StopIteration)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        while True:
            with self._changed:
                if self._values or self._ended:
                    return self._take(StopAsyncIteration)
                ready.clear()
                self._wakers.append(lambda: loop.call_soon_threadsafe(ready.set))
            await ready.wait()

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
