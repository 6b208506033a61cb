"""What a foreign key asks for when the row that it refers to is not there: the rule, and nothing else.

The rule is a pure function of a row's merged values and of which rows there are, so that all replicas come to the same:

* ``ON DELETE CASCADE``: the row is set aside.
* ``SET NULL``, and without an action: the columns that may be null become null; where none may, the row is set aside.
* ``SET DEFAULT``: the columns get their defaults; where these refer to nothing either, the row is set aside.

A key with a null in it refers to nothing and asks for nothing (``MATCH SIMPLE``, the only kind that SQLite has).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from localstore.changes import Key, Value
from localstore.store.capture import CapturedTable
from localstore.store.engine import quote

__all__ = ["Outcome", "Reference", "outcome", "references", "strata"]


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """A foreign key from one synced table to another, or to itself.

    Attributes:
        table: name of the table that has it.
        columns: that refer.
        target: name of the table referred to.
        referred: the target's columns that these refer to: its key, in the key's order, or others that are unique.
        is_by_key: whether it is the key.
        instead: what columns become when the row referred to is not there; empty when the row is set aside.
    """

    table: str
    columns: tuple[str, ...]
    target: str
    referred: tuple[str, ...]
    is_by_key: bool
    instead: Mapping[str, Value]

    def key_in(self, values: Mapping[str, Value]) -> Key | None:
        """What a row refers to, as values of ``referred``; None for nothing."""
        key = tuple(values.get(column) for column in self.columns)
        return None if None in key else key

    def keys_in(self, values: Mapping[str, Value], all_of_table: Iterable[Reference]) -> set[Key]:
        """What a row can be shown to refer to: what merging gave it, or what it has when one of its references is lost."""
        keys = [self.key_in(values), *(self.key_in({**values, **lost.instead}) for lost in all_of_table)]
        return {key for key in keys if key is not None}

    def __str__(self) -> str:
        return f"{self.table}({', '.join(self.columns)}) → {self.target}"


@dataclass(slots=True)
class Outcome:
    """What becomes of a row: ``because`` of a reference it is not shown, or shown with other values in some columns."""

    because: Reference | None = None
    is_hidden: bool = False
    instead: dict[str, Value] = field(default_factory=dict)


def outcome(
    values: Mapping[str, Value], to_check: Collection[Reference], is_there: Callable[[Reference, Key], bool]
) -> Outcome:
    """What becomes of a row. Each of its references is looked at by itself, in the values that merging gave it. What takes the
    place of a lost one must not refer to nothing either, be it by another reference that has a column of it."""

    def dangles(reference: Reference, shown: Mapping[str, Value]) -> bool:
        key = reference.key_in(shown)
        return key is not None and not is_there(reference, key)

    result = Outcome()
    for reference in to_check:
        if not dangles(reference, values):
            continue
        result.because = reference
        instead = {**values, **reference.instead}
        sharing = [other for other in to_check if not reference.instead.keys().isdisjoint(other.columns)]
        if not reference.instead or any(dangles(other, instead) for other in sharing):
            return Outcome(reference, is_hidden=True)
        result.instead.update(reference.instead)
    return result


def references(connection: sqlite3.Connection, tables: Mapping[str, CapturedTable]) -> list[Reference]:
    """The foreign keys between synced tables, as the file has them now."""
    by_name = {name.casefold(): table for name, table in tables.items()}
    found = []
    for table in tables.values():
        rows = connection.execute(f"PRAGMA main.foreign_key_list({quote(table.name)})").fetchall()
        keys: dict[int, list[tuple[str, str | None]]] = {}
        about: dict[int, tuple[str, str]] = {}
        for number, _, target, column, referred, _, on_delete, _ in rows:
            keys.setdefault(number, []).append((column, referred))
            about[number] = (target, on_delete)
        for number in sorted(keys):
            target = by_name.get(about[number][0].casefold())
            reference = target and _reference(connection, table, target, keys[number], about[number][1])
            if reference:
                found.append(reference)
    return found


def strata(names: Iterable[str], given: Collection[Reference]) -> list[list[str]]:
    """Tables in the order in which they can settle: after those that they refer to, and together with those of their circle."""
    targets = {name: {reference.target for reference in given if reference.table == name} for name in names}
    below = {name: _reached(name, targets) for name in targets}
    circles = {frozenset({name, *(other for other in below[name] if name in below[other])}) for name in targets}
    return sorted((sorted(circle) for circle in circles), key=lambda circle: (len(below[circle[0]] | {circle[0]}), circle))


def _reached(name: str, targets: Mapping[str, set[str]]) -> set[str]:
    """The tables that one refers to, by whatever detour."""
    found: set[str] = set()
    left = [name]
    while left:
        news = targets[left.pop()] - found
        found |= news
        left += news
    return found


def _reference(
    connection: sqlite3.Connection,
    table: CapturedTable,
    target: CapturedTable,
    pairs: Sequence[tuple[str, str | None]],
    on_delete: str,
) -> Reference | None:
    """None when its columns are not synced, as generated ones are not."""
    here, there = _spellings(table), _spellings(target)
    named = [
        (here.get(column.casefold()), there.get((referred or key).casefold()))
        for (column, referred), key in zip(pairs, (*target.key, *[""] * len(pairs)), strict=False)
    ]
    found = [(column, referred) for column, referred in named if column is not None and referred is not None]
    if len(found) < len(pairs):
        return None
    is_by_key = sorted(referred for _, referred in found) == sorted(target.key)
    if is_by_key:
        found.sort(key=lambda pair: target.key.index(pair[1]))
    columns = tuple(column for column, _ in found)
    instead = _instead(connection, table, columns, on_delete)
    return Reference(table.name, columns, target.name, tuple(referred for _, referred in found), is_by_key, instead)


def _spellings(table: CapturedTable) -> dict[str, str]:
    return {name.casefold(): name for name in table.key + table.columns}


def _instead(
    connection: sqlite3.Connection, table: CapturedTable, columns: tuple[str, ...], on_delete: str
) -> dict[str, Value]:
    info = {row[1]: row for row in connection.execute(f"PRAGMA main.table_xinfo({quote(table.name)})")}
    if on_delete == "CASCADE":
        return {}
    if on_delete == "SET DEFAULT":
        if set(columns) & set(table.key):
            return {}
        sources = {column: info[column][4] or "NULL" for column in columns}
        defaults = {column: connection.execute(f"SELECT {source}").fetchone()[0] for column, source in sources.items()}
        return {} if any(value is None and info[column][3] for column, value in defaults.items()) else defaults
    return {column: None for column in columns if column not in table.key and not info[column][3]}
