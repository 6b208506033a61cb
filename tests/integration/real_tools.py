"""Programs of Debian packages that tests start: whether they are there, and waiting for what they do.

Where ``.ci/packages`` is installed, in CI, the lack of one is a failure; elsewhere the test is left out.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import pytest

__all__ = ["PATIENCE_SECONDS", "lacks", "needs", "until"]

PATIENCE_SECONDS = 120.0


def needs(**packages: str) -> None:
    """Leave the test out, or fail it in CI, unless these programs are there; each with the package that has it."""
    missing = sorted(package for program, package in packages.items() if shutil.which(program) is None)
    lacks(f"Install it: apt-get install {' '.join(missing)}" if missing else "")


def lacks(what: str) -> None:
    """The same for anything that a machine may lack; an empty text for nothing."""
    if what and os.environ.get("CI"):
        pytest.fail(what)
    if what:
        pytest.skip(what)


def until(is_so: Callable[[], bool], what: str) -> None:
    """Look again and again at what another process does, which tells nobody, for a limited time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)
