"""The application's tables in the file: made when missing, extended when that cannot go wrong, else left to Alembic."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import CompileError, IntegrityError, OperationalError
from sqlalchemy.schema import CreateColumn

from localstore.errors import SchemaError, SchemaMismatch
from localstore.store.engine import quote

__all__ = ["bring_up_to_date"]

_AFFINITIES = (
    ("integer", ("INT",)),
    ("text", ("CHAR", "CLOB", "TEXT")),
    ("blob", ("BLOB",)),
    ("real", ("REAL", "FLOA", "DOUB")),
)  # in the order in which SQLite tries them


def bring_up_to_date(connection: sa.Connection, tables: Sequence[sa.Table]) -> None:
    """Create missing tables and add missing columns that are nullable or have a default.

    Raises:
        SchemaError: a table or column that is missing cannot be written in SQL, as one without a type.
        SchemaMismatch: anything else that differs; names it and the command to run.
    """
    if not tables:
        return
    try:
        tables[0].metadata.create_all(connection, tables=list(tables))
    except CompileError as error:
        raise _cannot_be_made(tables, error) from error
    for table in tables:
        rows = connection.exec_driver_sql(f"PRAGMA table_xinfo({quote(table.name)})").all()
        stored = {row[1]: row for row in rows}
        key = [row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]]
        declared_key = [column.name for column in table.primary_key.columns]
        if key != declared_key:
            raise _mismatch(table, f"has the key ({', '.join(key)}), the class declares ({', '.join(declared_key)})")
        for column in table.columns:
            if column.name not in stored:
                _add(connection, table, column)
            else:
                _check_type(connection, table, column, stored[column.name][2])
        for _, name, _, not_null, default, in_key, hidden in rows:
            if name not in table.columns and not_null and default is None and not in_key and not hidden:
                raise _mismatch(table, f"has the column {name}, which must have a value and is not declared")


def _check_type(connection: sa.Connection, table: sa.Table, column: sa.Column[object], stored: str) -> None:
    """Types may be spelt in many ways; what counts is how SQLite stores values because of them."""
    declared = "" if _is_typeless(column) else column.type.compile(dialect=connection.dialect)
    if _affinity(declared) != _affinity(stored):
        raise _mismatch(table, f"has the column {column.name} of type {stored or 'none'}, the class declares {declared}")


def _affinity(declared: str) -> str:
    """A declared type's affinity: https://www.sqlite.org/datatype3.html §3.1."""
    found = (affinity for affinity, words in _AFFINITIES if any(word in declared.upper() for word in words))
    return next(found, "numeric" if declared else "blob")


def _add(connection: sa.Connection, table: sa.Table, column: sa.Column[object]) -> None:
    if not column.nullable and column.server_default is None:
        raise _mismatch(
            table,
            f"lacks the column {column.name}, which is not nullable and has no server default",
            first="Give it a server_default, for the rows that are there; opening the file adds it then.",
        )
    if _is_typeless(column):
        raise _typeless(column)
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    try:
        connection.exec_driver_sql(f"ALTER TABLE {quote(table.name)} ADD COLUMN {definition}")
    except (OperationalError, IntegrityError) as error:
        if not str(getattr(error.orig, "sqlite_errorname", "")).startswith(("SQLITE_ERROR", "SQLITE_CONSTRAINT")):
            raise
        raise _mismatch(table, f"lacks the column {column.name}, which SQLite cannot add ({error.orig})") from error


def _cannot_be_made(tables: Sequence[sa.Table], error: CompileError) -> SchemaError:
    for column in (column for table in tables for column in table.columns):
        if _is_typeless(column) and f"(in table '{column.table.name}', column '{column.name}')" in str(error):
            return _typeless(column)
    return SchemaError(f"The tables cannot be made: {error}. Nothing was changed.", hint="Change their declaration.")


def _is_typeless(column: sa.Column[object]) -> bool:
    return isinstance(column.type, sa.types.NullType)


def _typeless(column: sa.Column[object]) -> SchemaError:
    return SchemaError(
        f"Table {column.table.name} has the column {column.name} without a type. Nothing was changed.",
        hint="Give it one, as in Column(..., String).",
    )


def _mismatch(table: sa.Table, what: str, *, first: str = "") -> SchemaMismatch:
    migrate = f"{first} Or migrate" if first else "Migrate"
    return SchemaMismatch(
        f"Table {table.name} in the file {what}. Nothing was changed.",
        hint=f'{migrate} the file: alembic revision --autogenerate -m "..." and then alembic upgrade head.'
        " Where there is no Alembic yet, localstore init sets it up.",
    )
