"""Large groups of changes are merged by the clocks they meet, small ones row by row: files cannot tell which it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from localstore import wire
from localstore.changes import RowGroup
from localstore.store.bulk import MANY
from localstore.wire import SealedChangeset
from tests.properties import for_all
from tests.unit.purge_kit import purge_before
from tests.unit.store_kit import Device, close_devices, query, write
from tests.unit.test_apply import Network, Step

LARGE, ROWS = 50, 150
NUMBERS = "WITH RECURSIVE c(n) AS (SELECT {} UNION ALL SELECT n + 1 FROM c WHERE n + 1 < {})"
COMPARED = (
    "place",
    "note",
    "link",
    "localstore_clock",
    "localstore_conflict",
    "localstore_repaired",
    "localstore_seen",
    "localstore_device",
    "localstore_state",
    "localstore_table",
)


def schema(*more: sa.Column[str]) -> list[sa.Table]:
    metadata = sa.MetaData()
    return [
        sa.Table(
            "place", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("name", sa.String)
        ),
        sa.Table(
            "note",
            metadata,
            sa.Column("id", sa.String, primary_key=True),
            sa.Column("title", sa.String),
            sa.Column("stars", sa.Integer),
            sa.Column("place", sa.ForeignKey("place.id")),
            *more,
        ),
        sa.Table(
            "link",
            metadata,
            sa.Column("source", sa.ForeignKey("note.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("target", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("label", sa.String),
        ),
    ]


NARROW = schema()
WIDE = schema(sa.Column("due", sa.String, server_default="never"))


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def cut(sealed: SealedChangeset) -> SealedChangeset:
    """The same changes in groups that are too small to be looked at all at once."""
    changeset = wire.unseal(sealed)
    groups = [
        RowGroup(group.table, group.op, group.key, group.columns, [column[start : start + MANY - 1] for column in group.values])
        for group in changeset.groups
        for start in range(0, group.row_count, MANY - 1)
    ]
    return wire.seal(msgspec.structs.replace(changeset, groups=tuple(groups)))


class CutNetwork(Network):
    """A network in which all changesets are cut on their way."""

    def _note(self, index: int) -> None:
        known = self.history[index]
        known += [cut(sealed) for sealed in self.devices[index].sealed() if sealed.number > len(known)]


def ranges() -> st.SearchStrategy[tuple[int, int]]:
    """Mostly large ones, as they are what this is about."""
    return st.tuples(st.integers(0, LARGE), st.integers(LARGE + 5, ROWS))


NEW = "INSERT OR {} INTO note (id, title, stars) SELECT printf('%04d', n), 't{}', n FROM c"
NEW_AT_A_PLACE = "INSERT OR REPLACE INTO note (id, place) SELECT printf('%04d', n), (SELECT max(id) FROM place) FROM c"
ELSEWHERE = "UPDATE note SET place = (SELECT id FROM place WHERE id >= {} ORDER BY id) WHERE id {}"
OTHER_KEY = "UPDATE OR IGNORE note SET id = printf('%04d', id + {}) WHERE id {}"


def statements() -> st.SearchStrategy[str]:
    numbers = ranges().map(lambda some: NUMBERS.format(*some))
    some = ranges().map(lambda some: "BETWEEN '{:04}' AND '{:04}'".format(*some))
    value, place = st.integers(0, 9), st.integers(0, 3)
    return st.one_of(
        st.builds("{} INSERT OR IGNORE INTO place SELECT n, 'p{}' FROM c".format, numbers, value),
        st.builds("{} {}".format, numbers, st.builds(NEW.format, st.sampled_from(["IGNORE", "REPLACE"]), value)),
        st.builds("{} {}".format, numbers, st.just(NEW_AT_A_PLACE)),
        st.builds("UPDATE note SET title = 't{}' WHERE id {}".format, value, some),
        st.builds("UPDATE note SET stars = {}, title = 'both' WHERE id {} AND id % 3".format, value, some),
        st.builds("UPDATE note SET title = 'all', stars = {0}, place = NULL WHERE id {1}".format, value, some),
        st.builds(ELSEWHERE.format, place, some),
        st.builds("DELETE FROM note WHERE id {} AND id % 4 < {}".format, some, st.integers(1, 4)),
        st.builds(OTHER_KEY.format, st.sampled_from([1, ROWS]), some),
        st.builds("DELETE FROM place WHERE id <= {}".format, value.map(lambda n: n * 10)),
        st.builds("INSERT OR IGNORE INTO link SELECT id, {}, 'l' FROM note WHERE id {}".format, place, some),
        st.builds("UPDATE link SET label = 'l{}' WHERE source {}".format, value, some),
        st.builds("DELETE FROM link WHERE target = {}".format, place),
    )


KINDS = ["write", "write", "write", "write", "receive", "receive", "receive", "acknowledge", "clock", "forget", "widen"]


def histories() -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        device=st.integers(0, 2),
        kind=st.sampled_from(KINDS),
        other=st.integers(1, 2),
        count=st.integers(1, 4),
        statements=st.lists(statements(), min_size=1, max_size=2).map(tuple),
    )
    return st.lists(step, min_size=5, max_size=25)


def act(network: Network, step: Step) -> None:
    device = network.devices[step.device]
    if step.kind == "widen":
        device.reopen(WIDE)
    elif step.kind == "forget":
        purge_before(device, max(0, device.store.state().last_stamp - ((step.count - 2) * 20_000 << 16)))
    else:
        with suppress(IntegrityError):  # a foreign key was in the way
            network.act(step)


def everything(device: Device) -> dict[str, object]:
    device.store.fold()
    return {table: sorted(query(device.path, f"SELECT * FROM {table}"), key=repr) for table in COMPARED}


BEGINNING = (
    NUMBERS.format(0, 40) + " INSERT INTO place SELECT n, 'p' FROM c",
    NUMBERS.format(0, ROWS) + " INSERT INTO note (id, title, stars) SELECT printf('%04d', n), 't', n FROM c",
    NUMBERS.format(10, LARGE + 20) + " INSERT INTO note (id, title, stars) SELECT printf('%04d', n), 'u', n FROM c",
)


def networks(folder: Path) -> list[Network]:
    """The same three devices twice: changesets travel as they are, or cut."""
    made = []
    for kind in (Network, CutNetwork):
        (folder / kind.__name__).mkdir()
        network = kind(folder / kind.__name__, WIDE, NARROW, NARROW)
        for index, sql in enumerate(BEGINNING):
            network.act(Step(index % 3, "write", 1, 1, (sql,)))
        made.append(network)
    return made


@for_all(everyday=4, slow=15, steps=histories(), seed=st.integers(0, 1000))
def test_a_large_group_does_what_its_changes_do_one_by_one(steps: list[Step], seed: int) -> None:
    """Forgets too early, too: also what replicas cannot agree on then has to be the same either way."""
    with TemporaryDirectory() as folder:
        whole, in_parts = networks(Path(folder))
        for network in (whole, in_parts):
            for step in steps:
                act(network, step)
            network.deliver_everything(random.Random(seed))
        for one, other in zip(whole.devices, in_parts.devices, strict=True):
            assert everything(one) == everything(other)
        whole.close()
        in_parts.close()


def test_rows_that_are_not_shown_as_merged_are_merged_in_large_groups_too(tmp_path: Path) -> None:
    found = []
    for network in networks(tmp_path):
        network.deliver_everything(random.Random(0))
        x, y, z = network.devices
        write(x.store, "UPDATE note SET place = 1")
        write(y.store, "DELETE FROM note WHERE id < '0030'", "DELETE FROM place WHERE id = 1")
        write(z.store, "INSERT INTO link SELECT id, 2, 'l' FROM note WHERE id < '0040'")
        exchange_once(network, to=0)
        assert query(x.path, "SELECT hidden, count(*) FROM localstore_repaired GROUP BY hidden") == [(0, 120), (1, 30)]
        write(z.store, "UPDATE link SET label = 'new'", "UPDATE note SET title = 'new', place = 2 WHERE id < '0100'")
        exchange_once(network, to=0)
        write(y.store, NUMBERS.format(0, 30) + " INSERT INTO note (id) SELECT printf('%04d', n) FROM c")
        exchange_once(network, to=0)
        assert query(x.path, "SELECT label, count(*) FROM link GROUP BY label") == [("new", 40)]
        found.append(everything(x))
    assert found[0] == found[1]


def exchange_once(network: Network, *, to: int) -> None:
    """Let a device receive all that the others have made since."""
    network.seal()
    for other in (1, 2):
        network.act(Step(to, "receive", other, ROWS, ()))
