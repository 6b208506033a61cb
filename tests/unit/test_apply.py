"""Applying other devices' changesets: each once, in causal order, all or nothing, and with the same end on every device."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore import wire
from localstore.changes import Changeset, Op, RowGroup
from localstore.clock import stamp_at
from localstore.errors import MalformedChangeset, NewerFormat, ResetRequired
from localstore.store.apply import Applied
from localstore.store.conflicts import Conflict
from localstore.store.repaired import SetAside
from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.properties import for_all
from tests.unit.store_kit import (
    LINK,
    NOTE,
    Device,
    Statement,
    check_equal,
    close_devices,
    devices,
    exchange,
    is_clean,
    other_program,
    query,
    write,
)

DRIFT_SECONDS = 300  # what the stores here allow
WIDE_NOTE = sa.Table(
    "note",
    sa.MetaData(),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("title", sa.String),
    sa.Column("stars", sa.Integer),
    sa.Column("due", sa.String, server_default="never"),
)
INSERT_A = "INSERT INTO note VALUES ('a', 'first', 1)"
INSERT_B = "INSERT INTO note VALUES ('b', 'second', 2)"
REFUSE_POISON = (
    "CREATE TRIGGER refuse_{when} BEFORE {when} ON note WHEN NEW.title = 'poison' BEGIN SELECT RAISE(ABORT, 'poison'); END"
)


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Device]]:
    with devices(tmp_path, "xy") as opened:
        yield opened


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[list[Device]]:
    """Two devices, each with a clock of its own."""
    opened = [Device(tmp_path, name, clock=ManualClock()) for name in "xy"]
    yield opened
    for device in opened:
        device.close()


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[list[Device]]:
    with devices(tmp_path, "xyz") as opened:
        yield opened


def everything(device: Device) -> object:
    """All that applying may change. Own changes are brought into the clocks first, which applying does anyway."""
    device.store.fold()
    tables = ("note", "localstore_state", "localstore_device", "localstore_seen", "localstore_clock", "localstore_waiting")
    return [query(device.path, f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


def refuse_poison(device: Device) -> None:
    """Let the device's own trigger refuse notes with a certain title."""
    with other_program(device.path) as connection:
        for when in ("INSERT", "UPDATE"):
            connection.execute(REFUSE_POISON.format(when=when))


# -- each once


def test_a_changeset_is_applied_with_all_its_rows(pair: list[Device]) -> None:
    x, y = pair
    applied = y.receive(x.write(INSERT_A, INSERT_B), x.write("DELETE FROM note WHERE id = 'a'"))
    assert applied == Applied(changesets=2, rows=3)
    assert y.rows() == x.rows() == {("b",): {"title": "second", "stars": 2}}


def test_a_changeset_that_comes_again_does_nothing(pair: list[Device]) -> None:
    x, y = pair
    first, second = x.write(INSERT_A), x.write("UPDATE note SET stars = 2")
    y.receive(first, second)
    y.write("UPDATE note SET stars = 3")
    y.store.fold()  # brings its own change into the clocks
    before = y.rows(), y.clocks()
    assert y.receive(first, second) == Applied()
    assert y.receive(second, first, first) == Applied()
    assert (y.rows(), y.clocks()) == before


def test_a_changeset_that_comes_twice_in_a_page_is_applied_once(pair: list[Device]) -> None:
    x, y = pair
    first, second = x.write(INSERT_A), x.write("UPDATE note SET stars = 2")
    assert y.receive(first, first, second, first, second) == Applied(changesets=2, rows=2)


def test_own_changesets_that_come_back_are_ignored(pair: list[Device]) -> None:
    x, _ = pair
    first, second = x.write(INSERT_A), x.write("DELETE FROM note")
    before = x.rows(), x.clocks(), x.sealed()
    assert x.receive(first, second) == Applied()
    assert (x.rows(), x.sealed()) == (before[0], before[2])
    x.store.acknowledge(2)
    assert x.receive(first, second) == Applied()
    assert x.rows() == before[0]


def test_an_empty_page_moves_the_cursor(pair: list[Device]) -> None:
    x, _ = pair
    assert x.receive() == Applied()
    assert x.store.state().cursor == b"1"


# -- in causal order


def test_a_gap_waits_and_is_applied_when_what_was_missing_arrives(pair: list[Device]) -> None:
    x, y = pair
    first, second, third = x.write(INSERT_A), x.write(INSERT_B), x.write("UPDATE note SET stars = 9")
    assert y.receive(third) == Applied()
    assert y.receive(second) == Applied()
    assert y.rows() == {}
    y.reopen()
    assert y.receive(first) == Applied(changesets=3, rows=4)
    assert y.rows() == x.rows()
    assert query(y.path, "SELECT * FROM localstore_waiting") == []


