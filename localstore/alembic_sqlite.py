"""Alembic's implementation for SQLite, with an eye on synced files: no change in an application's ``env.py`` is needed.

It does nothing beside what Alembic does unless something is written to a file with our system tables: not for other files,
in ``--sql`` mode, or for our own layout.
What has to be done around a migration's transaction is told in ``store.migrating``; here is how to notice such a transaction.

From the moment when migrations are run on a connection, everything that is written through it belongs to them and is
not captured.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.ddl.sqlite import SQLiteImpl
from alembic.util import CommandError
from sqlalchemy import event

from localstore.environment import Environment
from localstore.errors import UnsafeMigration

if TYPE_CHECKING:
    from alembic.operations.batch import ApplyBatchImpl

    from localstore.store.migrating import FileMigration

__all__ = ["LocalStoreSQLiteImpl", "MigrationRefused"]

_START = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"  # comments before a statement
_WRITES = re.compile(_START + r"(?:INSERT|UPDATE|DELETE|REPLACE|WITH|CREATE|ALTER|DROP)\b", re.IGNORECASE | re.DOTALL)
_NEEDS_NO_TRANSACTION = re.compile(
    _START + r"(?:VACUUM|PRAGMA\s+(?:\w+\s*\.\s*)?foreign_keys\s*[=(])", re.IGNORECASE | re.DOTALL
)
_OPTION = "localstore_watch"  # under which a SQLAlchemy connection keeps its watch


class MigrationRefused(UnsafeMigration, CommandError):  # noqa: N818 - named by what happened, as all our errors
    """``UnsafeMigration`` in a form that Alembic's command line prints as a message instead of a traceback."""


class LocalStoreSQLiteImpl(SQLiteImpl):
    """Alembic's SQLite, with an eye on synced files."""

    __dialect__ = "sqlite"

    def __init__(self, dialect: Any, connection: Any, as_sql: bool, *args: Any, **kwargs: Any) -> None:
        super().__init__(dialect, connection, as_sql, *args, **kwargs)
        from localstore.store.layout import VERSION_TABLE

        ours = self.context_opts.get("version_table") == VERSION_TABLE
        self._watch = None if as_sql or ours or not isinstance(connection, sa.Connection) else _watch_of(connection)
        self._recreations: dict[str, Callable[[], None]] = {}
        if self._watch is not None:
            _hide_system_tables(self.context_opts, self._watch)

    def start_migrations(self) -> None:
        if self._watch is not None:
            self._watch.begin(for_good=True)
        super().start_migrations()

    def _exec(self, *args: Any, **kwargs: Any) -> Any:
        if self._watch is not None:
            self._watch.begin()
        return super()._exec(*args, **kwargs)

    def prep_table_for_batch(self, batch_impl: ApplyBatchImpl, table: sa.Table) -> None:
        super().prep_table_for_batch(batch_impl, table)
        if self._watch is not None and table.schema in (None, "main"):
            self._watch.begin()
            self._recreations[batch_impl.temp_table_name] = self._watch.recreation(batch_impl, str(table.name))

    def render_type(self, type_obj: Any, autogen_context: Any) -> Any:
        """How a revision writes our types: ``ExactDecimal`` with its import, and text that a realm has recognised as text."""
        types = sys.modules.get("localstore.types")  # nobody uses its types before it is imported
        if types is not None and isinstance(type_obj, types.ExactDecimal):
            autogen_context.imports.add("import localstore.types")
        elif types is not None and type(type_obj) is types.TextOf:
            return f"sqlmodel.sql.sqltypes.{types.AutoString(type_obj.length)!r}"
        return super().render_type(type_obj, autogen_context)

    def rename_table(self, old_table_name: Any, new_table_name: Any, schema: Any = None) -> None:
        super().rename_table(old_table_name, new_table_name, schema=schema)
        put_back = self._recreations.pop(str(old_table_name), None)
        if put_back is not None:
            put_back()


