"""Writing a value that lost back: a new change like any other, and its conflict leaves the list in the same transaction.

Knows nothing of merging: other devices see a write by somebody who had seen what won.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError

from localstore.changes import Value
from localstore.errors import CannotRestore
from localstore.store.apply import cannot_apply
from localstore.store.capture import CapturedTable, captured_tables
from localstore.store.conflicts import Conflict, find, forget, is_of_lost_row, of_one_loss
from localstore.store.engine import driver_connection, quote
from localstore.store.file import Store
from localstore.store.in_loop import WriteInLoop
from localstore.store.repaired import Records

__all__ = ["restore", "restore_async"]

_TAKE_THE_CAUSE_AWAY = (
    "Take the cause away: insert the row that it refers to again, or change the row that is in its way."
    " Or write it anew in a write(), with values that can be shown."
)
_STAYS = "Nothing was written, and the conflict stays in the list."


def restore(store: Store, conflict: Conflict) -> None:
    """Write a value that lost back, in a write transaction of its own.

    Raises:
        CannotRestore: the conflict is not in the list any more, or its value has no place in the tables as they are.
        What ``Store.write`` raises.
    """
    _check(store, conflict)
    with _explained(conflict), store.write() as session:
        _write_back(driver_connection(session.connection()), conflict)


async def restore_async(store: Store, conflict: Conflict) -> None:
    """``restore`` for any event loop."""
    _check(store, conflict)
    with _explained(conflict):
        async with WriteInLoop(store) as session:
            _write_back(driver_connection(session.connection()), conflict)


def _check(store: Store, conflict: Conflict) -> None:
    if not isinstance(conflict, Conflict):
        raise TypeError(f"restore takes a conflict out of realm.conflicts(), not of type {type(conflict).__name__}.")
    if conflict.id < 0:
        raise CannotRestore(
            f"{_place(conflict)} cannot be shown: {conflict.rule}. It is kept, and comes back by itself when that does.",
            hint=_TAKE_THE_CAUSE_AWAY,
        )
    if not store.synced:
        raise CannotRestore(
            f"The realm {store.path} is local: no value in it ever loses. Nothing was written.",
            hint="Restore a conflict in the realm that listed it.",
        )


@contextmanager
def _explained(conflict: Conflict) -> Iterator[None]:
    """Say of a value that SQLite or a trigger of the application refuses what was to become of it."""
    refusals: tuple[type[Exception], ...] = (IntegrityError, *cannot_apply())  # SQLAlchemy's are those of the commit
    try:
        yield
    except refusals as error:
        reason = error.orig if isinstance(error, IntegrityError) else error
        raise CannotRestore(
            f"{_place(conflict)} cannot take back the value that lost: {reason}. {_STAYS}",
            hint="Write what it needs first, such as a row that it refers to, and restore again;"
            " or write another value in a write().",
        ) from error


def _write_back(connection: sqlite3.Connection, conflict: Conflict) -> None:
    listed = _listed(connection, conflict)
    table = _table(connection, listed)
    here = " AND ".join(f"{quote(name)} = ?" for name in table.key)
    if connection.execute(f"SELECT 1 FROM {table.sql_name} WHERE {here}", listed.key).fetchone():
        connection.execute(
            f"UPDATE {table.sql_name} SET {quote(listed.column)} = ? WHERE {here}", (listed.lost_value, *listed.key)
        )
        settled = [listed]
    else:
        settled = _insert_again(connection, table, listed)
    forget(connection, settled)


def _insert_again(connection: sqlite3.Connection, table: CapturedTable, listed: Conflict) -> list[Conflict]:
    """Insert a row that was deleted with all that is known of it, when that is enough; returns the conflicts it settles."""
    aside = Records(connection, {table.name: table}).load(table, [listed.key]).get(listed.key)
    if aside is not None:
        raise CannotRestore(
            f"The row of {_place(listed)} is set aside, so the value has no place: {aside.why}. {_STAYS}",
            hint=_TAKE_THE_CAUSE_AWAY,
        )
    if not is_of_lost_row(listed.rule):
        raise CannotRestore(
            f"The row of {_place(listed)} was deleted after the value had lost, so the value has no place. {_STAYS}",
            hint="Insert the row again in a write(), then restore.",
        )
    loss = of_one_loss(connection, listed)
    known: dict[str, Value] = {lost.column: lost.lost_value for lost in loss if lost.column in table.columns}
    missing = [name for name in _needed(connection, table) if known.get(name) is None]
    if missing:
        gone = f"was deleted by device {listed.won_device[:8]}" if listed.won_device else "is not there any more"
        raise CannotRestore(
            f"The row of {_place(listed)} {gone}. This device had written only"
            f" {_names(list(known))}, so it cannot put the row back: {_names(missing)} must have a value. {_STAYS}",
            hint=f"Insert the row again in a write() with {_names(missing)} of your own, then restore.",
        )
    names = (*table.key, *known)
    connection.execute(
        f"INSERT INTO {table.sql_name} ({', '.join(map(quote, names))}) VALUES ({', '.join('?' * len(names))})",
        (*listed.key, *known.values()),
    )
    return loss


def _listed(connection: sqlite3.Connection, conflict: Conflict) -> Conflict:
    """The conflict as it is in the list now: a migration may have renamed its table or column since."""
    listed = find(connection, conflict.id)
    if listed is None or _identity(listed) != _identity(conflict):
        raise CannotRestore(
            f"The conflict about {_place(conflict)} is not in this realm's list: it was restored before, went as one of the"
            " oldest, or is another realm's. Nothing was written.",
            hint="Take one out of realm.conflicts() as it is now.",
        )
    return listed


def _identity(conflict: Conflict) -> tuple[object, ...]:
    return (conflict.key, conflict.lost_stamp, conflict.lost_device, conflict.won_stamp, conflict.won_device)


def _table(connection: sqlite3.Connection, listed: Conflict) -> CapturedTable:
    table = captured_tables(connection).get(listed.table)
    if table is None or not _described(connection, table):
        gone = f"the table {listed.table} is not in this file any more"
    elif listed.column not in table.columns:
        gone = f"the table {listed.table} has no column {listed.column} any more"
    elif len(listed.key) != len(table.key):
        gone = f"the table {listed.table} has another key now"
    else:
        return table
    raise CannotRestore(
        f"{_place(listed)} cannot take back the value that lost: {gone}. {_STAYS}",
        hint="Read the value from conflict.lost_value, and write it to where it belongs now.",
    )


def _described(connection: sqlite3.Connection, table: CapturedTable) -> Sequence[tuple[object, ...]]:
    return connection.execute(f"PRAGMA main.table_xinfo({quote(table.name)})").fetchall()


def _needed(connection: sqlite3.Connection, table: CapturedTable) -> list[str]:
    """The columns beside the key that must have a value. A default would be a value that nobody wrote."""
    return [str(name) for _, name, _, not_null, *_ in _described(connection, table) if not_null and name in table.columns]


def _place(conflict: Conflict) -> str:
    return f"{conflict.column} of {conflict.table} {', '.join(map(repr, conflict.key))}"


def _names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
