"""Model classes as tables, and which tables can be synced at all.

A synced table needs a primary key that two devices cannot both make up, and nothing that a merge of two valid states could
violate. What cannot work is refused when the realm is opened, with the class and the fix in the message. This module reads
SQLAlchemy metadata only; it never sees a database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlmodel import SQLModel

from localstore.errors import SchemaError

__all__ = ["MAX_KEY_COLUMNS", "SYSTEM_PREFIX", "check_synced", "tables_of"]

SYSTEM_PREFIX = "localstore_"
MAX_KEY_COLUMNS = 8  # as many as the capture log has room for


def tables_of(schema: Collection[type[SQLModel]]) -> list[sa.Table]:
    """The tables of a set of model classes, sorted by name.

    Raises:
        SchemaError: a class has no table, or a table uses our prefix.
        TypeError: something that is not a class.
    """
    if isinstance(schema, type):
        raise TypeError(f"schema takes a set of classes: write schema={{{schema.__name__}}}.")
    found: dict[str, sa.Table] = {}
    for model in schema:
        if not (isinstance(model, type) and issubclass(model, SQLModel)):
            raise TypeError(f"schema takes SQLModel classes, not {model!r}.")
        table = getattr(model, "__table__", None)
        if not isinstance(table, sa.Table):
            raise SchemaError(
                f"{model.__name__} has no table.", hint=f"Declare it as class {model.__name__}(SQLModel, table=True)."
            )
        if table.name.casefold().startswith(SYSTEM_PREFIX):
            raise SchemaError(f"{model.__name__}'s table is called {table.name}.", hint=f"Names with {SYSTEM_PREFIX} are ours.")
        found[table.name] = table
    return [found[name] for name in sorted(found)]


def check_synced(tables: Iterable[sa.Table]) -> None:
    """Refuse tables that cannot be merged without loss.

    Raises:
        SchemaError: names the table, what is wrong with it, and the fix.
    """
    for table in tables:
        _check_key(table)
        _check_constraints(table)


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
        kind: sa.types.TypeEngine[object] = column.type
        while isinstance(kind, sa.TypeDecorator):
            kind = kind.impl_instance
        if isinstance(kind, sa.Numeric | sa.Float):
            raise _refused(table, f"has the key {column.name!r} of type {kind}", "Use a UUID, text or whole number.")
        collation = getattr(kind, "collation", None)
        if collation and collation.upper() != "BINARY":
            raise _refused(table, f"compares the key {column.name!r} by {collation}", "Use the BINARY collation for keys.")


def _check_constraints(table: sa.Table) -> None:
    unique = [[column.name for column in item.columns] for item in table.constraints if isinstance(item, sa.UniqueConstraint)]
    unique += [[str(index.name)] for index in table.indexes if index.unique]
    if unique:
        names = "; ".join(", ".join(group) for group in unique)
        raise _refused(
            table,
            f"has a unique constraint ({names}), which two devices can each satisfy and together violate",
            "This version cannot merge that: make the unique columns the primary key, or drop the constraint.",
        )
    if table.foreign_key_constraints:
        names = ", ".join(", ".join(constraint.column_keys) for constraint in table.foreign_key_constraints)
        raise _refused(
            table,
            f"has a foreign key ({names}), whose target another device may delete",
            "This version cannot merge that: keep the other row's key in a plain column.",
        )


def _refused(table: sa.Table, problem: str, fix: str) -> SchemaError:
    return SchemaError(f"Table {table.name} cannot be synced: it {problem}. Nothing was changed.", hint=fix)
