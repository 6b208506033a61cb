"""A real link between two network namespaces goes down and up: the device tries again at once, and not too often.

It needs Linux, the right to make namespaces, and ``ip`` of iproute2. Where these should be, in CI, their lack is a failure.
"""

from __future__ import annotations

import itertools
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.network_kit import SERVER, Link, a_link, linked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and netlink are Linux's")

HERE = Path(__file__).parent
PORT = "7313"
SILENCE_SECONDS = 60
QUIET_SECONDS = 5.0


class Process:
    """A script in a namespace, and the lines that it says."""

    def __init__(self, namespace: str, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                self._lines.put(line.strip())
        self._lines.put(None)

    def says(self) -> list[str]:
        """The next line, as words."""
        line = self._lines.get(timeout=SILENCE_SECONDS)
        assert line is not None, "it ended"
        return line.split()

    def hear(self, *words: str) -> list[list[str]]:
        """Wait for a line that begins so; all lines up to it."""
        heard = [self.says()]
        while heard[-1][: len(words)] != list(words):
            heard.append(self.says())
        return heard

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def end(self) -> list[list[str]]:
        """Let it come to its end; what it said still, from the first attempt to the last."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(SILENCE_SECONDS) == 0
        self._reader.join()
        rest = []
        while (line := self._lines.get_nowait()) is not None:
            rest.append(line.split())
        return rest

    def kill(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._reader.join()


@pytest.fixture
def link() -> Iterator[Link]:
    with a_link() as link:
        yield link


@pytest.fixture
def server(link: Link) -> Iterator[Process]:
    process = Process(link.far, "answering_process.py", SERVER, PORT)
    try:
        process.hear("listening")
        yield process
    finally:
        process.kill()


@contextmanager
def device(link: Link, folder: Path) -> Iterator[Process]:
    process = Process(link.near, "network_process.py", str(folder / "notes.db"), SERVER, PORT)
    try:
        yield process
    finally:
        process.kill()


def attempts(lines: list[list[str]]) -> list[tuple[float, bool]]:
    """When there was an attempt to connect, and whether the server answered."""
    return [(float(words[1]), words[2] == "ok") for words in lines if words[0] == "connect"]


@pytest.mark.usefixtures("server")
def test_a_device_connects_as_soon_as_its_link_is_up_again(link: Link, tmp_path: Path) -> None:
    link.down()
    with device(link, tmp_path) as process:
        process.hear("opened")
        process.tell("written offline")
        first = attempts(process.hear("connect"))
        assert [ok for _, ok in first] == [False]
        link.up()  # its next attempt by itself would be an hour from now
        heard = process.hear("uploaded", "written", "offline")
        assert attempts(heard)[-1][1]
        process.end()


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_link_that_comes_and_goes_does_not_make_it_try_all_the_time(link: Link, tmp_path: Path) -> None:
    link.down()
    with device(link, tmp_path) as process:
        process.hear("opened")
        heard = process.hear("connect")
        for _ in range(20):
            link.up()
            link.down()
        link.up()
        process.tell("at last")
        heard += process.hear("uploaded", "at", "last")
        heard += process.end()
    times = [at for at, _ in attempts(heard)]
    assert attempts(heard)[-1][1]
    # the first attempt was by itself, and no hint
    assert all(later - earlier > QUIET_SECONDS - 0.5 for earlier, later in itertools.pairwise(times[1:]))


def test_nothing_is_left_behind(link: Link) -> None:
    with linked() as other:
        assert other.near in namespaces()
    assert other.near not in namespaces()
    assert link.near in namespaces()


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, encoding="utf-8").stdout
