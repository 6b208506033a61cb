"""5.4: a write that the remote refuses is undone once the remote's state is there, and the application hears of it then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import select

from localstore import Realm, RecoverOrDiscard, SessionState
from localstore.errors import CompensatingWrite, Refused, SyncError
from localstore.sync.session import SyncSession
from localstore.testing.clock import ManualClock
from localstore.testing.faulty import Hang, Raise
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    Line,
    Note,
    World,
    add,
    eventually,
    in_thread,
    is_let_go,
    meddling_after,
    numbers,
    sql,
    texts,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def synced(world: World, line: Line) -> tuple[Device, Realm]:
    """A device with one note that the remote has."""
    device = world.device(remote=line)
    realm = device.open()
    add(realm, "old")
    in_step(realm)
    return device, realm


def in_step(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)


def refuse_next(line: Line, number: int, reason: str = "you may not write this") -> None:
    line.break_next("push", Raise(Refused(reason, number=number)))


def told(device: Device) -> CompensatingWrite:
    eventually(lambda: device.told, "the error handler to be told")
    return one_of(device.told)


def one_of(errors: list[SyncError]) -> CompensatingWrite:
    (error,) = errors
    assert isinstance(error, CompensatingWrite)
    return error


def change(realm: Realm, old: str, new: str) -> UUID:
    with realm.write() as tx:
        note = tx.exec(select(Note).where(Note.text == old)).one()
        note.text = new
        return note.id


def test_the_row_goes_back_to_what_the_remote_has(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    refuse_next(line, 2)
    key = change(realm, "old", "not allowed")
    error = told(device)
    assert texts(realm) == ["old"]
    assert error.writes == (("note", (str(key).replace("-", ""),), "you may not write this"),) or error.writes[0][0] == "note"
    assert error.writes[0][2] == "you may not write this"
    assert not error.is_fatal
    assert realm.sync_session.state is SessionState.ACTIVE


def test_a_new_row_vanishes(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    refuse_next(line, 2)
    add(realm, "not allowed")
    told(device)
    assert texts(realm) == world.remote_texts() == ["old"]


def test_a_deleted_row_is_back(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    refuse_next(line, 2)
    with realm.write() as tx:
        tx.delete(tx.exec(select(Note)).one())
    told(device)
    assert texts(realm) == ["old"]


def test_the_commit_succeeds_and_is_seen_until_the_remote_refuses(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    line.hold("push")
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: line.held("push"))
    assert texts(realm) == ["not allowed", "old"]
    line.let_go("push")
    told(device)
    assert texts(realm) == ["old"]


def test_the_handler_hears_of_it_only_when_it_is_undone(world: World) -> None:
    line = world.line()
    seen: list[list[str]] = []

    def handler(session: SyncSession, error: Exception) -> None:
        seen.append(texts(realm))

    realm = world.device(remote=line).open(error_handler=handler)
    add(realm, "old")
    in_step(realm)
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: seen)
    assert seen == [["old"]]


def test_later_work_goes_on(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    realm.sync_session.pause()
    refuse_next(line, 2)
    add(realm, "not allowed")
    add(realm, "after")
    realm.sync_session.resume()
    told(device)
    in_step(realm)
    assert texts(realm) == world.remote_texts() == ["after", "old"]
    add(realm, "later")
    in_step(realm)
    assert world.remote_texts() == ["after", "later", "old"]
    assert len(device.told) == 1


def test_an_upload_wait_does_not_wait_for_what_was_refused(world: World) -> None:
    line = world.line()
    _, realm = synced(world, line)
    refuse_next(line, 2)
    add(realm, "not allowed")
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert numbers(realm) == []


def test_what_was_written_is_kept_as_a_conflict(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    refuse_next(line, 2)
    change(realm, "old", "not allowed")
    told(device)
    (conflict,) = realm.conflicts()
    assert conflict.lost_value == "not allowed"
    assert conflict.won_value == "old"
    assert "you may not write this" in conflict.rule


def test_what_others_changed_meanwhile_is_there_too(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    realm.sync_session.pause()
    change(realm, "old", "not allowed")
    other = world.open("other")
    in_step(other)
    change(other, "old", "by the other")
    add(other, "more")
    in_step(other)
    refuse_next(line, 2)
    realm.sync_session.resume()
    told(device)
    in_step(realm)
    assert texts(realm) == texts(other) == ["by the other", "more"]


def test_several_at_once_share_one_download(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    realm.sync_session.pause()
    for number in range(3):
        add(realm, f"not allowed {number}")
    line.break_next("push", *(Raise(Refused("no", number=number)) for number in (2, 3, 4)))
    realm.sync_session.resume()
    error = told(device)
    assert len(error.writes) == 3
    assert texts(realm) == ["old"]
    assert line.made == 3  # before the pause, after it, and for the one download


def test_offline_before_it_is_undone_it_is_undone_later(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    line.hold("connect")
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: line.held("connect"), "the second line")
    world.remote.go_offline()
    line.let_go("connect")
    eventually(lambda: realm.sync_session.status.next_attempt is not None)
    assert device.told == []
    assert texts(realm) == ["not allowed", "old"]
    world.remote.go_online()
    device.app.sync.reconnect()
    told(device)
    assert texts(realm) == ["old"]


@pytest.mark.parametrize("ending", ["pause", "restart"])
def test_broken_off_before_it_is_undone_it_is_undone_at_the_next_start(world: World, ending: str) -> None:
    line = world.line()
    device, realm = synced(world, line)
    line.break_next("connect", Hang())
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: line.count("connect") == 2, "the second line")
    if ending == "pause":
        realm.sync_session.pause()
        realm.sync_session.resume()
    else:
        device.app.close()
        realm.close()
        device = world.device(path=device.path, remote=line)
        realm = device.open()
    told(device)
    assert texts(realm) == ["old"]
    eventually(lambda: not [path for path in realm.path.parent.iterdir() if "fresh" in path.name], "the second file to go")


def test_refused_after_its_realm_was_closed_it_is_undone_and_told_at_the_next_opening(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    line.hold("push")
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: line.held("push"))
    realm.close()
    line.let_go("push")
    assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
    assert device.told == []
    again = device.open()
    told(device)
    assert texts(again) == ["old"]


def test_it_is_told_once(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    refuse_next(line, 2)
    add(realm, "not allowed")
    told(device)
    for _ in range(3):
        realm.sync_session.pause()
        realm.sync_session.resume()
        in_step(realm)
    assert len(device.told) == 1
    eventually(lambda: sql(realm.path, "SELECT undo FROM localstore_aside") == [(0,)], "it to be forgotten")


def restarted(device: Device, realm: Realm, line: Line) -> tuple[Device, Realm]:
    """The application's next process, on the same file."""
    device.app.close()
    realm.close()
    device = device.world.device(path=device.path, remote=line)
    return device, device.open()


