"""Rows' clocks in the file: they come back as they were written, whatever becomes of columns, and name devices by numbers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localstore.changes import Key, Value
from localstore.clock import MAX_STAMP, Version
from localstore.store.capture import CapturedTable
from localstore.store.clocks import ClockTable, Knowledge, key_of, key_value, saw_up_to
from localstore.store.merge import LONG_AGO, PURGED, Candidate, Mark, RowState, life_of
from tests.unit.store_kit import LINK, NOTE, exactly, open_store

COLUMNS = ("title", "stars", "later")
DEVICES = (b"", b"x" * 16, b"y" * 16, b"z" * 16)
X, Y, Z = DEVICES[1:]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """A file with tables and nothing in them, as bytes."""
    path: Path = tmp_path_factory.mktemp("clocks") / "store.db"
    open_store(path, (NOTE, LINK)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        yield connection.serialize()


@pytest.fixture
def connection(empty: bytes) -> Iterator[sqlite3.Connection]:
    with closing(opened(empty)) as connection:
        yield connection


def opened(file: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(file)
    return connection


def table_of(connection: sqlite3.Connection, name: str = "note") -> int:
    ((id_,),) = connection.execute("SELECT id FROM localstore_table WHERE name = ?", (name,))
    return int(id_)


def loaded(connection: sqlite3.Connection, table: int, *keys: Value) -> dict[Value, RowState]:
    """As whoever opens the file next reads it."""
    return dict(ClockTable(connection).load(table, keys))


def updated(*columns: str, stamp: int = 9) -> RowState:
    """The clock of a row of which these columns were changed after it was born."""
    born = (5, X)
    return RowState(lives=(born,), marks={column: Mark((stamp, Y), born) for column in columns})


# -- a record says what was written


def versions() -> st.SearchStrategy[Version]:
    some = st.tuples(st.integers(0, 5) | st.integers(0, MAX_STAMP), st.sampled_from(DEVICES[1:]))
    return some | st.sampled_from([LONG_AGO, PURGED])


@st.composite
def states(draw: st.DrawFn) -> RowState:
    """Clocks of every shape that merging gives them, and of more."""
    lives = tuple(sorted(draw(st.sets(versions(), max_size=3))))
    state = RowState(lives=lives, died=draw(st.none() | versions()))
    if lives:
        marks = st.builds(Mark, versions(), st.sampled_from(lives).map(life_of))
        state.marks = draw(st.dictionaries(st.sampled_from(COLUMNS), marks))
    if len(lives) > 1:
        values = st.sampled_from([None, 1, -1.5, "text", b"bytes"])
        rivals = st.lists(st.builds(Candidate, marks, values), min_size=1, max_size=2).map(tuple)
        state.runners_up = draw(st.dictionaries(st.sampled_from(COLUMNS), rivals))
    return state


@settings(max_examples=60, deadline=None)
@given(states=st.lists(states(), min_size=1, max_size=3))
def test_clocks_are_read_as_they_were_written(empty: bytes, states: list[RowState]) -> None:
    with closing(opened(empty)) as connection:
        note, link = table_of(connection), table_of(connection, "link")
        clocks = ClockTable(connection)
        clocks.save(note, [("b", RowState(died=(1, X))), *enumerate(states)])
        clocks.save(link, enumerate(reversed(states)))
        for found in (dict(clocks.load(note, range(9))), loaded(connection, note, *range(9))):
            assert found == dict(enumerate(states))
        assert loaded(connection, link, *range(9)) == dict(enumerate(reversed(states)))


@settings(max_examples=40, deadline=None)
@given(states=st.lists(states(), min_size=1, max_size=3), repeats=st.integers(1, 300))
def test_the_same_clock_of_many_rows_is_written_and_found_at_once(empty: bytes, states: list[RowState], repeats: int) -> None:
    with closing(opened(empty)) as connection:
        note, link = table_of(connection), table_of(connection, "link")
        clocks = ClockTable(connection)
        clocks.save(link, [(number, RowState(died=(1, X))) for number in range(repeats)])
        keys = [f"{number}" for number in range(repeats * len(states))]
        for number, state in enumerate(states):
            clocks.add(note, keys[number :: len(states)], clocks.record(note, state))
        asked = ["none", *reversed(keys)]
        found = clocks.sort(note, asked)
        assert loaded(connection, note, *asked).keys() == set(keys)
        positions = sorted(position for some in found.values() for position in some)
        assert positions == list(range(1, len(asked)))
        for record, some in found.items():
            for position in some:
                assert clocks.read(note, record) == states[int(asked[position]) % len(states)]
        assert len(found) == len({repr(clocks.record(note, state)) for state in states})


def in_encoding(empty: bytes, encoding: str) -> sqlite3.Connection:
    """The tables that clocks are in, in a file that stores text in this encoding."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(f"PRAGMA encoding = '{encoding}'")
    with closing(opened(empty)) as source:
        for name in ("localstore_device", "localstore_table", "localstore_clock"):
            connection.execute(source.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0])
            for row in source.execute(f"SELECT * FROM {name}"):
                connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)
    return connection


