"""A disk that takes no more, and files that may not be written, in processes that the system itself holds back."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("limited_process.py")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the limits are those of POSIX")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can get to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in (folder, folder / "locked", folder / "open"):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        yield folder
        (folder / "locked").chmod(0o755)


def said(limit: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each attempt."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), limit, str(folder)], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return {line["did"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_a_disk_that_takes_no_more_is_named_and_loses_nothing(folder: Path) -> None:
    attempts = said("size", folder)
    names = {did: attempt["error"] for did, attempt in attempts.items()}
    assert names == {
        "write at the end of the block": "DiskFailed",
        "write in the middle of the block": "DiskFailed",
        "read": None,
        "write with room again": None,
        "read again": None,
        "open a new file": "DiskFailed",
        "open the file": "DiskFailed",
        "open a new file with no room at all": "DiskFailed",
        "look for new files": None,
        "open a new file with room again": None,
        "open the file with room again": None,
    }
    assert (attempts["read"]["result"], attempts["read again"]["result"]) == (1, 2)
    assert attempts["look for new files"]["result"] == []
    for attempt in attempts.values():
        if attempt["error"]:
            assert "rolled back" in str(attempt["message"])
            assert "a limit on the size of files" in str(attempt["hint"])


def test_files_and_folders_that_may_not_be_written_are_named(folder: Path) -> None:
    attempts = said("rights", folder)
    names = {did: attempt["error"] for did, attempt in attempts.items()}
    assert names == {
        "open in a folder that may not be written": "NotWritable",
        "make a file there": "StoreUnusable",
        "read a file that may not be written": None,
        "write it": "NotWritable",
        "read it again": None,
        "compact it": "NotWritable",
        "delete it": "NotWritable",
        "see whether it is there": None,
    }
    for attempt in attempts.values():
        if attempt["error"]:
            assert "Nothing was changed" in str(attempt["message"])
            assert "write the file and " in str(attempt["hint"])
    assert attempts["read it again"]["result"] == 0
    assert sorted(path.name for path in (folder / "locked").iterdir()) == ["notes.db"]
