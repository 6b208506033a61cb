"""Capture: every way to write × every operation × every kind of table, each compared with the tables before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.orm import registry
from sqlmodel import Session

from localstore.changes import Op
from localstore.store.engine import driver_connection, quote
from tests.unit.capture_cases import CASES
from tests.unit.capture_kit import Case, Values, declared, delete_sql, insert_sql, opened_with, update_sql, watched
from tests.unit.store_kit import write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


class Target:
    """A case's table as SQLAlchemy sees it, with a class mapped to it."""

    def __init__(self, case: Case, table: sa.Table) -> None:
        self.case = case
        self.table = table
        self.model: type[Any] = type("Mapped", (), {})
        names = [column.name for column in table.c]
        registry().map_imperatively(self.model, table, properties={self.field(name): table.c[name] for name in names})

    def field(self, name: str) -> str:
        """An attribute's name, as a column's name need not be fit for one."""
        return f"field{[column.name for column in self.table.c].index(name)}"

    def fields(self, row: Values) -> dict[str, Any]:
        return {self.field(name): value for name, value in row.items()}

    def is_row(self, row: Values) -> sa.ColumnElement[bool]:
        return sa.and_(*(self.table.c[name] == row[name] for name in self.case.key))

    def key_of(self, row: Values) -> Values:
        return {name: row[name] for name in self.case.key}

    def literals(self, row: Values, prefix: str = "v") -> list[sa.ColumnElement[Any]]:
        values = [sa.literal(value, self.table.c[name].type) for name, value in row.items()]
        return [value.label(f"{prefix}{n}") for n, value in enumerate(values)]


_targets: dict[str, Target] = {}  # a mapping is slow to make


def target_of(path: Path, case: Case) -> Target:
    if case.ddl not in _targets:
        _targets[case.ddl] = Target(case, declared(path, case.table))
    return _targets[case.ddl]


# -- ways to write: what each does to insert, update and delete a row


@dataclass(frozen=True)
class Way:
    """Functions of a transaction, a target, a row and, for an update, the new values; None where there is no such thing."""

    insert: Callable[[Session, Target, Values], object]
    update: Callable[[Session, Target, Values, Values], object]
    delete: Callable[[Session, Target, Values], object] | None = None


def with_values(thing: Any, target: Target, values: Values) -> Any:
    for name, value in target.fields(values).items():
        setattr(thing, name, value)
    return thing


def add_object(tx: Session, target: Target, row: Values) -> None:
    tx.add(with_values(target.model(), target, row))
    tx.flush()


def change_object(tx: Session, target: Target, row: Values, values: Values) -> None:
    with_values(tx.get(target.model, target.case.key_of(row)), target, values)
    tx.flush()


def delete_object(tx: Session, target: Target, row: Values) -> None:
    tx.delete(tx.get(target.model, target.case.key_of(row)))
    tx.flush()


def insert_statement(tx: Session, target: Target, row: Values) -> None:
    tx.exec(sa.insert(target.table).values(row))


def update_statement(tx: Session, target: Target, row: Values, values: Values) -> None:
    tx.exec(sa.update(target.table).where(target.is_row(row)).values(values))


def delete_statement(tx: Session, target: Target, row: Values) -> None:
    tx.exec(sa.delete(target.table).where(target.is_row(row)))


def insert_list(tx: Session, target: Target, row: Values) -> None:
    tx.connection().execute(sa.insert(target.table), [row])


def _bound(target: Target, row: Values) -> tuple[list[sa.ColumnElement[bool]], dict[str, Any]]:
    names = target.case.key
    return (
        [target.table.c[name] == sa.bindparam(f"key{n}") for n, name in enumerate(names)],
        {f"key{n}": row[name] for n, name in enumerate(names)},
    )


def update_list(tx: Session, target: Target, row: Values, values: Values) -> None:
    is_row, given = _bound(target, row)
    bound: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(f"value{n}") for n, name in enumerate(values)}
    given |= {f"value{n}": value for n, value in enumerate(values.values())}
    tx.connection().execute(sa.update(target.table).where(*is_row).values(bound), [given])


def delete_list(tx: Session, target: Target, row: Values) -> None:
    is_row, given = _bound(target, row)
    tx.connection().execute(sa.delete(target.table).where(*is_row), [given])


