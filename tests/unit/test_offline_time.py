"""How long a device may stay away is known to it, written down rarely, and told before it is too late."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localstore import Realm
from localstore.errors import Offline, OfflineTooLong
from localstore.store.contact import Contact
from localstore.testing.faulty import Raise
from tests.unit.session_kit import PATIENCE, World, add, eventually, sql

DAY = 86_400


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def in_step(realm: Realm) -> None:
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)


def contact(realm: Realm) -> tuple[int, float | None]:
    ((time_ms, horizon_s),) = sql(realm.path, "SELECT contact_ms, horizon_s FROM localstore_state")
    return time_ms, horizon_s


class TestTheDecision:
    @pytest.mark.parametrize(
        ("horizon_days", "left_days", "near"),
        [(30, 3.1, False), (30, 2.9, True), (30, -1, True), (5, 1.1, False), (5, 0.9, True), (100, 3.1, False)],
    )
    def test_less_than_a_fifth_or_three_days_is_near(self, horizon_days: float, left_days: float, near: bool) -> None:
        found = Contact(time_ms=1_000_000, horizon_s=horizon_days * DAY)
        now_ms = 1_000_000 + int((horizon_days - left_days) * DAY * 1000)
        assert found.is_near(now_ms) is near

    def test_without_a_horizon_or_contact_it_never_is(self) -> None:
        assert Contact(time_ms=1, horizon_s=None).deadline_ms is None
        assert Contact(time_ms=0, horizon_s=30.0).deadline_ms is None
        assert not Contact(time_ms=1, horizon_s=None).is_near(10**15)

    def test_the_deadline_is_the_last_contact_and_the_horizon(self) -> None:
        assert Contact(time_ms=1000, horizon_s=2.0).deadline_ms == 3000


class TestContacts:
    def test_a_contact_is_noted_at_the_connect(self, world: World) -> None:
        world.remote.horizon_days = 30
        realm = world.open()
        in_step(realm)
        assert contact(realm) == (world.clock.now_ms(), 30 * DAY)

    def test_a_remote_without_a_horizon_has_no_deadline(self, world: World) -> None:
        realm = world.open()
        in_step(realm)
        assert contact(realm)[1] is None
        assert realm.sync_session.status.offline_deadline is None

    def test_status_says_until_when_the_device_may_stay_away(self, world: World) -> None:
        world.remote.horizon_days = 30
        realm = world.open()
        in_step(realm)
        expected = datetime.fromtimestamp(world.clock.now_ms() / 1000 + 30 * DAY, UTC)
        assert realm.sync_session.status.offline_deadline == expected

    def test_it_says_so_too_before_the_first_connect_of_a_process(self, world: World) -> None:
        world.remote.horizon_days = 30
        device = world.device()
        with device.open() as realm:
            in_step(realm)
            expected = realm.sync_session.status.offline_deadline
        assert device.app.sync.wait_for_sessions_to_terminate(timeout=PATIENCE)
        world.remote.go_offline()
        world.clock.advance(DAY)
        realm = device.open()
        eventually(lambda: realm.sync_session.status.offline_deadline == expected)

    def test_an_idle_session_writes_it_down_once_an_hour(self, world: World) -> None:
        world.remote.horizon_days = 30
        realm = world.open()
        in_step(realm)
        first = contact(realm)
        world.clock.advance(3000)
        in_step(realm)
        assert contact(realm) == first
        version = realm.version
        in_step(realm)
        assert realm.version == version
        world.clock.advance(700)
        in_step(realm)
        eventually(lambda: contact(realm)[0] == world.clock.now_ms())

    def test_a_new_horizon_is_noted_at_once(self, world: World) -> None:
        world.remote.horizon_days = 30
        realm = world.open()
        in_step(realm)
        world.remote.horizon_days = 7
        realm.sync_session.pause()
        realm.sync_session.resume()
        in_step(realm)
        assert contact(realm)[1] == 7 * DAY


class TestTheWarning:
    def test_it_is_told_once_when_the_remote_cannot_be_reached_and_little_time_is_left(self, world: World) -> None:
        world.remote.horizon_days = 30
        line = world.line()
        device = world.device(remote=line)
        realm = device.open()
        in_step(realm)
        realm.sync_session.pause()
        world.clock.advance(28 * DAY)
        line.break_down(connect=Raise(Offline("no network")))
        realm.sync_session.resume()
        eventually(lambda: device.told)
        for _ in range(3):
            attempts = line.count("connect")
            device.app.sync.reconnect()
            eventually(lambda attempts=attempts: line.count("connect") > attempts)  # type: ignore[misc]
        (error,) = device.told
        assert isinstance(error, OfflineTooLong)
        assert "28.0 days. In 2.0 days" in str(error)
        assert error.deadline_ms == contact(realm)[0] + 30 * DAY * 1000
        assert not error.is_fatal

    def test_a_device_that_reaches_the_remote_in_time_is_not_warned(self, world: World) -> None:
        world.remote.horizon_days = 30
        device = world.device()
        realm = device.open()
        in_step(realm)
        realm.sync_session.pause()
        world.clock.advance(28 * DAY)
        realm.sync_session.resume()
        in_step(realm)
        assert device.told == []

    def test_nor_is_one_that_has_time(self, world: World) -> None:
        world.remote.horizon_days = 30
        line = world.line()
        device = world.device(remote=line)
        realm = device.open()
        in_step(realm)
        realm.sync_session.pause()
        world.clock.advance(20 * DAY)
        line.break_down(connect=Raise(Offline("no network")))
        realm.sync_session.resume()
        eventually(lambda: realm.sync_session.last_error)
        add(realm, "a")
        device.let_it_run()
        assert device.told == []
