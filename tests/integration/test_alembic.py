"""The repository's own Alembic environment, on fresh files and on files that a realm has opened; and the environment that
``localstore init`` writes, from the first model to devices that sync across upgrades.

Everything runs in processes of its own, so that the example models stay out of the other tests' metadata.
"""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from shutil import copy, copytree

import pytest

pytestmark = pytest.mark.slow

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


# -- a scratch application

MODELS = """
from uuid import UUID

from sqlmodel import Field, SQLModel

from localstore import uuid7


class Task(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
{columns}
"""
OLD = {"name": "str", "minutes": "int = 0"}
NEW = {"title": "str", "minutes": "float = 0.0", "due": "str | None = None"}

OPEN = """
import sys
from pathlib import Path
from models import Task
from localstore import App, Credentials, Realm, SyncConfiguration
from sqlmodel import select

app = App.create("scratch", remote=(Path.cwd().parent / "remote").as_uri().replace("file:", "folder:", 1))
config = SyncConfiguration(app.login(Credentials.anonymous()), schema={Task}, path="app.db")
with Realm.open(config) as realm:
    session = realm.sync_session
    if sys.argv[1] == "offline":
        session.pause()
    with realm.write() as tx:
        exec(sys.argv[2])
    if sys.argv[1] == "online":
        assert session.upload_all_local_changes(timeout=30)
        assert session.download_all_server_changes(timeout=30)
    for task in realm.exec(select(Task)):
        print(sorted((name, getattr(task, name)) for name in Task.model_fields if name != "id"))
    print(len(realm.pending()), "pending", len(realm.conflicts()), "conflicts")
app.close()
"""


