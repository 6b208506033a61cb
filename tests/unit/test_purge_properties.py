"""Forgetting at any time changes nothing: histories of chance, with and without it, end alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from localstore.store.merge import PURGED, RowState
from localstore.store.purge import can_forget
from tests.unit.purge_kit import purge_before
from tests.unit.store_kit import LINK, NOTE, query
from tests.unit.test_apply import KINDS, WIDE_NOTE, Network, Step, histories
from tests.unit.test_merge import ACTS, COLUMNS, ORDERS, Act, Group, row_of
from tests.unit.test_seeds import Files, links, rows, seeded

ALIKE = [[NOTE, LINK]] * 3
WIDE, NARROW = [WIDE_NOTE, LINK], [NOTE]

# -- one row, by the rule of merging alone


class ForgetfulGroup(Group):
    """Replicas that forget the row's clock when it is older than all that may still come, and what its writers had not seen."""

    def forget(self, index: int) -> bool:
        replica = self.replicas[index]
        if not can_forget(replica.state, COLUMNS, self._horizon(index), seeds=False):
            return False
        replica.state = RowState(lives=(PURGED,) if replica.state.lives else ())
        return True

    def _horizon(self, index: int) -> int:
        to_come = [write for write in self.writes if write.version not in self.replicas[index].seen]
        known = [*(write.seen | {write.version} for write in to_come), *(replica.seen for replica in self.replicas)]
        unseen = [write.version[0] for seen in known for write in self.writes if write.version not in seen]
        return min([*unseen, *(write.version[0] for write in to_come), *(clock + 1 for clock in self.clocks)])


@settings(max_examples=500, deadline=None)
@given(count=st.integers(2, 4), before=ACTS, after=ACTS, order=ORDERS, every_column=st.booleans())
def test_a_row_whose_clock_is_forgotten_merges_as_if_it_were_not(
    count: int, before: list[Act], after: list[Act], order: list[int], every_column: bool
) -> None:
    group = ForgetfulGroup(count, every_column=every_column)
    for act in before:
        group.act(act)
    group.deliver_everything(order)
    for number, act in enumerate(after):
        if number % 2 == 0:
            group.forget(act.pick % count)
        group.act(act)
    group.deliver_everything(order)
    for replica in group.replicas:
        assert replica.row == row_of(group.writes), group.writes


# -- whole stores, with the shortest horizon that the rule allows


