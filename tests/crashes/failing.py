"""Disks that are full or broken, in every phase: system calls on files that fail, and a small disk with hardly any room.

``faults.c`` is compiled and loaded before everything else, and a disk is mounted where nobody else sees it, both of which need
a process of their own (``with_faults``, ``with_small_disk``). A phase must come to its end, or to an error that says what to
do, and to its end the next time, in the same process, when nothing fails any more.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import LocalStoreError
from tests.crashes.checking import Trial
from tests.crashes.processes import Failure, Run
from tests.crashes.world import PHASES, World

__all__ = ["Failing", "Filling", "with_faults", "with_small_disk"]

SOURCE = Path(__file__).with_name("faults.c")
FULL = 1 | 4 | 8 | 16  # what the kinds of calls are that fail: see ``faults.c``
BROKEN = FULL | 2
READS = 32
LONGEST = 40  # calls that fail in a row: less than would let a session wait for long
FOR_EVER = 1 << 30
SMALL_DISK = "TESTS_CRASHES_DISK"
SMALL_DISK_BYTES = 64 << 20
ROOM_MAX = 1 << 20  # more than most phases take
FULL_SECONDS = 0.5  # then somebody makes room
Trouble = Callable[[World], AbstractContextManager[object]]


@dataclass(frozen=True)
class Fault:
    """What a disk answers, and to which calls."""

    name: str
    code: int
    kinds: int


FAULTS = [
    Fault("full", errno.ENOSPC, FULL),
    Fault("broken for writing", errno.EIO, BROKEN),
    Fault("broken for reading", errno.EIO, READS),
    Fault("over quota", errno.EDQUOT, FULL),
]


def with_faults() -> None:
    """Start this program anew with the library loaded, if it is not."""
    if _library() is not None:
        return
    place = Path(tempfile.mkdtemp(prefix="faults-")) / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(place), str(SOURCE), "-ldl"], check=True)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "LD_PRELOAD": str(place)})


def with_small_disk() -> Path:
    """Start this program anew where it may mount, if it may not; the folder of a small disk that it alone sees."""
    place = os.environ.get(SMALL_DISK)
    if place is None:
        place = tempfile.mkdtemp(prefix="disk-")
        command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), sys.executable]
        os.execvpe(command[0], [*command, *sys.orig_argv[1:]], {**os.environ, SMALL_DISK: place})
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "disk", place], check=True)
    return Path(place)


def _library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "faults_arm") else None


class _Troubled(Trial):
    """A trial whose strikes are disks that do not do what they should."""

    def __init__(self, folder: Path, seed: int, log: Callable[[str], object]) -> None:
        super().__init__(folder, seed, log)
        self.errors: Counter[str] = Counter()

    def remarks(self) -> list[str]:
        return [f"{count:>6} ended with {name}" for name, count in self.errors.most_common()]

    def count(self, run: Run, name: str, what: str) -> None:
        self.strikes[name] += 1
        for kind, message, hint in run.said("error"):
            self.errors[kind] += 1
            if kind == "ProtocolError" and "StoreDamaged" not in message:  # as SQLite calls a read that failed
                raise Failure(f"{what}: sync stopped, and does not go on by itself: {message}")
            if not hint:
                raise Failure(f"{what}: an error without a way out: {message}")
        if not run.said("error"):
            self.errors["no error"] += 1


class Failing(_Troubled):
    """Calls fail."""

    def __init__(self, folder: Path, seed: int, log: Callable[[str], object]) -> None:
        super().__init__(folder, seed, log)
        self._calls: dict[tuple[str, str], int] = {}
        shutil.rmtree(Path(os.environ["LD_PRELOAD"]).parent, ignore_errors=True)  # it is in memory now

    def strike(self, name: str, chance: random.Random) -> str:
        fault = chance.choice(FAULTS)
        calls = self._calls.get((name, fault.name))
        if calls is None:
            run = self.process(through(failing(fault, FOR_EVER, 0), PHASES[name]), name)
            self._calls[name, fault.name] = int(run.told("calls")[0])
            return f"{name} without a fault"
        at, count = chance.randrange(calls), chance.choice([1, 1, 2, 5, LONGEST])
        what = f"{name} on a disk that is {fault.name} from call {at} of {calls} on, {count} times"
        self.count(self.process(through(failing(fault, at, count), PHASES[name]), what), name, what)
        return what


class Filling(_Troubled):
    """There is hardly any room."""

    def strike(self, name: str, chance: random.Random) -> str:
        room = int(ROOM_MAX * chance.random() ** 3)
        what = f"{name} on a disk with {room} bytes of room"
        self.count(self.process(through(filling(room), PHASES[name]), what), name, what)
        return what


def through(trouble: Trouble, phase: Callable[[World], None]) -> Callable[[World], None]:
    """The phase in trouble, and if that came to an error, the phase again without."""

    def act(world: World) -> None:
        failed = None
        with trouble(world):
            try:
                phase(world)
            except LocalStoreError as error:
                failed = type(error).__name__, "".join(traceback.format_exception(error)), error.hint
            except sa.exc.DatabaseError as error:
                if phase is not World.migrating:  # the engine is the application's own there
                    raise
                failed = "DatabaseError", str(error.orig), "as SQLAlchemy has it"
        if failed is not None:
            world.tell("error", *failed)
            phase(world)

    return act


def failing(fault: Fault, at: int, count: int) -> Trouble:
    """So many calls fail, from one on."""

    @contextmanager
    def trouble(world: World) -> Iterator[None]:
        library = _library()
        assert library is not None
        library.faults_arm(str(world.folder).encode(), fault.kinds, at, at + count, fault.code)
        try:
            yield
        finally:
            world.tell("calls", str(library.faults_disarm()))

    return trouble


def filling(room: int) -> Trouble:
    """The disk has so much room, until somebody makes some more, or the phase has ended."""

    @contextmanager
    def trouble(world: World) -> Iterator[None]:
        ballast = world.folder.with_name("ballast")
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(world.folder).free - room))
        timer = threading.Timer(FULL_SECONDS, ballast.unlink, kwargs={"missing_ok": True})
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            ballast.unlink(missing_ok=True)

    return trouble
