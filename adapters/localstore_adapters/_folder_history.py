"""One partition's files as one history: which changesets are there, and the next page of them.

Files are listed often and read once. Each device's changesets come in the order of their numbers; a missing or damaged file
holds up its own device and nobody else. Devices are merged by stamp, so that a receiver seldom has to hold a changeset back.
What is done here blocks.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localstore.adapter import Limit
from localstore.wire import SealedChangeset
from localstore_adapters._folder_files import (
    FileName,
    UnreadableFile,
    is_passing,
    names_in,
    parse_device,
    parse_name,
    read_changes,
)
from localstore_adapters._folder_snapshots import SNAPSHOTS

__all__ = ["FilesPage", "FolderHistory"]

_Head = tuple[int, bytes, SealedChangeset, Iterator[SealedChangeset]]
"""A device's next changeset, sorted by stamp and device, and those after it."""

_OPEN_BYTES_MAX = 64 * 1024 * 1024  # of files read and not yet handed out in full
_FOREIGN_MAX = 100  # so many files that are not ours are named; a folder that was copied into itself may have any number
_LOOK_AGAIN_SECONDS = 60.0  # at a damaged file whose size and times stay: some cloud drives fill files in without a trace


@dataclass(frozen=True)
class FilesPage:
    """What one reading gave.

    Attributes:
        changesets: in causal order as far as the files at hand allow.
        positions: for each device, the last number handed out.
        more: whether more could be read at once.
        remaining_bytes: an estimate from the numbers that are left and the size of these changesets.
    """

    changesets: tuple[SealedChangeset, ...]
    positions: dict[bytes, int]
    more: bool
    remaining_bytes: int


@dataclass(frozen=True, slots=True)
class _Unreadable:
    signature: tuple[int, ...]
    reason: str
    looked_at: float


@dataclass(frozen=True, slots=True)
class _Open:
    """A file that was read and is not handed out in full."""

    device: bytes
    name: FileName
    batch: list[SealedChangeset]
    byte_count: int


@dataclass(slots=True)
class _Directory:
    """A device's directory; names are parsed once."""

    path: Path
    files: dict[str, FileName] = field(default_factory=dict)

    def pending(self, position: int) -> list[FileName]:
        """Files that hold something after a position, in order."""
        return sorted((name for name in self.files.values() if name.last > position), key=lambda name: (name.first, name.last))

    def last_number(self, floor: int, unreadable: Container[FileName] = ()) -> int:
        """The highest number up to which the names leave no gap; what is not above the floor may be missing."""
        last = floor
        for name in self.pending(floor):
            if name in unreadable:
                continue
            if name.first > last + 1:
                break
            last = max(last, name.last)
        return last


