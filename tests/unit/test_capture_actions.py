"""Capture of what no statement says in so many words: cascades, triggers of the application, conflict clauses, constraints.

Each scene is a schema, rows, and the statements of one transaction; what is sealed is compared with the tables before and
after, and with what one would expect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from localstore.changes import Op
from tests.unit.capture_kit import opened, watched
from tests.unit.store_kit import Statement, changesets_in, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


I, U, D, R = Op.INSERT, Op.UPDATE, Op.DELETE, Op.REPLACE  # noqa: E741
NOTE = "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER);"


@dataclass(frozen=True)
class Scene:
    """``ops``: what happens to the rows of each table, in order of their keys."""

    script: str
    statements: tuple[Statement, ...]
    ops: dict[str, list[Op]] = field(default_factory=dict)
    rows: tuple[str, ...] = ()


def notes(*statements: Statement, ops: list[Op], also: str = "") -> Scene:
    """A scene around one table with the rows a, b and c."""
    rows = ("INSERT INTO note VALUES ('a', 'A', 1), ('b', 'B', 2), ('c', 'C', 3)",)
    return Scene(NOTE + also, statements, {"note": ops} if ops else {}, rows)


def run(path: Path, scene: Scene, *, is_forgiving: bool = False) -> None:
    with watched(path, opened(path, scene.script, ((row, ()) for row in scene.rows))) as watching:
        write(watching.store, *scene.statements)
        assert watching.check(is_forgiving=is_forgiving) == scene.ops


# -- statements that do more, or less, than they say

UNIQUE = "CREATE UNIQUE INDEX one_title ON note (title);"
NOT_NULL = (
    "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT NOT NULL DEFAULT 'none', stars INTEGER CHECK (stars < 9));"
)

CONFLICTS = {
    "or replace of a row": notes("INSERT OR REPLACE INTO note VALUES ('a', 'new', 1)", ops=[R]),
    "replace into": notes("REPLACE INTO note (id) VALUES ('a'), ('d')", ops=[R, I]),
    "or replace by the same row": notes("REPLACE INTO note VALUES ('a', 'A', 1)", ops=[R]),
    "or replace twice": notes(*["REPLACE INTO note VALUES ('a', 'new', 1)"] * 2, ops=[R]),
    "or replace and a delete": notes("REPLACE INTO note VALUES ('a', 'new', 1)", "DELETE FROM note WHERE id = 'a'", ops=[D]),
    "or replace of a new row and a delete": notes(
        "REPLACE INTO note (id) VALUES ('d')", "DELETE FROM note WHERE id = 'd'", ops=[]
    ),
    "or replace that pushes another row out": notes("REPLACE INTO note VALUES ('d', 'A', 1)", also=UNIQUE, ops=[D, I]),
    "or replace that pushes two rows out": notes("REPLACE INTO note VALUES ('a', 'B', 9)", also=UNIQUE, ops=[R, D]),
    "update or replace that pushes another row out": notes(
        "UPDATE OR REPLACE note SET title = 'A' WHERE id = 'b'", also=UNIQUE, ops=[D, U]
    ),
    "update or replace of a key": notes("UPDATE OR REPLACE note SET id = 'b' WHERE id = 'a'", ops=[D, R]),
    "update or replace by null takes the default": Scene(
        NOT_NULL, ("UPDATE OR REPLACE note SET title = NULL",), {"note": [U]}, ("INSERT INTO note VALUES ('a', 'A', 1)",)
    ),
    "or ignore of a row that is there": notes("INSERT OR IGNORE INTO note VALUES ('a', 'new', 9), ('d', 'D', 4)", ops=[I]),
    "update or ignore of a taken key": notes("UPDATE OR IGNORE note SET id = 'b' WHERE id IN ('a', 'b')", ops=[]),
    "update or ignore of a taken title": notes("UPDATE OR IGNORE note SET title = 'new'", also=UNIQUE, ops=[U]),
    "upsert by a unique column": notes(
        "INSERT INTO note VALUES ('d', 'A', 9) ON CONFLICT (title) DO UPDATE SET stars = excluded.stars", also=UNIQUE, ops=[U]
    ),
    "upsert by a unique column that changes the key": notes(
        "INSERT INTO note VALUES ('d', 'A', 9) ON CONFLICT (title) DO UPDATE SET id = excluded.id", also=UNIQUE, ops=[D, I]
    ),
    "upsert that does nothing": notes("INSERT INTO note VALUES ('d', 'A', 9) ON CONFLICT DO NOTHING", also=UNIQUE, ops=[]),
    "upsert of a list, one of it new": notes(
        "INSERT INTO note VALUES ('a', 'x', 1), ('d', 'x', 1) ON CONFLICT (id) DO UPDATE SET title = excluded.title",
        ops=[U, I],
    ),
    "upsert whose condition does not hold": notes(
        "INSERT INTO note VALUES ('a', 'x', 9) ON CONFLICT (id) DO UPDATE SET stars = 9 WHERE stars > 5", ops=[]
    ),
    "upsert that names a row twice": notes(
        "INSERT INTO note VALUES ('d', 'x', 1), ('d', 'y', 2) ON CONFLICT (id) DO UPDATE SET title = excluded.title", ops=[I]
    ),
    "a table that replaces by itself": Scene(
        "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY ON CONFLICT REPLACE, title TEXT UNIQUE ON CONFLICT REPLACE);",
        ("INSERT INTO note VALUES ('a', 'B')",),
        {"note": [R, D]},
        ("INSERT INTO note VALUES ('a', 'A'), ('b', 'B')",),
    ),
    "delete of everything": notes("DELETE FROM note", ops=[D, D, D]),
    "delete and insert of everything": notes(
        "CREATE TEMP TABLE kept AS SELECT * FROM note", "DELETE FROM note", "INSERT INTO note SELECT * FROM kept", ops=[R, R, R]
    ),
    "keys that trade places": notes(
        *(f"UPDATE note SET id = '{new}' WHERE id = '{old}'" for old, new in ("ax", "ba", "xb")), ops=[R, R]
    ),
    "a key that goes and comes back": notes(
        "UPDATE note SET id = 'x' WHERE id = 'a'", "UPDATE note SET id = 'a' WHERE id = 'x'", ops=[R]
    ),
    "a key that goes through many names": notes(
        *(f"UPDATE note SET id = '{new}' WHERE id = '{old}'" for old, new in ("ax", "xy", "yz")), ops=[D, I]
    ),
    "a row that is changed, then moved": notes(
        "UPDATE note SET title = 'x' WHERE id = 'a'", "UPDATE note SET id = 'd', stars = 9 WHERE id = 'a'", ops=[D, I]
    ),
    "update from another table": notes(
        "UPDATE note SET title = other.title FROM note AS other WHERE other.id = 'b' AND note.id <> 'c'", ops=[U]
    ),
    "update and delete by a common table expression": notes(
        "WITH some AS (SELECT id FROM note WHERE stars > 1) UPDATE note SET stars = 0 WHERE id IN some",
        "WITH some AS (SELECT id FROM note WHERE title = 'B') DELETE FROM note WHERE id IN some",
        ops=[D, U],
    ),
    "update of all columns, one of them to another value": notes(
        "UPDATE note SET title = 'A', stars = 9 WHERE id = 'a'", ops=[U]
    ),
}


@pytest.mark.parametrize("scene", CONFLICTS.values(), ids=CONFLICTS)
def test_a_statement_is_captured_as_what_it_did(path: Path, scene: Scene) -> None:
    run(path, scene)


NUMBERED = "CREATE TABLE note (id INTEGER NOT NULL PRIMARY KEY, title TEXT);"


@pytest.mark.parametrize("alias", ["rowid", "oid", "_rowid_", "ROWID", "id"])
def test_an_integer_key_is_captured_under_any_of_its_names(path: Path, alias: str) -> None:
    scene = Scene(
        NUMBERED,
        (
            f"UPDATE note SET {alias} = 9 WHERE {alias} = 1",
            f"UPDATE note SET title = 'two', {alias} = -{alias} WHERE id = 2",
            f"UPDATE note SET {alias} = {alias}",
            f"INSERT INTO note ({alias}, title) VALUES (77, 'new')",
            "INSERT INTO note (title) VALUES ('numbered by SQLite')",
        ),
        {"note": [I, D, D, I, I, I]},  # -2, 1, 2, 77, 78, 9
        ("INSERT INTO note VALUES (1, 'a'), (2, 'b')",),
    )
    run(path, scene)


REUSED = {
    "a deleted row's": notes("DELETE FROM note WHERE id = 'c'", "INSERT INTO note (id) VALUES ('d')", ops=[D, I]),
    "a changed and deleted row's": notes(
        "UPDATE note SET stars = 9", "DELETE FROM note WHERE id = 'c'", "INSERT INTO note (id) VALUES ('d')", ops=[U, U, D, I]
    ),
    "its own": notes("DELETE FROM note WHERE id = 'c'", "INSERT INTO note (id) VALUES ('c')", ops=[R]),
    "that of a row that came and went": notes(
        "INSERT INTO note (id) VALUES ('d')",
        "UPDATE note SET stars = 4 WHERE id = 'd'",
        "DELETE FROM note WHERE id = 'd'",
        "INSERT INTO note (id) VALUES ('e')",
        "UPDATE note SET title = 'e' WHERE id = 'e'",
        ops=[I],
    ),
    "that of a row which comes back elsewhere": notes(
        "DELETE FROM note WHERE id = 'c'",
        "INSERT INTO note (id) VALUES ('d')",
        "INSERT INTO note (id) VALUES ('c')",
        "UPDATE note SET stars = 0",
        ops=[U, U, R, I],
    ),
    "each other's": notes(
        "UPDATE note SET rowid = 9 WHERE id = 'a'",
        "UPDATE note SET rowid = 1, title = 'new' WHERE id = 'b'",
        "UPDATE note SET rowid = 2, stars = 9 WHERE id = 'a'",
        ops=[R, R],
    ),
    "the key's that another row gives up": notes(
        "UPDATE note SET id = 'x' WHERE id = 'a'",
        "UPDATE note SET id = 'a', rowid = 7 WHERE id = 'b'",
        "INSERT INTO note (rowid, id) VALUES (2, 'b')",
        ops=[R, R, I],
    ),
}


@pytest.mark.parametrize("scene", REUSED.values(), ids=REUSED)
def test_a_row_that_takes_a_rowid_is_taken_for_no_other(path: Path, scene: Scene) -> None:
    run(path, scene)


def test_a_block_that_rolls_back_and_goes_on_is_captured_from_there_on(path: Path) -> None:
    scene = notes(ops=[])
    with watched(path, opened(path, scene.script, ((row, ()) for row in scene.rows))) as watching:
        with watching.store.write() as tx:
            tx.execute(sa.text("DELETE FROM note"))
            tx.rollback()
            tx.execute(sa.text("DELETE FROM note WHERE id = 'c'"))
            tx.execute(sa.text("INSERT INTO note (id) VALUES ('d')"))
            tx.execute(sa.text("UPDATE note SET stars = 9 WHERE id <> 'a'"))
        assert watching.check() == {"note": [U, D, I]}
        write(watching.store, "DELETE FROM note WHERE id = 'd'")
        assert watching.check() == {"note": [D]}


@pytest.mark.parametrize("clause", ["ABORT", "FAIL", "ROLLBACK", "IGNORE", "REPLACE"])
def test_a_conflict_clause_does_not_reach_into_capture(path: Path, clause: str) -> None:
    """SQLite applies a statement's conflict clause to the statements of the triggers that it fires."""
    many = ", ".join(f"('{n}', 't', {n})" for n in range(10))
    scene = notes(
        f"INSERT OR {clause} INTO note VALUES {many}",
        f"UPDATE OR {clause} note SET title = 'first'",
        f"UPDATE OR {clause} note SET title = 'second', stars = -stars",
        f"UPDATE OR {clause} note SET id = id || 'x' WHERE stars > -2",
        ops=[*[I] * 10, D, I, U, U],  # 0x, 1x, 2 to 9, a, ax, b, c
    )
    run(path, scene)