@dataclass
class ForgetfulNetwork:
    """A network that forgets and one that does not, with the same history."""

    forgetful: Network
    faithful: Network
    seen: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """By device and number of a changeset: how many of each device's its writer had seen."""

    @classmethod
    def of(cls, folder: Path, files: Sequence[Files] = (), *, schemas: Sequence[list[sa.Table]] = ALIKE) -> ForgetfulNetwork:
        networks = []
        for kind in ("forgetful", "faithful"):
            (folder / kind).mkdir()
            for name, (notes, linked) in zip("xyz", files, strict=False):
                seeded(folder / kind, name, notes, linked)
            networks.append(Network(folder / kind, *schemas))
        found = cls(*networks)
        found._note()
        return found

    def widen(self, index: int) -> None:
        """Give a device the schema that has all columns and tables."""
        for network in (self.forgetful, self.faithful):
            network.devices[index].reopen(WIDE)
        self._note()

    def act(self, step: Step) -> None:
        if step.kind == "forget":
            self._forget(step)
            return
        self._seal()
        for network in (self.forgetful, self.faithful):
            network.act(step)
        self._seal()

    def deliver_everything(self, seed: int) -> None:
        for network in (self.forgetful, self.faithful):
            network.deliver_everything(random.Random(seed))
        self._note()

    def check(self) -> None:
        for one, other in zip(self.forgetful.devices, self.faithful.devices, strict=True):
            for table in ("note", "link"):
                assert one.rows(table) == other.rows(table)
            assert query(one.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
            assert query(one.path, LOST) == query(other.path, LOST)

    def close(self) -> None:
        self.forgetful.close()
        self.faithful.close()

    def _forget(self, step: Step) -> None:
        horizon = self._horizon(step.device)
        if step.count > 2:  # not always the shortest
            horizon -= step.count * 5_000 << 16
        purge_before(self.forgetful.devices[step.device], max(0, horizon))

    def _horizon(self, index: int) -> int:
        """The stamp that all that is still to come to a device is later than, and whose writers had seen all before it."""
        devices = range(len(self.forgetful.devices))
        applied = [self._applied(device) for device in devices]
        to_come = [
            (device, sealed)
            for device in devices
            for sealed in self.forgetful.history[device]
            if sealed.number > applied[index][device]
        ]
        known = [*(self.seen[device, sealed.number] for device, sealed in to_come), *applied]
        unseen = [
            sealed.stamp
            for seen in known
            for device in devices
            for sealed in self.forgetful.history[device]
            if sealed.number > seen[device]
        ]
        following = [device.store.state().last_stamp + 1 for device in self.forgetful.devices]
        return min([*unseen, *(sealed.stamp for _, sealed in to_come), *following])

    def _applied(self, index: int) -> list[int]:
        device = self.forgetful.devices[index]
        numbers = dict(query(device.path, "SELECT device, number FROM localstore_device"))
        found = [numbers.get(other.id, 0) for other in self.forgetful.devices]
        found[index] = device.store.state().last_number
        return found

    def _seal(self) -> None:
        self.forgetful.seal()
        self.faithful.seal()
        self._note()

    def _note(self) -> None:
        for index, made in enumerate(self.forgetful.history):
            for sealed in made:
                if (index, sealed.number) not in self.seen:
                    seen = self._applied(index)
                    seen[index] = len(made)  # its later ones are later in any case
                    self.seen[index, sealed.number] = seen


LOST = "SELECT tbl, key, column, lost_value, lost_stamp, won_value, rule FROM localstore_conflict ORDER BY id"
FORGETFUL = [*KINDS, "forget", "forget", "forget"]


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(before=histories(FORGETFUL, 12), after=histories(FORGETFUL, 16), seed=st.integers(0, 1000))
def test_devices_that_forget_hold_the_same_as_those_that_do_not(before: list[Step], after: list[Step], seed: int) -> None:
    with TemporaryDirectory() as folder:
        networks = ForgetfulNetwork.of(Path(folder))
        for step in before:
            networks.act(step)
        networks.deliver_everything(seed)
        for step in after:
            networks.act(step)
        networks.deliver_everything(seed + 1)
        networks.check()
        networks.close()


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    files=st.lists(st.tuples(rows(), links()), min_size=3, max_size=3),
    before=histories(FORGETFUL, 10),
    after=histories(FORGETFUL, 12),
    seed=st.integers(0, 1000),
)
def test_devices_that_forget_hold_the_same_with_rows_from_before_sync(
    files: list[Files], before: list[Step], after: list[Step], seed: int
) -> None:
    with TemporaryDirectory() as folder:
        networks = ForgetfulNetwork.of(Path(folder), files)
        for step in before:
            networks.act(step)
        networks.deliver_everything(seed)
        for step in after:
            networks.act(step)
        networks.deliver_everything(seed + 1)
        networks.check()
        networks.close()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(before=histories([*FORGETFUL, "widen"], 12), after=histories([*FORGETFUL, "widen"], 14), seed=st.integers(0, 1000))
def test_devices_that_forget_hold_the_same_when_they_get_a_new_schema(before: list[Step], after: list[Step], seed: int) -> None:
    """One device has the wider schema from the beginning, the others get it when the history says, or in the end."""
    with TemporaryDirectory() as folder:
        networks = ForgetfulNetwork.of(Path(folder), schemas=[WIDE, NARROW, NARROW])
        wide = {0}
        for number, step in enumerate([*before, *after]):
            if number == len(before):
                networks.deliver_everything(seed)
            if step.kind == "widen":
                wide.add(step.device)
                networks.widen(step.device)
                continue
            is_wide = step.device in wide
            allowed = [sql.replace("title = 't", "due = 'd") if is_wide else sql for sql in step.statements]
            allowed = [sql for sql in allowed if is_wide or "link" not in sql]
            if allowed or step.kind not in ("write", "other program"):
                networks.act(replace(step, statements=tuple(allowed)))
        for index in {1, 2} - wide:
            networks.widen(index)
        networks.deliver_everything(seed + 1)
        networks.check()
        networks.close()
