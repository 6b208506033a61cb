"""Clocks that are wrong: stamps go forwards all the same, and nobody's clock spoils another device's stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore.clock import stamp_at, stamp_ms
from localstore.store.apply import Applied
from localstore.testing.clock import ManualClock
from tests.unit.store_kit import Device, close_devices, exchange, query
from tests.unit.test_apply import DRIFT_SECONDS, INSERT_A, INSERT_B, check_equal

DAY = 86_400
YEAR = 366 * DAY


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def device(folder: Path, name: str, *, ahead: int = 0) -> Device:
    """A device whose clock is so many seconds ahead of the others'."""
    clock = ManualClock()
    step(clock, ahead)
    return Device(folder, name, clock=clock)


def step(clock: ManualClock, seconds: int) -> None:
    """Set a clock, forwards or back."""
    clock.set(clock.now_ms() + seconds * 1000)


# -- stamps go forwards


@pytest.mark.parametrize("is_sent", [True, False], ids=["all was sent", "nothing was sent"])
def test_stamps_go_forwards_when_the_clock_steps_back_and_the_file_is_opened_anew(tmp_path: Path, is_sent: bool) -> None:
    x = device(tmp_path, "x")
    stamps = [x.write(INSERT_A).stamp]
    for seconds in (-DAY, 0, 5, -YEAR, 10):
        if is_sent:
            x.store.acknowledge(len(stamps))
        step(x.clock, seconds)
        x.reopen()
        stamps.append(x.write(f"UPDATE note SET stars = {len(stamps) + 1}").stamp)
    assert stamps == sorted(set(stamps))
    assert x.store.state().last_stamp == stamps[-1]


def test_stamps_go_on_after_what_was_received_also_after_a_restart(tmp_path: Path) -> None:
    x, y = device(tmp_path, "x"), device(tmp_path, "y", ahead=DRIFT_SECONDS)
    seen = y.write(INSERT_A)
    x.receive(seen)
    x.reopen()
    assert x.write(INSERT_B).stamp == seen.stamp + 1


def test_many_writes_in_one_millisecond_have_each_a_stamp_of_its_own(tmp_path: Path) -> None:
    x = device(tmp_path, "x")
    stamps = [x.write(f"INSERT INTO note (id) VALUES ('{n}')").stamp for n in range(20)]
    assert stamps == [stamp_at(x.clock.now_ms()) + n for n in range(20)]


# -- ties


def test_of_two_changes_with_the_same_stamp_the_greater_device_wins_everywhere(tmp_path: Path) -> None:
    x, y, z = (device(tmp_path, name) for name in "xyz")
    born = x.write(INSERT_A)
    y.receive(born)
    for one in (x, y):
        one.clock.advance(1)
    first, second = x.write("UPDATE note SET title = 'x'"), y.write("UPDATE note SET title = 'y'")
    assert first.stamp == second.stamp
    z.receive(born, second)
    exchange(x, y, z)
    check_equal(x, y, z)
    assert x.row("a") == {"title": max((x.id, "x"), (y.id, "y"))[1], "stars": 1}


# -- behind


@pytest.mark.parametrize("behind", [DAY, YEAR])
def test_a_device_whose_clock_is_behind_wins_over_what_it_has_seen(tmp_path: Path, behind: int) -> None:
    x, y, z = device(tmp_path, "x"), device(tmp_path, "y", ahead=-behind), device(tmp_path, "z")
    born = x.write(INSERT_A)
    z.receive(born)
    # For y, all others are ahead: their changes wait until its clock is set right.
    assert y.receive(born).drifting == {x.id: behind * 1000 - DRIFT_SECONDS * 1000}
    step(y.clock, behind)
    assert y.receive().changesets == 1
    step(y.clock, -behind)
    changed = y.write("UPDATE note SET title = 'seen'")
    assert changed.stamp == born.stamp + 1
    exchange(x, y, z)
    check_equal(x, y, z)
    assert z.row("a") == {"title": "seen", "stars": 1}


def test_a_device_whose_clock_is_a_little_behind_wins_over_what_it_has_seen(tmp_path: Path) -> None:
    x, y = device(tmp_path, "x"), device(tmp_path, "y", ahead=-DRIFT_SECONDS)
    y.receive(x.write(INSERT_A))
    y.write("UPDATE note SET title = 'seen'")
    x.receive(*y.sealed())
    assert x.row("a") == {"title": "seen", "stars": 1}


