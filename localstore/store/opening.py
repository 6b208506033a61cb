"""Opening a file: layout, tables and capture are brought up to date in one transaction, or nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from localstore.environment import Environment
from localstore.errors import StoreUnusable
from localstore.store import alone, layout
from localstore.store.capture import CapturedTable, attach, captured_tables, follow_migrations, log_all_rows
from localstore.store.clocks import ClockTable
from localstore.store.column_rules import column_rules
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.first_data import InitialData, first_data
from localstore.store.identity import ensure_identity
from localstore.store.open_file import StoreOptions
from localstore.store.renames import RENAMED, check_additions
from localstore.store.seal import SealLimits, seal_leftovers, seal_log
from localstore.store.state import LOCAL_USER, State, load_state
from localstore.store.tables import bring_up_to_date

__all__ = ["check_not_synced", "check_owner", "open_local", "open_synced", "prepare"]


def open_local(
    path: Path,
    tables: Sequence[sa.Table],
    *,
    options: StoreOptions,
    environment: Environment,
    initial_data: InitialData | None = None,
) -> Store:
    """Open a file that never syncs: plain SQLite with the declared tables.

    Args:
        initial_data: called when the file had no tables at all.

    Raises:
        StoreUnusable: not a database, cannot be opened, or a synced file.
        SchemaMismatch: the file needs a migration.
    """
    store = Store(path, synced=False, options=options, now_ms=environment.now_ms)

    def prepare_plain() -> None:
        with store.connection() as connection:
            check_not_synced(path, connection)
            is_new = not _has_tables(connection)
            bring_up_to_date(connection, tables)
            if is_new and initial_data is not None:
                first_data(connection, initial_data)

    _opened(store, options.encryption_key, prepare_plain)
    store.declared.extend(tables)
    return store


def open_synced(  # noqa: PLR0913  whose file, which tables, and how
    path: Path,
    tables: Sequence[sa.Table],
    *,
    app: str,
    partition: str = "default",
    user: str = LOCAL_USER,
    options: StoreOptions,
    environment: Environment,
    initial_data: InitialData | None = None,
) -> Store:
    """Open a file whose writes are captured. Rows from before a table was synced become changesets of this device.

    Args:
        initial_data: called when the file was in no app's hands before, and had none of the tables. What it writes is
            this device's first changeset.

    Raises:
        StoreUnusable: not a database, cannot be opened, of a newer layout, or another application's, user's or partition's.
        SchemaMismatch: the file needs a migration.
    """
    store = Store(path, synced=True, options=options, now_ms=environment.now_ms)

    def prepare_synced() -> None:
        prepare(
            store,
            tables,
            app=app,
            partition=partition,
            user=user,
            options=options,
            environment=environment,
            initial_data=initial_data,
        )

    return _opened(store, options.encryption_key, prepare_synced)


def prepare(  # noqa: PLR0913  as open_synced
    store: Store,
    tables: Sequence[sa.Table],
    *,
    app: str,
    partition: str = "default",
    user: str = LOCAL_USER,
    options: StoreOptions,
    environment: Environment,
    initial_data: InitialData | None = None,
) -> None:
    """Bring a synced file up to date with a schema; also for another realm on a file that is open already.

    Raises:
        What ``open_synced`` raises; nothing was changed then.
    """
    rules = column_rules(tables)
    with store.connection() as connection:
        new = layout.upgrade(connection)
        driver = driver_connection(connection)
        if new:
            driver.execute(
                "INSERT INTO localstore_state (id, device, app, partition, user) VALUES (1, ?, ?, ?, ?)",
                (environment.new_device(), app, partition, user),
            )
        check_owner(store.path, load_state(driver), app, partition, user)
        ensure_identity(driver, environment.new_device)
        is_new = new and not _has_tables(connection, tables)
        _prepare(connection, tables, environment.now_ms(), options.limits)
        if is_new and initial_data is not None:
            first_data(connection, initial_data)
            seal_log(driver, now_ms=environment.now_ms(), limits=options.limits)
    store.rules.update(rules)
    store.catch_up(with_others=False)  # which is for the session to do, when it sends them
    store.declared.extend(table for table in tables if table not in store.declared)


def _opened(store: Store, key: bytes | None, prepare_file: Callable[[], None]) -> Store:
    """The store with its file prepared. Nothing is left of a new file that could not be."""
    is_ours = False
    try:
        with alone.settling(store.path) as is_ours:
            store.connect()
        prepare_file()
        if is_ours:
            store.forget_statements()
    except BaseException:
        store.close()
        if is_ours:
            alone.remove_if_empty(store.path, key)
        raise
    return store


def _has_tables(connection: sa.Connection, tables: Sequence[sa.Table] | None = None) -> bool:
    """Whether the file has any of these tables, or any at all but SQLite's own."""
    found = connection.exec_driver_sql("SELECT lower(name) FROM sqlite_master WHERE type = 'table'")
    names = {name for (name,) in found if not name.startswith("sqlite_")}
    return bool(names if tables is None else names & {table.name.lower() for table in tables})


