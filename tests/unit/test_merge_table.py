"""The truth table of ``docs/merging.md``, cell by cell: every pair of changes, on real stores, in either order of arrival.

The page is the specification: nothing here says what a pair comes to. Each case carries out two changes on two devices, lets
them meet there and on two devices more, one for each order, and compares all four with what the page says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from localstore.changes import Key
from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.unit.store_kit import Device, Row, Statement, Table, check_equal, close_devices, write

PAGE = Path(__file__).parents[2] / "docs" / "merging.md"
HEAD = "| first | second |"
BASIC = ("insert", "update", "delete", "replace", "key change")
PAIRS = {
    *itertools.product(BASIC, BASIC),
    ("update", "update of another column"),
    ("key change", "key change to c"),
    ("key change", "insert of b"),
    ("insert of b", "key change"),
}
"""What the table has to speak of."""
REPLACE = "INSERT OR REPLACE INTO note VALUES ('a', 'same', 'too')"
INSERT_C = "INSERT INTO note VALUES ('c', 'same', 'too')"
CANNOT_BE = "cannot be"
SEEN, LATER, EQUAL = "the second had seen the first", "the second is later", "stamps are equal"

METADATA = sa.MetaData()
SIMPLE = sa.Table(
    "note",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("title", sa.String),
    sa.Column("text", sa.String),
)
COMPOSITE = sa.Table(
    "seat",
    METADATA,
    sa.Column("room", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("title", sa.String),
    sa.Column("text", sa.String),
)
TABLES = (SIMPLE, COMPOSITE)
KEYS: dict[str, dict[str, Key]] = {
    SIMPLE.name: {"a": ("a",), "b": ("b",), "c": ("c",)},
    COMPOSITE.name: {"a": ("hall", 1), "b": ("hall", 2), "c": ("attic", 1)},
}

Loss = tuple[Key, str, object]
"""Where a value was that is in ``conflicts()``, and the value."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    first: str
    second: str
    seen: str
    unseen: str


def lines_of(page: str) -> list[Line]:
    table = page[page.index(HEAD) :].partition("\n\n")[0].splitlines()[2:]
    return [Line(*(cell.strip() for cell in line.strip("|").split("|"))) for line in table]


LINES = lines_of(PAGE.read_text(encoding="utf-8"))


def row(word: str) -> Row:
    """What a change brings that brings all columns; no two bring the same."""
    return {"title": f"{word} title", "text": f"{word} text"}


def brought(change: str, word: str) -> tuple[str, Row]:
    """The key that a change is about, and what it brings to that row; a key change brings what was there before."""
    match change:
        case "insert" | "replace":
            return "a", row(word)
        case "insert of b":
            return "b", row(word)
        case "update":
            return "a", {"title": f"{word} title"}
        case "update of another column":
            return "a", {"text": f"{word} text"}
        case "delete":
            return "a", {}
        case "key change":
            return "b", row("old")
        case "key change to c":
            return "c", row("old")
    raise ValueError(f"The page speaks of {change!r}, which these tests cannot carry out.")


def statement(table: sa.Table, change: str, word: str) -> Statement:
    """A change as SQL."""
    keys = KEYS[table.name]
    key, values = brought(change, word)
    here = " AND ".join(f"{column.name} = ?" for column in table.primary_key)
    if change.startswith("key change"):
        moved = ", ".join(f"{column.name} = ?" for column in table.primary_key)
        return (f"UPDATE {table.name} SET {moved} WHERE {here}", *keys[key], *keys["a"])
    if change.startswith("update"):
        changed = ", ".join(f"{column} = ?" for column in values)
        return (f"UPDATE {table.name} SET {changed} WHERE {here}", *values.values(), *keys["a"])
    if change == "delete":
        return (f"DELETE FROM {table.name} WHERE {here}", *keys["a"])
    verb = "INSERT OR REPLACE" if change == "replace" else "INSERT"
    marks = ", ".join("?" * len(table.columns))
    return (f"{verb} INTO {table.name} VALUES ({marks})", *keys[key], *values.values())


def said(table: sa.Table, line: Line, cell: str) -> Table:
    """The rows that a cell of the page speaks of."""
    values = {"old": row("old"), "first": brought(line.first, "first")[1], "second": brought(line.second, "second")[1]}
    rows: Table = {}
    for part in cell.split("; ") if cell != "nothing" else ():
        key, _, sources = part.partition(": ")
        rows[KEYS[table.name][key]] = {
            column: value for source in sources.split(", ") for column, value in values[source].items()
        }
    return rows


