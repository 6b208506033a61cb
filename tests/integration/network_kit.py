"""Two network namespaces and a link between them, for tests that take a network away.

They need Linux, the right to make namespaces, and ``ip`` of iproute2. Where these should be, in CI, their lack is a failure.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.integration.real_tools import lacks

__all__ = ["SERVER", "Link", "a_link", "linked"]

SERVER = "10.213.77.1"
_NEAR = "10.213.77.2"
_SECONDS = 60
_numbers = itertools.count()


class Link:
    """Two namespaces, and a link between them that a test takes down and up."""

    def __init__(self, far: str, near: str, cable: str) -> None:
        self.far, self.near, self._cable = far, near, cable

    def down(self) -> None:
        _run("ip", "-n", self.far, "link", "set", self._cable, "down")

    def up(self) -> None:
        _run("ip", "-n", self.far, "link", "set", self._cable, "up")

    def swallow(self) -> None:
        """What the far side sends gets lost on the way, while the link is up: nobody is told."""
        _run("ip", "-n", self.far, "route", "add", "blackhole", f"{_NEAR}/32")

    def carry(self) -> None:
        _run("ip", "-n", self.far, "route", "del", "blackhole", f"{_NEAR}/32")


@contextmanager
def linked() -> Iterator[Link]:
    """A link, both of whose ends are taken away again whatever happens."""
    name = f"ls{os.getpid()}n{next(_numbers)}"
    far, near = f"{name}a", f"{name}b"
    with ExitStack() as stack:
        for namespace in (far, near):
            _run("ip", "netns", "add", namespace)
            stack.callback(_run, "ip", "netns", "del", namespace)
        _run("ip", "link", "add", "cable", "netns", far, "type", "veth", "peer", "name", "cable", "netns", near)
        for namespace, address in ((far, SERVER), (near, _NEAR)):
            _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "cable")
            _run("ip", "-n", namespace, "link", "set", "cable", "up")
        yield Link(far, near, "cable")


def _missing() -> str:
    """What is missing, empty when nothing is."""
    if shutil.which("ip") is None:
        return "ip of iproute2 is not installed"
    try:
        with linked():
            return ""
    except subprocess.CalledProcessError as error:
        return f"no namespaces can be made here: {error.stderr.decode().strip()}"


@contextmanager
def a_link() -> Iterator[Link]:
    """A link for one test, which is left out where none can be made."""
    lacks(_missing())
    with linked() as link:
        yield link


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
