"""Rows from before their table was synced (seeds): older than every change, and never lost without a word."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore.testing.clock import ManualClock
from tests.properties import for_all
from tests.unit.store_kit import LINK, NOTE, Device, check_equal, close_devices, exchange, query
from tests.unit.test_apply import KINDS, WIDE_NOTE, Network, Step, histories, losses

NARROW = "CREATE TABLE note (id VARCHAR NOT NULL PRIMARY KEY, title VARCHAR, stars INTEGER)"
LINKS = "CREATE TABLE link (source VARCHAR NOT NULL, target INTEGER NOT NULL, label VARCHAR, PRIMARY KEY (source, target))"
Row = tuple[object, ...]


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def seeded(folder: Path, name: str, notes: Sequence[Row] = (), links: Sequence[Row] = ()) -> None:
    """A file as an application used it before it synced."""
    with closing(sqlite3.connect(folder / f"{name}.db", isolation_level=None)) as connection:
        connection.execute(NARROW)
        connection.executemany("INSERT INTO note VALUES (?, ?, ?)", notes)
        connection.execute(LINKS)
        connection.executemany("INSERT INTO link VALUES (?, ?, ?)", links)


def device(folder: Path, name: str, *notes: Row, tables: Sequence[sa.Table] = (NOTE,), ahead: int = 0) -> Device:
    """A device whose notes are older than its sync."""
    seeded(folder, name, notes)
    clock = ManualClock()
    clock.set(clock.now_ms() + ahead * 1000)
    return Device(folder, name, tables, clock=clock)


# -- against changes


@pytest.mark.parametrize("is_later", [True, False])
def test_an_edit_beats_every_seed(tmp_path: Path, is_later: bool) -> None:
    x = device(tmp_path, "x", ("a", "from x", 1))
    y = device(tmp_path, "y", ("a", "from y", 1), ahead=100 if is_later else -100)
    x.write("UPDATE note SET title = 'edited'")
    exchange(x, y)
    check_equal(x, y)
    assert x.row("a") == {"title": "edited", "stars": 1}
    assert losses(y) == [("title", "from y", "edited", "the later write wins")]
    assert losses(x) == []


@pytest.mark.parametrize("is_later", [True, False])
def test_a_delete_beats_every_seed(tmp_path: Path, is_later: bool) -> None:
    x = device(tmp_path, "x", ("a", "from x", 1))
    y = device(tmp_path, "y", ("a", "from y", 1), ahead=100 if is_later else -100)
    z = device(tmp_path, "z")
    x.write("DELETE FROM note")
    z.receive(*y.sealed())
    exchange(x, y, z)
    check_equal(x, y, z)
    assert z.rows() == {}
    assert sorted(losses(y)) == [(column, value, None, "a delete beats every update") for column, value in DELETED]


DELETED = [("stars", 1), ("title", "from y")]


def test_equal_seeds_are_no_conflict_and_others_are_one(tmp_path: Path) -> None:
    x, y = device(tmp_path, "x", ("a", "t", 1), ("b", "x", 1)), device(tmp_path, "y", ("a", "t", 1), ("b", "y", 1))
    exchange(x, y)
    check_equal(x, y)
    assert x.rows() == {("a",): {"title": "t", "stars": 1}, ("b",): {"title": max((x.id, "x"), (y.id, "y"))[1], "stars": 1}}
    assert len(losses(x) + losses(y)) == 1
    assert {lost[3] for lost in losses(x) + losses(y)} == {"both are from before sync; devices decide"}


def test_an_edit_by_who_had_seen_a_seed_is_no_conflict(tmp_path: Path) -> None:
    x, y = device(tmp_path, "x", ("a", "t", 1)), device(tmp_path, "y")
    exchange(x, y)
    y.write("UPDATE note SET stars = 2")
    exchange(x, y)
    assert losses(x) == losses(y) == []


def test_a_seed_that_came_late_was_not_seen_by_who_knows_its_device_otherwise(tmp_path: Path) -> None:
    """Both have seen all of each other's notes when their links come to be synced as well."""
    x, y = (sync_links_late(tmp_path, name, ahead=number) for number, name in enumerate("xy"))
    x.write("INSERT INTO note VALUES ('a', 't', 1)")
    y.write("INSERT INTO note VALUES ('b', 't', 1)")
    exchange(x, y)
    for one in (x, y):
        one.reopen([NOTE, LINK])
    x.write("UPDATE link SET label = 'edited'")
    exchange(x, y)
    check_equal(x, y, tables=("note", "link"))
    assert losses(y) == [("label", "y", "edited", "the later write wins")]
    assert losses(x) == []