def test_what_a_failing_statement_did_before_it_failed_is_captured_if_it_stays(path: Path) -> None:
    """OR FAIL keeps the rows before the one that fails, ABORT does not."""
    with watched(path, opened(path, NOTE, [("INSERT INTO note VALUES ('c', 'C', 3)", ())])) as watching:
        with watching.store.write() as tx:
            for verb in ("INSERT OR FAIL", "INSERT OR ABORT"):
                with pytest.raises(IntegrityError):
                    tx.connection().exec_driver_sql(f"{verb} INTO note (id) VALUES ('a{verb}'), ('c'), ('z{verb}')")
        assert watching.check() == {"note": [I]}


@pytest.mark.parametrize("is_mended", [True, False])
def test_a_constraint_that_is_checked_at_the_end_decides_over_the_whole_transaction(path: Path, is_mended: bool) -> None:
    script = (
        "CREATE TABLE parent (id TEXT NOT NULL PRIMARY KEY);"
        "CREATE TABLE child (id TEXT NOT NULL PRIMARY KEY,"
        " parent TEXT NOT NULL REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
    )
    with watched(path, opened(path, script)) as watching:
        child_first = ["INSERT INTO child VALUES ('c', 'p')", *(["INSERT INTO parent VALUES ('p')"] if is_mended else [])]
        if is_mended:
            write(watching.store, *child_first)
            assert watching.check() == {"child": [I], "parent": [I]}
        else:
            with pytest.raises(IntegrityError):
                write(watching.store, *child_first)
            assert watching.check() == {}
        write(watching.store, "INSERT INTO parent VALUES ('q')")
        assert watching.check() == {"parent": [I]}
        assert changesets_in(path)[-1].number == watching.store.state().last_number


