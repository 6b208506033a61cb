"""Signs of life: when an idle session asks for one, what a silent remote leads to, and what ``reconnect()`` does at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore import ConnectionState, Realm
from localstore.errors import Offline
from localstore.sync.heartbeat import Heartbeat
from localstore.testing.faulty import Hang, Raise
from tests.unit.session_kit import PATIENCE, Device, Line, World, add, eventually

CONNECTED, DISCONNECTED = ConnectionState.CONNECTED, ConnectionState.DISCONNECTED


class TestWhenItAsks:
    @pytest.mark.parametrize(("random", "due"), [(0.0, 100.0), (0.5, 130.0), (0.999, 159.94)])
    def test_for_the_first_time_at_any_time_within_a_period(self, random: float, due: float) -> None:
        assert Heartbeat(60, lambda: random, 100.0).due_in(90.0) == pytest.approx(due - 90)

    @pytest.mark.parametrize(("random", "wait"), [(0.0, 60.0), (0.5, 57.0), (0.999, 54.006)])
    def test_then_after_a_period_less_up_to_a_tenth(self, random: float, wait: float) -> None:
        heartbeat = Heartbeat(60, lambda: random, 0.0)
        heartbeat.answered(100.0, 0.0)
        assert heartbeat.due_in(100.0) == pytest.approx(wait)

    def test_and_less_what_the_last_answer_took(self) -> None:
        heartbeat = Heartbeat(60, lambda: 0.0, 0.0)
        heartbeat.answered(100.0, 20.0)
        assert heartbeat.due_in(100.0) == 40
        heartbeat.answered(200.0, 90.0)
        assert heartbeat.due_in(200.0) == 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


class Idle:
    """A session at rest whose remote gives signs of life, and looks for news once an hour."""

    def __init__(self, world: World, **capabilities: object) -> None:
        self.world = world
        self.line: Line = world.line(**{"ping": True, "poll_seconds": 3600.0, "watch": False, **capabilities})
        self.device: Device = world.device(remote=self.line, ping_period=60, pong_timeout=120, urgent_pong_timeout=15)
        self.realm: Realm = self.device.open()
        eventually(lambda: self.line.count("pull"))
        world.at_rest()

    @property
    def session(self):  # type: ignore[no-untyped-def]
        return self.realm.sync_session

    def pings(self, count: int) -> None:
        eventually(lambda: self.line.count("ping") == count, f"ping {count}")

    def pass_time(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.device.let_it_run()


@pytest.fixture
def idle(world: World) -> Idle:
    return Idle(world)


class TestAnIdleSession:
    def test_asks_once_a_period_and_looks_for_news_no_more_often(self, idle: Idle) -> None:
        for count in range(1, 6):
            wait = idle.world.clock.next_wake()
            assert wait is not None
            assert wait <= 60
            idle.pass_time(wait)
            idle.pings(count)
            idle.world.at_rest()
        assert idle.line.count("pull") == 1

    def test_looks_for_news_when_it_would_have_without_asking(self, idle: Idle) -> None:
        elapsed = 0.0
        for _ in itertools.count():
            wait = idle.world.clock.next_wake()
            assert wait is not None
            elapsed += wait
            idle.world.clock.advance(wait)
            idle.device.let_it_run()
            idle.world.at_rest()
            if idle.line.count("pull") > 1:
                break
        assert elapsed == pytest.approx(3600, abs=0.01)

    def test_takes_the_connection_for_dead_when_no_answer_comes(self, idle: Idle) -> None:
        idle.line.hold("ping")
        idle.pass_time(60)
        eventually(lambda: idle.line.held("ping"))
        idle.pass_time(119)
        assert idle.session.connection_state is CONNECTED
        idle.pass_time(1)
        eventually(lambda: idle.session.connection_state is DISCONNECTED)
        error = idle.session.last_error
        assert isinstance(error, Offline)
        assert "120 s" in error.message
        assert idle.device.told == []  # it passes by itself

    def test_connects_anew_after_that(self, idle: Idle) -> None:
        idle.line.break_next("ping", Hang())
        idle.pass_time(60)
        idle.pings(1)
        idle.pass_time(120)
        eventually(lambda: idle.session.connection_state is DISCONNECTED)
        idle.world.at_rest()
        idle.pass_time(1)
        eventually(lambda: idle.session.connection_state is CONNECTED)
        assert idle.line.count("connect") == 2

    def test_of_a_remote_that_gives_no_signs_of_life_asks_for_none(self, world: World) -> None:
        idle = Idle(world, ping=False)
        idle.pass_time(3599)
        assert idle.line.count("ping") == 0
        assert idle.session.connection_state is CONNECTED


class TestWorkThatComesWhileAnAnswerIsOutstanding:
    @pytest.fixture
    def asking(self, idle: Idle) -> Idle:
        idle.line.hold("ping")
        idle.pass_time(60)
        eventually(lambda: idle.line.held("ping"))
        return idle

    def test_a_commit_goes_out_beside_it(self, asking: Idle) -> None:
        for text in ("a", "b", "c"):
            add(asking.realm, text)
            assert asking.session.upload_all_local_changes(timeout=PATIENCE)
        assert asking.line.held("ping") == 1  # and there is no second one
        assert asking.line.count("connect") == 1

    def test_the_line_is_taken_for_dead_as_it_would_have_been_without(self, asking: Idle) -> None:
        asking.pass_time(60)
        add(asking.realm, "a")
        assert asking.session.upload_all_local_changes(timeout=PATIENCE)
        asking.world.at_rest()
        asking.pass_time(59)
        assert asking.session.connection_state is CONNECTED
        asking.pass_time(1)
        eventually(lambda: asking.session.connection_state is DISCONNECTED)
        assert "120 s" in str(asking.session.last_error)

    def test_a_push_that_hangs_as_well_is_given_up_then(self, asking: Idle) -> None:
        asking.pass_time(60)
        asking.line.hold("push")
        add(asking.realm, "a")
        eventually(lambda: asking.line.held("push"))
        asking.pass_time(60)
        eventually(lambda: asking.session.connection_state is DISCONNECTED)
        assert isinstance(asking.session.last_error, Offline)
        asking.line.let_go("push")
        asking.device.app.sync.reconnect()
        assert asking.session.upload_all_local_changes(timeout=PATIENCE)

    def test_an_answer_that_is_late_is_one(self, asking: Idle) -> None:
        add(asking.realm, "a")
        assert asking.session.upload_all_local_changes(timeout=PATIENCE)
        asking.line.let_go("ping")
        asking.pings(1)
        asking.device.let_it_run()
        asking.world.at_rest()
        asking.pass_time(119)
        assert asking.session.connection_state is CONNECTED
        eventually(lambda: asking.line.count("ping") > 1)

    def test_reconnecting_asks_once_more_and_waits_for_that(self, asking: Idle) -> None:
        asking.device.app.sync.reconnect()
        eventually(lambda: asking.line.held("ping") == 2)
        asking.pass_time(15)
        eventually(lambda: asking.line.count("connect") == 2, "another connect, with no time passing")

    def test_closing_the_realm_ends_it(self, asking: Idle) -> None:
        asking.realm.close()
        eventually(lambda: asking.line.held("ping") == 0)


class TestReconnecting:
    def test_asks_at_once(self, idle: Idle) -> None:
        idle.device.app.sync.reconnect()
        idle.pings(1)
        eventually(lambda: idle.line.count("pull") == 2, "a look for news as well")
        assert idle.line.count("connect") == 1

    def test_when_the_line_is_dead_it_is_dropped_soon_and_made_anew_without_delay(self, idle: Idle) -> None:
        """Realm waits for the whole pong timeout here, two minutes, in which nothing helps."""
        idle.line.hold("ping")
        idle.device.app.sync.reconnect()
        eventually(lambda: idle.line.held("ping"))
        idle.pass_time(14)
        assert idle.line.count("connect") == 1
        idle.pass_time(1)
        eventually(lambda: idle.line.count("connect") == 2, "another connect, with no time passing")
        eventually(lambda: idle.session.connection_state is CONNECTED)

    @pytest.mark.parametrize("call", ["pull", "push"])
    def test_a_call_that_hangs_in_a_dead_line_is_given_up_soon(self, idle: Idle, call: str) -> None:
        idle.line.hold(call)
        idle.line.hold("ping")
        add(idle.realm, "a")
        eventually(lambda: idle.line.held(call))
        idle.device.app.sync.reconnect()
        eventually(lambda: idle.line.held("ping"))
        idle.pass_time(15)
        eventually(lambda: idle.line.count("connect") == 2, "another connect")
        idle.line.let_go("ping")
        idle.line.let_go(call)
        assert idle.session.upload_all_local_changes(timeout=PATIENCE)

    def test_a_call_that_is_slow_in_a_living_line_goes_on(self, idle: Idle) -> None:
        idle.line.hold("push")
        add(idle.realm, "a")
        eventually(lambda: idle.line.held("push"))
        for count in (1, 2):  # as often as somebody asks
            idle.device.app.sync.reconnect()
            idle.pings(count)
            idle.device.let_it_run()
            idle.pass_time(20)
        assert idle.session.connection_state is CONNECTED
        idle.line.let_go("push")
        assert idle.session.upload_all_local_changes(timeout=PATIENCE)
        assert idle.line.count("connect") == 1

    def test_a_remote_that_answers_with_an_error_is_connected_anew(self, idle: Idle) -> None:
        idle.line.break_next("ping", Raise(Offline("reset by peer")))
        idle.device.app.sync.reconnect()
        eventually(lambda: idle.line.count("connect") == 2)
        eventually(lambda: idle.session.connection_state is CONNECTED)


class TestFastReconnecting:
    """Uploads begin at once after a short loss of the connection, and after what others did when it was long."""

    def lose_for(self, world: World, seconds: float) -> Line:
        line = world.line()
        device = world.device(remote=line, backoff_initial=seconds, backoff_max=seconds)
        realm = device.open()
        world.at_rest()
        line.break_next("pull", Raise(Offline("gone")))
        device.app.sync.reconnect()
        eventually(lambda: realm.sync_session.connection_state is DISCONNECTED)
        world.at_rest()
        add(realm, "a")
        line.calls.clear()
        world.clock.advance(seconds)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        return line

    def test_after_a_moment_uploads_come_first(self, world: World) -> None:
        assert self.lose_for(world, 59).calls[:2] == ["connect", "push"]

    def test_after_a_longer_absence_downloads_come_first(self, world: World) -> None:
        assert self.lose_for(world, 61).calls[:3] == ["connect", "pull", "push"]

    def test_when_it_connects_for_the_first_time_downloads_come_first(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        realm = world.device(remote=line).open()
        add(realm, "a")
        line.let_go("connect")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert [call for call in line.calls if call != "watch"][:3] == ["connect", "pull", "push"]

    def test_what_is_written_while_connected_goes_out_before_anything_else(self, world: World) -> None:
        line = world.line()
        realm = world.device(remote=line).open()
        world.at_rest()
        line.calls.clear()
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert line.calls[0] == "push"

    def test_a_long_outbox_does_not_keep_news_away(self, world: World) -> None:
        line = world.line(max_batch_count=1)
        realm = world.device(remote=line).open()
        world.at_rest()
        line.hold("push")
        for number in range(5):
            add(realm, f"note {number}")
        other = world.open("other")
        add(other, "news")
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        eventually(lambda: not realm.sync_session.status.is_caught_up)
        line.calls.clear()
        line.let_go("push")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert line.calls.index("pull") <= 2
