"""Undoing what the remote refused: the rows go back to what the remote has, and the application hears which, and why.

What is to be undone, and of what is to be told, is marked in the file, so that a crash forgets neither; at worst it is told
twice. The remote's state comes from a second file that is filled from its history, one for all that was refused together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from localstore.errors import CompensatingWrite, LocalStoreError, RealmClosed, Refused, SyncError
from localstore.store.file import Store
from localstore.store.undoing import TO_TELL, TO_UNDO, Undone, UndoneWrite, note_told, standing, undo_refused, undone
from localstore.sync.blocking import in_thread
from localstore.sync.cycle import Signals
from localstore.sync.first_sync import Unseen
from localstore.sync.fresh import Beside, fresh_file
from localstore.sync.parts import SessionParts

if TYPE_CHECKING:
    from localstore.sync.life import Life

__all__ = ["Told", "undo"]

_TRIES = 5  # rounds after a remote to which others keep writing; the next pull tries again


Told = set[tuple[bytes, int]]
"""Device and number of each changeset of which a session has told, whether or not that could be noted in the file."""


async def undo(parts: SessionParts, life: Life, pull: Callable[[], Awaitable[None]], told: Told) -> bool:
    """Undo what was refused, if anything was, and tell the application of all that was undone.

    Args:
        parts: of the session.
        life: hears of it.
        pull: brings the session's own file to the head.
        told: what the session has told; more is added.

    Returns:
        False when it cannot be done, of which the application has heard: it is tried again when the session starts anew.

    Raises:
        SyncError: the remote's state cannot be had now. It is tried again after the next pull.
    """
    marks = await in_thread(parts.environment, standing, parts.store)
    if TO_TELL in marks:  # a reset undid it, or a session that was killed
        await _tell(parts, life, told)
    if TO_UNDO not in marks:
        return True
    try:
        await _put_back(parts, life, pull)
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
    await _tell(parts, life, told)
    return True


async def _put_back(parts: SessionParts, life: Life, pull: Callable[[], Awaitable[None]]) -> None:
    environment, store = parts.environment, parts.store
    beside = Beside(life, instead=False)
    async with fresh_file(parts, Unseen(b"", 0), observer=beside, signals=Signals()) as fresh:
        for _ in range(_TRIES):
            await fresh.cycle.fill_once()
            await pull()
            cursor = (await in_thread(environment, store.state)).cursor
            if await in_thread(environment, undo_refused, store, fresh.store, cursor=cursor):
                return


async def _tell(parts: SessionParts, life: Life, told: Told) -> None:
    """Tell of what was undone, and then forget it, also when the handler ends the life in which it was told."""
    found = await in_thread(parts.environment, undone, parts.store)
    new = [one for one in found if (one.device, one.number) not in told]
    told.update((one.device, one.number) for one in new)
    if writes := [write for one in new for write in one.writes]:
        life.report(_told(writes))
    await asyncio.shield(parts.environment.run_blocking(_forget, parts.store, found))


def _forget(store: Store, told: list[Undone]) -> None:
    with suppress(LocalStoreError):  # it is tried again after the next pull
        note_told(store, told)


def _told(writes: list[UndoneWrite]) -> CompensatingWrite:
    rows = "A row was" if len(writes) == 1 else f"{len(writes)} rows were"
    return CompensatingWrite(
        f"{rows} put back to what the remote has, as it refused what was written here, the first in {writes[0].table}"
        f" ({writes[0].reason}). What was written is kept in realm.conflicts().",
        writes=tuple((write.table, write.key, write.reason) for write in writes),
        hint="Later changes go on. Change what the remote refuses, and write it again.",
    )
