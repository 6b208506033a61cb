"""The network that came back: what counts as such, how often it is passed on, and that it ends every wait after errors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore import App, Credentials, Realm, Settings, SyncConfiguration
from localstore.environment import Environment
from localstore.errors import Offline
from localstore.sync.loop import BackgroundLoop
from localstore.sync.netlink import Links, open_netlink
from localstore.sync.network import (
    QUIET_SECONDS,
    TICK_SECONDS,
    Clocks,
    NetworkWatch,
    SystemNetwork,
    networks,
    quiet_left,
    woke_up,
)
from localstore.testing.clock import ManualClock, ManualNetwork, environment
from localstore.testing.faulty import Raise
from tests.unit.session_kit import PATIENCE, Line, Note, World, add, eventually

UP, LOOPBACK, RUNNING = 0x1, 0x8, 0x40
TENTATIVE, HOST_SCOPE = 0x40, 254


def message(kind: int, body: bytes, **attributes: bytes) -> bytes:
    for name, value in attributes.items():
        padding = bytes(-len(value) % 4)
        body += struct.pack("=HH", len(value) + 4, int(name[1:])) + value + padding
    return struct.pack("=IHHII", len(body) + 16, kind, 0, 0, 0) + body


def link(flags: int, index: int = 2, *, gone: bool = False, **attributes: bytes) -> bytes:
    return message(17 if gone else 16, struct.pack("=BxHiII", 0, 1, index, flags, 0), **attributes)


def address(text: str, *, gone: bool = False, flags: int = 0, scope: int = 0, index: int = 2) -> bytes:
    body = struct.pack("=BBBBi", socket.AF_INET, 24, flags, scope, index)
    return message(21 if gone else 20, body, _2=socket.inet_aton(text))


def route(gateway: str, *, length: int = 0, gone: bool = False) -> bytes:
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, length, 0, 0, 254, 0, 0, 1, 0)
    return message(25 if gone else 24, body, _5=socket.inet_aton(gateway), _4=struct.pack("=i", 2))


class TestWhatLinuxTells:
    def test_a_link_that_gets_its_carrier_is_a_hint(self) -> None:
        assert Links().has_come(link(UP | RUNNING))

    @pytest.mark.parametrize("flags", [0, UP, RUNNING])
    def test_a_link_that_is_off_or_has_no_carrier_is_none(self, flags: int) -> None:
        assert not Links().has_come(link(flags))

    def test_a_link_that_was_there_already_is_none(self) -> None:
        links = Links()
        links.has_come(link(UP | RUNNING))
        assert not links.has_come(link(UP | RUNNING))
        assert links.has_come(link(UP | RUNNING, index=3))

    @pytest.mark.parametrize("loss", [link(UP), link(0, gone=True), link(UP | RUNNING, gone=True)])
    def test_a_link_that_was_lost_and_comes_back_is_a_hint_again(self, loss: bytes) -> None:
        links = Links()
        links.has_come(link(UP | RUNNING))
        assert not links.has_come(loss)
        assert links.has_come(link(UP | RUNNING))

    def test_the_loopback_and_ports_of_bridges_are_none(self) -> None:
        assert not Links().has_come(link(UP | RUNNING | LOOPBACK))
        assert not Links().has_come(link(UP | RUNNING, _10=struct.pack("=I", 7)))

    def test_a_new_address_is_a_hint_and_its_renewal_none(self) -> None:
        links = Links()
        assert links.has_come(address("10.0.0.1"))
        assert not links.has_come(address("10.0.0.1"))
        assert links.has_come(address("10.0.0.2"))
        assert not links.has_come(address("10.0.0.1", gone=True))
        assert links.has_come(address("10.0.0.1"))

    def test_an_address_counts_when_it_can_be_used(self) -> None:
        links = Links()
        assert not links.has_come(address("10.0.0.1", flags=TENTATIVE))
        assert links.has_come(address("10.0.0.1"))

    def test_an_address_that_reaches_nobody_else_is_none(self) -> None:
        assert not Links().has_come(address("127.0.0.1", scope=HOST_SCOPE))

    def test_a_new_default_route_is_a_hint_and_other_routes_are_none(self) -> None:
        links = Links()
        assert links.has_come(route("10.0.0.1"))
        assert not links.has_come(route("10.0.0.1"))
        assert not links.has_come(route("10.0.0.1", gone=True))
        assert links.has_come(route("10.0.0.1"))
        assert not links.has_come(route("10.0.0.9", length=24))

    def test_every_message_of_a_datagram_counts(self) -> None:
        assert Links().has_come(link(UP) + message(99, b"abcd") + address("10.0.0.1"))

    def test_messages_that_were_lost_make_the_next_one_a_hint(self) -> None:
        links = Links()
        links.has_come(link(UP | RUNNING))
        links.forget()
        assert links.has_come(link(UP | RUNNING))

    def test_what_is_remembered_is_bounded(self) -> None:
        links = Links()
        for number in range(30_000):
            links.has_come(link(UP | RUNNING, index=number))
        assert len(links._known) <= 10_000

    @given(st.binary(max_size=200))
    def test_whatever_the_bytes_are_they_do_no_harm(self, data: bytes) -> None:
        Links().has_come(data)

    @given(st.integers(0, 60), st.sampled_from([link(UP | RUNNING), address("10.0.0.1"), route("10.0.0.1")]))
    def test_a_message_that_is_cut_off_is_none(self, length: int, whole: bytes) -> None:
        assert Links().has_come(whole[:length]) == (length >= len(whole))

    @given(st.integers(0, 47), st.integers(0, 255), st.sampled_from([link(UP | RUNNING), route("10.0.0.1")]))
    def test_a_damaged_message_does_no_harm(self, place: int, value: int, whole: bytes) -> None:
        damaged = bytearray(whole)
        damaged[place % len(whole)] = value
        Links().has_come(bytes(damaged))


class FakeNetlink:
    """A socket that gives what a test put in: datagrams, or errors."""

    def __init__(self, *given: bytes | OSError, sender: int = 0) -> None:
        self.given = list(given)
        self.sender = sender
        self._bell, self._ringer = socket.socketpair()
        self._ringer.send(b"!")

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.given:
            self._bell.recv(1)
            raise BlockingIOError
        found = self.given.pop(0)
        if isinstance(found, OSError):
            raise found
        return found, (self.sender, 1)

    def fileno(self) -> int:
        return self._bell.fileno()

    def close(self) -> None:
        self._bell.close()
        self._ringer.close()


def hints_of(fake: FakeNetlink) -> int:
    """How many hints come of what a socket gives, all read at one go."""

    async def run() -> int:
        hints: list[None] = []
        end = open_netlink(asyncio.get_running_loop(), lambda: hints.append(None), connect=lambda: fake)  # type: ignore[arg-type, return-value]
        assert end is not None
        for _ in range(10):
            await asyncio.sleep(0)
        end()
        end()
        return len(hints)

    return asyncio.run(run())


class TestReading:
    def test_many_messages_read_at_once_are_one_hint(self) -> None:
        assert hints_of(FakeNetlink(link(UP | RUNNING), address("10.0.0.1"))) == 1

    def test_messages_without_news_are_none(self) -> None:
        assert hints_of(FakeNetlink(link(UP))) == 0

    def test_more_messages_than_there_was_room_for_are_a_hint_and_reading_goes_on(self) -> None:
        assert hints_of(FakeNetlink(OSError(errno.ENOBUFS, "no room"))) == 1
        assert hints_of(FakeNetlink(OSError(errno.ENOBUFS, "no room"), b"", link(UP | RUNNING))) == 1

    def test_other_programs_are_not_listened_to(self) -> None:
        assert hints_of(FakeNetlink(link(UP | RUNNING), sender=os.getpid())) == 0

    def test_a_socket_that_fails_is_closed_and_only_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, "localstore.sync"):
            assert hints_of(FakeNetlink(OSError(errno.EBADF, "broken"), link(UP | RUNNING))) == 0
        assert [record.levelname for record in caplog.records if "not watched" in record.message] == ["DEBUG"]

    def test_a_socket_that_cannot_be_opened_is_only_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        def refused() -> socket.socket:
            raise PermissionError("sandbox")

        async def run() -> object:
            return open_netlink(asyncio.get_running_loop(), lambda: None, connect=refused)

        with caplog.at_level(logging.DEBUG, "localstore.sync"):
            assert asyncio.run(run()) is None
        assert [record.levelname for record in caplog.records if "sandbox" in record.message] == ["DEBUG"]


class TestSleep:
    START = Clocks(wall=1000, monotonic=100, asleep=5)

    def later(self, **changed: float) -> Clocks:
        found = {"wall": 1015.0, "monotonic": 115.0, "asleep": 5.0, **changed}
        return Clocks(**found)

    def test_time_that_passes_on_all_clocks_is_no_sleep(self) -> None:
        assert not woke_up(self.START, self.later(), meant=15)

    def test_time_asleep_that_the_system_counts_is(self) -> None:
        assert woke_up(self.START, self.later(asleep=8), meant=15)

    def test_a_wall_clock_that_runs_ahead_is(self) -> None:
        assert woke_up(self.START, self.later(wall=4600), meant=15)

    def test_a_wall_clock_that_is_set_back_or_adjusted_is_not(self) -> None:
        assert not woke_up(self.START, self.later(wall=10), meant=15)
        assert not woke_up(self.START, self.later(wall=1016.5), meant=15)

    def test_a_timer_that_fires_late_is(self) -> None:
        assert woke_up(self.START, self.later(wall=1900, monotonic=1000), meant=15)
        assert not woke_up(self.START, self.later(wall=1018, monotonic=118), meant=15)

    def test_the_clocks_of_this_system_can_be_read(self) -> None:
        first, second = Clocks.read(Environment()), Clocks.read(Environment())
        assert not woke_up(first, second, meant=0)


class TestHowOften:
    def test_the_first_hint_is_passed_on_at_once(self) -> None:
        assert quiet_left(None, 0) == 0

    def test_the_next_one_at_the_end_of_the_quiet_time(self) -> None:
        assert quiet_left(100, 101) == QUIET_SECONDS - 1
        assert quiet_left(100, 105) == 0
        assert quiet_left(100, 1000) == 0


class Watched:
    """A ``NetworkWatch`` under a clock of its own, which counts what it passes on."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.network = ManualNetwork()
        self.passed_on = 0
        self.loop = BackgroundLoop("test-loop")
        self.watch = NetworkWatch(self.loop, environment(self.clock, network=self.network), self.count)

    def count(self) -> None:
        self.passed_on += 1

    def hint(self) -> None:
        self.network.come_back()
        self.turn()

    def turn(self) -> None:
        async def settled() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        done: list[object] = []
        self.loop.post(lambda: asyncio.ensure_future(settled()).add_done_callback(done.append))
        eventually(lambda: done)


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    watched.watch.keep(True)
    watched.turn()
    yield watched
    watched.watch.keep(False)
    watched.loop.stop(PATIENCE)