def test_what_waits_is_looked_at_again_without_a_page(pair: list[Device]) -> None:
    x, y = pair
    first, second = x.write(INSERT_A), x.write(INSERT_B)
    y.receive(second)
    cursor = y.store.state().cursor
    assert cursor is not None
    assert y.store.apply([], after=cursor, cursor=cursor) == Applied()
    y.receive(first)
    assert y.rows() == x.rows()


def test_a_changeset_waits_for_those_of_other_devices_that_its_writer_had_seen(trio: list[Device]) -> None:
    x, y, z = trio
    born = x.write(INSERT_A)
    y.receive(born)
    changed = y.write("UPDATE note SET stars = 2")
    x.receive(changed)
    gone = x.write("DELETE FROM note")
    assert z.receive(gone) == z.receive(changed) == Applied()
    assert z.receive(born) == Applied(changesets=3, rows=3)
    assert z.rows() == {}
    y.receive(gone)
    check_equal(x, y, z)


def test_a_dependency_reaches_through_devices_that_wrote_nothing_between(trio: list[Device]) -> None:
    x, y, z = trio
    first, second = x.write(INSERT_A), x.write("UPDATE note SET stars = 2")
    y.receive(first)
    y.receive(second)
    seen = y.write("UPDATE note SET title = 'seen'")
    assert z.receive(first, seen) == Applied(changesets=1, rows=1)
    assert z.receive(second) == Applied(changesets=2, rows=2)
    assert z.rows() == y.rows()


def test_a_page_in_any_order_is_sorted_out(pair: list[Device]) -> None:
    x, y = pair
    history = [x.write(INSERT_A), *(x.write(f"UPDATE note SET stars = {n}") for n in range(2, 30))]
    shuffled = list(history)
    random.Random(1).shuffle(shuffled)
    assert y.receive(*shuffled).changesets == len(history)
    assert y.rows() == x.rows()


# -- all or nothing


def test_cursor_rows_and_clocks_come_together_or_not_at_all(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A))
    y.write(INSERT_B)
    y.store.acknowledge(1)
    with other_program(y.path) as connection:
        connection.execute("CREATE TRIGGER stop AFTER INSERT ON note BEGIN INSERT INTO missing VALUES (1); END")
    before = everything(y)
    page = [x.write("INSERT INTO note (id) VALUES ('c')"), x.write("UPDATE note SET stars = 5 WHERE id = 'a'")]
    with pytest.raises(sqlite3.OperationalError, match="missing"):
        y.receive(*page)
    assert everything(y) == before
    with other_program(y.path) as connection:
        connection.execute("DROP TRIGGER stop")
    assert y.receive(*page) == Applied(changesets=2, rows=2)
    assert y.row("a") == {"title": "first", "stars": 5}
    y.write("UPDATE note SET stars = 6")  # captured again, and checks are on again
    assert is_clean(y.path)


def test_a_changeset_that_sqlite_refuses_is_set_aside_and_the_others_are_applied(pair: list[Device]) -> None:
    x, y = pair
    refuse_poison(y)
    good, bad = x.write(INSERT_A), x.write(INSERT_B, "INSERT INTO note VALUES ('c', 'poison', 3)")
    late = x.write("INSERT INTO note VALUES ('d', 'fourth', 4)")
    applied = y.receive(good, bad, late)
    assert applied == Applied(changesets=2, rows=2, aside=[(x.id, 2, "poison")])
    assert y.rows().keys() == {("a",), ("d",)}
    assert query(y.path, "SELECT device, number, reason, sealed FROM localstore_aside") == [
        (x.id, 2, "poison", wire.encode(bad))
    ]
    assert y.receive(good, bad, late) == Applied()
    assert y.store.state().cursor == b"2"
    assert is_clean(y.path)


def test_what_was_set_aside_is_still_known_to_its_writer(trio: list[Device]) -> None:
    x, y, z = trio
    refuse_poison(z)
    born = x.write(INSERT_A)
    y.receive(born)
    bad, good = y.write("INSERT INTO note VALUES ('b', 'poison', 1)"), y.write("UPDATE note SET stars = 7 WHERE id = 'a'")
    assert z.receive(born, bad, good).aside == [(y.id, 1, "poison")]
    assert z.row("a") == y.row("a") == {"title": "first", "stars": 7}


def test_a_row_that_was_set_aside_can_be_replaced_by_a_good_one(pair: list[Device]) -> None:
    x, y = pair
    refuse_poison(y)
    y.receive(x.write("INSERT INTO note VALUES ('a', 'poison', 1)"))
    y.receive(x.write("INSERT OR REPLACE INTO note VALUES ('a', 'good', 2)"))
    assert y.rows() == x.rows()


