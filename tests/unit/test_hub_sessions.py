"""Whole applications over a hub with users: what somebody may only read comes back, and who is shut out is told."""

from __future__ import annotations

import queue
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")
pytest.importorskip("argon2", reason="needs the extra hub")

from localstore import App, Credentials, Realm, Settings, SyncConfiguration
from localstore.errors import CompensatingWrite, ProtocolError, SyncError
from localstore.hub.access import Access
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.registry import adapter_factory
from tests.unit.accounts_kit import PASSWORD, World
from tests.unit.hub_kit import PATIENCE, RunningHub, running_hub
from tests.unit.session_kit import Note, add, eventually, texts


class Users:
    """A hub on one SQLite file, with Emma, who may write, and Kevin, who may read."""

    def __init__(self, hub: RunningHub, world: World, directory: Path) -> None:
        self.world = world
        self.hub = hub
        self._directory = directory
        self._open: list[Realm | App] = []
        self.told: queue.Queue[SyncError] = queue.Queue()

    def realm(self, name: str, partition: str = "team") -> Realm:
        settings = Settings(directory=str(self._directory / name), backoff_initial=0.05, backoff_max=0.2)
        app = App.create("conformance", remote=self.hub.address, settings=settings)
        user = app.login(Credentials.email_password(f"{name}@example.com", PASSWORD))
        configuration = SyncConfiguration(
            user, [Note], partition=partition, error_handler=lambda _, error: self.told.put(error)
        )
        realm = Realm.open(configuration)
        self._open += [realm, app]
        return realm

    def close(self) -> None:
        for opened in self._open:
            opened.close()


@pytest.fixture
def users(tmp_path: Path) -> Generator[Users]:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    world = World(url)
    for name, access in (("emma", Access.WRITE), ("kevin", Access.READ)):
        world.grant(world.add_user(f"{name}@example.com"), "team", access)

    def accounts() -> SqlAccounts:
        return SqlAccounts.open(url, AccountsOptions(), hasher=world.hasher)

    with running_hub(adapter_factory(url), accounts=accounts) as hub:
        made = Users(hub, world, tmp_path)
        try:
            yield made
        finally:
            made.close()
            world.close()


def test_what_one_writes_the_other_sees_and_a_readers_write_comes_back(users: Users) -> None:
    emma, kevin = users.realm("emma"), users.realm("kevin")
    add(emma, "from Emma")
    eventually(lambda: texts(kevin) == ["from Emma"], "Emma's note")
    add(kevin, "from Kevin")
    told = users.told.get(timeout=PATIENCE)
    assert isinstance(told, CompensatingWrite)
    assert "not write" in str(told.writes)
    eventually(lambda: texts(kevin) == ["from Emma"], "the write to be undone")
    assert kevin.sync_session.upload_all_local_changes(PATIENCE)
    assert texts(emma) == ["from Emma"]


def test_a_partition_without_access_stops_the_session_with_its_name(users: Users) -> None:
    users.realm("kevin", "management")
    told = users.told.get(timeout=PATIENCE)
    assert isinstance(told, ProtocolError)
    assert "'management'" in str(told)


def test_sessions_go_on_by_themselves_when_the_hub_was_away(users: Users) -> None:
    emma, kevin = users.realm("emma"), users.realm("kevin")
    add(emma, "before")
    eventually(lambda: texts(kevin) == ["before"], "the first note")
    users.hub.stop()
    add(emma, "meanwhile")
    users.hub.start()
    eventually(lambda: texts(kevin) == ["before", "meanwhile"], "the note that was written meanwhile")
    add(emma, "after")
    eventually(lambda: texts(kevin) == ["after", "before", "meanwhile"], "a note over the new streams")
