"""Snapshots in processes that are killed, have no room, or have much to do."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the limits and signals are those of POSIX")

if sys.platform != "win32":
    from localstore.errors import RealmClosed
    from localstore.store.snapshots import load_snapshot, write_snapshot
    from tests.integration.snapshot_process import count, fill, opened
    from tests.unit.session_kit import PATIENCE, eventually, is_open

SCRIPT = Path(__file__).with_name("snapshot_process.py")
MANY = 1_000_000
MEMORY_BYTES = 48 << 20


def run(condition: str, folder: Path, word: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), condition, str(folder), word],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def said(condition: str, folder: Path, word: str = "") -> list[dict[str, Any]]:
    done = run(condition, folder, word)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


MOMENTS = (
    "DROP TRIGGER",
    "INSERT INTO main.localstore_device",
    'INSERT INTO main."note"',
    "INSERT INTO main.localstore_clock",
    "CREATE TRIGGER",
    "COMMIT",
)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_is_killed_while_it_loads_leaves_an_empty_file(tmp_path: Path, moment: str) -> None:
    fill(tmp_path, 1000)
    with closing(opened(tmp_path, "writer")) as writer:
        assert write_snapshot(writer, tmp_path / "snapshot", cursor=b"1")
    opened(tmp_path, "loader").close()
    with closing(sqlite3.connect(tmp_path / "loader.db")) as connection:
        before = list(connection.iterdump())
    assert run("killed", tmp_path, moment).returncode == -signal.SIGKILL
    with closing(sqlite3.connect(tmp_path / "loader.db")) as connection:
        assert list(connection.iterdump()) == before
    with closing(opened(tmp_path, "loader")) as loader:
        load_snapshot(loader, tmp_path / "snapshot")
        assert count(loader) == 1000


def test_a_disk_that_takes_no_more_is_named_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    found = {line["did"]: line for line in said("room", tmp_path)}
    assert {did: line["error"] or line["result"] for did, line in found.items()} == {
        "write": "DiskFailed",
        "look for it": [],
        "write with room again": True,
        "load": "DiskFailed",
        "count": 0,
        "load with room again": None,
        "count again": 20_000,
    }
    assert "snapshot" in found["write"]["message"]
    assert "loader.db" in found["load"]["message"]


@pytest.mark.slow
def test_a_million_rows_take_no_more_memory_than_a_few(tmp_path: Path) -> None:
    fill(tmp_path, MANY)
    [took] = said("memory", tmp_path, str(MANY))
    assert took["size"] > 2 * MEMORY_BYTES
    assert took["writing"] < MEMORY_BYTES
    assert took["loading"] < MEMORY_BYTES


@pytest.mark.slow
def test_closing_breaks_off_a_long_snapshot_and_lets_go_of_the_file(tmp_path: Path) -> None:
    fill(tmp_path, MANY)
    path = tmp_path / "snapshot"
    writer = opened(tmp_path, "writer")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_snapshot, writer, path, cursor=b"1")
        eventually(lambda: writing.done() or (path.exists() and path.stat().st_size > 1 << 20))
        writer.close()
        with pytest.raises(RealmClosed):
            writing.result(PATIENCE)
    assert not path.exists()
    assert not is_open(writer.path)
