"""A reset, or an undoing, that is killed at any statement: the file is as before or as afterwards, and nothing between."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL, and no fork")

SCRIPT = Path(__file__).with_name("reset_process.py")
STEP = 15  # statements from one kill to the next


@pytest.mark.parametrize("what", ["recover", "discard", "seed", "undo"])
def test_a_file_is_as_before_or_as_afterwards(tmp_path: Path, what: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), what, str(tmp_path), str(STEP)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    states, *kills = map(json.loads, done.stdout.splitlines())
    assert states["before"] != states["after"]
    assert {kill["found"] for kill in kills} == {states["before"], states["after"]}
    assert {kill["in_the_end"] for kill in kills} == {states["after"]}, "it can be done again"
    assert len(kills) > 10