# -- far ahead


def test_a_change_from_a_year_ahead_raises_nobodys_stamps(tmp_path: Path) -> None:
    x, far = device(tmp_path, "x"), device(tmp_path, "far", ahead=YEAR)
    assert x.receive(far.write(INSERT_A)).drifting == {far.id: (YEAR - DRIFT_SECONDS) * 1000}
    x.reopen()
    assert x.write(INSERT_B).stamp == stamp_at(x.clock.now_ms())
    assert x.rows().keys() == {("b",)}
    assert query(x.path, "SELECT device, number FROM localstore_waiting") == [(far.id, 1)]


def test_changes_that_do_not_depend_on_one_from_a_year_ahead_are_applied(tmp_path: Path) -> None:
    x, y, far = device(tmp_path, "x"), device(tmp_path, "y"), device(tmp_path, "far", ahead=YEAR)
    ahead = far.write("INSERT INTO note VALUES ('far', 'ahead', 1)")
    y.receive(ahead)
    assert x.receive(ahead, y.write(INSERT_A)).changesets == 1
    assert x.receive(y.write(INSERT_B)).changesets == 1
    assert x.rows() == y.rows()
    assert x.rows().keys() == {("a",), ("b",)}


def test_changes_that_depend_on_one_from_a_year_ahead_wait_with_it(tmp_path: Path) -> None:
    """Only a device whose own clock was as wrong can have seen it."""
    x, other, far = device(tmp_path, "x"), device(tmp_path, "other"), device(tmp_path, "far", ahead=YEAR)
    before = other.write(INSERT_B)
    ahead = far.write(INSERT_A)
    step(other.clock, YEAR)
    other.receive(ahead)
    step(other.clock, -YEAR)
    after = other.write("UPDATE note SET stars = 3")
    assert after.stamp > ahead.stamp
    applied = x.receive(before, after, ahead)
    assert (applied.changesets, applied.drifting.keys()) == (1, {other.id, far.id})
    assert x.rows() == {("b",): {"title": "second", "stars": 2}}
    step(x.clock, YEAR)
    assert x.receive() == Applied(changesets=2, rows=3)
    assert x.rows() == other.rows()


def test_what_a_device_wrote_before_its_clock_went_wrong_is_applied(tmp_path: Path) -> None:
    x, far = device(tmp_path, "x"), device(tmp_path, "far")
    right = far.write(INSERT_A)
    step(far.clock, YEAR)
    wrong = far.write(INSERT_B)
    assert x.receive(right, wrong).changesets == 1
    assert x.rows().keys() == {("a",)}


def test_what_is_no_later_than_a_devices_own_stamps_does_not_wait_there(tmp_path: Path) -> None:
    x, far, further = device(tmp_path, "x", ahead=YEAR), device(tmp_path, "far", ahead=YEAR), device(tmp_path, "further")
    early, late = far.write(INSERT_A), x.write(INSERT_B)
    step(further.clock, YEAR + 1)
    later = further.write("INSERT INTO note VALUES ('c', 'third', 3)")
    step(x.clock, -YEAR)
    x.reopen()
    assert early.stamp == late.stamp < later.stamp
    assert x.receive(early, later).drifting.keys() == {further.id}
    assert x.rows().keys() == {("a",), ("b",)}


def test_a_device_whose_clock_was_set_right_goes_on_from_its_far_stamps(tmp_path: Path) -> None:
    """So its later changes wait at the others as well, until that time has come; none is lost, none overtakes another."""
    x, far = device(tmp_path, "x"), device(tmp_path, "far", ahead=YEAR)
    first = far.write(INSERT_A)
    step(far.clock, -YEAR)
    far.reopen()
    second = far.write(INSERT_B)
    assert second.stamp == first.stamp + 1
    assert stamp_ms(second.stamp) - far.clock.now_ms() == YEAR * 1000
    assert far.receive(x.write("INSERT INTO note VALUES ('c', 'x', 3)")).changesets == 1
    assert x.receive(first, second).changesets == 0
    for clock in (x.clock, far.clock):
        clock.advance(YEAR)
    assert x.receive().changesets == 2
    assert x.rows() == far.rows()
