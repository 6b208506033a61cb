"""Rows that are not shown as merging left them, as entries of ``realm.conflicts()``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from localstore.changes import Key, Value
from localstore.clock import Version
from localstore.store.capture import captured_tables
from localstore.store.clocks import ClockTable, key_value
from localstore.store.conflicts import Conflict
from localstore.store.constraints import Constraints
from localstore.store.merge import LONG_AGO, RowState
from localstore.store.repair import Repairs
from localstore.store.repaired import Repaired, Row

__all__ = ["set_aside"]


def set_aside(connection: sqlite3.Connection) -> list[Conflict]:
    """Each value that is not in its table, with the delete because of which it is not, or the row that has it."""
    found = _Listing(connection)
    listed = [value for row, record, merged in found.repairs.all() for value in found.values(row, record, merged)]
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
            rule=rule,
        )
        for number, (table, key, column, value, lost, shown, won, rule) in enumerate(listed, 1)
    ]


_Found = tuple[str, Key, str, Value, Version, Value, Version, str]


class _Listing:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._tables = captured_tables(connection)
        self._clocks = ClockTable(connection)
        self._constraints = Constraints(connection)
        self.repairs = Repairs(connection, self._tables)
        self._references = {str(reference): reference for reference in self.repairs.references}

    def values(self, row: Row, record: Repaired, merged: Mapping[str, Value]) -> Iterator[_Found]:
        """The values of a row that are not shown."""
        name, key = row
        table = self._tables[name]
        state = self._state(name, key)
        shown = {} if record.is_hidden else self.repairs.records.shown(table, key)
        won, rule = self._cause(name, record, merged)
        columns = record.merged or dict(zip(table.key, key, strict=True))
        for column, value in columns.items():
            written = state.mark(column).version if state and state.lives else LONG_AGO
            yield name, key, column, value, written, shown.get(column), won, rule

    def _cause(self, name: str, record: Repaired, merged: Mapping[str, Value]) -> tuple[Version, str]:
        """The change because of which a row is not shown as merged, and the rule."""
        if record.by is not None:
            rule = f"{record.why}: {', '.join(map(repr, record.by))} had it earlier"
            return self._constraints.version(self._tables[name], record.by), rule
        reference = self._references.get(record.why)
        if reference is None:
            return LONG_AGO, record.why
        gone = reference.key_in(merged)
        target = self._state(reference.target, gone) if gone is not None and reference.is_by_key else None
        died = target.died if target else None
        return died or LONG_AGO, f"what {record.why} refers to was deleted"

    def _state(self, name: str, key: Key) -> RowState | None:
        wanted = key_value(key)
        return dict(self._clocks.load(self._tables[name].id, [wanted])).get(wanted)
