"""Processes that are forked off, heard until they end, and killed when that is asked for.

Who forks has no thread and no realm of its own, so that such a process is as good as any, without the second that an
interpreter takes to start.
"""

from __future__ import annotations

import json
import logging
import os
import random
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crashes.world import World

__all__ = ["Failure", "Run", "forked"]

PATIENCE_SECONDS = 120.0


class Failure(AssertionError):  # noqa: N818  what was looked for, and no error of the search
    """Something that a crash or a broken disk must not lead to."""


@dataclass
class Run:
    """What a process said until it ended or was killed."""

    lines: list[list[str]] = field(default_factory=list)
    is_killed: bool = False
    seconds: float = 0.0

    def said(self, word: str) -> list[list[str]]:
        """What came with a word, line by line."""
        return [rest for first, *rest in self.lines if first == word]

    def told(self, word: str) -> list[str]:
        """The same in one list."""
        return [argument for rest in self.said(word) for argument in rest]


def forked(
    folder: Path,
    action: Callable[[World], None],
    what: str,
    chance: random.Random,
    *,
    after: float | None = None,
    key: bytes | None = None,
) -> Run:
    """Let a process do something in a world.

    Args:
        folder: the world's.
        action: what.
        what: its name.
        chance: for details.
        after: how many seconds after it began it is killed; None: it comes to its end.
        key: of the world's files.

    Raises:
        Failure: it ended in another way.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _act(action, World(folder, chance, lambda *words: _say(writing, *words), key), writing)
    os.close(writing)
    try:
        return _watch(pid, reading, what, after)
    finally:
        os.close(reading)


def _act(action: Callable[[World], None], world: World, writing: int) -> None:
    """In the forked process, which never returns from here."""
    code = 1
    logging.disable(logging.WARNING)  # what is expected here
    try:
        _say(writing, "begin")
        action(world)
        _say(writing, "end")
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, it is told
        _say(writing, "failed", json.dumps(traceback.format_exc()))
    finally:
        os._exit(code)


def _say(writing: int, *words: str) -> None:
    data = ("\t".join(" ".join(word.split()) for word in words) + "\n").encode()
    while data:
        data = data[os.write(writing, data) :]


def _watch(pid: int, reading: int, what: str, after: float | None) -> Run:
    run, data, begun = Run(), b"", time.monotonic()
    limit = begun + (PATIENCE_SECONDS if after is None else after)
    killed = False
    while True:
        ready = [] if killed else select.select([reading], [], [], max(0.0, limit - time.monotonic()))[0]
        if not ready and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        chunk = os.read(reading, 1 << 16)
        if not chunk:
            break
        data += chunk
    _, status = os.waitpid(pid, 0)
    run.seconds = time.monotonic() - begun
    run.lines = [line.split("\t") for line in data.decode().split("\n")[:-1]]
    ended = any(line[0] == "end" for line in run.lines)
    run.is_killed = killed and not ended
    for text in run.told("failed"):
        raise Failure(f"{what}: {json.loads(text)}")
    if killed and after is None:
        raise Failure(f"{what} did not come to its end in {PATIENCE_SECONDS:.0f} seconds")
    if not killed and not ended:
        raise Failure(f"{what} ended with status {status}")
    return run
