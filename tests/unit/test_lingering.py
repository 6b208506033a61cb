"""A line that lingers: kept for a while after its realm was closed, for the file to be opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore import ConnectionState, Credentials, SessionState
from localstore.adapter import Hello
from localstore.errors import Offline, ProtocolError
from localstore.sync.letting_go import Lingering
from localstore.sync.loop import BackgroundLoop
from localstore.testing.clock import ManualClock, environment
from localstore.testing.faulty import Raise
from localstore.testing.memory import MemoryRemote
from tests.unit.session_kit import PATIENCE, Device, Line, World, add, eventually, texts
from tests.unit.users_kit import Users, is_connected

LINGER = 30


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def line(world: World) -> Line:
    return world.line()


@pytest.fixture
def device(world: World, line: Line) -> Device:
    return world.device(remote=line, linger=LINGER)


def opened_and_closed(device: Device, *written: str) -> None:
    """A realm that is opened, uploads what is written, and is closed behind it."""
    with device.open() as realm:
        add(realm, *written)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    device.let_it_run()


def test_by_default_a_line_is_closed_with_its_realm(world: World, line: Line) -> None:
    opened_and_closed(world.device(remote=line), "one")
    assert line.count("close") == 1


def test_the_same_line_serves_a_realm_that_is_opened_again(world: World, line: Line, device: Device) -> None:
    for text in ("one", "two", "three"):
        opened_and_closed(device, text)
    assert (line.made, line.count("connect"), line.count("close")) == (1, 3, 0)
    assert world.remote_texts() == ["one", "three", "two"]


def test_also_when_the_last_changes_go_out_after_closing(line: Line, device: Device) -> None:
    line.hold("push")
    with device.open() as realm:
        add(realm, "one")
    line.let_one_go("push")
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    line.let_go("push")
    opened_and_closed(device, "two")
    assert (line.made, line.count("close")) == (1, 0)


def test_a_line_that_was_broken_off_in_the_middle_of_a_call_serves_too(world: World, line: Line, device: Device) -> None:
    line.hold("pull")
    with device.open(stop_policy="immediately"):
        eventually(lambda: line.held("pull"), "a pull to be held")
    line.let_go("pull")
    opened_and_closed(device, "two")
    assert line.made == 1
    assert world.remote_texts() == ["two"]


def test_it_is_let_go_when_the_time_is_over(world: World, line: Line, device: Device) -> None:
    opened_and_closed(device, "one")
    world.at_rest()
    world.clock.advance(LINGER - 1)
    device.let_it_run()
    assert line.count("close") == 0
    world.clock.advance(1)
    eventually(lambda: line.count("close") == 1, "the line to be closed")
    opened_and_closed(device, "two")
    assert line.made == 2


def test_meanwhile_there_is_no_session_and_the_file_is_free(device: Device, line: Line) -> None:
    opened_and_closed(device, "one")
    assert not device.app.sync.has_sync_sessions
    device.path.unlink()
    with device.open() as realm:  # another device at the same place
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(realm) == ["one"]
    assert line.made == 1


def test_each_file_has_its_own(device: Device, line: Line, world: World) -> None:
    opened_and_closed(device, "one")
    with device.open(path=world.directory / "other.db") as other:
        assert other.sync_session.download_all_server_changes(timeout=PATIENCE)
    assert line.made == 2


def test_pausing_and_resuming_still_makes_a_new_one(device: Device, line: Line) -> None:
    realm = device.open()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    realm.sync_session.pause()
    realm.sync_session.resume()
    eventually(lambda: realm.sync_session.connection_state is ConnectionState.CONNECTED, "a new connection")
    device.let_it_run()
    assert (line.made, line.count("close")) == (2, 1)


def test_one_that_failed_is_not_kept(device: Device, line: Line) -> None:
    line.break_next("connect", Raise(ProtocolError("no")))
    with device.open() as realm:
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE, "the session to end")
    assert device.app.sync.wait_for_sessions_to_terminate(PATIENCE)
    device.let_it_run()
    assert line.count("close") == 1


def test_closing_the_app_closes_it(device: Device, line: Line) -> None:
    opened_and_closed(device, "one")
    device.app.close()
    eventually(lambda: line.count("close") == 1, "the line to be closed")


def test_closing_the_app_with_the_realm_open_keeps_none(device: Device, line: Line) -> None:
    realm = device.open()
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
    device.app.close()
    eventually(lambda: line.count("close") == 1, "the line to be closed")


def test_logging_out_closes_it(tmp_path: Path) -> None:
    with Users(tmp_path) as users:
        app = users.app(linger=LINGER)
        user = app.login(Credentials.anonymous())
        with users.open(user) as realm:
            eventually(lambda: is_connected(realm), "a connection")
        assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
        before = users.line.count("close")  # those of logging in
        user.log_out()
        eventually(lambda: users.line.count("close") > before, "the line to be closed")


def test_one_that_was_still_in_a_call_when_the_user_logged_out_is_not_kept(tmp_path: Path) -> None:
    with Users(tmp_path) as users:
        app = users.app(linger=LINGER)
        user = app.login(Credentials.anonymous())
        users.line.hold("pull", stubborn=True)
        with users.open(user, stop_policy="immediately"):
            eventually(lambda: users.line.held("pull"), "a pull to be held")
        line = users.line
        open_before = line.made - line.count("close")
        user.log_out()  # for which another one is made and closed
        line.let_go("pull")
        eventually(lambda: line.made - line.count("close") < open_before, "the line to be closed")


def test_one_that_is_dropped_as_soon_as_it_was_left_is_closed() -> None:
    clock, background, adapter = ManualClock(), BackgroundLoop("test"), MemoryRemote().adapter()
    lingering = Lingering(LINGER, environment(clock), background)
    path = Path("one.db")

    async def story() -> bool:
        await adapter.connect(Hello(app="kit", partition="default", device=b"A" * 16))
        await lingering.leave(path, adapter, ())
        lingering.drop()
        for _ in range(10):
            await asyncio.sleep(0)
        with pytest.raises(Offline):
            await adapter.ping()
        return lingering.take(path) is None

    assert asyncio.run(story())
