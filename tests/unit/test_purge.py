"""Forgetting clocks of rows: what goes, what stays, and that nobody can tell by the rows that anything went."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localstore.store.apply import catch_up
from localstore.store.capture import captured_tables
from localstore.store.dropped import keep_columns, keep_table
from localstore.store.merge import LONG_AGO, Mark, RowState
from localstore.store.purge import PORTION, ROUND_MS, Purging, can_forget
from localstore.testing.clock import ManualClock
from tests.unit.purge_kit import purge_everything, records
from tests.unit.store_kit import LINK, NOTE, Device, close_devices, exchange, other_program, query
from tests.unit.test_apply import INSERT_A, INSERT_B, WIDE_NOTE, losses
from tests.unit.test_merge import COLUMNS, Replica, insert, update, version
from tests.unit.test_seeds import seeded

DAY = 86_400.0
OFFLINE_DAYS = 30.0


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def pair(tmp_path: Path) -> list[Device]:
    clock = ManualClock()
    return [Device(tmp_path, name, clock=clock) for name in "xy"]


def age(days: float, *devices: Device) -> None:
    for clock in {device.clock for device in devices}:
        clock.advance(days * DAY)


def acknowledge_all(*group: Device) -> None:
    for device in group:
        device.store.acknowledge(device.store.state().last_number)


# -- a row without a record


def test_a_row_whose_clock_was_purged_takes_later_changes(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A, INSERT_B))
    assert purge_everything(y) == 2
    y.receive(x.write("UPDATE note SET stars = 7 WHERE id = 'a'", "DELETE FROM note WHERE id = 'b'"))
    assert y.rows() == x.rows() == {("a",): {"title": "first", "stars": 7}}


@pytest.mark.parametrize("changed", ["stars = 7", "stars = 7, title = 'back'"], ids=["one column", "all columns"])
def test_an_update_of_a_row_whose_tombstone_was_purged_is_void(pair: list[Device], changed: str) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A))
    y.write("DELETE FROM note")
    assert purge_everything(y) == 1
    blind = x.write(f"UPDATE note SET {changed}")
    y.receive(blind)
    assert y.rows() == {}
    assert records(y) == 0


def test_an_update_of_a_row_that_was_set_aside_makes_no_half_row(pair: list[Device]) -> None:
    x, y = pair
    with other_program(y.path) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON note WHEN NEW.title = 'poison' BEGIN SELECT RAISE(ABORT, 'poison'); END"
        )
    assert y.receive(x.write("INSERT INTO note VALUES ('a', 'poison', 1)")).aside
    y.receive(x.write("UPDATE note SET stars = 2, title = 'good'"))
    assert y.rows() == {}
    assert records(y) == 0


def test_a_row_that_is_inserted_again_after_its_tombstone_was_purged_lives(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A), x.write("DELETE FROM note"))
    assert purge_everything(y) == 1
    y.receive(x.write("INSERT INTO note VALUES ('a', 'again', 2)"))
    assert y.rows() == x.rows() == {("a",): {"title": "again", "stars": 2}}


@pytest.mark.parametrize("count", [1, 150], ids=["one", "many at once"])
def test_an_insert_over_a_row_whose_clock_was_purged_leaves_what_it_does_not_bring(tmp_path: Path, count: int) -> None:
    """Two devices meant the same row, and one schema lacks a column."""
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [WIDE_NOTE])
    wide.write(*(f"INSERT INTO note VALUES ('{n}', 'wide', 1, 'today')" for n in range(count)))
    purge_everything(wide)
    narrow.clock.advance(10)
    narrow.write(*(f"INSERT INTO note VALUES ('{n}', 'narrow', 2)" for n in range(count)))
    wide.receive(*narrow.sealed())
    assert wide.row("0") == {"title": "narrow", "stars": 2, "due": "today"}
    assert len(wide.rows()) == count


def test_many_inserts_over_rows_whose_clocks_were_purged_merge_like_few(pair: list[Device]) -> None:
    x, y = pair
    y.write(*(f"INSERT INTO note VALUES ('{n}', 'old', 1)" for n in range(0, 300, 7)))
    purge_everything(y)
    x.clock.advance(10)
    y.receive(x.write(*(f"INSERT INTO note VALUES ('{n}', 'new', {n})" for n in range(300))))
    assert y.rows() == x.rows()


def test_many_inserts_with_keys_of_several_columns_find_rows_whose_clocks_were_purged(tmp_path: Path) -> None:
    x, y = (Device(tmp_path, name, [NOTE, LINK]) for name in "xy")
    y.write(*(f"INSERT INTO link VALUES ('{n}', {n}, 'old')" for n in (3, 250, 299)))
    y.write("UPDATE link SET label = 'newer' WHERE target = 250")
    purge_everything(y)
    x.clock.advance(10)
    y.receive(x.write(*(f"INSERT INTO link VALUES ('{n}', {n}, 'new')" for n in range(300))))
    assert y.rows("link") == x.rows("link")
    assert records(y) == 300


def test_own_changes_of_a_row_whose_clock_was_purged_are_sent_as_ever(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A, INSERT_B, "INSERT INTO note VALUES ('c', 'third', 3)"))
    purge_everything(y)
    y.write("UPDATE note SET stars = 9 WHERE id = 'a'", "DELETE FROM note WHERE id = 'b'")
    y.write("INSERT OR REPLACE INTO note VALUES ('c', 'replaced', 4)")
    x.receive(*y.sealed())
    y.receive(x.write("UPDATE note SET title = 'x'"))
    assert y.rows() == x.rows() == {("a",): {"title": "x", "stars": 9}, ("c",): {"title": "x", "stars": 4}}


def test_keys_of_several_columns_are_purged_alike(tmp_path: Path) -> None:
    x, y = (Device(tmp_path, name, [NOTE, LINK]) for name in "xy")
    y.receive(x.write("INSERT INTO link VALUES ('a', 1, 'one'), ('a', 2, 'two')"), x.write("DELETE FROM link WHERE target = 2"))
    assert purge_everything(y) == 2
    y.receive(x.write("UPDATE link SET label = 'changed'"))
    assert y.rows("link") == x.rows("link") == {("a", 1): {"label": "changed"}}


# -- what came too late


def test_a_change_older_than_what_was_purged_is_merged_and_what_it_overwrote_is_kept(tmp_path: Path) -> None:
    x, y = (Device(tmp_path, name, clock=ManualClock()) for name in "xy")
    y.receive(x.write(INSERT_A, INSERT_B))
    late = x.write("UPDATE note SET stars = 2 WHERE id = 'a'", "DELETE FROM note WHERE id = 'b'")
    y.clock.advance(10)
    y.write("UPDATE note SET stars = 3 WHERE id = 'a'")
    purge_everything(y)
    y.receive(late)
    assert y.rows() == {("a",): {"title": "first", "stars": 2}}
    rule = "it came too late to tell which is newer"
    assert sorted(losses(y)) == [("stars", 2, None, rule), ("stars", 3, 2, rule), ("title", "second", None, rule)]


def test_a_new_row_that_comes_too_late_is_there_all_the_same(pair: list[Device]) -> None:
    x, y = pair
    late = [x.write(INSERT_A), x.write("UPDATE note SET stars = 2")]
    y.clock.advance(10)
    y.write(INSERT_B)
    purge_everything(y)
    y.receive(late[0])
    purge_everything(y)
    y.receive(late[1])
    assert y.rows()["a",] == x.rows()["a",]


# -- what goes and what stays


def test_a_clock_goes_when_all_that_it_holds_is_older() -> None:
    replica = Replica()
    born = insert(1, a=1, b=1)
    replica.take(born)
    replica.take(update(5, saw=[born], a=5))
    assert not can_forget(replica.state, COLUMNS, 5, seeds=False)
    assert can_forget(replica.state, COLUMNS, 6, seeds=False)


def test_a_clock_stays_for_a_value_that_may_come_forward_yet() -> None:
    replica = Replica()
    old, new = insert(1, "x", a=1, b=1), insert(5, "y", a=5, b=5)
    for write in (old, new, update(3, "x", saw=[old], a=3)):
        replica.take(write)
    replica.take(update(4, "z", saw=[old], b=4))
    assert not can_forget(replica.state, COLUMNS, 5, seeds=False)
    assert can_forget(replica.state, COLUMNS, 6, seeds=False)


def test_what_keeps_seeds_out_stays_where_there_are_seeds() -> None:
    deleted, edited = RowState(died=version(5)), RowState(lives=(version(5),))
    seed = RowState(lives=((0, b"x"),))
    half_edited = RowState(lives=((0, b"x"),), marks={"a": Mark(version(5), LONG_AGO)})
    for state, stays in ((deleted, True), (edited, False), (seed, True), (half_edited, True)):
        assert can_forget(state, COLUMNS, 9, seeds=False)
        assert can_forget(state, COLUMNS, 9, seeds=True) is not stays


def test_a_row_of_another_file_from_before_sync_does_not_come_back_after_it_was_deleted(tmp_path: Path) -> None:
    for name in "xy":
        seeded(tmp_path, name, [("a", f"of {name}", 1), ("b", f"of {name}", 1)])
    x = Device(tmp_path, "x")
    x.write("DELETE FROM note WHERE id = 'a'", "UPDATE note SET title = 'edited' WHERE id = 'b'")
    assert purge_everything(x) == 0
    y = Device(tmp_path, "y")
    exchange(x, y)
    assert x.row("b") == y.row("b")
    assert x.row("b") is not None
    assert x.row("a") is y.row("a") is None


def test_a_row_from_before_sync_changes_nothing_in_one_whose_clock_was_purged(tmp_path: Path) -> None:
    seeded(tmp_path, "y", [("a", "of y", 5)])
    x = Device(tmp_path, "x")
    x.write(INSERT_A)
    assert purge_everything(x) == 1
    y = Device(tmp_path, "y")
    exchange(x, y)
    assert x.rows() == y.rows() == {("a",): {"title": "first", "stars": 1}}


def test_a_record_stays_as_long_as_its_row_is_not_as_merged(pair: list[Device]) -> None:
    """Another program took the row away, which this device has yet to tell."""
    x, _ = pair
    x.write(INSERT_A, INSERT_B)
    x.store.fold()
    with other_program(x.path) as connection:
        connection.execute("DELETE FROM note WHERE id = 'a'")
    assert purge_everything(x) == 1
    assert records(x) == 1


def test_nothing_goes_that_a_change_of_a_column_still_unknown_may_meet(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow", [NOTE, LINK]), Device(tmp_path, "wide", [WIDE_NOTE, LINK])
    narrow.receive(wide.write("INSERT INTO note VALUES ('a', 't', 1, 'today')", "INSERT INTO link VALUES ('a', 1, 'one')"))
    narrow.receive(wide.write("UPDATE note SET due = 'tomorrow'"))
    narrow.write("DELETE FROM note", INSERT_A)
    assert purge_everything(narrow) == 1
    narrow.reopen([WIDE_NOTE, LINK])
    wide.receive(*narrow.sealed())
    assert narrow.row("a") == wide.row("a")
    assert purge_everything(narrow) == 1


def test_a_column_that_comes_back_after_it_was_dropped_holds_what_it_held(tmp_path: Path) -> None:
    x = Device(tmp_path, "x", [WIDE_NOTE, LINK])
    x.write("INSERT INTO note VALUES ('a', 't', 1, 'today')", "INSERT INTO link VALUES ('a', 1, 'one')")
    purge_everything(x)
    with x.store.transaction() as connection:
        tables = captured_tables(connection)
        keep_columns(connection, tables["note"], ["due"], {})
        keep_table(connection, tables["link"], {})
        connection.execute("UPDATE note SET due = NULL")
        connection.execute("DELETE FROM link")
        connection.execute("DELETE FROM localstore_log")
        connection.execute("DELETE FROM localstore_log_wide")
        connection.execute("UPDATE localstore_state SET replay = 1")
        catch_up(connection, now_ms=0, rules={})
    assert x.row("a") == {"title": "t", "stars": 1, "due": "today"}
    assert x.rows("link") == {("a", 1): {"label": "one"}}


# -- how long


def old_note(x: Device, y: Device) -> None:
    """A note of ``x`` that both know and nothing is to be sent of, and later changes on both sides."""
    y.receive(x.write(INSERT_A))
    acknowledge_all(x)


def test_a_clock_is_kept_for_twice_the_client_maximum_offline_time(pair: list[Device]) -> None:
    x, y = pair
    old_note(x, y)
    for device, other in ((x, y), (y, x)):
        age(OFFLINE_DAYS, x, y)
        other.receive(device.write(f"INSERT INTO note (id) VALUES ('{device.name}')"))
        acknowledge_all(x, y)
        assert y.store.purge() == 0
    age(0.1, x, y)
    y.receive(x.write("INSERT INTO note (id) VALUES ('later')"))
    assert y.store.purge() == 1
    assert records(y) == 3


def test_the_setting_says_how_long(tmp_path: Path) -> None:
    clock = ManualClock()
    x, y = (Device(tmp_path, name, clock=clock, client_maximum_offline_time=DAY) for name in "xy")
    old_note(x, y)
    age(2.1, x, y)
    y.receive(x.write(INSERT_B))
    assert y.store.purge() == 1


def test_a_clock_that_is_a_year_ahead_forgets_nothing_too_early(tmp_path: Path) -> None:
    x, y = (Device(tmp_path, name, clock=ManualClock()) for name in "xy")
    old_note(x, y)
    age(365, y)
    assert y.store.purge() == 0
    y.clock.advance(3600)
    assert y.store.purge(remote_ms=x.clock.now_ms()) == 0


def test_a_clock_that_is_behind_forgets_late(tmp_path: Path) -> None:
    x, y = (Device(tmp_path, name, clock=ManualClock()) for name in "xy")
    old_note(x, y)
    assert y.store.purge(remote_ms=y.clock.now_ms() + int(365 * DAY * 1000)) == 0


def test_the_remotes_clock_will_do_where_nobody_else_writes(pair: list[Device]) -> None:
    x, _ = pair
    x.write(INSERT_A)
    acknowledge_all(x)
    age(61, x)
    assert x.store.purge() == 0
    age(1, x)
    assert x.store.purge(remote_ms=x.clock.now_ms()) == 1


def test_nothing_is_forgotten_that_is_younger_than_what_was_not_sent_yet(pair: list[Device]) -> None:
    x, _ = pair
    x.write(INSERT_A)
    x.store.fold()
    age(365, x)
    assert x.store.purge(remote_ms=x.clock.now_ms()) == 0
    acknowledge_all(x)
    age(1, x)
    assert x.store.purge(remote_ms=x.clock.now_ms()) == 1


def test_nothing_is_forgotten_that_is_younger_than_what_waits(pair: list[Device]) -> None:
    x, y = pair
    first, second, third = (x.write(f"INSERT INTO note (id) VALUES ('{name}')") for name in "abc")
    y.receive(first, third)
    age(61, x)
    assert y.store.purge(remote_ms=x.clock.now_ms()) == 0
    y.receive(second)
    age(1, x)
    assert y.store.purge(remote_ms=x.clock.now_ms()) == 3


# -- little by little


def test_a_portion_at_a_time_and_a_round_an_hour(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(*(f"INSERT INTO note (id) VALUES ('{n}')" for n in range(PORTION + 10))))
    age(61, x)
    now_ms = x.clock.now_ms()
    assert [y.store.purge(now_ms) for _ in range(4)] == [PORTION, 10, 0, 0]
    y.receive(x.write("DELETE FROM note WHERE id = '1'"))
    age(61, x)
    assert y.store.purge(x.clock.now_ms()) == 1
    y.receive(x.write("DELETE FROM note WHERE id = '2'"))
    x.clock.advance(3599)
    assert y.store.purge(x.clock.now_ms()) == 0


def test_a_clock_that_steps_back_delays_no_round_for_long(pair: list[Device]) -> None:
    x, _ = pair
    looked: list[int] = []

    @contextmanager
    def reading() -> Iterator[sqlite3.Connection]:
        looked.append(now_ms)
        with other_program(x.path) as connection:
            yield connection

    purging = Purging(reading, x.store.transaction, offline_s=DAY)
    start = x.clock.now_ms()
    hour = ROUND_MS
    for now_ms in (start, start + hour - 1, start + hour, start - 365 * hour, start - 365 * hour + 1, start - 364 * hour):
        assert purging.step(now_ms, None) == 0
    assert looked == [start, start + hour, start - 365 * hour, start - 364 * hour]


def test_a_writer_is_not_kept_waiting(tmp_path: Path) -> None:
    """A transaction that another program holds is not waited for: the portion is left for the next round."""
    clock = ManualClock()
    x, y = (Device(tmp_path, name, clock=clock, busy_timeout=0.01) for name in "xy")
    old_note(x, y)
    age(61, x)
    with other_program(y.path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert y.store.purge(clock.now_ms()) == 0
        connection.execute("COMMIT")
    clock.advance(3600)
    assert y.store.purge(clock.now_ms()) == 1


def test_looking_for_what_can_go_writes_nothing(pair: list[Device]) -> None:
    x, y = pair
    old_note(x, y)
    with other_program(y.path) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        assert y.store.purge(x.clock.now_ms()) == 0
        assert watching.execute("PRAGMA data_version").fetchone() == before


def test_pages_that_become_free_are_used_again(pair: list[Device]) -> None:
    x, y = pair
    sizes = []
    for number in range(4):
        y.receive(x.write(*(f"INSERT INTO note (id) VALUES ('{number} {n}')" for n in range(500))), x.write("DELETE FROM note"))
        acknowledge_all(x)
        purge_everything(y)
        sizes.append(query(y.path, "PRAGMA page_count")[0][0])
    assert sizes[3] == sizes[1]
    assert records(y) == 0