class TestPassingOn:
    def test_a_hint_is_passed_on_at_once(self, watched: Watched) -> None:
        watched.hint()
        assert watched.passed_on == 1

    def test_hints_in_the_quiet_time_are_passed_on_once_at_its_end(self, watched: Watched) -> None:
        for _ in range(20):
            watched.hint()
        assert watched.passed_on == 1
        watched.clock.advance(QUIET_SECONDS - 0.1)
        watched.turn()
        assert watched.passed_on == 1
        watched.clock.advance(0.1)
        watched.turn()
        assert watched.passed_on == 2

    def test_without_another_hint_nothing_follows(self, watched: Watched) -> None:
        watched.hint()
        assert watched.clock.next_wake() is None
        watched.clock.advance(60)
        watched.turn()
        assert watched.passed_on == 1

    def test_hints_all_the_time_are_passed_on_once_in_five_seconds(self, watched: Watched) -> None:
        for _ in range(600):
            watched.hint()
            watched.clock.advance(0.1)
        watched.turn()
        assert watched.passed_on == 13  # in a minute, with both ends

    def test_nothing_is_heard_before_it_is_wanted_and_after(self, watched: Watched) -> None:
        watched.hint()
        watched.hint()  # one is passed on later
        watched.watch.keep(False)
        watched.turn()
        assert watched.network.listeners == 0
        watched.clock.advance(60)
        watched.turn()
        assert watched.passed_on == 1
        watched.watch.keep(True)
        watched.turn()
        watched.hint()
        assert watched.passed_on == 2

    def test_it_listens_once_however_often_it_is_wanted(self, watched: Watched) -> None:
        watched.watch.keep(True)
        watched.watch.keep(True)
        watched.turn()
        assert watched.network.listeners == 1


