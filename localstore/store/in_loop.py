"""The write transaction of a task: ``Store.write`` for event loops, which nothing in it may stop.

Waiting for one's turn needs no thread. Beginning and committing can block on the disk and on other programs, so each has a
thread of its own: one from the event loop's pool might be waited for by the very calls that fill the pool and wait for us.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress

from sqlmodel import Session

from localstore.store.file import Store

__all__ = ["write_in_loop"]


@asynccontextmanager
async def write_in_loop(store: Store) -> AsyncIterator[Session]:
    """One write transaction as a session; sealed and committed at the end of the block, rolled back by any exception.

    A cancellation that comes while it commits is raised when that is done: everything is in the file then, or nothing.
    """
    store.check_open()
    committed = False

    def commit() -> None:
        nonlocal committed
        store.commit(session)
        committed = True

    try:
        async with store.lock.held_async():
            with store.ending(store.session()) as session:
                given_up = threading.Event()
                await _to_the_end(lambda: store.begin(session, give_up=given_up.is_set), given_up)
                with store.body():
                    yield session
                await _to_the_end(commit, given_up)
    finally:
        if committed:
            store.announce()


async def _to_the_end(work: Callable[[], None], given_up: threading.Event) -> None:
    """Run in a thread, which cannot be cancelled: a cancellation is raised when it has ended, not while it uses the file.

    Args:
        work: what to do.
        given_up: set when nobody wants it any more.
    """
    done: Future[None] = Future()
    thread = threading.Thread(target=_run, args=(work, done), name="localstore-write")
    waited_for = asyncio.wrap_future(done)
    thread.start()
    try:
        await asyncio.shield(waited_for)
    except asyncio.CancelledError:
        given_up.set()
        while not waited_for.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({waited_for})
        waited_for.exception()
        raise
    except BaseException:
        given_up.set()  # the event loop is going away: there is no more waiting in it
        thread.join()
        waited_for.cancel()
        raise


def _run(work: Callable[[], None], done: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001  raised in the task
        done.set_exception(error)
    else:
        done.set_result(None)