def insert_many_objects(tx: Session, target: Target, row: Values) -> None:
    tx.execute(sa.insert(target.model), [target.fields(row)])


def update_many_objects(tx: Session, target: Target, row: Values, values: Values) -> None:
    """By primary key, which therefore cannot be changed that way."""
    if not values.keys().isdisjoint(target.case.key):
        fields = [getattr(target.model, target.field(name)) == row[name] for name in target.case.key]
        tx.execute(sa.update(target.model).where(*fields).values(target.fields(values)))
        return
    tx.execute(sa.update(target.model), [target.fields({**target.key_of(row), **values})])


def delete_query(tx: Session, target: Target, row: Values) -> None:
    fields = [getattr(target.model, target.field(name)) == row[name] for name in target.case.key]
    tx.execute(sa.delete(target.model).where(*fields))


def insert_mappings(tx: Session, target: Target, row: Values) -> None:
    tx.bulk_insert_mappings(sa.inspect(target.model), [target.fields(row)])


def update_mappings(tx: Session, target: Target, row: Values, values: Values) -> None:
    tx.bulk_update_mappings(sa.inspect(target.model), [target.fields({**target.key_of(row), **values})])


def save_new_objects(tx: Session, target: Target, row: Values) -> None:
    tx.bulk_save_objects([with_values(target.model(), target, row)])


def save_objects(tx: Session, target: Target, row: Values, values: Values) -> None:
    with tx.no_autoflush:
        tx.bulk_save_objects([with_values(tx.get(target.model, target.case.key_of(row)), target, values)])
    tx.expunge_all()


def insert_from_select(tx: Session, target: Target, row: Values) -> None:
    tx.execute(sa.insert(target.table).from_select(list(row), sa.select(*target.literals(row))))


def update_from(tx: Session, target: Target, row: Values, values: Values) -> None:
    source = sa.select(*target.literals(target.key_of(row), "k"), *target.literals(values)).subquery("source")
    is_row = [target.table.c[name] == source.c[f"k{n}"] for n, name in enumerate(target.case.key)]
    assigned = {name: source.c[f"v{n}"] for n, name in enumerate(values)}
    tx.execute(sa.update(target.table).where(*is_row).values(assigned))


def delete_where_in(tx: Session, target: Target, row: Values) -> None:
    keys = [target.table.c[name] for name in target.case.key]
    tx.execute(sa.delete(target.table).where(sa.tuple_(*keys).in_(sa.select(*keys).where(target.is_row(row)))))


def insert_returning(tx: Session, target: Target, row: Values) -> None:
    assert len(tx.execute(sa.insert(target.table).values(row).returning(*target.table.c)).all()) == 1


def update_returning(tx: Session, target: Target, row: Values, values: Values) -> None:
    statement = sa.update(target.table).where(target.is_row(row)).values(values)
    assert len(tx.execute(statement.returning(*target.table.c)).all()) == 1


def delete_returning(tx: Session, target: Target, row: Values) -> None:
    assert len(tx.execute(sa.delete(target.table).where(target.is_row(row)).returning(*target.table.c)).all()) == 1


def _as_text(tx: Session, sql: str, parameters: tuple[Any, ...]) -> None:
    named = {f"p{n}": value for n, value in enumerate(parameters)}
    before, *after = sql.replace(":", r"\:").split("?")
    tx.execute(sa.text(before + "".join(f":p{n}{part}" for n, part in enumerate(after))), named)


def _many(tx: Session, sql: str, parameters: tuple[Any, ...]) -> None:
    tx.connection().exec_driver_sql(sql, [parameters])


def _while_reading(tx: Session, target: Target, sql: str, parameters: tuple[Any, ...]) -> None:
    """In the middle of a cursor over the same table."""
    driver = driver_connection(tx.connection())
    reading = driver.execute(f"SELECT * FROM {quote(target.table.name)}")
    assert reading.fetchone() is not None
    driver.execute(sql, parameters)
    assert reading.fetchone() is not None
    reading.close()


