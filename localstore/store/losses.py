"""Listing what a changeset of this device brought in vain, after something else was put in the place of what it had done.

Merging lists what is lost by merging, see ``store.rows``. Here is what is lost otherwise. Knows nothing of why.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator

from localstore.changes import Change, Changeset, is_same, row_changes
from localstore.store.capture import CapturedTable
from localstore.store.conflicts import note
from localstore.store.merge import LONG_AGO
from localstore.store.rows import Rows

__all__ = ["known_changes", "note_lost"]


def known_changes(rows: Rows, changeset: Changeset) -> Iterator[tuple[CapturedTable, Change]]:
    """A changeset's changes of tables that this file has."""
    for group in changeset.groups:
        table = rows.table_of(group)
        if table is not None:
            yield from ((table, change) for change in row_changes(group))


def note_lost(
    connection: sqlite3.Connection,
    rows: Rows,
    changeset: Changeset,
    *,
    own: Collection[bytes],
    rules: tuple[str, str],
    now_ms: int,
) -> int:
    """List the values of a changeset that are not in their rows now.

    Args:
        rows: the rows as they are now.
        own: what these devices wrote since is no loss: this device overwrote it itself.
        rules: why, where the row is there, and where it is not.
        now_ms: this device's clock.

    Returns:
        How many.
    """
    count = 0
    for table, change in known_changes(rows, changeset):
        ((state, current),) = rows.look_up(table, [change.key])
        for column, value in change.values.items():
            if column not in table.columns:
                continue
            won, winner = (current(column), state.mark(column).version) if state.lives else (None, state.died or LONG_AGO)
            is_overwritten = winner[1] in own and winner[0] >= changeset.stamp
            if is_overwritten or (state.lives and is_same(value, won)):
                continue
            where, rule = (table.name, change.key, column), rules[0 if state.lives else 1]
            note(connection, now_ms, where, lost=(value, changeset.version), won=(won, winner), rule=rule)
            count += 1
    return count
