"""What a table loses when a migration makes it anew (Alembic's batch mode): rows that refer to it, triggers, some indexes.

Making a table anew means copying its rows, dropping it, and giving the copy its name. Dropping runs ``ON DELETE`` actions when
foreign keys are on, and takes the application's triggers and expression indexes along, which nobody puts back. Here they
are put back, and what would lose rows is refused.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from localstore.errors import UnsafeMigration
from localstore.store.engine import quote

__all__ = ["Recreation"]

_EXPRESSION = -2  # what PRAGMA index_xinfo gives as the column's number


@dataclass(frozen=True)
class Recreation:
    """A table that is about to be made anew. Triggers and indexes are pairs of a name and its SQL."""

    connection: sqlite3.Connection
    table: str
    triggers: tuple[tuple[str, str], ...]
    indexes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, connection: sqlite3.Connection, table: str) -> Recreation:
        """Look at a table before it is dropped. Capture triggers must be off already.

        Raises:
            UnsafeMigration: foreign keys are on.
        """
        if connection.execute("PRAGMA foreign_keys").fetchone()[0]:
            raise UnsafeMigration(
                f"Making the table {table} anew while foreign keys are on would delete or change rows that refer to it."
                " Nothing was changed.",
                hint="Run PRAGMA foreign_keys=OFF on the migration's connection before it begins a transaction, as the"
                " env.py of `localstore init` does.",
            )
        return cls(connection, table, tuple(_triggers(connection, table)), tuple(_expression_indexes(connection, table)))

    def put_back(self) -> None:
        """Make triggers and expression indexes again on the table that took the old one's place.

        Raises:
            UnsafeMigration: one of them does not fit the new table.
        """
        for kind, things in (("index", self.indexes), ("trigger", self.triggers)):
            for name, sql in things:
                try:
                    self.connection.execute(sql)
                    if kind == "trigger":
                        self._try_out()
                except sqlite3.OperationalError as error:
                    raise UnsafeMigration(
                        f"The {kind} {name} does not fit the table {self.table} as the migration makes it ({error})."
                        " The migration was stopped.",
                        hint=f'Let the migration run op.execute("DROP {kind.upper()} {name}") before, and make it as it'
                        " should be afterwards.",
                    ) from error

    def _try_out(self) -> None:
        """Let SQLite compile the table's triggers, which happens with the statements that fire them."""
        table = quote(self.table)
        rows = self.connection.execute(f"PRAGMA table_xinfo({table})").fetchall()
        columns = ", ".join(f"{quote(row[1])} = {quote(row[1])}" for row in rows if not row[6])
        for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"UPDATE {table} SET {columns}", f"DELETE FROM {table}"):
            try:
                self.connection.execute(f"EXPLAIN {statement}").close()
            except sqlite3.OperationalError as error:
                if "no such column" in str(
                    error
                ):  # other faults are none of the new table's, such as a function not known here
                    raise


def _triggers(connection: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY rowid", (table,)
    ).fetchall()


def _expression_indexes(connection: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master"
        " WHERE type = 'index' AND tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid",
        (table,),
    ).fetchall()
    return [
        (name, sql)
        for name, sql in indexes
        if any(row[1] == _EXPRESSION for row in connection.execute(f"PRAGMA index_xinfo({quote(name)})"))
    ]
