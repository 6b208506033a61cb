"""A disk that fails at a given call, and one whose user dies there: told by Python's audit events, so nothing is replaced.

An audit hook cannot be taken away again: one for the whole process asks whoever is watching now.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Died", "FailingDisk", "failing"]

_CHANGES = frozenset({"os.remove", "os.rename", "os.mkdir", "os.rmdir"})
_LOOKS = frozenset({"os.scandir", "os.listdir"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_watching: list[FailingDisk] = []
_is_installed = False


class Died(BaseException):
    """Nothing is done after it, as little as by a process that was killed."""


@dataclass
class FailingDisk:
    """What happens to the calls on one folder.

    Args:
        folder: whose calls are counted.
        at: which of them fails first, from 0.
        error: what it fails with; None: its caller dies.
        only_once: whether those after it go well; else all but removing fails as well.
        only_changes: whether looking and reading neither count nor fail.
    """

    folder: Path
    at: int
    error: int | None = None
    only_once: bool = False
    only_changes: bool = False
    count: int = 0

    @property
    def has_failed(self) -> bool:
        return self.count > self.at

    def check(self, event: str, path: object, flags: object) -> None:
        is_write = event == "open" and isinstance(flags, int) and bool(flags & _WRITES)
        is_change = event in _CHANGES or is_write
        if not is_change and (self.only_changes or (event not in _LOOKS and event != "open")):
            return
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(str(self.folder)):
            return
        self.count += 1
        if self.count <= self.at or (self.only_once and self.count > self.at + 1):
            return
        if self.error is None:
            raise Died
        if event not in {"os.remove", "os.rmdir"} or self.count == self.at + 1:
            raise OSError(self.error, errno.errorcode[self.error], str(path))


@contextmanager
def failing(disk: FailingDisk) -> Iterator[FailingDisk]:
    """Let a disk fail for the block."""
    global _is_installed
    if not _is_installed:
        sys.addaudithook(_hook)
        _is_installed = True
    _watching.append(disk)
    try:
        yield disk
    finally:
        _watching.remove(disk)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and (event == "open" or event in _CHANGES or event in _LOOKS):
        for disk in _watching:
            disk.check(event, arguments[0], arguments[2] if event == "open" else None)
