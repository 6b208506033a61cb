"""Realms in memory: everything a realm can do, and nothing left of it behind the last close."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from localstore import LocalConfiguration, Realm
from localstore.errors import RealmClosed, SchemaMismatch, StoreBusy
from tests.unit.session_kit import (
    PATIENCE,
    Note,
    Seat,
    World,
    add,
    eventually,
    in_background,
    in_thread,
    joined,
    numbers,
    sql,
    texts,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def name(tmp_path: Path) -> Path:
    """What a realm in memory is called; nothing may ever be there."""
    return tmp_path / "memory.db"


@pytest.fixture
def local(name: Path) -> LocalConfiguration:
    return LocalConfiguration(path=name, schema={Note}, in_memory=True)


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest, world: World, local: LocalConfiguration, name: Path) -> Iterator[Realm]:
    """Each kind of realm in turn."""
    if request.param == "local":
        with Realm.open(local) as realm:
            yield realm
    else:
        world.remote.go_offline()
        realm = world.device(busy_timeout=5).open(path=name, in_memory=True, stop_policy="immediately")
        world.at_rest()
        yield realm


def beside(realm: Realm) -> set[str]:
    return {path.name for path in realm.path.parent.parent.iterdir()}


def test_it_is_written_and_read_like_any_other(realm: Realm) -> None:
    (id_,) = add(realm, "a")
    with realm.read() as snapshot:
        add(realm, "b")
        assert snapshot.get_one(Note, id_).text == "a"
    assert texts(realm) == ["a", "b"]
    with suppress(ZeroDivisionError), realm.write() as tx:
        tx.add(Note(text="c"))
        _ = 1 / 0
    assert texts(realm) == ["a", "b"]


def test_reads_do_not_wait_for_a_writer(realm: Realm) -> None:
    add(realm, "a")
    with realm.write() as tx:
        tx.add(Note(text="b"))
        tx.flush()
        assert in_background(lambda: texts(realm)).result(PATIENCE) == ["a"]


def test_nothing_is_at_its_path_and_nothing_is_left_behind(realm: Realm, name: Path) -> None:
    add(realm, "a")
    directory = realm.path.parent
    assert not name.exists()
    assert directory.exists()
    realm.close()
    assert not name.exists()
    assert not directory.exists()
    with pytest.raises(RealmClosed):
        texts(realm)


@pytest.mark.skipif(os.name == "nt", reason="rights work differently there")
def test_nobody_else_may_look_into_it(realm: Realm) -> None:
    assert stat.S_IMODE(realm.path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="the system has no file system in memory for everybody")
def test_it_is_in_memory_where_the_system_has_some_to_share(realm: Realm) -> None:
    assert realm.path.is_relative_to("/dev/shm")


def test_realms_of_one_name_share_it_until_the_last_is_closed(local: LocalConfiguration) -> None:
    one, other = Realm.open(local), Realm.open(local)
    add(one, "a")
    one.close()
    assert texts(other) == ["a"]
    with Realm.open(local) as third:
        other.close()
        assert texts(third) == ["a"]
    with Realm.open(local) as anew:
        assert texts(anew) == []


def test_relative_and_absolute_paths_are_the_same_name(tmp_path: Path, local: LocalConfiguration) -> None:
    relative = os.path.relpath(local.path)
    with Realm.open(local) as one, Realm.open(LocalConfiguration(path=relative, schema={Note}, in_memory=True)) as other:
        assert one.path == other.path


def test_other_names_are_other_realms(tmp_path: Path, local: LocalConfiguration) -> None:
    with Realm.open(local) as one:
        with Realm.open(LocalConfiguration(path=tmp_path / "other", schema={Note}, in_memory=True)) as other:
            add(one, "a")
            assert texts(other) == []
        assert texts(one) == ["a"]


def test_a_file_of_the_same_path_is_another_realm(local: LocalConfiguration, name: Path) -> None:
    with Realm.open(local) as memory, Realm.open(LocalConfiguration(path=name, schema={Note})) as file:
        add(memory, "a")
        add(file, "b")
        assert (texts(memory), texts(file)) == (["a"], ["b"])
    assert sql(name, "SELECT text FROM note") == [("b",)]


def test_many_threads_may_open_and_close_it_at_once(local: LocalConfiguration) -> None:
    def use() -> None:
        for _ in range(10):
            with Realm.open(local) as realm:
                add(realm, "a")

    with Realm.open(local) as realm:
        for thread in [in_thread(use) for _ in range(4)]:
            joined(thread)
        assert len(texts(realm)) == 40


def test_one_that_cannot_be_opened_leaves_nothing_behind(realm: Realm, tmp_path: Path) -> None:
    before = beside(realm)

    def fail(session: object) -> None:
        raise ZeroDivisionError

    other = LocalConfiguration(path=tmp_path / "other", schema={Note}, in_memory=True, initial_data=fail)
    with pytest.raises(ZeroDivisionError):
        Realm.open(other)
    assert beside(realm) <= before


def test_one_more_opening_that_fails_does_the_others_no_harm(local: LocalConfiguration) -> None:
    with Realm.open(local) as realm:
        add(realm, "a")
        with realm.write() as tx:
            tx.connection().exec_driver_sql("CREATE TABLE seat (room TEXT)")
        with pytest.raises(SchemaMismatch):
            Realm.open(replace(local, schema={Seat}))
        assert texts(realm) == ["a"]


def test_a_copy_keeps_what_is_in_it(realm: Realm, tmp_path: Path) -> None:
    add(realm, "a", "b")
    kept = LocalConfiguration(path=tmp_path / "kept.db", schema={Note})
    realm.write_copy_to(kept)
    realm.close()
    with Realm.open(kept) as copy:
        assert texts(copy) == ["a", "b"]


def test_a_copy_is_never_written_to_memory(realm: Realm, local: LocalConfiguration, name: Path) -> None:
    with pytest.raises(ValueError, match="in_memory"):
        realm.write_copy_to(local)
    assert not name.exists()


def test_it_syncs_like_any_other(world: World, name: Path) -> None:
    file = world.open("file")
    memory = world.device("memory").open(path=name, in_memory=True)
    add(memory, "from memory")
    eventually(lambda: texts(file) == ["from memory"])
    add(file, "from a file")
    eventually(lambda: texts(memory) == ["from a file", "from memory"])
    assert numbers(memory) == []


def test_it_is_another_device_every_time_and_gets_everything_anew(world: World, name: Path) -> None:
    device = world.device("memory")
    first = device.open(path=name, in_memory=True)
    add(first, "a")
    assert first.sync_session.upload_all_local_changes(timeout=PATIENCE)
    identity = first.device_id
    first.close()
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    second = device.open(path=name, in_memory=True)
    assert second.device_id != identity
    assert second.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert texts(second) == ["a"]


def test_a_session_that_still_uploads_keeps_it(world: World, name: Path) -> None:
    line = world.line()
    device = world.device("memory", remote=line)
    realm = device.open(path=name, in_memory=True)
    world.at_rest()
    line.hold("push")
    add(realm, "a")
    directory = realm.path.parent
    realm.close()
    assert directory.exists()
    line.let_go("push")
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    assert not directory.exists()
    assert world.remote_texts() == ["a"]


def test_it_cannot_be_deleted_but_by_closing_it(realm: Realm) -> None:
    with pytest.raises(StoreBusy):
        Realm.delete_files(realm.configuration)
    assert Realm.compact(realm.configuration) is False
    realm.close()
    assert Realm.delete_files(realm.configuration) is False
    with pytest.raises(FileNotFoundError):
        Realm.compact(realm.configuration)


def test_deleting_by_its_configuration_spares_a_file_of_the_same_path(local: LocalConfiguration, name: Path) -> None:
    with Realm.open(LocalConfiguration(path=name, schema={Note})) as file:
        add(file, "a")
    assert Realm.delete_files(local) is False
    assert sql(name, "SELECT text FROM note") == [("a",)]


def test_what_is_unsent_stays_as_long_as_its_session_tries(world: World, name: Path) -> None:
    world.remote.go_offline()
    device = world.device("memory")
    realm = device.open(path=name, in_memory=True)
    add(realm, "a")
    realm.close()
    with pytest.raises(StoreBusy):
        Realm.delete_files(realm.configuration)
    world.remote.go_online()
    device.app.sync.reconnect()
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    assert world.remote_texts() == ["a"]
