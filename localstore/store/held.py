"""A lock on a file that goes with its process, however that ends: what nobody holds was left behind by one that was killed.
Surer than a process's number, which the system gives out again.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["locked"]


def locked(path: Path) -> int | None:
    """The open file with its lock, made when there is none; None when another has it or removed it just now, or the file
    system knows no locks. On Windows, where an open file cannot be removed, to have it open is the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if sys.platform == "win32":
        return descriptor
    import fcntl

    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    os.close(descriptor)
    return None
