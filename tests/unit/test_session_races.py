"""Moments in which sessions once went wrong: callbacks under locks, values that were never told, calls that outlive sessions.

Each test holds a session at such a moment with gates and a clock that stands still.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localstore import ConnectionState, ConnectionStateChange, Direction, ProgressMode, Realm, Reason, SessionState, SyncStatus
from localstore.adapter import Capabilities, Cursor, Hello, Hint, Limit, Page, Welcome
from localstore.environment import Environment
from localstore.errors import Offline, ProtocolError, StoreBusy, SyncError
from localstore.store.outbox import Pending
from localstore.sync.line import Line
from localstore.sync.session import SyncSession
from localstore.testing.faulty import Raise
from localstore.testing.memory import MemoryAdapter
from tests.unit.session_kit import PATIENCE, Device, World, add, eventually, in_background, in_loop, texts

CONNECTING, CONNECTED, DISCONNECTED = (
    ConnectionState.CONNECTING,
    ConnectionState.CONNECTED,
    ConnectionState.DISCONNECTED,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def is_in_step(realm: Realm) -> bool:
    return realm.sync_session.status.why is Reason.IN_STEP


def in_step(device: Device, **changes: Any) -> Realm:
    """A realm whose session has nothing to do."""
    realm = device.open(**changes)
    eventually(lambda: is_in_step(realm))
    return realm


def pass_quiet_times(world: World, device: Device, count: int = 5) -> None:
    for _ in range(count):
        world.clock.advance(0.25)
        device.let_it_run()


class TestCallbacksHoldNoLocks:
    """One that waits for another thread, as for that of a GUI, must not wait for itself in the end."""

    @pytest.mark.parametrize("end", ["the app", "the realm", "the upload of a dying session"])
    def test_another_thread_can_look_at_the_session_meanwhile(self, world: World, end: str) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        session = realm.sync_session
        seen: list[SessionState] = []

        def ask(change: ConnectionStateChange) -> None:
            if change.new_state is DISCONNECTED:
                seen.append(in_background(lambda: session.status.state).result(PATIENCE))

        session.on_connection_state_change(ask)
        if end == "the app":
            in_background(device.app.close).result(PATIENCE)
        elif end == "the realm":
            in_background(realm.close).result(PATIENCE)
        else:
            line.hold("push")
            add(realm, "a")
            eventually(lambda: line.held("push"))
            realm.close()
            line.let_go("push")
            assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        eventually(lambda: seen == [SessionState.INACTIVE])

    def test_another_thread_can_open_a_realm_meanwhile(self, world: World) -> None:
        device = world.device()
        realm = in_step(device)
        opened: list[Realm] = []

        def open_another(change: ConnectionStateChange) -> None:
            if change.new_state is DISCONNECTED:
                opened.append(in_background(lambda: device.open(path=world.directory / "other.db")).result(PATIENCE))

        realm.sync_session.on_connection_state_change(open_another)
        in_background(realm.close).result(PATIENCE)
        assert len(opened) == 1

    def test_one_that_opens_a_realm_does_not_wait_for_one_who_opens_the_file_that_dies(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        line.hold("push")
        add(realm, "a")
        eventually(lambda: line.held("push"))
        realm.close()
        inside, go = threading.Event(), threading.Event()

        def open_another(change: ConnectionStateChange) -> None:
            inside.set()
            assert go.wait(PATIENCE)
            device.open(path=world.directory / "other.db")

        realm_session = next(iter(device.app.sync._files.values())).session
        realm_session.on_connection_state_change(open_another)
        line.let_go("push")
        assert inside.wait(PATIENCE)
        opening = in_background(device.open)
        go.set()
        assert not opening.result(PATIENCE).is_closed

    @pytest.mark.parametrize("where", ["handler", "callback"])
    def test_one_that_exits_ends_nothing_but_itself(self, world: World, where: str) -> None:
        def leave(*_: object) -> None:
            sys.exit("bye")

        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device, error_handler=leave)
        other = in_step(device, path=world.directory / "other.db")
        world.at_rest(2)
        if where == "callback":
            realm.sync_session.on_connection_state_change(leave)
        line.break_next("push", Raise(ProtocolError("no")))
        add(realm, "a")
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        add(other, "b")
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)


class TestTheLastValue:
    def test_of_the_connection_is_told_to_one_that_closes_the_realm(self, world: World) -> None:
        device = world.device()
        realm = in_step(device)
        realm.sync_session.pause()
        seen: list[ConnectionState] = []

        def close(change: ConnectionStateChange) -> None:
            seen.append(change.new_state)
            if change.new_state is CONNECTING:
                realm.close()

        realm.sync_session.on_connection_state_change(close)
        realm.sync_session.resume()
        eventually(lambda: seen == [CONNECTING, DISCONNECTED])

    def test_of_the_connection_is_told_to_one_that_is_slow(self, world: World) -> None:
        device = world.device()
        realm = in_step(device)
        realm.sync_session.pause()
        seen: list[ConnectionState] = []
        there, go = threading.Event(), threading.Event()

        def wait(change: ConnectionStateChange) -> None:
            seen.append(change.new_state)
            if change.new_state is CONNECTED:
                there.set()
                assert go.wait(PATIENCE)

        realm.sync_session.on_connection_state_change(wait)
        realm.sync_session.resume()
        assert there.wait(PATIENCE)
        realm.close()
        go.set()
        eventually(lambda: seen == [CONNECTING, CONNECTED, DISCONNECTED])

    def test_of_the_status_is_told_to_a_new_reader_also_when_it_was_told_before(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        session = in_step(device).sync_session
        heard: list[SyncStatus] = []
        stop = session.on_status_change(heard.append)
        session.pause()
        eventually(lambda: heard and heard[-1].state is SessionState.PAUSED)
        pass_quiet_times(world, device)
        stop()
        line.hold("connect")
        session.resume()
        eventually(lambda: line.held("connect"))
        device.let_it_run()
        stream = session.status_changes()
        assert next(stream).why is Reason.CONNECTING
        session.pause()
        pass_quiet_times(world, device)
        assert in_background(lambda: next(stream)).result(PATIENCE).state is SessionState.PAUSED

    def test_of_the_status_is_told_after_a_look_at_the_file_that_failed(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        line.hold("push")
        add(realm, "a")
        eventually(lambda: line.held("push"))
        stream = realm.sync_session.status_changes()
        pass_quiet_times(world, device)
        store, failures = realm.sync_session._parts.store, []
        original = store.totals

        def busy() -> Pending:
            if threading.current_thread() is threading.main_thread():
                return original()
            failures.append(1)
            raise StoreBusy("somebody writes")

        store.totals = busy  # type: ignore[method-assign]
        line.let_go("push")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: failures)
        store.totals = original  # type: ignore[method-assign]
        eventually(lambda: world.clock.advance(1) or (stream._values and stream._values[-1].is_synced))

    def test_of_a_session_that_ends_says_what_is_pending(self, world: World) -> None:
        device = world.device()
        realm = in_step(device)
        realm.sync_session.pause()
        seen: list[SyncStatus] = []
        realm.sync_session.on_status_change(seen.append)
        realm.sync_session.resume()
        eventually(lambda: seen)
        realm.sync_session.pause()
        device.let_it_run()
        add(realm, "a")  # in the quiet time after what was told last
        device.app.close()
        assert seen[-1].pending_changesets == 1


class TestTheTruth:
    def test_what_is_heard_of_while_a_page_is_on_its_way_is_not_taken_for_the_page(self, world: World) -> None:
        answered, go = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
        is_slow = threading.Event()

        class SlowAnswer(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                page = await super().pull(cursor, limit)
                if is_slow.is_set():
                    number = 1 if answered[0].is_set() else 0
                    answered[number].set()
                    assert await asyncio.to_thread(go[number].wait, PATIENCE)
                return page

        device = world.device("reader", remote=lambda: SlowAnswer(world.remote))
        reader, writer = in_step(device), in_step(world.device("writer"))
        world.at_rest(2)
        is_slow.set()
        add(writer, "a")
        assert answered[0].wait(PATIENCE)
        add(writer, "b")
        assert writer.sync_session.upload_all_local_changes(timeout=PATIENCE)
        device.let_it_run()  # it has heard of it
        go[0].set()
        assert answered[1].wait(PATIENCE)
        assert texts(reader) == ["a"]
        assert not reader.sync_session.is_synced
        go[1].set()
        is_slow.clear()
        eventually(lambda: reader.sync_session.is_synced)
        assert texts(reader) == ["a", "b"]

    def test_a_wait_for_an_upload_does_not_wait_for_what_is_written_later(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        line.hold("push")
        add(realm, "a")
        eventually(lambda: line.held("push"))
        session = realm.sync_session
        original = session._waits.upload

        def slow(number: int, device_id: bytes) -> Any:
            line.let_one_go("push")
            eventually(lambda: not realm.pending())
            add(realm, "b")  # while nobody knows of the wait yet
            return original(number, device_id)

        session._waits.upload = slow  # type: ignore[method-assign]
        assert session.upload_all_local_changes(timeout=PATIENCE)
        assert len(realm.pending()) == 1
        line.let_go("push")

    def test_what_another_process_uploads_ends_the_progress_here(self, world: World) -> None:
        line = world.line()
        one = world.device("one", remote=line)
        realm = in_step(one)
        world.at_rest()
        line.break_down(push=Raise(Offline("no")))
        add(realm, "a")
        eventually(lambda: realm.sync_session.connection_state is DISCONNECTED)
        stream = realm.sync_session.progress(Direction.UPLOAD, ProgressMode.CURRENT_CHANGES)
        other = world.device("two", path=one.path).open()
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        line.recover()
        one.app.sync.reconnect()
        assert in_background(lambda: [progress.estimate for progress in stream]).result(PATIENCE)[-1] == 1.0


class TestCallsThatOutliveTheirSession:
    def test_an_adapter_that_answers_a_cancellation_with_an_error_does_not_go_on(self, world: World) -> None:
        pulling, connects = threading.Event(), list[str]()

        class Stubborn(MemoryAdapter):
            async def connect(self, hello: Hello) -> Welcome:
                connects.append("connect")
                if pulling.is_set():
                    raise Offline("no network")
                return await super().connect(hello)

            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                if connects == ["connect"] and hold.is_set():
                    pulling.set()
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        raise Offline("closed while reading") from None
                return await super().pull(cursor, limit)

        hold = threading.Event()
        device = world.device(remote=lambda: Stubborn(world.remote))
        realm = in_step(device)
        hold.set()
        device.app.sync.reconnect()
        assert pulling.wait(PATIENCE)
        realm.sync_session.pause()
        for _ in range(5):
            device.let_it_run()
            world.clock.advance(400)
        assert connects == ["connect"]

    def test_resuming_a_dying_session_whose_realm_is_closed_does_not_keep_it_for_ever(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        session = realm.sync_session
        line.hold("push")
        add(realm, "a")
        eventually(lambda: line.held("push"))
        realm.close()
        session.resume()
        assert session.state is SessionState.DYING
        line.let_go("push")
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)

    def test_a_dying_session_whose_file_is_opened_again_tries_at_once(self, world: World) -> None:
        world.remote.go_offline()
        device = world.device()
        realm = device.open()
        add(realm, "a")
        for wait in (1, 2, 4, 8):
            eventually(lambda wait=wait: world.clock.next_wake() == wait)  # type: ignore[misc]
            world.clock.advance(wait)
        eventually(lambda: world.clock.next_wake() == 16)
        realm.close()
        world.remote.go_online()
        again = device.open()
        assert again.sync_session.upload_all_local_changes(timeout=PATIENCE)  # with no time passing


class TestTheLine:
    def test_a_reconnect_ends_no_attempt_to_connect_that_has_just_begun(self, world: World) -> None:
        line = world.line(ping=True)
        line.hold("connect")
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: line.held("connect"))
        for _ in range(3):
            device.app.sync.reconnect()
            device.let_it_run()
        assert realm.sync_session.last_error is None
        assert line.count("ping") == 0
        line.let_go("connect")
        eventually(lambda: is_in_step(realm))

    def test_but_one_that_took_long_already(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        device = world.device(remote=line, connect_timeout=120, urgent_pong_timeout=15)
        realm = device.open()
        eventually(lambda: line.held("connect"))
        world.clock.advance(16)
        device.app.sync.reconnect()
        eventually(lambda: isinstance(realm.sync_session.last_error, Offline))
        assert "no sign of life" in str(realm.sync_session.last_error)
        line.let_go("connect")
        eventually(lambda: is_in_step(realm))  # with no time passing

    def test_a_reconnect_cuts_short_a_regular_wait_for_a_sign_of_life(self, world: World) -> None:
        line = world.line(ping=True, poll_seconds=3600.0)
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        line.hold("ping")
        world.clock.advance(60)
        eventually(lambda: line.held("ping"))
        device.app.sync.reconnect()
        eventually(lambda: line.held("ping") == 2)
        world.clock.advance(15)
        eventually(lambda: line.count("connect") == 2, "another connect")
        eventually(lambda: realm.sync_session.connection_state is CONNECTED)
        line.let_go("ping")

    def test_an_error_says_what_ended_the_call(self, world: World) -> None:
        line = world.line(ping=True)
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        for call in ("push", "ping", "connect"):
            line.hold(call)
        add(realm, "a")
        eventually(lambda: line.held("push"))
        device.app.sync.reconnect()
        eventually(lambda: line.held("ping"))
        world.clock.advance(15)
        eventually(lambda: realm.sync_session.last_error)
        assert str(realm.sync_session.last_error) == "The line to the remote gave no sign of life. Local work goes on."
        for call in ("push", "ping", "connect"):
            line.let_go(call)

    def test_after_a_long_absence_with_many_attempts_downloads_come_first(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = in_step(device)
        world.at_rest()
        line.break_down(pull=Raise(Offline("gone")), connect=Raise(Offline("gone")))
        device.app.sync.reconnect()
        eventually(lambda: realm.sync_session.connection_state is DISCONNECTED)
        add(realm, "a")
        for _ in range(8):
            world.at_rest()
            attempts = line.count("connect")
            world.clock.advance(world.clock.next_wake() or 0)
            eventually(lambda attempts=attempts: line.count("connect") > attempts)  # type: ignore[misc]
        world.at_rest()
        line.recover()
        line.calls.clear()
        device.app.sync.reconnect()
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert line.calls[:3] == ["connect", "pull", "push"]

    def test_a_watch_that_hints_and_ends_does_not_go_round_and_round(self, world: World) -> None:
        pulls: list[int] = []

        class AlwaysNews(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                pulls.append(1)
                return await super().pull(cursor, limit)

            async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
                yield Hint()
                raise Offline("the watch was closed")

        device = world.device(remote=lambda: AlwaysNews(world.remote))
        in_step(device)
        for _ in range(50):
            device.let_it_run()
        assert len(pulls) <= 3

    def test_doubting_a_dead_line_twice_while_it_is_slow_to_hang_up_is_one_doubt(self) -> None:
        said: list[object] = []

        class Dead:
            capabilities = Capabilities(ping=True)

            async def pull(self, cursor: object, limit: object) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    for _ in range(20):
                        await asyncio.sleep(0)

            async def ping(self) -> None:
                raise Offline("dead")

            async def connect(self, hello: object) -> None: ...
            async def push(self, batch: object) -> None: ...
            async def close(self) -> None: ...

        limits: Any = SimpleNamespace(connect_timeout=5, request_timeout=5, pong_timeout=5, urgent_pong_timeout=5)

        async def doubt() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
            dead: Any = Dead()
            line = Line(dead, limits, Environment())
            pulling = asyncio.ensure_future(line.pull(None, Limit()))
            for _ in range(3):
                await asyncio.sleep(0.01)
                line.check()
            with pytest.raises(Offline):
                await pulling
            gc.collect()
            await asyncio.sleep(0)

        in_loop(doubt())
        assert said == []


class TestWhatIsLeftBehind:
    def test_streams_that_nobody_holds_are_forgotten(self, world: World) -> None:
        session = in_step(world.device()).sync_session
        for _ in range(20):
            for _status in session.status_changes():
                break
            session.connection_state_changes()
            session.progress(Direction.UPLOAD, ProgressMode.INDEFINITELY)
        del _status
        gc.collect()
        assert not session._statuses.has_readers
        assert not session._connections.has_readers
        assert len(session._transfers._tracked) == 0

    def test_a_reader_that_gives_up_again_and_again_leaves_nothing(self, world: World) -> None:
        realm = in_step(world.device())
        stream = realm.sync_session.connection_state_changes()

        async def give_up() -> None:
            for _ in range(100):
                reading = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])

        in_loop(give_up())
        assert stream._wakers == []

    def test_progress_that_is_asked_for_while_the_session_ends_ends(self, world: World) -> None:
        session = in_step(world.device()).sync_session
        store = session._parts.store
        original = store.totals

        def ends_meanwhile() -> Pending:
            found = original()
            session.end()
            return found

        store.totals = ends_meanwhile  # type: ignore[method-assign]
        stream = session.progress(Direction.UPLOAD, ProgressMode.INDEFINITELY)
        assert in_background(lambda: list(stream)).result(PATIENCE) == []


class TestTheFirstDownload:
    @pytest.mark.parametrize("error", [ProtocolError("another language")], ids=["a fatal error"])
    def test_of_a_session_that_stopped_before_anybody_waited_fails(self, world: World, error: SyncError) -> None:
        line = world.line()
        line.break_down(connect=Raise(error))
        device = world.device(remote=line)
        with pytest.raises(ProtocolError):
            in_background(lambda: device.open(wait_for_initial_remote_data=True)).result(PATIENCE)

    @pytest.mark.parametrize("stop", [SyncSession.pause, lambda session: session.end()], ids=["pause", "end"])
    def test_of_a_session_that_is_stopped_already_is_not_waited_for(
        self, world: World, stop: Callable[[SyncSession], None]
    ) -> None:
        session = in_step(world.device()).sync_session
        stop(session)
        with pytest.raises(SyncError):
            in_background(lambda: session.download_or_fail(None)).result(PATIENCE)
