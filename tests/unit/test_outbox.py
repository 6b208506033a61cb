"""The outbox: what waits to be sent, in which portions, and where it goes when the remote answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore import wire
from localstore.store.file import Store
from localstore.store.outbox import PendingChangeset
from localstore.testing.clock import ManualClock
from tests.unit.store_kit import LINK, NOTE, UNLIMITED, Device, open_store, other_program, query, rows_of, sealed_in, write

INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
ASIDE = "SELECT device, number, reason, sealed FROM localstore_aside"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store with five changesets, the third of which is large."""
    opened = open_store(path)
    for number in range(1, 6):
        title = bytes(range(250)).hex() if number == 3 else "t"
        write(opened, ("INSERT INTO note VALUES (?, ?, ?)", f"{number}", title, number))
    yield opened
    opened.close()


def numbers(store: Store, *, max_bytes: int = UNLIMITED, max_count: int = 100) -> list[int]:
    return [sealed.number for sealed in store.batch(max_bytes=max_bytes, max_count=max_count)]


def sizes(store: Store) -> list[int]:
    return [changeset.byte_count for changeset in store.pending()]


# -- portions


def test_a_batch_is_the_oldest_changesets_in_order(store: Store, path: Path) -> None:
    assert numbers(store) == [1, 2, 3, 4, 5]
    assert store.batch(max_bytes=UNLIMITED, max_count=100) == sealed_in(path)


def test_a_batch_holds_no_more_changesets_than_asked_for(store: Store) -> None:
    assert numbers(store, max_count=2) == [1, 2]
    assert numbers(store, max_count=1) == [1]


def test_a_batch_holds_no_more_bytes_than_asked_for(store: Store) -> None:
    first, second, third, *_ = sizes(store)
    assert numbers(store, max_bytes=first + second) == [1, 2]
    assert numbers(store, max_bytes=first + second - 1) == [1]
    assert numbers(store, max_bytes=first + second + third) == [1, 2, 3]


def test_a_batch_holds_at_least_one_changeset_however_large(store: Store) -> None:
    assert numbers(store, max_bytes=1) == [1]
    store.acknowledge(2)
    assert numbers(store, max_bytes=sizes(store)[0] - 1) == [3]


def test_a_batch_stops_at_what_is_too_large_and_overtakes_nothing(store: Store) -> None:
    first, second, *_ = sizes(store)
    assert numbers(store, max_bytes=first + second + sizes(store)[3]) == [1, 2]


def test_an_empty_outbox_gives_an_empty_batch(store: Store) -> None:
    store.acknowledge(5)
    assert numbers(store) == []
    assert store.pending() == []
    assert store.last_pending() is None


def test_a_batch_comes_again_as_it_was_until_it_is_acknowledged(store: Store) -> None:
    before = store.batch(max_bytes=UNLIMITED, max_count=3)
    write(store, "UPDATE note SET stars = 9")
    assert store.batch(max_bytes=UNLIMITED, max_count=3) == before


def test_the_disk_is_waited_for_before_a_batch_is_handed_out(store: Store, path: Path) -> None:
    """SQLite waits at a commit that wrote a page, and at no other: one is to be seen in its log."""
    log = path.with_name(path.name + "-wal")
    for _ in range(2):  # what lies in the log may be no newer than when it was handed out last
        before = log.stat().st_size
        assert numbers(store) == [1, 2, 3, 4, 5]
        assert log.stat().st_size > before


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_handing_a_batch_out_leaves_the_file_writable(path: Path, synchronous: str) -> None:
    store = open_store(path, synchronous=synchronous)
    write(store, INSERT_A)
    assert numbers(store) == [1]
    write(store, "UPDATE note SET stars = 2")
    assert numbers(store) == [1, 2]
    store.close()


# -- the list


def test_pending_lists_every_unsent_changeset(path: Path) -> None:
    clock = ManualClock()
    store = open_store(path, clock=clock)
    write(store, INSERT_A)
    clock.advance(1.5)
    write(store, "INSERT INTO note (id) VALUES ('b'), ('c')")
    first, second = sealed_in(path)
    assert store.pending() == [
        PendingChangeset(1, first.stamp, {"note": 1}, first.byte_count, 1.5),
        PendingChangeset(2, second.stamp, {"note": 2}, second.byte_count, 0.0),
    ]
    assert [changeset.rows for changeset in store.pending()] == [1, 2]
    assert [changeset.time for changeset in store.pending()] == [
        "2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:01.500000+00:00",
    ]
    assert store.last_pending() == 2
    store.close()


