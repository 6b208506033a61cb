"""Capture: whatever changes a synced table, and by whatever way, comes out as a changeset that says the same.

Each changeset is compared with the difference between the table before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry
from sqlmodel import Session

from localstore.changes import Key, Op, Value
from localstore.store.engine import quote
from localstore.store.file import Store
from tests.unit.store_kit import (
    NOTE,
    Changes,
    Table,
    changes_of,
    changesets_in,
    difference,
    exactly,
    is_clean,
    open_store,
    other_program,
    query,
    replayed,
    rows_of,
    write,
)

Values = dict[str, Any]


def keys(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, primary_key=True) for name in names]


@dataclass(frozen=True)
class Shape:
    """A table with three rows to begin with, and what is done to it: one row each is added, changed and deleted.

    Attributes:
        kept, changed, deleted, added: rows with all their values.
        update: the columns that ``changed`` gets.
    """

    table: sa.Table
    kept: Values
    changed: Values
    deleted: Values
    added: Values
    update: Values

    @property
    def key_names(self) -> list[str]:
        return [column.name for column in self.table.primary_key.columns]

    @property
    def operations(self) -> list[str]:
        """What can be done to a row; one that is nothing but a key cannot be updated."""
        return ["insert", "update", "delete"] if self.update else ["insert", "delete"]

    def is_row(self, row: Values) -> sa.ColumnElement[bool]:
        return sa.and_(*(self.table.c[name] == row[name] for name in self.key_names))


WIDE_COLUMNS = [f"c{n}" for n in range(130)]


def wide(key: str, value: int) -> Values:
    return {"id": key, **dict.fromkeys(WIDE_COLUMNS, value)}


def shape(name: str, columns: list[sa.Column[Any]], *rows: Values, update: Values) -> Shape:
    kept, changed, deleted, added = rows
    return Shape(sa.Table(name, sa.MetaData(), *columns), kept, changed, deleted, added, update)


SHAPES = {
    "text key": shape(
        "note",
        [*keys("id"), sa.Column("title", sa.String), sa.Column("stars", sa.Integer)],
        {"id": "kept", "title": "k", "stars": 1},
        {"id": "changed", "title": "c", "stars": None},
        {"id": "deleted", "title": "d", "stars": 3},
        {"id": "added", "title": "ä 💾 'quoted'", "stars": -(2**63)},
        update={"stars": 2**63 - 1},
    ),
    "composite key": shape(
        "part",
        [
            *keys("box"),
            sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("weight", sa.Float),
            sa.Column("picture", sa.LargeBinary),
        ],
        {"box": "a", "place": 1, "weight": 0.1, "picture": b""},
        {"box": "a", "place": 2, "weight": 1e300, "picture": None},
        {"box": "b", "place": 1, "weight": None, "picture": b"\0\xff"},
        {"box": "b", "place": 2, "weight": 2.0, "picture": b"text"},
        update={"weight": 5e-324, "picture": b"\0"},
    ),
    "nothing but a key": shape(
        "link",
        keys("source", "target"),
        {"source": "a", "target": "b"},
        {"source": "a", "target": "c"},
        {"source": "b", "target": "c"},
        {"source": "c", "target": "a"},
        update={},
    ),
    "130 columns": shape(
        "wide",
        [*keys("id"), *(sa.Column(name, sa.Integer) for name in WIDE_COLUMNS)],
        wide("kept", 1),
        wide("changed", 2),
        wide("deleted", 3),
        wide("added", 4),
        update={"c0": -1, "c62": -2, "c63": -3, "c125": -4, "c126": -5, "c129": -6},
    ),
    "names to quote": shape(
        'ta"ble',
        [*keys("select"), sa.Column('a "b" c', sa.String), sa.Column("it's", sa.String), sa.Column("new", sa.Integer)],
        {"select": "kept", 'a "b" c': "1", "it's": "1", "new": 1},
        {"select": "changed", 'a "b" c': "2", "it's": "2", "new": 2},
        {"select": "deleted", 'a "b" c': "3", "it's": "3", "new": 3},
        {"select": "added", 'a "b" c': "4", "it's": "4", "new": 4},
        update={'a "b" c': "5", "it's": "6"},
    ),
    "eight key columns and names like ours": shape(
        "log",
        [*keys(*(f"k{n}" for n in range(8))), *(sa.Column(name, sa.Integer) for name in ("mask", "seq", "op", "tbl", "part"))],
        {**dict.fromkeys((f"k{n}" for n in range(8)), "a"), "mask": 1, "seq": 1, "op": 1, "tbl": 1, "part": 1},
        {**dict.fromkeys((f"k{n}" for n in range(8)), "b"), "mask": 2, "seq": 2, "op": 2, "tbl": 2, "part": 2},
        {**dict.fromkeys((f"k{n}" for n in range(8)), "c"), "mask": 3, "seq": 3, "op": 3, "tbl": 3, "part": 3},
        {**dict.fromkeys((f"k{n}" for n in range(8)), "d"), "mask": 4, "seq": 4, "op": 4, "tbl": 4, "part": 4},
        update={"mask": 5, "part": 5},
    ),
    "a reserved word": shape(
        "select",
        [*keys("from"), sa.Column("where", sa.String), sa.Column("group", sa.String)],
        {"from": "kept", "where": "1", "group": "1"},
        {"from": "changed", "where": "2", "group": "2"},
        {"from": "deleted", "where": "3", "group": "3"},
        {"from": "added", "where": "4", "group": "4"},
        update={"group": "5"},
    ),
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def case(request: pytest.FixtureRequest) -> Shape:
    found: Shape = request.param
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store with the table ``note`` and nothing in it."""
    opened = open_store(path)
    yield opened
    opened.close()