KEYS = st.one_of(
    st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True),
    st.lists(st.text("aZ09", max_size=3), min_size=1, unique=True),
    st.lists(st.text("a\u00e9\uffee\U0001f600", max_size=2), min_size=1, unique=True),  # UTF-16 orders the last two otherwise
    st.lists(st.binary(max_size=2), min_size=1, unique=True),
    st.lists(st.integers(-2, 2) | st.text("a1", max_size=1) | st.binary(max_size=1), min_size=1, unique=True),
)


@given(KEYS, st.integers(0, 7), st.sampled_from(["UTF-8", "UTF-16le", "UTF-16be"]))
def test_every_record_is_found_among_keys_of_every_order(empty: bytes, keys: list[Value], chosen: int, encoding: str) -> None:
    recorded = [key for place, key in enumerate(keys) if chosen >> place & 1]
    with closing(in_encoding(empty, encoding)) as connection:
        table, clocks = table_of(connection), ClockTable(connection)
        clocks.save(table, ((key, RowState(lives=((5, X),))) for key in recorded))

        found = clocks.sort(table, keys)

        assert {keys[position] for positions in found.values() for position in positions} == set(recorded)


def test_a_row_without_a_record_has_no_clock(connection: sqlite3.Connection) -> None:
    assert loaded(connection, table_of(connection), "a") == {}
    assert ClockTable(connection).sort(table_of(connection), ["a"]) == {}


def test_a_clock_is_written_over_the_one_that_is_there(connection: sqlite3.Connection) -> None:
    note, clocks = table_of(connection), ClockTable(connection)
    clocks.save(note, [("a", RowState(died=(1, X))), ("b", RowState(died=(2, X)))])
    clocks.save(note, [("a", updated("title"))])
    assert loaded(connection, note, "a", "b") == {"a": updated("title"), "b": RowState(died=(2, X))}


@pytest.mark.parametrize("born", [True, False])
def test_clocks_of_many_rows_are_replaced_with_or_without_their_births(connection: sqlite3.Connection, born: bool) -> None:
    note, link, clocks = table_of(connection), table_of(connection, "link"), ClockTable(connection)
    before = [("a", RowState(lives=((1, X),))), ("b", RowState(lives=((2, X),))), ("c", RowState(lives=((3, X),)))]
    clocks.save(note, before)
    clocks.save(link, before)
    new = RowState(lives=((7, Y),), died=(6, Z), marks={"title": Mark((8, Z), (7, Y))})
    clocks.replace(note, ["a", "c", "d"], clocks.record(note, new), born=born)
    births = {"a": (7, Y), "c": (7, Y)} if born else {"a": (1, X), "c": (3, X)}
    assert loaded(connection, note, *"abcd") == {
        "b": RowState(lives=((2, X),)),
        **{key: RowState((birth,), (6, Z), {"title": Mark((8, Z), birth)}) for key, birth in births.items()},
    }
    assert loaded(connection, link, *"abcd") == dict(before)


def test_a_clock_that_knows_neither_birth_nor_death_names_no_device(connection: sqlite3.Connection) -> None:
    clocks = ClockTable(connection)
    assert clocks.record(table_of(connection), RowState()) == (None, 0, None, 0, None, 0)
    assert clocks.device_of(0) == b""


def test_a_clock_that_says_nothing_of_columns_takes_no_room_for_them(connection: sqlite3.Connection) -> None:
    note, clocks = table_of(connection), ClockTable(connection)
    for state in (RowState(), RowState(died=(1, X)), RowState(lives=((2, X),), died=(1, X))):
        assert clocks.record(note, state)[4] is None


# -- columns that come, and names that change


def test_a_column_that_came_later_was_brought_by_no_row_of_before(connection: sqlite3.Connection) -> None:
    note, clocks = table_of(connection), ClockTable(connection)
    clocks.save(note, [("first", updated("title")), ("dead", RowState(died=(5, X))), ("seed", RowState(lives=((0, X),)))])
    clocks.add_columns(note, ["later", "title"])
    clocks.save(note, [("second", updated())])
    clocks.add_columns(note, ["last"])
    clocks.save(note, [("third", updated())])
    assert clocks.record(note, updated())[5] == 2
    never = Mark(LONG_AGO, (5, X))
    for found in (dict(clocks.load(note, FIVE)), loaded(connection, note, *FIVE)):
        assert found["first"].marks == {**updated("title").marks, "later": never, "last": never}
        assert found["second"].marks == {"last": never}
        assert found["third"].marks == {}
        assert found["dead"] == RowState(died=(5, X))
        assert found["seed"].marks == dict.fromkeys(["later", "title", "last"], Mark(LONG_AGO, LONG_AGO))


FIVE = ["first", "second", "third", "dead", "seed"]


def test_columns_that_come_are_those_of_one_table_alone(connection: sqlite3.Connection) -> None:
    note, link, clocks = table_of(connection), table_of(connection, "link"), ClockTable(connection)
    for table in (note, link):
        clocks.save(table, [("a", updated())])
    clocks.add_columns(note, ["later"])
    assert loaded(connection, link, "a")["a"].marks == {}
    assert loaded(connection, note, "a")["a"].marks.keys() == {"later"}


