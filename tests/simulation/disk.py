"""What a disk holds at one moment, and what it would hold if the power had failed: some commits less.

SQLite's write-ahead log is a header and frames (https://www.sqlite.org/fileformat2.html#walformat). A commit is a frame whose
header has a size of the database; a log that ends after an earlier one is the log of that earlier time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Disk", "Log", "commits", "lose_commits"]

_HEADER = 32
_FRAME_HEADER = 24
_WAL = "-wal"
_INDEX = struct.Struct("=8xI2xHI12x8s88xI")  # of the fields of the log's index that are read below; 132 bytes


@dataclass(frozen=True)
class Disk:
    """All files of a folder."""

    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """What a folder holds now. The log's index is not among it: SQLite makes it anew."""
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.endswith("-shm"))
        return cls({name: (folder / name).read_bytes() for name in names})

    def write_to(self, folder: Path) -> None:
        """Put exactly these files into a folder. Nobody may have any of them open."""
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def commits(wal: bytes) -> list[int]:
    """Where the log's commits end, in bytes, oldest first."""
    if len(wal) < _HEADER:
        return []
    page_size = struct.unpack_from(">I", wal, 8)[0]
    salts = wal[16:24]
    ends, start = [], _HEADER
    while start + _FRAME_HEADER + page_size <= len(wal) and wal[start + 8 : start + 16] == salts:
        size_at_commit = struct.unpack_from(">I", wal, start + 4)[0]
        start += _FRAME_HEADER + page_size
        if size_at_commit:
            ends.append(start)
    return ends


@dataclass(frozen=True)
class Log:
    """The write-ahead log of an open database, as its index has it.

    Attributes:
        generation: another one when the log begins anew, as everything in it is in the database.
        changes: counts commits.
        end: where the log ends, in bytes.
        checkpointed: where the part ends that a checkpoint has synced and begun to write to the database.
    """

    generation: bytes
    changes: int
    end: int
    checkpointed: int

    @classmethod
    def of(cls, folder: Path, name: str) -> Log | None:
        """The log of a database; None when nobody has it open."""
        index = folder / f"{name}-shm"
        if not index.exists():
            return None
        with index.open("rb") as file:
            found = file.read(_INDEX.size)
        if len(found) < _INDEX.size:
            return None
        changes, page_size, frames, generation, backfilled = _INDEX.unpack(found)
        frame = _FRAME_HEADER + (65536 if page_size == 1 else page_size)
        ends = [_HEADER + count * frame if count else 0 for count in (frames, backfilled)]
        return cls(generation, changes, *ends)


def lose_commits(disk: Disk, name: str, count: int, synced: int) -> tuple[Disk, int]:
    """The disk as if the last commits to a database had never reached it.

    Args:
        disk: what the system believes to be there.
        name: of the database.
        count: how many commits are to be lost.
        synced: where the part of the log ends that is safe.

    Returns:
        The disk, and how many commits were lost.
    """
    wal = disk.files.get(name + _WAL, b"")
    ends = commits(wal)
    safe = sum(end <= synced for end in ends)
    lost = min(count, len(ends) - safe)
    if lost <= 0:
        return disk, 0
    left = len(ends) - lost
    kept = wal[: ends[left - 1]] if left else wal[:_HEADER]
    return Disk({**disk.files, name + _WAL: kept}), lost
