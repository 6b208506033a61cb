"""The bounds of the list of conflicts: the oldest go when others come, in their transaction, and it is said how many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localstore.clock import stamp_at
from localstore.errors import ConflictsForgotten
from localstore.store.conflicts import forget_oldest
from localstore.testing.clock import ManualClock
from tests.unit.session_kit import PATIENCE, Note, World, add
from tests.unit.store_kit import Device, close_devices, other_program

DAY = 86_400


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


class Loser:
    """A device that loses against another as often as it is told to."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.clock = ManualClock()
        self.device = Device(folder, "x", clock=self.clock, **options)
        self.winner = Device(folder, "y", clock=self.clock)
        self._keys = 0

    def lose(self, count: int = 1) -> int:
        """Lose so many values at once; returns how many conflicts were forgotten."""
        keys = range(self._keys, self._keys + count)
        self._keys += count
        self.device.write(*(f"INSERT INTO note VALUES ('{key}', 'mine', 1)" for key in keys))
        self.clock.advance(0.001)
        theirs = self.winner.write(*(f"INSERT INTO note VALUES ('{key}', 'theirs', 1)" for key in keys))
        applied = self.device.receive(theirs)
        assert applied.conflicts == count
        return applied.forgotten

    @property
    def listed(self) -> list[int]:
        """The keys in the list, oldest first."""
        return [int(str(conflict.key[0])) for conflict in self.device.store.conflicts()]


def test_the_oldest_beyond_the_count_go_first(tmp_path: Path) -> None:
    loser = Loser(tmp_path, conflicts_max_count=3)
    assert [loser.lose() for _ in range(5)] == [0, 0, 0, 1, 1]
    assert loser.listed == [2, 3, 4]
    assert loser.lose(2) == 2
    assert loser.listed == [4, 5, 6]


def test_more_at_once_than_the_list_holds_leaves_the_newest(tmp_path: Path) -> None:
    loser = Loser(tmp_path, conflicts_max_count=3)
    loser.lose()
    assert loser.lose(5) == 3
    assert loser.listed == [3, 4, 5]


def test_those_older_than_the_age_go_when_another_comes(tmp_path: Path) -> None:
    loser = Loser(tmp_path, conflicts_max_age=DAY)
    loser.lose()
    loser.clock.advance(DAY / 2)
    assert loser.lose() == 0
    loser.clock.advance(DAY / 2)
    assert loser.listed == [0, 1]
    assert loser.lose() == 1
    assert loser.listed == [1, 2]


def test_the_age_is_counted_from_when_a_value_lost_and_not_from_when_it_was_written(tmp_path: Path) -> None:
    """A device that was offline for longer than the age has all its losses to look at."""
    loser = Loser(tmp_path, conflicts_max_age=DAY)
    loser.device.write("INSERT INTO note VALUES ('0', 'mine', 1)")
    loser.clock.advance(1)
    theirs = loser.winner.write("INSERT INTO note VALUES ('0', 'theirs', 1)")
    loser.clock.advance(30 * DAY)
    assert loser.device.receive(theirs).forgotten == 0
    assert loser.listed == [0]


def test_a_page_without_conflicts_forgets_none(tmp_path: Path) -> None:
    loser = Loser(tmp_path, conflicts_max_age=DAY)
    loser.lose()
    loser.clock.advance(40 * DAY)
    assert loser.device.receive(loser.winner.write("INSERT INTO note VALUES ('new', 'n', 1)")).forgotten == 0
    assert loser.listed == [0]


def test_a_clock_that_steps_back_keeps_the_order_and_loses_nothing(tmp_path: Path) -> None:
    loser = Loser(tmp_path, conflicts_max_age=60, conflicts_max_count=2)
    loser.lose()
    loser.clock.set(loser.clock.now_ms() - 200_000)
    assert [loser.lose(), loser.lose()] == [0, 1]
    assert loser.listed == [1, 2]


def test_a_long_list_shrinks_in_portions_after_its_bounds_were_lowered(tmp_path: Path) -> None:
    loser = Loser(tmp_path)
    assert loser.lose(2500) == 0
    with loser.device.store.transaction() as connection:
        bounds = {"added": 1, "now_ms": loser.clock.now_ms(), "max_age": 30 * DAY, "max_count": 10}
        assert [forget_oldest(connection, **bounds) for _ in range(4)] == [1001, 1001, 488, 0]
    assert loser.listed == list(range(2490, 2500))


def test_conflicts_that_were_counted_from_one_have_no_age(tmp_path: Path) -> None:
    """As earlier versions did, which did not note when."""
    loser = Loser(tmp_path, conflicts_max_age=DAY, conflicts_max_count=2)
    loser.lose()
    with other_program(loser.device.path) as connection:
        connection.execute("UPDATE localstore_conflict SET id = 1")
    loser.clock.advance(365 * DAY)
    assert loser.lose() == 0
    assert loser.listed == [0, 1]
    assert loser.lose() == 1
    assert loser.listed == [1, 2]


def test_an_id_tells_when_the_conflict_was_noted(tmp_path: Path) -> None:
    loser = Loser(tmp_path)
    loser.lose(2)
    noted = stamp_at(loser.clock.now_ms())
    assert [conflict.id for conflict in loser.device.store.conflicts()] == [noted, noted + 1]


def test_the_error_handler_hears_how_many_were_forgotten(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        device = world.device("one", conflicts_max_count=1)
        one, other = device.open(), world.open("other")
        keys = add(one, "a", "b", "c")
        assert one.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert other.sync_session.download_all_server_changes(timeout=PATIENCE)
        one.sync_session.pause()
        for realm in (one, other):
            world.clock.advance(1)
            with realm.write() as tx:
                for key in keys:
                    tx.get_one(Note, key).text = str(realm.path)
        assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
        one.sync_session.resume()
        assert one.sync_session.download_all_server_changes(timeout=PATIENCE)
        (told,) = device.told
        assert isinstance(told, ConflictsForgotten)
        assert told.count == 2
        assert str(told).startswith("2 of the oldest conflicts left the list")
        assert len(one.conflicts()) == 1