class _Watch:
    """Notices which transactions of a connection are migrations of a synced file, and what they rename."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._watching = self._for_good = False
        self._synced: bool | None = None
        self._migration: FileMigration | None = None
        self._silenced = self._began = False
        self._path: Path | None = None
        for name in ("before_cursor_execute", "after_cursor_execute", "commit", "rollback", "rollback_savepoint"):
            event.listen(connection, name, getattr(self, name))

    def begin(self, *, for_good: bool = False) -> None:
        """What is written from now on belongs to a migration: for the transaction, or for the connection's life."""
        self._watching = True
        self._for_good = self._for_good or for_good

    def recreation(self, batch_impl: ApplyBatchImpl, table: str) -> Callable[[], None]:
        """Prepare for a table to be made anew; returns what to do when that is done."""
        from localstore.store.recreation import Recreation

        migration = self._ensure_migration()
        if migration is None:
            return lambda: None
        with self._ours(), _for_alembic():
            recreation = Recreation.of(self._driver, table)
            going = [name for name, _ in batch_impl.table.c.items() if name not in batch_impl.column_transfers]
            migration.remake(table, without=going)

        def put_back() -> None:
            with self._ours(), _for_alembic():
                migration.rename_columns(table, _renamed_columns(batch_impl))
                recreation.put_back()

        return put_back

    def before_cursor_execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not self._watching:
            return
        if self._began and _NEEDS_NO_TRANSACTION.match(statement) and self._is_autocommit:
            self._end(commit=True)
        elif _WRITES.match(statement):
            migration = self._ensure_migration()
            if migration is not None:
                with self._ours():
                    migration.precede(statement)

    def after_cursor_execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._migration is not None:
            with self._ours():
                self._migration.follow(statement)

    def rollback_savepoint(self, *_: Any) -> None:
        self._silenced = False  # the triggers may be back

    def commit(self, _connection: Any) -> None:
        if self._migration is None:
            self._rest()
        else:
            self._end(commit=True)

    def rollback(self, _connection: Any) -> None:
        if self._migration is None:
            self._rest()
        else:  # a connection in AUTOCOMMIT that is closed without an error keeps what was done
            self._end(commit=self._began and self._is_autocommit and sys.exception() is None)

    @property
    def is_synced(self) -> bool:
        """Whether the file has our system tables; looked up once a transaction."""
        from localstore.store.layout import layout_of

        if self._synced is None:
            self._synced = layout_of(self._connection) is not None
        return self._synced

    @property
    def _driver(self) -> sqlite3.Connection:
        from localstore.store.engine import driver_connection

        return driver_connection(self._connection)

    @property
    def _is_autocommit(self) -> bool:
        """Whether the driver commits each statement, so that only a transaction of ours holds a migration together."""
        return getattr(self._driver, "autocommit", None) is True or self._driver.isolation_level is None

    def _ensure_migration(self) -> FileMigration | None:
        """Turn capture off before the first write of a transaction."""
        if self._migration is None:
            if not self.is_synced:
                return None
            self._start()
        elif not self._silenced:
            with self._ours():
                self._migration.silence()
            self._silenced = True
        return self._migration

    def _start(self) -> None:
        from localstore.store.migrating import FileMigration
        from localstore.store.seal import SealLimits

        if self._connection.dialect.is_async:
            raise MigrationRefused(
                f"{self._connection.dialect.name}+{self._connection.dialect.driver} cannot migrate a synced file."
                " Nothing was changed.",
                hint="Let env.py use the plain driver: sqlite:///...",
            )
        driver = self._driver
        self._began = not driver.in_transaction
        if self._began:  # the driver would commit statement by statement
            driver.execute("BEGIN IMMEDIATE")
        with self._ours():
            self._migration = FileMigration(driver, environment=Environment(), limits=SealLimits())
        self._silenced = True

    def _end(self, *, commit: bool) -> None:
        migration, began, driver = self._migration, self._began, self._driver
        self._migration, self._began = None, False
        self._rest()
        if commit and migration is not None:
            with self._ours():
                migration.finish()
        if began and driver.in_transaction and self._is_autocommit:  # the driver's own commit() may do nothing
            driver.execute("COMMIT" if commit else "ROLLBACK")

    def _ours(self) -> AbstractContextManager[None]:
        """Around statements of ours: a disk or file that stands in their way is told with what to do about it."""
        from localstore.store.engine import translated
        from localstore.store.failures import DISK_ERRORS

        if self._path is None:
            self._path = Path(self._driver.execute("PRAGMA database_list").fetchone()[2])
        return translated(self._path, writing=True, only=DISK_ERRORS)

    def _rest(self) -> None:
        self._watching, self._synced = self._for_good, None


def _watch_of(connection: sa.Connection) -> _Watch:
    """The one watch of a connection, however many migration contexts it serves."""
    found = connection.get_execution_options().get(_OPTION)
    if isinstance(found, _Watch):
        return found
    watch = _Watch(connection)
    connection.execution_options(**{_OPTION: watch})
    return watch


def _hide_system_tables(options: MutableMapping[str, Any], watch: _Watch) -> None:
    """Let autogenerate overlook what is ours, beside what the application's ``include_name`` overlooks."""
    from localstore.schema import SYSTEM_PREFIX

    theirs = options.get("include_name")

    def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
        if type_ == "table" and name is not None and name.startswith(SYSTEM_PREFIX) and watch.is_synced:
            return False
        return theirs is None or bool(theirs(name, type_, parent_names))

    options["include_name"] = include_name


def _renamed_columns(batch_impl: ApplyBatchImpl) -> dict[str, str]:
    names = {old: transfer.get("name", old) for old, transfer in batch_impl.column_transfers.items()}
    return {str(old): str(new) for old, new in names.items() if old != new}


@contextmanager
def _for_alembic() -> Iterator[None]:
    try:
        yield
    except UnsafeMigration as error:
        raise MigrationRefused(error.message, hint=error.hint) from error
