"""Sessions at work: starting, pausing, failing, trying again, ending; each on a clock that only the test moves."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from localstore import App, ConnectionState, ConnectionStateChange, Credentials, Manual, Realm, SessionState, SyncConfiguration
from localstore.adapter import Cursor, Hello, Hint, Limit, Page, PushResult, SealedChangeset, SyncAdapter, Welcome
from localstore.errors import (
    Busy,
    NestedWrite,
    Offline,
    OperationAborted,
    ProtocolError,
    RateLimited,
    RealmClosed,
    RemoteDamage,
    ResetRequired,
    StreamOverflow,
    SyncError,
    Unauthorized,
)
from localstore.sync.session import SyncSession
from localstore.sync.state import Event
from localstore.testing.clock import ManualClock
from localstore.testing.faulty import Hang, LoseAnswer, Raise, Repeat
from localstore.testing.memory import MemoryAdapter
from tests.unit.session_kit import (
    PATIENCE,
    Line,
    Note,
    Seat,
    World,
    add,
    eventually,
    in_background,
    in_loop,
    in_thread,
    is_let_go,
    is_open,
    joined,
    no_threads_are_left,
    nothing_was_lost,
    numbers,
    sql,
    texts,
)

DISCONNECTED, CONNECTING, CONNECTED = (
    ConnectionState.DISCONNECTED,
    ConnectionState.CONNECTING,
    ConnectionState.CONNECTED,
)
CONNECTING_STEPS = [ConnectionStateChange(DISCONNECTED, CONNECTING), ConnectionStateChange(CONNECTING, CONNECTED)]
STOP = Manual(on_client_reset=lambda session, error: None)
"""What leaves a client reset to the application."""

TOO_MUCH = [f"too much {number} {number * 7919}" for number in range(200)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def upload(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)


def download(realm: Realm) -> None:
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)


def is_connected(realm: Realm) -> bool:
    return realm.sync_session.connection_state is CONNECTED


class TestOpening:
    def test_opening_a_realm_starts_its_session(self, world: World) -> None:
        realm = world.open()
        assert realm.sync_session.state is SessionState.ACTIVE
        eventually(lambda: is_connected(realm))
        assert realm.sync_session.last_error is None

    def test_opening_never_waits_for_the_remote(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        realm = world.open(remote=line)
        add(realm, "a")
        assert texts(realm) == ["a"]
        assert realm.sync_session.state is SessionState.ACTIVE
        eventually(lambda: line.held("connect"))
        assert realm.sync_session.connection_state is CONNECTING

    def test_being_offline_does_not_change_the_state(self, world: World) -> None:
        world.remote.go_offline()
        realm = world.open()
        world.at_rest()
        assert realm.sync_session.state is SessionState.ACTIVE
        assert realm.sync_session.connection_state is DISCONNECTED

    def test_a_realm_has_the_same_session_every_time(self, world: World) -> None:
        realm = world.open()
        assert realm.sync_session is realm.sync_session

    def test_two_realms_on_one_file_share_a_session(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        one, other = device.open(), device.open()
        world.at_rest()
        one.sync_session.pause()
        assert other.sync_session.state is SessionState.PAUSED
        other.sync_session.resume()
        assert one.sync_session.state is SessionState.ACTIVE
        add(one, "by one")
        add(other, "by the other")
        upload(other)
        assert line.made == 2  # one for each life, not for each realm

    def test_a_file_is_the_same_by_whatever_path(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        device = world.device()
        one, other = device.open(), device.open(path=tmp_path / "link" / device.path.name)
        assert one.sync_session is other.sync_session

    def test_a_second_realm_may_bring_more_classes(self, world: World) -> None:
        device = world.device()
        notes, seats = device.open(), device.open(schema={Seat})
        with seats.write() as tx:
            tx.add(Seat(room="A", number=1))
        add(notes, "a")
        upload(notes)
        assert seats.get(Seat, ("A", 1)) is not None
        assert texts(notes) == ["a"]

    def test_closing_one_realm_leaves_the_session_to_the_other(self, world: World) -> None:
        device = world.device()
        one, other = device.open(), device.open()
        session = one.sync_session
        one.close()
        add(other, "a")
        upload(other)
        assert session.state is SessionState.ACTIVE
        other.close()
        eventually(lambda: session.state is SessionState.INACTIVE)

    def test_sessions_of_one_app_run_side_by_side(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        realms = [device.open(path=tmp_path / f"{number}.db", partition=f"part {number}") for number in range(4)]
        for realm in realms:
            add(realm, realm.path.name)
        for realm in realms:
            upload(realm)
        assert [len(world.remote.changesets(f"part {number}")) for number in range(4)] == [1] * 4

    def test_a_device_hears_of_the_others(self, world: World) -> None:
        one, other = world.open("one"), world.open("other")
        add(one, "from one")
        add(other, "from the other")
        upload(one)
        upload(other)
        download(one)
        download(other)
        assert texts(one) == texts(other) == ["from one", "from the other"]


class TestPausing:
    def test_reading_and_writing_go_on_and_are_uploaded_after_resuming(self, world: World) -> None:
        realm = world.open()
        realm.sync_session.pause()
        add(realm, "a")
        add(realm, "b")
        assert texts(realm) == ["a", "b"]
        assert numbers(realm) == [1, 2]
        assert world.remote.changesets() == []
        realm.sync_session.resume()
        upload(realm)
        assert world.remote_texts() == ["a", "b"]

    def test_nothing_arrives_while_paused(self, world: World) -> None:
        device = world.device("reader")
        reader, writer = device.open(), world.open("writer")
        world.at_rest(2)
        reader.sync_session.pause()
        add(writer, "a")
        upload(writer)
        device.let_it_run()
        world.clock.advance(1000)
        device.let_it_run()
        assert texts(reader) == []
        reader.sync_session.resume()
        download(reader)
        assert texts(reader) == ["a"]

    def test_other_sessions_are_not_touched(self, world: World, tmp_path: Path) -> None:
        device = world.device()
        paused, active = device.open(), device.open(path=tmp_path / "other.db", partition="other")
        paused.sync_session.pause()
        add(active, "a")
        upload(active)

    def test_pausing_disconnects_at_once(self, world: World) -> None:
        realm = world.open()
        eventually(lambda: is_connected(realm))
        realm.sync_session.pause()
        assert realm.sync_session.state is SessionState.PAUSED
        assert realm.sync_session.connection_state is DISCONNECTED

    def test_pausing_and_resuming_twice_does_nothing_more(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        session = device.open().sync_session
        world.at_rest()
        session.pause()
        session.pause()
        session.resume()
        session.resume()
        assert session.download_all_server_changes(timeout=PATIENCE)
        assert line.made == 2
        assert session.state is SessionState.ACTIVE

    @pytest.mark.parametrize("call", ["connect", "pull", "push"])
    @pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
    def test_an_adapter_that_hangs_for_ever_delays_neither_pausing_nor_resuming(
        self, world: World, call: str, after: bool
    ) -> None:
        line = world.line()
        line.break_next(call, Hang(after))
        realm = world.open(remote=line)
        add(realm, "a")
        eventually(lambda: line.count(call) == 1)
        session = realm.sync_session
        in_background(session.pause).result(PATIENCE)
        assert session.state is SessionState.PAUSED
        assert session.connection_state is DISCONNECTED
        in_background(session.resume).result(PATIENCE)
        upload(realm)
        assert line.made == 2
        assert world.remote_texts() == ["a"]

    def test_an_adapter_that_cannot_even_close_delays_nothing(self, world: World) -> None:
        line = world.line()
        line.break_next("close", Hang())
        device = world.device(remote=line)
        realm = device.open()
        world.at_rest()
        realm.sync_session.pause()
        eventually(lambda: line.count("close") == 1)
        realm.sync_session.resume()
        add(realm, "a")
        upload(realm)
        device.app.close()
        no_threads_are_left()

    def test_an_adapter_that_will_not_be_cancelled_does_not_go_on_syncing(self, world: World) -> None:
        """It answers as if nothing had happened; the answer must not be used, nor the next call be made."""
        pulling, swallowed = threading.Event(), threading.Event()

        class Stubborn(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                try:
                    pulling.set()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed.set()
                return await super().pull(cursor, limit)

        device = world.device(remote=lambda: Stubborn(world.remote))
        realm = device.open()
        add(realm, "a")
        assert pulling.wait(PATIENCE)
        realm.sync_session.pause()
        assert swallowed.wait(PATIENCE)
        device.let_it_run()
        assert world.remote.changesets() == []
        assert numbers(realm) == [1]

    def test_a_pause_survives_another_realm_on_the_file(self, world: World) -> None:
        device = world.device()
        one = device.open()
        one.sync_session.pause()
        with device.open() as other:
            assert other.sync_session.state is SessionState.PAUSED
        assert one.sync_session.state is SessionState.PAUSED

    def test_a_pause_ends_when_the_file_is_closed(self, world: World) -> None:
        device = world.device()
        with device.open() as realm:
            realm.sync_session.pause()
            add(realm, "a")
        with device.open() as realm:
            assert realm.sync_session.state is SessionState.ACTIVE
            upload(realm)

    def test_a_session_that_waits_after_an_error_can_be_paused(self, world: World) -> None:
        world.remote.go_offline()
        line = world.line()
        device = world.device(remote=line)
        realm = device.open()
        world.at_rest()
        realm.sync_session.pause()
        world.clock.advance(1000)
        device.let_it_run()
        assert line.count("connect") == 1
        assert realm.sync_session.connection_state is DISCONNECTED

    def test_reconnecting_does_not_end_a_pause(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        realm.sync_session.pause()
        device.app.sync.reconnect()
        device.let_it_run()
        assert realm.sync_session.state is SessionState.PAUSED
        assert realm.sync_session.connection_state is DISCONNECTED

    def test_threads_that_pause_and_resume_at_once_leave_a_working_session(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session

        def toggle() -> None:
            for number in range(30):
                session.pause() if number % 2 else session.resume()

        for thread in [in_thread(toggle) for _ in range(4)]:
            joined(thread)
        session.resume()
        add(realm, "a")
        upload(realm)
        session.pause()
        assert session.connection_state is DISCONNECTED


class TestTryingAgain:
    def attempts(self, world: World, line: Line, count: int, call: str = "connect") -> list[float]:
        """How long the session waits after each of the next attempts, by letting exactly that time pass."""
        waits = []
        made = line.count(call)
        for _ in range(count):
            world.at_rest()
            wait = world.clock.next_wake()
            assert wait is not None
            waits.append(wait)
            world.clock.advance(wait)
            made += 1
            eventually(lambda made=made: line.count(call) == made, "another attempt")  # type: ignore[misc]
        return waits

    def test_attempts_come_after_waits_that_double_up_to_five_minutes(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        world.open(remote=line)
        eventually(lambda: line.count("connect") == 1)
        assert self.attempts(world, line, 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    def test_not_a_moment_too_early(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        device = world.device(remote=line)
        device.open()
        world.at_rest()
        world.clock.advance(0.999)
        device.let_it_run()
        assert line.count("connect") == 1

    def test_the_settings_decide(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        world.open(remote=line, backoff_initial=0.5, backoff_factor=3, backoff_max=10)
        eventually(lambda: line.count("connect") == 1)
        assert self.attempts(world, line, 5) == [0.5, 1.5, 4.5, 10, 10]

    def test_waits_are_shortened_at_random(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        world.open(remote=line, backoff_jitter=0.25)
        eventually(lambda: line.count("connect") == 1)
        shares = [wait / whole for wait, whole in zip(self.attempts(world, line, 5), [1, 2, 4, 8, 16], strict=True)]
        assert all(0.75 <= share <= 1 for share in shares)
        assert len(set(shares)) == 5

    def test_success_forgets_past_failures(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        realm = world.open(remote=line)
        eventually(lambda: line.count("connect") == 1)
        self.attempts(world, line, 3)
        world.at_rest()
        world.remote.go_online()
        world.clock.advance(8)
        download(realm)
        world.at_rest()
        world.remote.go_offline()
        add(realm, "a")  # the push shows that the line is broken
        eventually(lambda: realm.sync_session.connection_state is DISCONNECTED)
        world.at_rest()
        assert self.attempts(world, line, 2) == [1, 2]

    def test_another_kind_of_error_begins_anew(self, world: World) -> None:
        line = world.line()
        line.break_next(
            "connect", *[Raise(error) for error in (Offline("a"), Offline("b"), Busy("c"), Busy("d"), Offline("e"))]
        )
        world.open(remote=line)
        eventually(lambda: line.count("connect") == 1)
        assert self.attempts(world, line, 5) == [1, 2, 1, 2, 1]

    def test_resuming_begins_anew_and_at_once(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        realm = world.open(remote=line)
        eventually(lambda: line.count("connect") == 1)
        self.attempts(world, line, 3)
        realm.sync_session.pause()
        realm.sync_session.resume()
        eventually(lambda: line.count("connect") == 5)
        eventually(lambda: world.clock.next_wake() == 1)
        assert self.attempts(world, line, 2) == [1, 2]

    def test_reconnecting_begins_anew_and_at_once(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        device = world.device(remote=line)
        device.open()
        eventually(lambda: line.count("connect") == 1)
        self.attempts(world, line, 3)
        world.at_rest()
        device.app.sync.reconnect()
        eventually(lambda: line.count("connect") == 5)
        world.at_rest()
        assert self.attempts(world, line, 2) == [1, 2]

    def test_reconnecting_in_time_brings_a_device_back_without_waiting(self, world: World) -> None:
        world.remote.go_offline()
        device = world.device()
        realm = device.open()
        add(realm, "a")
        world.at_rest()
        world.remote.go_online()
        device.app.sync.reconnect()
        upload(realm)

    def test_reconnecting_while_connected_looks_at_the_remote(self, world: World) -> None:
        line = world.line(watch=False)
        device = world.device("reader", remote=line)
        reader = device.open()
        world.at_rest()
        writer = world.open("writer")
        add(writer, "a")
        upload(writer)
        device.app.sync.reconnect()
        eventually(lambda: texts(reader) == ["a"])
        assert line.count("connect") == 1

    def test_reconnecting_with_nothing_to_reconnect_does_nothing(self, world: World) -> None:
        device = world.device()
        device.app.sync.reconnect()
        with device.open():
            pass
        device.app.sync.reconnect()
        device.app.close()
        device.app.sync.reconnect()

    def test_it_waits_as_long_as_the_remote_asks(self, world: World) -> None:
        line = world.line()
        line.break_next(
            "connect", Raise(RateLimited("slow down", retry_after=42)), Raise(RateLimited("slow down", retry_after=0.5))
        )
        realm = world.open(remote=line)
        eventually(lambda: line.count("connect") == 1)
        assert self.attempts(world, line, 2) == [42, 2]
        download(realm)

    def test_writing_does_not_make_it_try_earlier(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        device = world.device(remote=line)
        realm = device.open()
        world.at_rest()
        for number in range(10):
            add(realm, f"note {number}")
        device.let_it_run()
        assert line.count("connect") == 1

    @pytest.mark.parametrize("call", ["pull", "push"])
    def test_a_remote_that_can_be_reached_but_fails_is_not_hammered(self, world: World, call: str) -> None:
        line = world.line()
        line.break_down(**{call: Raise(Busy("maintenance"))})
        realm = world.open(remote=line)
        if call == "push":
            add(realm, "a")
        eventually(lambda: line.count(call) == 1)
        assert self.attempts(world, line, 5, call) == [1, 2, 4, 8, 16]

    def test_progress_counts_as_success(self, world: World) -> None:
        """A long download over a bad line must not come to wait for minutes between its pages."""
        writer = world.open("writer")
        for number in range(8):
            add(writer, f"note {number}")
        upload(writer)
        writer.close()
        line = world.line(watch=False)
        line.break_next("pull", None, *[fault for _ in range(3) for fault in (Raise(Offline("gone")), None)])
        reader = world.open("reader", remote=line, page_count=2)
        for pulls in (2, 4, 6):
            eventually(lambda pulls=pulls: line.count("pull") == pulls)  # type: ignore[misc]
            world.at_rest()
            assert world.clock.next_wake() == 1
            world.clock.advance(1)
        eventually(lambda: len(texts(reader)) == 8)

    def test_errors_that_pass_are_seen_but_not_reported(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        line.break_next("connect", Raise(Offline("no network")))
        realm = device.open()
        world.at_rest()
        error = realm.sync_session.last_error
        assert isinstance(error, Offline)
        assert error.message == "no network"
        assert device.told == []
        world.clock.advance(1)
        download(realm)
        assert realm.sync_session.last_error is None

    def test_an_answer_that_does_not_come_counts_as_being_offline(self, world: World) -> None:
        line = world.line()
        line.break_next("pull", Hang())
        device = world.device(remote=line, request_timeout=90)
        realm = device.open()
        eventually(lambda: line.count("pull"))
        device.let_it_run()
        world.clock.advance(89)
        device.let_it_run()
        assert realm.sync_session.last_error is None
        add(realm, "a")
        world.clock.advance(1)
        eventually(lambda: realm.sync_session.last_error)
        assert isinstance(realm.sync_session.last_error, Offline)
        assert "did not answer within 90 s" in str(realm.sync_session.last_error)
        world.at_rest()
        world.clock.advance(1)
        upload(realm)

    @pytest.mark.parametrize("call", ["connect", "pull", "push"])
    @pytest.mark.parametrize("fault", [LoseAnswer(Offline("gone")), Repeat()], ids=["lost answer", "repeated call"])
    def test_lost_answers_and_repeated_calls_double_nothing(self, world: World, call: str, fault: LoseAnswer | Repeat) -> None:
        other = world.open("other")
        add(other, "theirs")
        upload(other)
        line = world.line()
        line.break_next(call, fault)
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "mine")
        eventually(lambda: line.count(call) >= 1)
        world.at_rest(2)
        world.clock.advance(1)
        upload(realm)
        download(realm)
        assert len(world.remote.changesets()) == 2
        assert texts(realm) == world.remote_texts() == ["mine", "theirs"]
        assert realm.conflicts() == []
        assert device.told == []

    def test_a_file_that_others_keep_busy_is_waited_for(self, world: World) -> None:
        writer = world.open("writer")
        device = world.device("reader", busy_timeout=0.05)
        reader = device.open()
        world.at_rest(2)
        with reader.write() as tx:
            tx.add(Note(text="slow"))
            add(writer, "a")
            upload(writer)
            eventually(lambda: reader.sync_session.last_error)
            assert isinstance(reader.sync_session.last_error, Busy)
            assert reader.sync_session.state is SessionState.ACTIVE
        eventually(lambda: world.clock.next_wake() == 1)
        world.clock.advance(1)
        upload(reader)
        download(reader)
        assert texts(reader) == ["a", "slow"]
        assert device.told == []


class TestFatalErrors:
    @pytest.mark.parametrize("call", ["connect", "pull", "push"])
    def test_an_adapter_with_a_bug_stops_the_session_and_is_named(self, world: World, call: str) -> None:
        bug = KeyError("etag")
        line = world.line()
        line.break_down(**{call: Raise(bug)})
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "a")
        eventually(lambda: device.told)
        assert device.kinds == ["ProtocolError"]
        (error,) = device.told
        assert error.__cause__ is bug
        assert error.is_fatal
        assert "_LineAdapter failed with KeyError: 'etag'" in str(error)
        assert realm.sync_session.state is SessionState.INACTIVE
        assert realm.sync_session.connection_state is DISCONNECTED
        assert realm.sync_session.last_error is error
        assert device.told_by == [realm.sync_session]
        eventually(lambda: line.count("close") == 1)
        world.clock.advance(1000)
        device.let_it_run()
        assert device.told == [error]
        assert texts(realm) == ["a"]
        assert numbers(realm) == [1]

    @pytest.mark.parametrize("made", [True, False], ids=["by an adapter", "by a factory"])
    def test_a_password_in_a_foreign_error_is_not_told(self, world: World, made: bool) -> None:
        bug = RuntimeError("cannot reach https://emma:s3cret@hub/todo?token=s3cret")
        line = world.line()
        line.break_down(connect=Raise(bug))

        def make() -> SyncAdapter:
            raise bug

        device = world.device(remote=line if made else make)
        device.open()
        eventually(lambda: device.told)
        assert "https://***@hub/todo?token=***" in str(device.told[0])
        assert "s3cret" not in repr(device.told[0])

    @pytest.mark.parametrize("error", [Unauthorized("who?"), ProtocolError("what?")])
    def test_the_remotes_own_fatal_errors_arrive_as_they_are(self, world: World, error: SyncError) -> None:
        line = world.line()
        line.break_down(connect=Raise(error))
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: device.told)
        assert device.told == [error]
        assert realm.sync_session.state is SessionState.INACTIVE
        assert realm.sync_session.last_error is error

    def test_an_adapter_that_cannot_be_made_is_an_error_as_any_other(self, world: World) -> None:
        missing = ImportError("no driver")

        def make() -> SyncAdapter:
            raise missing

        device = world.device(remote=make)
        realm = device.open()
        eventually(lambda: device.told)
        assert device.kinds == ["ProtocolError"]
        assert device.told[0].__cause__ is missing
        assert realm.sync_session.last_error is device.told[0]
        assert realm.sync_session.state is SessionState.INACTIVE

    def test_a_cancellation_that_nobody_asked_for_does_not_leave_a_dead_session(self, world: World) -> None:
        """Some libraries cancel their callers when a connection of theirs breaks."""

        class SelfCancelling(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                raise asyncio.CancelledError

        device = world.device(remote=lambda: SelfCancelling(world.remote))
        realm = device.open()
        eventually(lambda: device.told)
        assert device.kinds == ["ProtocolError"]
        assert "CancelledError" in str(device.told[0])
        assert realm.sync_session.state is SessionState.INACTIVE

    @pytest.mark.parametrize("problem", [RuntimeError("also broken"), Offline("gone")], ids=lambda error: type(error).__name__)
    def test_an_adapter_that_cannot_close_either_does_not_hide_the_error(
        self, world: World, problem: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        line = world.line()
        error = ProtocolError("nonsense")
        line.break_down(connect=Raise(error), close=Raise(problem))
        device = world.device(remote=line)
        device.open()
        eventually(lambda: "could not be closed" in caplog.text)
        assert device.told == [error]

    def test_a_fatal_error_is_told_even_while_the_adapter_hangs_in_closing(self, world: World) -> None:
        line = world.line()
        error = ProtocolError("nonsense")
        line.break_down(connect=Raise(error))
        line.break_next("close", Hang())
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: line.count("close") == 1)
        assert device.told == [error]
        assert realm.sync_session.state is SessionState.INACTIVE

    def test_an_adapter_that_cannot_close_harms_nobody_who_pauses(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        line = world.line()
        line.break_down(close=Raise(RuntimeError("cannot close")))
        device = world.device(remote=line)
        realm = device.open()
        world.at_rest()
        realm.sync_session.pause()
        eventually(lambda: "cannot close" in caplog.text)
        realm.sync_session.resume()
        add(realm, "a")
        upload(realm)
        assert device.told == []

    def test_resuming_tries_again_with_a_new_adapter(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("nonsense")))
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "a")
        eventually(lambda: len(device.told) == 1)
        realm.sync_session.resume()
        eventually(lambda: len(device.told) == 2)
        line.recover()
        realm.sync_session.resume()
        upload(realm)
        assert line.made == 3
        assert realm.sync_session.last_error is None
        assert len(device.told) == 2

    def test_opening_another_realm_tries_again_too(self, world: World) -> None:
        line = world.line()
        line.break_next("connect", Raise(ProtocolError("nonsense")))
        device = world.device(remote=line)
        realm = device.open()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        with device.open() as other:
            download(other)


class TestTheErrorHandler:
    def test_it_is_called_in_the_background_with_the_session(self, world: World) -> None:
        heard: list[tuple[SyncSession, SyncError, str]] = []
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("nonsense")))
        device = world.device(remote=line)
        realm = device.open(
            error_handler=lambda session, error: heard.append((session, error, threading.current_thread().name))
        )
        eventually(lambda: heard)
        session, error, thread = heard[0]
        assert session is realm.sync_session
        assert error.is_fatal
        assert thread == "localstore-kit"

    def test_what_it_raises_is_logged_and_dropped(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        def handler(session: SyncSession, error: SyncError) -> None:
            raise LookupError("a bug in the handler")

        world.remote.max_changeset_bytes = 1000
        realm = world.device().open(error_handler=handler)
        add(realm, *TOO_MUCH)
        add(realm, "small")
        upload(realm)
        eventually(lambda: "a bug in the handler" in caplog.text)
        assert [record.levelno for record in caplog.records if record.name == "localstore.sync"] == [logging.ERROR]
        assert world.remote_texts() == ["small"]

    def test_without_one_errors_are_logged(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("nonsense")))
        realm = world.device(remote=line).open(error_handler=None)
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        eventually(lambda: "one.db: nonsense" in caplog.text)

    @pytest.mark.parametrize("act", [SyncSession.pause, SyncSession.resume], ids=lambda act: act.__name__)
    def test_it_may_use_the_session(self, world: World, act: Callable[[SyncSession], None]) -> None:
        handled = threading.Event()

        def handler(session: SyncSession, error: SyncError) -> None:
            act(session)
            handled.set()

        line = world.line()
        line.break_next("connect", Raise(ProtocolError("nonsense")))
        realm = world.device(remote=line).open(error_handler=handler)
        assert handled.wait(PATIENCE)
        realm.sync_session.resume()
        add(realm, "a")
        upload(realm)

    def test_it_may_close_the_realm_and_the_app(self, world: World) -> None:
        closed = threading.Event()
        line = world.line()
        line.hold("connect")
        line.break_down(connect=Raise(ProtocolError("nonsense")))
        device = world.device(remote=line)

        def handler(session: SyncSession, error: SyncError) -> None:
            realm.close()
            device.app.close()
            closed.set()

        realm = device.open(error_handler=handler)
        line.let_one_go("connect")
        assert closed.wait(PATIENCE)
        no_threads_are_left()
        assert realm.is_closed
        assert not device.app.sync.has_sync_sessions

    def test_it_may_write(self, world: World) -> None:
        world.remote.max_changeset_bytes = 1000

        def handler(session: SyncSession, error: SyncError) -> None:
            add(realm, f"heard {type(error).__name__}")

        realm = world.device().open(error_handler=handler)
        add(realm, *TOO_MUCH)
        eventually(lambda: "heard CompensatingWrite" in texts(realm))
        upload(realm)
        assert world.remote_texts() == ["heard CompensatingWrite"]


class TestRefusals:
    def aside(self, realm: Realm) -> list[tuple[int, str]]:
        return sql(realm.path, "SELECT number, reason FROM localstore_aside")

    def test_a_refused_changeset_is_set_aside_and_reported_and_later_ones_go_on(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        realm.sync_session.pause()
        add(realm, "before")
        add(realm, *TOO_MUCH)
        add(realm, "after")
        world.remote.max_changeset_bytes = 1000
        realm.sync_session.resume()
        upload(realm)
        eventually(lambda: device.told)
        assert device.kinds == ["CompensatingWrite"]
        (error,) = device.told
        assert not error.is_fatal
        assert [number for number, _ in self.aside(realm)] == [2]
        assert "takes up to 1000" in self.aside(realm)[0][1]
        assert texts(realm) == ["after", "before"]
        assert world.remote_texts() == ["after", "before"]
        assert realm.sync_session.state is SessionState.ACTIVE

    def test_many_refusals_are_told_once_and_together(self, world: World) -> None:
        world.remote.max_changeset_bytes = 1000
        device = world.device()
        realm = device.open()
        realm.sync_session.pause()
        for _ in range(3):
            add(realm, *TOO_MUCH)
            add(realm, "small")
        realm.sync_session.resume()
        upload(realm)
        eventually(lambda: device.told)
        (error,) = device.told
        assert len(getattr(error, "writes", ())) == 3 * len(TOO_MUCH)

    def test_a_remote_that_refuses_even_what_is_empty_stops_the_session_and_nothing_is_lost(self, world: World) -> None:
        world.remote.max_changeset_bytes = 1
        device = world.device()
        realm = device.open()
        add(realm, "precious")
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE, "the session to stop")
        eventually(lambda: device.told)
        assert device.kinds == ["ProtocolError"]
        realm.sync_session.resume()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        assert texts(realm) == ["precious"]
        (kept,) = sql(realm.path, "SELECT sealed FROM localstore_aside")
        assert b"precious" in kept[0]


class TestHistoriesThatParted:
    """Where the application wants to reset the file itself; see test_client_reset for what is done otherwise."""

    def test_a_remote_that_was_wiped_stops_the_session_and_touches_nothing(self, world: World) -> None:
        device = world.device()
        realm = device.open(client_reset=STOP)
        add(realm, "old")
        upload(realm)
        download(realm)
        realm.sync_session.pause()
        add(realm, "new")
        world.remote.wipe()
        realm.sync_session.resume()
        eventually(lambda: device.told)
        (error,) = device.told
        assert isinstance(error, ResetRequired)
        assert error.reason == "remote replaced"
        assert realm.sync_session.state is SessionState.INACTIVE
        assert texts(realm) == ["new", "old"]
        assert numbers(realm) == [2]
        assert world.remote.changesets() == []

    def test_also_when_it_was_wiped_in_the_middle_of_everything(self, world: World) -> None:
        device = world.device()
        realm = device.open(client_reset=STOP)
        download(realm)
        world.at_rest()
        world.remote.wipe()
        add(realm, "new")
        eventually(lambda: device.told)
        assert device.kinds == ["ClientResetRequired"]
        assert numbers(realm) == [1]
        assert world.remote.changesets() == []

    def test_and_when_the_file_was_closed(self, world: World) -> None:
        device = world.device()
        with device.open(client_reset=STOP) as realm:
            add(realm, "old")
            upload(realm)
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        world.remote.wipe()
        realm = device.open(client_reset=STOP)
        eventually(lambda: device.told)
        assert device.kinds == ["ClientResetRequired"]
        assert texts(realm) == ["old"]

    @pytest.mark.parametrize("both_write", [False, True])
    def test_of_two_devices_with_a_copied_file_one_is_stopped(self, world: World, tmp_path: Path, both_write: bool) -> None:
        first = world.device("first")
        with first.open() as realm:
            add(realm, "before the copy")
            upload(realm)
        assert first.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(first.path)
        shutil.copy(first.path, tmp_path / "copy.db")
        second = world.device("copy")
        original = first.open()
        add(original, "by the original")
        upload(original)
        copy = second.open(client_reset=STOP)
        if both_write:
            add(copy, "by the copy")
        eventually(lambda: second.told)
        assert second.kinds == ["ClientResetRequired"]
        assert "device forked" in str(second.told[0])
        assert copy.sync_session.state is SessionState.INACTIVE
        assert first.told == []
        assert texts(copy) == ["before the copy", *(["by the copy"] if both_write else [])]
        assert numbers(copy) == ([2] if both_write else [])
        assert world.remote_texts() == ["before the copy", "by the original"]

    def test_two_copies_that_run_at_the_same_time_do_not_both_go_on(self, world: World, tmp_path: Path) -> None:
        first = world.device("first")
        with first.open():
            pass
        assert first.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(first.path)
        shutil.copy(first.path, tmp_path / "copy.db")
        second = world.device("copy")
        one, other = first.open(), second.open(client_reset=STOP)
        world.at_rest(2)
        add(one, "one")
        upload(one)
        add(other, "other")
        eventually(lambda: second.told)
        assert second.kinds == ["ClientResetRequired"]
        assert numbers(other) == [1]
        assert texts(other) == ["other"]
        assert world.remote_texts() == ["one"]


class TestClocks:
    def test_changes_from_far_ahead_are_told_once_and_applied_when_their_time_comes(self, world: World) -> None:
        fast = ManualClock(world.clock.now_ms() + 3_600_000)
        ahead = world.open("ahead", clock=fast)
        add(ahead, "from the future")
        upload(ahead)
        ahead.close()
        device = world.device()
        realm = device.open()
        for _ in range(3):
            download(realm)
        assert device.kinds == ["ClockDrift"]
        assert texts(realm) == []
        assert realm.sync_session.state is SessionState.ACTIVE
        world.at_rest()
        world.clock.advance(3600)
        eventually(lambda: texts(realm) == ["from the future"])
        assert device.kinds == ["ClockDrift"]

    def test_a_device_a_year_ahead_is_told_of_and_blocks_nobody(self, world: World) -> None:
        far = world.open("far", clock=ManualClock(world.clock.now_ms() + 366 * 86_400_000))
        add(far, "from far ahead")
        upload(far)
        device, other = world.device(), world.open("other")
        realm = device.open()
        add(other, "of today")
        eventually(lambda: texts(realm) == ["of today"])
        eventually(lambda: device.kinds == ["ClockDrift"])
        add(realm, "of today, too")
        eventually(lambda: texts(other) == ["of today", "of today, too"])


class TestNews:
    def test_a_hint_brings_news_without_waiting(self, world: World) -> None:
        reader, writer = world.open("reader"), world.open("writer")
        world.at_rest(2)
        for number in range(5):
            add(writer, f"note {number}")
            eventually(lambda number=number: f"note {number}" in texts(reader))  # type: ignore[misc]
            world.at_rest(2)
            world.clock.advance(5)  # but not at once, as it might end at once each time

    def test_a_watch_with_a_bug_is_told_once_and_the_timer_brings_news(self, world: World) -> None:
        class Broken(MemoryAdapter):
            async def watch(self, cursor: Cursor | None) -> AsyncGenerator[Hint]:
                raise LookupError("a bug")
                yield Hint()

        device, writer = world.device("reader", remote=lambda: Broken(world.remote)), world.open("writer")
        reader = device.open()
        for number in range(3):
            add(writer, f"note {number}")
            upload(writer)
            world.at_rest(2)
            world.clock.advance(60)
            eventually(lambda number=number: f"note {number}" in texts(reader))  # type: ignore[misc]
        assert device.kinds == ["RemoteDamage"]
        assert "a bug" in str(device.told[0])
        assert reader.sync_session.state is SessionState.ACTIVE

    def test_damage_at_the_remote_is_told_once(self, world: World) -> None:
        class Damaged(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                page = await super().pull(cursor, limit)
                return Page(changesets=page.changesets, cursor=page.cursor, more=page.more, warnings=("a torn file",))

        device = world.device(remote=lambda: Damaged(world.remote))
        realm = device.open()
        for _ in range(3):
            download(realm)
        (error,) = device.told
        assert isinstance(error, RemoteDamage)
        assert (error.message, error.hint is None) == ("a torn file", False)

    def test_an_adapter_that_never_gets_to_the_head_is_found_out(self, world: World) -> None:
        class Endless(MemoryAdapter):
            async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
                page = await super().pull(cursor, limit)
                return Page(changesets=page.changesets, cursor=page.cursor, more=True)

        device = world.device(remote=lambda: Endless(world.remote))
        realm = device.open()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        assert "does not move on" in str(realm.sync_session.last_error)

    def test_an_adapter_that_takes_nothing_is_found_out(self, world: World) -> None:
        class Idle(MemoryAdapter):
            async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
                return PushResult(acknowledged=batch[0].number - 1)

        device = world.device(remote=lambda: Idle(world.remote))
        realm = device.open()
        add(realm, "a")
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        assert isinstance(realm.sync_session.last_error, ProtocolError)
        assert numbers(realm) == [1]


class TestClosing:
    @pytest.fixture
    def offline(self, world: World) -> Realm:
        world.remote.go_offline()
        realm = world.open()
        add(realm, "unsent")
        world.at_rest()
        return realm

    def test_with_nothing_unsent_it_ends_at_once(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        session = realm.sync_session
        realm.close()
        assert session.state is SessionState.INACTIVE
        assert session.connection_state is DISCONNECTED
        assert not device.app.sync.has_sync_sessions
        assert is_let_go(device.path)

    def test_unsent_changes_go_out_first(self, world: World, offline: Realm) -> None:
        session, app = offline.sync_session, world._devices[0].app
        offline.close()
        assert session.state is SessionState.DYING
        assert app.sync.has_sync_sessions
        assert app.sync.wait_for_sessions_to_terminate(timeout=0.01) is False
        assert is_open(offline.path)
        world.remote.go_online()
        world.clock.advance(1)
        assert app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE) is True
        assert not app.sync.has_sync_sessions
        assert session.state is SessionState.INACTIVE
        assert session.connection_state is DISCONNECTED
        assert is_let_go(offline.path)
        assert world.remote_texts() == ["unsent"]

    def test_unless_the_policy_is_to_end_at_once(self, world: World) -> None:
        world.remote.go_offline()
        device = world.device()
        realm = device.open(stop_policy="immediately")
        add(realm, "unsent")
        session = realm.sync_session
        realm.close()
        assert session.state is SessionState.INACTIVE
        assert not device.app.sync.has_sync_sessions
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE) is True
        assert is_let_go(device.path)
        world.remote.go_online()
        with device.open() as realm:
            upload(realm)
        assert world.remote_texts() == ["unsent"]

    def test_opening_it_again_brings_a_dying_session_back(self, world: World, offline: Realm) -> None:
        session = offline.sync_session
        offline.close()
        again = world._devices[0].open()
        assert again.sync_session is session
        assert session.state is SessionState.ACTIVE
        world.remote.go_online()
        world.clock.advance(1)
        upload(again)
        assert session.state is SessionState.ACTIVE
        add(again, "more")
        upload(again)

    def test_a_session_that_has_just_uploaded_everything_does_not_die_slowly(self, world: World) -> None:
        """The last acknowledgement may come between the look at the outbox and the decision to let the session finish."""
        device = world.device()
        realm = device.open()
        add(realm, "a")
        upload(realm)
        world.at_rest()
        realm.sync_session.handle(Event.CLOSE_AFTER_UPLOAD)
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)

    def test_pausing_a_dying_session_ends_it(self, world: World, offline: Realm) -> None:
        session, app = offline.sync_session, world._devices[0].app
        offline.close()
        session.pause()
        assert app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(offline.path)

    def test_a_fatal_error_ends_a_dying_session_without_a_word(self, world: World) -> None:
        line = world.line()
        line.break_down(push=Raise(ProtocolError("nonsense")))
        line.hold("push")
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "a")
        eventually(lambda: line.held("push"))
        realm.close()
        line.let_one_go("push")
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert device.told == []
        assert is_let_go(device.path)

    def test_an_error_that_passes_does_not_end_a_dying_session(self, world: World, offline: Realm) -> None:
        session = offline.sync_session
        offline.close()
        world.clock.advance(1)
        eventually(lambda: world.clock.next_wake() == 2)
        assert session.state is SessionState.DYING

    def test_a_paused_session_is_not_waited_for(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        realm.sync_session.pause()
        add(realm, "unsent")
        realm.close()
        assert not device.app.sync.has_sync_sessions
        assert is_let_go(device.path)

    def test_a_stopped_session_is_not_waited_for(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(ProtocolError("nonsense")))
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "unsent")
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        realm.close()
        assert not device.app.sync.has_sync_sessions

    def test_a_realm_can_be_closed_twice(self, world: World) -> None:
        device = world.device()
        one, other = device.open(), device.open()
        one.close()
        one.close()
        assert other.sync_session.state is SessionState.ACTIVE
        add(other, "a")

    def test_closing_inside_a_write_is_refused_and_changes_nothing(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        session = realm.sync_session
        with realm.write() as tx:
            with pytest.raises(NestedWrite):
                realm.close()
            tx.add(Note(text="a"))
        assert not realm.is_closed
        assert realm.sync_session is session
        assert session.state is SessionState.ACTIVE
        upload(realm)
        realm.close()
        assert not device.app.sync.has_sync_sessions
        assert is_let_go(device.path)

    def test_a_realm_that_could_not_be_closed_for_a_writer_can_be_closed_later(self, world: World) -> None:
        device = world.device(busy_timeout=0.3)
        realm = device.open()
        world.at_rest()
        inside, go_on = threading.Event(), threading.Event()

        def write_slowly() -> None:
            with realm.write() as tx:
                tx.add(Note(text="a"))
                inside.set()
                assert go_on.wait(PATIENCE)

        writer = in_thread(write_slowly)
        assert inside.wait(PATIENCE)
        closing = in_background(realm.close)
        error = closing.exception(PATIENCE)
        assert type(error).__name__ == "StoreBusy"
        go_on.set()
        joined(writer)
        realm.close()
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert is_let_go(device.path)

    def test_the_file_can_be_deleted_and_made_anew_after_closing(self, world: World) -> None:
        device = world.device()
        for _ in range(3):
            with device.open() as realm:
                add(realm, "a")
                upload(realm)
            assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
            device.path.unlink()
        assert len(world.remote.changesets()) == 3

    def test_opening_and_closing_in_many_threads_never_yields_a_closed_realm(self, world: World) -> None:
        device = world.device()

        def work(writer: int) -> None:
            for number in range(8):
                with device.open() as realm:
                    add(realm, f"{writer} {number}")

        for worker in [in_background(lambda writer=writer: work(writer)) for writer in range(4)]:  # type: ignore[misc]
            worker.result(PATIENCE)
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        assert len(world.remote_texts()) == 32
        assert device.told == []

    def test_a_write_that_opens_another_realm_and_one_that_closes_do_not_wait_for_each_other(
        self, world: World, tmp_path: Path
    ) -> None:
        device = world.device(busy_timeout=30)
        realm = device.open()
        inside, opening = threading.Event(), threading.Event()

        def write() -> None:
            with realm.write() as tx:
                inside.set()
                assert opening.wait(PATIENCE)
                with device.open(path=tmp_path / "other.db", partition="other") as other:
                    tx.add(Note(text=f"{len(texts(other))} notes elsewhere"))

        writer = in_background(write)
        assert inside.wait(PATIENCE)
        closing = in_background(realm.close)
        device.let_it_run()
        opening.set()
        writer.result(PATIENCE)
        closing.result(PATIENCE)

    def test_waiting_for_the_end_with_no_sessions_is_over_at_once(self, world: World) -> None:
        device = world.device()
        assert device.app.sync.wait_for_sessions_to_terminate() is True
        assert not device.app.sync.has_sync_sessions

    def test_a_closed_session_cannot_be_brought_back(self, world: World) -> None:
        line = world.line()
        device = world.device(remote=line)
        realm = device.open()
        session = realm.sync_session
        world.at_rest()
        realm.close()
        session.resume()
        session.reconnect()
        session.pause()
        device.let_it_run()
        assert session.state is SessionState.INACTIVE
        assert line.made == 1
        assert device.told == []
        assert session.connection_state is DISCONNECTED


class TestClosingTheApp:
    def test_no_thread_is_left(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        add(realm, "a")
        upload(realm)
        device.app.close()
        no_threads_are_left()

    def test_also_with_hanging_adapters_and_unsent_changes(self, world: World) -> None:
        line = world.line()
        line.break_down(push=Hang())
        device = world.device(remote=line)
        realm = device.open()
        add(realm, "a")
        eventually(lambda: line.count("push") == 1)
        realm.close()
        assert device.app.sync.has_sync_sessions
        device.app.close()
        assert not device.app.sync.has_sync_sessions
        assert line.count("close") == 1
        assert is_let_go(device.path)
        no_threads_are_left()

    def test_closing_it_twice_is_fine(self, world: World) -> None:
        device = world.device()
        device.open()
        device.app.close()
        device.app.close()

    def test_an_app_that_never_had_a_session_can_be_closed(self, world: World) -> None:
        world.device().app.close()
        no_threads_are_left()

    def test_it_closes_at_the_end_of_a_with_block(self, world: World) -> None:
        device = world.device()
        with device.app as app:
            assert isinstance(app, App)
            session = device.open().sync_session
        assert session.state is SessionState.INACTIVE
        no_threads_are_left()

    def test_open_realms_can_still_be_read_and_written(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        device.app.close()
        add(realm, "a")
        assert texts(realm) == ["a"]
        assert numbers(realm) == [1]
        assert realm.sync_session.state is SessionState.INACTIVE
        realm.close()
        assert is_let_go(device.path)
        assert not device.app.sync.has_sync_sessions

    def test_nothing_can_be_opened_any_more(self, world: World) -> None:
        device = world.device()
        device.app.close()
        with pytest.raises(ValueError, match="closed"):
            device.open()
        no_threads_are_left()

    def test_its_sessions_stay_ended(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        device.app.close()
        realm.sync_session.resume()
        assert realm.sync_session.state is SessionState.INACTIVE
        no_threads_are_left()

    def test_a_paused_session_is_ended_with_it(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        realm.sync_session.pause()
        device.app.close()
        realm.sync_session.resume()
        realm.close()
        assert not device.app.sync.has_sync_sessions
        assert is_let_go(device.path)

    def test_a_realm_is_unusable_after_its_own_closing_only(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        device.app.close()
        realm.close()
        for use in (realm.pending, realm.conflicts, realm.write, lambda: texts(realm), lambda: realm.sync_session):
            with pytest.raises(RealmClosed):
                use()

    def test_an_adapter_is_closed_in_an_orderly_way(self, world: World) -> None:
        closed = threading.Event()

        class Slow(MemoryAdapter):
            async def close(self) -> None:
                for _ in range(50):
                    await asyncio.sleep(0.001)
                await super().close()
                closed.set()

        device = world.device(remote=lambda: Slow(world.remote))
        realm = device.open()
        eventually(lambda: is_connected(realm))
        device.app.close()  # which does not wait for it
        eventually(closed.is_set)

    def test_no_task_or_exception_is_lost(self, world: World) -> None:
        world.remote.go_offline()
        for name in ("one", "two", "three"):
            device = world.device(name)
            realm = device.open()
            add(realm, "a")
            waits = in_background(realm.sync_session.download_all_server_changes)
            device.let_it_run()
            device.app.close()
            assert isinstance(waits.exception(PATIENCE), OperationAborted)
        nothing_was_lost(world.lost.said)

    def test_a_program_that_closes_nothing_ends_quietly(self, tmp_path: Path) -> None:
        script = """
