"""What the tests of capture share: tables of many kinds, and an oracle that knows nothing of how capture works.

The oracle takes the tables as they were and as they are, each value with its storage class, carries the sealed changes out
on the first by the book, and compares with the second. It reads files through plain ``sqlite3`` connections only.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from localstore.changes import Change, Changeset, Op, Value, row_changes
from localstore.store.engine import quote
from localstore.store.file import Store
from tests.unit.store_kit import changesets_in, is_clean, open_store, query

Values = dict[str, Value]
Cell = tuple[str, object]
"""A value with its storage class, equal only to itself: 1, 1.0 and '1' differ, 0.0 and -0.0 as well."""
Key = tuple[Cell, ...]
Row = dict[str, Cell]
Snapshot = dict[str, dict[Key, Row]]
"""Rows by table and key."""


# -- tables


class Spelt(sa.types.UserDefinedType[Any]):
    """A column type by its name in SQL, without a conversion of values."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@dataclass(frozen=True)
class Case:
    """A table with three rows to begin with, and what can be done to them.

    Attributes:
        ddl: the statement that makes the table, as any program might have written it.
        kept, changed, deleted, added: rows with the values of all columns that can be written.
        update: the columns that ``changed`` gets; empty when there is nothing but a key.
        moved: the key columns that ``changed`` gets when its key changes.
    """

    table: str
    ddl: str
    key: tuple[str, ...]
    kept: Values
    changed: Values
    deleted: Values
    added: Values
    update: Values
    moved: Values

    @property
    def rows(self) -> list[Values]:
        return [self.kept, self.changed, self.deleted]

    def key_of(self, row: Values) -> tuple[Value, ...]:
        return tuple(row[name] for name in self.key)


def insert_sql(case: Case, row: Values, verb: str = "INSERT") -> tuple[str, tuple[Value, ...]]:
    columns, marks = ", ".join(map(quote, row)), ", ".join("?" * len(row))
    return f"{verb} INTO {quote(case.table)} ({columns}) VALUES ({marks})", tuple(row.values())


def update_sql(case: Case, row: Values, values: Values, verb: str = "UPDATE") -> tuple[str, tuple[Value, ...]]:
    assigned = ", ".join(f"{quote(column)} = ?" for column in values)
    return f"{verb} {quote(case.table)} SET {assigned} WHERE {_same_key(case)}", (*values.values(), *case.key_of(row))


def delete_sql(case: Case, row: Values) -> tuple[str, tuple[Value, ...]]:
    return f"DELETE FROM {quote(case.table)} WHERE {_same_key(case)}", case.key_of(row)


def _same_key(case: Case) -> str:
    return " AND ".join(f"{quote(column)} = ?" for column in case.key)


def declared(path: Path, name: str) -> sa.Table:
    """A table of a file as a class might declare it, with the types spelt as they are."""
    rows = query(path, f"PRAGMA table_xinfo({quote(name)})")
    columns = [
        sa.Column(
            column, Spelt(kind), *([sa.Computed("0")] if hidden else []), autoincrement=False, nullable=not (not_null or in_key)
        )
        for _, column, kind, not_null, _, in_key, hidden in rows
    ]
    key = [row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]]
    return sa.Table(name, sa.MetaData(), *columns, sa.PrimaryKeyConstraint(*key))


def tables_in(path: Path) -> list[str]:
    """The tables of a file that are not ours."""
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'localstore_*' AND name NOT GLOB 'sqlite_*'"
    return [name for (name,) in query(path, sql + " ORDER BY name")]


@functools.cache
def _synced_file(script: str, rows: tuple[tuple[str, tuple[Value, ...]], ...]) -> bytes:
    """A synced file with these tables and rows and nothing in its outbox; made once, as opening a new file is slow."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(script)
            for sql, parameters in rows:
                connection.execute(sql, parameters)
        store = reopened(path)
        store.acknowledge(store.state().last_number)
        store.close()
        return path.read_bytes()


def opened(path: Path, script: str, rows: Iterable[tuple[str, tuple[Value, ...]]] = ()) -> Store:
    """A store whose file held these tables and rows before it was synced."""
    path.write_bytes(_synced_file(script, tuple(rows)))
    return open_store(path, _declared_in(script))


@functools.cache
def _declared_in(script: str) -> list[sa.Table]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(script)
        return [declared(path, name) for name in tables_in(path)]


def reopened(path: Path, **options: Any) -> Store:
    """A store over a file that has its tables already; all of them are synced."""
    return open_store(path, [declared(path, name) for name in tables_in(path)], **options)


def opened_with(path: Path, case: Case) -> Store:
    """A store that holds a case's three rows and has nothing to send."""
    return opened(path, case.ddl, (insert_sql(case, row) for row in case.rows))


# -- the oracle


