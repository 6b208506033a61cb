"""Schemas: what is refused before a file is touched, and what the message tells the application's author."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from localstore import uuid7
from localstore.errors import SchemaError
from localstore.schema import MAX_KEY_COLUMNS, SYSTEM_PREFIX, check_synced, tables_of


class Own(SQLModel, registry=registry()):
    """Keeps the classes here out of the metadata that other tests share."""


class Task(Own, table=True):
    id: uuid.UUID = Field(default_factory=uuid7, primary_key=True)
    task_name: str


class Station(Own, table=True):
    __tablename__: ClassVar[str] = "a_station"
    code: str = Field(primary_key=True)


class Plain(Own):
    name: str


class Reserved(Own, table=True):
    __tablename__: ClassVar[str] = f"{SYSTEM_PREFIX}things"
    id: uuid.UUID = Field(default_factory=uuid7, primary_key=True)


def table(*columns: Any) -> sa.Table:
    return sa.Table("thing", sa.MetaData(), *columns)


def key(kind: Any = sa.String, name: str = "id", **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, **options)


# -- classes


def test_tables_come_in_the_order_of_their_names() -> None:
    assert [found.name for found in tables_of({Task, Station})] == ["a_station", "task"]


def test_an_empty_schema_has_no_tables() -> None:
    assert tables_of([]) == []


def test_a_class_that_comes_twice_counts_once() -> None:
    assert len(tables_of([Task, Task])) == 1


def test_a_class_without_a_table_is_refused_with_the_fix() -> None:
    with pytest.raises(SchemaError, match=r"Plain has no table\. Declare it as class Plain\(SQLModel, table=True\)"):
        tables_of([Task, Plain])


def test_a_table_with_our_prefix_is_refused_with_the_reason() -> None:
    with pytest.raises(SchemaError, match=r"Reserved's table is called localstore_things\. .*localstore_ are ours"):
        tables_of([Reserved])


@pytest.mark.parametrize("wrong", ["Task", Task(task_name="an object"), None])
def test_something_that_is_no_class_is_a_wrong_argument(wrong: Any) -> None:
    with pytest.raises(TypeError, match="SQLModel classes"):
        tables_of([wrong])


# -- tables that can be synced

ACCEPTED: dict[str, Callable[[], sa.Table]] = {
    "a UUID": lambda: table(key(sa.Uuid)),
    "text": lambda: table(key()),
    "a whole number that the application assigns": lambda: table(key(sa.Integer, autoincrement=False)),
    "a blob": lambda: table(key(sa.LargeBinary)),
    "a date": lambda: table(key(sa.Date)),
    "two columns": lambda: table(key(), key(sa.Integer, "place", autoincrement=False)),
    "as many columns as there may be": lambda: table(*(key(name=f"k{n}") for n in range(MAX_KEY_COLUMNS))),
    "text that is compared byte by byte": lambda: table(key(sa.String(collation="BINARY"))),
    "an index that is not unique": lambda: table(key(), sa.Column("name", sa.String, index=True)),
    "a check": lambda: table(key(), sa.Column("n", sa.Integer, sa.CheckConstraint("n > 0"))),
    "a number beside the key": lambda: table(key(), sa.Column("price", sa.Numeric(10, 2))),
    "text that ignores case beside the key": lambda: table(key(), sa.Column("name", sa.String(collation="NOCASE"))),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_table_that_merges_without_loss_is_accepted(make: Callable[[], sa.Table]) -> None:
    check_synced([make()])


def test_documented_classes_are_accepted() -> None:
    check_synced(tables_of({Task, Station}))


UNIQUE_FIX = r"make the unique columns the primary key, or drop the constraint"
REFUSED: dict[str, tuple[Callable[[], sa.Table], str, str]] = {
    "no key": (lambda: table(sa.Column("name", sa.String)), "has no primary key", r"default_factory=uuid7, primary_key=True"),
    "too many key columns": (
        lambda: table(*(key(name=f"k{n}") for n in range(MAX_KEY_COLUMNS + 1))),
        "has a key of 9 columns",
        "at most 8",
    ),
    "an integer that counts up by default": (
        lambda: table(key(sa.Integer, "number")),
        r"numbers its rows itself \(integer key 'number'\)",
        r"default_factory=uuid7.*\"autoincrement\": False",
    ),
    "an integer that counts up as told": (
        lambda: table(key(sa.BigInteger, autoincrement=True)),
        "numbers its rows itself",
        "uuid7",
    ),
    "a floating-point key": (lambda: table(key(sa.Float)), r"key 'id' of type FLOAT", "UUID, text or whole number"),
    "a decimal key": (lambda: table(key(sa.Numeric(10, 2))), r"key 'id' of type NUMERIC", "UUID, text or whole number"),
    "a key of which one column is a float": (
        lambda: table(key(), key(sa.Float, "x")),
        r"key 'x' of type FLOAT",
        "UUID, text or whole number",
    ),
    "a key that ignores case": (
        lambda: table(key(sa.String(collation="NOCASE"))),
        r"compares the key 'id' by NOCASE",
        "BINARY",
    ),
    "a unique column": (
        lambda: table(key(), sa.Column("name", sa.String, unique=True)),
        r"unique constraint \(name\)",
        UNIQUE_FIX,
    ),
    "a unique and indexed column": (
        lambda: table(key(), sa.Column("name", sa.String, unique=True, index=True)),
        r"unique constraint \(ix_thing_name\)",
        UNIQUE_FIX,
    ),
    "a unique constraint over two columns": (
        lambda: table(key(), sa.Column("a", sa.String), sa.Column("b", sa.String), sa.UniqueConstraint("a", "b")),
        r"unique constraint \(a, b\)",
        UNIQUE_FIX,
    ),
    "a unique index": (
        lambda: table(key(), sa.Column("a", sa.String), sa.Index("by_a", "a", unique=True)),
        r"unique constraint \(by_a\)",
        UNIQUE_FIX,
    ),
    "a foreign key": (
        lambda: table(key(), sa.Column("parent", sa.String, sa.ForeignKey("parent.id"))),
        r"foreign key \(parent\)",
        "keep the other row's key in a plain column",
    ),
    "a reference to the table itself": (
        lambda: table(key(), sa.Column("parent", sa.String, sa.ForeignKey("thing.id"))),
        r"foreign key \(parent\)",
        "keep the other row's key in a plain column",
    ),
    "a key that is a foreign key": (
        lambda: table(sa.Column("id", sa.Integer, sa.ForeignKey("parent.id"), primary_key=True)),
        r"foreign key \(id\)",
        "keep the other row's key in a plain column",
    ),
}


@pytest.mark.parametrize(("make", "problem", "fix"), REFUSED.values(), ids=REFUSED.keys())
def test_a_table_that_could_lose_something_is_refused_with_the_fix(
    make: Callable[[], sa.Table], problem: str, fix: str
) -> None:
    with pytest.raises(SchemaError, match=rf"(?s)^Table thing cannot be synced: it .*{problem}.*Nothing was changed\. .*{fix}"):
        check_synced([table(key(name="fine")), make()])


class Scaled(sa.TypeDecorator[decimal.Decimal]):
    """An application's own type, stored as a floating-point number."""

    impl = sa.Float
    cache_ok = True


def test_a_key_of_an_own_type_is_judged_by_how_it_is_stored() -> None:
    with pytest.raises(SchemaError, match="key 'id' of type FLOAT"):
        check_synced([table(key(Scaled))])
