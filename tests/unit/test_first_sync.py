"""First syncs: the newest snapshot and then the log, whatever breaks that off, and whatever is wrong with the snapshot."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from localstore import Realm, Reason, SessionState, uuid7
from localstore.adapter import Cursor, Hello, SnapshotInfo
from localstore.errors import Busy, Offline
from localstore.store.snapshots import write_snapshot
from localstore.testing.clock import environment
from localstore.testing.faulty import Hang, LoseAnswer, Raise
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    World,
    add,
    as_time_passes,
    eventually,
    is_let_go,
    meddling_after,
    sql,
    texts,
)

KEY = bytes(range(32))


class WorldWithSnapshots(World):
    """A world whose remote keeps snapshots."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.remote = self.snapshots = MemoryRemoteWithSnapshots(environment=environment(self.clock, seed=1000))

    def write_snapshot(self, realm: Realm, *, trim: bool = False, content: bytes | None = None) -> SnapshotInfo:
        """Put a realm's snapshot into the remote, which may let go of the history that is in it."""
        assert realm.sync_session.upload_all_local_changes(PATIENCE)
        assert realm.sync_session.download_all_server_changes(PATIENCE)
        cursor = realm._store.state().cursor
        path = self.directory / "a snapshot"
        assert cursor is not None
        assert write_snapshot(realm._store, path, cursor=cursor)
        info = asyncio.run(self._put(realm, Cursor(cursor), path.read_bytes() if content is None else content, trim))
        path.unlink()
        return info

    async def _put(self, realm: Realm, cursor: Cursor, content: bytes, trim: bool) -> SnapshotInfo:
        adapter = self.snapshots.adapter()
        await adapter.connect(Hello(app="kit", partition="default", device=realm.device_id))

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        await adapter.write_snapshot(cursor, chunks())
        if trim:
            await adapter.trim(cursor)
        info = await adapter.latest_snapshot()
        assert info is not None
        return info


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WorldWithSnapshots]:
    with WorldWithSnapshots(tmp_path) as made:
        yield made


def writer_with_history(world: WorldWithSnapshots) -> Realm:
    """A realm whose remote has more history than its tables show."""
    realm = world.open("writer")
    add(realm, "first")
    add(realm, "second")
    return realm


def synced(realm: Realm) -> list[str]:
    assert realm.sync_session.download_all_server_changes(PATIENCE)
    return texts(realm)


def nothing_is_left_beside(device: Device) -> bool:
    return not list(device.path.parent.glob(f"{device.path.name}.snapshot-*"))


def left_by_a_crash(file: Path) -> Path:
    """What a killed process leaves beside a file."""
    directory = file.with_name(f"{file.name}.snapshot-0123abcd")
    directory.mkdir()
    (directory / "in-use").touch()
    (directory / "snapshot").write_bytes(b"second")
    return directory


def test_a_new_file_takes_the_snapshot_and_then_the_log(world: WorldWithSnapshots) -> None:
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    add(writer, "after the snapshot")
    assert writer.sync_session.upload_all_local_changes(PATIENCE)
    line = world.line()
    device = world.device("new", remote=line)
    new = device.open()
    assert synced(new) == ["after the snapshot", "first", "second"]
    assert line.count("read_snapshot") == 1
    assert device.told == []
    assert nothing_is_left_beside(device)


def test_both_go_on_with_each_other_afterwards(world: WorldWithSnapshots) -> None:
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    new = world.open("new")
    assert synced(new) == ["first", "second"]
    add(new, "by the new one")
    assert new.sync_session.upload_all_local_changes(PATIENCE)
    assert synced(writer) == ["by the new one", "first", "second"]


def test_a_file_with_rows_of_its_own_takes_the_log(world: WorldWithSnapshots) -> None:
    writer = writer_with_history(world)
    world.write_snapshot(writer)
    line = world.line()
    device = world.device("new", remote=line)
    world.remote.go_offline()
    new = device.open()
    add(new, "before the first contact")
    world.remote.go_online()
    new.sync_session.pause()
    new.sync_session.resume()
    assert synced(new) == ["before the first contact", "first", "second"]
    assert line.count("read_snapshot") == 0