# -- ways to write: each is given a transaction, a case, and what to do


def in_order(row: Values, names: list[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def as_objects(tx: Session, case: Shape, operation: str) -> None:
    """Mapped objects that are added, changed and deleted."""
    mapped = type("Mapped", (), {})
    columns = list(case.table.columns)
    names = {column.name: f"field{n}" for n, column in enumerate(columns)}
    registry().map_imperatively(mapped, case.table, properties={names[column.name]: column for column in columns})
    if operation == "insert":
        thing = mapped()
        for name, value in case.added.items():
            setattr(thing, names[name], value)
        tx.add(thing)
        return
    thing = tx.get(mapped, in_order(case.changed if operation == "update" else case.deleted, case.key_names))
    if operation == "delete":
        tx.delete(thing)
        return
    for name, value in case.update.items():
        setattr(thing, names[name], value)


def as_statements(tx: Session, case: Shape, operation: str) -> None:
    """insert(), update() and delete()."""
    if operation == "insert":
        tx.exec(sa.insert(case.table).values(case.added))
    elif operation == "update":
        tx.exec(sa.update(case.table).where(case.is_row(case.changed)).values(case.update))
    else:
        tx.exec(sa.delete(case.table).where(case.is_row(case.deleted)))


def as_bulk(tx: Session, case: Shape, operation: str) -> None:
    """One statement carried out for a list of rows."""
    same_key = [case.table.c[name] == sa.bindparam(f"key{n}") for n, name in enumerate(case.key_names)]
    if operation == "insert":
        tx.connection().execute(sa.insert(case.table), [case.added])
    elif operation == "update":
        values: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(f"value{n}") for n, name in enumerate(case.update)}
        given = {f"value{n}": value for n, value in enumerate(case.update.values())}
        given |= {f"key{n}": case.changed[name] for n, name in enumerate(case.key_names)}
        tx.connection().execute(sa.update(case.table).where(*same_key).values(values), [given])
    else:
        given = {f"key{n}": case.deleted[name] for n, name in enumerate(case.key_names)}
        tx.connection().execute(sa.delete(case.table).where(*same_key), [given])


def sql_for(case: Shape, operation: str) -> tuple[str, tuple[Any, ...]]:
    name = quote(case.table.name)
    same_key = " AND ".join(f"{quote(column)} = ?" for column in case.key_names)
    if operation == "insert":
        columns, marks = ", ".join(map(quote, case.added)), ", ".join("?" * len(case.added))
        return f"INSERT INTO {name} ({columns}) VALUES ({marks})", tuple(case.added.values())
    if operation == "update":
        values = ", ".join(f"{quote(column)} = ?" for column in case.update)
        return (
            f"UPDATE {name} SET {values} WHERE {same_key}",
            (*case.update.values(), *in_order(case.changed, case.key_names)),
        )
    return f"DELETE FROM {name} WHERE {same_key}", in_order(case.deleted, case.key_names)


def as_text(tx: Session, case: Shape, operation: str) -> None:
    """session.execute(text(...))."""
    sql, parameters = sql_for(case, operation)
    named = {f"p{n}": value for n, value in enumerate(parameters)}
    for name in named:
        sql = sql.replace("?", f":{name}", 1)
    tx.execute(sa.text(sql), named)


def as_driver_sql(tx: Session, case: Shape, operation: str) -> None:
    """connection.exec_driver_sql(...)."""
    sql, parameters = sql_for(case, operation)
    tx.connection().exec_driver_sql(sql, parameters)


WAYS: dict[str, Callable[[Session, Shape, str], None]] = {
    "objects": as_objects,
    "statements": as_statements,
    "bulk": as_bulk,
    "text": as_text,
    "driver": as_driver_sql,
}


def filled(path: Path, case: Shape) -> tuple[Store, Table]:
    """A store with the case's three rows, nothing of it left in the outbox, and the table as it is."""
    store = open_store(path, [case.table])
    with store.write() as tx:
        tx.connection().execute(sa.insert(case.table), [case.kept, case.changed, case.deleted])
    store.acknowledge(1)
    return store, rows_of(path, case.table.name)


def check_captured(path: Path, case: Shape, before: Table, *, changesets: int = 1) -> Changes:
    """What was captured is exactly the difference, in so many changesets."""
    found = changesets_in(path)
    expected = difference(case.table.name, before, rows_of(path, case.table.name))
    assert exactly(changes_of(found)) == exactly(expected)
    assert len(found) == changesets
    assert is_clean(path)
    return expected


OPERATIONS = [
    pytest.param(case, operation, id=f"{operation} of {name}") for name, case in SHAPES.items() for operation in case.operations
]


@pytest.mark.parametrize(("case", "operation"), OPERATIONS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_write_a_row_is_captured(
    path: Path, case: Shape, way: Callable[[Session, Shape, str], None], operation: str
) -> None:
    store, before = filled(path, case)
    with store.write() as tx:
        way(tx, case, operation)
    store.close()
    captured = check_captured(path, case, before)
    assert [op.name.lower() for op, _ in captured.values()] == [operation]


def test_all_operations_in_one_transaction_become_one_changeset(path: Path, case: Shape) -> None:
    store, before = filled(path, case)
    with store.write() as tx:
        for operation in case.operations:
            as_driver_sql(tx, case, operation)
    store.close()
    check_captured(path, case, before)


@pytest.mark.parametrize("is_open", [True, False], ids=["while the store is open", "while the store is closed"])
def test_what_another_program_writes_is_captured(path: Path, case: Shape, is_open: bool) -> None:
    store, before = filled(path, case)
    if not is_open:
        store.close()
    with other_program(path) as connection:
        for operation in case.operations:
            connection.execute(*sql_for(case, operation))
    if not is_open:
        store = open_store(path, [case.table])
    store.seal()
    store.close()
    check_captured(path, case, before)


def test_an_upsert_is_captured_as_what_it_did(path: Path, case: Shape) -> None:
    store, before = filled(path, case)
    with store.write() as tx:
        for row in (case.added, {**case.changed, **case.update}):
            statement = upsert(case.table).values(row)
            changed = {name: statement.excluded[name] for name in case.update}
            tx.connection().execute(
                statement.on_conflict_do_update(index_elements=case.key_names, set_=changed)
                if changed
                else statement.on_conflict_do_nothing()
            )
    store.close()
    check_captured(path, case, before)


def test_insert_or_replace_is_an_insert_of_a_new_row_and_replaces_an_old_one(path: Path, case: Shape) -> None:
    store, before = filled(path, case)
    with store.write() as tx:
        tx.connection().execute(sa.insert(case.table).prefix_with("OR REPLACE"), [case.added, {**case.changed, **case.update}])
    store.close()
    after = rows_of(path, case.table.name)
    name, changed, added = case.table.name, in_order(case.changed, case.key_names), in_order(case.added, case.key_names)
    assert changes_of(changesets_in(path)) == {
        (name, added): (Op.INSERT, after[added]),
        (name, changed): (Op.REPLACE, after[changed]),
    }
    assert replayed(name, before, changesets_in(path)) == after


def test_insert_or_replace_by_another_program_sends_the_whole_row(path: Path, case: Shape) -> None:
    store, before = filled(path, case)
    with other_program(path) as connection:
        columns, marks = ", ".join(map(quote, case.changed)), ", ".join("?" * len(case.changed))
        row = {**case.changed, **case.update}
        insert = f"INSERT OR REPLACE INTO {quote(case.table.name)} ({columns}) VALUES ({marks})"
        connection.execute(insert, tuple(row.values()))
        connection.execute(insert, tuple(row.values()))
    store.seal()
    store.close()
    after = rows_of(path, case.table.name)
    key = in_order(case.changed, case.key_names)
    assert after.keys() == before.keys()
    assert exactly(changes_of(changesets_in(path))[case.table.name, key][1]) == exactly(after[key])


def test_a_changed_key_is_a_delete_and_an_insert(path: Path, case: Shape) -> None:
    store, before = filled(path, case)
    name, key = case.table.name, case.key_names
    moved = {**case.changed, key[0]: "moved"}
    with store.write() as tx:
        tx.exec(sa.update(case.table).where(case.is_row(case.changed)).values({key[0]: "moved"}))
    store.close()
    captured = check_captured(path, case, before)
    assert {found: op for (_, found), (op, _) in captured.items()} == {
        in_order(case.changed, key): Op.DELETE,
        in_order(moved, key): Op.INSERT,
    }
    assert all(table == name for table, _ in captured)


# -- what is no change, and what amounts to another


def test_a_column_set_to_the_value_it_has_is_no_change(path: Path, case: Shape) -> None:
    store, _ = filled(path, case)
    with store.write() as tx:
        tx.exec(sa.update(case.table).where(case.is_row(case.changed)).values(case.changed))
        key = quote(case.key_names[0])
        tx.connection().exec_driver_sql(f"UPDATE {quote(case.table.name)} SET {key} = {key}")
    store.close()
    assert changesets_in(path) == []
    assert is_clean(path)


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


def test_two_rows_can_swap_their_keys(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 'was a', 1), ('b', 'was b', 2)")
    before = rows_of(path)
    write(store, *(f"UPDATE note SET id = '{new}' WHERE id = '{old}'" for old, new in ("ax", "ba", "xb")))
    assert rows_of(path)["a",] == {"title": "was b", "stars": 2}
    assert replayed("note", before, changesets_in(path)[1:]) == rows_of(path)


def test_a_key_that_takes_anothers_place_deletes_both_and_replaces_one(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note VALUES ('a', 'was a', 1), ('b', 'was b', 2)")
    write(store, "UPDATE OR REPLACE note SET id = 'b' WHERE id = 'a'")
    assert changes_of(changesets_in(path)[1:]) == {
        ("note", ("a",)): (Op.DELETE, {}),
        ("note", ("b",)): (Op.REPLACE, {"title": "was a", "stars": 1}),
    }


def test_what_a_savepoint_takes_back_is_not_captured(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.connection().exec_driver_sql("INSERT INTO note VALUES ('a', 't', 1)")
        with pytest.raises(IntegrityError), tx.begin_nested():  # noqa: PT012
            tx.connection().exec_driver_sql("INSERT INTO note VALUES ('b', 't', 1)")
            tx.connection().exec_driver_sql("INSERT INTO note VALUES ('b', 'again', 1)")
        tx.connection().exec_driver_sql("INSERT INTO note VALUES ('c', 't', 1)")
    assert changes_of(changesets_in(path)).keys() == {("note", ("a",)), ("note", ("c",))}


def test_deleting_all_rows_without_a_condition_is_captured(store: Store, path: Path) -> None:
    write(store, "INSERT INTO note (id) VALUES ('a'), ('b'), ('c')")
    write(store, "DELETE FROM note")
    assert [(op, values) for op, values in changes_of(changesets_in(path)[1:]).values()] == [(Op.DELETE, {})] * 3


def test_tables_written_together_travel_together(path: Path) -> None:
    tables = [SHAPES["text key"].table, SHAPES["names to quote"].table]
    store = open_store(path, tables)
    write(store, "INSERT INTO note (id) VALUES ('a')", 'INSERT INTO "ta""ble" ("select") VALUES (\'b\')')
    store.close()
    (changeset,) = changesets_in(path)
    assert changes_of([changeset]).keys() == {("note", ("a",)), ('ta"ble', ("b",))}


def test_a_table_outside_the_schema_is_not_captured(store: Store, path: Path) -> None:
    write(store, "CREATE TABLE private (id TEXT PRIMARY KEY)", "INSERT INTO private VALUES ('a')")
    assert changesets_in(path) == []


# -- values


class Spelt(sa.types.UserDefinedType[Any]):
    """A column type by its name in SQL, without a conversion of values."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


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
    case = SHAPES["130 columns"]
    store, _ = filled(path, case)
    for name in WIDE_COLUMNS:
        write(store, f"UPDATE wide SET {name} = 99 WHERE id = 'kept'")
    store.close()
    captured = [changes_of([changeset]) for changeset in changesets_in(path)]
    assert captured == [{("wide", ("kept",)): (Op.UPDATE, {name: 99})} for name in WIDE_COLUMNS]


def test_a_row_of_a_megabyte_travels_whole(store: Store, path: Path) -> None:
    text = "1234567ä" * (1024 * 1024 // 8)
    write(store, ("INSERT INTO note VALUES ('a', ?, 1)", text))
    write(store, ("UPDATE note SET title = ?", text[::-1]))
    assert [changes_of([changeset])["note", ("a",)][1]["title"] for changeset in changesets_in(path)] == [text, text[::-1]]


def test_many_rows_in_one_transaction_are_one_changeset(store: Store, path: Path) -> None:
    with store.write() as tx:
        tx.connection().execute(sa.insert(NOTE), [{"id": f"{n:05}", "title": "t", "stars": n} for n in range(20_000)])
    before = rows_of(path)
    write(store, "UPDATE note SET stars = -stars WHERE stars % 2 = 0 AND stars > 0", "DELETE FROM note WHERE stars % 3 = 0")
    inserted, changed = changesets_in(path)
    assert inserted.row_count == 20_000
    assert changes_of([changed]) == difference("note", before, rows_of(path))


def test_a_table_without_rowids_is_captured(path: Path) -> None:
    with other_program(path) as connection:
        connection.execute("CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER) WITHOUT ROWID")
    store = open_store(path)
    write(store, "INSERT INTO note VALUES ('a', 't', 1)")
    write(store, "UPDATE note SET stars = 2")
    write(store, "UPDATE note SET id = 'b'")
    store.close()
    assert replayed("note", {}, changesets_in(path)) == rows_of(path) == {("b",): {"title": "t", "stars": 2}}


# -- triggers of the application


TRIGGERS = {
    "fills a column in after an insert": "AFTER INSERT ON note BEGIN UPDATE note SET stars = 9 WHERE id = NEW.id; END",
    "fills a column in after an update": "AFTER UPDATE OF title ON note BEGIN"
    " UPDATE note SET stars = stars + 1 WHERE id = NEW.id; END",
    "writes another row": "AFTER INSERT ON note WHEN NEW.id NOT LIKE 'log %' BEGIN"
    " INSERT INTO note VALUES ('log ' || NEW.id, NEW.title, 0); END",
    "deletes another row": "AFTER UPDATE OF title ON note BEGIN DELETE FROM note WHERE id = 'deleted'; END",
    "deletes the row that was updated": "AFTER UPDATE OF title ON note BEGIN DELETE FROM note WHERE id = NEW.id; END",
    "puts back what was deleted": "AFTER DELETE ON note BEGIN INSERT INTO note VALUES (OLD.id, OLD.title, -1); END",
    "marks instead of deleting": "BEFORE DELETE ON note BEGIN"
    " UPDATE note SET stars = -1 WHERE id = OLD.id; SELECT RAISE(IGNORE); END",
    "moves the row that was inserted": "AFTER INSERT ON note WHEN NEW.id = 'added' BEGIN"
    " UPDATE note SET id = 'moved' WHERE id = NEW.id; END",
}


@pytest.mark.parametrize("trigger", TRIGGERS.values(), ids=TRIGGERS.keys())
@pytest.mark.parametrize("operation", ["insert", "update", "delete"])
@pytest.mark.parametrize("is_older", [True, False], ids=["made before ours", "made after ours"])
def test_what_an_applications_own_trigger_does_is_captured(path: Path, trigger: str, operation: str, is_older: bool) -> None:
    """SQLite fires the triggers of a table in an order of its own, so that ours may see the end before the beginning."""
    case = SHAPES["text key"]
    case = Shape(case.table, case.kept, case.changed, case.deleted, case.added, {"title": "new"})
    if is_older:
        with other_program(path) as connection:
            connection.execute("CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER)")
            connection.execute(f"CREATE TRIGGER theirs {trigger}")
    store, before = filled(path, case)
    if not is_older:
        with other_program(path) as connection:
            connection.execute(f"CREATE TRIGGER theirs {trigger}")
    with store.write() as tx:
        as_driver_sql(tx, case, operation)
    store.close()
    after = rows_of(path)
    state = {key: dict(row) for key, row in before.items()}
    for (_, key), (op, values) in changes_of(changesets_in(path)).items():
        if op is Op.DELETE:
            state.pop(key, None)  # a row may be deleted that no other device has heard of
        elif op is Op.UPDATE:
            state[key].update(values)
        else:
            state[key] = values
    assert state == after
    assert is_clean(path)


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
TRANSACTIONS = st.lists(st.lists(st.tuples(STEPS, st.booleans()), min_size=1, max_size=6), min_size=1, max_size=5)
THING = sa.Table(
    "thing", sa.MetaData(), *keys("id"), sa.Column("loose", Spelt("")), sa.Column("caseless", Spelt("TEXT COLLATE NOCASE"))
)


@settings(max_examples=80, deadline=None)
@given(transactions=TRANSACTIONS)
def test_any_statements_are_captured_as_what_they_did(transactions: list[list[tuple[Step, bool]]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        store = open_store(path, [THING])
        for number, steps in enumerate(transactions):
            before = rows_of(path, "thing")
            sealed_before = len(changesets_in(path))
            with store.write() as tx:
                for step, is_kept in steps:
                    savepoint = tx.begin_nested()
                    tx.connection().exec_driver_sql(step.sql, step.parameters)
                    savepoint.commit() if is_kept else savepoint.rollback()
            sealed = changesets_in(path)[sealed_before:]
            after = rows_of(path, "thing")
            assert len(sealed) <= 1, number
            assert exactly(replayed("thing", before, sealed)) == exactly(after)
            changed: set[tuple[str, Key]] = set(difference("thing", before, after))
            assert changed <= changes_of(sealed).keys()
        store.close()


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=10))
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
