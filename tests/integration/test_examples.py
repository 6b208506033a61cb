"""The examples run to their end as a user would run them, and what they leave on disk is what they said."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.cases import CASES

ROOT = Path(__file__).parents[2]
ISLANDS = ("biscoe", "dream", "torgersen")


def run(*arguments: str, code: int = 0, seconds: float = 180) -> str:
    """Run this Python with the repository importable, and give back what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, encoding="utf-8", timeout=seconds)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_todo_walks_from_the_first_write_to_leaving_sync(tmp_path: Path) -> None:
    said = run("-m", "examples.todo", "--dir", str(tmp_path))
    assert "pending changesets: 1" in said
    assert "uploaded: True; session: ACTIVE; pending changesets: 0" in said
    tables = {name for (name,) in rows(tmp_path / "mine.db", "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"task"}
    assert rows(tmp_path / "mine.db", "SELECT count(*) FROM task") == [(2,)]


def test_a_second_todo_device_receives_the_tasks_of_the_first(tmp_path: Path) -> None:
    remote = (tmp_path / "remote").as_uri().replace("file:", "folder:", 1)
    run("-m", "examples.todo", "--dir", str(tmp_path / "first"), "--remote", remote)
    assert "copied out 4 tasks" in run("-m", "examples.todo", "--dir", str(tmp_path / "second"), "--remote", remote)


def test_the_field_survey_converges(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    said = run("-m", "examples.field_survey", "--dir", str(directory), "--pace", "0")
    assert "All devices agree:" in said
    assert said.count("344 penguins") == 3
    conflicts = said.partition("What conflicted")[2].partition("Where the files lie")[0]
    assert "station Torgersen, leader: Biscoe wrote 'K. Gorman'; Dream's 'W. Fraser' won" in conflicts
    assert "penguin N1A1, body_mass_g: Biscoe wrote 3725; Torgersen's 3775 won" in conflicts
    assert "Dream wrote 'Leaves Biscoe on Tuesday.'; Biscoe deleted the row" in conflicts
    for island in ISLANDS:
        path = directory / f"{island}.db"
        assert str(path) in said
        assert rows(path, "SELECT count(*) FROM penguin") == [(344,)]
        assert rows(path, "SELECT weather, nests_counted FROM station WHERE island = 'Dream'") == [("snow", 80)]
        assert rows(path, "SELECT count(*) FROM note") == [(0,)]
        assert rows(path, "SELECT count(*) FROM localstore_outbox") == [(0,)]


@pytest.mark.slow
def test_the_team_shares_its_tasks_and_nobody_elses(tmp_path: Path) -> None:
    said = run("-m", "examples.team_tasks", "--dir", str(tmp_path))
    assert "Emma sees of the team's tasks: Review proposal (done)" in said
    for name in ("Emma", "Kevin"):
        assert f"{name} sees of their own tasks: Call {name}'s dentist (to do)" in said
    assert "Kevin asks for Emma's: This user may not use the partition" in said
    assert "Kevin sees of Emma's tasks: nothing" in said
    for path in tmp_path.glob("*/team-tasks/*/team-7.db"):
        assert rows(path, "SELECT task_name, is_done FROM task") == [("Review proposal", 1)]
    run("-m", "examples.team_tasks", "--dir", str(tmp_path), code=2)


def test_the_survey_empties_only_directories_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete")
    run("-m", "examples.field_survey", "--dir", str(tmp_path), code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_devices_that_differ_are_told_apart(tmp_path: Path) -> None:
    for name, text in (("biscoe", "one"), ("dream", "another")):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            for table in ("penguin", "station"):
                connection.execute(f"CREATE TABLE {table} (id)")
            connection.execute("CREATE TABLE note (id, text)")
            connection.execute("INSERT INTO note VALUES ('k', ?)", (text,))
            connection.commit()
    script = """
import sys
from examples.field_survey.outcome import differences, do_agree
from examples.field_survey.reports import Result
results = {name: Result(name, f"{sys.argv[1]}/{name}.db", {}, name) for name in ("biscoe", "dream")}
print(do_agree(results), *differences(results))
"""
    said = run("-c", script, str(tmp_path))
    assert said.split() == ["False", "Note", "k:", "biscoe", "has", "('k',", "'one');", "dream", "has", "('k',", "'another')"]


def listen_to_ctrl_c() -> None:
    """Programs that a shell starts in the background are told to ignore it, and hand that on to theirs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the device processes through Linux's /proc")
def test_ctrl_c_ends_every_device(tmp_path: Path) -> None:
    survey = subprocess.Popen(
        [sys.executable, "-m", "examples.field_survey", "--dir", str(tmp_path / "run"), "--pace", "5"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=listen_to_ctrl_c,
    )
    assert survey.stdout is not None
    try:
        for line in survey.stdout:
            if "rows" in line:  # a device has said something
                break
        devices = Path(f"/proc/{survey.pid}/task/{survey.pid}/children").read_text().split()
        assert len(devices) == 3
        survey.send_signal(signal.SIGINT)
        rest, _ = survey.communicate(timeout=60)
        assert survey.returncode == 130
        assert "Stopped." in rest
        assert not [pid for pid in devices if Path(f"/proc/{pid}").exists()]
    finally:
        survey.kill()
        survey.wait()
        survey.stdout.close()


@pytest.mark.slow
def test_the_benchmarks_run_and_write_their_numbers(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    said = run("-m", "benchmarks", "--runs", "1", "--scale", "0.001", "--json", str(numbers), seconds=900)
    results = json.loads(numbers.read_text())["results"]
    assert len(results) == len(CASES)
    assert all(result["name"] in said and result["ratio"] >= 0 for result in results)
