"""Schemas: what is refused before a file is touched, and what the message tells the application's author."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from localstore import uuid7
from localstore.errors import SchemaError
from localstore.schema import MAX_KEY_COLUMNS, SYSTEM_PREFIX, check_key, check_synced, tables_of
from localstore.types import ExactDecimal, TextOf


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


def key(kind: Any = sa.String, name: str = "id", *items: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *items, primary_key=True, **options)


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
    "a unique column": lambda: table(key(), sa.Column("name", sa.String, unique=True)),
    "a unique index over two columns": lambda: table(
        key(), sa.Column("a"), sa.Column("b"), sa.Index("ab", "a", "b", unique=True)
    ),
    "a check": lambda: table(key(), sa.Column("n", sa.Integer, sa.CheckConstraint("n > 0"))),
    "a number beside the key": lambda: table(key(), sa.Column("price", sa.Numeric(10, 2))),
    "text that ignores case beside the key": lambda: table(key(), sa.Column("name", sa.String(collation="NOCASE"))),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_table_that_merges_without_loss_is_accepted(make: Callable[[], sa.Table]) -> None:
    check_synced([make()])


def test_documented_classes_are_accepted() -> None:
    check_synced(tables_of({Task, Station}))


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
}


@pytest.mark.parametrize(("make", "problem", "fix"), REFUSED.values(), ids=REFUSED.keys())
def test_a_table_that_could_lose_something_is_refused_with_the_fix(
    make: Callable[[], sa.Table], problem: str, fix: str
) -> None:
    with pytest.raises(SchemaError, match=rf"(?s)^Table thing cannot be synced: it .*{problem}.*Nothing was changed\. .*{fix}"):
        check_synced([table(key(name="fine")), make()])


def referring(code: sa.Column[Any], column: str = "parent.code") -> list[sa.Table]:
    """A table that refers to another's column beside the key."""
    parent = sa.Table("parent", sa.MetaData(), key(), code)
    return [parent, sa.Table("thing", parent.metadata, key(), sa.Column("up", sa.String, sa.ForeignKey(column)))]


def test_a_reference_to_a_unique_column_is_accepted() -> None:
    check_synced(referring(sa.Column("code", sa.String, unique=True)))


def test_a_reference_to_a_column_that_ignores_case_is_refused_with_the_fix() -> None:
    problem = r"refers to parent \(code\), which compares 'code' by NOCASE.*Nothing was changed\. .*Refer to the key \(id\)"
    with pytest.raises(SchemaError, match=problem):
        check_synced(referring(sa.Column("code", sa.String(collation="NOCASE"), unique=True)))


def test_a_reference_to_a_reference_that_comes_back_is_refused_with_the_fix() -> None:
    code = sa.Column("code", sa.String, sa.ForeignKey("thing.id"), unique=True)
    with pytest.raises(SchemaError, match=r"refers to others and back to thing.*Refer to the key \(id\)"):
        check_synced(referring(code))


class Scaled(sa.TypeDecorator[decimal.Decimal]):
    """An application's own type, stored as a floating-point number."""

    impl = sa.Float
    cache_ok = True


def test_a_key_of_an_own_type_is_judged_by_how_it_is_stored() -> None:
    with pytest.raises(SchemaError, match="key 'id' of type FLOAT"):
        check_synced([table(key(Scaled))])


# -- keys, with their whole messages


def refusal(*tables: sa.Table) -> str:
    with pytest.raises(SchemaError) as caught:
        check_synced(tables)
    return str(caught.value)


