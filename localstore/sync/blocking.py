"""Work on the file from the event loop. What passes by itself is an error like those of the remote, and waited out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from localstore.environment import Environment
from localstore.errors import Busy, DiskFailed, DiskFull, StoreBusy

__all__ = ["in_thread", "in_thread_then"]

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(environment: Environment, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function that blocks in a worker thread.

    Raises:
        Busy: another program writes for long, or the disk is full.
    """
    try:
        result: T = await environment.run_blocking(function, *args, **kwargs)
    except (StoreBusy, DiskFull, DiskFailed) as error:
        raise Busy(error.message, hint=error.hint) from error
    return result


async def in_thread_then(
    environment: Environment, then: Callable[[T], object], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """``in_thread`` for what is to be told when it is done. A thread cannot be broken off: ``then`` gets the result also when
    the caller was cancelled meanwhile, as nobody would tell it later."""
    work = asyncio.ensure_future(in_thread(environment, function, *args, **kwargs))

    def done(work: asyncio.Future[T]) -> None:
        if not work.cancelled() and work.exception() is None:
            then(work.result())

    work.add_done_callback(done)
    await asyncio.wait([work])
    return work.result()