def test_a_row_that_breaks_a_check_of_this_device_alone_is_set_aside_here(tmp_path: Path) -> None:
    checked = sa.Table(
        "note",
        sa.MetaData(),
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("title", sa.String),
        sa.Column("stars", sa.Integer, sa.CheckConstraint("stars < 3")),
    )
    x, y = Device(tmp_path, "x"), Device(tmp_path, "y", [checked])
    y.receive(x.write("INSERT INTO note VALUES ('a', 't', 5)"))
    assert y.store.take_set_aside() == [SetAside("note", ("a",), "CHECK constraint failed: stars < 3")]
    assert y.rows() == {}
    y.receive(x.write("UPDATE note SET stars = 2"))
    assert y.rows() == x.rows()
    with pytest.raises(sa.exc.IntegrityError):
        y.write("INSERT INTO note VALUES ('b', 't', 5)")
    x.close()
    y.close()


def test_a_page_that_was_pulled_from_elsewhere_in_history_changes_nothing(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A))
    late = x.write(INSERT_B)
    before = everything(y)
    for stale in (None, b"0", b"2"):
        assert y.store.apply([late], after=stale, cursor=b"3") is None
    assert everything(y) == before


# -- what must not be applied


def altered(sealed: SealedChangeset, **fields: object) -> SealedChangeset:
    return msgspec.structs.replace(sealed, **fields)


def test_a_damaged_changeset_is_refused_with_its_whole_page(pair: list[Device]) -> None:
    x, y = pair
    first, second = x.write(INSERT_A), x.write(INSERT_B)
    before = everything(y)
    damages: list[dict[str, object]] = [
        {"body": second.body[:-1] + bytes([second.body[-1] ^ 1])},
        {"body": b""},
        {"stamp": second.stamp + 1},
        {"rows": 2},
        {"digest": bytes(16)},
        {"codec": 1},
        {"size": 1 << 31},
    ]
    for damage in damages:
        with pytest.raises(MalformedChangeset, match="Changeset 2"):
            y.receive(first, altered(second, **damage))
        assert everything(y) == before
    assert y.receive(first, second).changesets == 2


def test_a_damaged_changeset_does_not_get_past_the_cursor_by_having_to_wait(pair: list[Device]) -> None:
    x, y = pair
    first, second = x.write(INSERT_A), x.write(INSERT_B)
    before = everything(y)
    with pytest.raises(MalformedChangeset):
        y.receive(altered(second, body=b"damaged"))
    assert everything(y) == before
    y.receive(first, second)
    assert y.rows() == x.rows()


def test_a_changeset_of_a_newer_format_is_refused_with_its_whole_page(pair: list[Device]) -> None:
    x, y = pair
    before = everything(y)
    with pytest.raises(NewerFormat, match="Upgrade"):
        y.receive(x.write(INSERT_A), altered(x.write(INSERT_B), format=wire.FORMAT + 1))
    assert everything(y) == before


def test_a_changeset_stamped_before_the_one_before_it_is_refused(pair: list[Device]) -> None:
    x, y = pair
    first, second = x.write(INSERT_A), x.write(INSERT_B)
    before = everything(y)
    forged = wire.seal(msgspec.structs.replace(wire.unseal(second), stamp=first.stamp))
    with pytest.raises(MalformedChangeset, match="stamp"):
        y.receive(first, forged)
    assert everything(y) == before


def test_a_changeset_of_ours_that_we_never_made_means_that_the_file_was_copied(pair: list[Device]) -> None:
    x, y = pair
    x.write(INSERT_A)
    before = everything(x)
    theirs = wire.seal(Changeset(x.id, 2, stamp_at(x.clock.now_ms()) + 5, (), ()))
    with pytest.raises(ResetRequired, match="forked"):
        x.receive(y.write(INSERT_B), theirs)
    assert everything(x) == before
    assert len(x.sealed()) == 1


def test_a_dependency_on_a_changeset_of_ours_that_we_never_made_means_the_same(tmp_path: Path) -> None:
    with devices(tmp_path, "xy") as (x, y):
        x.write(INSERT_A)
        x.store.close()
        copied = x.path.read_bytes()
        x.reopen()
        y.receive(*x.sealed(), x.write(INSERT_B))
        knows = y.write("UPDATE note SET stars = 9")
        x.store.close()
        x.path.write_bytes(copied)
        x.reopen()
        before = everything(x)
        with pytest.raises(ResetRequired, match="forked"):
            x.receive(knows)
        assert everything(x) == before


# -- clocks that are wrong


def test_a_stamp_too_far_ahead_waits_until_the_clock_is_there(tmp_path: Path) -> None:
    ours, theirs = ManualClock(), ManualClock()
    theirs.advance(DRIFT_SECONDS + 60)
    x, y = Device(tmp_path, "x", clock=ours), Device(tmp_path, "y", clock=theirs)
    early, late = y.write(INSERT_A), y.write(INSERT_B)
    applied = x.receive(early, late)
    assert (applied.changesets, applied.drifting) == (0, {y.id: 60_000})
    assert x.rows() == {}
    ours.advance(59.999)
    assert x.receive().drifting == {y.id: 1}
    x.reopen()
    ours.advance(0.001)
    assert x.receive() == Applied(changesets=2, rows=2)
    assert x.rows() == y.rows()
    x.close()
    y.close()