# -- foreign keys


def family(action: str, *, column: str = "parent TEXT DEFAULT 'p0'") -> str:
    return (
        "CREATE TABLE parent (id TEXT NOT NULL PRIMARY KEY, name TEXT);"
        f"CREATE TABLE child (id TEXT NOT NULL PRIMARY KEY, {column} REFERENCES parent {action}, n INTEGER);"
        "CREATE TABLE grandchild (id TEXT NOT NULL PRIMARY KEY,"
        " child TEXT REFERENCES child ON DELETE CASCADE ON UPDATE CASCADE);"
    )


FAMILY_ROWS = (
    "INSERT INTO parent VALUES ('p0', 'default'), ('p1', 'one')",
    "INSERT INTO child VALUES ('c0', 'p0', 0), ('c1', 'p1', 1), ('c2', 'p1', 2)",
    "INSERT INTO grandchild VALUES ('g0', 'c0'), ('g1', 'c1'), ('g2', 'c1')",
)
TREE = "CREATE TABLE node (id TEXT NOT NULL PRIMARY KEY, up TEXT REFERENCES node ON DELETE {} ON UPDATE CASCADE);"
TREE_ROWS = ("INSERT INTO node VALUES ('a', NULL), ('b', 'a'), ('c', 'b'), ('d', 'c'), ('e', 'e')",)
KEYED_BY_PARENT = (
    "CREATE TABLE parent (id TEXT NOT NULL PRIMARY KEY);"
    "CREATE TABLE part (parent TEXT NOT NULL REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, n INTEGER NOT NULL,"
    " PRIMARY KEY (parent, n)) WITHOUT ROWID;"
)
KEYED_ROWS = ("INSERT INTO parent VALUES ('p')", "INSERT INTO part VALUES ('p', 1), ('p', 2)")

