"""Capture: what a transaction amounts to, row by row, and which values are told apart.

How rows come to be written is the subject of ``test_capture_paths`` and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore.changes import Op, Value
from localstore.store.file import Store
from tests.properties import for_all
from tests.unit.capture_cases import CASES, WIDE_COLUMNS
from tests.unit.capture_kit import Spelt, opened_with, watched
from tests.unit.store_kit import (
    NOTE,
    Table,
    changes_of,
    changesets_in,
    difference,
    exactly,
    is_clean,
    open_store,
    other_program,
    query,
    rows_of,
    write,
)


def keys(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, primary_key=True) for name in names]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store with the table ``note`` and nothing in it."""
    opened = open_store(path)
    yield opened
    opened.close()


# -- what a transaction amounts to


def test_a_transaction_that_writes_nothing_seals_nothing(store: Store, path: Path) -> None:
    write(store, "SELECT 1")
    write(store, "UPDATE note SET stars = 1", "DELETE FROM note", "INSERT INTO note SELECT * FROM note")
    assert changesets_in(path) == []
    assert store.state().last_number == 0


def test_a_row_that_comes_and_goes_in_one_transaction_seals_nothing(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 't', 1)", "UPDATE note SET stars = 2", "DELETE FROM note")
    assert changesets_in(path) == []
    assert is_clean(path)


def test_a_row_that_moves_away_and_back_holds_what_it_held(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    write(store, "UPDATE note SET id = 'b'", "UPDATE note SET id = 'a'")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.REPLACE, {"title": "t", "stars": 1})}


def test_updates_of_one_row_become_one_update_of_all_their_columns(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    write(store, "UPDATE note SET stars = 2", "UPDATE note SET title = 'u'", "UPDATE note SET stars = 3")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.UPDATE, {"title": "u", "stars": 3})}


def test_an_insert_and_an_update_of_it_are_one_insert(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 't', 1)", "UPDATE note SET stars = 2")
    assert changes_of(changesets_in(path)) == {("note", ("a",)): (Op.INSERT, {"title": "t", "stars": 2})}


def test_an_update_and_a_delete_are_a_delete(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    write(store, "UPDATE note SET stars = 2", "DELETE FROM note")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.DELETE, {})}


