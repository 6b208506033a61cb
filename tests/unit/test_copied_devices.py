"""Copies of synced files as devices of their own: they know what the source knew, and what was unsent becomes theirs too."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore import wire
from localstore.changes import Op
from localstore.errors import UnsentChanges
from localstore.store.identity import NOBODY
from localstore.store.migrating import FileMigration
from localstore.store.open_file import StoreOptions
from localstore.store.seal import SealLimits
from localstore.store.state import LOCAL_USER
from localstore.store.synced_copy import SyncedTarget, copy_as_another_device
from localstore.testing.clock import ManualClock, environment
from tests.properties import for_all
from tests.unit.store_kit import (
    APP,
    LINK,
    NOTE,
    Device,
    changesets_in,
    check_equal,
    close_devices,
    exchange,
    other_program,
    query,
    rows_of,
    sealed_in,
)
from tests.unit.test_apply import KINDS, Network, Step, histories, losses
from tests.unit.test_seeds import device as seeded_device
from tests.unit.test_seeds import links, rows, seeded


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def write_copy(source: Device, name: str, *, with_unsent: bool = True, user: str = LOCAL_USER) -> Path:
    path = source.path.with_name(f"{name}.db")
    target = SyncedTarget(path=path, app=APP, partition="default", user=user, tables=[NOTE], options=StoreOptions())
    copy_as_another_device(source.store, target, with_unsent=with_unsent)
    return path


def copied(source: Device, name: str, tables: Sequence[sa.Table] = (NOTE,), *, with_unsent: bool = True) -> Device:
    """A copy, opened."""
    path = write_copy(source, name, with_unsent=with_unsent)
    return Device(path.parent, name, tables, clock=source.clock)


def two_devices(folder: Path) -> tuple[Device, Device]:
    """Both hold a note of the first and one of the second, and the first has sent what it had."""
    x, y = Device(folder, "x"), Device(folder, "y")
    x.write("INSERT INTO note VALUES ('a', 'from x', 1)")
    y.write("INSERT INTO note VALUES ('b', 'from y', 2)")
    exchange(x, y)
    for one in (x, y):
        one.store.acknowledge(1)
    return x, y


# -- a copy before it is opened


def test_a_copy_is_nobody_until_it_is_opened(tmp_path: Path) -> None:
    x, _ = two_devices(tmp_path)
    path = write_copy(x, "w", with_unsent=False)
    assert query(path, "SELECT device, last_number FROM localstore_state") == [(NOBODY, 0)]
    w = Device(tmp_path, "w")
    assert w.id not in (NOBODY, x.id)
    assert w.store.state().cursor == x.store.state().cursor
    before = w.id
    w.reopen()
    assert w.id == before


def test_a_copy_of_a_copy_that_was_never_opened_is_another_device_as_well(tmp_path: Path) -> None:
    x, _ = two_devices(tmp_path)
    bundled = write_copy(x, "bundled", with_unsent=False)
    for name in "vw":
        (tmp_path / f"{name}.db").write_bytes(bundled.read_bytes())
    v, w = Device(tmp_path, "v"), Device(tmp_path, "w")
    assert len({x.id, v.id, w.id}) == 3
    v.write("INSERT INTO note VALUES ('v', 't', 1)")
    w.write("INSERT INTO note VALUES ('w', 't', 1)")
    exchange(v, w, x)
    check_equal(v, w, x)


def test_what_another_program_writes_into_a_copy_is_the_copys_own(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    path = write_copy(x, "w", with_unsent=False)
    with other_program(path) as connection:
        connection.execute("UPDATE note SET stars = 9 WHERE id = 'a'")
    w = Device(tmp_path, "w")
    assert [changeset.device for changeset in changesets_in(path)] == [w.id]
    exchange(w, x, y)
    check_equal(w, x, y)
    assert x.row("a") == {"title": "from x", "stars": 9}


# -- what it knows


def test_a_copy_takes_what_the_source_sent_for_known(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    w = copied(x, "w", with_unsent=False)
    sent = x.write("UPDATE note SET title = 'later' WHERE id = 'a'")
    assert sent.number == 2
    assert w.receive(sent).changesets == 1
    assert w.receive(sent).changesets == 0
    assert w.row("a") == {"title": "later", "stars": 1}
    assert y.receive(sent).changesets == 1


def test_the_copys_first_changeset_says_what_it_had_seen(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    w = copied(x, "w", with_unsent=False)
    w.write("UPDATE note SET title = 'from w'")
    [first] = changesets_in(w.path)
    assert {(other.device, other.number) for other in first.depends} == {(x.id, 1), (y.id, 1)}
    assert first.number == 1
    exchange(w, x, y)
    assert losses(x) == losses(y) == []  # it had seen what it overwrote
    check_equal(w, x, y)


def test_a_delete_is_known_to_the_copy(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    x.write("DELETE FROM note WHERE id = 'b'")
    x.store.acknowledge(2)
    w = copied(x, "w", with_unsent=False)
    late = y.write("UPDATE note SET title = 'too late' WHERE id = 'b'")
    w.receive(late)
    assert w.row("b") is None


def test_what_waits_and_what_is_not_known_yet_goes_along(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    wide = Device(tmp_path, "z", [NOTE, LINK])
    wide.write("INSERT INTO link VALUES ('a', 1, 'kept')")
    second, third = y.write("UPDATE note SET stars = 7"), y.write("UPDATE note SET stars = 8")
    x.receive(*wide.sealed(), third)
    w = copied(x, "w", with_unsent=False)
    w.receive(second)
    assert w.row("b") == {"title": "from y", "stars": 8}
    w.reopen([NOTE, LINK])
    assert w.rows("link") == {("a", 1): {"label": "kept"}}


# -- unsent changes


def test_a_source_with_unsent_changes_is_refused(tmp_path: Path) -> None:
    x, _ = two_devices(tmp_path)
    x.write("UPDATE note SET stars = 5")
    with pytest.raises(UnsentChanges, match="no copy was written"):
        write_copy(x, "w", with_unsent=False)
    assert not (tmp_path / "w.db").exists()
    assert len(x.sealed()) == 1


def test_what_another_program_wrote_and_nobody_sealed_is_unsent(tmp_path: Path) -> None:
    x, _ = two_devices(tmp_path)
    with other_program(x.path) as connection:
        connection.execute("UPDATE note SET stars = 9")
    with pytest.raises(UnsentChanges):
        write_copy(x, "w", with_unsent=False)
    w = copied(x, "w")
    assert [changeset.device for changeset in changesets_in(w.path)] == [w.id]


@pytest.mark.parametrize("is_folded", [True, False])
def test_unsent_changes_become_the_copys_own_with_the_stamps_they_had(tmp_path: Path, is_folded: bool) -> None:
    x, y = two_devices(tmp_path)
    x.write("INSERT INTO note VALUES ('c', 'unsent', 1)")
    x.write("UPDATE note SET title = 'unsent' WHERE id = 'b'")
    if is_folded:
        x.store.fold()
    w = copied(x, "w")
    theirs, ours = sealed_in(x.path), sealed_in(w.path)
    assert [(one.number, one.stamp, one.device) for one in ours] == [(1, theirs[0].stamp, w.id), (2, theirs[1].stamp, w.id)]
    assert [one.number for one in theirs] == [2, 3]
    y.receive(*ours)
    assert y.rows() == x.rows()
    check_equal(w, y)


def test_whoever_sends_them_first_all_hold_the_same_and_nothing_lost(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    x.write("INSERT INTO note VALUES ('c', 'unsent', 1)")
    x.write("DELETE FROM note WHERE id = 'b'")
    x.store.fold()
    v, w = copied(x, "v"), copied(x, "w")
    exchange(v, w, x, y)
    check_equal(v, w, x, y)
    assert y.rows() == {("a",): {"title": "from x", "stars": 1}, ("c",): {"title": "unsent", "stars": 1}}
    assert [losses(one) for one in (v, w, x, y)] == [[], [], [], []]


def test_a_row_that_was_deleted_since_does_not_come_back_with_the_copy(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    x.write("INSERT INTO note VALUES ('c', 'unsent', 1)")
    w = copied(x, "w")
    x.write("DELETE FROM note WHERE id = 'c'")
    y.receive(*x.sealed())
    y.receive(*w.sealed())
    assert y.row("c") is None


def test_the_first_of_them_says_what_the_source_had_seen_at_the_remote(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    x.write("UPDATE note SET stars = 3")  # tells that it has seen y's
    x.store.acknowledge(2)
    x.write("UPDATE note SET stars = 4")
    w = copied(x, "w")
    first = changesets_in(w.path)[0]
    assert {(other.device, other.number) for other in first.depends} == {(x.id, 2), (y.id, 1)}


def test_what_others_have_seen_is_sent_though_nobody_acknowledged_it(tmp_path: Path) -> None:
    """Else their changes of it would be to rows of the copy, of which they know nothing."""
    x, y = two_devices(tmp_path)
    z = Device(tmp_path, "z")
    z.write("INSERT INTO note VALUES ('c', 'from z', 2)")
    made = x.write("INSERT INTO note VALUES ('c', 'from x', 1)")
    x.write("INSERT INTO note VALUES ('d', 'unsent', 1)")
    y.receive(made)
    changed = y.write("UPDATE note SET stars = 3 WHERE id = 'c'")
    x.receive(changed)
    w = copied(x, "w")
    assert [one.number for one in sealed_in(x.path)] == [2, 3]
    [own] = changesets_in(w.path)
    assert own.stamp == sealed_in(x.path)[1].stamp
    assert (x.id, 2) in {(other.device, other.number) for other in own.depends}
    exchange(x, y, z, w)
    check_equal(x, y, w)
    assert w.row("c") == {"title": "from x", "stars": 3}


def test_seeds_that_were_sent_stay_the_sources_and_others_become_the_copys(tmp_path: Path) -> None:
    x = seeded_device(tmp_path, "x", ("a", "sent", 1))
    x.store.acknowledge(1)
    with other_program(x.path) as connection:
        connection.execute("INSERT INTO link VALUES ('a', 1, 'unsent')")
    x.reopen([NOTE, LINK])
    x.store.fold()
    w = copied(x, "w", [NOTE, LINK])
    [own] = changesets_in(w.path)
    assert {(group.table, group.op) for group in own.groups} == {("link", Op.SEED)}
    exchange(w, x)
    check_equal(w, x, tables=("note", "link"))


# -- any history


Notes = tuple[list[tuple[str, str, int]], list[tuple[str, int, str]]]


@for_all(
    everyday=5,
    slow=15,
    files=st.lists(st.tuples(rows(), links()), min_size=3, max_size=3),
    before=histories(KINDS, 14),
    after=histories(KINDS, 12),
    source=st.integers(0, 2),
    dies=st.booleans(),
    shuffled=st.randoms(use_true_random=False),
)
def test_a_copy_at_any_time_holds_the_same_in_the_end(
    files: list[Notes], before: list[Step], after: list[Step], source: int, dies: bool, shuffled: random.Random
) -> None:
    """The source goes on, or is never heard of again: then the copy brings what it had not sent."""
    with TemporaryDirectory() as folder:
        for name, (notes, linked) in zip("xyz", files, strict=True):
            seeded(Path(folder), name, notes, linked)
        network = Network(Path(folder), *[[NOTE, LINK]] * 3)
        for step in before:
            network.act(step)
        join(network, source)
        if dies:
            known = max(network.received[other][source] for other in range(4))
            del network.history[source][max(known, network.devices[source].store.acknowledged()) :]
        for step in after:
            if not (dies and step.device == source):
                network.act(replace(step, other=step.other % 3 + 1))
        if dies:
            lost = network.devices.pop(source)
            network.history[:] = [*network.history[:source], *network.history[source + 1 :], network.history[source]]
            lost.close()
        network.deliver_everything(shuffled)
        for one in network.devices:
            assert query(one.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
        check_equal(*network.devices, tables=("note", "link"))
        network.close()


def join(network: Network, source: int) -> None:
    """A copy of one of the devices becomes the network's fourth."""
    original = network.devices[source]
    copy = copied(original, "w", [NOTE, LINK])
    assert rows_of(copy.path) == original.rows()
    network.devices.append(copy)
    network.history.append([])
    network.received.append([*network.received[source], 0])
    network.received[-1][source] = original.store.acknowledged()
    for numbers in network.received[:-1]:
        numbers.append(0)
    assert all(wire.unseal(sealed).device == copy.id for sealed in copy.sealed())


# -- what else opens a copy first


def test_a_migration_of_a_copy_that_was_never_opened_gives_it_its_identity(tmp_path: Path) -> None:
    x, y = two_devices(tmp_path)
    x.write("INSERT INTO note VALUES ('c', 'unsent', 1)")
    path = write_copy(x, "w")
    with other_program(path) as connection:
        connection.execute("UPDATE note SET stars = 9 WHERE id = 'b'")
        connection.execute("BEGIN IMMEDIATE")
        migration = FileMigration(connection, environment=environment(ManualClock(), 5), limits=SealLimits())
        connection.execute("ALTER TABLE note ADD COLUMN due VARCHAR")
        migration.finish()
        connection.execute("COMMIT")
    (device,) = {changeset.device for changeset in changesets_in(path)}
    w = Device(tmp_path, "w")
    assert w.id == device != x.id
    y.receive(*w.sealed())
    assert y.rows() == {key: {"title": row["title"], "stars": row["stars"]} for key, row in w.rows().items()}
