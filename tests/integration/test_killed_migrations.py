"""A migration that is killed at its worst moments: the file is as before, and the migration can be repeated."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scratch_application.changes import CHANGES, OLD
from tests.integration.scratch_application.story import begin
from tests.integration.scratch_application.world import Device, Processes, World

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")]

CHANGE = CHANGES["rename column"]
KILL = "import os, signal; op.get_bind(); os.kill(os.getpid(), signal.SIGKILL)  # here"
RENAME = """with op.batch_alter_table("task") as batch:
        batch.alter_column("name", new_column_name="title")"""
BY_HAND = """op.execute("CREATE TABLE new_task (id CHAR(32) PRIMARY KEY NOT NULL, title VARCHAR NOT NULL,"
        " minutes INTEGER NOT NULL, street VARCHAR, city VARCHAR)")
    op.execute("INSERT INTO new_task SELECT id, name, minutes, street, city FROM task")
    op.execute("DROP TABLE task")
    KILL
    op.execute("ALTER TABLE new_task RENAME TO task")"""
MOMENTS = {
    "at its first write": 'op.execute("UPDATE task SET minutes = minutes + 1000")\n    KILL\n    ' + RENAME,
    "when it is all done": RENAME + '\n    op.execute("UPDATE task SET minutes = minutes + 1000")\n    KILL',
    "when the table is gone": BY_HAND,
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Processes() as processes:
        yield begin(processes, tmp_path_factory.mktemp("killed") / "begun")


def killed(device: Device, *arguments: str) -> bool:
    try:
        device.alembic(*arguments)
    except AssertionError as error:
        return f"ended with {-signal.SIGKILL}:" in str(error)
    return False


def state(device: Device) -> list[object]:
    """Everything that a migration could have touched."""
    queries = (
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name NOT LIKE 'alembic%' ORDER BY name",
        "SELECT * FROM task ORDER BY id",
        "SELECT id, name, key, columns FROM localstore_table ORDER BY id",
        "SELECT * FROM localstore_unknown",
        "SELECT * FROM alembic_version",
        "PRAGMA integrity_check",
    )
    return [device.query(sql) for sql in queries]


@pytest.mark.parametrize("body", MOMENTS.values(), ids=MOMENTS)
def test_a_killed_migration_leaves_the_file_as_it_was(begun: World, tmp_path: Path, body: str) -> None:
    world = begun.copy_to(tmp_path / "world")
    a, b = world.device("a"), world.device("b")
    a.open("offline", CHANGE.unsent_on_a)
    before = state(a)
    a.use(CHANGE.models)
    a.revise("killed", (body.replace("KILL", KILL), "pass"))
    assert killed(a, "upgrade", "head")
    assert state(a) == before

    a.use(OLD)
    assert a.open("online", "the(2).name = 'after the crash'") == {"pending": 0, "conflicts": 0}
    b.open("online")
    assert b.tables() == a.tables()
    assert ("after the crash",) in b.query("SELECT name FROM task")

    a.use(CHANGE.models)
    (revision,) = (a.folder / "alembic/versions").glob("*_killed.py")
    revision.write_text(revision.read_text(encoding="utf-8").replace(KILL, ""), encoding="utf-8")
    a.alembic("upgrade", "head")
    assert a.open("online", "the(3).title = 'migrated'") == {"pending": 0, "conflicts": 0}
    assert {("after the crash",), ("migrated",)} <= set(a.query("SELECT title FROM task"))


def test_of_two_revisions_the_one_that_was_done_stays(begun: World, tmp_path: Path) -> None:
    world = begun.copy_to(tmp_path / "world")
    a, b = world.device("a"), world.device("b")
    a.open("offline", CHANGE.unsent_on_a)
    a.use(CHANGE.models)
    a.revise("done", CHANGE.revision)
    a.alembic("revision", "-m", "killed")
    (revision,) = (a.folder / "alembic/versions").glob("*_killed.py")
    body = f'op.rename_table("task", "job")\n    {KILL}'
    revision.write_text(revision.read_text(encoding="utf-8").replace("pass", body, 1), encoding="utf-8")
    assert killed(a, "upgrade", "head")
    assert a.open("online", "the(3).title = 'migrated'") == {"pending": 0, "conflicts": 0}
    b.open("online")
    assert {("a, unsent",), ("migrated",)} <= set(b.query("SELECT name FROM task"))