def test_a_delete_and_an_insert_replace_the_row(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    write(store, "DELETE FROM note", "INSERT INTO note (id) VALUES ('a')", "UPDATE note SET stars = 2")
    assert changes_of(changesets_in(path)[1:]) == {("note", ("a",)): (Op.REPLACE, {"title": None, "stars": 2})}


def test_tables_written_together_travel_together(path: Path) -> None:
    other = sa.Table("other", sa.MetaData(), *keys("id"))
    store = open_store(path, [NOTE, other])
    write(store, "INSERT INTO note (id) VALUES ('a')", "INSERT INTO other VALUES ('b')")
    store.close()
    (changeset,) = changesets_in(path)
    assert changes_of([changeset]).keys() == {("note", ("a",)), ("other", ("b",))}


def test_a_table_outside_the_schema_is_not_captured(store: Store, path: Path) -> None:
    write(store, "CREATE TABLE private (id TEXT PRIMARY KEY)", "INSERT INTO private VALUES ('a')")
    assert changesets_in(path) == []


# -- values


ODD_TYPES = ["BLOB", "NUMERIC", "", "DECIMAL(10, 2)", "DATE", "BOOLEAN", "JSON", "TEXT", "INTEGER", "REAL", "VARCHAR(5)"]
ODD_VALUES: list[Value] = [
    None,
    0,
    1,
    1.0,
    "1",
    b"1",
    "",
    b"",
    -1,
    2**53 + 1,
    float(2**53),
    2**63 - 1,
    -(2**63),
    0.1,
    1e308,
    float("inf"),
    "1.0",
    "a\0b",
    "é",
    "e\u0301",
    "\U0001f4be",
    b"\xff\xfe",
]


@pytest.mark.parametrize("kind", ODD_TYPES, ids=lambda kind: kind or "no type")
def test_a_value_that_differs_only_in_type_is_a_change_where_the_column_keeps_types(path: Path, kind: str) -> None:
    store = open_store(path, [sa.Table("odd", sa.MetaData(), *keys("id"), sa.Column("value", Spelt(kind)))])
    write(store, "INSERT INTO odd VALUES ('a', NULL)")
    store.acknowledge(1)
    for value in [*ODD_VALUES, *reversed(ODD_VALUES)]:
        before = rows_of(path, "odd")
        write(store, ("UPDATE odd SET value = ?", value))
        expected = difference("odd", before, rows_of(path, "odd"))
        assert exactly(changes_of(changesets_in(path))) == exactly(expected)
        store.acknowledge(store.state().last_number)
    store.close()


def test_a_change_of_case_counts_in_a_column_that_ignores_case(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute("CREATE TABLE tag (id TEXT NOT NULL PRIMARY KEY, name TEXT COLLATE NOCASE, trim TEXT COLLATE RTRIM)")
    columns = [*keys("id"), sa.Column("name", sa.String), sa.Column("trim", sa.String)]
    store = open_store(path, [sa.Table("tag", sa.MetaData(), *columns)])
    write(store, "INSERT INTO tag VALUES ('a', 'name', 'end')")
    write(store, "UPDATE tag SET name = 'NAME', trim = 'end  '")
    store.close()
    assert changes_of(changesets_in(path)[1:]) == {("tag", ("a",)): (Op.UPDATE, {"name": "NAME", "trim": "end  "})}


def test_a_key_that_changes_only_in_case_is_a_change(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute("CREATE TABLE tag (name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE, n INTEGER)")
    store = open_store(path, [sa.Table("tag", sa.MetaData(), *keys("name"), sa.Column("n", sa.Integer))])
    write(store, "INSERT INTO tag VALUES ('name', 1)")
    before = rows_of(path, "tag")
    write(store, "UPDATE tag SET name = 'NAME'")
    store.close()
    assert changes_of(changesets_in(path)[1:]) == difference("tag", before, rows_of(path, "tag"))


def test_generated_columns_are_made_anew_on_every_device(path: Path) -> None:
    columns = [
        *keys("id"),
        sa.Column("net", sa.Integer),
        sa.Column("gross", sa.Integer, sa.Computed("net * 2", persisted=True)),
        sa.Column("half", sa.Integer, sa.Computed("net / 2", persisted=False)),
        sa.Column("note", sa.String),
    ]
    store = open_store(path, [sa.Table("price", sa.MetaData(), *columns)])
    write(store, "INSERT INTO price (id, net) VALUES ('a', 10)")
    write(store, "UPDATE price SET net = 20")
    write(store, "UPDATE price SET note = 'cheap'")
    store.close()
    inserted, *updated = changesets_in(path)
    assert changes_of([inserted]) == {("price", ("a",)): (Op.INSERT, {"net": 10, "note": None})}
    assert [changes_of([changeset])["price", ("a",)][1] for changeset in updated] == [{"net": 20}, {"note": "cheap"}]
    assert query(path, "SELECT gross, half FROM price") == [(40, 10)]


def test_every_column_of_a_wide_table_is_captured_by_itself(path: Path) -> None:
    with watched(path, opened_with(path, CASES["130 columns"])) as watching:
        for name in WIDE_COLUMNS:
            write(watching.store, f"UPDATE wide SET {name} = 99 WHERE id = 'kept'")
    captured = [changes_of([changeset]) for changeset in changesets_in(path)]
    assert captured == [{("wide", ("kept",)): (Op.UPDATE, {name: 99})} for name in WIDE_COLUMNS]


def test_many_rows_in_one_transaction_are_one_changeset(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.connection().execute(sa.insert(NOTE), [{"id": f"{n:05}", "title": "t", "stars": n} for n in range(20_000)])
    before = rows_of(path)
    write(store, "UPDATE note SET stars = -stars WHERE stars % 2 = 0 AND stars > 0", "DELETE FROM note WHERE stars % 3 = 0")
    inserted, changed = changesets_in(path)
    assert inserted.row_count == 20_000
    assert changes_of([changed]) == difference("note", before, rows_of(path))


# -- any statements in any order


@dataclass(frozen=True)
class Step:
    sql: str
    parameters: tuple[Value, ...]


KEYS = st.sampled_from(["a", "b", "c", "d"])
ANY_VALUE = st.sampled_from([None, 0, 1, 1.0, 1.5, "x", "X", "1", b"x"])
STEPS = st.one_of(
    st.builds(lambda k, v, w: Step("INSERT OR IGNORE INTO thing VALUES (?, ?, ?)", (k, v, w)), KEYS, ANY_VALUE, ANY_VALUE),
    st.builds(lambda k, v, w: Step("INSERT OR REPLACE INTO thing VALUES (?, ?, ?)", (k, v, w)), KEYS, ANY_VALUE, ANY_VALUE),
    st.builds(
        lambda k, v: Step("INSERT INTO thing VALUES (?, ?, 'c') ON CONFLICT DO UPDATE SET loose = excluded.loose", (k, v)),
        KEYS,
        ANY_VALUE,
    ),
    st.builds(lambda k, v: Step("UPDATE thing SET loose = ? WHERE id = ?", (v, k)), KEYS, ANY_VALUE),
    st.builds(lambda v, w: Step("UPDATE thing SET caseless = ? WHERE loose IS ?", (v, w)), ANY_VALUE, ANY_VALUE),
    st.builds(lambda v: Step("UPDATE thing SET loose = caseless, caseless = ?", (v,)), ANY_VALUE),
    st.builds(lambda k, m: Step("UPDATE OR REPLACE thing SET id = ? WHERE id = ?", (k, m)), KEYS, KEYS),
    st.builds(lambda k: Step("DELETE FROM thing WHERE id = ?", (k,)), KEYS),
    st.just(Step("DELETE FROM thing", ())),
)
THING = sa.Table(
    "thing", sa.MetaData(), *keys("id"), sa.Column("loose", Spelt("")), sa.Column("caseless", Spelt("TEXT COLLATE NOCASE"))
)


@for_all(everyday=20, slow=60, steps=st.lists(STEPS, min_size=1, max_size=10))
def test_any_statements_of_another_program_are_captured_as_what_they_did(steps: list[Step]) -> None:
    """Another program has no recursive triggers: what its OR REPLACE deletes leaves no trace but the insert."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        store = open_store(path, [THING])
        with other_program(path) as connection:
            for step in steps:
                connection.execute(step.sql, step.parameters)
        store.seal()
        state: Table = {}
        for (_, key), (op, values) in changes_of(changesets_in(path)).items():
            assert op in (Op.INSERT, Op.REPLACE, Op.DELETE)
            if op is not Op.DELETE:
                state[key] = values
        store.close()
        assert exactly(state) == exactly(rows_of(path, "thing"))
