"""What was unsent for longer than the client maximum offline time is written anew before it is sent: others may have forgotten
what it would take to merge it as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from localstore import Discard, Realm, ResetReason
from localstore.errors import Offline
from localstore.testing.clock import ManualClock, environment
from localstore.testing.faulty import Raise
from localstore_adapters.folder import FolderAdapter
from tests.unit.session_kit import PATIENCE, Line, Seat, World, eventually, in_background, sql

DAY = 86_400.0
OFFLINE = Raise(Offline("no network"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "localstore.sync")


def in_step(*realms: Realm) -> None:
    for realm in (*realms, *realms):
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)


def look(pair: Pair) -> None:
    """Have a session that waits to try again look at the remote."""
    looked = in_background(lambda: pair.realm.sync_session.download_all_server_changes(timeout=PATIENCE))
    while not looked.done():  # it may just have looked, and wait again
        attempts = pair.line.count("connect")
        pair.device.app.sync.reconnect()
        eventually(lambda attempts=attempts: looked.done() or pair.line.count("connect") > attempts)  # type: ignore[misc]
    assert looked.result()


def why(realm: Realm) -> ResetReason | None:
    """Of the last client reset."""
    report = realm.sync_session.last_reset
    return None if report is None else report.kind


def seat(realm: Realm, number: int, guest: str) -> None:
    with realm.write() as tx:
        tx.merge(Seat(room="hall", number=number, guest=guest))


def seated(realm: Realm) -> dict[int, str | None]:
    return {seat.number: seat.guest for seat in realm.exec(select(Seat).order_by("number"))}


class Pair:
    """Two devices that were in step, of which one's line can be broken.

    Attributes:
        line, device, realm: of that one.
        other: the other's realm.
    """

    def __init__(self, world: World, *, clock: ManualClock | None = None, **changes: object) -> None:
        self.line: Line = world.line()
        self.other = world.device("other").open(schema={Seat})
        self.device = world.device("one", remote=self.line, clock=clock)
        self.realm = self.device.open(schema={Seat}, **changes)
        seat(self.other, 1, "Ann")
        in_step(self.other, self.realm)
        assert seated(self.realm) == {1: "Ann"}

    def heal(self) -> None:
        self.line.recover()
        look(self)
        in_step(self.realm, self.other)
        assert seated(self.realm) == seated(self.other)


def test_a_device_that_could_receive_and_not_send_shows_what_those_show_who_have_forgotten(world: World) -> None:
    pair = Pair(world)
    pair.line.break_down(push=OFFLINE)
    seat(pair.realm, 2, "Ben")
    eventually(lambda: pair.line.count("push"))
    world.clock.advance(DAY)
    seat(pair.other, 2, "Cleo")
    in_step(pair.other)
    look(pair)
    assert seated(pair.realm) == {1: "Ann", 2: "Cleo"}
    for _ in range(4):
        world.clock.advance(20 * DAY)
        look(pair)
        in_step(pair.other)
    ((clocks,),) = sql(pair.other.path, "SELECT count(*) FROM localstore_clock")
    assert clocks == 0, "the other one has not forgotten"
    pair.heal()
    assert why(pair.realm) is ResetReason.UNSENT_TOO_LONG
    assert seated(pair.other) == {1: "Ann", 2: "Ben"}
    assert pair.device.told == []


@pytest.mark.parametrize(("days", "expected"), [(29, None), (31, ResetReason.UNSENT_TOO_LONG)])
def test_a_device_that_was_away_for_too_long_brings_what_it_wrote_as_of_today(
    world: World, days: float, expected: ResetReason | None
) -> None:
    pair = Pair(world)
    pair.realm.sync_session.pause()
    seat(pair.realm, 2, "Ben")
    world.clock.advance(days * DAY)
    seat(pair.other, 3, "Cleo")
    in_step(pair.other)
    pair.realm.sync_session.resume()
    in_step(pair.realm, pair.other)
    assert why(pair.realm) is expected
    assert seated(pair.realm) == seated(pair.other) == {1: "Ann", 2: "Ben", 3: "Cleo"}


def test_one_that_wrote_nothing_goes_on_as_it_is(world: World) -> None:
    pair = Pair(world)
    pair.realm.sync_session.pause()
    world.clock.advance(100 * DAY)
    seat(pair.other, 2, "Cleo")
    in_step(pair.other)
    pair.realm.sync_session.resume()
    in_step(pair.realm)
    assert why(pair.realm) is None
    assert seated(pair.realm) == {1: "Ann", 2: "Cleo"}


def test_so_does_one_when_nobody_else_wrote_for_as_long(world: World) -> None:
    pair = Pair(world)
    for _ in range(40):
        world.clock.advance(DAY)
        in_step(pair.realm)
    pair.realm.sync_session.pause()
    seat(pair.realm, 2, "Ben")
    world.clock.advance(100 * DAY)
    pair.realm.sync_session.resume()
    in_step(pair.realm, pair.other)
    assert why(pair.realm) is None
    assert seated(pair.other) == {1: "Ann", 2: "Ben"}


def test_and_one_that_writes_all_the_time_and_sends_it(world: World) -> None:
    pair = Pair(world)
    for day in range(70):
        seat(pair.realm, 2, f"guest {day}")
        seat(pair.other, 3, f"guest {day}")
        in_step(pair.realm, pair.other)
        world.clock.advance(DAY)
    assert why(pair.realm) is why(pair.other) is None


def test_news_arrive_where_nothing_can_be_sent(world: World) -> None:
    pair = Pair(world)
    pair.line.break_down(push=OFFLINE)
    seat(pair.realm, 2, "Ben")
    eventually(lambda: pair.line.count("push"))
    for number in range(3, 6):  # as often as it tries at once: what was written here must not go first each time
        seat(pair.other, number, "Cleo")
        in_step(pair.other)
        look(pair)
        assert number in seated(pair.realm)


def test_a_device_that_was_written_to_for_too_long_before_it_met_the_remote_writes_it_anew(world: World) -> None:
    other = world.device("other").open(schema={Seat})
    seat(other, 1, "Ann")
    in_step(other)
    late = world.device("late").open(schema={Seat})
    late.sync_session.pause()
    seat(late, 1, "Ben")
    world.clock.advance(31 * DAY)
    late.sync_session.resume()
    in_step(late, other)
    assert why(late) is ResetReason.UNSENT_TOO_LONG
    assert seated(late) == seated(other) == {1: "Ben"}


def test_the_first_to_meet_the_remote_just_sends_it(world: World) -> None:
    realm = world.device().open(schema={Seat})
    realm.sync_session.pause()
    seat(realm, 1, "Ann")
    world.clock.advance(100 * DAY)
    realm.sync_session.resume()
    in_step(realm)
    assert why(realm) is None


def test_nothing_is_sent_before_others_changes_are_there(world: World) -> None:
    pair = Pair(world)
    pair.device.let_it_run()
    pair.line.break_down(pull=OFFLINE)
    world.clock.advance(31 * DAY)
    eventually(lambda: pair.realm.sync_session.last_error)
    seat(pair.realm, 2, "Ben")
    pushes = pair.line.count("push")
    for _ in range(3):  # the line was lost a moment ago: what was written here would go first
        attempts = pair.line.count("pull")
        pair.device.app.sync.reconnect()
        eventually(lambda attempts=attempts: pair.line.count("pull") > attempts)  # type: ignore[misc]
    assert pair.line.count("push") == pushes
    seat(pair.other, 2, "Cleo")
    pair.heal()
    assert why(pair.realm) is ResetReason.UNSENT_TOO_LONG


def test_a_line_that_cannot_send_for_years_leads_to_a_reset_now_and_then_and_discards_nothing(world: World) -> None:
    pair = Pair(world)
    pair.line.break_down(push=OFFLINE)
    seat(pair.realm, 2, "Ben")
    eventually(lambda: pair.line.count("push"))
    identities = {pair.realm.device_id}
    for day in range(100):
        world.clock.advance(DAY)
        seat(pair.other, 3, f"guest {day}")
        in_step(pair.other)
        look(pair)
        identities.add(pair.realm.device_id)
        assert len(pair.realm.pending()) == 1
    assert len(identities) == 4
    assert seated(pair.realm) == {1: "Ann", 2: "Ben", 3: "guest 99"}
    pair.heal()
    assert seated(pair.other) == {1: "Ann", 2: "Ben", 3: "guest 99"}


def test_who_discards_at_a_reset_does_so_at_this_one(world: World) -> None:
    pair = Pair(world, client_reset=Discard())
    pair.realm.sync_session.pause()
    seat(pair.realm, 2, "Ben")
    world.clock.advance(31 * DAY)
    seat(pair.other, 3, "Cleo")
    in_step(pair.other)
    pair.realm.sync_session.resume()
    in_step(pair.realm, pair.other)
    assert seated(pair.realm) == seated(pair.other) == {1: "Ann", 3: "Cleo"}
    report = pair.realm.sync_session.last_reset
    assert report is not None
    assert report.discarded == 1
    assert report.backup is not None
    assert report.backup.exists()


def test_the_remotes_clock_counts_where_it_has_one(world: World) -> None:
    wrong = ManualClock()
    pair = Pair(world, clock=wrong)
    pair.realm.sync_session.pause()
    seat(pair.realm, 2, "Ben")
    wrong.advance(100 * DAY)
    seat(pair.other, 3, "Cleo")
    in_step(pair.other)
    pair.realm.sync_session.resume()
    in_step(pair.realm, pair.other)
    assert why(pair.realm) is None


def test_a_folder_has_none_and_the_devices_counts(world: World, tmp_path: Path) -> None:
    surroundings = environment(world.clock)
    one, other = (
        world.device(name, remote=lambda: FolderAdapter(tmp_path / "shared", environment=surroundings)).open(schema={Seat})
        for name in ("one", "other")
    )
    seat(other, 1, "Ann")
    in_step(other, one)
    one.sync_session.pause()
    seat(one, 2, "Ben")
    world.clock.advance(31 * DAY)
    seat(other, 3, "Cleo")
    in_step(other)
    one.sync_session.resume()
    in_step(one, other)
    assert why(one) is ResetReason.UNSENT_TOO_LONG
    assert seated(one) == seated(other) == {1: "Ann", 2: "Ben", 3: "Cleo"}
