"""The application's tables in the file: made when missing, extended when that cannot go wrong, else left to Alembic."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from localstore.errors import SchemaMismatch
from localstore.store.engine import quote

__all__ = ["bring_up_to_date"]


def bring_up_to_date(connection: sa.Connection, tables: Sequence[sa.Table]) -> None:
    """Create missing tables and add missing columns that are nullable or have a default.

    Raises:
        SchemaMismatch: anything else that differs; names it and the command to run.
    """
    if not tables:
        return
    tables[0].metadata.create_all(connection, tables=list(tables))
    for table in tables:
        stored = {row[1]: row[5] for row in connection.exec_driver_sql(f"PRAGMA table_xinfo({quote(table.name)})")}
        key = [name for _, name in sorted((position, name) for name, position in stored.items() if position)]
        declared_key = [column.name for column in table.primary_key.columns]
        if key != declared_key:
            raise _mismatch(table, f"has the key ({', '.join(key)}), the class declares ({', '.join(declared_key)})")
        for column in table.columns:
            if column.name not in stored:
                _add(connection, table, column)


def _add(connection: sa.Connection, table: sa.Table, column: sa.Column[object]) -> None:
    if not column.nullable and column.server_default is None:
        raise _mismatch(table, f"lacks the column {column.name}, which is not nullable and has no server default")
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    try:
        connection.exec_driver_sql(f"ALTER TABLE {quote(table.name)} ADD COLUMN {definition}")
    except (sa.exc.OperationalError, sa.exc.IntegrityError) as error:
        if not str(getattr(error.orig, "sqlite_errorname", "")).startswith(("SQLITE_ERROR", "SQLITE_CONSTRAINT")):
            raise
        raise _mismatch(table, f"lacks the column {column.name}, which SQLite cannot add ({error.orig})") from error


def _mismatch(table: sa.Table, what: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"Table {table.name} in the file {what}. Nothing was changed.",
        hint='Migrate the file: alembic revision --autogenerate -m "..." and then alembic upgrade head.',
    )