def or_what(verb: str) -> Way:
    """Statements with a conflict clause, which SQLite hands on to the statements inside of triggers."""
    insert, update = f"INSERT OR {verb}", f"UPDATE OR {verb}"
    return Way(
        lambda tx, target, row: tx.connection().exec_driver_sql(*insert_sql(target.case, row, insert)),
        lambda tx, target, row, values: tx.connection().exec_driver_sql(*update_sql(target.case, row, values, update)),
    )


def upsert_row(tx: Session, target: Target, row: Values, values: Values | None = None) -> None:
    statement = upsert(target.table).values({**row, **(values or {})})
    if values is None and not target.case.update:
        tx.execute(statement.on_conflict_do_nothing())
        return
    changed = {name: statement.excluded[name] for name in values or target.case.update if name in statement.excluded}
    tx.execute(statement.on_conflict_do_update(index_elements=list(target.case.key), set_=changed))


WAYS: dict[str, Way] = {
    "objects": Way(add_object, change_object, delete_object),
    "statements": Way(insert_statement, update_statement, delete_statement),
    "lists": Way(insert_list, update_list, delete_list),
    "mapped statements": Way(insert_many_objects, update_many_objects, delete_query),
    "bulk mappings": Way(insert_mappings, update_mappings),
    "bulk objects": Way(save_new_objects, save_objects),
    "selects": Way(insert_from_select, update_from, delete_where_in),
    "returning": Way(insert_returning, update_returning, delete_returning),
    "text": Way(
        lambda tx, target, row: _as_text(tx, *insert_sql(target.case, row)),
        lambda tx, target, row, values: _as_text(tx, *update_sql(target.case, row, values)),
        lambda tx, target, row: _as_text(tx, *delete_sql(target.case, row)),
    ),
    "driver": Way(
        lambda tx, target, row: _many(tx, *insert_sql(target.case, row)),
        lambda tx, target, row, values: _many(tx, *update_sql(target.case, row, values)),
        lambda tx, target, row: _many(tx, *delete_sql(target.case, row)),
    ),
    "reading": Way(
        lambda tx, target, row: _while_reading(tx, target, *insert_sql(target.case, row)),
        lambda tx, target, row, values: _while_reading(tx, target, *update_sql(target.case, row, values)),
        lambda tx, target, row: _while_reading(tx, target, *delete_sql(target.case, row)),
    ),
    "upsert": Way(upsert_row, upsert_row),
    **{f"or {verb.lower()}": or_what(verb) for verb in ("ABORT", "FAIL", "IGNORE", "REPLACE", "ROLLBACK")},
}
CANNOT_CHANGE_KEYS = {"bulk mappings", "bulk objects", "upsert"}
THOROUGH = {"objects", "driver", "upsert", "or replace"}
"""The ways that go through every operation; the others through the plain ones."""
FOR_ALL_KINDS = {"objects", "statements", "lists", "selects", "text", "driver", "upsert"}
"""The ways that are tried on every kind of table; the others on these:"""
KINDS_FOR_OTHERS = {"text key", "integer key", "without rowid", "composite key", "nothing but a key", "generated columns"}
TOO_SLOW_FOR_ALL = {"rows of a megabyte": {"objects", "lists", "driver"}}


def is_tried(name: str, kind: str) -> bool:
    return (name in FOR_ALL_KINDS or kind in KINDS_FOR_OTHERS) and name in TOO_SLOW_FOR_ALL.get(kind, WAYS)


# -- operations


def insert_a_row(way: Way, tx: Session, target: Target) -> None:
    way.insert(tx, target, target.case.added)


def update_a_row(way: Way, tx: Session, target: Target) -> None:
    way.update(tx, target, target.case.changed, target.case.update)


def change_a_key(way: Way, tx: Session, target: Target) -> None:
    way.update(tx, target, target.case.changed, target.case.moved)


def delete_a_row(way: Way, tx: Session, target: Target) -> None:
    assert way.delete is not None
    way.delete(tx, target, target.case.deleted)


def update_to_the_same(way: Way, tx: Session, target: Target) -> None:
    way.update(tx, target, target.case.changed, {name: target.case.changed.get(name) for name in target.case.update})


def insert_and_update(way: Way, tx: Session, target: Target) -> None:
    way.insert(tx, target, target.case.added)
    way.update(tx, target, target.case.added, target.case.update)