class FolderHistory:
    """The history in one partition's directory, as one adapter sees it. Not thread-safe.

    Args:
        path: the partition's directory; it need not exist.
        own: the device that reads. Its changesets are not handed out to itself.
        monotonic: seconds on a clock that never steps back.

    Attributes:
        floors: up to which number of each device changesets may be missing for good.
        own_floor: up to which number this device's are at the remote, whether they lie here or not.
        is_outdated: whether a file went away since the last scan.
        own_number: up to which number this device's changesets were seen to be stored.
    """

    def __init__(self, path: Path, own: bytes, monotonic: Callable[[], float]) -> None:
        self.path = path
        self.own = own
        self.floors: Mapping[bytes, int] = {}
        self.own_floor = 0
        self.is_outdated = False
        self.own_number = 0
        self._warnings: dict[str, None] = {}
        self._foreign_count = 0
        self._passing: list[Path] = []
        self._monotonic = monotonic
        self._directories: dict[bytes, _Directory] = {}
        self._open: dict[Path, _Open] = {}
        self._sound_end: FileName | None = None
        self._unreadable: dict[tuple[bytes, FileName], _Unreadable] = {}  # names: at each look there may be thousands

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found damaged or not ours since the last scan began, in words."""
        return tuple(self._warnings)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """What the last scan found that asks nothing of anybody: many such files may come and go, so they are one line."""
        if not self._passing:
            return ()
        count = len(self._passing)
        those = "A file is" if count == 1 else f"{count} files are"
        more = "" if count == 1 else " and others"
        return (f"{those} still being written or copied, or another program's: {min(self._passing)}{more}.",)

    def scan(self) -> None:
        """Look at what is there now. Clears the warnings."""
        self._warnings, self._foreign_count, self._passing = {}, 0, []
        self.is_outdated = False
        found: dict[bytes, _Directory] = {}
        for name in sorted(names_in(self.path)) if self.path.is_dir() else ():
            device = parse_device(name)
            if device is not None:
                found[device] = self._directories.get(device) or _Directory(self.path / name)
                self._list(device, found[device])
            elif name != SNAPSHOTS:
                self._pass_over(self.path / name)
        self._directories = found
        self._unreadable = {
            (device, name): why
            for (device, name), why in self._unreadable.items()
            if device in found and str(name) in found[device].files
        }

    def last_own_number(self) -> int:
        """The highest number up to which the names of this device's files leave no gap, as of the last scan.

        Names are taken at their word: a file that is damaged may be put back at any time, and then holds what its name says.
        Where that is so at the end, it is told.
        """
        directory = self._directories.get(self.own)
        floor = self._own_floor(directory)
        self.own_number = max(self.own_number, floor)
        if directory is None or (last := directory.last_number(floor)) == floor:
            return floor
        for name in [name for name in directory.files.values() if name.last == last]:
            if name == self._sound_end or self._read(self.own, directory, name) is not None:
                self.trust(name)
        return last

    def damaged_own_files(self) -> list[FileName]:
        """This device's files that were found damaged."""
        return self._damaged(self.own)

    def _damaged(self, device: bytes) -> list[FileName]:
        return [name for whose, name in self._unreadable if whose == device]

    def _own_floor(self, directory: _Directory | None) -> int:
        """Where to begin to look for what this device has stored.

        What it has seen stored, and finds missing from the beginning alone, was let go of, and only the word of it is not here:
        it comes later, or was deleted. A folder that went back to an old backup lacks the end.
        """
        floor = self.own_floor
        first = min((name.first for name in directory.files.values()), default=0) if directory is not None else 0
        return first - 1 if floor + 1 < first <= self.own_number else floor

    def trust(self, end: FileName) -> None:
        """Note that this device's last file is whole, so that it need not be read again to know."""
        self._sound_end = end
        self.own_number = max(self.own_number, end.last)

    def own_changesets(self, position: int) -> Iterator[SealedChangeset]:
        """This device's changesets after a position, as far as they are stored without a gap."""
        return self._stored(self.own, position)

    def has_news(self, positions: Mapping[bytes, int]) -> bool:
        """Whether a name promises something after the positions, as of the last scan."""
        return any(
            name.first <= positions.get(device, 0) + 1 <= name.last
            for device, directory in self._directories.items()
            if device != self.own
            for name in directory.files.values()
        )

    def is_trimmed_after(self, positions: Mapping[bytes, int]) -> bool:
        """Whether what comes after the positions is missing for good, as of the last scan."""
        return any(
            positions.get(device, 0) < floor and not self._holds(device, positions.get(device, 0) + 1)
            for device, floor in self.floors.items()
            if device != self.own
        )

    def _holds(self, device: bytes, number: int) -> bool:
        directory = self._directories.get(device)
        return directory is not None and any(name.first <= number <= name.last for name in directory.files.values())

    def page(self, positions: Mapping[bytes, int], limit: Limit) -> FilesPage:
        """The next changesets of the other devices, as of the last scan."""
        heap, more = self._heads(positions)
        after = dict(positions)
        taken: list[SealedChangeset] = []
        byte_count = 0
        while heap and len(taken) < limit.max_count:
            sealed = heap[0][2]
            byte_count += sealed.byte_count
            if taken and byte_count > limit.max_bytes:
                break
            taken.append(sealed)
            after[sealed.device] = sealed.number
            _advance(heap)
        self._close_all_but({sealed.device: sealed.number for _, _, sealed, _ in heap})
        more = more or bool(heap)
        average = sum(sealed.byte_count for sealed in taken) // max(1, len(taken))
        return FilesPage(tuple(taken), after, more, average * self._count_after(after) if more else 0)

    def _stored(self, device: bytes, position: int) -> Iterator[SealedChangeset]:
        """A device's changesets after a position, up to the first gap. A file is read when its first number is asked for."""
        directory = self._directories.get(device)
        if directory is None:
            return
        waiting = deque(directory.pending(position))
        covering: list[FileName] = []
        while True:
            while waiting and waiting[0].first <= position + 1:
                covering.append(waiting.popleft())
            covering = [name for name in covering if name.last > position]
            if not covering:
                return
            best = max(covering, key=lambda name: name.last)
            batch = self._read(device, directory, best)
            if batch is None:
                covering.remove(best)
                continue
            yield from batch[position + 1 - best.first :]
            position = best.last

    def _heads(self, positions: Mapping[bytes, int]) -> tuple[list[_Head], bool]:
        """Each device's next changeset, and whether devices were left for another page to bound the memory."""
        heap: list[_Head] = []
        for device in sorted(self._directories.keys() - {self.own}):
            if heap and sum(file.byte_count for file in self._open.values()) > _OPEN_BYTES_MAX:
                return heap, True
            stream = self._stored(device, positions.get(device, 0))
            sealed = next(stream, None)
            if sealed is not None:
                heapq.heappush(heap, (sealed.stamp, device, sealed, stream))
        return heap, False

    def _count_after(self, positions: Mapping[bytes, int]) -> int:
        """How many changesets the names promise after the positions."""
        counts = (
            directory.last_number(self.floors.get(device, 0)) - positions.get(device, 0)
            for device, directory in self._directories.items()
            if device != self.own
        )
        return sum(max(0, count) for count in counts)

    def count_all_after(self, positions: Mapping[bytes, int]) -> int:
        """How many changesets of all devices, this one too, the names promise after the positions, as of the last scan.
        What comes after a damaged file does not count: nobody could put it into a snapshot yet."""
        lasts = {
            device: directory.last_number(self.floors.get(device, 0), self._damaged(device))
            for device, directory in self._directories.items()
        }
        return sum(max(0, last - positions.get(device, 0)) for device, last in lasts.items())

    def _close_all_but(self, heads: Mapping[bytes, int]) -> None:
        """Keep only the files that hold the next changesets."""
        self._open = {
            path: file for path, file in self._open.items() if file.name.first <= heads.get(file.device, 0) <= file.name.last
        }

    def _list(self, device: bytes, directory: _Directory) -> None:
        known, directory.files = directory.files, {}
        try:
            names = names_in(directory.path)
        except FileNotFoundError:
            return  # gone since its parent was listed
        except OSError as error:
            if device == self.own:
                raise  # what cannot be read must not pass for what is not stored
            self._warn(directory.path, f"cannot be read: {error.strerror or error}")
            return
        if known.keys() == set(names):  # as at nearly every look, and there may be thousands
            directory.files = known
            return
        others = []
        for name in names:
            parsed = known.get(name) or parse_name(name)
            if parsed is not None:
                directory.files[name] = parsed
            else:
                others.append(name)
        for name in sorted(others):
            self._pass_over(directory.path / name)

    def _read(self, device: bytes, directory: _Directory, name: FileName) -> list[SealedChangeset] | None:
        """A file's changesets; None, and a warning, when it cannot be taken as it is."""
        path = directory.path / str(name)
        if path in self._open:
            return self._open[path].batch
        signature: tuple[int, ...] = ()
        try:
            signature = _signature(path)
            known = self._unreadable.get((device, name))
            if known and known.signature == signature and self._monotonic() - known.looked_at < _LOOK_AGAIN_SECONDS:
                self._warn(path, known.reason)
                return None
            batch = read_changes(path, name, device)
        except FileNotFoundError:
            self.is_outdated = True  # trimmed, or carried away, since it was listed
            return None
        except (UnreadableFile, OSError) as error:
            if device == self.own and isinstance(error, OSError):
                raise  # what cannot be read must not pass for what is not stored
            reason = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            self._unreadable[device, name] = _Unreadable(signature, reason, self._monotonic())
            self._warn(path, reason)
            return None
        self._unreadable.pop((device, name), None)
        self._open[path] = _Open(device, name, batch, sum(sealed.byte_count for sealed in batch))
        return batch

    def _pass_over(self, path: Path) -> None:
        """Note a file that is none of ours, or not under its own name yet."""
        if is_passing(path.name):
            self._passing.append(path)
            return
        self._foreign_count += 1
        if self._foreign_count <= _FOREIGN_MAX:
            self._warn(path, "is not localstore's and was left alone")
        elif self._foreign_count == _FOREIGN_MAX + 1:  # no number: it would make a new warning whenever it changes
            self._warn(self.path, "has more files that are not localstore's than can be named here")

    def _warn(self, path: Path, reason: str) -> None:
        self._warnings[f"{path} {reason}. Everything else goes on."] = None


def _advance(heap: list[_Head]) -> None:
    """Put the first device's next changeset in the place of the one that was taken."""
    _, device, _, stream = heap[0]
    sealed = next(stream, None)
    if sealed is None:
        heapq.heappop(heap)
    else:
        heapq.heapreplace(heap, (sealed.stamp, device, sealed, stream))


def _signature(path: Path) -> tuple[int, ...]:
    """What changes when a file is written, as far as the system tells."""
    found = path.stat()
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