from tests.unit.session_kit import Note, add
from localstore import App, Credentials, Realm, SyncConfiguration
app = App.create("kit", remote="memory://remote")
realm = Realm.open(SyncConfiguration(app.login(Credentials.anonymous()), {Note}, "notes.db"))
for number in range(50):
    add(realm, f"note {number}")
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", script],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")


class TestConnectionStateChanges:
    def test_nothing_is_said_of_the_state_at_the_beginning(self, world: World) -> None:
        device = world.device()
        realm = device.open()
        world.at_rest()
        changes = realm.sync_session.connection_state_changes()
        realm.close()
        assert list(changes) == [ConnectionStateChange(CONNECTED, DISCONNECTED)]

    def test_changes_come_as_pairs_in_order_and_end_when_the_realm_is_closed(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        session.pause()
        changes = session.connection_state_changes()
        session.resume()
        eventually(lambda: is_connected(realm))
        session.pause()
        session.resume()
        eventually(lambda: is_connected(realm))
        realm.close()
        lost = ConnectionStateChange(CONNECTED, DISCONNECTED)
        assert list(changes) == [*CONNECTING_STEPS, lost, *CONNECTING_STEPS, lost]

    def test_each_attempt_is_seen(self, world: World) -> None:
        line = world.line()
        world.remote.go_offline()
        realm = world.open(remote=line)
        world.at_rest()
        changes = realm.sync_session.connection_state_changes()
        world.clock.advance(1)
        eventually(lambda: line.count("connect") == 2)
        world.at_rest()
        world.remote.go_online()
        world.clock.advance(2)
        eventually(lambda: is_connected(realm))
        realm.close()
        failed = [ConnectionStateChange(DISCONNECTED, CONNECTING), ConnectionStateChange(CONNECTING, DISCONNECTED)]
        assert list(changes) == [*failed, *CONNECTING_STEPS, ConnectionStateChange(CONNECTED, DISCONNECTED)]

    def test_a_loop_in_a_thread_ends_with_the_realm(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        session.pause()
        seen: list[ConnectionStateChange] = []
        changes = session.connection_state_changes()
        reader = in_thread(lambda: seen.extend(changes))
        session.resume()
        eventually(lambda: seen == CONNECTING_STEPS)
        realm.close()
        joined(reader)
        assert len(seen) == 3

    def test_so_does_an_asynchronous_loop(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        session.pause()

        async def follow() -> list[ConnectionStateChange]:
            seen = []
            changes = session.connection_state_changes()
            session.resume()
            async for change in changes:
                seen.append(change)
                if change.new_state is CONNECTED:
                    await realm.close_async()
            return seen

        assert in_loop(follow()) == [*CONNECTING_STEPS, ConnectionStateChange(CONNECTED, DISCONNECTED)]

    def test_it_ends_when_the_app_is_closed(self, world: World) -> None:
        device = world.device()
        changes = device.open().sync_session.connection_state_changes()
        reader = in_thread(lambda: list(changes))
        device.app.close()
        joined(reader)

    def test_it_ends_when_a_dying_session_has_finished(self, world: World) -> None:
        world.remote.go_offline()
        realm = world.open()
        add(realm, "a")
        changes = realm.sync_session.connection_state_changes()
        reader = in_background(lambda: list(changes))
        world.at_rest()
        realm.close()
        assert not reader.done()
        world.remote.go_online()
        world.clock.advance(1)
        assert reader.result(PATIENCE)[-1].new_state is DISCONNECTED

    def test_asking_for_changes_of_a_closed_session_gives_none(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        realm.close()
        assert in_background(lambda: list(session.connection_state_changes())).result(PATIENCE) == []

    def test_a_reader_may_stop_inside_its_loop(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        session.pause()
        changes = session.connection_state_changes()
        session.resume()
        eventually(lambda: is_connected(realm))
        seen = []
        for change in changes:
            seen.append(change)
            changes.close()
        assert seen == CONNECTING_STEPS[:1]

    def test_a_reader_that_stopped_is_told_nothing_more(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        with session.connection_state_changes() as changes:
            session.pause()
        session.resume()
        eventually(lambda: is_connected(realm))
        assert list(changes) == []

    def test_readers_do_not_take_changes_from_each_other(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        session.pause()
        streams = [session.connection_state_changes() for _ in range(3)]
        streams[1].close()
        session.resume()
        eventually(lambda: is_connected(realm))
        session.pause()
        realm.close()
        assert [len(list(stream)) for stream in streams] == [3, 0, 3]

    def test_a_reader_that_is_too_slow_is_told_so(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        changes = session.connection_state_changes()
        while sum(1 for _ in changes._values) < 64:
            session.resume()
            eventually(lambda: is_connected(realm))
            session.pause()
        session.resume()
        eventually(lambda: is_connected(realm))
        assert [next(changes).old_state for _ in range(64)].count(CONNECTED) > 20
        with pytest.raises(StreamOverflow):
            next(changes)

    def test_a_slow_reader_holds_nobody_up(self, world: World) -> None:
        realm = world.open()
        session = realm.sync_session
        session.connection_state_changes()
        for _ in range(40):
            session.pause()
            session.resume()
        add(realm, "a")
        upload(realm)


class TestHello:
    def test_a_session_introduces_itself(self, world: World) -> None:
        hellos: list[Hello] = []

        class Listening(MemoryAdapter):
            async def connect(self, hello: Hello) -> Welcome:
                hellos.append(hello)
                return await super().connect(hello)

        device = world.device(remote=lambda: Listening(world.remote))
        realm = device.open(partition="north")
        download(realm)
        realm.sync_session.pause()
        realm.sync_session.resume()
        download(realm)
        first, second = hellos
        assert (first.app, first.partition, first.remote_id, first.cursor) == ("kit", "north", None, None)
        assert first.device.hex() == second.device.hex() == realm.device_id
        assert second.remote_id == world.remote.remote_id
        assert second.cursor is not None
        add(realm, "a")
        upload(realm)
        assert len(world.remote.changesets("north")) == 1

    def test_a_remote_of_another_application_is_refused(self, world: World) -> None:
        one = world.open()
        download(one)
        heard: list[Any] = []
        other = App.create("another", remote=world.remote.adapter)
        configuration = SyncConfiguration(
            other.login(Credentials.anonymous()),
            {Note},
            world.directory / "another.db",
            error_handler=lambda _, error: heard.append(error),
        )
        with other, Realm.open(configuration):
            eventually(lambda: heard)
        assert isinstance(heard[0], ProtocolError)
