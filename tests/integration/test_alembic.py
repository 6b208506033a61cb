"""The repository's own Alembic environment, on fresh files and on files that a realm has opened.

Everything runs in processes of its own, so that the example models stay out of the other tests' metadata.
"""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE_TABLES = {"task", "penguin", "station", "note"}

OPEN_AND_WRITE = """
import sys
from pathlib import Path
from examples.field_survey.models import SCHEMA
from examples.todo.models import Task
from localstore import App, Credentials, Realm, SyncConfiguration

app = App.create("examples", remote=(Path.cwd() / "remote").as_uri().replace("file:", "folder:", 1))
config = SyncConfiguration(app.login(Credentials.anonymous()), schema={Task, *SCHEMA}, path="examples.db")
with Realm.open(config) as realm:
    with realm.write() as tx:
        tx.add(Task(task_name="Migrate"))
    print(len(realm.pending()), realm.sync_session.upload_all_local_changes(timeout=30))
app.close()
"""


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in ``directory``, with the repository importable."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment, capture_output=True, encoding="utf-8", timeout=120
    )


def alembic(directory: Path, *arguments: str, **variables: str) -> str:
    """Run an Alembic command that has to succeed, and give back what it said."""
    done = run(directory, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_upgrade_makes_the_example_tables_and_check_finds_nothing(tmp_path: Path) -> None:
    alembic(tmp_path, "upgrade", "head")
    assert tables(tmp_path / "examples.db") == {*EXAMPLE_TABLES, "alembic_version"}
    assert "No new upgrade operations detected" in alembic(tmp_path, "check")


def test_a_realm_opens_on_a_migrated_file_and_check_still_finds_nothing(tmp_path: Path) -> None:
    alembic(tmp_path, "upgrade", "head")
    opened = run(tmp_path, "-c", OPEN_AND_WRITE)
    assert opened.stdout.split()[-1:] == ["True"], opened.stderr
    assert any(name.startswith("localstore_") for name in tables(tmp_path / "examples.db"))
    assert "No new upgrade operations detected" in alembic(tmp_path, "check")


def test_a_downgrade_leaves_what_is_not_the_applications(tmp_path: Path) -> None:
    alembic(tmp_path, "upgrade", "head")
    with closing(sqlite3.connect(tmp_path / "examples.db")) as connection:
        connection.execute("CREATE TABLE localstore_anything (id INTEGER PRIMARY KEY)")
    alembic(tmp_path, "downgrade", "base")
    assert tables(tmp_path / "examples.db") == {"alembic_version", "localstore_anything"}


@pytest.mark.parametrize("by", ["-x", "variable"])
def test_another_file_can_be_named(tmp_path: Path, by: str) -> None:
    url = f"sqlite:///{(tmp_path / 'other.db').as_posix()}"
    if by == "-x":
        alembic(tmp_path, "-x", f"url={url}", "upgrade", "head", EXAMPLES_URL="sqlite:///unused.db")
    else:
        alembic(tmp_path, "upgrade", "head", EXAMPLES_URL=url)
    assert tables(tmp_path / "other.db") >= EXAMPLE_TABLES
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["other.db"]


def test_the_sql_can_be_printed_without_a_file(tmp_path: Path) -> None:
    assert "CREATE TABLE penguin" in alembic(tmp_path, "upgrade", "head", "--sql")
    assert not list(tmp_path.iterdir())