def test_whoever_depends_on_a_changeset_that_is_ahead_waits_as_well(tmp_path: Path) -> None:
    ours, between, theirs = ManualClock(), ManualClock(), ManualClock()
    theirs.advance(DRIFT_SECONDS + 60)
    between.advance(DRIFT_SECONDS)
    x, y, z = Device(tmp_path, "x", clock=ours), Device(tmp_path, "y", clock=between), Device(tmp_path, "z", clock=theirs)
    y_alone = y.write(INSERT_B)
    ahead = z.write(INSERT_A)
    y.receive(ahead)
    after = y.write("UPDATE note SET stars = 3")
    assert x.receive(y_alone, after, ahead).changesets == 1
    assert x.rows().keys() == {("b",)}
    ours.advance(61)
    assert x.receive().changesets == 2
    assert x.rows() == y.rows()
    for device in (x, y, z):
        device.close()


def test_the_file_is_written_as_usual_while_something_waits_for_its_time(tmp_path: Path) -> None:
    theirs = ManualClock()
    theirs.advance(DRIFT_SECONDS * 10)
    x, y = Device(tmp_path, "x"), Device(tmp_path, "y", clock=theirs)
    x.receive(y.write(INSERT_A))
    assert x.write(INSERT_B).stamp == stamp_at(x.clock.now_ms())
    x.close()
    y.close()


# -- schemas that differ


def test_a_column_that_only_others_have_is_kept_and_filled_in_later(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [WIDE_NOTE])
    narrow.receive(wide.write("INSERT INTO note VALUES ('a', 't', 1, 'today'), ('b', 't', 1, NULL)"))
    narrow.receive(wide.write("UPDATE note SET due = 'tomorrow' WHERE id = 'a'", "INSERT INTO note (id) VALUES ('c')"))
    assert narrow.rows().keys() == wide.rows().keys()
    wide.receive(narrow.write("INSERT INTO note VALUES ('d', 't', 1)"))
    narrow.reopen([WIDE_NOTE])
    assert narrow.rows() == wide.rows()
    assert narrow.row("a") == {"title": "t", "stars": 1, "due": "tomorrow"}
    assert narrow.row("d") == {"title": "t", "stars": 1, "due": "never"}
    assert query(narrow.path, "SELECT * FROM localstore_unknown") == []
    check_equal(narrow, wide)


def test_a_table_that_only_others_have_is_kept_and_filled_in_later(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [NOTE, LINK])
    narrow.receive(wide.write("INSERT INTO link VALUES ('a', 1, 'one'), ('b', 2, 'two'), ('c', 3, 'three')", INSERT_A))
    narrow.receive(wide.write("UPDATE link SET label = 'changed' WHERE source = 'b'", "DELETE FROM link WHERE source = 'c'"))
    assert narrow.rows() == wide.rows()
    narrow.reopen([NOTE, LINK])
    assert narrow.rows("link") == wide.rows("link") == {("a", 1): {"label": "one"}, ("b", 2): {"label": "changed"}}
    assert len(narrow.sealed()) == 0
    check_equal(narrow, wide, tables=("note", "link"))


def test_many_rows_of_a_table_that_only_others_have_are_filled_in_later(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [NOTE, LINK])
    narrow.receive(wide.write(*(f"INSERT INTO link VALUES ('a', {n}, 'label')" for n in range(250))))
    narrow.receive(wide.write("UPDATE link SET label = 'changed' WHERE target > 100"))
    narrow.reopen([NOTE, LINK])
    check_equal(narrow, wide, tables=("note", "link"))


def test_reopening_changes_nothing_while_no_schema_has_room_for_what_is_kept(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [WIDE_NOTE, LINK])
    narrow.receive(wide.write("INSERT INTO note VALUES ('a', 't', 1, 'today')", "INSERT INTO link VALUES ('a', 1, 'one')"))
    with other_program(narrow.path) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        narrow.reopen()
        assert watching.execute("PRAGMA data_version").fetchone() == before
    narrow.reopen([WIDE_NOTE, LINK])
    check_equal(narrow, wide, tables=("note", "link"))


def test_a_column_comes_in_two_steps_when_two_are_unknown(tmp_path: Path) -> None:
    last = sa.Table("note", sa.MetaData(), *(column._copy() for column in WIDE_NOTE.columns), sa.Column("done", sa.Integer))
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [last])
    narrow.receive(wide.write("INSERT INTO note VALUES ('a', 't', 1, 'today', 0)"))
    narrow.receive(wide.write("UPDATE note SET due = 'tomorrow', done = 1"))
    narrow.reopen([WIDE_NOTE])
    assert narrow.row("a") == {"title": "t", "stars": 1, "due": "tomorrow"}
    narrow.reopen([last])
    assert narrow.row("a") == {"title": "t", "stars": 1, "due": "tomorrow", "done": 1}
    check_equal(narrow, wide)


