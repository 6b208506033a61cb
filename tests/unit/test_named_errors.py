"""What can go wrong with a file has a name, says what was kept safe and what to do, and leaves everything as it was."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select, text, update

from localstore import LocalConfiguration, Realm, SyncConfiguration, uuid7
from localstore.errors import (
    DiskFailed,
    DiskFull,
    LocalStoreError,
    NestedWrite,
    NotWritable,
    ProtocolError,
    ReadOnlyRealm,
    RealmClosed,
    SchemaMismatch,
    StoreBusy,
    StoreDamaged,
    StoreUnusable,
)
from localstore.store.conflicts import Conflict
from localstore.store.failures import failure
from localstore.sync.session import SyncSession
from tests.unit.session_kit import (
    PATIENCE,
    Note,
    Seat,
    World,
    add,
    eventually,
    in_background,
    in_loop,
    numbers,
    sql,
    texts,
    waiting,
)

PATH = Path("/data/notes.db")
A_CONFLICT = Conflict(
    id=1,
    table="note",
    key=("a",),
    column="text",
    lost_value="mine",
    lost_stamp=1,
    lost_device="00",
    won_value="theirs",
    won_stamp=2,
    won_device="01",
    rule="the later write wins",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def synced(world: World) -> Realm:
    world.remote.go_offline()
    realm = world.device(busy_timeout=0.05).open()
    world.at_rest()
    return realm


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Realm]:
    with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Note})) as realm:
        yield realm


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest) -> Realm:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Realm)
    return found


def still_works(realm: Realm, *before: str) -> None:
    """Nothing but what was there before is in the file, nothing is half sealed, and the next write works."""
    assert texts(realm) == sorted(before)
    if realm._store.synced:
        assert sum(changeset.rows for changeset in realm.pending()) == len(before)
        assert sql(realm.path, "SELECT count(*) FROM localstore_log") == [(0,)]
    add(realm, "next")
    assert texts(realm) == sorted([*before, "next"])


# -- disks


@pytest.mark.parametrize("while_writing", ["in the block", "at its end"])
def test_a_full_disk_rolls_back_and_says_to_make_room(realm: Realm, while_writing: str) -> None:
    add(realm, "a")
    pages = sql(realm.path, "PRAGMA page_count")[0][0]
    with pytest.raises(DiskFull) as caught, realm.write() as tx:  # noqa: PT012
        tx.connection().exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
        tx.add(Note(text="x" * 100_000))
        if while_writing == "in the block":
            tx.flush()
    assert str(realm.path) in caught.value.message
    assert "rolled back" in caught.value.message
    assert "Make room" in caught.value.hint
    with realm.write() as tx:
        tx.connection().exec_driver_sql("PRAGMA max_page_count=1000000")
    still_works(realm, "a")


def test_a_full_disk_in_an_event_loop_is_the_same(realm: Realm) -> None:
    async def fill() -> None:
        async with realm.write_async() as tx:
            tx.connection().exec_driver_sql("PRAGMA max_page_count=1")
            tx.add(Note(text="x" * 100_000))

    add(realm, "a")
    with pytest.raises(DiskFull, match="rolled back"):
        in_loop(fill())
    with realm.write() as tx:
        tx.connection().exec_driver_sql("PRAGMA max_page_count=1000000")
    still_works(realm, "a")


def test_a_disk_that_is_full_while_applying_is_waited_for(world: World) -> None:
    with world.open("other") as other:
        add(other, "x" * 200_000)
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
    world.remote.go_offline()
    device = world.device()
    realm = device.open()
    add(realm, "mine")
    with realm.write() as tx:
        pages = tx.connection().exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection().exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    world.remote.go_online()
    device.app.sync.reconnect()
    eventually(lambda: realm.sync_session.last_error is not None and "full" in str(realm.sync_session.last_error))
    assert "Make room" in str(realm.sync_session.last_error)
    assert device.told == []  # it passes by itself
    assert texts(realm) == ["mine"]
    assert sql(realm.path, "SELECT cursor FROM localstore_state") == [(None,)]
    with realm.write() as tx:
        tx.connection().exec_driver_sql("PRAGMA max_page_count=1000000")
    device.app.sync.reconnect()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert texts(realm) == ["mine", "x" * 200_000]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be moved there")
@pytest.mark.parametrize("fate", ["deleted", "moved", "replaced"])
def test_a_file_that_is_not_at_its_path_any_more_is_not_written(realm: Realm, fate: str, tmp_path: Path) -> None:
    """SQLite would go on writing to a file that nobody can find again."""
    add(realm, "a")
    elsewhere = tmp_path / "elsewhere.db"
    realm.path.rename(elsewhere)
    if fate == "deleted":
        elsewhere.unlink()
    elif fate == "replaced":
        realm.path.write_bytes(elsewhere.read_bytes())
    uses: list[Callable[[], object]] = [
        lambda: add(realm, "b"),
        lambda: texts(realm),
        lambda: realm.get(Note, uuid7()),
        lambda: in_loop(realm.write_async().__aenter__()),
    ]
    for use in uses:
        with pytest.raises(
            StoreUnusable, match=r"moved, replaced or deleted while it was open\. Nothing was written"
        ) as caught:
            use()
        assert str(realm.path) in caught.value.message
        assert "open it where the file is now" in caught.value.hint
    assert realm.path.exists() == (fate == "replaced")  # a read does not make an empty one
    realm.close()
    assert realm.is_closed
    if fate == "moved":
        elsewhere.rename(realm.path)
        assert sql(realm.path, "SELECT text FROM note") == [("a",)]


@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        ("SQLITE_BUSY", StoreBusy, "busy_timeout"),
        ("SQLITE_BUSY_RECOVERY", StoreBusy, "Try again"),
        ("SQLITE_BUSY_SNAPSHOT", StoreBusy, "Try again"),
        ("SQLITE_LOCKED_SHAREDCACHE", StoreBusy, "Try again"),
        ("SQLITE_PROTOCOL", StoreBusy, "Try again"),
        ("SQLITE_NOTADB", StoreUnusable, "backup"),
        ("SQLITE_CORRUPT_INDEX", StoreDamaged, "filled by its remote"),
        ("SQLITE_CANTOPEN_FULLPATH", StoreUnusable, "folder exists"),
        ("SQLITE_PERM", StoreUnusable, "folder exists"),
        ("SQLITE_FULL", DiskFull, "Make room"),
        ("SQLITE_NOLFS", DiskFull, "Make room"),
        ("SQLITE_IOERR_READ", DiskFailed, "still connected"),
        ("SQLITE_IOERR_WRITE", DiskFailed, "quota"),
        ("SQLITE_IOERR_SHMMAP", DiskFailed, "has room"),
        ("SQLITE_READONLY", NotWritable, "mounted read-only"),
        ("SQLITE_READONLY_DIRECTORY", NotWritable, "right to write"),
        ("SQLITE_READONLY_CANTINIT", NotWritable, "right to write"),
        ("SQLITE_READONLY_DBMOVED", StoreUnusable, "where the file is now"),
    ],
)
def test_each_of_sqlites_errors_that_has_a_remedy_says_it(code: str, error: type[LocalStoreError], hint: str) -> None:
    found = failure(code, "in SQLite's words", PATH, writing=True)
    assert type(found) is error
    assert str(PATH) in found.message
    assert hint in found.hint


@pytest.mark.parametrize("how", ["read", "write"])
def test_a_damaged_table_is_named_wherever_it_is_met(tmp_path: Path, how: str) -> None:
    path = tmp_path / "local.db"
    configuration = LocalConfiguration(path=path, schema={Note})
    with Realm.open(configuration) as realm:
        add(realm, "a")
    ((page,),) = sql(path, "SELECT rootpage FROM sqlite_master WHERE name = 'note'")
    ((size,),) = sql(path, "PRAGMA page_size")
    whole = path.read_bytes()
    path.write_bytes(whole[: (page - 1) * size] + b"\xff" * size + whole[page * size :])
    with Realm.open(configuration) as realm:
        with pytest.raises(StoreDamaged, match=r"local\.db is damaged") as caught:
            texts(realm) if how == "read" else add(realm, "b")
        assert "move it away" in caught.value.hint
    path.write_bytes(whole)
    with Realm.open(configuration) as realm:
        still_works(realm, "a")


@pytest.mark.parametrize("how", ["read", "write", "copy", "compact"])
def test_a_page_number_that_no_disk_has_room_for_is_damage_and_no_full_disk(tmp_path: Path, how: str) -> None:
    path = tmp_path / "local.db"
    configuration = LocalConfiguration(path=path, schema={Note})
    with Realm.open(configuration) as realm:
        add(realm, "x" * 20_000)
    ((page,),) = sql(path, "SELECT rootpage FROM sqlite_master WHERE name = 'note'")
    ((size,),) = sql(path, "PRAGMA page_size")
    whole = path.read_bytes()
    path.write_bytes(whole[: page * size - 4] + b"\x78" * 4 + whole[page * size :])  # where the row's text goes on
    acts: dict[str, Callable[[Realm], object]] = {
        "read": texts,
        "write": rewrite,
        "copy": lambda realm: realm.write_copy_to(LocalConfiguration(path=tmp_path / "copy.db", schema={Note})),
        "compact": lambda realm: (realm.close(), Realm.compact(configuration)),
    }
    with Realm.open(configuration) as realm, pytest.raises(StoreDamaged, match=r"local\.db is damaged"):
        acts[how](realm)


def rewrite(realm: Realm) -> None:
    with realm.write() as tx:
        tx.exec(update(Note).values(text=Note.text + "y"))


@pytest.mark.parametrize("place", [3, -1], ids=["of its head", "of its content"])
def test_an_unsent_changeset_of_which_a_bit_is_another_stays_here(world: World, synced: Realm, place: int) -> None:
    synced.sync_session.pause()
    add(synced, "a")
    (sealed,) = sql(synced.path, "SELECT sealed FROM localstore_outbox")[0]
    spoiled = bytearray(sealed)
    spoiled[place] ^= 1
    sql(synced.path, "UPDATE localstore_outbox SET sealed = ?", bytes(spoiled))
    world.remote.go_online()
    uploaded = in_background(lambda: synced.sync_session.upload_all_local_changes())
    eventually(lambda: waiting(synced.sync_session))  # who asks after the session has stopped waits for it to be resumed
    synced.sync_session.resume()
    with pytest.raises(ProtocolError, match=r"Sync stopped: A changeset in the file is damaged") as caught:
        uploaded.result(PATIENCE)
    assert isinstance(caught.value.__cause__, StoreDamaged)
    assert world.remote_texts() == []
    sql(synced.path, "UPDATE localstore_outbox SET sealed = ?", sealed)
    synced.sync_session.resume()
    assert in_background(lambda: synced.sync_session.upload_all_local_changes(PATIENCE)).result(PATIENCE)
    assert world.remote_texts() == ["a"]


def test_what_fails_while_a_write_is_rolled_back_does_not_hide_why_it_was(realm: Realm) -> None:
    add(realm, "a")
    sql(realm.path, "PRAGMA wal_checkpoint(TRUNCATE)")
    whole = realm.path.read_bytes()
    with pytest.raises(ZeroDivisionError), realm.write() as tx:  # noqa: PT012
        tx.exec(update(Note).values(text="b"))  # in a synced file capture is switched from here on
        driver: Any = tx.connection().connection.driver_connection
        driver.set_progress_handler(lambda: 1, 1)  # no statement of this connection comes to its end any more,
        realm.path.write_bytes(b"\xff" * len(whole))  # and no other one has any use for the file
        raise ZeroDivisionError
    realm.path.write_bytes(whole)
    still_works(realm, "a")


@pytest.mark.parametrize("code", ["SQLITE_ERROR", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_TOOBIG", "SQLITE_MISMATCH", ""])
def test_what_is_the_statements_own_fault_passes_as_it_is(code: str) -> None:
    assert failure(code, "in SQLite's words", PATH, writing=True) is None


def test_only_a_read_that_writes_is_told_so() -> None:
    assert type(failure("SQLITE_READONLY", "", PATH)) is ReadOnlyRealm
    assert type(failure("SQLITE_READONLY_CANTINIT", "", PATH)) is NotWritable


def test_an_error_of_another_file_is_not_taken_for_one_of_ours(local: Realm, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="unable to open database") as caught, local.write() as tx:
        tx.connection().exec_driver_sql("ATTACH ? AS other", (str(tmp_path / "missing" / "other.db"),))
    assert not isinstance(caught.value, LocalStoreError)
    still_works(local)


# -- opening


def both(world: World, path: Path, **changes: Any) -> Iterator[Callable[[], Realm]]:
    """Opening it as a local realm and as a synced one."""
    yield lambda: Realm.open(LocalConfiguration(path=path, schema={Note}))
    configuration = world.device(busy_timeout=0.05).configuration(path=path, **changes)
    yield lambda: Realm.open(configuration)


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("folder", "It is a folder"),
        ("missing/notes.db", "missing does not"),
        ("file/notes.db", "but as a file"),
        ("x" * 300, "Check that its folder exists"),
    ],
)
def test_a_path_where_no_file_can_be_is_explained(world: World, tmp_path: Path, place: str, hint: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    for opening in both(world, tmp_path / place):
        with pytest.raises(StoreUnusable, match=r"cannot be opened .*Nothing was changed") as caught:
            opening()
        assert hint in caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no folder that nobody may write, not even root")
def test_a_folder_that_nobody_may_write_is_explained(world: World) -> None:
    for opening in both(world, Path("/proc/notes.db")):
        with pytest.raises(StoreUnusable, match=r"/proc/notes\.db cannot be opened") as caught:
            opening()
        assert "may write the file and the folder" in caught.value.hint


def test_a_file_of_a_newer_version_is_left_alone(world: World) -> None:
    device = world.device()
    with device.open(stop_policy="immediately") as realm:
        add(realm, "a")
    sql(device.path, "UPDATE localstore_version SET version_num = 'layout_9999'")
    before = device.path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"layout_9999.*layout_\d+") as caught:
        device.open()
    assert "pgrade" in caught.value.hint
    assert device.path.read_bytes() == before
    assert not device.app.sync.has_sync_sessions


def test_a_table_that_does_not_fit_names_the_command(world: World, tmp_path: Path) -> None:
    sql(tmp_path / "notes.db", "CREATE TABLE note (id TEXT, text TEXT PRIMARY KEY)")
    for opening in both(world, tmp_path / "notes.db"):
        with pytest.raises(SchemaMismatch, match="note") as caught:
            opening()
        assert "alembic" in caught.value.hint
    assert sql(tmp_path / "notes.db", "SELECT name FROM sqlite_master WHERE type = 'table'") == [("note",)]


# -- locks


def test_a_write_beyond_the_timeout_of_another_process_is_busy_and_changes_nothing(synced: Realm) -> None:
    add(synced, "a")
    with closing(sqlite3.connect(synced.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        uses: list[Callable[[], object]] = [
            lambda: add(synced, "b"),
            lambda: in_loop(synced.write_async().__aenter__()),
        ]
        for use in uses:
            with pytest.raises(StoreBusy, match=r"another thread or process\. Nothing was written") as caught:
                use()
            assert str(synced.path) in caught.value.message
            assert "busy_timeout" in caught.value.hint
        assert texts(synced) == ["a"]
        other.execute("ROLLBACK")
    still_works(synced, "a")


def test_a_nested_write_is_refused_in_all_its_forms_and_the_outer_one_goes_on(realm: Realm) -> None:
    async def nest_async() -> None:
        async with realm.write_async() as tx:
            with pytest.raises(NestedWrite, match="Nothing was written by the inner one") as caught:
                add(realm, "never")
            assert "outer block's session" in caught.value.hint
            with pytest.raises(NestedWrite, match="Nothing was written by the inner one") as caught:
                await realm.write_async().__aenter__()
            assert "outer block's session" in caught.value.hint
            tx.add(Note(text="a"))

    in_loop(nest_async())
    with realm.write() as tx:
        for nested in (lambda: add(realm, "never"), realm.close):
            with pytest.raises(NestedWrite, match="Nothing was written by the inner one") as caught:
                nested()
            assert "outer block's session" in caught.value.hint
        tx.add(Note(text="b"))
    assert not realm.is_closed
    still_works(realm, "a", "b")


def test_a_write_through_a_read_names_the_way_to_write(realm: Realm) -> None:
    add(realm, "a")
    with pytest.raises(ReadOnlyRealm, match="Nothing was changed") as caught:
        realm.exec(text("DELETE FROM note"))  # type: ignore[call-overload]
    assert "realm.write()" in caught.value.hint
    still_works(realm, "a")


# -- after closing

REALM_USES: dict[str, Callable[[Realm], object]] = {
    "write": lambda realm: realm.write(),
    "write_async": lambda realm: in_loop(realm.write_async().__aenter__()),
    "exec": lambda realm: realm.exec(select(Note)),
    "get": lambda realm: realm.get(Note, 1),
    "pending": lambda realm: realm.pending(),
    "conflicts": lambda realm: realm.conflicts(),
    "restore": lambda realm: realm.restore(A_CONFLICT),
    "restore_async": lambda realm: in_loop(realm.restore_async(A_CONFLICT)),
    "sync_session": lambda realm: realm.sync_session,
    "device_id": lambda realm: realm.device_id,
    "write_copy_to": lambda realm: realm.write_copy_to(LocalConfiguration(path="copy.db")),
    "write_copy_to_async": lambda realm: in_loop(realm.write_copy_to_async(LocalConfiguration(path="copy.db"))),
}
SESSION_USES: dict[str, Callable[[SyncSession], object]] = {
    "upload_all_local_changes": lambda session: session.upload_all_local_changes(timeout=1),
    "upload_all_local_changes_async": lambda session: in_loop(session.upload_all_local_changes_async(timeout=1)),
    "download_all_server_changes": lambda session: session.download_all_server_changes(timeout=1),
    "download_all_server_changes_async": lambda session: in_loop(session.download_all_server_changes_async(timeout=1)),
}


@pytest.mark.parametrize("use", REALM_USES)
def test_a_closed_realm_says_so_whatever_is_asked_of_it(realm: Realm, use: str) -> None:
    path = realm.path
    add(realm, "a")
    realm.close()
    with pytest.raises(RealmClosed) as caught:
        REALM_USES[use](realm)
    assert str(path) in caught.value.message
    assert "Realm.open()" in caught.value.hint
    assert sql(path, "SELECT text FROM note") == [("a",)]


def test_what_still_answers_after_closing_does(realm: Realm) -> None:
    path, configuration = realm.path, realm.configuration
    realm.close()
    realm.close()
    in_loop(realm.close_async())
    assert (realm.is_closed, realm.path, realm.configuration) == (True, path, configuration)


@pytest.mark.parametrize("use", SESSION_USES)
def test_a_closed_realms_session_waits_for_nothing(world: World, use: str) -> None:
    realm = world.device().open(stop_policy="immediately")
    session = realm.sync_session
    realm.close()
    with pytest.raises(RealmClosed) as caught:
        SESSION_USES[use](session)
    assert "Realm.open()" in caught.value.hint


def test_commands_to_a_closed_realms_session_do_nothing(world: World) -> None:
    realm = world.device().open(stop_policy="immediately")
    session = realm.sync_session
    realm.close()
    before = (session.state, session.connection_state)
    session.pause()
    session.resume()
    session.reconnect()
    assert list(session.connection_state_changes()) == []
    assert (session.state, session.connection_state) == before


def test_a_write_that_waits_while_the_realm_is_closed_is_refused(local: Realm) -> None:
    with local.write() as tx:
        tx.add(Note(text="a"))
        closing_it = in_background(local.close)
        eventually(lambda: len(local._store.lock) == 2)
        writing = in_background(lambda: add(local, "b"))
        eventually(lambda: len(local._store.lock) == 3)
    closing_it.result(PATIENCE)
    assert isinstance(writing.exception(PATIENCE), RealmClosed)
    assert sql(local.path, "SELECT text FROM note") == [("a",)]


def test_a_task_that_waits_while_the_realm_is_closed_is_refused(local: Realm) -> None:
    async def write() -> None:
        async with local.write_async() as tx:
            tx.add(Note(text="b"))

    async def close_and_write() -> None:
        async with local.write_async() as tx:
            tx.add(Note(text="a"))
            closing_it = asyncio.ensure_future(local.close_async())
            while len(local._store.lock) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            writing = asyncio.create_task(write())
            await asyncio.sleep(0)
        await closing_it
        with pytest.raises(RealmClosed):
            await writing

    in_loop(close_and_write())
    assert sql(local.path, "SELECT text FROM note") == [("a",)]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be moved there")
def test_the_session_of_a_file_that_was_moved_stops_and_says_why(world: World, tmp_path: Path) -> None:
    device = world.device()
    realm = device.open()
    world.at_rest()
    realm.path.rename(tmp_path / "elsewhere.db")
    device.app.sync.reconnect()
    eventually(lambda: device.told)
    assert device.kinds == ["ProtocolError"]
    assert "Sync stopped" in device.told[0].message
    assert "moved, replaced or deleted" in device.told[0].message
    assert "open it where the file is now" in device.told[0].hint
    assert not realm.path.exists()
    realm.close()


def test_a_second_class_on_a_file_that_was_replaced_is_refused(world: World, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("an open file cannot be moved there")
    device = world.device()
    realm = device.open(schema={Note}, stop_policy="immediately")
    realm.path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(StoreUnusable, match="while it was open"):
        device.open(schema={Note, Seat})
    assert not realm.path.exists()
    realm.close()


def test_numbers_go_on_after_all_that(synced: Realm) -> None:
    add(synced, "a")
    for _ in range(3):
        with pytest.raises(DiskFull), synced.write() as tx:  # noqa: PT012
            tx.connection().exec_driver_sql("PRAGMA max_page_count=1")
            tx.add(Note(text="x" * 100_000))
    with synced.write() as tx:
        tx.connection().exec_driver_sql("PRAGMA max_page_count=1000000")
    add(synced, "b")
    assert numbers(synced) == [1, 2]
    assert isinstance(synced.configuration, SyncConfiguration)