def insert_and_delete(way: Way, tx: Session, target: Target) -> None:
    assert way.delete is not None
    way.insert(tx, target, target.case.added)
    way.delete(tx, target, target.case.added)


def delete_and_insert(way: Way, tx: Session, target: Target) -> None:
    assert way.delete is not None
    way.delete(tx, target, target.case.deleted)
    way.insert(tx, target, target.case.deleted)


def update_and_delete(way: Way, tx: Session, target: Target) -> None:
    assert way.delete is not None
    way.update(tx, target, target.case.deleted, target.case.update)
    way.delete(tx, target, target.case.deleted)


def do_everything(way: Way, tx: Session, target: Target) -> None:
    insert_a_row(way, tx, target)
    if target.case.update:
        update_a_row(way, tx, target)
    delete_a_row(way, tx, target)
    change_a_key(way, tx, target)


@dataclass(frozen=True)
class Operation:
    """What is done, what comes of it, and what it takes."""

    run: Callable[[Way, Session, Target], None]
    ops: tuple[Op, ...]
    is_plain: bool = False
    updates: bool = False
    deletes: bool = False
    changes_key: bool = False

    def fits(self, name: str, case: Case) -> bool:
        is_possible = (case.update or not self.updates) and (WAYS[name].delete or not self.deletes)
        return bool(
            is_possible and (self.is_plain or name in THOROUGH) and not (self.changes_key and name in CANNOT_CHANGE_KEYS)
        )


OPERATIONS = {
    "insert": Operation(insert_a_row, (Op.INSERT,), is_plain=True),
    "update": Operation(update_a_row, (Op.UPDATE,), is_plain=True, updates=True),
    "delete": Operation(delete_a_row, (Op.DELETE,), is_plain=True, deletes=True),
    "key change": Operation(change_a_key, (Op.DELETE, Op.INSERT), is_plain=True, changes_key=True),
    "update to the same": Operation(update_to_the_same, (), updates=True),
    "insert and update": Operation(insert_and_update, (Op.INSERT,), updates=True),
    "insert and delete": Operation(insert_and_delete, (), deletes=True),
    "delete and insert": Operation(delete_and_insert, (Op.REPLACE,), deletes=True),
    "update and delete": Operation(update_and_delete, (Op.DELETE,), updates=True, deletes=True),
    "everything": Operation(do_everything, (Op.INSERT, Op.DELETE, Op.DELETE, Op.INSERT), deletes=True, changes_key=True),
}
COMBINATIONS = [
    pytest.param(CASES[kind], WAYS[name], operation, id=f"{name}, {what}, {kind}")
    for kind in CASES
    for name in WAYS
    for what, operation in OPERATIONS.items()
    if is_tried(name, kind) and operation.fits(name, CASES[kind])
]


@pytest.mark.parametrize(("case", "way", "operation"), COMBINATIONS)
def test_what_is_sealed_is_what_happened(path: Path, case: Case, way: Way, operation: Operation) -> None:
    with watched(path, opened_with(path, case)) as watching:
        target = target_of(path, case)
        with watching.store.write() as tx:
            operation.run(way, tx, target)
        found = watching.check()
    assert sorted(found.get(case.table, [])) == sorted(operation.ops)
    assert found.keys() <= {case.table}


@pytest.mark.parametrize("kind", CASES)
def test_a_row_that_is_inserted_over_another_replaces_it(path: Path, kind: str) -> None:
    case = CASES[kind]
    with watched(path, opened_with(path, case)) as watching:
        with watching.store.write() as tx:
            for row in (case.added, {**case.changed, **case.update}):
                tx.connection().exec_driver_sql(*insert_sql(case, row, "REPLACE"))
        assert sorted(watching.check()[case.table]) == [Op.INSERT, Op.REPLACE]


@pytest.mark.parametrize("kind", CASES)
def test_columns_set_to_what_they_hold_are_no_change(path: Path, kind: str) -> None:
    case = CASES[kind]
    same = ", ".join(f"{quote(name)} = {quote(name)}" for name in case.kept)
    with watched(path, opened_with(path, case)) as watching:
        write(watching.store, f"UPDATE {quote(case.table)} SET {same}", f"UPDATE OR REPLACE {quote(case.table)} SET {same}")
        assert watching.check() == {}
