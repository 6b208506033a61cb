"""Opening a new file only when what the remote has is in it: the wait, its end, and what becomes of the file without it.

``Realm.open`` calls it for configurations with ``wait_for_initial_remote_data``, when the file is open and its session runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from localstore.configuration import LocalConfiguration, SyncConfiguration
from localstore.errors import InitialDataTimeout, LocalStoreError
from localstore.store import awaiting
from localstore.store.first_data import InitialData
from localstore.sync.state import SessionState
from localstore.sync.synced_file import SyncedFile

__all__ = ["FirstDownload", "data_at_opening", "opened_async", "uninterrupted"]

R = TypeVar("R")
T = TypeVar("T")


def data_at_opening(configuration: SyncConfiguration) -> InitialData | None:
    """What is to be written in the transaction that makes a new file's tables."""
    if configuration.waits_for_remote_data:
        return awaiting.marking(configuration.initial_data)
    return configuration.initial_data


class FirstDownload:
    """What the opening of a realm that nobody has yet may still have to wait for.

    Args:
        configuration: how it was opened.
        file: the open file; None for a local realm.
        close: closes that realm.
    """

    def __init__(
        self, configuration: SyncConfiguration | LocalConfiguration, file: SyncedFile | None, close: Callable[[], None]
    ) -> None:
        self._awaited: _Awaited | None = None
        if isinstance(configuration, SyncConfiguration) and configuration.waits_for_remote_data and file is not None:
            self._awaited = _Awaited(configuration, file)
        self._close = close

    def wait(self) -> None:
        """Block until the file has it; at once when it has. The realm is closed again by whatever else comes.

        Raises:
            InitialDataTimeout: the time was up.
            SyncError: the session cannot go on.
            OperationAborted: it was ended or paused.
        """
        if self._awaited is None:
            return
        try:
            self._awaited.wait()
        except BaseException:
            self.give_up()
            raise

    async def wait_async(self) -> None:
        """``wait`` for any event loop. Cancelled, it closes the realm before it ends."""
        if self._awaited is None:
            return
        try:
            await self._awaited.wait_async()
        except BaseException:
            await uninterrupted(self.give_up)
            raise

    def give_up(self) -> None:
        """Close the realm, and remove its file if the first download is not complete and nobody else uses it."""
        with suppress(LocalStoreError):  # somebody writes to it: then it is not ours alone, and stays
            self._close()
        if self._awaited is not None:
            self._awaited.remove_file()


class _Awaited:
    def __init__(self, configuration: SyncConfiguration, file: SyncedFile) -> None:
        self._configuration = configuration
        self._file = file
        self._path: Path = file.store.path

    def wait(self) -> None:
        if awaiting.is_awaiting(self._file.store):
            self._settle(self._file.session.download_or_fail(self._configuration.remote_data_timeout))

    async def wait_async(self) -> None:
        if await asyncio.to_thread(awaiting.is_awaiting, self._file.store):
            session, timeout = self._file.session, self._configuration.remote_data_timeout
            arrived = await session.download_or_fail_async(timeout)
            await uninterrupted(lambda: self._settle(arrived))

    def remove_file(self) -> None:
        if not self._configuration.in_memory:
            if self._file.session.state is not SessionState.DYING:  # which somebody wrote to, so that it stays
                sync = self._configuration.user.app.sync
                sync.wait_until_closed(self._path, self._file.store.options.busy_timeout)
            awaiting.delete_unfinished(self._path, self._configuration.encryption_key)

    def _settle(self, arrived: bool) -> None:
        if not arrived:
            raise self._too_late()
        awaiting.check_off(self._file.store, self._configuration.initial_data)

    def _too_late(self) -> InitialDataTimeout:
        error = self._file.session.last_error
        why = "The first download was not complete" if error is None else error.message.rstrip(".")
        return InitialDataTimeout(
            f"{self._path} was to be opened with what the remote has, which did not arrive within"
            f" {self._configuration.remote_data_timeout:g} s: {why}. The realm was not opened, and no new file was kept.",
            hint="Open it again later, with a longer wait_for_initial_remote_data, or without to begin with an empty realm.",
        )


async def opened_async(open_realm: Callable[[], R], first_download: Callable[[R], FirstDownload]) -> R:
    """What a function opens, in a thread, with what it has to wait for. Cancelled, it leaves nothing open."""
    opened: list[R] = []
    try:
        await uninterrupted(lambda: opened.append(open_realm()))
    except asyncio.CancelledError:
        for realm in opened:
            await uninterrupted(first_download(realm).give_up)
        raise
    await first_download(opened[0]).wait_async()
    return opened[0]


async def uninterrupted(function: Callable[[], T]) -> T:
    """The result of a function that runs in a thread, awaited to its end also when the task is cancelled meanwhile.

    The cancellation is raised afterwards, unless the function itself raised.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001  is raised below
            break
    result = running.result()
    if cancelled is not None:
        raise cancelled
    return result