def test_a_late_column_keeps_out_of_a_row_that_was_inserted_again(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [WIDE_NOTE])
    wide.receive(narrow.write(INSERT_A))
    narrow.receive(wide.write("UPDATE note SET due = 'today'"))
    wide.receive(narrow.write("DELETE FROM note"), narrow.write(INSERT_A))
    narrow.receive(wide.write("INSERT INTO note (id) VALUES ('proof that it has seen all this')"))
    narrow.reopen([WIDE_NOTE])
    assert narrow.row("a") == wide.row("a") == {"title": "first", "stars": 1, "due": "never"}
    check_equal(narrow, wide)


def test_a_late_column_keeps_out_of_a_row_that_was_replaced_here_and_not_sent_yet(tmp_path: Path) -> None:
    narrow, wide = Device(tmp_path, "narrow"), Device(tmp_path, "wide", [WIDE_NOTE])
    wide.receive(narrow.write(INSERT_A))
    narrow.receive(wide.write("UPDATE note SET due = 'today'"))
    replaced = narrow.write("INSERT OR REPLACE INTO note VALUES ('a', 'new', 2)")
    narrow.reopen([WIDE_NOTE])
    wide.receive(replaced)
    assert narrow.row("a") == wide.row("a") == {"title": "new", "stars": 2, "due": "never"}
    check_equal(narrow, wide)


def test_a_row_that_is_inserted_again_by_a_narrower_schema_forgets_the_other_columns(tmp_path: Path) -> None:
    with TemporaryDirectory() as folder:
        narrow = Device(tmp_path, "narrow")
        wide = [Device(Path(folder), name, [WIDE_NOTE]) for name in "xyz"]
        born = wide[0].write("INSERT INTO note VALUES ('a', 't', 1, 'today')")
        for device in (narrow, *wide[1:]):
            device.receive(born)
        again = [narrow.write("DELETE FROM note"), narrow.write(INSERT_A)]
        wide[0].receive(*again)
        for changeset in again:
            wide[1].receive(changeset)
        wide[2].receive(again[1], again[0])
        for device in wide:
            assert device.row("a") == {"title": "first", "stars": 1, "due": "never"}
        check_equal(*wide)
        for device in (narrow, *wide):
            device.close()


def test_rows_from_before_a_column_take_part_like_those_from_devices_without_it(tmp_path: Path) -> None:
    """Both devices insert one key; the one without the column is later, and gets the column before it hears of the other."""
    later = ManualClock()
    later.advance(10)
    narrow, wide = Device(tmp_path, "narrow", clock=later), Device(tmp_path, "wide", [WIDE_NOTE])
    early, late = wide.write("INSERT INTO note VALUES ('a', 't', 1, 'today')"), narrow.write(INSERT_A)
    narrow.store.acknowledge(1)
    narrow.reopen([WIDE_NOTE])
    narrow.receive(early)
    wide.receive(late)
    assert narrow.row("a") == wide.row("a") == {"title": "first", "stars": 1, "due": "today"}
    check_equal(narrow, wide)


# -- merged changes are not captured, and what lost is kept


def test_merged_changes_are_not_sent_out_again(trio: list[Device]) -> None:
    x, y, z = trio
    y.receive(x.write(INSERT_A, INSERT_B), x.write("UPDATE note SET stars = 5"), x.write("DELETE FROM note WHERE id = 'b'"))
    y.store.seal()
    assert y.sealed() == []
    assert is_clean(y.path)
    z.receive(*x.sealed())
    check_equal(x, y, z)


def test_what_another_program_left_is_sealed_before_a_page_is_applied(pair: list[Device]) -> None:
    x, y = pair
    y.receive(x.write(INSERT_A))
    with other_program(y.path) as connection:
        connection.execute("UPDATE note SET stars = 7")
    y.receive(x.write("DELETE FROM note"))
    assert y.rows() == {}
    exchange(x, y)
    check_equal(x, y)


def losses(device: Device) -> list[tuple[str, object, object, str]]:
    return [(found.column, found.lost_value, found.won_value, found.rule) for found in device.store.conflicts()]


def meet_after(apart: list[Device], *, x: Statement, y: Statement) -> tuple[SealedChangeset, SealedChangeset]:
    """Both devices know the note ``a``, change something without knowing of each other, ``y`` later, and tell each other."""
    first, second = apart
    second.receive(first.write(INSERT_A))
    mine = first.write(x)
    second.clock.advance(10)
    theirs = second.write(y)
    exchange(first, second)
    check_equal(first, second)
    return mine, theirs