DELETE_P1 = ("DELETE FROM parent WHERE id = 'p1'",)
CASCADES = {
    "delete cascades over two levels": Scene(
        family("ON DELETE CASCADE"), DELETE_P1, {"parent": [D], "child": [D, D], "grandchild": [D, D]}, FAMILY_ROWS
    ),
    "delete sets null": Scene(family("ON DELETE SET NULL"), DELETE_P1, {"parent": [D], "child": [U, U]}, FAMILY_ROWS),
    "delete sets the default": Scene(family("ON DELETE SET DEFAULT"), DELETE_P1, {"parent": [D], "child": [U, U]}, FAMILY_ROWS),
    "delete of everything cascades": Scene(
        family("ON DELETE CASCADE"),
        ("DELETE FROM parent",),
        {"parent": [D, D], "child": [D, D, D], "grandchild": [D, D, D]},
        FAMILY_ROWS,
    ),
    "a parent that is replaced takes its children along": Scene(
        family("ON DELETE CASCADE"),
        ("REPLACE INTO parent VALUES ('p1', 'again')",),
        {"parent": [R], "child": [D, D], "grandchild": [D, D]},
        FAMILY_ROWS,
    ),
    "a parent that is upserted keeps them": Scene(
        family("ON DELETE CASCADE"),
        ("INSERT INTO parent VALUES ('p1', 'again') ON CONFLICT (id) DO UPDATE SET name = excluded.name",),
        {"parent": [U]},
        FAMILY_ROWS,
    ),
    "a key change sets children right": Scene(
        family("ON UPDATE CASCADE"),
        ("UPDATE parent SET id = 'p2' WHERE id = 'p1'",),
        {"parent": [D, I], "child": [U, U]},
        FAMILY_ROWS,
    ),
    "a key change sets null": Scene(
        family("ON UPDATE SET NULL"),
        ("UPDATE parent SET id = 'p2' WHERE id = 'p1'",),
        {"parent": [D, I], "child": [U, U]},
        FAMILY_ROWS,
    ),
    "a key change moves children that are keyed by it": Scene(
        KEYED_BY_PARENT, ("UPDATE parent SET id = 'q'",), {"parent": [D, I], "part": [D, D, I, I]}, KEYED_ROWS
    ),
    "delete takes children along that are keyed by it": Scene(
        KEYED_BY_PARENT, ("DELETE FROM parent",), {"parent": [D], "part": [D, D]}, KEYED_ROWS
    ),
    "a branch is deleted": Scene(TREE.format("CASCADE"), ("DELETE FROM node WHERE id = 'b'",), {"node": [D, D, D]}, TREE_ROWS),
    "a node is deleted and its child let go": Scene(
        TREE.format("SET NULL"), ("DELETE FROM node WHERE id = 'b'",), {"node": [D, U]}, TREE_ROWS
    ),
    "a node that refers to itself is deleted": Scene(
        TREE.format("CASCADE"), ("DELETE FROM node WHERE id = 'e'",), {"node": [D]}, TREE_ROWS
    ),
    "a node that refers to itself is renamed": Scene(
        TREE.format("CASCADE"), ("UPDATE node SET id = 'f' WHERE id = 'e'",), {"node": [D, I]}, TREE_ROWS
    ),
    "an inner node is renamed": Scene(
        TREE.format("CASCADE"), ("UPDATE node SET id = 'x' WHERE id = 'b'",), {"node": [D, U, I]}, TREE_ROWS
    ),
    "a tree is deleted and built anew": Scene(
        TREE.format("CASCADE"),
        ("DELETE FROM node WHERE id = 'a'", "INSERT INTO node VALUES ('c', NULL)"),
        {"node": [D, D, R, D]},
        TREE_ROWS,
    ),
}


