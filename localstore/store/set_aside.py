"""Rows that are not shown as merging left them, as entries of ``realm.conflicts()``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from localstore.changes import Key, Value
from localstore.clock import Version
from localstore.store.capture import captured_tables
from localstore.store.clocks import ClockTable, key_value
from localstore.store.conflicts import Conflict
from localstore.store.repair import Repairs

__all__ = ["set_aside"]


def set_aside(connection: sqlite3.Connection) -> list[Conflict]:
    """Each value that is not in its table, with the delete because of which it is not."""
    return [
        Conflict(
            id=-number,
            table=table,
            key=key,
            column=column,
            lost_value=value,
            lost_stamp=lost[0],
            lost_device=lost[1].hex(),
            won_value=shown,
            won_stamp=won[0],
            won_device=won[1].hex(),
            rule=f"what {why} refers to was deleted",
        )
        for number, (table, key, column, value, lost, shown, won, why) in enumerate(_values(connection), 1)
    ]


_Found = tuple[str, Key, str, Value, Version, Value, Version, str]


def _values(connection: sqlite3.Connection) -> Iterator[_Found]:
    tables, clocks = captured_tables(connection), ClockTable(connection)
    repairs = Repairs(connection, tables)
    for (name, key), record, values in repairs.all():
        table = tables[name]
        state = dict(clocks.load(table.id, [key_value(key)])).get(key_value(key))
        reference = next((reference for reference in repairs.references if str(reference) == record.why), None)
        gone = reference.key_in(values) if reference else None
        died: Version | None = None
        if reference and gone is not None:
            target = dict(clocks.load(tables[reference.target].id, [key_value(gone)])).get(key_value(gone))
            died = target.died if target else None
        shown = {} if record.is_hidden else repairs.shown(table, key)
        columns = record.merged or dict(zip(table.key, key, strict=True))
        for column, value in columns.items():
            written = state.mark(column).version if state and state.lives else (0, b"")
            yield name, key, column, value, written, shown.get(column), died or (0, b""), record.why
