"""Undoing what the remote refused: the rows go back to what the remote has, and the application hears which, and why.

What is to be undone is in the file, marked when it was refused, so that a crash forgets nothing. The remote's state comes from
a second file that is filled from its history, one for all that was refused together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from localstore.errors import CompensatingWrite, LocalStoreError, RealmClosed, Refused, SyncError
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.undoing import UndoneWrite, refusals, undo_refused
from localstore.sync.blocking import in_thread, in_thread_then
from localstore.sync.cycle import Signals
from localstore.sync.fresh import Beside, Wanted, fresh_file
from localstore.sync.parts import SessionParts

if TYPE_CHECKING:
    from localstore.sync.life import Life

__all__ = ["undo"]

_TRIES = 5  # rounds after a remote to which others keep writing; the next pull tries again


async def undo(parts: SessionParts, life: Life, pull: Callable[[], Awaitable[None]]) -> bool:
    """Undo what was refused, if anything was.

    Args:
        parts: of the session.
        life: hears of it.
        pull: brings the session's own file to the head.

    Returns:
        False when it cannot be done, of which the application has heard: it is tried again when the session starts anew.

    Raises:
        SyncError: the remote's state cannot be had now. It is tried again after the next pull.
    """
    if not await in_thread(parts.environment, _has_refused, parts.store):
        return True
    try:
        await _undone(parts, life, pull)
    except (SyncError, RealmClosed):
        raise
    except LocalStoreError as error:
        life.report(
            Refused(
                f"The remote refused what was written here, and it cannot be undone ({error.message}). It was set aside, and"
                " its rows stay on this device as they are.",
                hint="Later changes go on.",
            )
        )
        return False
    return True


async def _undone(parts: SessionParts, life: Life, pull: Callable[[], Awaitable[None]]) -> None:
    def tell(writes: list[UndoneWrite] | None) -> None:
        if writes:
            life.report(_told(writes))

    environment, store = parts.environment, parts.store
    beside = Beside(life, instead=False)
    async with fresh_file(parts, Wanted(b"", 0), observer=beside, signals=Signals()) as fresh:
        for _ in range(_TRIES):
            await fresh.cycle.fill_once()
            await pull()
            cursor = (await in_thread(environment, store.state)).cursor
            writes = await in_thread_then(environment, tell, undo_refused, store, fresh.store, cursor=cursor)
            if writes is not None:
                return


def _has_refused(store: Store) -> bool:
    with store.read() as session:
        return bool(refusals(driver_connection(session.connection())))


def _told(writes: list[UndoneWrite]) -> CompensatingWrite:
    rows = "A row was" if len(writes) == 1 else f"{len(writes)} rows were"
    return CompensatingWrite(
        f"{rows} put back to what the remote has, as it refused what was written here, the first in {writes[0].table}"
        f" ({writes[0].reason}). What was written is kept in realm.conflicts().",
        writes=tuple((write.table, write.key, write.reason) for write in writes),
        hint="Later changes go on. Change what the remote refuses, and write it again.",
    )
