"""Capture under any sequence of writes: random statements in random transactions, by the application and beside it.

Three tables with cascades and triggers between them. Whenever something was sealed, the oracle compares it with the tables
before and after; of a row that several statements changed, it may say no more than they changed together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry
from sqlmodel import Session

from localstore.changes import Op, Value
from localstore.store.engine import driver_connection
from tests.unit.capture_kit import Key, Snapshot, check_sealed, declared, opened, reopened, snapshot, snapshot_of, tables_in
from tests.unit.store_kit import changesets_in, is_clean, other_program

SCRIPT = """
CREATE TABLE folder (id TEXT NOT NULL PRIMARY KEY, name, up TEXT REFERENCES folder ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE note (id INTEGER NOT NULL PRIMARY KEY, folder TEXT REFERENCES folder ON DELETE CASCADE ON UPDATE CASCADE,
    body, caseless TEXT COLLATE NOCASE);
CREATE TABLE tag (note INTEGER NOT NULL REFERENCES note ON DELETE CASCADE ON UPDATE CASCADE, word TEXT NOT NULL,
    n INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (word, note)) WITHOUT ROWID;
CREATE TRIGGER tagged AFTER INSERT ON note BEGIN
    INSERT INTO tag (note, word) VALUES (NEW.id, 'new') ON CONFLICT DO UPDATE SET n = n + 1; END;
CREATE TRIGGER counted AFTER UPDATE OF body ON note BEGIN UPDATE tag SET n = n + 1 WHERE note = NEW.id; END;
CREATE TRIGGER untagged AFTER DELETE ON tag WHEN OLD.word = 'keep' BEGIN
    UPDATE note SET caseless = 'Untagged' WHERE id = OLD.note; END;
INSERT INTO folder VALUES ('a', 'first', NULL), ('b', NULL, 'a');
INSERT INTO note VALUES (1, 'a', 'one', 'x'), (2, 'b', NULL, NULL);
INSERT INTO tag VALUES (1, 'keep', 1);
"""
Statement = tuple[str, tuple[Value, ...]]

FOLDERS = st.sampled_from(["a", "b", "c"])
NOTES = st.integers(1, 4)
WORDS = st.sampled_from(["new", "keep", "other"])
VALUES = st.sampled_from([None, 0, 1, 1.0, "1", b"1", "x", "X"])
QUIET = st.sampled_from(["INSERT", "INSERT OR IGNORE", "INSERT OR FAIL"])
REPLACING = st.sampled_from(["INSERT", "INSERT OR IGNORE", "INSERT OR FAIL", "INSERT OR REPLACE"])


def statements(verbs: st.SearchStrategy[str], *, replaces: bool) -> st.SearchStrategy[Statement]:
    def made(sql: str, *values: st.SearchStrategy[Any]) -> st.SearchStrategy[Statement]:
        return st.tuples(*values).map(lambda parameters: (sql, parameters))

    def inserted(into: str, *values: st.SearchStrategy[Any]) -> st.SearchStrategy[Statement]:
        return st.tuples(verbs, *values).map(lambda found: (f"{found[0]} INTO {into}", found[1:]))

    or_replace = "OR REPLACE" if replaces else "OR IGNORE"
    return st.one_of(
        inserted("folder VALUES (?, ?, ?)", FOLDERS, VALUES, st.none() | FOLDERS),
        inserted("note VALUES (?, ?, ?, ?)", NOTES, st.none() | FOLDERS, VALUES, VALUES),
        inserted("note (folder, body) SELECT id, name FROM folder WHERE id >= ?", FOLDERS),
        inserted("tag VALUES (?, ?, ?)", NOTES, WORDS, NOTES),
        made(
            "INSERT INTO note VALUES (?, ?, ?, 'y') ON CONFLICT (id) DO UPDATE SET body = excluded.body, id = id + ? % 2",
            NOTES,
            FOLDERS,
            VALUES,
            NOTES,
        ),
        made("UPDATE folder SET name = ? WHERE id <> ?", VALUES, FOLDERS),
        made("UPDATE folder SET up = ? WHERE id = ?", st.none() | FOLDERS, FOLDERS),
        made(f"UPDATE {or_replace} folder SET id = ? WHERE id = ?", FOLDERS, FOLDERS),
        made("UPDATE note SET body = ?, caseless = upper(caseless) WHERE id <= ?", VALUES, NOTES),
        made("UPDATE note SET body = folder.name FROM folder WHERE folder.id = note.folder AND note.id >= ?", NOTES),
        made(f"UPDATE {or_replace} note SET id = ? WHERE id = ?", NOTES, NOTES),
        made("UPDATE note SET rowid = rowid + 10 WHERE id = ?", NOTES),
        made(f"UPDATE {or_replace} tag SET word = ?, n = n * ?", WORDS, NOTES),
        made("DELETE FROM tag WHERE word = ?", WORDS),
        made("DELETE FROM note WHERE id > ?", NOTES),
        made("DELETE FROM folder WHERE id = ?", FOLDERS),
        st.sampled_from([("DELETE FROM folder", ()), ("DELETE FROM note", ()), ("DELETE FROM tag", ())]),
    )


ANY = statements(REPLACING, replaces=True)


def as_driver_sql(tx: Session, statement: Statement) -> None:
    tx.connection().exec_driver_sql(*statement)


def as_list(tx: Session, statement: Statement) -> None:
    sql, parameters = statement
    tx.connection().exec_driver_sql(sql, [parameters, parameters])


def as_text(tx: Session, statement: Statement) -> None:
    first, *parts = statement[0].split("?")
    named = {f"p{n}": value for n, value in enumerate(statement[1])}
    tx.execute(sa.text(first + "".join(f":p{n}{part}" for n, part in enumerate(parts))), named)


def below_sqlalchemy(tx: Session, statement: Statement) -> None:
    driver_connection(tx.connection()).execute(*statement)


WAYS: list[Callable[[Session, Statement], None]] = [as_driver_sql, as_list, as_text, below_sqlalchemy]
REFUSED = (IntegrityError, sqlite3.IntegrityError)


class Note:
    """Mapped by the first machine."""


class Capture(RuleBasedStateMachine):
    """A store, at most one transaction, and other programs when there is none."""

    @initialize()
    def open(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name, "store.db")
        self.store = opened(self.path, SCRIPT)
        self.names = tables_in(self.path)
        self.before = snapshot_of(self.path)
        self.seen = 0
        self.block: AbstractContextManager[Session] | None = None
        if not sa.inspect(Note, raiseerr=False):
            registry().map_imperatively(Note, declared(self.path, "note"))

    def teardown(self) -> None:
        if self.block is not None:
            self.roll_back()
        self.store.close()
        self.folder.cleanup()

    # -- a transaction of ours

    @precondition(lambda self: self.block is None)
    @rule()
    def begin(self) -> None:
        self.block = self.store.write()
        self.tx = self.block.__enter__()
        self.savepoints = 0
        self.middle = self.now = self.inside()
        self.touched: set[tuple[str, Key, str]] = set()
        counted = self.tx.connection().exec_driver_sql("SELECT count(*) FROM localstore_outbox")
        self.left_over = counted.scalar_one() - self.seen

    def inside(self) -> Snapshot:
        return snapshot(driver_connection(self.tx.connection()), self.names)

    @precondition(lambda self: self.block is not None)
    @rule(statement=ANY, way=st.sampled_from(WAYS))
    def run(self, statement: Statement, way: Callable[[Session, Statement], None]) -> None:
        with suppress(*REFUSED):
            way(self.tx, statement)
        self.look()

    @precondition(lambda self: self.block is not None)
    @rule(id_=NOTES, body=VALUES, folder=st.none() | FOLDERS, is_kept=st.booleans())
    def change_an_object(self, id_: int, body: Value, folder: str | None, is_kept: bool) -> None:
        self.tx.expire_all()
        with suppress(IntegrityError), self.tx.begin_nested() as savepoint:
            note: Any = self.tx.get(Note, id_)
            if note is None:
                note = Note()
                note.id = id_
                self.tx.add(note)
            elif body is None:
                self.tx.delete(note)
            note.body, note.folder = body, folder
            self.tx.flush()
            self.look()
            if not is_kept:
                savepoint.rollback()
        self.tx.expunge_all()

    def look(self) -> None:
        """Note what the last statement changed."""
        before, self.now = self.now, self.inside()
        for table, rows in self.now.items():
            for key in rows.keys() & before[table].keys():
                self.touched |= {(table, key, name) for name, value in rows[key].items() if value != before[table][key][name]}

    @precondition(lambda self: self.block is not None and self.savepoints < 3)
    @rule()
    def savepoint(self) -> None:
        self.savepoints += 1
        as_driver_sql(self.tx, (f"SAVEPOINT s{self.savepoints}", ()))

    @precondition(lambda self: self.block is not None and self.savepoints)
    @rule(is_kept=st.booleans())
    def end_savepoint(self, is_kept: bool) -> None:
        if not is_kept:
            as_driver_sql(self.tx, (f"ROLLBACK TO s{self.savepoints}", ()))
        as_driver_sql(self.tx, (f"RELEASE s{self.savepoints}", ()))
        self.savepoints -= 1
        self.look()

    @precondition(lambda self: self.block is not None)
    @rule()
    def commit(self) -> None:
        assert self.block is not None
        block, self.block = self.block, None
        block.__exit__(None, None, None)
        sealed, after = changesets_in(self.path)[self.seen :], snapshot_of(self.path)
        left_over, ours = sealed[: self.left_over], sealed[self.left_over :]
        for changeset in left_over:  # there is but one, as little is left over
            check_sealed(self.before, self.middle, [changeset], is_forgiving=True, may_restate=True)
        named = check_sealed(self.middle, after, ours, may_restate=True)
        assert len(ours) == bool(named)
        for (table, key), change in named.items():
            if change.op is Op.UPDATE:
                assert {(table, key, name) for name in change.values} <= self.touched
        self.settle(after, len(sealed))

    @precondition(lambda self: self.block is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.block is not None
        block, self.block = self.block, None
        with suppress(ZeroDivisionError):
            block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert len(changesets_in(self.path)) == self.seen

    # -- others

    @precondition(lambda self: self.block is None)
    @rule(found=st.lists(ANY, min_size=1, max_size=4), is_kept=st.booleans(), keeps_keys=st.booleans())
    def another_program(self, found: list[Statement], is_kept: bool, keeps_keys: bool) -> None:
        with other_program(self.path) as connection:
            connection.execute(f"PRAGMA foreign_keys = {int(keeps_keys)}")
            connection.execute("BEGIN")
            for statement in found:
                with suppress(*REFUSED):
                    connection.execute(*statement)
            connection.execute("COMMIT" if is_kept else "ROLLBACK")

    @precondition(lambda self: self.block is None)
    @rule(found=st.lists(ANY, min_size=1, max_size=4))
    def a_careful_program(self, found: list[Statement]) -> None:
        with other_program(self.path) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA recursive_triggers = ON")
            for statement in found:
                with suppress(*REFUSED):
                    connection.execute(*statement)

    @precondition(lambda self: self.block is None)
    @rule(is_closed=st.booleans())
    def seal(self, is_closed: bool) -> None:
        if is_closed:
            self.store.close()
            self.store = reopened(self.path)
        else:
            self.store.seal()
        sealed, after = changesets_in(self.path)[self.seen :], snapshot_of(self.path)
        named = check_sealed(self.before, after, sealed, is_forgiving=True, may_restate=True)
        assert len(sealed) == bool(named)
        self.settle(after, len(sealed))

    def settle(self, after: Snapshot, sealed: int) -> None:
        assert is_clean(self.path)
        self.before, self.seen = after, self.seen + sealed


class AtLength(Capture):
    """The same with more examples."""


TestCapture = Capture.TestCase
TestCapture.settings = settings(max_examples=12, stateful_step_count=40, deadline=None)

TestCaptureAtLength = pytest.mark.slow(AtLength.TestCase)
TestCaptureAtLength.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
