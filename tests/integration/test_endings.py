"""Processes that end with realms open, changes unsent and remotes that hang: in time, in silence, with all they committed."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.session_kit import in_background

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("ending_process.py")
SECONDS = 60
FOR_EVER = 30.0  # seconds; what waits for an adapter that hangs takes longer
HANGING = ["connect-hangs", "connect-threads", "push-hangs", "push-stays", "push-threads", "push-blocks", "pull-stays"]
HANGING_AT_CLOSE = ["close-hangs", "close-stays"]
# where Ctrl-C came: in a finalizer, where Python drops it, or while SQLAlchemy let go of a connection, and raised it again
SAID_OF_CTRL_C = ("Exception ignored in", "Exception terminating connection")


_EXPECTED = re.compile("an adapter goes on after|^Executing <.* took ")
"""What the library says of such an adapter, and what asyncio says under ``-X dev`` when the computer is busy."""


class Ended:
    """A process that came to its end, and what it said."""

    def __init__(self, database: Path, fault: str, end: str) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", str(SCRIPT), str(database), fault, end],
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        self.code = done.returncode
        # told on purpose of adapters that misbehave
        self.errors = "\n".join(line for line in done.stderr.splitlines() if not _EXPECTED.search(line))
        lines = [line.split() for line in done.stdout.splitlines()]
        self.committed = sum(line[0] == "committed" for line in lines)
        self.calls = [(line[1], float(line[0])) for line in lines if line[0][0].isdigit()]
        self.place = next((Path(line[1]) for line in lines if line[0] == "place"), None)

    def check_calls(self) -> None:
        for name, seconds in self.calls:
            assert seconds < FOR_EVER, (name, seconds)


def check_holds(database: Path, count: int) -> None:
    """The file is sound and holds so many notes."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (count,)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.mark.parametrize("fault", ["", "connect-offline", *HANGING, *HANGING_AT_CLOSE])
@pytest.mark.parametrize("end", ["falls_off", "closes_realm", "closes_app"])
def test_it_ends_in_silence_with_all_that_was_committed(database: Path, fault: str, end: str) -> None:
    ended = Ended(database, fault, end)
    assert (ended.code, ended.errors) == (0, "")
    ended.check_calls()
    check_holds(database, ended.committed)
    assert ended.committed == 20


@pytest.mark.parametrize("fault", ["connect-offline", "pull-blocks", "connect-threads"])
@pytest.mark.parametrize("end", ["exits", "raises", "closes_app_first", "exits_in_threads", "exits_hard", "daemon_writes"])
def test_also_in_other_ways(database: Path, fault: str, end: str) -> None:
    ended = Ended(database, fault, end)
    assert (ended.code, ended.errors) == (0, "")
    ended.check_calls()
    if end == "daemon_writes":  # a last write may not have come to say so
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT count(*) FROM note").fetchone()[0] in (ended.committed, ended.committed + 1)
    else:
        check_holds(database, ended.committed)


@pytest.mark.parametrize("fault", ["", "connect-offline", *HANGING, *HANGING_AT_CLOSE])
def test_pausing_resuming_and_reconnecting_never_wait_for_the_remote(database: Path, fault: str) -> None:
    ended = Ended(database, fault, "pauses")
    assert (ended.code, ended.errors) == (0, "")
    assert [name for name, _ in ended.calls] == ["pause", "resume", "reconnect", "pause"]
    ended.check_calls()


@pytest.mark.parametrize("fault", ["connect-offline", "push-hangs", "push-stays", "push-threads", "push-blocks", "close-hangs"])
def test_files_can_be_deleted_once_the_app_is_closed(database: Path, fault: str) -> None:
    ended = Ended(database, fault, "closes_and_deletes")
    assert (ended.code, ended.errors) == (0, "")
    ended.check_calls()
    assert list(database.parent.iterdir()) == []


@pytest.mark.parametrize("fault", ["", "close-hangs", "close-stays"])
def test_files_can_be_deleted_once_the_sessions_have_ended(database: Path, fault: str) -> None:
    ended = Ended(database, fault, "uploads_and_deletes")
    assert (ended.code, ended.errors) == (0, "")
    assert list(database.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGKILL")
@pytest.mark.parametrize("fault", ["", "push-hangs"])
def test_killed_it_leaves_all_that_was_committed(database: Path, fault: str) -> None:
    ended = Ended(database, fault, "kills")
    assert (ended.code, ended.errors) == (-signal.SIGKILL, "")
    check_holds(database, 20)


@pytest.mark.parametrize("fault", ["", "push-hangs", "push-threads"])
def test_a_realm_in_memory_leaves_nothing(database: Path, fault: str) -> None:
    ended = Ended(database, fault, "is_in_memory")
    assert (ended.code, ended.errors) == (0, "")
    assert ended.place is not None
    assert not ended.place.parent.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fault", ["", "push-hangs"])
def test_ctrl_c_at_any_moment_ends_it_and_leaves_nothing_half(database: Path, fault: str, seed: int) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(database), fault, "is_interrupted"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        pause = threading.Event()
        pause.wait(random.Random(seed).uniform(0.05, 0.6))
        ended = in_background(lambda: process.communicate(timeout=SECONDS))
        while not ended.done():  # Python drops one that comes in a finalizer
            os.kill(process.pid, signal.SIGINT)
            pause.wait(1.0)
        said, errors = ended.result()
    finally:
        process.kill()  # one that hangs is in the way of other tests
        process.communicate()
    assert process.returncode == 0, errors
    assert errors == "" or errors.startswith(SAID_OF_CTRL_C)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        count = connection.execute("SELECT count(*) FROM note").fetchone()[0]
    assert count - said.count("committed") in (0, 1)  # the last one may not have come to say so
