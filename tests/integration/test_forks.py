"""Processes that fork while realms are open: the child is refused and harms nothing, and the parent goes on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SCRIPT = Path(__file__).with_name("forking_process.py")
SECONDS = 120


def play(folder: Path, scene: str) -> list[list[str]]:
    """What a scene's processes say, as words; they say nothing on standard error, and end by themselves."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), scene], capture_output=True, encoding="utf-8", timeout=SECONDS, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return [line.split() for line in done.stdout.splitlines()]


def check_sound(path: Path, rows: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (rows,)


def test_everything_in_the_child_is_refused_by_name_and_closing_is_quiet(tmp_path: Path) -> None:
    lines = play(tmp_path, "refusing")
    assert [line for line in lines if line[0] in ("failed", "done")] == []
    assert len([line for line in lines if line[0] == "refused"]) == 20
    assert lines[-3:] == [["closed", "True"], ["parent", "2", "2"], ["children", "0"]]
    assert not (tmp_path / "other.db").exists()
    check_sound(tmp_path / "notes.db", 2)


def test_a_child_that_ends_takes_nothing_of_its_parents_away(tmp_path: Path) -> None:
    assert play(tmp_path, "leaving") == [["parent", "10"], ["children", *"00000"]]
    check_sound(tmp_path / "notes.db", 10)


def test_nor_does_it_of_an_encrypted_file(tmp_path: Path) -> None:
    assert play(tmp_path, "leaving_encrypted") == [["parent", "10"], ["children", *"00000"]]


def test_a_fork_inside_a_write_leaves_the_parents_transaction_alone(tmp_path: Path) -> None:
    assert play(tmp_path, "writing") == [["parent", "3003"], ["children", "3", "5", "4"]]
    check_sound(tmp_path / "notes.db", 3003)


@pytest.mark.slow
def test_no_child_hangs_whatever_other_threads_hold_at_the_fork(tmp_path: Path) -> None:
    assert play(tmp_path, "busy") == [["parent", "True", "True"], ["children", *["0"] * 40]]


def test_a_child_that_outlives_its_parents_closing_harms_nothing(tmp_path: Path) -> None:
    assert play(tmp_path, "later") == [["parent", "3"], ["children", "0"]]
    check_sound(tmp_path / "notes.db", 3)


@pytest.mark.parametrize("scene", ["before", "closed"])
def test_forking_with_no_realm_open_is_fine_and_both_go_on_with_the_app(tmp_path: Path, scene: str) -> None:
    assert play(tmp_path, scene) == [["child", "True"], ["parent", "True"], ["children", "0"]]
    check_sound(tmp_path / "child.db", 1 if scene == "before" else 2)  # what the remote had at the fork is the child's too


def test_a_worker_of_multiprocessing_is_refused_the_realm_of_its_parent(tmp_path: Path) -> None:
    assert play(tmp_path, "pooled") == [["refused"], ["parent", "1"], ["children", "0"]]


def test_a_fork_in_the_background_thread_ends_without_syncing_in_the_child(tmp_path: Path) -> None:
    assert play(tmp_path, "handler") == [["parent", "1"], ["children", "0"]]
