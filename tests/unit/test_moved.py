"""A device that is told how far the log is by its own pushes: it need not write that down, nor look, to go on from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from sqlmodel import select

from localstore import App, Credentials, Realm, SyncConfiguration
from localstore.adapter import Cursor, Hint, Limit, Page, PushResult
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.wire import SealedChangeset
from tests.unit.session_kit import PATIENCE, Note, add, eventually


class Telling(MemoryAdapter):
    """Its watch tells of what is pushed through it, as a hub's does, and brings what it is given."""

    def __init__(self, remote: MemoryRemote) -> None:
        super().__init__(remote)
        self.pulls = 0
        self.told = 0
        self.head: Cursor | None = None

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        self.pulls += 1
        return await super().pull(cursor, limit)

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        result = await super().push(batch)
        await self._tell(others=False)
        return result

    async def bring(self) -> None:
        """Tell of what others have pushed since."""
        await self._tell(others=True)

    async def _tell(self, *, others: bool) -> None:
        after, page = self.head, await super().pull(self.head, Limit())
        self.head = page.cursor
        self.loop = asyncio.get_running_loop()
        told = Page(changesets=page.changesets if others else (), cursor=page.cursor, more=False)
        self._hints.put_nowait(Hint(after=after, page=told))

    async def watch(self, cursor: Cursor | None) -> AsyncIterator[Hint]:  # type: ignore[override]
        self._hints = asyncio.Queue[Hint]()
        self.head = cursor
        while True:
            yield await self._hints.get()
            self.told += 1


def test_what_others_add_behind_its_own_changesets_is_applied_without_a_look_and_without_writing_before(tmp_path: Path) -> None:
    remote = MemoryRemote()
    line = Telling(remote)
    with App.create("notes", remote=lambda: line) as app, App.create("notes", remote=remote.adapter) as elsewhere:
        configuration = SyncConfiguration(app.login(Credentials.anonymous()), {Note}, tmp_path / "one.db")
        other = SyncConfiguration(elsewhere.login(Credentials.anonymous()), {Note}, tmp_path / "other.db")
        with Realm.open(configuration) as realm, Realm.open(other) as there:
            assert realm.sync_session.download_all_server_changes(PATIENCE)
            eventually(lambda: line.head is not None)
            cursor, pulls = realm._store.state().cursor, line.pulls
            for number in range(3):
                add(realm, f"own {number}")
                assert realm.sync_session.upload_all_local_changes(PATIENCE)
                eventually(lambda number=number: line.told == number + 1)
            assert (realm._store.state().cursor, line.pulls) == (cursor, pulls)
            add(there, "theirs")
            assert there.sync_session.upload_all_local_changes(PATIENCE)
            asyncio.run_coroutine_threadsafe(line.bring(), line.loop).result(PATIENCE)
            eventually(lambda: "theirs" in realm.exec(select(Note.text)).all())
            assert line.pulls == pulls
            assert realm._store.state().cursor == line.head
