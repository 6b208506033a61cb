"""Deleting files: all of them, only ours, only when nobody has them open, and nothing unsent unless the user says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest

from localstore import App, Credentials, LocalConfiguration, Realm, SyncConfiguration
from localstore.errors import LocalStoreError, StoreBusy, StoreUnusable, UnsentChanges
from localstore.store.outbox import refuse
from tests.unit.session_kit import PATIENCE, Note, World, add, in_loop, sql, texts

Configuration = LocalConfiguration | SyncConfiguration


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture(params=["local", "synced"])
def configuration(request: pytest.FixtureRequest, world: World) -> Configuration:
    """A configuration of each kind in turn."""
    device = world.device("one", busy_timeout=5)
    if request.param == "local":
        return LocalConfiguration(path=device.path, schema={Note})
    return device.configuration()


@pytest.fixture
def sent(world: World, configuration: Configuration) -> Configuration:
    """One whose closed file holds a note that the remote has."""
    with Realm.open(configuration) as realm:
        add(realm, "a")
    if isinstance(configuration, SyncConfiguration):
        assert configuration.user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    return configuration


@pytest.fixture
def unsent(world: World) -> SyncConfiguration:
    """One whose closed file holds a note that the remote does not have."""
    world.remote.go_offline()
    configuration = world.device("one").configuration(stop_policy="immediately")
    with Realm.open(configuration) as realm:
        add(realm, "a")
    return configuration


def files_of(configuration: Configuration) -> list[str]:
    path = Path(configuration.path)
    return sorted(found.name for found in path.parent.glob(f"{path.name}*"))


def is_whole(configuration: Configuration) -> bool:
    with closing(connect(configuration.path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_closed_file_is_deleted(sent: Configuration) -> None:
    assert files_of(sent) == ["one.db"]
    assert Realm.delete_files(sent) is True
    assert files_of(sent) == []


def test_with_all_that_belongs_to_it(sent: Configuration) -> None:
    path = Path(sent.path)
    with closing(connect(path, isolation_level=None)) as other:
        other.execute("UPDATE note SET text = text")
        left = path.with_name("one.db-wal").read_bytes(), path.with_name("one.db-shm").read_bytes()
    path.with_name("one.db-wal").write_bytes(left[0])
    path.with_name("one.db-shm").write_bytes(left[1])
    path.with_name("one.db-journal").touch()
    path.with_name("one.db-backup").touch()
    assert Realm.delete_files(sent, discard_unsent=True) is True
    assert files_of(sent) == ["one.db-backup"]


def test_where_none_is_nothing_is_done(configuration: Configuration) -> None:
    assert Realm.delete_files(configuration) is False
    assert files_of(configuration) == []


def test_it_can_be_opened_anew(sent: Configuration) -> None:
    Realm.delete_files(sent)
    with Realm.open(LocalConfiguration(path=sent.path, schema={Note})) as realm:
        assert texts(realm) == []


def test_a_device_that_deleted_its_file_gets_everything_back_as_another(world: World) -> None:
    device = world.device("one")
    realm = device.open()
    add(realm, "a")
    identity = realm.device_id
    realm.close()
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    Realm.delete_files(realm.configuration)
    anew = device.open()
    assert anew.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert texts(anew) == ["a"]
    assert anew.device_id != identity


def test_an_event_loop_may_ask_for_it(sent: Configuration) -> None:
    assert in_loop(Realm.delete_files_async(sent)) is True
    assert files_of(sent) == []


def test_a_link_to_a_file_stands_for_the_file(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    Realm.open(LocalConfiguration(path=tmp_path / "real.db", schema={Note})).close()
    link.symlink_to(tmp_path / "real.db")
    assert Realm.delete_files(LocalConfiguration(path=link)) is True
    assert not (tmp_path / "real.db").exists()


class TestOpenFiles:
    def test_by_a_realm(self, sent: Configuration) -> None:
        with Realm.open(sent) as realm:
            with pytest.raises(StoreBusy, match="open"):
                Realm.delete_files(sent, discard_unsent=True)
            add(realm, "b")
            assert texts(realm) == ["a", "b"]

    def test_by_one_of_the_other_kind(self, tmp_path: Path) -> None:
        with Realm.open(LocalConfiguration(path=tmp_path / "one.db", schema={Note})) as realm:
            with pytest.raises(StoreBusy):
                Realm.delete_files(LocalConfiguration(path=tmp_path / "x" / ".." / "one.db"))
            add(realm, "b")

    def test_by_a_session_that_still_uploads_for_a_closed_realm(self, world: World) -> None:
        line = world.line()
        device = world.device("one", remote=line)
        realm = device.open()
        world.at_rest()
        line.hold("push")
        add(realm, "a")
        realm.close()
        with pytest.raises(StoreBusy, match="wait_for_sessions_to_terminate"):
            Realm.delete_files(realm.configuration, discard_unsent=True)
        line.let_go("push")
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        assert Realm.delete_files(realm.configuration) is True

    def test_by_another_program_that_does_nothing_just_now(self, sent: Configuration) -> None:
        with closing(connect(sent.path, isolation_level=None)) as other:
            assert other.execute("SELECT count(*) FROM note").fetchall() == [(1,)]
            with pytest.raises(StoreBusy):
                Realm.delete_files(sent)
            assert other.execute("SELECT count(*) FROM note").fetchall() == [(1,)]
        assert is_whole(sent)
        assert Realm.delete_files(sent) is True

    def test_by_another_program_that_writes(self, sent: Configuration) -> None:
        with closing(connect(sent.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO note VALUES ('b', 'b')")
            with pytest.raises(StoreBusy):
                Realm.delete_files(sent)
            other.execute("COMMIT")
        assert sql(Path(sent.path), "SELECT count(*) FROM note") == [(2,)]


class TestUnsentChanges:
    def test_they_are_not_deleted_unless_the_user_says_so(self, unsent: SyncConfiguration) -> None:
        with pytest.raises(UnsentChanges, match="discard_unsent"):
            Realm.delete_files(unsent)
        with pytest.raises(UnsentChanges, match="discard_unsent"):
            Realm.delete_files(unsent, discard_unsent="no")  # type: ignore[arg-type]
        assert sql(Path(unsent.path), "SELECT text FROM note") == [("a",)]
        assert Realm.delete_files(unsent, discard_unsent=True) is True
        assert files_of(unsent) == []

    def test_a_refusal_changes_nothing_about_sync(self, unsent: SyncConfiguration, world: World) -> None:
        with pytest.raises(UnsentChanges):
            Realm.delete_files(unsent)
        world.remote.go_online()
        with Realm.open(unsent) as realm:
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert unsent.user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        assert Realm.delete_files(unsent) is True
        assert world.remote_texts() == ["a"]

    def test_what_another_program_wrote_and_nobody_sealed_is_unsent(self, world: World) -> None:
        device = world.device("one")
        device.open().close()
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        sql(device.path, "INSERT INTO note VALUES ('0123456789abcdef0123456789abcdef', 'theirs')")
        with pytest.raises(UnsentChanges):
            Realm.delete_files(device.configuration())
        assert sql(device.path, "SELECT text FROM note") == [("theirs",)]

    def test_a_row_that_cannot_travel_is_unsent(self, world: World) -> None:
        device = world.device("one")
        device.open().close()
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        sql(device.path, "INSERT INTO note VALUES ('a', CAST(x'ff' AS TEXT))")
        device.open(stop_policy="immediately").close()
        assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        with pytest.raises(UnsentChanges):
            Realm.delete_files(device.configuration())

    def test_what_the_remote_refused_was_sent(self, unsent: SyncConfiguration) -> None:
        with closing(connect(unsent.path, isolation_level=None)) as connection:
            refuse(connection, 1, "too large")
            connection.execute("DELETE FROM localstore_outbox")
        assert Realm.delete_files(unsent) is True


class TestWhatIsNotOurs:
    @pytest.mark.parametrize("content", [b"precious", b"precious" * 1000], ids=len)
    def test_no_database(self, configuration: Configuration, content: bytes) -> None:
        path = Path(configuration.path)
        path.write_bytes(content)
        with pytest.raises(StoreUnusable):
            Realm.delete_files(configuration, discard_unsent=True)
        assert path.read_bytes() == content
        assert files_of(configuration) == ["one.db"]

    def test_a_folder(self, configuration: Configuration) -> None:
        Path(configuration.path).mkdir()
        with pytest.raises(StoreUnusable):
            Realm.delete_files(configuration)
        assert Path(configuration.path).is_dir()

    def test_another_apps_file(self, unsent: SyncConfiguration, world: World) -> None:
        with App.create("other", remote=world.remote.adapter) as other:
            theirs = SyncConfiguration(other.login(Credentials.anonymous()), {Note}, path=unsent.path)
            with pytest.raises(StoreUnusable, match="belongs to the application 'kit'"):
                Realm.delete_files(theirs, discard_unsent=True)
        assert is_whole(unsent)

    def test_another_partitions_file(self, unsent: SyncConfiguration) -> None:
        wrong = SyncConfiguration(unsent.user, {Note}, path=unsent.path, partition="other")
        with pytest.raises(StoreUnusable, match="partition"):
            Realm.delete_files(wrong, discard_unsent=True)
        assert is_whole(unsent)

    def test_a_synced_file_as_a_local_one(self, unsent: SyncConfiguration) -> None:
        with pytest.raises(StoreUnusable, match="SyncConfiguration"):
            Realm.delete_files(LocalConfiguration(path=unsent.path), discard_unsent=True)
        assert is_whole(unsent)

    def test_any_other_database_as_a_synced_one(self, world: World) -> None:
        device = world.device("one")
        sql(device.path, "CREATE TABLE bookmarks (url)")
        with pytest.raises(StoreUnusable, match="no synced file"):
            Realm.delete_files(device.configuration(), discard_unsent=True)
        assert sql(device.path, "SELECT count(*) FROM bookmarks") == [(0,)]

    def test_a_file_of_a_newer_localstore(self, unsent: SyncConfiguration) -> None:
        sql(Path(unsent.path), "UPDATE localstore_version SET version_num = 'layout_9999'")
        with pytest.raises(StoreUnusable, match="Upgrade"):
            Realm.delete_files(unsent, discard_unsent=True)
        assert is_whole(unsent)


def test_what_stopped_an_opening_does_not_keep_its_file(configuration: Configuration) -> None:
    """An empty file is what is left when a program is killed at its very first opening."""
    Path(configuration.path).touch()
    assert Realm.delete_files(configuration) is True


REFUSALS: list[Callable[[Any], object]] = [Realm.delete_files, Realm.compact]


@pytest.mark.parametrize("use", REFUSALS)
def test_a_refusal_leaves_no_connection_behind(sent: Configuration, use: Callable[[Any], object]) -> None:
    path = Path(sent.path)
    wrong: Configuration
    if isinstance(sent, SyncConfiguration):
        wrong = LocalConfiguration(path=path)
    else:
        path.write_bytes(b"precious" * 1000)
        wrong = sent
    with pytest.raises(LocalStoreError):
        use(wrong)
    assert files_of(sent) == ["one.db"]