def as_after_a_kill(device: Device, realm: Realm) -> None:
    """The file as the transaction of the undoing left it, before the handler was called."""
    device.app.close()
    realm.close()
    assert is_let_go(device.path)
    sql(device.path, "UPDATE localstore_aside SET undo = 2")


@pytest.mark.parametrize("is_online", [True, False], ids=["online", "offline at first"])
def test_killed_between_the_undoing_and_the_report_it_is_told_when_the_session_is_up_again(
    world: World, is_online: bool
) -> None:
    line = world.line()
    device, realm = synced(world, line)
    realm.sync_session.pause()
    key = change(realm, "old", "refused")
    (new,) = add(realm, "refused, too")
    line.break_next("push", Raise(Refused("not this", number=2)), Raise(Refused("nor this", number=3)))
    realm.sync_session.resume()
    expected = told(device).writes
    as_after_a_kill(device, realm)
    if not is_online:
        world.remote.go_offline()
    device, realm = restarted(device, realm, line)
    if not is_online:
        eventually(lambda: realm.sync_session.status.next_attempt is not None)
        world.remote.go_online()
        device.app.sync.reconnect()
    error = told(device)
    assert error.writes == expected == (("note", (key.hex,), "not this"), ("note", (new.hex,), "nor this"))
    assert "put back to what the remote has" in error.message
    assert texts(realm) == ["old"]
    eventually(lambda: not sql(realm.path, "SELECT 1 FROM localstore_aside WHERE undo"), "it to be forgotten")
    device, realm = restarted(device, realm, line)
    in_step(realm)
    world.at_rest()
    assert device.told == []


def test_what_was_undone_before_a_kill_is_told_although_the_next_cannot_be_undone_yet(world: World) -> None:
    line = world.line()
    device, realm = synced(world, line)
    refuse_next(line, 2)
    change(realm, "old", "refused")
    told(device)
    realm.sync_session.pause()
    add(realm, "refused, too")
    as_after_a_kill(device, realm)
    refuse_next(line, 3, "nor this")
    line.break_next("connect", None, Hang())
    device, realm = restarted(device, realm, line)
    assert told(device).writes[0][2] == "you may not write this"


