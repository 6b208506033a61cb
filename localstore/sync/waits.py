"""Callers that wait for uploads and downloads. Thread-safe; knows nothing of how either is done.

Uploads are waited for by a changeset's number, which is one device's. When the file becomes another device, by a client reset,
those who waited for a number of the old one wait for all that was brought along.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

__all__ = ["Waits", "known", "result", "result_async"]


class Waits:
    """Pending waits of one session. A future is resolved once; a caller who gives up cancels it, at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploads: list[tuple[int, bytes, Future[bool]]] = []
        self._downloads: list[tuple[int, Future[bool]]] = []
        self._requests = 0
        self._device: bytes | None = None
        self._past: set[bytes] = set()
        self._brought_along = 0

    def __len__(self) -> int:
        """How many callers wait, or gave up lately."""
        with self._lock:
            return len(self._uploads) + len(self._downloads)

    def upload(self, number: int, device: bytes) -> Future[bool]:
        """Wait until the remote has acknowledged a changeset's number."""
        future: Future[bool] = Future()
        with self._lock:
            self._uploads = [wait for wait in self._uploads if not wait[-1].cancelled()]
            if self._device is not None and device in self._past:
                number, device = self._brought_along, self._device
            self._uploads.append((number, device, future))
        return future

    def count_by(self, device: bytes, last: int | None) -> None:
        """Numbers are those of this device from now on.

        Args:
            device: what the file is.
            last: its last number that the remote has not acknowledged, None when it has all.
        """
        with self._lock:
            if device == self._device:
                return
            if self._device is not None:
                self._past.add(self._device)
            self._past.discard(device)
            self._device, self._brought_along = device, last or 0
            self._uploads = [
                (number, of, future) if of == device else (self._brought_along, device, future)
                for number, of, future in self._uploads
            ]

    def download(self) -> Future[bool]:
        """Wait until the head was reached by a pull that began after this call."""
        future: Future[bool] = Future()
        with self._lock:
            self._requests += 1
            self._downloads = [wait for wait in self._downloads if not wait[1].cancelled()]
            self._downloads.append((self._requests, future))
        return future

    @property
    def download_requests(self) -> int:
        """A mark to take before a pull begins, for ``reached_head``."""
        return self._requests

    def acknowledged(self, number: int) -> None:
        """The remote has every changeset up to ``number``."""
        with self._lock:
            done = [wait for wait in self._uploads if wait[0] <= number and self._device in (None, wait[1])]
            self._uploads = [wait for wait in self._uploads if wait not in done]
        _resolve([future for *_, future in done])

    def reached_head(self, mark: int) -> None:
        """A pull that began at ``mark`` reached the head and everything was applied."""
        with self._lock:
            done = [future for request, future in self._downloads if request <= mark]
            self._downloads = [wait for wait in self._downloads if wait[0] > mark]
        _resolve(done)

    def abort(self, error: Exception) -> None:
        """Break all waits off."""
        with self._lock:
            futures = [*(wait[-1] for wait in self._uploads), *(wait[-1] for wait in self._downloads)]
            self._uploads, self._downloads = [], []
        for future in futures:
            with suppress(InvalidStateError):  # the caller gave up meanwhile
                future.set_exception(error)


def _resolve(futures: list[Future[bool]]) -> None:
    for future in futures:
        with suppress(InvalidStateError):
            future.set_result(True)


def known(done: bool) -> Future[bool]:
    """A wait that is over before it began."""
    future: Future[bool] = Future()
    future.set_result(done)
    return future


def result(future: Future[bool], timeout: float | None) -> bool:
    """What a wait comes to; False when the time was up, and then nobody waits any more."""
    try:
        return future.result(timeout)
    except concurrent.futures.TimeoutError:
        return not future.cancel() and future.result()


async def result_async(future: Future[bool], timeout: float | None) -> bool:
    """``result`` for any event loop."""
    loop = asyncio.get_running_loop()
    resolved = asyncio.Event()

    def tell(_: Future[bool]) -> None:
        with suppress(RuntimeError):  # the caller's event loop is gone, and so is the caller
            loop.call_soon_threadsafe(resolved.set)

    future.add_done_callback(tell)
    try:
        async with asyncio.timeout(timeout):
            await resolved.wait()
    except TimeoutError:
        pass
    finally:
        gave_up = future.cancel()
    return not gave_up and future.result()
