"""A device that began with a snapshot goes on exactly as one that applied the history: histories of chance, with somebody who
joins in the middle of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localstore.store.snapshots import load_snapshot
from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.unit.repair_kit import Blank, Link, Round, blank_devices, schema, stories, tables_in, try_to
from tests.unit.snapshot_kit import (
    GrowingNetwork,
    joined,
    long_histories,
    repaired_in,
    send_everything,
    snapshot_of,
    snapshot_without_what_is_older,
)
from tests.unit.store_kit import LINK, NOTE, Device, check_equal, close_devices, query
from tests.unit.test_apply import KINDS, WIDE_NOTE, Step
from tests.unit.test_purge_properties import FORGETFUL, LOST, ForgetfulNetwork
from tests.unit.test_repair import play
from tests.unit.test_seeds import Files, links, rows, seeded

pytestmark = pytest.mark.slow

BOTH = [NOTE, LINK]
WIDE, NARROW = [WIDE_NOTE, LINK], [NOTE]
DEVICES = st.integers(0, 2)
MIGRATIONS = [*KINDS, "receive", "widen"]
BEGINNINGS = (
    "INSERT OR IGNORE INTO note VALUES ('a', 't', 0)",
    "INSERT OR IGNORE INTO note VALUES ('b', 't', 1)",
    "INSERT OR IGNORE INTO note VALUES ('c', 't', 2)",
)


def after_joining(step: Step) -> Step:
    """Steps are of three devices; now there are four."""
    return replace(step, device=(step.device + step.count) % 4)


@settings(max_examples=10, deadline=None)
@given(
    files=st.lists(st.tuples(rows(), links()), max_size=3),
    before=long_histories(KINDS, 20),
    after=long_histories(KINDS, 16),
    writer=DEVICES,
    is_up_to_date=st.booleans(),
    shuffled=st.randoms(use_true_random=False),
)
def test_a_device_that_began_with_a_snapshot_ends_as_one_that_applied_the_history(
    files: list[Files], before: list[Step], after: list[Step], writer: int, is_up_to_date: bool, shuffled: random.Random
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for each, (notes, linked) in zip("xyz", files, strict=False):
            seeded(folder, each, notes, linked)
        network = GrowingNetwork(folder, BOTH, BOTH, BOTH)
        network.begin(*BEGINNINGS)
        for step in before:
            network.act(step)
        network.join(writer, BOTH, is_up_to_date=is_up_to_date)
        for step in after:
            network.act(after_joining(step))
        network.add(Device(folder, "whole", BOTH))
        network.deliver_everything(shuffled)
        for device in network.devices:
            assert query(device.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
        check_equal(*network.devices, tables=("note", "link"))
        network.close()


class Schemas:
    """Which devices have all columns and tables by now, and what others may therefore not say."""

    def __init__(self, network: GrowingNetwork) -> None:
        self._network = network
        self._wide = {0}

    def act(self, step: Step) -> None:
        if step.kind == "widen":
            self.widen(step.device)
            return
        is_wide = step.device in self._wide
        allowed = [sql.replace("title = 't", "due = 'd") if is_wide else sql for sql in step.statements]
        allowed = [sql for sql in allowed if is_wide or "link" not in sql]
        if allowed or step.kind not in ("write", "other program"):
            self._network.act(replace(step, statements=tuple(allowed)))

    def widen(self, index: int) -> None:
        self._wide.add(index)
        self._network.devices[index].reopen(WIDE)

    def finish(self) -> None:
        for index in set(range(len(self._network.devices))) - self._wide:
            self.widen(index)


@settings(max_examples=10, deadline=None)
@given(
    before=long_histories(MIGRATIONS, 18),
    after=long_histories(MIGRATIONS, 12),
    writer=DEVICES,
    is_up_to_date=st.booleans(),
    is_wide=st.booleans(),
    shuffled=st.randoms(use_true_random=False),
)
def test_a_snapshot_of_another_schema_loses_nothing(
    before: list[Step], after: list[Step], writer: int, is_up_to_date: bool, is_wide: bool, shuffled: random.Random
) -> None:
    """One device has the wide schema from the beginning, the others get it when the history says, or in the end."""
    with TemporaryDirectory() as name:
        network = GrowingNetwork(Path(name), WIDE, NARROW, NARROW)
        network.begin("INSERT INTO note VALUES ('a', 't', 0, 'today')", *BEGINNINGS[1:])
        network.devices[0].write("INSERT INTO link VALUES ('a', 0, 'l')")
        schemas = Schemas(network)
        for step in before:
            schemas.act(step)
        network.join(writer, WIDE if is_wide else NARROW, is_up_to_date=is_up_to_date)
        if is_wide:
            schemas.widen(3)
        for step in after:
            schemas.act(after_joining(step))
        network.add(Device(network.folder, "whole", NARROW))
        schemas.finish()
        network.deliver_everything(shuffled)
        check_equal(*network.devices, tables=("note", "link"))
        network.close()


# -- what was forgotten


@settings(max_examples=10, deadline=None)
@given(
    files=st.lists(st.tuples(rows(), links()), max_size=3),
    before=long_histories(FORGETFUL, 14),
    after=long_histories(FORGETFUL, 14),
    writer=DEVICES,
    is_purged=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_snapshot_without_what_is_older_than_the_horizon_makes_no_difference(
    files: list[Files], before: list[Step], after: list[Step], writer: int, is_purged: bool, seed: int
) -> None:
    """In one network a device joins with a snapshot from behind the horizon, in the other with all of history."""
    with TemporaryDirectory() as name:
        networks = ForgetfulNetwork.of(Path(name), files)
        for step in before:
            networks.act(step)
        networks.deliver_everything(seed)
        join(networks, writer, is_purged=is_purged)
        for step in after:
            networks.act(after_joining(step))
        networks.deliver_everything(seed + 1)
        networks.check()
        networks.close()


def join(networks: ForgetfulNetwork, writer: int, *, is_purged: bool) -> None:
    """Device 3 joins both networks."""
    if is_purged:
        networks.act(Step(writer, "forget", 1, 1, ()))
    device, horizon = networks.forgetful.devices[writer], networks._horizon(writer)
    folder = device.path.parent
    snapshot = snapshot_without_what_is_older(device, folder / "snapshot", horizon)
    one = joined(folder, "j", snapshot, BOTH)
    send_everything(networks.faithful.devices[writer])
    other = Device(networks.faithful.devices[0].path.parent, "j", BOTH)
    other.receive(*(sealed for made in networks.faithful.history for sealed in made))
    for network, new in ((networks.forgetful, one), (networks.faithful, other)):
        network.devices.append(new)
        network.history.append([])
        for received in network.received:
            received.append(0)
        network.received.append([0] * 4)
    assert query(one.path, LOST) == query(other.path, LOST) == []


# -- what is not shown as merged


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Blank:
    return blank_devices(tmp_path_factory.mktemp("blank"), "xyzjh")


def parting(link: Link) -> Round:
    """One device deletes what another refers to meanwhile."""
    delete = f"DELETE FROM {link.target} WHERE id = 'p'"
    return Round([[delete], [f"UPDATE {link.table} SET {link.column} = 'p'"], []], [], [])


class History:
    """All changesets that devices made, which stay when these forget them."""

    def __init__(self, *devices: Device) -> None:
        self.devices = [*devices]
        self.sealed: list[SealedChangeset] = []

    def deliver(self) -> None:
        """Everybody receives everything that is new."""
        known = {(sealed.device, sealed.number) for sealed in self.sealed}
        news = [made for device in self.devices for made in device.sealed() if (made.device, made.number) not in known]
        self.sealed += news
        for device in self.devices:
            device.receive(*news)


@settings(max_examples=15, deadline=None)
@given(story=stories(), point=st.integers(1, 3), writer=DEVICES)
def test_rows_that_are_set_aside_are_so_where_a_snapshot_was_loaded(
    blank: Blank, story: tuple[list[Link], list[Round]], point: int, writer: int
) -> None:
    whole, rounds = story
    rounds = [parting(whole[0]), *rounds]
    clock, tables = ManualClock(), schema(whole, enforced=True)
    with TemporaryDirectory() as name:
        try:
            history = History(*(blank(Path(name), each, tables, clock) for each in "xyzh"))
            from_history = history.devices[3]
            play(history.devices[:3], whole, rounds[:point])
            history.deliver()
            snapshot = snapshot_of(history.devices[writer], Path(name) / "snapshot")
            from_snapshot = blank(Path(name), "j", tables, clock)
            load_snapshot(from_snapshot.store, snapshot)
            check_alike(from_snapshot, from_history)
            history.devices.append(from_snapshot)
            for round_ in rounds[point:]:
                for device, sql in zip((*history.devices[:3], from_snapshot), (*round_.writes, round_.writes[0]), strict=True):
                    device.clock.advance(0.001)
                    try_to(device, *sql)
                history.deliver()
            history.deliver()
            for device in history.devices:
                check_alike(device, from_history)
        finally:
            close_devices()


def check_alike(device: Device, from_history: Device) -> None:
    assert tables_in(device) == tables_in(from_history)
    assert repaired_in(device) == repaired_in(from_history)
    check_equal(device, from_history, tables=("a", "b", "c"))
    assert query(device.path, "PRAGMA foreign_key_check") == []
