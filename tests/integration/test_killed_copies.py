"""A process that is killed while it copies a realm leaves no half copy, and nothing that stays."""

import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from localstore import App, Realm
from tests.integration.copy_process import Row, application, configured

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("copy_process.py")
SECONDS = 60  # more than any process waits for anything
ROWS = 20_000


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with application(tmp_path) as app:
        yield app


@pytest.fixture
def source(app: App, tmp_path: Path) -> Path:
    """A realm with all of its rows at the remote."""
    path = tmp_path / "source.db"
    with Realm.open(configured(app, "synced", path)) as realm:
        with realm.write() as tx:
            tx.add_all([Row(text="x" * 200) for _ in range(ROWS)])
        assert realm.sync_session.upload_all_local_changes(timeout=SECONDS)
    assert app.sync.wait_for_sessions_to_terminate(SECONDS)
    return path


def beside(target: Path) -> list[Path]:
    """What lies beside a copy that is being made, and belongs to it."""
    return [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}.")]


def bytes_beside(target: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in beside(target))
    return 0


def killed_at(share: float, kind: str, source: Path, target: Path) -> None:
    """Let a process copy, and kill it when so much of the copy is there, or at its end."""
    command = [sys.executable, "-W", "error", str(SCRIPT), kind, str(source), str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    for _ in itertools.count():
        if target.exists() or bytes_beside(target) > share * source.stat().st_size or process.poll() is not None:
            break
        os.sched_yield()
    process.kill()
    process.communicate(timeout=SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at files as another process writes them")
@pytest.mark.parametrize("kind", ["local", "synced", "other"])
def test_a_copy_that_is_broken_off_is_not_there_and_the_next_one_is_whole(
    app: App, source: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "copy.db"
    for share in (0.0, 0.1, 0.5, 0.9):
        killed_at(share, kind, source, target)
        assert not target.exists() or rows_in(target) == ROWS
        target.unlink(missing_ok=True)
    with Realm.open(configured(app, "synced", source)) as realm:
        realm.write_copy_to(configured(app, kind, target))
        assert rows_in(source) == ROWS
    assert rows_in(target) == ROWS
    assert beside(target) == []


def rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(connection.execute("SELECT count(*) FROM row").fetchone()[0])