def test_a_value_that_lost_is_kept_by_the_device_that_wrote_it_and_by_no_other(apart: list[Device]) -> None:
    mine, theirs = meet_after(apart, x="UPDATE note SET stars = 2", y="UPDATE note SET stars = 3")
    x, y = apart
    assert x.store.conflicts() == [
        Conflict(
            id=stamp_at(x.clock.now_ms()),
            table="note",
            key=("a",),
            column="stars",
            lost_value=2,
            lost_stamp=mine.stamp,
            lost_device=x.id.hex(),
            won_value=3,
            won_stamp=theirs.stamp,
            won_device=y.id.hex(),
            rule="the later write wins",
        )
    ]
    assert y.store.conflicts() == []


def test_a_value_that_the_other_side_had_seen_is_no_conflict(apart: list[Device]) -> None:
    x, y = apart
    y.receive(x.write(INSERT_A), x.write("UPDATE note SET stars = 2"))
    x.receive(y.write("UPDATE note SET stars = 3"))
    y.receive(x.write("UPDATE note SET title = 'u'"))
    x.receive(y.write("DELETE FROM note"))
    assert x.store.conflicts() == y.store.conflicts() == []


def test_different_columns_are_no_conflict(apart: list[Device]) -> None:
    meet_after(apart, x="UPDATE note SET stars = 2", y="UPDATE note SET title = 'u'")
    assert apart[0].row("a") == {"title": "u", "stars": 2}
    assert losses(apart[0]) == losses(apart[1]) == []


def test_equal_values_are_no_conflict(apart: list[Device]) -> None:
    meet_after(apart, x="UPDATE note SET stars = 2, title = 'u'", y="UPDATE note SET stars = 2, title = 'v'")
    assert losses(apart[0]) == [("title", "u", "v", "the later write wins")]


def test_a_value_is_kept_when_the_row_was_deleted_elsewhere(apart: list[Device]) -> None:
    meet_after(apart, x="UPDATE note SET stars = 2", y="DELETE FROM note")
    assert losses(apart[0]) == [("stars", 2, None, "a delete beats every update")]
    assert losses(apart[1]) == []


def test_a_value_is_kept_also_when_the_row_was_deleted_earlier_elsewhere(apart: list[Device]) -> None:
    meet_after(apart, x="DELETE FROM note", y="UPDATE note SET stars = 2")
    assert losses(apart[0]) == []
    assert losses(apart[1]) == [("stars", 2, None, "a delete beats every update")]


def test_a_value_is_kept_when_the_row_was_replaced_elsewhere(apart: list[Device]) -> None:
    meet_after(apart, x="UPDATE note SET stars = 2", y="INSERT OR REPLACE INTO note VALUES ('a', 'new', 9)")
    assert losses(apart[0]) == [("stars", 2, 9, "the later write wins")]


def test_a_value_is_kept_when_the_row_was_replaced_earlier_elsewhere(apart: list[Device]) -> None:
    meet_after(apart, x="INSERT OR REPLACE INTO note VALUES ('a', 'new', 9)", y="UPDATE note SET stars = 2")
    assert losses(apart[1]) == [("stars", 2, 9, "a delete beats every update")]


def test_values_of_two_rows_under_one_key_are_kept(apart: list[Device]) -> None:
    x, y = apart
    mine = x.write("INSERT INTO note VALUES ('k', 'mine', 1)")
    y.clock.advance(10)
    theirs = y.write("INSERT INTO note VALUES ('k', 'theirs', 1)")
    assert y.receive(mine) == Applied(changesets=1, rows=1)
    assert x.receive(theirs) == Applied(changesets=1, rows=1, conflicts=1)
    assert losses(x) == [("title", "mine", "theirs", "the later write wins")]
    assert losses(y) == []
    check_equal(x, y)


def test_a_value_that_was_overwritten_here_meanwhile_is_no_conflict(apart: list[Device]) -> None:
    x, y = apart
    y.receive(x.write(INSERT_A))
    x.write("UPDATE note SET stars = 2")
    x.clock.advance(20)
    x.write("UPDATE note SET stars = 4")
    y.clock.advance(10)
    y.write("UPDATE note SET stars = 3")
    exchange(x, y)
    assert losses(x) == []
    assert losses(y) == [("stars", 3, 4, "the later write wins")]


