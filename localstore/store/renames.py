"""Renames: which names of tables and columns mean the same thing, so that old and new schemas understand each other.

``localstore_renamed`` holds links between names. It is a synced table, only grows, and has no direction: a downgrade needs
nothing special. A name that a file has means itself; a name that it has not means the nearest linked name that it has.
Whether and when links are made is decided elsewhere (``store.migrating``); nothing here knows how rows are merged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Sequence

__all__ = ["RENAMED", "Link", "Renames", "read_renames", "record"]

RENAMED = "localstore_renamed"
"""The table of links."""

Link = tuple[str, str, str]
"""A table's name at the time, an old and a new column name; or "", an old and a new table name."""


class Renames:
    """Links between names, and what follows from them."""

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._linked: dict[str, dict[str, set[str]]] = {}  # table, "" for tables -> name -> names linked to it
        for link in links:
            self.add(*link)

    def add(self, table: str, old: str, new: str) -> bool:
        """Link two names; returns whether that is news."""
        if new in self._linked.get(table, {}).get(old, ()):
            return False
        names = self._linked.setdefault(table, {})
        names.setdefault(old, set()).add(new)
        names.setdefault(new, set()).add(old)
        return True

    def table(self, name: str, known: Container[str]) -> str | None:
        """The table of ``known`` that a name means; None when it means none of them."""
        return next((found for found in self._reached(name, ("",)) if found in known), None)

    def column(self, table: str, name: str, known: Container[str]) -> str | None:
        """The column of ``known`` that a name means in a table, whichever of the table's names a link was made under."""
        return next((found for found in self._reached(name, self._reached(table, ("",))) if found in known), None)

    def columns(self, table: str, names: Sequence[str], known: Container[str]) -> dict[str, str]:
        """The columns of ``known`` that several names mean. No two mean the same one: a column's own name comes first."""
        found = {name: name for name in names if name in known}
        for name in names:
            meant = None if name in found else self.column(table, name, known)
            if meant is not None and meant not in found.values():
                found[name] = meant
        return {name: found[name] for name in names if name in found}

    def _reached(self, name: str, tables: Sequence[str]) -> list[str]:
        """A name and all names linked to it, the nearest first."""
        reached = [name]
        for near in reached:  # grows while it is read
            linked = {other for table in tables for other in self._linked.get(table, {}).get(near, ())}
            reached += sorted(linked.difference(reached))
        return reached


def read_renames(connection: sqlite3.Connection) -> Renames:
    """The links that a file knows."""
    return Renames(connection.execute(f"SELECT tbl, old, new FROM {RENAMED}"))


def record(connection: sqlite3.Connection, table: str, old: str, new: str) -> None:
    """Link two names for this device and, as the table is synced, for all others; does nothing when they are linked already,
    be it by way of other names."""
    renames = read_renames(connection)
    linked = renames.column(table, old, {new}) if table else renames.table(old, {new})
    if linked is None:
        connection.execute(f"INSERT INTO {RENAMED} (tbl, old, new) VALUES (?, ?, ?)", (table, old, new))
