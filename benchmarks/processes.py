"""Processes that run ``benchmarks.device``, for what can only be measured of a whole one. They print what they find."""

import json
import subprocess
import sys
from pathlib import Path

__all__ = ["SECONDS", "Process", "number_of"]

SECONDS = 600  # more than any process takes
_ROOT = Path(__file__).parents[1]


class Process:
    """A running ``benchmarks.device``."""

    def __init__(self, what: str, directory: Path, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.device", what, str(directory), *map(str, arguments)]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, encoding="utf-8")

    def said(self) -> object:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The other process ended.")
        return json.loads(line)

    def number(self) -> float:
        found = self.said()
        assert isinstance(found, int | float)
        return float(found)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self._process.kill()
        self._process.communicate(timeout=SECONDS)


def number_of(what: str, directory: Path, *arguments: object) -> float:
    with Process(what, directory, *arguments) as process:
        return process.number()
