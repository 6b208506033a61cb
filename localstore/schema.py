"""Model classes as tables, and which tables can be synced at all.

A synced table needs a primary key that two devices cannot both make up, and nothing that a merge of two valid states could
violate. What cannot work is refused when the realm is opened, with the class and the fix in the message. This module reads
SQLAlchemy metadata only; it never sees a database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import class_mapper
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

from localstore.errors import SchemaError
from localstore.types import ExactDecimal, stored_type

__all__ = ["MAX_KEY_COLUMNS", "SYSTEM_PREFIX", "Model", "check_key", "check_synced", "class_of", "tables_of"]

SYSTEM_PREFIX = "localstore_"
MAX_KEY_COLUMNS = 8  # as many as the capture log has room for

Model = type[SQLModel] | sa.Table
"""What a schema is made of: SQLModel classes, and tables of SQLAlchemy Core."""


def tables_of(schema: Collection[Model]) -> list[sa.Table]:
    """The tables of a set of models, sorted by name.

    Raises:
        SchemaError: a class has no table, a table cannot have its name, or two have the same.
        TypeError: something that is neither a class nor a table.
    """
    if isinstance(schema, type):
        raise TypeError(f"schema takes a set of classes: write schema={{{schema.__name__}}}.")
    if isinstance(schema, sa.MetaData | sa.Table):
        raise TypeError("schema takes a set of classes or tables, such as metadata.tables.values().")
    found: dict[str, sa.Table] = {}
    for model in schema:
        table = model if isinstance(model, sa.Table) else _table_of(model)
        _check_name(model, table)
        other = found.setdefault(table.name.casefold(), table)
        if other is not table:
            raise SchemaError(
                f"Two tables in the schema are called {table.name}, which SQLite spells in any case.",
                hint="Give one of the classes another __tablename__.",
            )
    return sorted(found.values(), key=lambda table: table.name)


def check_synced(tables: Iterable[sa.Table]) -> None:
    """Refuse tables that cannot be merged without loss.

    Raises:
        SchemaError: names the table, what is wrong with it, and the fix.
    """
    tables = list(tables)
    for table in tables:
        _check_key(table)
        _check_constraints(table, tables)


def check_key(model: type[SQLModel], key: Any) -> None:
    """Refuse a primary key that no object of a class can have, which SQL would not find, or fail on without saying why.

    Raises:
        TypeError: a part of it is of another type than its column, or the class has no table.
        ValueError: it has another number of parts.
    """
    if not (isinstance(model, type) and issubclass(model, SQLModel) and hasattr(model, "__mapper__")):
        raise TypeError(f"get takes a SQLModel class with a table, not {model!r}.")
    mapper = class_mapper(model, configure=False)
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    if isinstance(key, dict):
        parts = [key[name] for name in names if name in key] if key.keys() <= set(names) else []
    else:
        parts = list(key) if isinstance(key, tuple) else [key]
    if len(parts) != len(names):
        raise ValueError(f"The key of {model.__name__} is ({', '.join(names)}), not {key!r}.")
    for name, column, part in zip(names, mapper.primary_key, parts, strict=True):
        kind = _python_type(column.type)
        if part is None or (not isinstance(part, kind) and not (kind is float and isinstance(part, int))):
            raise TypeError(
                f"The key {name} of {model.__name__} is of type {kind.__name__}; {part!r} is of type {type(part).__name__}."
            )


def class_of(table_name: str) -> type[SQLModel] | None:
    """A class whose table has a name, for messages."""
    return next((model for model in _subclasses(SQLModel) if _has_table(model, table_name)), None)


def _subclasses(model: type[SQLModel]) -> Iterator[type[SQLModel]]:
    for below in model.__subclasses__():
        yield below
        yield from _subclasses(below)


def _has_table(model: type[SQLModel], name: str) -> bool:
    table = vars(model).get("__table__")
    return isinstance(table, sa.Table) and table.name == name


def _python_type(kind: sa.types.TypeEngine[Any]) -> type[Any]:
    """The class of a type's values; of what an application's own type takes, nothing is known."""
    try:
        return (stored_type(kind) if isinstance(kind, AutoString | UTCDateTime) else kind).python_type
    except NotImplementedError:
        return object


def _table_of(model: type[SQLModel]) -> sa.Table:
    if not (isinstance(model, type) and issubclass(model, SQLModel)):
        raise TypeError(f"schema takes SQLModel classes, not {model!r}.")
    # A class that shares its base's table has a mapper only.
    table = getattr(model, "__table__", None)
    if table is None and (mapper := getattr(model, "__mapper__", None)) is not None:
        table = mapper.local_table
    if not isinstance(table, sa.Table):
        raise SchemaError(
            f"{model.__name__} has no table.", hint=f"Declare it as class {model.__name__}(SQLModel, table=True)."
        )
    return table


def _check_name(model: Model, table: sa.Table) -> None:
    owner = "A table" if isinstance(model, sa.Table) else f"{model.__name__}'s table"
    name = table.name.casefold()
    if name.startswith(SYSTEM_PREFIX):
        raise SchemaError(f"{owner} is called {table.name}.", hint=f"Names with {SYSTEM_PREFIX} are ours.")
    if name.startswith("sqlite_"):
        raise SchemaError(f"{owner} is called {table.name}.", hint="Names with sqlite_ are SQLite's.")
    if table.schema is not None:
        raise SchemaError(
            f"{owner} is {table.schema}.{table.name}, but a realm is one file without schemas.",
            hint="Leave the schema out of __table_args__ or Table().",
        )


def _check_key(table: sa.Table) -> None:
    key = list(table.primary_key.columns)
    if not key:
        raise _refused(table, "has no primary key", "Give it one: id: UUID = Field(default_factory=uuid7, primary_key=True).")
    if len(key) > MAX_KEY_COLUMNS:
        raise _refused(table, f"has a key of {len(key)} columns", f"A synced key has at most {MAX_KEY_COLUMNS}.")
    if table.autoincrement_column is not None:
        raise _refused(
            table,
            f"numbers its rows itself (integer key {table.autoincrement_column.name!r}), as two devices would alike",
            "Use id: UUID = Field(default_factory=uuid7, primary_key=True); for a number that your application assigns,"
            ' add sa_column_kwargs={"autoincrement": False}.',
        )
    for column in key:
        _check_key_column(table, column)
    if all(_is_made_up_by_the_database(column) for column in key):
        raise _refused(
            table,
            f"lets the database fill in its key ({', '.join(column.name for column in key)}), as two devices would alike",
            "Use id: UUID = Field(default_factory=uuid7, primary_key=True).",
        )


def _check_key_column(table: sa.Table, column: sa.Column[Any]) -> None:
    name, kind = column.name, stored_type(column.type)
    if column.nullable:
        raise _refused(table, f"has the key {name!r}, which may be null", "Take nullable=True away: a row needs a whole key.")
    if column.computed is not None:
        raise _refused(table, f"computes the key {name!r}, which SQLite cannot", "Let the application set the key.")
    if isinstance(kind, sa.types.NullType):
        raise _refused(table, f"has the key {name!r} without a type", "Give it one: UUID, text or whole number.")
    if isinstance(column.type, sa.PickleType) or isinstance(kind, sa.JSON):
        raise _refused(
            table,
            f"has the key {name!r} of type {_spelling(column)}, which writes one value in many ways",
            "Use a UUID, text or whole number.",
        )
    if isinstance(kind, sa.Numeric | sa.Float) or isinstance(column.type, ExactDecimal):
        raise _refused(table, f"has the key {name!r} of type {_spelling(column)}", "Use a UUID, text or whole number.")
    collation = getattr(kind, "collation", None)
    if collation and collation.upper() != "BINARY":
        raise _refused(table, f"compares the key {name!r} by {collation}", "Use the BINARY collation for keys.")


def _spelling(column: sa.Column[Any]) -> str:
    if isinstance(column.type, ExactDecimal | sa.PickleType):
        return type(column.type).__name__
    return str(stored_type(column.type))


def _is_made_up_by_the_database(column: sa.Column[Any]) -> bool:
    """Whether a column has a default in SQL, other than a random one."""
    if not isinstance(column.server_default, sa.DefaultClause):
        return False
    return "random" not in str(column.server_default.arg).casefold()


def _check_constraints(table: sa.Table, synced: Collection[sa.Table]) -> None:
    names_of_synced = {other.name for other in synced}
    for constraint in sorted(table.foreign_key_constraints, key=lambda constraint: list(constraint.column_keys)):
        target = _target(constraint)
        if target not in names_of_synced:
            raise _refused(
                table,
                f"refers ({', '.join(constraint.column_keys)}) to {_described(target)}, which is not synced, so that the rows"
                " referred to are not there on other devices",
                f"Add {_short(target)} to the schema, or drop the foreign key and keep the other row's key in a plain column.",
            )
        _check_referred(table, constraint)


def _check_referred(table: sa.Table, constraint: sa.ForeignKeyConstraint) -> None:
    """Refuse what cannot be said to refer to a row on all devices alike; whatever refers to keys can."""
    target, referred = constraint.referred_table, [element.column for element in constraint.elements]
    if set(referred) == set(target.primary_key.columns):
        return
    names = ", ".join(column.name for column in referred)
    fix = f"Refer to the key ({', '.join(column.name for column in target.primary_key.columns)})."
    for column in referred:
        collation = getattr(stored_type(column.type), "collation", None)
        if collation and collation.upper() != "BINARY":
            raise _refused(table, f"refers to {target.name} ({names}), which compares {column.name!r} by {collation}", fix)
    if any(column.foreign_keys for column in referred) and _refers(target, table):
        raise _refused(table, f"refers to {target.name} ({names}), which refers to others and back to {table.name}", fix)


def _refers(one: sa.Table, other: sa.Table) -> bool:
    """Whether a table refers to another, by whatever detour."""
    seen: set[sa.Table] = set()
    left = [one]
    while left:
        found = {constraint.referred_table for constraint in left.pop().foreign_key_constraints} - seen
        seen |= found
        left += found
    return other in seen


def _target(constraint: sa.ForeignKeyConstraint) -> str:
    """The name of the table that is referred to."""
    try:
        return constraint.referred_table.name
    except NoReferenceError:  # its class was not imported
        return constraint.elements[0].target_fullname.rpartition(".")[0]


def _described(table_name: str) -> str:
    model = class_of(table_name)
    return f"the table {table_name}" if model is None else f"{model.__name__} (table {table_name})"


def _short(table_name: str) -> str:
    model = class_of(table_name)
    return f"the table {table_name}" if model is None else model.__name__


def _refused(table: sa.Table, problem: str, fix: str) -> SchemaError:
    return SchemaError(f"Table {table.name} cannot be synced: it {problem}. Nothing was changed.", hint=fix)
