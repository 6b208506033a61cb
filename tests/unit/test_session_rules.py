"""What is left of Realm's rules for sessions: many in one app, callbacks, and calls that return at once whatever happens.

Each test is a sentence of the reference on session and connection states, pausing and reconnecting.
"""

from __future__ import annotations

import dataclasses
import itertools
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from localstore import ConnectionState, ConnectionStateChange, Manual, Realm, Reason, SessionState
from localstore.adapter import Cursor, Hello, Limit, Page, Welcome
from localstore.errors import Busy, Offline, OperationAborted, ProtocolError, RealmClosed, SyncError
from localstore.sync.session import SyncSession
from localstore.testing.clock import ManualClock
from localstore.testing.faulty import Hang, Raise
from localstore.testing.memory import MemoryAdapter
from tests.unit.session_kit import (
    PATIENCE,
    Device,
    Line,
    World,
    add,
    background_threads,
    eventually,
    in_background,
    in_thread,
    is_let_go,
    meddling_after,
    numbers,
    sql,
    texts,
    waiting,
)

DISCONNECTED, CONNECTING, CONNECTED = ConnectionState.DISCONNECTED, ConnectionState.CONNECTING, ConnectionState.CONNECTED
ATTEMPT, REFUSED = ConnectionStateChange(DISCONNECTED, CONNECTING), ConnectionStateChange(CONNECTING, DISCONNECTED)
NONSENSE = ProtocolError("nonsense")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def is_connected(realm: Realm) -> bool:
    return realm.sync_session.connection_state is CONNECTED


def changes_of(session: SyncSession) -> list[ConnectionStateChange]:
    """What the connection goes through from now on, as it happens."""
    seen: list[ConnectionStateChange] = []
    session.on_connection_state_change(seen.append)
    return seen


class TestStoppedSessions:
    """INACTIVE by an error: the file goes on, and what the session takes up again is up to the application."""

    @pytest.fixture
    def line(self, world: World) -> Line:
        line = world.line()
        line.break_next("connect", Raise(NONSENSE))
        return line

    @pytest.fixture
    def device(self, world: World, line: Line) -> Device:
        return world.device(remote=line)

    @pytest.fixture
    def stopped(self, device: Device) -> Realm:
        realm = device.open()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        return realm

    def test_what_is_written_meanwhile_stays_in_the_file_and_goes_out_after_resuming(
        self, world: World, device: Device, line: Line, stopped: Realm
    ) -> None:
        add(stopped, "a")
        add(stopped, "b")
        device.let_it_run()
        assert line.calls.count("push") == 0
        assert numbers(stopped) == [1, 2]
        stopped.sync_session.resume()
        assert stopped.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert world.remote_texts() == ["a", "b"]

    def test_reconnecting_does_not_bring_them_back(self, device: Device, line: Line, stopped: Realm) -> None:
        device.app.sync.reconnect()
        device.let_it_run()
        assert stopped.sync_session.state is SessionState.INACTIVE
        assert line.count("connect") == 1

    def test_they_can_be_paused_and_then_only_resuming_brings_them_back(self, device: Device, stopped: Realm) -> None:
        session = stopped.sync_session
        session.pause()
        assert session.state is SessionState.PAUSED
        device.open()
        device.app.sync.reconnect()
        device.let_it_run()
        assert session.state is SessionState.PAUSED
        session.resume()
        assert session.download_all_server_changes(timeout=PATIENCE)

    def test_they_and_paused_ones_count_as_sessions_until_their_realm_is_closed(self, device: Device, stopped: Realm) -> None:
        assert device.app.sync.has_sync_sessions
        stopped.sync_session.pause()
        assert device.app.sync.has_sync_sessions
        stopped.close()
        assert not device.app.sync.has_sync_sessions


