"""What is left of Realm's rules for sessions: many in one app, callbacks, and calls that return at once whatever happens.

Each test is a sentence of the reference on session and connection states, pausing and reconnecting.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localstore import ConnectionState, ConnectionStateChange, Realm, Reason, SessionState
from localstore.errors import Busy, Offline, OperationAborted, ProtocolError, RealmClosed, SyncError
from localstore.sync.session import SyncSession
from localstore.testing.faulty import Hang, Raise
from tests.unit.session_kit import (
    PATIENCE,
    World,
    add,
    background_threads,
    eventually,
    in_background,
    in_thread,
    texts,
    waiting,
)

DISCONNECTED, CONNECTED = ConnectionState.DISCONNECTED, ConnectionState.CONNECTED


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def is_connected(realm: Realm) -> bool:
    return realm.sync_session.connection_state is CONNECTED


class TestAHundredRealms:
    def test_of_one_app_share_one_background_loop_and_are_paused_one_by_one(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        realms = [device.open(path=tmp_path / f"{number}.db") for number in range(100)]
        eventually(lambda: all(is_connected(realm) for realm in realms))
        world.at_rest(100)
        loops = [name for name in background_threads() if name.startswith("localstore-") and "worker" not in name]
        assert loops == ["localstore-kit"]
        paused, others = realms[42].sync_session, [realm.sync_session for realm in (*realms[:42], *realms[43:])]
        paused.pause()
        assert paused.state is SessionState.PAUSED
        assert {session.state for session in others} == {SessionState.ACTIVE}
        assert {session.connection_state for session in others} == {CONNECTED}
        add(realms[0], "goes on")
        assert others[0].upload_all_local_changes(timeout=PATIENCE)
        assert others[98].download_all_server_changes(timeout=PATIENCE)
        assert texts(realms[99]) == ["goes on"]
        assert texts(realms[42]) == []

    def test_one_whose_adapter_hangs_holds_up_no_other(self, world: World, tmp_path: Path) -> None:
        line = world.line()
        line.break_next("connect", *[Hang()] * 5)
        device = world.device(remote=line)
        realms = [device.open(path=tmp_path / f"{number}.db") for number in range(10)]
        eventually(lambda: sum(map(is_connected, realms)) == 5)


class TestCallbacks:
    def test_pausing_calls_back_before_it_returns(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_connected(realm))
        seen: list[tuple[ConnectionState, str]] = []
        realm.sync_session.on_connection_state_change(
            lambda change: seen.append((change.new_state, threading.current_thread().name))
        )
        realm.sync_session.pause()
        assert seen == [(DISCONNECTED, threading.current_thread().name)]

    def test_closing_calls_back_before_it_returns(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_connected(realm))
        seen: list[ConnectionState] = []
        realm.sync_session.on_connection_state_change(lambda change: seen.append(change.new_state))
        realm.close()
        assert seen == [DISCONNECTED]

    def test_nothing_is_told_when_nothing_changes(self, world: World) -> None:
        world.remote.go_offline()
        realm = world.open()
        world.at_rest()
        seen: list[ConnectionStateChange] = []
        realm.sync_session.on_connection_state_change(seen.append)
        realm.sync_session.pause()
        realm.sync_session.pause()
        assert seen == []

    def test_one_may_unsubscribe_inside_itself(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_connected(realm))
        seen: list[ConnectionState] = []

        def once(change: ConnectionStateChange) -> None:
            seen.append(change.new_state)
            stop()

        stop = realm.sync_session.on_connection_state_change(once)
        realm.sync_session.pause()
        realm.sync_session.resume()
        eventually(lambda: is_connected(realm))
        assert seen == [DISCONNECTED]

    @pytest.mark.parametrize(
        "act", [SyncSession.pause, SyncSession.resume, lambda session: session.status], ids=["pause", "resume", "status"]
    )
    def test_one_may_use_the_session(self, world: World, act: Callable[[SyncSession], object]) -> None:
        realm = world.open()
        eventually(lambda: is_connected(realm))
        session = realm.sync_session
        acted = threading.Event()

        def use(change: ConnectionStateChange) -> None:
            if not acted.is_set():
                act(session)
                acted.set()

        session.on_connection_state_change(use)
        session.pause()
        assert acted.is_set()

    def test_changes_come_in_order_from_whatever_thread(self, world: World) -> None:
        realm = world.open()
        seen: list[ConnectionStateChange] = []
        realm.sync_session.on_connection_state_change(seen.append)

        def flicker() -> None:
            for _ in range(50):
                realm.sync_session.pause()
                realm.sync_session.resume()

        threads = [in_thread(flicker) for _ in range(4)]
        for thread in threads:
            thread.join(PATIENCE)
        eventually(lambda: is_connected(realm))
        eventually(lambda: seen[-1].new_state is CONNECTED)
        assert all(one.new_state is other.old_state for one, other in itertools.pairwise(seen))


class TestAtOnce:
    """Pausing and its like return whatever the session is doing; here each of them would hang for ever if it waited."""

    @pytest.mark.parametrize("call", ["connect", "pull", "push", "watch", "close"])
    @pytest.mark.parametrize(
        "act",
        [
            lambda realm: realm.sync_session.pause(),
            lambda realm: realm.sync_session.resume(),
            lambda realm: realm.sync_session.status,
            lambda realm: realm.close(),
        ],
        ids=["pause", "resume", "status", "close"],
    )
    def test_while_the_adapter_hangs_for_ever(self, world: World, call: str, act: Callable[[Realm], object]) -> None:
        line = world.line()
        line.break_down(**{call: Hang()})
        device = world.device(remote=line)
        realm = device.open(stop_policy="immediately")
        add(realm, "a")
        if call != "close":
            eventually(lambda: line.count(call))
        in_background(lambda: act(realm)).result(PATIENCE)
        in_background(device.app.sync.reconnect).result(PATIENCE)

    def test_in_the_middle_of_a_long_pull(self, world: World) -> None:
        writer = world.open("writer")
        for number in range(20):
            add(writer, f"note {number}")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line = world.line()
        line.hold("pull")
        reader = world.device("reader", remote=line, page_count=1).open()
        for _ in range(5):
            line.let_one_go("pull")
        eventually(lambda: line.held("pull"))
        reader.sync_session.pause()
        assert reader.sync_session.connection_state is DISCONNECTED
        assert len(texts(reader)) == 5
        line.let_go("pull")
        reader.sync_session.resume()
        assert reader.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert len(texts(reader)) == 20

    def test_a_page_that_is_being_written_when_it_is_paused_is_written_whole_or_not_at_all(self, world: World) -> None:
        writer = world.open("writer")
        add(writer, *(f"note {number}" for number in range(500)))
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        for attempt in range(10):
            reader = world.open(f"reader-{attempt}")
            reader.sync_session.pause()
            assert len(texts(reader)) in (0, 500)
            reader.sync_session.resume()
            assert reader.sync_session.download_all_server_changes(timeout=PATIENCE)
            assert len(texts(reader)) == 500


class TestErrorsInEachState:
    """Which errors reach the error handler, by what the session is doing."""

    @pytest.mark.parametrize("error", [Offline("no"), Busy("no")], ids=lambda error: type(error).__name__)
    def test_one_that_passes_never_does_however_often_it_comes(self, world: World, error: SyncError) -> None:
        line = world.line()
        line.break_down(connect=Raise(error))
        device = world.device(remote=line)
        realm = device.open()
        for _ in range(10):
            world.at_rest()
            world.clock.advance(300)
        assert device.told == []
        assert realm.sync_session.status.last_error is error
        assert realm.sync_session.status.is_error_transient

    def test_a_fatal_one_does_and_says_so(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("no")))
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: device.told)
        assert device.told[0].is_fatal
        assert realm.sync_session.state is SessionState.INACTIVE
        assert realm.sync_session.status.why is Reason.FAILED

    def test_a_fatal_one_that_comes_after_pausing_does_not(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        line.break_down(connect=Raise(ProtocolError("no")))
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: line.held("connect"))
        realm.sync_session.pause()
        line.let_go("connect")
        device.let_it_run()
        assert device.told == []
        assert realm.sync_session.state is SessionState.PAUSED

    def test_a_wait_at_a_session_that_errs_is_ended_once_and_not_told_twice(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        line.break_down(connect=Raise(ProtocolError("no")))
        device = world.device(remote=line)
        realm = device.open()
        waits = [in_background(realm.sync_session.download_all_server_changes) for _ in range(5)]
        eventually(lambda: waiting(realm.sync_session) == 5)
        line.let_go("connect")
        for wait in waits:
            with pytest.raises(ProtocolError):
                wait.result(PATIENCE)
        assert device.kinds == ["ProtocolError"]


class TestWaitsAndTheirEnd:
    def test_every_wait_of_a_session_that_ends_gets_an_answer(self, world: World) -> None:
        """Also those that are made in the very moment in which it ends."""
        world.remote.go_offline()
        for attempt in range(20):
            realm = world.open(f"device-{attempt}")
            session = realm.sync_session
            begun = threading.Event()

            def wait(session: SyncSession = session, begun: threading.Event = begun) -> bool:
                begun.set()
                return session.download_all_server_changes()

            waits = [in_background(wait) for _ in range(4)]
            begun.wait(PATIENCE)
            realm.close()
            for future in waits:
                with pytest.raises((OperationAborted, RealmClosed)):
                    future.result(PATIENCE)