@pytest.mark.parametrize("what", ["raises", "pauses"])
def test_whatever_the_handler_does_it_is_told_once(world: World, caplog: pytest.LogCaptureFixture, what: str) -> None:
    caplog.set_level(logging.CRITICAL, "localstore.sync")
    line = world.line()
    heard: list[SyncError] = []

    def handler(session: SyncSession, error: SyncError) -> None:
        heard.append(error)
        if what == "raises":
            raise LookupError("a bug")
        session.pause()

    device = world.device(remote=line)
    realm = device.open(error_handler=handler)
    add(realm, "old")
    in_step(realm)
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: heard)
    eventually(lambda: not sql(device.path, "SELECT 1 FROM localstore_aside WHERE undo"), "it to be forgotten")
    device, realm = restarted(device, realm, line)
    in_step(realm)
    assert len(heard) == 1
    assert device.told == []


def test_a_handler_that_closes_the_file_leaves_no_room_to_note_it_and_the_next_is_told_again(world: World) -> None:
    line = world.line()
    heard: list[SyncError] = []

    def handler(session: SyncSession, error: SyncError) -> None:
        heard.append(error)
        realm.close()

    device = world.device(remote=line)
    realm = device.open(error_handler=handler)
    add(realm, "old")
    in_step(realm)
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: heard)
    assert is_let_go(device.path)
    device, realm = restarted(device, realm, line)
    assert told(device).writes == one_of(heard).writes
    eventually(lambda: not sql(device.path, "SELECT 1 FROM localstore_aside WHERE undo"), "it to be forgotten")


def test_what_the_second_file_shows_again_is_not_told_again(world: World) -> None:
    ahead = world.open("ahead", clock=ManualClock(world.clock.now_ms() + 3_600_000))
    add(ahead, "from the future")
    in_step(ahead)
    line = world.line()
    device = world.device(remote=line)
    realm = device.open()
    in_step(realm)
    assert device.kinds == ["ClockDrift"]
    refuse_next(line, 1)
    add(realm, "not allowed")
    eventually(lambda: "CompensatingWrite" in device.kinds)
    assert device.kinds == ["ClockDrift", "CompensatingWrite"]


def test_a_handler_that_restarts_the_session_is_told_once_though_the_file_cannot_be_written_yet(world: World) -> None:
    line = world.line()
    device = world.device(remote=line, busy_timeout=0.05)
    begun, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with realm.write():
            begun.set()
            assert may_end.wait(PATIENCE)

    def hear(session: SyncSession, error: SyncError) -> None:
        device.hear(session, error)
        if len(device.told) == 1:
            in_thread(write)
            assert begun.wait(PATIENCE)
            session.pause()
            session.resume()

    realm = device.open(error_handler=hear)
    refuse_next(line, 1)
    add(realm, "not allowed")
    told(device)
    world.at_rest()
    may_end.set()
    in_step(realm)
    world.at_rest()
    told(device)
    eventually(lambda: not sql(realm.path, "SELECT 1 FROM localstore_aside WHERE undo"), "it to be forgotten")


def test_paused_while_it_is_undone_it_is_told_after_resuming(world: World) -> None:
    """The file is written in a thread, which nothing breaks off: what is to be told stands in it."""
    line = world.line()
    device = world.device(remote=line, run_blocking=meddling_after("undo_refused", lambda _: session.pause()))
    realm = device.open()
    session = realm.sync_session
    refuse_next(line, 1)
    add(realm, "not allowed")
    eventually(lambda: session.state is SessionState.PAUSED and texts(realm) == [])
    assert device.told == []
    session.resume()
    told(device)


def test_a_reset_that_comes_first_makes_it_needless(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "localstore.sync")
    line = world.line()
    device = world.device(remote=line)
    realm = device.open(client_reset=RecoverOrDiscard())
    add(realm, "old")
    in_step(realm)
    line.hold("connect")
    refuse_next(line, 2)
    add(realm, "not allowed")
    eventually(lambda: line.held("connect"), "the second line")
    world.remote.ask_for_reset("history damaged")
    realm.sync_session.pause()
    line.let_go("connect")
    add(realm, "after")
    realm.sync_session.resume()
    in_step(realm)
    assert realm.sync_session.last_reset is not None
    assert texts(realm) == world.remote_texts() == ["after", "old"]
    assert told(device).writes[0][2] == "you may not write this"
    eventually(lambda: not sql(realm.path, "SELECT 1 FROM localstore_aside WHERE undo"), "it to be forgotten")
