"""A shared folder's snapshots, and what they let it forget: one directory in each partition, beside those of the devices.

    <partition>/snapshots/000000000003-<hash>.sqlite         a snapshot, as it was written
    <partition>/snapshots/000000000003-<hash>.snapshot.json  its size, hash, and the last number of each device that is in it
    <partition>/snapshots/000000000003-<hash>.trimmed.json   up to which numbers changesets may be missing for good

Every file is written once, whole, and under a name that says what it holds, so that any device may write one at any time,
whatever carries the files and in whatever order they arrive. History goes in two steps with a day between them: first it is
said what may go, then it goes. So nobody finds a file missing without knowing why. What is done here blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import msgspec

from localstore.changes import Device, Number
from localstore.errors import SnapshotUnusable
from localstore_adapters._folder_files import (
    Unpublished,
    is_aside,
    names_in,
    parse_device,
    parse_name,
    publish,
    sync_directory,
)

__all__ = ["SNAPSHOTS", "FolderSnapshots", "Snapshot"]

SNAPSHOTS = "snapshots"
Numbers = Mapping[Device, Number]
"""The last number of each device, and so a place in history."""

_NAME = re.compile(r"([0-9]{12})-([0-9a-f]{16})\.(snapshot|trimmed)\.json")
_CONTENT = re.compile(r"([0-9]{12})-[0-9a-f]{16}\.sqlite")
_FORMAT = 1
_NOTE_BYTES_MAX = 16 * 1024 * 1024
_KEPT = 2  # snapshots, so that who reads the one before the latest can go on
_DAY_MS = 86_400_000
_CHUNK = 1 << 20


class _Format(msgspec.Struct, frozen=True):
    """What every note to come has."""

    format: int


class _Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a ``.json`` file here holds. Those of a snapshot have the last three fields."""

    format: int
    remote_id: str
    created_ms: int
    numbers: dict[str, int]
    file: str = ""
    byte_count: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that somebody has published; its file may be missing yet, or any more.

    Attributes:
        name: of its note.
        order: later ones have higher numbers; two that were written at once may have the same.
        created_ms: by its writer's clock, and not before those it follows.
        numbers: the last changeset of each device that is in it.
        file, byte_count, sha256: where it lies, and what that has to be.
    """

    name: str
    order: int
    created_ms: int
    numbers: Numbers
    file: str
    byte_count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Mark:
    """What somebody said may go."""

    name: str
    order: int
    created_ms: int
    numbers: Numbers


class FolderSnapshots:
    """The snapshots of one partition, as one adapter sees them. Not thread-safe.

    Args:
        part: the partition's directory; it need not exist.
        remote_id: of the folder; what belongs to another is passed over.
        own: the device that writes and reads.
        now_ms: the wall clock.
        random_bytes: for names of what is being written.
        keep_ms: how long history is kept behind a snapshot.
    """

    def __init__(
        self,
        part: Path,
        remote_id: str,
        own: Device,
        *,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        keep_ms: int,
    ) -> None:
        self.path = part / SNAPSHOTS
        self.floors: dict[Device, Number] = {}
        self.warnings: tuple[str, ...] = ()
        self._part = part
        self._remote_id = remote_id
        self._own = own
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._keep_ms = keep_ms
        self._grace_ms = min(_DAY_MS, keep_ms)
        self._notes: dict[str, tuple[str, _Note] | None] = {}
        self._unreadable: dict[str, str] = {}
        self._snapshots: list[Snapshot] = []
        self._marks: list[_Mark] = []
        self._damaged: set[tuple[object, ...]] = set()

    @property
    def exist(self) -> bool:
        """Whether anybody makes snapshots here, as of the last look."""
        return bool(self._snapshots)

    def look(self) -> None:
        """See what is there now. Names are read once, as what they name never changes."""
        try:
            names = names_in(self.path)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        self._unreadable = {}
        self._notes = {name: self._notes.get(name) or self._read(name) for name in names if _NAME.fullmatch(name)}
        self.warnings = tuple(f"{self.path / name} {why}. Everything else goes on." for name, why in self._unreadable.items())
        found = sorted((int(name[:12]), name, *read) for name, read in self._notes.items() if read is not None)
        written = [(order, name, note) for order, name, kind, note in found if kind == "snapshot"]
        times = _times([note.created_ms for _, _, note in written], self._now_ms())
        self._snapshots = [
            Snapshot(name, order, ms, _numbers(note), note.file, note.byte_count, note.sha256)
            for (order, name, note), ms in zip(written, times, strict=True)
        ]
        self._marks = [
            _Mark(name, order, note.created_ms, _numbers(note)) for order, name, kind, note in found if kind == "trimmed"
        ]
        self.floors = _highest(mark.numbers for mark in self._marks)

    def latest(self) -> Snapshot | None:
        """The newest one that seems to be whole, as of the last look."""
        return next(self._usable(), None)

    def holds(self, device: Device) -> Number:
        """Up to which number a device's changesets are in some snapshot, or gone, as of the last look.

        A snapshot's note says so also where its file, or what says that history went, has not arrived.
        """
        return max([self.floors.get(device, 0), *(snapshot.numbers.get(device, 0) for snapshot in self._snapshots)])

    def named(self, name: str) -> Snapshot | None:
        """The snapshot of that name, as of the last look."""
        return next((snapshot for snapshot in self._snapshots if snapshot.name == name), None)

    def hold_what_is_gone(self) -> bool:
        """Whether some snapshot that seems to be whole makes up for all that may be missing, as of the last look."""
        return any(_covers(snapshot.numbers, self.floors) for snapshot in self._usable())

    def read(self, snapshot: Snapshot, chunk_bytes: int = _CHUNK) -> Iterator[bytes]:
        """A snapshot's bytes. One that turns out to be damaged is passed over from then on, until its file changes.

        Raises:
            SnapshotUnusable: it is not there any more, or damaged.
        """
        digest, byte_count = hashlib.sha256(), 0
        try:
            file = (self.path / snapshot.file).open("rb")
        except FileNotFoundError as error:
            raise SnapshotUnusable(
                f"The folder does not have the snapshot {snapshot.file} any more.", hint="Ask for the latest again."
            ) from error
        with file:
            while chunk := file.read(chunk_bytes):
                digest.update(chunk)
                byte_count += len(chunk)
                yield chunk
        if byte_count != snapshot.byte_count or digest.hexdigest() != snapshot.sha256:
            self._damaged.add(self._signature(snapshot))
            raise SnapshotUnusable(f"The snapshot {snapshot.file} in the folder is damaged: it does not match its hash.")

    def unpublished(self) -> Unpublished:
        """A new one, to be written."""
        return Unpublished(self.path / f".{self._own.hex()}.{self._random_bytes(6).hex()}.tmp")

    def publish(self, written: Unpublished, numbers: Numbers) -> None:
        """Make what was written the latest snapshot: durable, and in full."""
        written.finish()
        self.look()
        order = self._next_order()
        digest = written.digest.hexdigest()
        name = f"{order:012d}-{digest[:16]}.sqlite"
        written.path.replace(self.path / name)
        try:
            sync_directory(self.path)
            self._publish(order, "snapshot", numbers, file=name, byte_count=written.byte_count, sha256=digest)
        except OSError:
            with contextlib.suppress(OSError):  # without its note it is of no use, and there may be no room
                (self.path / name).unlink()
            raise

    def sweep(self) -> None:
        """Remove what a crash left half written by this device."""
        with contextlib.suppress(OSError):
            for aside in self.path.glob(f".{self._own.hex()}.*.tmp"):
                aside.unlink()

    def trim(self, before: Numbers) -> None:
        """Let go of what is in a snapshot for longer than history is kept. May break off anywhere, and be done by two at once.

        Args:
            before: a place at which there is a whole snapshot that makes up for all that goes; else nothing is done.
        """
        self.look()
        kept = [snapshot for _, snapshot in zip(range(_KEPT), self._usable(), strict=False)]
        is_whole = any(snapshot.numbers == before and self._is_whole(snapshot) for snapshot in kept)
        if not is_whole or not _covers(before, self.floors):
            return
        now_ms = self._now_ms()
        aged = [snapshot for snapshot in self._snapshots if now_ms - snapshot.created_ms >= self._keep_ms]
        if aged:
            self._mark(_lowest([before, aged[-1].numbers, *(snapshot.numbers for snapshot in kept)]))
        self._remove_history(_highest(mark.numbers for mark in self._marks if self._is_past_grace(mark)))
        self._remove_snapshots(kept, aged[:-1])
        self._remove_marks()
        self._remove_asides(self.path)
        self.look()

    # -- inside

    def _mark(self, numbers: Numbers) -> None:
        if not _covers(self.floors, numbers):
            self._publish(self._next_order(), "trimmed", _highest([self.floors, numbers]))
            self.look()

    def _publish(self, order: int, kind: str, numbers: Numbers, **content: object) -> None:
        note = {
            "format": _FORMAT,
            "remote_id": self._remote_id,
            "created_ms": self._now_ms(),
            "numbers": {device.hex(): number for device, number in sorted(numbers.items())},
            **content,
        }
        data = msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n"
        name = f"{order:012d}-{hashlib.sha256(data).hexdigest()[:16]}.{kind}.json"
        publish(self.path, name, data, self._random_bytes)

    def _next_order(self) -> int:
        orders = [snapshot.order for snapshot in self._snapshots] + [mark.order for mark in self._marks]
        return 1 + max(orders, default=0)

    def _read(self, name: str) -> tuple[str, _Note] | None:
        """What a note says; None, and a warning, as long as it cannot be read."""
        match = _NAME.fullmatch(name)
        assert match is not None
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(_NOTE_BYTES_MAX)
            if hashlib.sha256(data).hexdigest()[:16] != match[2]:
                self._unreadable[name] = "is not whole yet, or is damaged"
                return None
            if msgspec.json.decode(data, type=_Format).format > _FORMAT:
                self._unreadable[name] = "was written by a newer localstore; upgrade localstore on this device"
                return None
            note = msgspec.json.decode(data, type=_Note)
        except FileNotFoundError:
            return None  # gone since it was listed
        except OSError as error:
            self._unreadable[name] = f"cannot be read: {error.strerror or error}"
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        ours = note.remote_id == self._remote_id
        sound = all(parse_device(device) and number > 0 for device, number in note.numbers.items())
        return (match[3], note) if ours and sound and (match[3] == "trimmed" or _CONTENT.fullmatch(note.file)) else None

    def _usable(self) -> Iterator[Snapshot]:
        """Newest first, those that seem to be whole; at last such as need what is gone, as of a device that was behind."""

        def use(snapshot: Snapshot) -> tuple[bool, int, str]:
            return _covers(snapshot.numbers, self.floors), snapshot.order, snapshot.name

        for snapshot in sorted(self._snapshots, key=use, reverse=True):
            with contextlib.suppress(OSError):
                size = (self.path / snapshot.file).stat().st_size
                if size == snapshot.byte_count and self._signature(snapshot) not in self._damaged:
                    yield snapshot

    def _signature(self, snapshot: Snapshot) -> tuple[object, ...]:
        try:
            found = (self.path / snapshot.file).stat()
        except OSError:
            return (snapshot.name,)
        return (snapshot.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def _is_whole(self, snapshot: Snapshot) -> bool:
        try:
            for _ in self.read(snapshot):
                pass
        except SnapshotUnusable:
            return False
        return True

    def _remove_history(self, numbers: Numbers) -> None:
        """Oldest first, so that what is left has no gap; and the directory, which its device makes again if it comes back."""
        for device, last in numbers.items():
            directory = self._part / device.hex()
            with contextlib.suppress(OSError):  # gone, another user's, or somebody reads there, where that matters: next time
                names = [name for name in map(parse_name, names_in(directory)) if name is not None and name.last <= last]
                for name in sorted(names, key=lambda name: name.last):
                    (directory / str(name)).unlink(missing_ok=True)
                self._remove_asides(directory)
                directory.rmdir()

    def _remove_snapshots(self, kept: Sequence[Snapshot], outdated: Sequence[Snapshot]) -> None:
        """Those older than all that are kept, also such whose notes were never written; and notes that nothing needs."""
        oldest = min(snapshot.order for snapshot in kept)
        for name in names_in(self.path):
            if (match := _CONTENT.fullmatch(name)) and int(match[1]) < oldest:
                self._remove(name)
        for snapshot in outdated:
            if snapshot.order < oldest:
                self._remove(snapshot.name)

    def _remove_marks(self) -> None:
        """Those that say nothing that a later one does not say."""
        for index, mark in enumerate(self._marks):
            later = self._marks[index + 1 :]
            if any(_covers(other.numbers, mark.numbers) and self._is_past_grace(other) for other in later):
                self._remove(mark.name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # gone, or as with history
            (self.path / name).unlink()

    def _remove_asides(self, directory: Path) -> None:
        """What devices left half written that did not come back for it. If one does write there now, it has to do so again."""
        before = self._now_ms() - _DAY_MS
        with contextlib.suppress(OSError):
            for name in filter(is_aside, names_in(directory)):
                if (directory / name).stat().st_mtime_ns // 1_000_000 < before:
                    (directory / name).unlink()

    def _is_past_grace(self, mark: _Mark) -> bool:
        return self._now_ms() - mark.created_ms >= self._grace_ms


def _numbers(note: _Note) -> Numbers:
    return {bytes.fromhex(device): number for device, number in note.numbers.items()}


def _times(written_ms: Sequence[int], now_ms: int) -> list[int]:
    """When snapshots were written, by what their writers' clocks said. None is older than one before it; and one from the
    future, of a clock that was wrong, is as old as the one that followed: else nothing would go until that time comes."""
    following, plausible = now_ms, deque[int]()
    for ms in reversed(written_ms):
        following = ms if ms <= now_ms else following
        plausible.appendleft(following)
    return list(accumulate(plausible, max))


def _covers(numbers: Numbers, others: Numbers) -> bool:
    return all(numbers.get(device, 0) >= number for device, number in others.items())


def _highest(places: Iterable[Numbers]) -> dict[Device, Number]:
    found: dict[Device, Number] = {}
    for numbers in places:
        for device, number in numbers.items():
            found[device] = max(number, found.get(device, 0))
    return found


def _lowest(places: Sequence[Numbers]) -> dict[Device, Number]:
    devices = set[Device]().union(*places)
    found = {device: min(numbers.get(device, 0) for numbers in places) for device in devices}
    return {device: number for device, number in found.items() if number}
