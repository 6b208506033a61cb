"""Wake-ups from Linux itself, straight into an event loop: no thread waits for them, and nothing looks at a clock meanwhile.

Linux gives each user few of these watches' descriptors (128, mostly), so all watches of an event loop share one. It tells of
one directory each, not of those below; who listens adds them as they come. This module knows paths only.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import struct
import sys
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Listener", "can_listen", "is_local_disk"]

_CLOSE_WRITE, _MOVED_TO, _CREATE = 0x8, 0x80, 0x100
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLY_DIRECTORIES = 0x01000000
_MASK = _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE_SELF | _MOVE_SELF | _ONLY_DIRECTORIES
_LOST = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _OVERFLOW  # see for yourself what is there now
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024
_LOCAL = re.compile("bcachefs|btrfs|exfat|ext[234]|f2fs|jfs|nilfs2|ntfs3|overlay|ramfs|reiserfs|tmpfs|vfat|xfs|zfs")

_descriptors: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Descriptor] = weakref.WeakKeyDictionary()


def can_listen() -> bool:
    """Whether this system has it."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "inotify_init1")


def is_local_disk(path: Path) -> bool:
    """Whether all that changes below a path is told, as it can only be changed from here. Not so for network shares, nor for
    file systems that are not known to be none."""
    with suppress(OSError, ValueError):
        device = path.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            mount, _, kind = line.partition(" - ")
            if mount.split(" ")[2] == number:
                return _LOCAL.fullmatch(kind.split(" ")[0]) is not None
    return False


class Listener:
    """Hears of what comes into directories, until it is closed. To be made and used in an event loop.

    Args:
        run_blocking: runs what a network share may hold up, beside the event loop.

    Attributes:
        heard: set when something came, or ``is_lost``.
        is_lost: whether something may have been missed, or a directory went away: the listener has to look for itself.
        is_closed: whether it hears nothing any more.
    """

    def __init__(self, run_blocking: Callable[..., Awaitable[Any]]) -> None:
        loop = asyncio.get_running_loop()
        descriptor = _descriptors.get(loop)
        if descriptor is None:
            descriptor = _descriptors[loop] = _Descriptor(loop)
        self._descriptor = descriptor
        self._run_blocking = run_blocking
        self._paths: list[Path] = []
        self.heard = asyncio.Event()
        self.is_lost = False
        self.is_closed = False

    async def add(self, directory: Path) -> None:
        """Hear of a directory from now on; who needs what came before looks afterwards.

        Raises:
            OSError: it is not there, is no directory, or the system has no more watches.
        """
        descriptor = self._descriptor
        await asyncio.shield(descriptor.add(self, directory, self._run_blocking(descriptor.watch, directory)))

    def take(self) -> list[Path]:
        """The paths that came since."""
        found, self._paths, self.is_lost = self._paths, [], False
        self.heard.clear()
        return found

    def close(self) -> None:
        """Hear nothing any more."""
        self.is_closed = True
        self._descriptor.leave(self)

    def hear(self, path: Path | None, *, lost: bool) -> None:
        """Something happened; for the descriptor."""
        self.is_lost = self.is_lost or lost
        if path is not None:
            self._paths.append(path)
        self.heard.set()


class _Descriptor:
    """One event loop's descriptor, and who listens to which watch of it.

    It is closed when nobody listens any more. Only where a thread may still be adding a watch, whose task was cancelled, nobody
    knows when it is done: then it is closed when the thread has let go of it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.listeners: dict[int, dict[Listener, Path]] = {}
        self._adding: set[asyncio.Future[int]] = set()
        self._may_be_in_use = False
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._number = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._close = weakref.finalize(self, os.close, self._number)
        loop.add_reader(self._number, _reader_of(self))

    def watch(self, directory: Path) -> int:
        """Have the system watch a directory; twice is the same watch."""
        return _checked(self._libc.inotify_add_watch(self._number, os.fsencode(directory), _MASK))

    def add(self, listener: Listener, directory: Path, watching: Awaitable[int]) -> asyncio.Future[int]:
        """Let a listener hear of a directory as soon as it is watched. All watches stay meanwhile: it may be one of them."""
        job = asyncio.ensure_future(watching)
        self._adding.add(job)

        def added(_: object) -> None:
            self._adding.discard(job)
            if job.cancelled():
                self._may_be_in_use = True
            elif job.exception() is None:
                self.listeners.setdefault(job.result(), {})
                if not listener.is_closed:
                    self.listeners[job.result()][listener] = directory
            self._tidy()

        job.add_done_callback(added)
        return job

    def leave(self, listener: Listener) -> None:
        for listening in self.listeners.values():
            listening.pop(listener, None)
        self._tidy()

    def _tidy(self) -> None:
        """Let go of what nobody listens to."""
        if self._adding:
            return
        for watch in [watch for watch, listening in self.listeners.items() if not listening]:
            del self.listeners[watch]
            self._libc.inotify_rm_watch(self._number, watch)
        if not self.listeners and _descriptors.get(self._loop) is self:
            del _descriptors[self._loop]
            self._loop.remove_reader(self._number)
            if not self._may_be_in_use:
                self._close()

    def read(self) -> None:
        """Pass on what is there to be read."""
        try:
            data = os.read(self._number, _READ_BYTES)
        except OSError:  # nothing, after all
            return
        at = 0
        while at < len(data):
            watch, mask, _, size = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0")
            at += _EVENT.size + size
            self._pass_on(watch, mask, name)

    def _pass_on(self, watch: int, mask: int, name: bytes) -> None:
        lost = bool(mask & _LOST)
        if mask & _OVERFLOW:
            for listener in {listener for listening in self.listeners.values() for listener in listening}:
                listener.hear(None, lost=True)
            return
        for listener, directory in list(self.listeners.get(watch, {}).items()):
            if lost or name:
                listener.hear(directory / os.fsdecode(name) if name else None, lost=lost)
        if mask & _IGNORED:
            self.listeners.pop(watch, None)


def _reader_of(descriptor: _Descriptor) -> Callable[[], None]:
    """Reads without keeping alive what an event loop that was thrown away would never let go of."""
    alive = weakref.ref(descriptor)

    def read() -> None:
        found = alive()
        if found is not None:
            found.read()

    return read


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