def test_a_conflict_names_who_set_the_value_that_stands_there_now(tmp_path: Path) -> None:
    """A delete ends the row that ``x`` inserted, and that of ``y`` under the same key comes forward."""
    clocks = [ManualClock() for _ in range(3)]
    x, y, z = (Device(tmp_path, name, clock=clock) for name, clock in zip("xyz", clocks, strict=True))
    first = x.write("INSERT INTO note VALUES ('k', 'x', 1)")
    z.receive(first)
    z.clock.advance(10)
    gone = z.write("DELETE FROM note")
    y.clock.advance(20)
    second = y.write("INSERT INTO note VALUES ('k', 'y', 2)")
    x.clock.advance(30)
    x.write("UPDATE note SET title = 'x again'")
    x.receive(second)
    assert x.row("k") == {"title": "x again", "stars": 2}
    x.receive(gone)
    assert x.row("k") == {"title": "y", "stars": 2}
    (_, conflict) = x.store.conflicts()
    assert (conflict.lost_value, conflict.won_value, conflict.won_device) == ("x again", "y", y.id.hex())
    assert conflict.won_stamp == second.stamp
    for device in (x, y, z):
        device.close()


# -- own changes and others' in any order


@pytest.mark.parametrize("is_acknowledged_first", [True, False], ids=["before", "after"])
def test_clocks_are_the_same_whether_a_remote_acknowledges_before_or_after(
    apart: list[Device], is_acknowledged_first: bool
) -> None:
    x, y = apart
    y.receive(x.write(INSERT_A), x.write(INSERT_B))
    y.clock.advance(5)
    x.write("UPDATE note SET stars = 8 WHERE id = 'a'", "DELETE FROM note WHERE id = 'b'")
    theirs = y.write("UPDATE note SET stars = 9, title = 'y' WHERE id = 'a'", "UPDATE note SET stars = 9 WHERE id = 'b'")
    x.clock.advance(10)
    x.write("INSERT INTO note VALUES ('c', 'x', 1)")
    history = x.sealed()
    if is_acknowledged_first:
        x.store.acknowledge(4)
        x.receive(theirs)
    else:
        x.receive(theirs)
        x.store.acknowledge(4)
    y.receive(*history)
    check_equal(x, y)
    assert x.rows() == {("a",): {"title": "y", "stars": 9}, ("c",): {"title": "x", "stars": 1}}


def test_many_own_changesets_are_brought_into_the_clocks(apart: list[Device]) -> None:
    x, y = apart
    x.write(INSERT_A)
    for number in range(600):
        write(x.store, f"UPDATE note SET stars = {number} + 2")
    y.receive(*x.sealed())
    check_equal(x, y)


# -- any history in any order


@dataclass(frozen=True)
class Step:
    """A device writes, receives the next ``count`` changesets of another, acknowledges, sets its clock, or is reopened."""

    device: int
    kind: str
    other: int
    count: int
    statements: tuple[str, ...]


def statements() -> st.SearchStrategy[str]:
    key, value = st.sampled_from("abc"), st.integers(0, 9)
    return st.one_of(
        st.builds("INSERT OR IGNORE INTO note (id, title, stars) VALUES ('{}', 't{}', {})".format, key, value, value),
        st.builds("INSERT OR REPLACE INTO note (id, title, stars) VALUES ('{}', 't{}', {})".format, key, value, value),
        st.builds("UPDATE note SET title = 't{}' WHERE id = '{}'".format, value, key),
        st.builds("UPDATE note SET stars = {} WHERE id >= '{}'".format, value, key),
        st.builds("DELETE FROM note WHERE id = '{}'".format, key),
        st.builds("UPDATE OR REPLACE note SET id = '{}' WHERE id = '{}'".format, key, key),
        st.builds("INSERT INTO link VALUES ('{}', {}, 'l{}') ON CONFLICT DO NOTHING".format, key, st.integers(0, 1), value),
        st.builds("UPDATE link SET label = 'l{}', target = {}".format, value, st.integers(0, 1)).map(
            lambda sql: sql.replace("UPDATE", "UPDATE OR REPLACE", 1)
        ),
        st.builds("DELETE FROM link WHERE target = {}".format, st.integers(0, 1)),
    )


KINDS = ["write", "write", "write", "receive", "receive", "receive", "acknowledge", "clock", "reopen", "other program"]


def histories(kinds: list[str], size: int) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        device=st.integers(0, 2),
        kind=st.sampled_from(kinds),
        other=st.integers(1, 2),
        count=st.integers(1, 4),
        statements=st.lists(statements(), min_size=1, max_size=3).map(tuple),
    )
    return st.lists(step, min_size=5, max_size=size)