REFUSED_KEYS: dict[str, tuple[Callable[[], sa.Table], str]] = {
    "none": (
        lambda: table(sa.Column("name", sa.String)),
        "Table thing cannot be synced: it has no primary key. Nothing was changed."
        " Give it one: id: UUID = Field(default_factory=uuid7, primary_key=True).",
    ),
    "too many columns": (
        lambda: table(*(key(name=f"k{n}") for n in range(MAX_KEY_COLUMNS + 1))),
        "Table thing cannot be synced: it has a key of 9 columns. Nothing was changed. A synced key has at most 8.",
    ),
    "an integer that counts up": (
        lambda: table(key(sa.Integer, "number")),
        "Table thing cannot be synced: it numbers its rows itself (integer key 'number'), as two devices would alike."
        " Nothing was changed. Use id: UUID = Field(default_factory=uuid7, primary_key=True); for a number that your"
        ' application assigns, add sa_column_kwargs={"autoincrement": False}.',
    ),
    "a floating-point number": (
        lambda: table(key(sa.Float)),
        "Table thing cannot be synced: it has the key 'id' of type FLOAT. Nothing was changed."
        " Use a UUID, text or whole number.",
    ),
    "a decimal number": (
        lambda: table(key(sa.Numeric(10, 2))),
        "Table thing cannot be synced: it has the key 'id' of type NUMERIC(10, 2). Nothing was changed."
        " Use a UUID, text or whole number.",
    ),
    "an exact decimal number": (
        lambda: table(key(ExactDecimal)),
        "Table thing cannot be synced: it has the key 'id' of type ExactDecimal. Nothing was changed."
        " Use a UUID, text or whole number.",
    ),
    "JSON": (
        lambda: table(key(sa.JSON)),
        "Table thing cannot be synced: it has the key 'id' of type JSON, which writes one value in many ways."
        " Nothing was changed. Use a UUID, text or whole number.",
    ),
    "a pickled object": (
        lambda: table(key(sa.PickleType)),
        "Table thing cannot be synced: it has the key 'id' of type PickleType, which writes one value in many ways."
        " Nothing was changed. Use a UUID, text or whole number.",
    ),
    "text that ignores case": (
        lambda: table(key(sa.String(collation="NOCASE"))),
        "Table thing cannot be synced: it compares the key 'id' by NOCASE. Nothing was changed."
        " Use the BINARY collation for keys.",
    ),
    "nothing, or something": (
        lambda: table(key(), key(name="part", nullable=True)),
        "Table thing cannot be synced: it has the key 'part', which may be null. Nothing was changed."
        " Take nullable=True away: a row needs a whole key.",
    ),
    "computed": (
        lambda: table(key(), key(sa.String, "lower", sa.Computed("lower(id)"))),
        "Table thing cannot be synced: it computes the key 'lower', which SQLite cannot. Nothing was changed."
        " Let the application set the key.",
    ),
    "of no type": (
        lambda: table(key(sa.types.NullType)),
        "Table thing cannot be synced: it has the key 'id' without a type. Nothing was changed."
        " Give it one: UUID, text or whole number.",
    ),
    "the time at which the database writes it": (
        lambda: table(key(sa.DateTime, server_default=sa.func.current_timestamp())),
        "Table thing cannot be synced: it lets the database fill in its key (id), as two devices would alike."
        " Nothing was changed. Use id: UUID = Field(default_factory=uuid7, primary_key=True).",
    ),
    "a constant of the database": (
        lambda: table(key(server_default="main"), key(sa.Integer, "n", autoincrement=False, server_default="1")),
        "Table thing cannot be synced: it lets the database fill in its key (id, n), as two devices would alike."
        " Nothing was changed. Use id: UUID = Field(default_factory=uuid7, primary_key=True).",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED_KEYS.values(), ids=REFUSED_KEYS.keys())
def test_a_key_that_cannot_be_synced_is_refused_with_the_fix(make: Callable[[], sa.Table], message: str) -> None:
    assert refusal(make()) == message


ACCEPTED_KEYS: dict[str, Callable[[], sa.Table]] = {
    "a boolean": lambda: table(key(sa.Boolean)),
    "a moment": lambda: table(key(), key(sa.DateTime, "at")),
    "an enum": lambda: table(key(sa.Enum("a", "b"))),
    "random, by the database": lambda: table(key(sa.LargeBinary, server_default=sa.text("(randomblob(16))"))),
    "partly a constant of the database": lambda: table(key(), key(name="tenant", server_default="main")),
    "a path": lambda: table(key(TextOf(Path))),
}


@pytest.mark.parametrize("make", ACCEPTED_KEYS.values(), ids=ACCEPTED_KEYS.keys())
def test_a_key_that_two_devices_write_alike_only_for_the_same_row_is_accepted(make: Callable[[], sa.Table]) -> None:
    check_synced([make()])


# -- references


class Folder(Own, table=True):
    id: uuid.UUID = Field(default_factory=uuid7, primary_key=True)
    parent_id: uuid.UUID | None = Field(default=None, foreign_key="folder.id")
    owner: str | None = Field(default=None, foreign_key="a_station.code")


def test_a_reference_to_a_synced_class_and_to_itself_is_accepted() -> None:
    check_synced(tables_of({Folder, Station}))


def test_a_reference_to_a_class_that_is_not_synced_names_both_and_the_fix() -> None:
    assert refusal(*tables_of({Folder})) == (
        "Table folder cannot be synced: it refers (owner) to Station (table a_station), which is not synced, so that the rows"
        " referred to are not there on other devices. Nothing was changed. Add Station to the schema, or drop the foreign key"
        " and keep the other row's key in a plain column."
    )


def test_a_reference_to_a_table_that_nobody_declared_is_refused() -> None:
    missing = table(key(), sa.Column("parent", sa.String, sa.ForeignKey("nowhere.id")))
    assert "refers (parent) to the table nowhere, which is not synced" in refusal(missing)


def test_a_key_that_refers_to_an_unsynced_table_is_refused_like_any_other_column() -> None:
    metadata = sa.MetaData()
    sa.Table("parent", metadata, key(sa.Integer))
    child = sa.Table("thing", metadata, sa.Column("id", sa.Integer, sa.ForeignKey("parent.id"), primary_key=True))
    assert "refers (id) to the table parent" in refusal(child)


# -- tables instead of classes, and names


def test_tables_of_sqlalchemy_can_stand_beside_classes() -> None:
    plain = table(key())
    assert tables_of([plain, Task]) == [Task.__table__, plain]  # type: ignore[attr-defined]


def test_all_tables_of_a_metadata_can_be_given() -> None:
    plain = table(key())
    assert tables_of(plain.metadata.tables.values()) == [plain]


@pytest.mark.parametrize("wrong", [sa.MetaData(), table(key())], ids=["a metadata", "a table"])
def test_what_is_no_set_is_a_wrong_argument(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"set of classes or tables, such as metadata\.tables\.values"):
        tables_of(wrong)


def test_two_tables_of_one_name_are_refused_whatever_their_case() -> None:
    other = sa.Table("TASK", sa.MetaData(), key())
    with pytest.raises(SchemaError, match=r"Two tables in the schema are called \w+, .*another __tablename__"):
        tables_of([Task, other])


def test_a_name_that_sqlite_keeps_for_itself_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"A table is called sqlite_things\. .*are SQLite's"):
        tables_of([sa.Table("sqlite_things", sa.MetaData(), key())])


