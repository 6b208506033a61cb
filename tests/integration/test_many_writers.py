"""Threads, tasks and processes that read, add and write on one file, all at once: no update is lost, nobody turned away."""

import itertools
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from localstore import App, Credentials, LocalConfiguration, Realm, Settings, SyncConfiguration
from localstore.store import outbox
from localstore.wire import unseal
from tests.integration.counting_process import Counter, Trace, count, nowhere, work

SCRIPT = Path(__file__).with_name("counting_process.py")
SCHEMA = {Counter, Trace}
PROCESSES = 4
WORKERS = 4  # threads, and as many tasks, in each process that has both
TIMES = 6
UNLIMITED = 1 << 40


@contextmanager
def opened(kind: str, path: Path) -> Iterator[Realm]:
    """A realm on the file, which has the one row that all count in."""
    with App.create("counting", remote=nowhere(str(path)), settings=Settings()) as app:
        user = app.login(Credentials.anonymous())
        configurations: dict[str, LocalConfiguration | SyncConfiguration] = {
            "local": LocalConfiguration(path=path, schema=SCHEMA),
            "synced": SyncConfiguration(user, SCHEMA, path, stop_policy="immediately"),
        }
        with Realm.open(configurations[kind]) as realm:
            with realm.write() as tx:
                tx.add(Counter(name="all"))
            yield realm


def start(kind: str, path: Path, name: str, times: int, workers: int) -> subprocess.Popen[str]:
    arguments = [kind, str(path), name, str(times), str(workers)]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )


def check(kind: str, path: Path, writes: int) -> None:
    """Each write saw what all before it had done, and is in one changeset with all that belongs to it."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count FROM counter").fetchall() == [(writes,)]
        seen = [number for (number,) in connection.execute("SELECT seen FROM trace ORDER BY seen")]
        assert seen == list(range(writes))
        if kind == "synced":
            check_sealed(outbox.batch(connection, max_bytes=UNLIMITED, max_count=UNLIMITED), writes)
            assert connection.execute("SELECT count(*) FROM localstore_log").fetchone() == (0,)


def check_sealed(sealed: list[Any], writes: int) -> None:
    assert [each.number for each in sealed] == list(range(1, writes + 2))  # and the one that made the row
    assert [each.rows for each in sealed] == [1] + [2] * writes
    changesets = [unseal(each) for each in sealed]
    assert all(one.stamp < other.stamp for one, other in itertools.pairwise(changesets))


@pytest.mark.parametrize("kind", ["local", "synced"])
def test_threads_lose_no_update(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "count.db"
    with opened(kind, path) as realm:
        work(realm, "here", times=20, workers=8)
    check(kind, path, writes=2 * 8 * 20)


@pytest.mark.parametrize("kind", ["local", "synced"])
def test_processes_with_threads_and_tasks_lose_no_update(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "count.db"
    with opened(kind, path) as realm:
        processes = [start(kind, path, f"process {number}", times=TIMES, workers=WORKERS) for number in range(PROCESSES)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        count(realm, "here", 40)
        for process in processes:
            process.communicate(timeout=90)
    assert [process.returncode for process in processes] == [0] * PROCESSES
    check(kind, path, writes=PROCESSES * 2 * WORKERS * TIMES + 40)
