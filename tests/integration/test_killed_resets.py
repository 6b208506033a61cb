"""A real process killed in the middle of a client reset: the next one finishes it, and nothing that was unsent is lost."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from localstore import App, Credentials, Realm, SyncConfiguration
from tests.integration.reset_process import Word

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("reset_process.py")


def run(folder: Path, where: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(folder / "words.db"), str(folder / "shared"), where],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout.splitlines()


def parted(folder: Path) -> None:
    """A device with a word that the remote never got, and a remote that went back to before it was known."""
    with App.create("words", remote=f"folder://{folder / 'shared'}") as app:
        user = app.login(Credentials.anonymous())
        with Realm.open(SyncConfiguration(user, schema={Word}, path=folder / "words.db")) as realm:
            with realm.write() as tx:
                tx.add(Word(text="old"))
            assert realm.sync_session.upload_all_local_changes(timeout=60)
            realm.sync_session.pause()
            with realm.write() as tx:
                tx.add(Word(text="new"))
    shutil.rmtree(folder / "shared")
    with App.create("words", remote=f"folder://{folder / 'shared'}") as app:
        other = SyncConfiguration(app.login(Credentials.anonymous()), schema={Word}, path=folder / "other.db")
        with Realm.open(other) as realm:
            with realm.write() as tx:
                tx.add(Word(text="there"))
            assert realm.sync_session.upload_all_local_changes(timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX systems do")
@pytest.mark.parametrize(
    ("where", "called_then", "called_next"),
    [
        ("pull", [], ["before", "after"]),
        ("before", ["before"], ["before", "after"]),
        ("after", ["before", "after"], ["after"]),
    ],
)
def test_killed_in_the_middle_it_is_finished_at_the_next_start(
    tmp_path: Path, where: str, called_then: list[str], called_next: list[str]
) -> None:
    parted(tmp_path)
    code, said = run(tmp_path, where)
    assert code == -signal.SIGKILL
    assert said == [f"called {name}" for name in called_then]
    with closing(sqlite3.connect(tmp_path / "words.db")) as connection:
        words = sorted(text for (text,) in connection.execute("SELECT text FROM word"))
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert words == (["new", "there"] if where == "after" else ["new", "old"])
    code, said = run(tmp_path, "nowhere")
    assert code == 0
    assert said == [*(f"called {name}" for name in called_next), "has|by the callback after|new|there"]
    assert not list(tmp_path.glob("*.fresh*"))
    code, said = run(tmp_path, "nowhere")
    assert said == ["has|by the callback after|new|there"]
