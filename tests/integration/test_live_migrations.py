"""``alembic upgrade`` while a realm has the file open, with the classes of before: in another process and in the same one.

What the running application writes is captured as the file is then, or refused with a message; nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.scratch_application.changes import CHANGES
from tests.integration.scratch_application.story import begin
from tests.integration.scratch_application.world import Processes, World

SAME_PROCESS = """
def migrate():
    from alembic import command
    from alembic.config import Config
    command.upgrade(Config("alembic.ini"), "head")
"""
OTHER_PROCESS = """
def migrate():
    import subprocess, sys
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], check=True)
"""
PROGRAM = """
import json
from pathlib import Path
from uuid import UUID
from models import Step, Task
from localstore import App, Credentials, Realm, SyncConfiguration
from localstore.errors import SchemaMismatch
from sqlmodel import select
MIGRATE
app = App.create("scratch", remote=(Path.cwd().parent / "remote").as_uri().replace("file:", "folder:", 1))
config = SyncConfiguration(app.login(Credentials.anonymous()), schema={Task, Step}, path="app.db")
said = []
with Realm.open(config) as realm:
    realm.sync_session.pause()
    with realm.write() as tx:
        tx.get(Task, UUID(int=1)).minutes = 1001
    before = realm.get(Task, UUID(int=2))
    migrate()
    for write in WRITES:
        try:
            with realm.write() as tx:
                exec(write)
        except SchemaMismatch as error:
            said.append(str(error))
        else:
            said.append("written")
    try:
        said.append([task.name for task in realm.exec(select(Task).where(Task.id == UUID(int=3)))])
    except SchemaMismatch as error:
        said.append(str(error))
    realm.sync_session.resume()
    assert realm.sync_session.upload_all_local_changes(timeout=60)
    assert realm.sync_session.download_all_server_changes(timeout=60)
app.close()
Path("said.json").write_text(json.dumps(said))
"""
WRITES = [
    "task = tx.get(Task, UUID(int=2)); task.name = 'by the old class'",
    "tx.add(Task(id=UUID(int=21), name='new', city='by the old class'))",
    "tx.connection().exec_driver_sql('UPDATE step SET text = upper(text)')",
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Processes() as processes:
        yield begin(processes, tmp_path_factory.mktemp("live") / "begun")


def lived(begun: World, folder: Path, name: str, how: str) -> tuple[World, list[Any]]:
    """A change of the models carried out while the old application runs; and what became of what it did then."""
    world, change = begun.copy_to(folder / "world"), CHANGES[name]
    a, b = world.device("a"), world.device("b")
    old = (a.folder / "models.py").read_text(encoding="utf-8")
    a.use(change.models)
    a.revise(name, change.revision)
    a.use(old)
    a.python(PROGRAM.replace("MIGRATE", how).replace("WRITES", repr(WRITES)))
    a.use(change.models)
    a.open("online")
    b.use(change.models)
    b.take_revisions_of(a)
    b.alembic("upgrade", "head")
    b.open("online")
    b.open("online")
    assert a.query("SELECT * FROM localstore_outbox") == a.query("SELECT * FROM localstore_log") == []
    assert a.tables() == b.tables()
    return world, json.loads((a.folder / "said.json").read_text())


BOTH = pytest.mark.parametrize("how", [SAME_PROCESS, OTHER_PROCESS], ids=["same process", "other process"])


@pytest.mark.parametrize("name", ["add column", "change type"])
@BOTH
def test_what_still_fits_is_written_and_captured(begun: World, tmp_path: Path, how: str, name: str) -> None:
    world, said = lived(begun, tmp_path, name, how)
    assert said == ["written", "written", "written", ["task 3"]]
    b = world.device("b")
    assert ("by the old class",) in b.query("SELECT name FROM task")
    assert ("by the old class",) in b.query("SELECT city FROM task")
    assert b.query("SELECT count(*) FROM step WHERE text = upper(text)") == [(7,)]
    assert b.query("SELECT count(*) FROM task WHERE minutes = 1001") == [(1,)]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("rename column", "has no column name in task"),
        ("rename table", "has no table task"),
        ("split table", "has no column street, city in task"),
    ],
)
@BOTH
def test_what_does_not_fit_any_more_is_refused_with_what_happened(
    begun: World, tmp_path: Path, how: str, name: str, what: str
) -> None:
    world, said = lived(begun, tmp_path, name, how)
    refused = [text for text in said if isinstance(text, str) and what in text]
    assert len(refused) == 3, said
    assert all("was migrated while this realm had it open" in text and "Nothing was written" in text for text in refused)
    assert said[2] == "written"
    b = world.device("b")
    table = "job" if name == "rename table" else "task"
    assert b.query(f"SELECT count(*) FROM {table} WHERE minutes = 1001") == [(1,)]
    assert b.query("SELECT count(*) FROM step WHERE text = upper(text)") == [(7,)]
    assert b.query(f"SELECT count(*) FROM {table}") == [(7,)]
