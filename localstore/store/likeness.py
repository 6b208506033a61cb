"""A second file beside a synced one: the same schema and key, another device, nothing in it. For filling from the remote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from localstore.environment import Environment
from localstore.errors import StoreUnusable
from localstore.store import alone, files
from localstore.store.capture import captured_tables
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.files import Owner
from localstore.store.opening import prepare
from localstore.store.renames import RENAMED

__all__ = ["open_like", "owner_of_like", "remove_like"]


def open_like(store: Store, path: Path, environment: Environment) -> Store:
    """Make a file like another and open it. It believes as late stamps as the other has seen.

    Its tables are made by the very statements that the other's have now, so that all that fits into the one fits into the
    other, also where the realm declares less than the file has. It is not made durable: after a crash it is made anew.

    Args:
        store: the file to be like.
        path: where nothing is yet.
        environment: the world.
    """
    state = store.state()
    names, statements = _definitions(store)
    options = replace(store.options, synchronous="OFF")
    new = Store(path, synced=True, options=options, now_ms=environment.now_ms)
    try:
        with alone.settling(path):
            new.connect()
        with new.connection() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
            tables = _tables(connection, store.declared, names)
        prepare(
            new,
            tables,
            app=state.app,
            partition=state.partition,
            user=state.user,
            options=options,
            environment=environment,
        )
        new.rules.update(store.rules)
        with new.transaction() as raw:
            raw.execute("UPDATE localstore_state SET last_stamp = ?", (state.last_stamp,))
    except BaseException:
        new.close()
        raise
    return new


def owner_of_like(store: Store) -> Owner:
    """Whose a file like another is."""
    state = store.state()
    return Owner(state.app, state.partition, state.user)


def remove_like(path: Path, owner: Owner, key: bytes | None) -> None:
    """Remove such a file, also one that was left behind, and whether or not the one that it is like is still open.

    Raises:
        StoreBusy: another process has it open.
        StoreUnusable: the system does not allow it.
    """
    if not path.exists():
        return
    try:
        files.delete(path, owner, key=key, discard_unsent=True)
    except StoreUnusable:  # half made, or under another key, which nobody can have open
        alone.remove_names(path)


def _definitions(store: Store) -> tuple[list[str], list[str]]:
    """The synced tables of a file, and the statements that make them and their indexes."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        names = [name for name in captured_tables(connection) if name != RENAMED]
        wanted = {name.casefold() for name in names}
        found = connection.execute(
            "SELECT tbl_name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL ORDER BY type DESC"
        ).fetchall()
        there = {table.casefold() for table, _ in found}  # another program may have dropped one
        return (
            [name for name in names if name.casefold() in there],
            [sql for table, sql in found if table.casefold() in wanted],
        )


def _tables(connection: sa.Connection, declared: Sequence[sa.Table], names: Sequence[str]) -> list[sa.Table]:
    """What to open the file with: what the realm declares, and the rest as it is in the file."""
    known = {table.name.casefold() for table in declared}
    others = [name for name in names if name.casefold() not in known]
    metadata = sa.MetaData()
    metadata.reflect(connection, only=others, resolve_fks=False)
    return [*declared, *(metadata.tables[name] for name in others)]