class TestTheSystemItself:
    """``SystemNetwork`` under a clock moved by hand."""

    def ticking(self, clock: ManualClock, **options: Any) -> tuple[BackgroundLoop, list[None], Callable[[], object]]:
        loop, hints, ends = BackgroundLoop("test-loop"), list[None](), list[Callable[[], object]]()
        system = SystemNetwork(environment(clock), **options)
        loop.post(lambda: ends.append(system.watch(lambda: hints.append(None))))
        assert clock.wait_for_sleepers()
        return loop, hints, ends[0]

    def tick(self, clock: ManualClock) -> None:
        clock.advance(TICK_SECONDS)
        eventually(lambda: clock.next_wake() == TICK_SECONDS)

    def test_a_device_that_slept_is_noticed_at_the_next_tick(self) -> None:
        clock = ManualClock()
        loop, hints, end = self.ticking(clock, listen=lambda loop, hint: lambda: None)
        self.tick(clock)
        assert not hints
        clock.suspend(3600)
        self.tick(clock)
        assert len(hints) == 1
        self.tick(clock)
        assert len(hints) == 1
        loop.post(end)
        loop.stop(PATIENCE)
        assert clock.next_wake() is None

    def test_where_the_system_tells_nothing_it_is_asked(self) -> None:
        clock, asked = ManualClock(), fake_psutil(wlan=["10.0.0.1"])
        loop, hints, end = self.ticking(clock, listen=lambda loop, hint: None, load=lambda: asked)
        self.tick(clock)
        assert not hints
        asked.found.clear()
        self.tick(clock)
        assert not hints
        asked.found["wlan"] = ["10.0.0.1"]
        self.tick(clock)
        assert len(hints) == 1
        asked.found["wlan"] = ["10.0.0.1", "10.0.0.2"]
        self.tick(clock)
        assert len(hints) == 2
        loop.post(end)
        loop.stop(PATIENCE)

    def test_whatever_psutil_raises_the_clocks_are_looked_at_still(self) -> None:
        class Broken:
            def __getattr__(self, name: str) -> object:
                raise RuntimeError("no route")

        clock = ManualClock()
        broken: Any = Broken()
        loop, hints, end = self.ticking(clock, listen=lambda loop, hint: None, load=lambda: broken)
        self.tick(clock)
        clock.set(clock.now_ms() + 60_000)
        self.tick(clock)
        assert len(hints) == 1
        loop.post(end)
        loop.stop(PATIENCE)

    def test_it_does_without_when_nothing_can_be_asked(self, caplog: pytest.LogCaptureFixture) -> None:
        def missing() -> ModuleType:
            raise ImportError("psutil")

        clock = ManualClock()
        with caplog.at_level(logging.DEBUG, "localstore.sync"):
            loop, hints, end = self.ticking(clock, listen=lambda loop, hint: None, load=missing)
        self.tick(clock)
        assert not hints
        assert [record.levelname for record in caplog.records if "psutil" in record.message] == ["DEBUG"]
        loop.post(end)
        loop.stop(PATIENCE)

    def test_links_that_are_down_or_reach_nobody_else_do_not_count(self) -> None:
        asked = fake_psutil(lo=["127.0.0.1"], wlan=["10.0.0.1"], off=["10.0.0.2"])
        assert networks(asked) == {"wlan", ("wlan", 2, "10.0.0.1")}

    def test_what_psutil_says_of_this_computer_can_be_read(self) -> None:
        psutil = pytest.importorskip("psutil")
        assert networks(psutil) == networks(psutil)


