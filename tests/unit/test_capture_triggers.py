"""Capture beside the application's own triggers, which SQLite fires before or after ours as it likes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from localstore.changes import Op
from tests.unit.capture_kit import opened, watched
from tests.unit.store_kit import other_program, write

NOTE = "CREATE TABLE note (id TEXT NOT NULL PRIMARY KEY, title TEXT, stars INTEGER);"
ROWS = "INSERT INTO note VALUES ('a', 'a', 1), ('b', 'b', 2), ('c', 'c', 3);"
I, U, D, R = Op.INSERT, Op.UPDATE, Op.DELETE, Op.REPLACE  # noqa: E741


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


TRIGGERS = {
    "fills a column in after an insert": "AFTER INSERT ON note BEGIN UPDATE note SET stars = 9 WHERE id = NEW.id; END",
    "fills a column in after an update": "AFTER UPDATE OF title ON note BEGIN"
    " UPDATE note SET stars = stars + 1 WHERE id = NEW.id; END",
    "fills a column in before an update": "BEFORE UPDATE OF title ON note BEGIN"
    " UPDATE note SET stars = stars + 1 WHERE id = NEW.id; END",
    "writes another row": "AFTER INSERT ON note WHEN NEW.id NOT LIKE 'log %' BEGIN"
    " INSERT INTO note VALUES ('log ' || NEW.id, NEW.title, 0); END",
    "keeps what was deleted under another key": "AFTER DELETE ON note WHEN OLD.id NOT LIKE 'old %' BEGIN"
    " INSERT INTO note VALUES ('old ' || OLD.id, OLD.title, 0); END",
    "changes all other rows": "AFTER UPDATE OF title ON note BEGIN UPDATE note SET stars = -stars WHERE id <> NEW.id; END",
    "deletes another row": "AFTER UPDATE OF title ON note BEGIN DELETE FROM note WHERE id = 'b'; END",
    "deletes the row that was inserted": "AFTER INSERT ON note BEGIN DELETE FROM note WHERE id = NEW.id; END",
    "deletes the row that was updated": "AFTER UPDATE OF title ON note BEGIN DELETE FROM note WHERE id = NEW.id; END",
    "makes room for an insert": "BEFORE INSERT ON note BEGIN DELETE FROM note WHERE id = NEW.id; END",
    "puts back what was deleted": "AFTER DELETE ON note BEGIN INSERT INTO note VALUES (OLD.id, OLD.title, -1); END",
    "puts back what was deleted and deletes it": "AFTER DELETE ON note WHEN OLD.stars <> -1 BEGIN"
    " INSERT INTO note VALUES (OLD.id, OLD.title, -1); DELETE FROM note WHERE id = OLD.id; END",
    "marks instead of deleting": "BEFORE DELETE ON note BEGIN"
    " UPDATE note SET stars = -1 WHERE id = OLD.id; SELECT RAISE(IGNORE); END",
    "moves what was inserted": "AFTER INSERT ON note WHEN NEW.id NOT LIKE 'x%' BEGIN"
    " UPDATE note SET id = 'x' || NEW.id WHERE id = NEW.id; END",
    "moves what was updated": "AFTER UPDATE OF title ON note WHEN NEW.id NOT LIKE 'x%' BEGIN"
    " UPDATE note SET id = 'x' || NEW.id WHERE id = NEW.id; END",
    "replaces what was inserted": "AFTER INSERT ON note WHEN NEW.stars <> 0 BEGIN"
    " REPLACE INTO note VALUES (NEW.id, 'r', 0); END",
    "replaces what was updated": "AFTER UPDATE OF title ON note BEGIN REPLACE INTO note VALUES (NEW.id, 'r', 0); END",
}
STATEMENTS = {
    "insert": ["INSERT INTO note VALUES ('d', 'D', 4)"],
    "replace": ["REPLACE INTO note VALUES ('a', 'Z', 4)"],
    "update": ["UPDATE note SET title = 'new' WHERE id = 'a'"],
    "delete": ["DELETE FROM note WHERE id = 'b'"],
    "delete of the last row": ["DELETE FROM note WHERE id = 'c'"],
    "key change": ["UPDATE note SET id = 'z' WHERE id = 'a'"],
    "insert and delete": ["INSERT INTO note VALUES ('d', 'D', 4)", "DELETE FROM note WHERE id IN ('d', 'xd')"],
}


MISREAD = {
    ("younger", "fills a column in after an insert", "insert and delete"),
    ("younger", "deletes the row that was inserted", "insert"),
    ("younger", "deletes the row that was inserted", "insert and delete"),
    ("younger", "puts back what was deleted", "insert and delete"),
    ("younger", "puts back what was deleted and deletes it", "replace"),
    ("younger", "puts back what was deleted and deletes it", "delete"),
    ("younger", "puts back what was deleted and deletes it", "delete of the last row"),
    ("younger", "keeps what was deleted under another key", "delete of the last row"),
    ("younger", "keeps what was deleted under another key", "insert and delete"),
    ("younger", "moves what was inserted", "insert"),
    ("younger", "moves what was inserted", "insert and delete"),
    ("younger", "replaces what was inserted", "insert"),
    ("younger", "replaces what was inserted", "insert and delete"),
}
"""Known bug: the log is read as if ours had fired in the order of what happened. Younger triggers fire first, so that a row
that was never there is deleted or replaced, or a deleted one is not; and one that takes a deleted row's rowid is taken for it,
so that neither is sealed."""
REFUSED = {
    ("puts back what was deleted", "replace"),
    ("marks instead of deleting", "replace"),
    ("keeps what was deleted under another key", "replace"),
}
"""SQLite finds a row still, or again, in the way."""
COMBINATIONS = [
    pytest.param(
        age,
        trigger,
        statement,
        id=f"{age} than ours, {trigger}, {statement}",
        marks=[pytest.mark.xfail(reason="the log's order is not what happened")]
        if (age, trigger, statement) in MISREAD
        else [],
    )
    for age in ("older", "younger")
    for trigger in TRIGGERS
    for statement in STATEMENTS
    if (trigger, statement) not in REFUSED
]


@pytest.mark.parametrize(("age", "trigger", "statement"), COMBINATIONS)
def test_what_an_applications_trigger_does_is_captured(path: Path, age: str, trigger: str, statement: str) -> None:
    theirs = f"CREATE TRIGGER theirs {TRIGGERS[trigger]};"
    store = opened(path, NOTE + ROWS + (theirs if age == "older" else ""))
    if age == "younger":
        with other_program(path) as connection:
            connection.execute(theirs)
    with watched(path, store) as watching:
        write(watching.store, *STATEMENTS[statement])
        watching.check()


# -- triggers over several tables

ORDERS = (
    "CREATE TABLE item (id TEXT NOT NULL PRIMARY KEY, 'order' TEXT, price INTEGER);"
    "CREATE TABLE total (id TEXT NOT NULL PRIMARY KEY, sum INTEGER, changes INTEGER DEFAULT 0);"
    "CREATE TABLE audit (id INTEGER NOT NULL PRIMARY KEY, what TEXT);"
    "CREATE TRIGGER added AFTER INSERT ON item BEGIN"
    " INSERT INTO total (id, sum) VALUES (NEW.'order', NEW.price) ON CONFLICT (id) DO UPDATE SET sum = sum + excluded.sum; END;"
    "CREATE TRIGGER removed AFTER DELETE ON item BEGIN UPDATE total SET sum = sum - OLD.price WHERE id = OLD.'order';"
    " DELETE FROM total WHERE id = OLD.'order' AND sum = 0; END;"
    "CREATE TRIGGER changed AFTER UPDATE OF price ON item BEGIN"
    " UPDATE total SET sum = sum + NEW.price - OLD.price WHERE id = NEW.'order'; END;"
    "CREATE TRIGGER counted AFTER UPDATE OF sum ON total BEGIN UPDATE total SET changes = changes + 1 WHERE id = NEW.id; END;"
    "CREATE TRIGGER noted AFTER INSERT ON total BEGIN INSERT INTO audit (what) VALUES ('new ' || NEW.id); END;"
    "CREATE TRIGGER gone BEFORE DELETE ON total BEGIN INSERT INTO audit (what) VALUES ('gone ' || OLD.id); END;"
    "INSERT INTO item VALUES ('a', 'one', 10), ('b', 'one', 20), ('c', 'two', 30);"
)
CHAINS = {
    "insert into an old order": ("INSERT INTO item VALUES ('d', 'one', 5)", {"item": [I], "total": [U]}),
    "insert into a new order": ("INSERT INTO item VALUES ('d', 'new', 5)", {"item": [I], "total": [I], "audit": [I]}),
    "insert many": (
        "INSERT INTO item VALUES ('d', 'new', 5), ('e', 'new', 6), ('f', 'one', 7)",
        {"item": [I, I, I], "total": [I, U], "audit": [I]},
    ),
    "delete one of two": ("DELETE FROM item WHERE id = 'a'", {"item": [D], "total": [U]}),
    "delete all": ("DELETE FROM item", {"item": [D, D, D], "total": [D, D], "audit": [I, I]}),
    "change a price": ("UPDATE item SET price = 11 WHERE id = 'a'", {"item": [U], "total": [U]}),
    "replace an item by one of another order": (
        "REPLACE INTO item VALUES ('c', 'one', 1)",
        {"item": [R], "total": [U, D], "audit": [I]},
    ),
}


@pytest.mark.parametrize(("statement", "ops"), CHAINS.values(), ids=CHAINS)
def test_a_chain_of_triggers_over_several_tables_is_captured(path: Path, statement: str, ops: dict[str, list[Op]]) -> None:
    with watched(path, opened(path, ORDERS)) as watching:
        write(watching.store, statement)
        assert watching.check() == ops


VIEW = (
    "CREATE VIEW starred AS SELECT id, upper(title) AS title FROM note WHERE stars > 1;"
    "CREATE TRIGGER view_insert INSTEAD OF INSERT ON starred BEGIN INSERT INTO note VALUES (NEW.id, lower(NEW.title), 9); END;"
    "CREATE TRIGGER view_update INSTEAD OF UPDATE ON starred BEGIN"
    " UPDATE note SET title = lower(NEW.title), id = NEW.id WHERE id = OLD.id; END;"
    "CREATE TRIGGER view_delete INSTEAD OF DELETE ON starred BEGIN UPDATE note SET stars = 0 WHERE id = OLD.id; END;"
)
THROUGH_THE_VIEW = {
    "insert": ("INSERT INTO starred VALUES ('d', 'D')", [I]),
    "update": ("UPDATE starred SET title = title || '!'", [U, U]),
    "update to the same": ("UPDATE starred SET title = title", []),
    "key change": ("UPDATE starred SET id = 'z' WHERE id = 'b'", [D, I]),
    "delete": ("DELETE FROM starred", [U, U]),
}


@pytest.mark.parametrize(("statement", "ops"), THROUGH_THE_VIEW.values(), ids=THROUGH_THE_VIEW)
def test_what_is_written_through_a_view_is_captured(path: Path, statement: str, ops: list[Op]) -> None:
    with watched(path, opened(path, NOTE + ROWS + VIEW)) as watching:
        write(watching.store, statement)
        assert watching.check().get("note", []) == ops


def test_a_trigger_that_refuses_a_row_leaves_no_trace_of_it(path: Path) -> None:
    refuse = "CREATE TRIGGER theirs AFTER INSERT ON note WHEN NEW.stars > 5 BEGIN SELECT RAISE({}, 'too many'); END;"
    with watched(path, opened(path, NOTE + ROWS + refuse.format("ABORT"))) as watching:
        with watching.store.write() as tx:
            tx.connection().exec_driver_sql("INSERT INTO note VALUES ('d', 'D', 1)")
            with pytest.raises(IntegrityError, match="too many"):
                tx.connection().exec_driver_sql("INSERT INTO note VALUES ('e', 'E', 1), ('f', 'F', 6)")
        assert watching.check() == {"note": [I]}


def test_a_trigger_of_a_connection_is_captured(path: Path) -> None:
    """A TEMP trigger, which only the connection that made it has."""
    with watched(path, opened(path, NOTE + ROWS)) as watching:
        temporary = "CREATE TEMP TRIGGER theirs AFTER INSERT ON main.note BEGIN UPDATE note SET stars = 7 WHERE id = 'a'; END"
        write(watching.store, temporary, "INSERT INTO note VALUES ('d', 'D', 4)")
        assert watching.check() == {"note": [U, I]}


@pytest.mark.xfail(raises=AssertionError, reason="the log's order is not what happened")
def test_a_trigger_of_a_connection_that_keeps_what_was_deleted_is_captured(path: Path) -> None:
    """It fires before ours, and gives the rowid of the deleted row to another."""
    with watched(path, opened(path, NOTE + ROWS)) as watching:
        keep = TRIGGERS["keeps what was deleted under another key"].replace("ON note", "ON main.note")
        write(watching.store, f"CREATE TEMP TRIGGER theirs {keep}", "DELETE FROM note WHERE id = 'c'")
        assert watching.check() == {"note": [D, I]}