@pytest.mark.parametrize("scene", CASCADES.values(), ids=CASCADES)
def test_what_a_foreign_key_does_is_captured(path: Path, scene: Scene) -> None:
    run(path, scene)


# -- savepoints


def test_what_a_savepoint_takes_back_is_not_captured_and_what_it_releases_is(path: Path) -> None:
    scene = notes(ops=[])
    with watched(path, opened(path, scene.script, ((row, ()) for row in scene.rows))) as watching:
        with watching.store.write() as tx:

            def execute(sql: str) -> None:
                tx.connection().exec_driver_sql(sql)  # asked for anew: that is when a session makes its savepoint

            with tx.begin_nested():
                execute("UPDATE note SET stars = 9 WHERE id = 'a'")
                inner = tx.begin_nested()
                execute("DELETE FROM note")
                execute("INSERT INTO note (id) VALUES ('x'), ('a')")
                inner.rollback()
            outer = tx.begin_nested()
            with tx.begin_nested():
                execute("UPDATE note SET id = 'y' WHERE id = 'b'")
            outer.rollback()
            execute("SAVEPOINT theirs")
            execute("DELETE FROM note WHERE id = 'b'")
            execute("ROLLBACK TO theirs")
            execute("UPDATE note SET title = 'x' WHERE id = 'c'")
            execute("RELEASE theirs")
        assert watching.check() == {"note": [U, U]}


def test_a_transaction_that_a_savepoint_emptied_seals_nothing(path: Path) -> None:
    with watched(path, opened(path, NOTE)) as watching:
        with watching.store.write() as tx:
            savepoint = tx.begin_nested()
            tx.execute(sa.text("INSERT INTO note (id) VALUES ('a')"))
            savepoint.rollback()
        assert watching.check() == {}
        assert watching.store.state().last_number == 0
