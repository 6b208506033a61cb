"""Ctrl-C at each place of the main thread where Python looks for signals: nothing is left behind that others wait for."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import Field, SQLModel, select

from localstore import App, Credentials, Realm, SyncConfiguration, uuid7
from localstore.testing.memory import MemoryRemote
from tests.interrupting import Interruptions
from tests.unit.session_kit import PATIENCE, in_background


class Note(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str


def cycle(app: App, configuration: SyncConfiguration) -> None:
    """What an application does."""
    with Realm.open(configuration) as realm:
        session = realm.sync_session
        stop_listening = session.on_connection_state_change(lambda _: None)
        with session.status_changes(), realm.write() as tx:
            tx.add(Note(text="milk"))
        realm.exec(select(Note)).all()
        session.pause()
        session.resume()
        session.upload_all_local_changes(PATIENCE)
        stop_listening()
    app.sync.wait_for_sessions_to_terminate(PATIENCE)


def go_on(app: App, configuration: SyncConfiguration) -> None:
    """What the application does after that, in any thread."""
    with Realm.open(configuration) as realm:
        with realm.write() as tx:
            tx.add(Note(text="bread"))
        realm.exec(select(Note)).all()
        assert realm.sync_session.upload_all_local_changes(PATIENCE)


def interrupted_once(remote: MemoryRemote, database: Path, interruptions: Interruptions) -> bool:
    """Whether there was a place left to be interrupted at."""
    app = App.create("notes", remote=remote.adapter)
    configuration = SyncConfiguration(app.login(Credentials.anonymous()), {Note}, database)
    Realm.open(configuration).close()  # what is imported on the way stays half imported when Ctrl-C comes in the middle of it
    assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
    place = interruptions.run(lambda: cycle(app, configuration))
    gc.collect()  # a block that was broken off on the way into it ends with the traceback that it stands in
    try:
        in_background(lambda: go_on(app, configuration)).result(PATIENCE)
        in_background(app.close).result(PATIENCE)
        assert not app.sync.has_sync_sessions
    except BaseException as error:
        error.add_note(f"after Ctrl-C at {place}")
        raise
    return place is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "least"),
    [
        (("localstore/app_sync.py", "localstore/realm.py", "store/open_file.py"), 90),
        (("sync/session.py", "sync/stream.py", "sync/waits.py", "sync/transfers.py", "sync/loop.py"), 120),
        (("/threading.py", "concurrent/futures/_base.py"), 80),
    ],
    ids=["files", "sessions", "the standard library"],
)
def test_after_ctrl_c_anywhere_other_threads_go_on_and_the_app_can_be_closed(
    tmp_path: Path, files: tuple[str, ...], least: int
) -> None:
    assert threading.current_thread() is threading.main_thread()
    remote = MemoryRemote()
    interruptions = Interruptions(lambda path: path.endswith(files))
    places = 0
    while interrupted_once(remote, tmp_path / "notes.db", interruptions):
        places += 1
    assert places >= least