def check_not_synced(path: Path, connection: sa.Connection) -> None:
    """Raise ``StoreUnusable`` for a file that syncs."""
    if layout.layout_of(connection) is not None:
        raise StoreUnusable(
            f"{path} is a synced file. It was not changed.",
            hint="Open it with SyncConfiguration; realm.write_copy_to(LocalConfiguration(...)) takes data out of sync.",
        )


def check_owner(path: Path, state: State, app: str, partition: str, user: str) -> None:
    """Raise ``StoreUnusable`` for the file of another application, user or partition."""
    if state.app != app:
        raise StoreUnusable(
            f"{path} belongs to the application {state.app!r}, not {app!r}. It was not changed.",
            hint="Give each application a file of its own.",
        )
    if state.user != user:
        raise StoreUnusable(
            f"{path} belongs to {_called(state.user)}, not to {_called(user)}. It was not changed.",
            hint="Give each user a file of their own, as is done without path.",
        )
    if state.partition != partition:
        raise StoreUnusable(
            f"{path} holds the partition {state.partition!r}, not {partition!r}. It was not changed.",
            hint="Give each partition a file of its own.",
        )


def _called(user: str) -> str:
    return "the one user of a remote without users" if user == LOCAL_USER else f"the user {user!r}"


def _prepare(connection: sa.Connection, tables: Sequence[sa.Table], now_ms: int, limits: SealLimits) -> None:
    driver = driver_connection(connection)
    before = captured_tables(driver)
    follow_migrations(driver)
    # What is in the log was written with the columns and triggers of before: seal it before these change.
    seal_leftovers(driver, now_ms=now_ms, limits=limits)
    check_additions(driver, {table.name: [column.name for column in table.columns] for table in tables})
    bring_up_to_date(connection, tables)
    added = attach(driver, [RENAMED, *(table.name for table in tables)])
    wider = False
    for name, table in captured_tables(driver).items():
        if name in before and (columns := set(table.columns) - set(before[name].columns)):
            ClockTable(driver).add_columns(table.id, columns)
            wider = True
    for table in _referred_to_first(added, tables):
        log_all_rows(driver, table)
        seal_leftovers(driver, now_ms=now_ms, limits=limits)
    if added or wider:
        driver.execute("UPDATE localstore_state SET replay = 1")


def _referred_to_first(added: Sequence[CapturedTable], tables: Sequence[sa.Table]) -> list[CapturedTable]:
    """So that no device receives rows long before those that they refer to."""
    found = sa.schema.sort_tables_and_constraints(tables)  # type: ignore[no-untyped-call]
    order = {table.name: number for number, (table, _) in enumerate(found) if table is not None}
    return sorted(added, key=lambda table: order.get(table.name, -1))
