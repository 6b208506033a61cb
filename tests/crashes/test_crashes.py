"""Processes killed at any moment, disks that fail at any call and files that are damaged lose nothing: some of each.
``python -m tests.crashes`` does hundreds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.real_tools import lacks, needs
from tests.integration.test_full_disk import may_mount

ROOT = Path(__file__).parents[2]
SECONDS = 600

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="kills and breaks disks as Linux lets it")]


def run(*arguments: str) -> None:
    """In a process of its own, as what forks must have no threads."""
    command = [sys.executable, "-W", "error", "-m", "tests.crashes", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", [1])
def test_who_is_killed_at_any_moment_loses_nothing(seed: int) -> None:
    run("--kills", "15", "--seed", str(seed))


@pytest.mark.parametrize("seed", [1])
def test_a_disk_that_fails_at_any_call_loses_nothing(seed: int) -> None:
    needs(cc="gcc")
    run("--faults", "12", "--seed", str(seed))


@pytest.mark.parametrize("seed", [1])
def test_a_disk_that_is_full_loses_nothing(seed: int) -> None:
    if not may_mount():
        lacks("the right to make namespaces")
    run("--full", "8", "--seed", str(seed))


@pytest.mark.parametrize("files", ["plain", "encrypted"])
@pytest.mark.parametrize("seed", [1])
def test_a_damaged_file_says_so_and_is_made_anew_by_the_remote(seed: int, files: str) -> None:
    run("--damages", "5", "--seed", str(seed), *(["--encrypted"] if files == "encrypted" else []))