def cell(value: Value, storage: str | None = None) -> Cell:
    """A value as a cell; its storage class is what SQLite says, or follows from its Python type."""
    storage = storage or {type(None): "null", int: "integer", float: "real", str: "text", bytes: "blob"}[type(value)]
    return storage, value.hex() if isinstance(value, float) else value


def snapshot(connection: sqlite3.Connection, names: Iterable[str]) -> Snapshot:
    """Tables as they are, without generated columns."""
    found: Snapshot = {}
    for name in names:
        described = connection.execute(f"PRAGMA table_xinfo({quote(name)})").fetchall()
        key = [column for _, column in sorted((row[5], row[1]) for row in described if row[5])]
        others = [row[1] for row in described if not row[5] and not row[6]]
        names_quoted = [quote(column) for column in key + others]
        selected = ", ".join(names_quoted + [f"typeof({column})" for column in names_quoted])
        width, rows = len(names_quoted), {}
        for row in connection.execute(f"SELECT {selected} FROM {quote(name)}"):
            cells = [cell(value, storage) for value, storage in zip(row[:width], row[width:], strict=True)]
            rows[tuple(cells[: len(key)])] = dict(zip(others, cells[len(key) :], strict=True))
        found[name] = rows
    return found


def snapshot_of(path: Path) -> Snapshot:
    with closing(sqlite3.connect(path)) as connection:
        return snapshot(connection, tables_in(path))


def carried_out(before: Snapshot, changesets: Sequence[Changeset], *, is_forgiving: bool = False) -> Snapshot:
    """The tables after these changes.

    Args:
        is_forgiving: take an insert of a row that is there, and a delete of one that is not, as every other device does.
    """
    after = {name: {key: dict(row) for key, row in rows.items()} for name, rows in before.items()}
    for table, change in _changes(changesets):
        rows, key = after[table], tuple(map(cell, change.key))
        values = {name: cell(value) for name, value in change.values.items()}
        if not is_forgiving:
            assert (key in rows) is (change.op not in (Op.INSERT, Op.SEED)), f"{change.op.name} of {key} in {table}"
        if change.op is Op.DELETE:
            rows.pop(key, None)
        elif change.op is Op.UPDATE:
            assert key in rows, f"{key} in {table} is updated and not there"
            assert values.keys() <= rows[key].keys()
            rows[key].update(values)
        else:
            rows[key] = values
    return after


def check_sealed(
    before: Snapshot,
    after: Snapshot,
    changesets: Sequence[Changeset],
    *,
    is_forgiving: bool = False,
    may_restate: bool = False,
) -> dict[tuple[str, Key], Change]:
    """The changes make the tables of after out of those of before, name each row once, and say no more than they must.

    Args:
        is_forgiving: see ``carried_out``.
        may_restate: take an update to what a column held before, which it may have come back to in several steps.
    """
    assert carried_out(before, changesets, is_forgiving=is_forgiving) == after
    named: dict[tuple[str, Key], Change] = {}
    for table, change in _changes(changesets):
        key = tuple(map(cell, change.key))
        assert (table, key) not in named, f"{key} in {table} comes twice"
        named[table, key] = change
        if change.op is Op.UPDATE:
            assert change.values, f"{key} in {table} is updated in no column"
            old, new = before[table][key], after[table][key]
            same = [name for name in change.values if old[name] == new[name]]
            assert may_restate or not same, f"{key} in {table}: {same} did not change"
    return named


def _changes(changesets: Iterable[Changeset]) -> Iterator[tuple[str, Change]]:
    for changeset in changesets:
        for group in changeset.groups:
            for change in row_changes(group):
                yield group.table, change


class Watched:
    """A store under the oracle's eyes: what happened since the last look must be what was sealed since."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.store = store
        self.before = snapshot_of(path)
        self._seen = len(changesets_in(path))

    def check(self, *, changesets: int | None = None, is_forgiving: bool = False) -> dict[str, list[Op]]:
        """Look at what was sealed since the last look.

        Args:
            changesets: how many there have to be; one for any change and none without when not given.

        Returns:
            What happened, in order of the rows' keys, by table.
        """
        after, sealed = snapshot_of(self.path), changesets_in(self.path)[self._seen :]
        named = check_sealed(self.before, after, sealed, is_forgiving=is_forgiving)
        assert len(sealed) == (bool(named) if changesets is None else changesets)
        assert is_clean(self.path)
        self.before, self._seen = after, self._seen + len(sealed)
        found: dict[str, list[Op]] = {}
        for table, key in sorted(named, key=repr):
            found.setdefault(table, []).append(named[table, key].op)
        return found


@contextmanager
def watched(path: Path, store: Store) -> Iterator[Watched]:
    """Watch a store and close it in the end."""
    try:
        yield Watched(path, store)
    finally:
        store.close()