class Scene:
    """Two writers, whoever wrote the old row, and a device that hears of everything the other way round.

    A change is made of a row in each of the tables, in one transaction.
    """

    def __init__(self, folder: Path, line: Line, relation: str) -> None:
        self.line, self.relation = line, relation
        self.author, self.reverse, *writers = (Device(folder, name, TABLES, clock=ManualClock()) for name in "zwxy")
        # Of equal stamps the greater device's is the second; else the device must not be what decides.
        self.first, self.second = sorted(writers, key=lambda device: device.id, reverse=relation != EQUAL)
        self.everyone = [self.author, self.reverse, self.first, self.second]
        self.old: tuple[SealedChangeset, ...] = ()
        if any(self.knows_the_row(change) for change in (line.first, line.second)):
            self.old = (self.author.write(*changes_of_all("insert", "old")),)
        if self.knows_the_row(line.first):
            self.first.receive(*self.old)
        self.first.clock.advance(1)
        self.made = [self.first.write(*changes_of_all(line.first, "first"))]
        if relation == SEEN:
            self.second.receive(*self.old, *self.made)
        elif self.knows_the_row(line.second):
            self.second.receive(*self.old)
        self.second.clock.advance(1 if relation == EQUAL else 2)

    def knows_the_row(self, change: str) -> bool:
        """Whether the writer of a change has the old row."""
        return change != "insert" and not (self.relation == SEEN and self.line.first == "insert")

    def can_go_on(self, table: sa.Table) -> bool:
        """Whether the second change is one, or is refused or changes nothing."""
        try:
            write(self.second.store, statement(table, self.line.second, "second"))
        except IntegrityError:
            return False
        return self.second.sealed() != []

    def go_on(self) -> None:
        """Carry the second change out, and let everyone hear of everything, changeset by changeset."""
        self.made.append(self.second.write(*changes_of_all(self.line.second, "second")))
        first, second = self.made
        assert (first.stamp == second.stamp) is (self.relation == EQUAL)
        assert (first.stamp, first.device) < (second.stamp, second.device)
        for device in self.everyone:
            order = self.made[::-1] if device is self.reverse else self.made
            for sealed in (*self.old, *order):
                device.receive(sealed)

    def lost(self, table: sa.Table, rows: Table) -> Iterator[tuple[Device, set[Loss]]]:
        """What either writer brought that is not in these rows."""
        for device, change, word in ((self.first, self.line.first, "first"), (self.second, self.line.second, "second")):
            key, values = brought(change, word)
            place = KEYS[table.name][key]
            there = rows.get(place, {})
            yield device, {(place, column, value) for column, value in values.items() if there.get(column) != value}


def changes_of_all(change: str, word: str) -> list[Statement]:
    return [statement(table, change, word) for table in TABLES]


def losses(device: Device, table: sa.Table) -> set[Loss]:
    return {(found.key, found.column, found.lost_value) for found in device.store.conflicts() if found.table == table.name}


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


def test_the_page_speaks_of_every_pair_once() -> None:
    spoken_of = [(line.first, line.second) for line in LINES]
    assert len(spoken_of) == len(set(spoken_of))
    assert set(spoken_of) == PAIRS


@pytest.mark.parametrize("relation", [SEEN, LATER, EQUAL])
@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.first}, then {line.second}")
def test_a_pair_comes_to_what_the_page_says(tmp_path: Path, line: Line, relation: str) -> None:
    cell = line.seen if relation == SEEN else line.unseen
    scene = Scene(tmp_path, line, relation)
    if cell == CANNOT_BE:
        assert [scene.can_go_on(table) for table in TABLES] == [False, False]
        return
    scene.go_on()
    check_equal(*scene.everyone, tables=tuple(KEYS))
    for table in TABLES:
        rows = said(table, line, cell)
        assert scene.author.rows(table.name) == rows
        for device, lost in scene.lost(table, rows):
            assert losses(device, table) == (set() if relation == SEEN else lost)
    assert scene.reverse.store.conflicts() == []


@pytest.mark.parametrize("changes", ["UPDATE note SET title = 'same'", "DELETE FROM note", REPLACE, INSERT_C], ids=str)
def test_two_devices_that_do_the_same_at_the_same_time_are_not_in_conflict(tmp_path: Path, changes: str) -> None:
    author, *writers = (Device(tmp_path, name, [SIMPLE], clock=ManualClock()) for name in "zxy")
    old = author.write(statement(SIMPLE, "insert", "old"))
    made = []
    for writer in writers:
        writer.receive(old)
        writer.clock.advance(1)
        made.append(writer.write(changes))
    assert made[0].stamp == made[1].stamp
    for device, order in ((author, made), (writers[0], made[::-1]), (writers[1], made)):
        device.receive(*order)
    check_equal(author, *writers)
    assert [device.store.conflicts() for device in (author, *writers)] == [[], [], []]
