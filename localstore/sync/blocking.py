"""Work on the file from the event loop. What passes by itself is an error like those of the remote, and waited out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from localstore.environment import Environment
from localstore.errors import Busy, DiskFailed, DiskFull, StoreBusy

__all__ = ["in_thread"]

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
