"""The write transaction of a task: ``Store.write`` for event loops, which nothing in it may stop.

Waiting for one's turn needs no thread. Beginning and committing can block on the disk and on other programs, so each has a
thread of its own: one from the event loop's pool might be waited for by the very calls that fill the pool and wait for us.

No asynchronous generators here: one whose task is thrown away is not told so, and would let go of the session while a thread
still uses it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from types import TracebackType

from sqlmodel import Session

from localstore.store.file import Store

__all__ = ["WriteInLoop"]


class WriteInLoop:
    """One write transaction as a session; sealed and committed at the end of the block, rolled back by any exception.

    A cancellation that comes while it commits is raised when that is done: everything is in the file then, or nothing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._given_up = threading.Event()
        self._committed = False

    async def __aenter__(self) -> Session:
        store = self._store
        store.check_open()
        async with AsyncExitStack() as opened:
            opened.callback(self._announce)
            await opened.enter_async_context(store.lock.held_async())
            self._session = opened.enter_context(store.ending(store.session()))
            await self._in_thread(lambda: store.begin(self._session, give_up=self._given_up.is_set))
            self._opened = opened.pop_all()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._opened:
            if error is not None:
                with self._store.body():
                    raise error
            await self._in_thread(self._commit)

    def _commit(self) -> None:
        self._store.commit(self._session)
        self._committed = True

    def _announce(self) -> None:
        if self._committed:
            self._store.announce()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Run in a thread, which cannot be cancelled: a cancellation is raised when it has ended with the file."""
        done: Future[None] = Future()
        thread = threading.Thread(target=_run, args=(work, done), name="localstore-write")
        waited_for = asyncio.wrap_future(done)
        thread.start()
        try:
            await asyncio.shield(waited_for)
        except asyncio.CancelledError:
            self._given_up.set()
            while not waited_for.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({waited_for})
            waited_for.exception()
            raise
        finally:
            self._given_up.set()
            thread.join()  # its event loop may be gone, so that there was no waiting in it
            with suppress(RuntimeError):
                waited_for.cancel()


def _run(work: Callable[[], None], done: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001  raised in the task
        done.set_exception(error)
    else:
        done.set_result(None)
