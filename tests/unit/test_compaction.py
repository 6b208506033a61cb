"""Compaction: one device makes a snapshot for all, others stand in for it, and what fails keeps sync from nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localstore import ConnectionState, Realm, SessionState
from localstore.errors import Offline, ProtocolError, Refused, Unauthorized
from localstore.store.activity import Activity
from localstore.sync.compaction import rank
from localstore.testing.clock import ManualClock, environment
from localstore.testing.faulty import Hang, LoseAnswer, Raise
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore_adapters.folder import FolderAdapter
from tests.unit.session_kit import PATIENCE, World, add, as_time_passes, eventually, meddling_after, texts

DAY_MS = 86_400_000
FEW = {"snapshot_every": 10}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        made.remote = MemoryRemoteWithSnapshots(environment=environment(made.clock, seed=1000))
        yield made


def write_many(realm: Realm, count: int) -> None:
    """So many changesets, sent and settled one by one."""
    for number in range(count):
        add(realm, f"note {number}")
        assert realm.sync_session.upload_all_local_changes(PATIENCE)
    assert realm.sync_session.download_all_server_changes(PATIENCE)


def sent_after_a_while(world: World, realm: Realm) -> None:
    """The outbox empties, past waits after errors and calls that come to no end."""
    as_time_passes(world.clock, 200, lambda: not realm.pending(), "the upload")


# -- whose turn it is


def seen(device: bytes, **others: int) -> Activity:
    """Others by the hexadecimal digit of their id, with how many days ago they wrote."""
    times = {bytes.fromhex(name[-1] * 32): 100 * DAY_MS - days * DAY_MS for name, days in others.items()}
    return Activity(device, 0, times, 100 * DAY_MS)


def test_the_lowest_of_those_that_wrote_lately_comes_first() -> None:
    low, high = b"\x11" * 16, b"\x99" * 16
    assert rank(seen(low, d5=0, d9=0)) == 0
    assert rank(seen(high, d1=0, d5=0)) == 2


def test_one_that_is_silent_for_long_is_not_waited_for() -> None:
    assert rank(seen(b"\x99" * 16, d1=8, d5=0)) == 1


def test_who_is_alone_is_the_first() -> None:
    assert rank(seen(b"\x99" * 16)) == 0


# -- what is done


def test_a_snapshot_is_made_after_so_many_changesets_and_none_before(world: World) -> None:
    line = world.line()
    realm = world.open(remote=line, **FEW)
    write_many(realm, 9)
    assert line.count("write_snapshot") == 0
    write_many(realm, 2)
    eventually(lambda: line.count("trim") == 1, "the snapshot")
    write_many(realm, 5)
    assert line.count("write_snapshot") == 1
    write_many(realm, 7)
    eventually(lambda: line.count("trim") == 2, "the next snapshot")


def test_a_new_device_begins_with_it(world: World) -> None:
    line, other = world.line(), world.line()
    realm = world.open(remote=line, **FEW)
    write_many(realm, 12)
    eventually(lambda: line.count("trim") == 1, "the snapshot")
    new = world.open("new", remote=other)
    assert new.sync_session.download_all_server_changes(PATIENCE)
    assert texts(new) == texts(realm)
    assert other.count("read_snapshot") == 1


def test_one_whose_clock_is_ahead_of_the_remotes_leaves_it_to_the_others(world: World) -> None:
    """Nobody else could load what it makes before that time, while history would be gone."""
    line = world.line()
    realm = world.open("ahead", remote=line, clock=ManualClock(world.clock.now_ms() + DAY_MS), **FEW)
    write_many(realm, 12)
    eventually(lambda: line.count("latest_snapshot") > 1, "a look whether one is due")  # the first one is for its beginning
    for _ in range(2):  # the cycle goes round
        assert realm.sync_session.download_all_server_changes(PATIENCE)
    assert line.count("write_snapshot") == 0


def test_none_is_made_when_it_is_turned_off(world: World) -> None:
    line = world.line()
    write_many(world.open(remote=line, snapshot_every=0), 12)
    assert line.count("latest_snapshot") == 1  # at the first sync


def test_none_is_made_for_a_remote_that_makes_its_own(world: World) -> None:
    line = world.line(devices_write_snapshots=False)
    write_many(world.open(remote=line, **FEW), 12)
    assert line.count("latest_snapshot") == 1  # at the first sync


def test_nothing_is_left_beside_the_file(world: World, tmp_path: Path) -> None:
    line = world.line()
    write_many(world.open(remote=line, **FEW), 12)
    eventually(lambda: line.count("trim") == 1, "the snapshot")
    eventually(lambda: not list(tmp_path.glob("*.snapshot-*")), "the snapshot's file to go")


def test_another_makes_one_when_the_first_cannot(world: World) -> None:
    """The first in turn is one whose snapshots never arrive."""
    lines = {name: world.line() for name in ("one", "other")}
    realms = {name: world.open(name, remote=line, **FEW) for name, line in lines.items()}
    first, second = sorted(realms, key=lambda name: realms[name].device_id)
    lines[first].break_down(write_snapshot=Raise(Offline("no room")))
    for _ in range(100):  # a look that fails is not repeated before more was written
        for name in (second, first):
            add(realms[name], name)
            sent_after_a_while(world, realms[name])
        if lines[second].count("trim"):
            break
    assert lines[second].count("trim")
    assert lines[first].count("trim") == 0


# -- what goes wrong


@pytest.mark.parametrize(
    "fault", [Raise(Offline("away")), LoseAnswer(Offline("away")), Hang()], ids=["before", "after", "hangs"]
)
@pytest.mark.parametrize("call", ["latest_snapshot", "write_snapshot", "trim"])
def test_what_fails_keeps_nothing_from_going_on(world: World, call: str, fault: Any) -> None:
    line = world.line()
    realm = world.open(remote=line, **FEW)
    write_many(realm, 8)
    line.break_next(call, fault)
    for number in range(5):
        add(realm, f"later {number}")
        sent_after_a_while(world, realm)
    other = world.open("other")
    assert other.sync_session.download_all_server_changes(PATIENCE)
    assert texts(other) == texts(realm)


@pytest.mark.parametrize("call", ["latest_snapshot", "write_snapshot", "trim"])
@pytest.mark.parametrize(
    "error",
    [
        Unauthorized("only for those who may write"),
        Refused("too large", number=None),
        ProtocolError("a bug"),
        RuntimeError("bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_who_may_not_make_one_goes_on_all_the_same(world: World, call: str, error: Exception) -> None:
    """What would end a session elsewhere, as the adapter's answer to a push, is a snapshot's business alone here."""
    line = world.line()
    device = world.device(remote=line, **FEW)
    realm = device.open()
    write_many(realm, 8)
    line.break_down(**{call: Raise(error)})
    write_many(realm, 5)
    eventually(lambda: line.count(call) >= 1, "the failure")
    assert realm.sync_session.state is SessionState.ACTIVE
    assert realm.sync_session.connection_state is ConnectionState.CONNECTED
    assert line.count("connect") == 1
    assert device.told == []


def test_a_snapshot_that_another_process_took_away_is_made_another_time(world: World, tmp_path: Path) -> None:
    line = world.line()
    device = world.device(
        remote=line, run_blocking=meddling_after("write_snapshot", lambda _: remove_snapshots(tmp_path)), **FEW
    )
    realm = device.open()
    write_many(realm, 12)
    assert realm.sync_session.state is SessionState.ACTIVE


def remove_snapshots(folder: Path) -> None:
    for path in folder.glob("*.snapshot-*/snapshot"):
        path.unlink()


def test_what_was_refused_and_undone_is_not_in_a_snapshot_and_does_not_keep_one_from_being_made(world: World) -> None:
    """The undoing itself begins with a snapshot, as history is gone."""
    line = world.line()
    device = world.device(remote=line, **FEW)
    realm = device.open()
    write_many(realm, 12)
    eventually(lambda: line.count("trim") == 1, "the snapshot")
    world.remote.max_changeset_bytes = 5000
    add(realm, "too large " + random.Random(1).randbytes(5000).hex())
    eventually(lambda: "CompensatingWrite" in device.kinds, "the undoing")
    write_many(realm, 12)
    eventually(lambda: line.count("trim") == 2, "the next snapshot")
    other = world.line()
    new = world.open("new", remote=other)
    assert new.sync_session.download_all_server_changes(PATIENCE)
    assert other.count("read_snapshot") == 1
    assert texts(new) == texts(realm)
    assert all("too large" not in text for text in texts(new))


# -- in a shared folder


def test_a_folder_stays_bounded_over_years(world: World, tmp_path: Path) -> None:
    """Three devices that write all the time, days that pass, and one that comes back after all of them."""
    folder = tmp_path / "shared"

    def adapter() -> FolderAdapter:
        return FolderAdapter(folder, environment=environment(world.clock, seed=5), listens=False)

    realms = [world.open(f"device-{number}", remote=adapter, poll=3600, **FEW) for number in range(3)]
    away = world.open("away", remote=adapter, poll=3600, **FEW)
    assert away.sync_session.download_all_server_changes(PATIENCE)
    away.sync_session.pause()
    add(away, "not sent yet")
    counts: list[int] = []
    for day in range(0, 180, 10):
        for realm in realms:
            add(realm, f"day {day}")
            assert realm.sync_session.upload_all_local_changes(PATIENCE)
        for realm in realms:
            assert realm.sync_session.download_all_server_changes(PATIENCE)
        world.at_rest(3)
        world.clock.advance(10 * 86_400)
        for realm in realms:
            assert realm.sync_session.download_all_server_changes(PATIENCE)
        counts.append(sum(1 for path in folder.rglob("*") if path.is_file()))
    assert max(counts[12:]) < 45 < 3 * len(counts), counts
    assert texts(realms[0]) == texts(realms[1]) == texts(realms[2])
    new = world.open("new", remote=adapter)
    assert new.sync_session.download_all_server_changes(PATIENCE)
    assert texts(new) == texts(realms[0])
    away.sync_session.resume()
    eventually(lambda: len(texts(away)) == len(texts(new)) + 1, "the reset of who was away")
    sent_after_a_while(world, away)
    assert away.sync_session.last_reset is not None
    as_time_passes(world.clock, 200, lambda: texts(realms[0]) == texts(away), "the others to hear of it")