def test_clocks_follow_the_new_names_of_columns(connection: sqlite3.Connection) -> None:
    note, link, clocks = table_of(connection), table_of(connection, "link"), ClockTable(connection)
    lives = ((5, X), (7, Y))
    rival = (Candidate(Mark((5, X), (5, X)), "v"),)
    two_lives = RowState(lives=lives, marks=updated("title").marks, runners_up={"title": rival, "stars": rival})
    before = [
        ("both", updated("title", "stars")),
        ("gone", updated("stars")),
        ("two", two_lives),
        ("two bare", RowState(lives=lives)),
        ("bare", updated()),
    ]
    clocks.add_columns(note, ["title", "stars"])
    for table in (note, link):
        clocks.save(table, before)
    old = "INSERT INTO localstore_clock (tbl, key, born, born_by) VALUES (?, 'old', 5, ?)"
    connection.execute(old, (note, clocks.id_of(X)))
    clocks.rename_columns(note, {"title": "name", "other": "another"})
    for found in (dict(clocks.load(note, SIX)), loaded(connection, note, *SIX)):
        assert found == {
            "both": updated_as("name", "title"),
            "gone": updated(),
            "two": RowState(lives=lives, marks=updated_as("name", "title").marks, runners_up={"name": rival}),
            "two bare": RowState(lives=lives),
            "bare": updated(),
            "old": RowState(lives=((5, X),), marks={"name": Mark(LONG_AGO, (5, X))}),
        }
    gone = connection.execute("SELECT detail FROM localstore_clock WHERE tbl = ? AND key = 'gone'", (note,))
    assert gone.fetchall() == [(None,)]
    assert loaded(connection, link, *SIX) == dict(before)


SIX = ["both", "gone", "two", "two bare", "bare", "old"]


def updated_as(new: str, old: str) -> RowState:
    state = updated(old)
    state.marks = {new: state.marks[old]}
    return state


# -- keys and devices


@given(key=st.lists(st.sampled_from([1, -(2**63), 1.5, "text", b"bytes", ""]), min_size=1, max_size=3).map(tuple))
def test_a_key_is_one_value_and_the_value_tells_the_key(key: Key) -> None:
    names = tuple(f"k{number}" for number in range(len(key)))
    value = key_value(key)
    assert key_of(CapturedTable(1, "t", names, (), None), value) == key
    assert exactly(value) == exactly(key[0]) if len(key) == 1 else isinstance(value, bytes)


def test_a_device_keeps_its_number(connection: sqlite3.Connection) -> None:
    clocks = ClockTable(connection)
    numbers = [clocks.id_of(device) for device in DEVICES]
    assert numbers[0] == 0
    assert len(set(numbers)) == len(numbers)
    for again in (clocks, ClockTable(connection)):
        assert [again.id_of(device) for device in DEVICES] == numbers
        assert [again.device_of(number) for number in numbers] == list(DEVICES)


# -- what a writer had seen

Learnt = tuple[bytes, bytes, int]


@pytest.mark.parametrize(
    ("stamp", "device", "is_seen"),
    [(7, X, True), (8, X, False), (0, X, True), (3, Y, True), (4, Y, False), (0, Y, True), (1, Z, False), (0, Z, False)],
)
def test_a_writer_had_seen_its_own_changes_and_others_up_to_a_stamp(stamp: int, device: bytes, is_seen: bool) -> None:
    assert saw_up_to(X, 7, {Y: 3})((stamp, device)) is is_seen


def test_everybody_had_seen_what_is_older_than_every_change() -> None:
    assert saw_up_to(X, 7, {})(LONG_AGO)


def test_a_stamp_of_one_is_enough_to_have_seen_seeds() -> None:
    assert saw_up_to(X, 7, {Y: 1})((0, Y))
    assert not saw_up_to(X, 7, {Y: 0})((0, Y))


@pytest.mark.parametrize("learnt", [[(X, Y, 3)], [(X, Y, 3), (X, Z, 5), (Y, X, 1), (X, Y, 4)]])
def test_what_devices_have_seen_is_remembered(connection: sqlite3.Connection, learnt: Sequence[Learnt]) -> None:
    clocks = ClockTable(connection)
    knowledge = Knowledge(connection, clocks)
    expected: dict[bytes, dict[bytes, int]] = {X: {}, Y: {}, Z: {}}
    for device, other, stamp in learnt:
        knowledge.learn(device, other, stamp)
        expected[device][other] = stamp
    for known in (knowledge, Knowledge(connection, clocks), Knowledge(connection, ClockTable(connection))):
        assert {device: known.of(device) for device in expected} == expected


def test_what_a_device_has_seen_is_added_to_what_was_remembered(connection: sqlite3.Connection) -> None:
    Knowledge(connection, ClockTable(connection)).learn(X, Y, 3)
    knowledge = Knowledge(connection, ClockTable(connection))
    known = knowledge.of(X)
    knowledge.learn(X, Z, 5)
    assert known == {Y: 3, Z: 5}