def sync_links_late(folder: Path, name: str, *, ahead: int) -> Device:
    seeded(folder, name, links=[("a", 1, name)])
    clock = ManualClock()
    clock.advance(ahead)
    return Device(folder, name, [NOTE], clock=clock)


# -- any history


def rows() -> st.SearchStrategy[list[tuple[str, str, int]]]:
    row = st.tuples(st.sampled_from("abc"), st.builds("s{}".format, st.integers(0, 2)), st.integers(0, 2))
    return st.lists(row, max_size=3, unique_by=lambda row: row[0])


def links() -> st.SearchStrategy[list[tuple[str, int, str]]]:
    row = st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.builds("s{}".format, st.integers(0, 2)))
    return st.lists(row, max_size=2, unique_by=lambda row: row[:2])


Files = tuple[list[tuple[str, str, int]], list[tuple[str, int, str]]]


@for_all(
    everyday=5,
    slow=15,
    files=st.lists(st.tuples(rows(), links()), min_size=3, max_size=3),
    steps=histories([*KINDS, "grow"], 20),
    shuffled=st.randoms(use_true_random=False),
)
def test_devices_with_rows_from_before_sync_hold_the_same_in_the_end(
    files: list[Files], steps: list[Step], shuffled: random.Random
) -> None:
    """One syncs all from the beginning, the others only notes without a date, until the history or the end says otherwise."""
    schemas = [[WIDE_NOTE, LINK], [NOTE], [NOTE]]
    with TemporaryDirectory() as folder:
        for name, (notes, linked) in zip("xyz", files, strict=True):
            seeded(Path(folder), name, notes, linked)
        network = Network(Path(folder), *schemas)
        grown = {0}
        for step in steps:
            if step.kind == "grow":
                grown.add(step.device)
                network.devices[step.device].reopen(schemas[0])
                continue
            allowed = step.statements
            if step.device not in grown:  # links are there and may be written, but nobody hears of it
                allowed = tuple(sql for sql in allowed if "link" not in sql or step.count > 2)
            else:
                allowed = tuple(sql.replace("title = 't", "due = 'd") if step.count > 2 else sql for sql in allowed)
            if allowed or step.kind not in ("write", "other program"):
                network.act(replace(step, statements=allowed))
        for number in {0, 1, 2} - grown:
            network.devices[number].reopen(schemas[0])
        network.deliver_everything(shuffled)
        for one in network.devices:
            assert query(one.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
            assert query(one.path, "SELECT count(*) FROM localstore_unknown") == [(0,)]
        check_equal(*network.devices, tables=("note", "link"))
        network.close()


@for_all(
    everyday=5,
    slow=15,
    files=st.lists(st.tuples(rows(), links()), min_size=3, max_size=3),
    shuffled=st.randoms(use_true_random=False),
)
def test_each_seed_is_in_the_table_or_in_a_conflict(files: list[Files], shuffled: random.Random) -> None:
    with TemporaryDirectory() as folder:
        for name, (notes, linked) in zip("xyz", files, strict=True):
            seeded(Path(folder), name, notes, linked)
        network = Network(Path(folder), *[[NOTE, LINK]] * 3)
        network.deliver_everything(shuffled)
        check_equal(*network.devices, tables=("note", "link"))
        told = {(lost.key, lost.column, lost.lost_value) for one in network.devices for lost in one.store.conflicts()}
        shown = {(key, name, value) for key, row in network.devices[0].rows().items() for name, value in row.items()}
        for key, title, stars in (row for notes, _ in files for row in notes):
            assert {((key,), "title", title), ((key,), "stars", stars)} <= told | shown
        network.close()