def test_a_file_with_rows_of_its_own_is_reset_when_the_log_is_gone_and_keeps_them(world: WorldWithSnapshots) -> None:
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    line = world.line()
    world.remote.go_offline()
    new = world.open("new", remote=line)
    add(new, "before the first contact")
    world.remote.go_online()
    new.sync_session.pause()
    new.sync_session.resume()
    eventually(lambda: len(texts(new)) == 3, "the reset")
    assert new.sync_session.upload_all_local_changes(PATIENCE)
    assert synced(writer) == ["before the first contact", "first", "second"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_snapshot_that_cannot_be_used_is_told_and_the_log_taken(world: WorldWithSnapshots, damage: str) -> None:
    writer = writer_with_history(world)
    good = (world.directory / "copy of a snapshot").with_suffix(".db")
    assert writer.sync_session.upload_all_local_changes(PATIENCE)
    assert writer.sync_session.download_all_server_changes(PATIENCE)
    cursor = writer._store.state().cursor
    assert cursor is not None
    assert write_snapshot(writer._store, good, cursor=cursor)
    content = good.read_bytes()
    broken = {"cut": content[:-4096], "flipped": content[:20000] + b"?" + content[20001:], "foreign": b"no snapshot"}
    world.write_snapshot(writer, content=broken[damage])
    device = world.device("new")
    assert synced(device.open()) == ["first", "second"]
    assert device.kinds == ["SnapshotUnusable"]
    assert nothing_is_left_beside(device)


class Narrow(SQLModel, registry=registry()):
    """Tables of a device whose schema is another."""


class Note(Narrow, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str = Field(unique=True)


def test_a_snapshot_that_does_not_fit_the_schema_is_told_and_the_log_taken(world: WorldWithSnapshots) -> None:
    writer = world.open("writer")
    add(writer, "twice", "twice")
    world.write_snapshot(writer)
    device = world.device("new")
    new = device.open(schema={Note})
    assert new.sync_session.download_all_server_changes(PATIENCE)
    assert "SnapshotUnusable" in device.kinds
    assert sql(new.path, "SELECT text FROM note") == [("twice",)]


@pytest.mark.parametrize("has_rows", [False, True], ids=["empty", "with rows"])
@pytest.mark.parametrize("problem", ["does not fit", "damaged"])
def test_without_history_a_device_waits_for_a_snapshot_that_it_can_use(
    world: WorldWithSnapshots, problem: str, has_rows: bool
) -> None:
    """A reset could only begin with the same snapshot again and again."""
    writer = world.open("writer")
    add(writer, "twice", "twice")
    world.write_snapshot(writer, trim=True, content=b"no snapshot" if problem == "damaged" else None)
    device = world.device("new", remote=world.line())
    if has_rows:
        world.remote.go_offline()
    new = device.open(schema={Note})
    if has_rows:
        with new.write() as tx:
            tx.add(Note(text="own"))
        world.remote.go_online()
        new.sync_session.reconnect()
    eventually(lambda: "SnapshotUnusable" in device.kinds)
    for _ in range(5):
        world.at_rest(2)
        world.clock.advance(400)
    assert device.kinds == ["SnapshotUnusable"]
    assert new.sync_session.state is SessionState.ACTIVE
    eventually(lambda: "wait for a newer snapshot" in str(new.sync_session.status.last_error))  # the clock has begun a new try
    with writer.write() as tx:
        tx.exec(sqlalchemy.text("DELETE FROM note WHERE id = (SELECT min(id) FROM note)"))
    world.write_snapshot(writer)
    as_time_passes(world.clock, 400, lambda: "twice" in [row[0] for row in sql(new.path, "SELECT text FROM note")])
    assert len(sql(new.path, "SELECT text FROM note")) == 1 + has_rows


@pytest.mark.parametrize("fault", [Raise(Offline("away")), LoseAnswer(Offline("away"))], ids=["before", "in the middle"])
def test_a_download_that_breaks_off_begins_anew(world: WorldWithSnapshots, fault: Raise | LoseAnswer) -> None:
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    line = world.line()
    line.break_next("read_snapshot", fault)
    device = world.device("new", remote=line)
    new = device.open()
    world.at_rest(2)
    assert texts(new) == []
    new.sync_session.pause()
    new.sync_session.resume()
    assert synced(new) == ["first", "second"]
    assert nothing_is_left_beside(device)


def test_a_file_that_is_closed_in_the_middle_of_a_download_is_empty_and_begins_anew(world: WorldWithSnapshots) -> None:
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    line = world.line()
    line.break_next("read_snapshot", Hang())
    device = world.device("new", remote=line)
    new = device.open()
    eventually(lambda: line.count("read_snapshot"))
    new.close()
    assert is_let_go(device.path)
    eventually(lambda: nothing_is_left_beside(device))
    left_by_a_crash(device.path)
    assert synced(device.open()) == ["first", "second"]
    assert nothing_is_left_beside(device)


def test_a_realm_that_was_trimmed_is_reset_by_way_of_the_snapshot(world: WorldWithSnapshots) -> None:
    writer, away = writer_with_history(world), world.open("away")
    assert len(synced(away)) >= 0
    away.sync_session.pause()
    add(away, "not sent yet")
    add(writer, "missed")
    world.write_snapshot(writer, trim=True)
    away.sync_session.resume()
    eventually(lambda: len(texts(away)) == 4, "the reset")
    assert away.sync_session.upload_all_local_changes(PATIENCE)
    assert synced(writer) == synced(away) == ["first", "missed", "not sent yet", "second"]


def test_an_encrypted_file_leaves_nothing_readable_beside_it(world: WorldWithSnapshots) -> None:
    pytest.importorskip("sqlcipher3")
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    line = world.line()
    device = world.device("new", remote=line)
    new = device.open(encryption_key=KEY)
    assert synced(new) == ["first", "second"]
    assert line.count("read_snapshot") == 1
    assert not [path for path in device.path.parent.glob(f"{device.path.name}*") if b"second" in path.read_bytes()]


def test_a_changeset_whose_acknowledgement_was_lost_is_not_sent_twice_after_a_reset(world: WorldWithSnapshots) -> None:
    """The snapshot holds it, so that only the log tells that it arrived."""
    writer = writer_with_history(world)
    assert writer.sync_session.upload_all_local_changes(PATIENCE)
    line = world.line()
    other = world.open("other", remote=line)
    assert len(synced(other)) == 2
    line.break_next("push", LoseAnswer(Offline("away")))
    add(other, "arrived")
    eventually(lambda: "arrived" in synced(writer))
    world.write_snapshot(writer)
    world.remote.trim_history()
    add(writer, "later")
    assert writer.sync_session.upload_all_local_changes(PATIENCE)
    other.sync_session.pause()
    other.sync_session.resume()
    assert other.sync_session.upload_all_local_changes(PATIENCE)
    assert synced(other) == synced(writer) == ["arrived", "first", "later", "second"]
    with closing(sqlite3.connect(other.path)) as connection:
        assert connection.execute("SELECT count(*) FROM localstore_outbox").fetchone() == (0,)


# -- disks


@pytest.mark.skipif(sys.platform != "linux", reason="has a disk that is always full")
@pytest.mark.parametrize("size", [100, 100_000], ids=["is met at its end", "is met on the way"])
def test_a_disk_that_is_full_while_a_snapshot_arrives_is_waited_out(world: WorldWithSnapshots, size: int) -> None:
    writer = world.open("writer")
    add(writer, "x" * size)
    world.write_snapshot(writer, trim=True)
    is_full = True

    def fill(file: BinaryIO) -> None:
        if is_full:
            with Path("/dev/full").open("wb") as full:
                os.dup2(full.fileno(), file.fileno())

    device = world.device("other", run_blocking=meddling_after("_created", fill))
    realm = device.open()
    eventually(lambda: realm.sync_session.status.why is Reason.BACKING_OFF)
    error = realm.sync_session.last_error
    assert isinstance(error, Busy)
    assert "could not be kept at" in error.message
    assert "Free some space" in error.hint
    is_full = False
    device.app.sync.reconnect()
    assert synced(realm) == ["x" * size]


# -- what lies beside the file meanwhile


def test_what_a_killed_process_left_goes_when_a_session_starts_though_no_snapshot_is_taken(world: WorldWithSnapshots) -> None:
    device = world.device()
    assert synced(device.open()) == []
    device.close()
    left = left_by_a_crash(device.path)
    second = left_by_a_crash(device.path.with_name(f"{device.path.name}.fresh-00000000"))
    another = left_by_a_crash(device.path.with_name("another.db"))
    assert synced(world.open(path=device.path)) == []
    assert [path.exists() for path in (left, second, another)] == [False, False, True]


def test_what_is_not_ours_is_left_where_it_is(world: WorldWithSnapshots) -> None:
    device = world.device()
    kept = device.path.with_name(f"{device.path.name}.snapshot-00000000")
    kept.write_text("of somebody else")
    folder = device.path.with_name(f"{device.path.name}.snapshot-00000001")
    folder.mkdir()
    (folder / "thesis.txt").write_text("of somebody else")
    assert synced(device.open()) == []
    assert kept.exists()
    assert [path.name for path in folder.iterdir() if path.name != "in-use"] == ["thesis.txt"]


def test_deleting_the_files_takes_what_a_killed_process_left_with_them(world: WorldWithSnapshots) -> None:
    device = world.device()
    device.open().close()
    left = left_by_a_crash(device.path)
    Realm.delete_files(device.configuration())
    assert not left.exists()


def test_two_processes_of_a_file_leave_each_others_snapshots_alone(world: WorldWithSnapshots) -> None:
    """Another one starts while the first fetches the snapshot, as far as that is seen from outside: by the lock."""
    writer = writer_with_history(world)
    world.write_snapshot(writer, trim=True)
    line = world.line()
    line.hold("read_snapshot")
    first = world.device("new", remote=line)
    realm = first.open()
    eventually(lambda: line.held("read_snapshot"))
    second = world.open(path=first.path)
    assert synced(second) == ["first", "second"]
    line.let_go("read_snapshot")
    assert synced(realm) == ["first", "second"]
    assert first.told == []
    eventually(lambda: nothing_is_left_beside(first))
