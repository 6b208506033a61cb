"""A shared folder on a real disk that is full, then read-only, then neither: the status says so, and nothing is lost.

It needs Linux and the right to make namespaces. Where that should be, in CI, its lack is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UNSHARED = ["unshare", "--mount"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def may_mount() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*UNSHARED, "true"], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_disk_that_fills_up_and_becomes_read_only_loses_nothing(tmp_path: Path) -> None:
    if not may_mount() and not os.environ.get("CI"):
        pytest.skip("needs the right to make namespaces")
    command = [*UNSHARED, sys.executable, str(HERE / "full_disk_process.py"), str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stderr
