"""The quick reading of the capture log says what the slow one says, and so does sealing it in one piece or in several."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing

from hypothesis import example
from hypothesis import strategies as st

from localstore.changes import Change, Op, RowGroup, row_changes
from localstore.store.capture import CapturedTable, Capturing, attach, captured_tables, set_capturing
from localstore.store.logged import Span, read_logged
from localstore.store.migrations.versions.layout_0001_first import TABLES
from localstore.store.touched import _mixed_groups, touched_groups  # pyright: ignore[reportPrivateUsage]
from tests.properties import for_all

NAMES = ("note", "memo", "link", "plain")
SCHEMA = """
    CREATE TABLE note (id TEXT PRIMARY KEY COLLATE NOCASE, a, b, c, d, e, UNIQUE (a));
    CREATE TABLE memo (id TEXT PRIMARY KEY, a, b);
    CREATE TABLE link (x TEXT, y TEXT, a, PRIMARY KEY (x, y));
    CREATE TABLE plain (id TEXT PRIMARY KEY, a) WITHOUT ROWID;
"""


def file() -> sqlite3.Connection:
    """A file in memory with tables of several kinds, all captured, each with rows."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA recursive_triggers = ON")
    for name, columns in TABLES.items():
        connection.execute(f"CREATE TABLE localstore_{name} ({columns})")
    connection.execute("INSERT INTO localstore_state (id, device, app, partition) VALUES (1, x'00', 'app', 'default')")
    connection.executescript(SCHEMA)
    for key in "pqr":
        connection.execute("INSERT INTO note VALUES (?, ?, 0, 0, 0, 0)", (key, key))
        connection.execute("INSERT INTO memo VALUES (?, 0, 0)", (key,))
        connection.execute("INSERT INTO link VALUES (?, 'x', 0)", (key,))
        connection.execute("INSERT INTO plain VALUES (?, 0)", (key,))
    attach(connection, NAMES)
    return connection


def statements() -> st.SearchStrategy[str]:
    key, value, name = st.sampled_from(["p", "q", "r", "s", "P"]), st.integers(0, 2), st.sampled_from(["note", "memo", "plain"])
    verb = st.sampled_from(["INSERT OR IGNORE", "INSERT OR REPLACE"])
    return st.one_of(
        st.builds("{} INTO note VALUES ('{}', {}, 1, {}, 1, 1)".format, verb, key, value, value),
        st.builds("{} INTO {} (id, a) VALUES ('{}', {})".format, verb, name, key, value),
        st.builds("{} INTO link VALUES ('{}', '{}', {})".format, verb, key, key, value),
        st.builds("UPDATE OR REPLACE {} SET a = {} WHERE id = '{}'".format, name, value, key),
        st.builds("UPDATE note SET {} = {} WHERE id >= '{}'".format, st.sampled_from("bcde"), value, key),
        st.builds("UPDATE OR REPLACE {} SET id = '{}' WHERE id = '{}'".format, name, key, key),
        st.builds("UPDATE OR REPLACE link SET x = '{}', a = {} WHERE x = '{}'".format, key, value, key),
        st.builds("UPDATE OR REPLACE {} SET oid = {} WHERE id = '{}'".format, st.sampled_from(["note", "memo"]), value, key),
        st.builds("DELETE FROM {} WHERE id <= '{}'".format, name, key),
        st.builds("DELETE FROM link WHERE y = '{}'".format, key),
    )


def seen(groups: Iterable[RowGroup]) -> dict[tuple[str, object], Change]:
    found: dict[tuple[str, object], Change] = {}
    for group in groups:
        for change in row_changes(group):
            assert (group.table, change.key) not in found
            found[group.table, change.key] = change
    return found


def spans(connection: sqlite3.Connection) -> list[tuple[Span, list[CapturedTable]]]:
    """What is in each log, with the tables that it is about."""
    tables = {table.id: table for table in captured_tables(connection).values()}
    found = []
    for span in read_logged(connection).spans:
        named = connection.execute(f"SELECT DISTINCT tbl FROM {span.log}").fetchall()
        found.append((span, [tables[id_] for (id_,) in named]))
    return found


Steps = list[tuple[str, Capturing, bool]]
"""A statement, how triggers log it, and whether a savepoint takes it back."""


@for_all(
    everyday=120,
    slow=400,
    steps=st.lists(
        st.tuples(statements(), st.sampled_from([Capturing.BY_KEY, Capturing.BY_ROWID, Capturing.BY_ROWID]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    forgotten=st.lists(st.integers(1, 8), max_size=2),
)
@example(steps=[("UPDATE memo SET a = 1", Capturing.BY_ROWID, False)], forgotten=[2])
@example(
    steps=[("UPDATE memo SET a = 1", Capturing.BY_ROWID, False), ("DELETE FROM memo", Capturing.BY_KEY, False)], forgotten=[]
)
def test_what_is_read_at_once_is_what_is_read_entry_by_entry(steps: Steps, forgotten: list[int]) -> None:
    """Some entries are taken out of the log, for gaps. What cannot be is that one kind is read where there are two."""
    with closing(file()) as connection:
        for sql, capturing, is_taken_back in steps:
            set_capturing(connection, capturing)
            connection.execute("SAVEPOINT step")
            connection.execute(sql)
            connection.execute("ROLLBACK TO step" if is_taken_back and capturing is Capturing.BY_KEY else "RELEASE step")
        connection.executemany("DELETE FROM localstore_log WHERE seq = ?", ((seq,) for seq in forgotten))
        for span, tables in spans(connection):
            quick = seen(touched_groups(connection, span))
            slow = seen(group for table in tables for group in _mixed_groups(connection, span, table))
            assert quick == slow


def snapshot(connection: sqlite3.Connection) -> dict[tuple[str, object], dict[str, object]]:
    found: dict[tuple[str, object], dict[str, object]] = {}
    for table in captured_tables(connection).values():
        width = len(table.key)
        for row in connection.execute(f"SELECT {', '.join((*table.key, *table.columns))} FROM {table.name}"):
            found[table.name, row[:width]] = dict(zip(table.columns, row[width:], strict=True))
    return found


@for_all(
    everyday=120,
    slow=400,
    steps=st.lists(st.tuples(statements(), st.booleans()), min_size=1, max_size=10),
    turn=st.integers(0, 10),
)
def test_what_is_read_makes_the_tables_of_before_those_of_now(steps: list[tuple[str, bool]], turn: int) -> None:
    """Rows are logged by key up to some statement and by rowid from there on, in savepoints that may be taken back."""
    with closing(file()) as connection:
        state = snapshot(connection)
        for number, (sql, is_taken_back) in enumerate(steps):
            connection.execute("SAVEPOINT step")
            if number >= turn:
                set_capturing(connection, Capturing.BY_ROWID)
            connection.execute(sql)
            if is_taken_back:
                connection.execute("ROLLBACK TO step")
            connection.execute("RELEASE step")
        for span, _ in spans(connection):
            for (table, key), change in seen(touched_groups(connection, span)).items():
                assert ((table, key) in state) is (change.op is not Op.INSERT)
                if change.op is Op.DELETE:
                    del state[table, key]
                elif change.op is Op.UPDATE:
                    state[table, key] |= change.values
                else:
                    state[table, key] = dict(change.values)
        assert state == snapshot(connection)
