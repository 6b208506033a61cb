"""Sessions forget clocks of rows as they go, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore import Realm
from tests.unit.session_kit import PATIENCE, Device, World, add, eventually, sql, texts

DAY = 86_400.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def records(device: Device) -> int:
    return int(sql(device.path, "SELECT count(*) FROM localstore_clock")[0][0])


def upload(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)


def test_a_session_forgets_what_is_past_the_horizon_and_goes_on(world: World) -> None:
    writer, reader = world.device("writer"), world.device("reader")
    wrote, read = writer.open(), reader.open()
    add(wrote, "old")
    eventually(lambda: texts(read) == ["old"])
    world.at_rest(2)
    assert records(reader) == 1
    world.clock.advance(61 * DAY)
    eventually(lambda: records(reader) == records(writer) == 0)
    add(wrote, "new")
    eventually(lambda: texts(read) == ["new", "old"])
    assert texts(wrote) == ["new", "old"]
    assert reader.kinds == writer.kinds == []


def test_a_session_keeps_what_is_within_the_horizon(world: World) -> None:
    device = world.device()
    realm = device.open()
    add(realm, "old")
    upload(realm)
    world.at_rest()
    world.clock.advance(59 * DAY)
    world.at_rest()
    add(realm, "new")
    upload(realm)
    device.let_it_run()
    assert records(device) == 2


def test_the_setting_reaches_the_file(world: World) -> None:
    device = world.device(client_maximum_offline_time=DAY)
    realm = device.open()
    add(realm, "old")
    upload(realm)
    world.at_rest()
    world.clock.advance(2.1 * DAY)
    eventually(lambda: records(device) == 0)


def test_a_round_begins_once_an_hour(world: World) -> None:
    device = world.device(client_maximum_offline_time=3600)
    realm = device.open()
    add(realm, "old")
    upload(realm)
    world.at_rest()
    world.clock.advance(3599)
    world.at_rest()
    add(realm, "new")
    upload(realm)
    world.at_rest()
    assert records(device) == 2
    world.clock.advance(3 * 3600)
    eventually(lambda: records(device) == 0)


def test_a_session_that_has_not_reached_the_head_forgets_nothing(world: World) -> None:
    line = world.line()
    device = world.device(remote=line)
    realm = device.open()
    add(realm, "old")
    upload(realm)
    world.at_rest()
    line.hold("pull")
    world.clock.advance(61 * DAY)
    eventually(lambda: line.held("pull"))
    device.let_it_run()
    assert records(device) == 1
    line.let_go("pull")
    eventually(lambda: records(device) == 0)