def test_a_table_of_another_database_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"far\.thing, but a realm is one file"):
        tables_of([sa.Table("thing", sa.MetaData(), key(), schema="far")])


# -- keys of objects


class Seat(Own, table=True):
    room: str = Field(primary_key=True)
    place: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})


class Renamed(Own, table=True):
    code: str = Field(sa_column=sa.Column("the code", sa.String, primary_key=True))


@pytest.mark.parametrize(
    ("model", "right"),
    [
        (Task, uuid7()),
        (Station, "a"),
        (Seat, ("a", 1)),
        (Seat, {"room": "a", "place": 1}),
        (Renamed, "a"),
        (Renamed, {"code": "a"}),
    ],
)
def test_a_key_that_fits_passes(model: type[SQLModel], right: Any) -> None:
    check_key(model, right)


@pytest.mark.parametrize(
    ("model", "wrong", "error", "message"),
    [
        (Task, "nope", TypeError, "The key id of Task is of type UUID; 'nope' is of type str."),
        (Task, None, TypeError, "The key id of Task is of type UUID; None is of type NoneType."),
        (Station, 5, TypeError, "The key code of Station is of type str; 5 is of type int."),
        (Seat, ("a", "1"), TypeError, "The key place of Seat is of type int; '1' is of type str."),
        (Seat, "a", ValueError, "The key of Seat is (room, place), not 'a'."),
        (Seat, ("a", 1, 2), ValueError, "The key of Seat is (room, place), not ('a', 1, 2)."),
        (Seat, {"room": "a"}, ValueError, "The key of Seat is (room, place), not {'room': 'a'}."),
        (Seat, {"room": "a", "seat": 1}, ValueError, "The key of Seat is (room, place), not {'room': 'a', 'seat': 1}."),
        (Plain, "a", TypeError, f"get takes a SQLModel class with a table, not {Plain!r}."),
        ("Task", "a", TypeError, "get takes a SQLModel class with a table, not 'Task'."),
    ],
)
def test_a_key_that_no_object_can_have_is_a_wrong_argument(
    model: Any, wrong: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        check_key(model, wrong)
    assert str(caught.value) == message


def test_of_an_applications_own_type_any_value_may_be_a_key() -> None:
    class Scale(Own, table=True):
        value: decimal.Decimal = Field(sa_type=Scaled, primary_key=True)

    check_key(Scale, "anything")