class Network:
    """Three devices and all the changesets they ever made, each received from each other as the test says."""

    def __init__(self, folder: Path, *schemas: list[sa.Table]) -> None:
        self.devices = [Device(folder, name, schema, clock=ManualClock()) for name, schema in zip("xyz", schemas, strict=True)]
        self.history: list[list[SealedChangeset]] = [[] for _ in self.devices]
        self.received = [[0] * len(self.devices) for _ in self.devices]

    def act(self, step: Step) -> None:
        device = self.devices[step.device]
        self._note(step.device)
        if step.kind == "write":
            write(device.store, *step.statements)
        elif step.kind == "other program":
            with other_program(device.path) as connection:
                connection.execute(step.statements[0])
        elif step.kind == "receive":
            source = (step.device + step.other) % len(self.devices)
            first = self.received[step.device][source]
            page = self.history[source][first : first + step.count]
            self.received[step.device][source] += len(page)
            device.receive(*page)
        elif step.kind == "acknowledge":
            device.store.acknowledge(min(step.count, device.store.state().last_number))
        elif step.kind == "clock":
            device.clock.set(device.clock.now_ms() + (step.count - 2) * 7_000)
        else:
            device.reopen()
        self._note(step.device)

    def seal(self) -> None:
        for index, device in enumerate(self.devices):
            device.store.seal()
            self._note(index)

    def deliver_everything(self, shuffled: random.Random) -> None:
        """Every device receives everything, its own changesets too, in pages and in an order that chance decides."""
        self.seal()
        for device in self.devices:
            pages = [sealed for made in self.history for sealed in made]
            pages += shuffled.sample(pages, len(pages) // 4)
            shuffled.shuffle(pages)
            while pages:
                count = shuffled.randint(1, 6)
                device.receive(*pages[:count])
                del pages[:count]

    def close(self) -> None:
        for device in self.devices:
            device.close()

    def _note(self, index: int) -> None:
        known = self.history[index]
        known += [sealed for sealed in self.devices[index].sealed() if sealed.number > len(known)]


@for_all(everyday=6, slow=20, steps=histories(KINDS, 20), shuffled=st.randoms(use_true_random=False))
def test_devices_that_have_received_the_same_hold_the_same(steps: list[Step], shuffled: random.Random) -> None:
    with TemporaryDirectory() as folder:
        network = Network(Path(folder), *[[NOTE, LINK]] * 3)
        for step in steps:
            network.act(step)
        network.deliver_everything(shuffled)
        for device in network.devices:
            assert query(device.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
        check_equal(*network.devices, tables=("note", "link"))
        network.close()


@for_all(
    everyday=6,
    slow=20,
    before=histories([*KINDS, "widen"], 14),
    after=histories([*KINDS, "widen"], 10),
    shuffled=st.randoms(use_true_random=False),
)
def test_devices_that_get_a_new_schema_at_different_times_hold_the_same_in_the_end(
    before: list[Step], after: list[Step], shuffled: random.Random
) -> None:
    """One device has the wider schema from the beginning, one gets it when the history says, the last in the end."""
    narrow, wide = [NOTE], [WIDE_NOTE, LINK]
    with TemporaryDirectory() as folder:
        network = Network(Path(folder), wide, narrow, narrow)
        network.devices[0].write("INSERT INTO note VALUES ('a', 't', 0, 'today')", "INSERT INTO link VALUES ('a', 0, 'l')")
        schemas = [True, False, False]
        for number, step in enumerate([*before, *after]):
            if step.kind == "widen" and number > step.device:
                schemas[step.device] = True
                network.devices[step.device].reopen(wide)
                continue
            allowed = [sql for sql in step.statements if schemas[step.device] or "link" not in sql]
            if schemas[step.device]:
                allowed = [sql.replace("title = 't", "due = 'd") for sql in allowed]
            if allowed or step.kind not in ("write", "other program"):
                network.act(replace(step, statements=tuple(allowed)))
        for device in network.devices[1:]:
            device.reopen(wide)
        network.deliver_everything(shuffled)
        check_equal(*network.devices, tables=("note", "link"))
        network.close()


# -- the shortcut for many inserts at once


@pytest.mark.parametrize("count", [99, 100, 101, 1200])
def test_many_inserts_are_merged_like_few(trio: list[Device], count: int) -> None:
    x, y, z = trio
    write(x.store, *(f"INSERT INTO note VALUES ('{n}', 'x', {n})" for n in range(count)))
    y.write("INSERT INTO note VALUES ('7', 'y', -7)")
    y.receive(*x.sealed())
    z.receive(*x.sealed(), *y.sealed())
    x.receive(*y.sealed())
    check_equal(x, y, z)
    y.write("DELETE FROM note WHERE stars % 2 = 0")
    x.receive(*y.sealed())
    z.receive(*y.sealed())
    check_equal(x, y, z)


def test_a_group_that_holds_a_key_twice_is_merged_all_the_same(pair: list[Device]) -> None:
    """No store makes one, but a changeset from elsewhere could."""
    x, y = pair
    x.write(INSERT_A)
    keys = [str(n % 100) for n in range(200)]
    group = RowGroup("note", Op.INSERT, ("id",), ("title", "stars"), [keys, ["t"] * 200, list(range(200))])
    y.receive(*x.sealed(), wire.seal(Changeset(x.id, 2, x.sealed()[0].stamp + 1, (), (group,))))
    assert len(y.rows()) == 101