class TestDyingSessions:
    @pytest.fixture
    def device(self, world: World) -> Device:
        world.remote.go_offline()
        return world.device()

    @pytest.fixture
    def dying(self, world: World, device: Device) -> SyncSession:
        realm = device.open()
        session = realm.sync_session
        add(realm, "unsent")
        world.at_rest()
        realm.close()
        return session

    def test_data_moves_in_both_directions(self, world: World, device: Device, dying: SyncSession) -> None:
        world.remote.go_online()
        writer = world.open("writer")
        add(writer, "theirs")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert dying.state is SessionState.DYING
        dying.reconnect()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        world.remote.go_offline()
        with device.open() as again:
            assert texts(again) == ["theirs", "unsent"]
            assert numbers(again) == []

    def test_reconnecting_cuts_their_wait_short(self, world: World, device: Device, dying: SyncSession) -> None:
        world.remote.go_online()
        device.app.sync.reconnect()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)  # with no time passing
        assert dying.state is SessionState.INACTIVE
        assert world.remote_texts() == ["unsent"]

    def test_what_is_written_after_opening_the_file_again_goes_out_as_well_before_they_end(
        self, world: World, device: Device, dying: SyncSession
    ) -> None:
        with device.open() as again:
            assert again.sync_session is dying
            assert dying.state is SessionState.ACTIVE
            add(again, "unsent, too")
        assert dying.state is SessionState.DYING
        world.at_rest()
        world.remote.go_online()
        device.app.sync.reconnect()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(device.path)
        assert world.remote_texts() == ["unsent", "unsent, too"]

    def test_what_is_written_and_closed_while_the_last_answer_is_on_its_way_goes_out_as_well(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = device.open()
        line.hold("push")
        add(realm, "first")
        eventually(lambda: line.held("push"))
        realm.close()
        with device.open() as again:
            add(again, "second")
        line.let_go("push")
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert world.remote_texts() == ["first", "second"]

    def test_what_is_written_and_closed_when_they_have_just_found_that_nothing_is_left_goes_out_as_well(
        self, world: World
    ) -> None:
        def write_more(batch: list[object]) -> None:
            if not batch and closed.is_set() and not more:
                more.append("second")
                assert session.state is SessionState.DYING
                with device.open() as again:
                    add(again, *more)

        closed, more = threading.Event(), list[str]()
        line = world.line()
        device = world.device(remote=line, run_blocking=meddling_after("batch", write_more))
        realm = device.open()
        session = realm.sync_session
        line.hold("push")
        add(realm, "first")
        eventually(lambda: line.held("push"))
        realm.close()
        closed.set()
        line.let_go("push")
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert world.remote_texts() == ["first", "second"]


class TestReconnecting:
    def test_all_sessions_of_the_app_try_at_once_and_paused_ones_do_not(self, world: World, tmp_path: Path) -> None:
        world.remote.go_offline()
        device = world.device()
        realms = [device.open(path=tmp_path / f"{number}.db") for number in range(4)]
        realms[3].sync_session.pause()
        world.at_rest(3)
        world.remote.go_online()
        device.app.sync.reconnect()
        eventually(lambda: all(is_connected(realm) for realm in realms[:3]))  # with no time passing
        assert realms[3].sync_session.connection_state is DISCONNECTED

    def test_other_apps_wait_on(self, world: World) -> None:
        world.remote.go_offline()
        line = world.line()
        device, _ = world.device("one"), world.open("other", remote=line)
        device.open()
        world.at_rest(2)
        device.app.sync.reconnect()
        device.let_it_run()
        assert line.count("connect") == 1


class WrongWelcome(MemoryAdapter):
    """Lets a device in as if nothing had happened, to another remote than it knows."""

    async def connect(self, hello: Hello) -> Welcome:
        welcome = await super().connect(dataclasses.replace(hello, remote_id=None, cursor=None))
        return dataclasses.replace(welcome, remote_id="another")


class TestConnections:
    def test_a_session_begins_disconnected_and_its_first_step_is_told(self, world: World) -> None:
        device = world.device()
        go = threading.Event()
        device.app.sync._loop.post(lambda: go.wait(PATIENCE))
        realm = device.open()
        assert realm.sync_session.connection_state is DISCONNECTED
        seen = changes_of(realm.sync_session)
        go.set()
        eventually(lambda: seen == [ATTEMPT, ConnectionStateChange(CONNECTING, CONNECTED)])

    @pytest.mark.parametrize("who", ["the remote", "this device"])
    def test_one_that_is_let_in_by_the_wrong_remote_is_never_connected(self, world: World, who: str) -> None:
        """Whether the remote sees it, or answers as if nothing had happened."""
        heard: list[str] = []
        wrong = WrongWelcome(world.remote)
        device = world.device(remote=lambda: wrong if heard and who == "this device" else world.remote.adapter())
        realm = device.open(client_reset=Manual(on_client_reset=lambda *_: None))
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        realm.sync_session.pause()
        if who == "the remote":
            world.remote.wipe()
        heard.append(who)
        seen = changes_of(realm.sync_session)
        realm.sync_session.resume()
        eventually(lambda: device.told)
        assert device.kinds == ["ClientResetRequired"]
        assert seen == [ATTEMPT, REFUSED]

    @pytest.mark.parametrize("error", [ProtocolError("another language"), Busy("full")], ids=lambda error: type(error).__name__)
    def test_one_whose_introduction_is_refused_is_never_connected(self, world: World, error: SyncError) -> None:
        line = world.line()
        realm = world.device(remote=line).open()
        realm.sync_session.pause()
        line.break_down(connect=Raise(error))
        seen = changes_of(realm.sync_session)
        realm.sync_session.resume()
        eventually(lambda: len(seen) == 2)
        assert seen == [ATTEMPT, REFUSED]

    @pytest.mark.parametrize("call", ["push", "pull"])
    def test_a_fatal_error_disconnects_once(self, world: World, call: str) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = device.open()
        world.at_rest()
        seen = changes_of(realm.sync_session)
        line.break_down(**{call: Raise(NONSENSE)})
        add(realm, "a")
        if call == "pull":  # which a commit alone is no reason for
            with pytest.raises(type(NONSENSE)):
                realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        eventually(lambda: device.told)
        device.let_it_run()
        assert seen == [ConnectionStateChange(CONNECTED, DISCONNECTED)]

    @pytest.mark.parametrize("error", [Offline("gone"), NONSENSE], ids=lambda error: type(error).__name__)
    def test_who_hears_of_a_loss_finds_the_error_in_the_status(self, world: World, error: SyncError) -> None:
        line = world.line()
        realm = world.device(remote=line).open()
        world.at_rest()
        found: list[SyncError | None] = []
        realm.sync_session.on_connection_state_change(lambda _: found.append(realm.sync_session.status.last_error))
        line.break_next("push", Raise(error))
        add(realm, "a")
        eventually(lambda: found)
        assert found == [error]

    def test_an_error_of_one_session_leaves_that_of_another_as_it_is(self, world: World, tmp_path: Path) -> None:
        line = world.line()
        device = world.device(remote=line)
        failing, other = device.open(), device.open(path=tmp_path / "other.db", partition="other")
        world.at_rest(2)
        seen = changes_of(other.sync_session)
        line.break_next("push", Raise(Busy("not you")))
        add(failing, "a")
        eventually(lambda: failing.sync_session.connection_state is DISCONNECTED)
        device.let_it_run()
        assert seen == []
        assert is_connected(other)


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

    def test_a_changeset_that_cannot_be_applied_here_is_told_and_later_ones_go_on(self, world: World) -> None:
        device, writer = world.device(), world.open("writer")
        realm = device.open()
        sql(
            realm.path,
            "CREATE TRIGGER refuse BEFORE INSERT ON note WHEN NEW.text = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        add(writer, "poison")
        add(writer, "good")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: device.told)
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(realm) == ["good"]
        self.is_told_and_harmless(device, realm, "cannot be applied here: no")

    def test_a_row_of_another_program_that_cannot_travel_is_told_and_others_go_on(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        world.at_rest()
        sql(realm.path, "INSERT INTO note (id, text) VALUES (x'ff', CAST(x'ff41' AS TEXT))")
        add(realm, "good")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert world.remote_texts() == ["good"]
        self.is_told_and_harmless(device, realm, "it holds text that is not UTF-8")

    def is_told_and_harmless(self, device: Device, realm: Realm, why: str) -> None:
        """Once, also when the session begins anew."""
        realm.sync_session.pause()
        realm.sync_session.resume()
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert device.kinds == ["Refused"]
        assert why in str(device.told[0])
        assert not device.told[0].is_fatal
        assert realm.sync_session.state is SessionState.ACTIVE

    def test_one_about_the_file_is_told_also_when_the_session_was_paused_meanwhile(self, world: World) -> None:
        """What a thread has written stays so, and nobody would tell it later. Realm drops it."""
        ahead = world.open("ahead", clock=ManualClock(world.clock.now_ms() + 3_600_000))
        add(ahead, "from the future")
        assert ahead.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line = world.line()
        line.hold("pull")
        device = world.device(remote=line, run_blocking=meddling_after("apply", lambda _: realm.sync_session.pause()))
        realm = device.open()
        line.let_go("pull")
        eventually(lambda: device.kinds == ["ClockDrift"])
        assert realm.sync_session.state is SessionState.PAUSED

    def test_one_that_is_not_fatal_is_told_and_does_not_end_a_dying_session(self, world: World) -> None:
        ahead = world.open("ahead", clock=ManualClock(world.clock.now_ms() + 3_600_000))
        add(ahead, "from the future")
        assert ahead.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line = world.line()
        line.hold("connect")
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "unsent")
        realm.close()
        line.let_go("connect")
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert device.kinds == ["ClockDrift"]
        assert len(world.remote.changesets()) == 2

    @pytest.mark.parametrize(("call", "seconds"), [("connect", 30), ("push", 40), ("pull", 40)])
    def test_a_call_that_finds_no_answer_in_time_is_being_offline(self, world: World, call: str, seconds: int) -> None:
        line = world.line()
        line.break_next(call, Hang())
        device = world.device(remote=line, connect_timeout=30, request_timeout=40)
        realm = device.open()
        add(realm, "a")
        eventually(lambda: line.count(call))
        device.let_it_run()
        world.clock.advance(seconds - 1)
        device.let_it_run()
        assert realm.sync_session.last_error is None
        world.clock.advance(1)
        eventually(lambda: isinstance(realm.sync_session.last_error, Offline))
        assert f"within {seconds} s" in str(realm.sync_session.last_error)
        assert (realm.sync_session.state, device.told) == (SessionState.ACTIVE, [])

    def test_one_of_tls_that_an_adapter_lets_out_as_it_is_stops_the_session_and_is_named(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(ssl.SSLError("handshake failure")))
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: device.told)
        assert device.kinds == ["ProtocolError"]
        assert "SSLError" in str(device.told[0])
        assert realm.sync_session.state is SessionState.INACTIVE

    def test_a_damaged_changeset_stops_the_session_and_leaves_the_file_as_it_was(self, world: World) -> None:
        writer = world.open("writer")
        add(writer, "a")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)

        class Damaging(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                page = await super().pull(cursor, limit)
                damaged = tuple(structs.replace(sealed, body=b"damaged") for sealed in page.changesets)
                return dataclasses.replace(page, changesets=damaged)

        device = world.device(remote=lambda: Damaging(world.remote))
        realm = device.open()
        eventually(lambda: device.told)
        assert device.kinds == ["MalformedChangeset"]
        assert device.told[0].is_fatal
        assert realm.sync_session.state is SessionState.INACTIVE
        assert texts(realm) == []

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
