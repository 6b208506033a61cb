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
from localstore.errors import CompensatingWrite, ProtocolError, ResetRequired, StoreUnusable, SyncError
from localstore.hub.access import Access
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.registry import adapter_factory
from tests.unit.accounts_kit import PASSWORD, World
from tests.unit.hub_kit import PATIENCE, RunningHub, running_hub
from tests.unit.session_kit import Note, add, eventually, sql, texts


class Users:
    """A hub on one SQLite file, with Emma, who may write, and Kevin, who may read."""

    def __init__(self, hub: RunningHub, world: World, directory: Path) -> None:
        self.world = world
        self.hub = hub
        self._directory = directory
        self._open: list[Realm | App] = []
        self.told: queue.Queue[SyncError] = queue.Queue()
        self._ids: dict[str, str] = {}

    def grant(self, name: str, access: Access | None) -> None:
        """Known at once, as the hub begins anew."""
        self.hub.stop()
        if name not in self._ids:
            self._ids[name] = self.world.add_user(f"{name}@example.com")
        self.world.grant(self._ids[name], "team", access)
        self.hub.start()

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

    def moved_away(self, name: str) -> Path:
        """A file that was damaged and has a note that it had not sent. All that is open is closed."""
        realm = self.realm(name)
        add(realm, f"sent by {name}")
        realm.sync_session.upload_all_local_changes(PATIENCE)
        realm.sync_session.pause()
        add(realm, f"not sent by {name}")
        self.close()
        return realm.path.rename(realm.path.with_name("damaged.db"))

    def close(self) -> None:
        while self._open:
            self._open.pop(0).close()


@pytest.fixture
def users(tmp_path: Path) -> Generator[Users]:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    world = World(url)

    def accounts() -> SqlAccounts:
        return SqlAccounts.open(url, AccountsOptions(), hasher=world.hasher)

    with running_hub(adapter_factory(url), accounts=accounts) as hub:
        made = Users(hub, world, tmp_path)
        made.grant("emma", Access.WRITE)
        made.grant("kevin", Access.READ)
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


def test_what_a_damaged_file_had_not_sent_goes_out_in_its_users_name(users: Users) -> None:
    damaged = users.moved_away("emma")
    emma, kevin = users.realm("emma"), users.realm("kevin")
    report = emma.sync_session.salvage(damaged)
    assert (report.sent, report.known, dict(report.lost)) == (1, 0, {})
    for realm in (emma, kevin):
        eventually(lambda realm=realm: texts(realm) == ["not sent by emma", "sent by emma"], "what was salvaged")


def test_nobody_salvages_what_another_user_had_not_sent(users: Users) -> None:
    damaged = users.moved_away("emma")
    with pytest.raises(StoreUnusable, match="Nothing was sent"):
        users.realm("kevin").sync_session.salvage(damaged)


def test_the_hub_takes_nothing_in_the_name_of_another_users_device(users: Users) -> None:
    damaged = users.moved_away("emma")
    users.grant("kevin", Access.WRITE)
    kevin = users.realm("kevin")
    ((kevins,),) = sql(kevin.path, "SELECT user FROM localstore_state")
    sql(damaged, "UPDATE localstore_state SET user = ?", kevins)  # as who has the file may write there
    with pytest.raises(ResetRequired, match="another user"):
        kevin.sync_session.salvage(damaged)
    assert kevin.sync_session.download_all_server_changes(PATIENCE)
    assert texts(kevin) == ["sent by emma"]


def test_what_a_damaged_file_had_not_sent_is_refused_once_its_user_may_only_read(users: Users) -> None:
    damaged = users.moved_away("emma")
    users.grant("emma", Access.READ)
    emma, kevin = users.realm("emma"), users.realm("kevin")
    report = emma.sync_session.salvage(damaged)
    assert report.sent == 0
    assert ["not write" in why for why in report.lost.values()] == [True]
    for realm in (emma, kevin):
        assert realm.sync_session.download_all_server_changes(PATIENCE)
        assert texts(realm) == ["sent by emma"]


def test_nothing_is_salvaged_once_its_user_is_shut_out(users: Users) -> None:
    damaged = users.moved_away("emma")
    users.grant("emma", None)
    with pytest.raises(ProtocolError, match="'team'"):
        users.realm("emma").sync_session.salvage(damaged)
    users.grant("emma", Access.WRITE)
    assert users.realm("emma").sync_session.salvage(damaged).sent == 1
