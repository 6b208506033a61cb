"""Resets, undone refusals and seeding in histories of chance, against what the same history comes to without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore.changes import Key, Op, row_changes
from localstore.store.undoing import undo_refused
from tests.properties import for_all
from tests.unit.repair_kit import try_to
from tests.unit.reset_kit import DISCARD, RECOVER, SEED, Remote, settled
from tests.unit.snapshot_kit import repaired_in
from tests.unit.store_kit import Device, Row, changesets_in, check_equal, close_devices, is_clean, query

NAMES = ("note", "parent", "child")
KEYS = st.sampled_from("abc")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def tables(on_delete: str | None) -> list[sa.Table]:
    """One table without constraints, one with a unique column, and one that refers to it."""
    metadata = sa.MetaData()
    sa.Table(
        "note",
        metadata,
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("stars", sa.Integer, server_default="0"),
    )
    sa.Table("parent", metadata, sa.Column("id", sa.String, primary_key=True), sa.Column("name", sa.String, unique=True))
    sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("up", sa.String, sa.ForeignKey("parent.id", ondelete=on_delete)),
        sa.Column("n", sa.Integer),
    )
    return list(metadata.tables.values())


def statements() -> st.SearchStrategy[str]:
    value = st.integers(0, 3)
    return st.one_of(
        st.builds("INSERT INTO note VALUES ('{}', 't{}', {})".format, KEYS, value, value),
        st.builds("INSERT OR REPLACE INTO note (id, title) VALUES ('{}', 't{}')".format, KEYS, value),
        st.builds("UPDATE note SET title = 't{}' WHERE id = '{}'".format, value, KEYS),
        st.builds("UPDATE note SET stars = {} WHERE id >= '{}'".format, value, KEYS),
        st.builds("DELETE FROM note WHERE id = '{}'".format, KEYS),
        st.builds("INSERT INTO parent VALUES ('{}', 'n{}')".format, KEYS, value),
        st.builds("UPDATE parent SET name = 'n{}' WHERE id = '{}'".format, value, KEYS),
        st.builds("DELETE FROM parent WHERE id = '{}'".format, KEYS),
        st.builds("INSERT INTO child VALUES ('{}', '{}', {})".format, KEYS, KEYS, value),
        st.builds("UPDATE child SET up = '{}' WHERE id = '{}'".format, KEYS, KEYS),
        st.builds("UPDATE child SET n = {} WHERE id = '{}'".format, value, KEYS),
        st.builds("DELETE FROM child WHERE id = '{}'".format, KEYS),
    )


@dataclass(frozen=True)
class Step:
    """A device writes, or gives all that it has and takes all that there is, or only takes."""

    device: int
    kind: str
    statements: list[str]


def histories(size: int, kinds: str = "write write write exchange pull") -> st.SearchStrategy[list[Step]]:
    writes = st.lists(statements(), min_size=1, max_size=4)
    return st.lists(st.builds(Step, st.integers(0, 1), st.sampled_from(kinds.split()), writes), min_size=4, max_size=size)


ACTIONS = st.sampled_from([None, "CASCADE", "SET NULL"])


class World:
    """A remote and two devices. No two changesets have the same stamp."""

    def __init__(self, folder: str, on_delete: str | None) -> None:
        self.remote = Remote(Path(folder), tables(on_delete))
        self.devices = [self.remote.device("x"), self.remote.device("y")]
        self.play([Step(0, "write", ["INSERT INTO note VALUES ('a', 'begun', 1)", "INSERT INTO parent VALUES ('a', 'begun')"])])
        self.remote.exchange(*self.devices)

    def play(self, steps: list[Step]) -> None:
        for step in steps:
            self.remote.clock.set(self.remote.clock.now_ms() + 1000)
            device = self.devices[step.device]
            if step.kind == "write":
                try_to(device, *step.statements)
            elif step.kind == "exchange":
                self.remote.exchange(device)
            else:
                self.remote.pull(device)
        for device in self.devices:
            device.store.seal()
        self.remote.clock.set(self.remote.clock.now_ms() + 1000)


def shown(device: Device) -> dict[str, dict[Key, Row]]:
    return {name: device.rows(name) for name in NAMES}


def check_same(*devices: Device) -> None:
    check_equal(*devices, tables=NAMES)
    for device in devices:
        assert repaired_in(device) == repaired_in(devices[0])
        assert query(device.path, "PRAGMA foreign_key_check") == []


def on_top(rows: dict[Key, Row], unsent: Device) -> dict[Key, Row]:
    """The rule by the book, for a table without constraints."""
    found = {key: dict(row) for key, row in rows.items()}
    for changeset in changesets_in(unsent.path):
        for group in changeset.groups:
            for change in row_changes(group) if group.table == "note" else ():
                if change.op in (Op.INSERT, Op.REPLACE):
                    found[change.key] = dict(change.values)
                elif change.op is Op.UPDATE and change.key in found:
                    found[change.key].update(change.values)
                elif change.op is Op.DELETE:
                    found.pop(change.key, None)
    return found


@for_all(everyday=4, slow=10, before=histories(14), after=histories(6), on_delete=ACTIONS, lost=st.integers(0, 3))
def test_what_is_recovered_is_on_top_and_the_same_everywhere(
    before: list[Step], after: list[Step], on_delete: str | None, lost: int
) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder, on_delete)
        world.play(before)
        x, _ = world.devices
        history = world.remote.history
        del history[len(history) - min(lost, len(history)) :]  # restored from a backup
        fresh = world.remote.fresh()
        expected = on_top(fresh.rows(), x)
        world.remote.reset(x, RECOVER, "again")
        assert x.rows() == expected
        assert is_clean(x.path)
        world.devices = [x, fresh]
        world.play(after)
        settled(world.remote, x, fresh)
        check_same(x, fresh, world.remote.fresh("new"))
        close_devices()


@for_all(everyday=4, slow=10, before=histories(14), on_delete=ACTIONS)
def test_what_is_discarded_leaves_no_trace(before: list[Step], on_delete: str | None) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder, on_delete)
        world.play(before)
        x, _ = world.devices
        fresh = world.remote.fresh()
        world.remote.reset(x, DISCARD, "again")
        assert x.sealed() == []
        check_same(x, fresh)
        close_devices()


@for_all(
    everyday=4,
    slow=12,
    before=histories(10),
    own=st.lists(st.lists(statements(), min_size=1, max_size=3), min_size=1, max_size=5),
    refused=st.sets(st.integers(0, 4), min_size=1),
    after=histories(5),
    on_delete=ACTIONS,
    is_sent=st.booleans(),
)
def test_what_is_refused_and_undone_might_never_have_been_written(
    before: list[Step], own: list[list[str]], refused: set[int], after: list[Step], on_delete: str | None, is_sent: bool
) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder, on_delete)
        world.play(before)
        x, y = world.devices
        numbers = []
        for written in own:
            world.play([Step(0, "write", written)])
            numbers.append(x.store.state().last_number)
        for number in sorted({numbers[index] for index in refused if index < len(numbers)}):
            x.store.refuse(number, "no")
        if is_sent:
            world.remote.exchange(x)
        world.remote.pull(x)
        fresh = world.remote.fresh()
        assert undo_refused(x.store, fresh.store, cursor=x.store.state().cursor)
        world.remote.exchange(x)
        world.remote.pull(fresh)
        check_same(x, fresh)
        world.play(after)
        settled(world.remote, x, y, fresh)
        check_same(x, y, fresh)
        close_devices()


@for_all(
    everyday=4,
    slow=12,
    before=histories(14),
    after=histories(6),
    on_delete=ACTIONS,
    y_first=st.booleans(),
    at_once=st.booleans(),
)
def test_a_wiped_remote_ends_as_if_it_had_lost_nothing(
    before: list[Step], after: list[Step], on_delete: str | None, y_first: bool, at_once: bool
) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder, on_delete)
        world.play(before)
        x, y = world.devices
        whole = Remote(Path(folder), world.remote.tables, world.remote.clock, history=list(world.remote.history))
        whole.history += [sealed for device in (x, y) for sealed in device.sealed() if sealed not in whole.history]
        oracle = whole.fresh("oracle")
        world.remote.history.clear()
        for device in (y, x) if y_first else (x, y):
            world.remote.reset(device, SEED)
            if not at_once:
                world.remote.push(device)
        settled(world.remote, x, y)
        assert shown(x) == shown(oracle)
        check_same(x, y, world.remote.fresh("new"))
        world.play(after)
        settled(world.remote, x, y)
        check_same(x, y)
        close_devices()