class Scratch:
    """A device with the application of its own age, in a folder beside the others and the remote."""

    def __init__(self, folder: Path, name: str, columns: dict[str, str]) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.use(columns)

    def use(self, columns: dict[str, str]) -> None:
        lines = "\n".join(f"    {name}: {kind}" for name, kind in columns.items())
        (self.folder / "models.py").write_text(MODELS.format(columns=lines))

    def python(self, *arguments: str) -> str:
        done = run(self.folder, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def alembic(self, *arguments: str) -> str:
        return self.python("-m", "alembic", *arguments)

    def open(self, how: str, statement: str = "pass") -> list[str]:
        """Open a realm, write, and give back what it holds then, and what is pending."""
        return sorted(self.python("-c", OPEN, how, statement).splitlines())

    def revise(self, message: str, **instead: str) -> None:
        """Let Alembic write a revision, and do what its author has to do: put renames for drops and adds."""
        self.alembic("revision", "--autogenerate", "-m", message)
        (made,) = self.folder.joinpath("alembic/versions").glob(f"*_{message}.py")
        if instead:
            start = made.read_text(encoding="utf-8").split("def upgrade")[0]
            bodies = (f"def {name}() -> None:\n    {body}\n" for name, body in instead.items())
            made.write_text(start + "\n\n".join(bodies), encoding="utf-8")


UPGRADE = """with op.batch_alter_table("task") as batch:
        batch.alter_column("name", new_column_name="title")
        batch.alter_column("minutes", type_=sa.Float())
        batch.add_column(sa.Column("due", sa.String(), nullable=True))"""
DOWNGRADE = """with op.batch_alter_table("task") as batch:
        batch.drop_column("due")
        batch.alter_column("minutes", type_=sa.Integer())
        batch.alter_column("title", new_column_name="name")"""


def test_an_application_goes_from_init_through_an_upgrade_and_back_while_it_syncs(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    one = Scratch(tmp_path, "one", OLD)
    one.open("online", "tx.add(Task(name='first', minutes=1))")
    assert "alembic upgrade head" in one.python("-m", "localstore.cli", "init", "--models", "models")
    assert "No new upgrade operations detected" in one.alembic("check")
    one.revise("baseline")
    one.alembic("upgrade", "head")

    two = Scratch(tmp_path, "two", OLD)
    two.open("online", "tx.add(Task(name='second', minutes=2))")
    one.open("offline", "tx.add(Task(name='unsent', minutes=3))")

    one.use(NEW)
    one.revise("rename", upgrade=UPGRADE, downgrade=DOWNGRADE)
    one.alembic("upgrade", "head")
    assert "No new upgrade operations detected" in one.alembic("check")
    held = one.open("online", "tx.add(Task(title='third', minutes=3.5, due='today'))")
    assert held == [
        "0 pending 0 conflicts",
        "[('due', 'today'), ('minutes', 3.5), ('title', 'third')]",
        "[('due', None), ('minutes', 1.0), ('title', 'first')]",
        "[('due', None), ('minutes', 2.0), ('title', 'second')]",
        "[('due', None), ('minutes', 3.0), ('title', 'unsent')]",
    ]

    rename_second = "[setattr(t, 'name', 'second!') for t in tx.exec(select(Task)) if t.name == 'second']"
    held = two.open("online", rename_second)
    assert "[('minutes', 2), ('name', 'second!')]" in held
    two.open("online")
    assert two.open("online") == [
        "0 pending 0 conflicts",
        "[('minutes', 1), ('name', 'first')]",
        "[('minutes', 2), ('name', 'second!')]",
        "[('minutes', 3), ('name', 'unsent')]",
        "[('minutes', 3.5), ('name', 'third')]",  # the new type's value, which the old class does not expect
    ]
    assert "[('due', None), ('minutes', 2.0), ('title', 'second!')]" in one.open("online")

    one.use(OLD)
    one.alembic("downgrade", "-1")
    assert "[('minutes', 1), ('name', 'first, again')]" in one.open(
        "online", "[setattr(t, 'name', 'first, again') for t in tx.exec(select(Task)) if t.name == 'first']"
    )
    assert "[('minutes', 1), ('name', 'first, again')]" in two.open("online")


def test_a_new_file_is_stamped_before_a_realm_fills_it(tmp_path: Path) -> None:
    """Where realms make new files, these must not go through the revisions that came before."""
    (tmp_path / "remote").mkdir()
    first = Scratch(tmp_path, "first", OLD)
    first.open("online", "tx.add(Task(name='first'))")
    first.python("-m", "localstore.cli", "init")
    first.revise("baseline")
    first.alembic("upgrade", "head")
    first.use(NEW)
    first.revise("rename", upgrade=UPGRADE)
    first.alembic("upgrade", "head")
    first.open("online")

    fresh = Scratch(tmp_path, "fresh", NEW)
    copytree(first.folder / "alembic", fresh.folder / "alembic")
    copy(first.folder / "alembic.ini", fresh.folder)
    fresh.alembic("stamp", "head")
    fresh.open("online")
    assert "[('due', None), ('minutes', 0.0), ('title', 'first')]" in fresh.open("online")
    fresh.alembic("upgrade", "head")
    assert "No new upgrade operations detected" in fresh.alembic("check")


ODD = "odd %20 name" if sys.platform == "win32" else "odd %20?x=1#name"


@pytest.mark.parametrize("database", ["app.db", "100%25.db"])
def test_a_folder_and_a_file_may_have_characters_that_alembic_reads_as_something_else(tmp_path: Path, database: str) -> None:
    device = Scratch(tmp_path, ODD, OLD)
    device.python("-m", "localstore.cli", "init", "--database", database)
    device.revise("baseline")
    device.alembic("upgrade", "head")
    assert tables(device.folder / database) == {"task", "alembic_version"}
    assert [path.name for path in tmp_path.iterdir()] == [ODD]


def test_a_migration_waits_a_minute_for_whoever_is_writing(tmp_path: Path) -> None:
    device = Scratch(tmp_path, "one", OLD)
    device.python("-m", "localstore.cli", "init")
    ask = 'print("waits", op.get_bind().exec_driver_sql("PRAGMA busy_timeout").scalar(), "ms")'
    device.revise("baseline", upgrade=ask)
    assert "waits 60000 ms" in device.alembic("upgrade", "head")


def test_a_refused_migration_is_a_message_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    device = Scratch(tmp_path, "one", OLD)
    device.open("online", "tx.add(Task(name='first'))")
    device.python("-m", "localstore.cli", "init")
    device.use(NEW)
    device.revise("rename", upgrade=UPGRADE)
    env = device.folder / "alembic/env.py"
    env.write_text(env.read_text(encoding="utf-8").replace("foreign_keys = OFF", "foreign_keys = ON"), encoding="utf-8")
    done = run(device.folder, "-m", "alembic", "upgrade", "head")
    assert done.returncode != 0
    assert "FAILED: Making the table task anew while foreign keys are on" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    device.use(OLD)
    assert "[('minutes', 0), ('name', 'first')]" in device.open("online")