def fake_psutil(**found: list[str]) -> Any:
    def stats() -> dict[str, object]:
        flags = {"lo": "up,loopback,running"}
        return {name: SimpleNamespace(isup=name != "off", flags=flags.get(name, "up")) for name in asked.found}

    def addresses() -> dict[str, list[object]]:
        return {name: [SimpleNamespace(family=2, address=text) for text in texts] for name, texts in asked.found.items()}

    asked = SimpleNamespace(found=dict(found), net_if_stats=stats, net_if_addrs=addresses)
    return asked


class TestSessions:
    """An app whose line is broken, with a backoff of hours."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with World(tmp_path) as world:
            yield world

    @pytest.fixture
    def network(self) -> ManualNetwork:
        return ManualNetwork()

    def open(self, world: World, network: ManualNetwork, line: Line, **settings: Any) -> tuple[App, Realm]:
        app = App.create(
            "kit",
            remote=line,
            settings=Settings(backoff_initial=3600, backoff_max=3600, backoff_jitter=0, **settings),
            environment=environment(world.clock, network=network),
        )
        user = app.login(Credentials.anonymous())
        return app, Realm.open(SyncConfiguration(user, schema={Note}, path=world.directory / "one.db"))

    def test_a_wait_after_errors_ends_when_the_network_comes_back(self, world: World, network: ManualNetwork) -> None:
        line = world.line()
        line.break_down(connect=Raise(Offline("no network")))
        app, realm = self.open(world, network, line)
        with app, realm:
            add(realm, "offline")
            world.at_rest()
            assert line.count("connect") == 1
            line.recover()
            network.come_back()
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
            assert line.count("connect") == 2

    def test_it_listens_only_while_there_are_sessions(self, world: World, network: ManualNetwork) -> None:
        app, realm = self.open(world, network, world.line())
        eventually(lambda: network.listeners == 1)
        realm.close()
        assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
        eventually(lambda: network.listeners == 0)
        user = app.login(Credentials.anonymous())
        with Realm.open(SyncConfiguration(user, schema={Note}, path=world.directory / "two.db")):
            eventually(lambda: network.listeners == 1)
            app.close()
            assert network.listeners == 0

    def test_an_app_that_opened_nothing_does_not_listen(self, world: World, network: ManualNetwork) -> None:
        app = App.create("kit", remote=world.line(), environment=environment(world.clock, network=network))
        app.close()
        assert network.listeners == 0

    def test_the_setting_turns_it_off(self, world: World, network: ManualNetwork) -> None:
        app, realm = self.open(world, network, world.line(), watch_network=False)
        with app, realm:
            assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
            assert network.listeners == 0

    def test_the_real_network_is_listened_to_and_let_go(self, world: World, tmp_path: Path) -> None:
        before = set(Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").is_dir() else set()
        app = App.create("kit", remote=world.line())
        with Realm.open(SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=tmp_path / "r.db")) as realm:
            assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        app.close()
        if before:
            assert len(set(Path("/proc/self/fd").iterdir())) <= len(before)
