"""Forgetting by the clock: devices that keep to the client maximum offline time, with a remote in their midst.

The other properties forget by what everybody has seen, which no device can know. Here each forgets by its clock, as sessions
let it, and the promise of the setting has to be enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.properties import for_all
from tests.unit.purge_kit import records
from tests.unit.store_kit import LINK, NOTE, Device, query, write
from tests.unit.test_apply import statements

HOUR = 3600
OFFLINE = 24 * HOUR
SLACK = HOUR // 2  # by which devices keep to it, as their clocks differ
SKEWS = (-100, 0, 100)  # seconds, of each device's clock


@dataclass(frozen=True)
class Turn:
    """A device writes or meets the remote, or hours pass."""

    kind: str
    device: int
    hours: int
    statements: tuple[str, ...]


TURNS = st.lists(
    st.builds(
        Turn,
        kind=st.sampled_from(["write", "write", "meet", "meet", "pass", "pass"]),
        device=st.integers(0, 2),
        hours=st.integers(1, 22),
        statements=st.lists(statements(), min_size=1, max_size=3).map(tuple),
    ),
    min_size=10,
    max_size=45,
)


class Town:
    """Three devices and a remote, whose clock is right."""

    def __init__(self, folder: Path, *, forgets: bool) -> None:
        self.devices = []
        self.history: list[SealedChangeset] = []
        self._forgets = forgets
        self._remote_clock = ManualClock()
        self._read = [0] * len(SKEWS)
        self._met = [self._remote_clock.monotonic()] * len(SKEWS)
        folder.mkdir()
        for name, skew in zip("xyz", SKEWS, strict=True):
            clock = ManualClock(self._remote_clock.now_ms() + skew * 1000)
            tables = [NOTE, LINK]
            self.devices.append(Device(folder, name, tables, clock=clock, client_maximum_offline_time=float(OFFLINE)))

    def take(self, turn: Turn) -> None:
        if turn.kind == "write":
            write(self.devices[turn.device].store, *turn.statements)
        elif turn.kind == "meet":
            self.meet(turn.device)
        else:
            self.pass_time(turn.hours * HOUR)

    def meet(self, index: int) -> None:
        """What a cycle does: pull to the head, push, forget."""
        device = self.devices[index]
        device.receive(*self.history[self._read[index] :])
        sent = device.sealed()
        self.history += sent
        self._read[index] = len(self.history)
        device.store.acknowledge(device.store.state().last_number)
        self._met[index] = self._remote_clock.monotonic()
        if self._forgets:
            device.store.purge(self._remote_clock.now_ms())

    def pass_time(self, seconds: int) -> None:
        """Who would be away for too long meets the remote before."""
        for index, met in enumerate(self._met):
            if self._remote_clock.monotonic() + seconds - met > OFFLINE - SLACK:
                self.meet(index)
        for clock in (self._remote_clock, *(device.clock for device in self.devices)):
            clock.advance(seconds)

    def settle(self) -> None:
        """Everybody hears of everything, and all of it becomes old."""
        for _ in range(2):
            for index in range(len(self.devices)):
                self.meet(index)
        for _ in range(3):
            self.pass_time(OFFLINE - SLACK)
            for index in range(len(self.devices)):
                self.meet(index)

    def close(self) -> None:
        for device in self.devices:
            device.close()


@for_all(everyday=5, slow=15, turns=TURNS)
def test_devices_that_keep_to_their_offline_time_can_forget_by_the_clock(turns: list[Turn]) -> None:
    with TemporaryDirectory() as folder:
        towns = [Town(Path(folder) / kind, forgets=kind == "forgets") for kind in ("forgets", "remembers")]
        for town in towns:
            for turn in turns:
                town.take(turn)
            town.settle()
        forgetful, faithful = (town.devices for town in towns)
        for one, other in zip(forgetful, faithful, strict=True):
            for table in ("note", "link"):
                assert one.rows(table) == other.rows(table) == faithful[0].rows(table)
            assert query(one.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
            assert records(one) == 0
        for town in towns:
            town.close()


def test_an_update_for_a_row_that_was_deleted_and_came_again_is_void_to_the_last_hour(tmp_path: Path) -> None:
    """The longest way: the new row is written at once and sent late, and who missed it by a moment writes as late."""
    town = Town(tmp_path / "town", forgets=True)
    x, y, z = town.devices
    x.write("INSERT INTO note VALUES ('a', 'first', 1)")
    for index in (0, 1, 2):
        town.meet(index)
    x.write("DELETE FROM note")
    x.write("INSERT INTO note VALUES ('a', 'again', 2)")
    town.pass_time(OFFLINE - SLACK)
    for index in (1, 0, 2):  # y does not hear of it
        town.meet(index)
    town.pass_time(OFFLINE - SLACK)
    y.write("UPDATE note SET title = 'for the first'")
    z.write("INSERT INTO note (id) VALUES ('z')")
    for index in (2, 0, 1, 0, 2):
        town.meet(index)
    assert x.row("a") == y.row("a") == z.row("a") == {"title": "again", "stars": 2}
    town.settle()
    assert x.rows() == y.rows() == z.rows()
    town.close()