def test_pending_counts_rows_by_table(path: Path) -> None:
    store = open_store(path, (NOTE, LINK))
    write(store, INSERT_A, "INSERT INTO link VALUES ('a', 1, ''), ('a', 2, '')")
    assert [dict(changeset.tables) for changeset in store.pending()] == [{"note": 1, "link": 2}]
    store.close()


def test_a_changeset_from_the_future_has_no_age_below_zero(path: Path) -> None:
    clock = ManualClock()
    store = open_store(path, clock=clock)
    write(store, INSERT_A)
    clock.set(clock.now_ms() - 60_000)
    assert [changeset.age for changeset in store.pending()] == [0.0]
    store.close()


def test_pending_says_why_nothing_was_sent(store: Store) -> None:
    assert {changeset.last_error for changeset in store.pending("offline")} == {"offline"}


def test_what_another_program_wrote_is_pending_once_it_is_sealed(store: Store, path: Path) -> None:
    with other_program(path) as connection:
        connection.execute(INSERT_A)
    assert store.last_pending() == 5
    store.seal()
    assert store.last_pending() == 6


# -- answers


def test_acknowledged_changesets_are_let_go(store: Store) -> None:
    store.acknowledge(3)
    assert numbers(store) == [4, 5]
    store.acknowledge(3)
    store.acknowledge(1)
    assert numbers(store) == [4, 5]


def test_an_acknowledgement_takes_no_data(store: Store, path: Path) -> None:
    before = rows_of(path)
    store.acknowledge(5)
    assert rows_of(path) == before


def test_numbers_go_on_after_everything_was_acknowledged(store: Store, path: Path) -> None:
    store.acknowledge(5)
    store.close()
    reopened = open_store(path)
    write(reopened, INSERT_A)
    assert numbers(reopened) == [6]
    reopened.close()


@pytest.mark.parametrize("emptied", ["DELETE FROM localstore_outbox", "DELETE FROM localstore_outbox WHERE number > 3"])
def test_no_number_or_stamp_comes_twice_whoever_empties_the_outbox(store: Store, path: Path, emptied: str) -> None:
    before = store.state()
    with other_program(path) as connection:
        connection.execute(emptied)
    assert (store.state().last_number, store.state().last_stamp) == (before.last_number, before.last_stamp) != (0, 0)
    write(store, INSERT_A)
    assert store.state().last_number == sealed_in(path)[-1].number == before.last_number + 1
    assert sealed_in(path)[-1].stamp > before.last_stamp


def test_a_refused_changeset_is_kept_aside_and_leaves_an_empty_one(store: Store, path: Path) -> None:
    before, data = sealed_in(path), rows_of(path)
    store.refuse(3, "too large")
    device = store.state().device
    assert query(path, ASIDE) == [(device, 3, "too large", wire.encode(before[2]))]
    after = sealed_in(path)
    assert after[:2] + after[3:] == before[:2] + before[3:]
    empty = wire.unseal(after[2])
    assert (empty.device, empty.number, empty.stamp, empty.groups) == (device, 3, before[2].stamp, ())
    pending = store.pending()[2]
    assert (pending.rows, pending.byte_count) == (0, after[2].byte_count)
    assert rows_of(path) == data


def test_the_original_stays_when_the_empty_one_is_refused_as_well(store: Store, path: Path) -> None:
    original = wire.encode(sealed_in(path)[2])
    store.refuse(3, "too large")
    store.refuse(3, "no reason at all")
    assert [sealed for _, _, _, sealed in query(path, ASIDE)] == [original]
    assert numbers(store) == [1, 2, 3, 4, 5]


def test_refusing_what_is_not_in_the_outbox_does_nothing(store: Store, path: Path) -> None:
    store.acknowledge(2)
    for number in (1, 2, 6, 99):
        store.refuse(number, "late")
    assert query(path, ASIDE) == []
    assert numbers(store) == [3, 4, 5]


def test_nobody_waits_for_a_refused_changeset(tmp_path: Path) -> None:
    x, y, z = (Device(tmp_path, name) for name in "xyz")
    before = x.write(INSERT_A)
    y.receive(before)
    x.receive(y.write("UPDATE note SET stars = 2"))
    x.write("INSERT INTO note VALUES ('refused', 't', 1)")
    x.write("UPDATE note SET stars = 3 WHERE id = 'a'")
    x.store.refuse(2, "no")
    first, empty, last = x.sealed()
    assert z.receive(first, empty, last).changesets == 1
    assert z.receive(*y.sealed()).changesets == 3
    assert z.rows() == {("a",): {"title": "first", "stars": 3}}
    for device in (x, y, z):
        device.close()
