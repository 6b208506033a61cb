"""What sync tools, disks and people do to the files of a shared folder, and undoing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from localstore_adapters._folder_files import parse_name

__all__ = ["DAMAGES", "PASSING", "Damage", "first_numbers", "foreign", "snapshot_files", "whole_files"]

Spoil = Callable[[bytes], bytes]


def _flip(at: Callable[[bytes], int]) -> Spoil:
    """One bit is another, of the byte whose place is given."""

    def spoil(data: bytes) -> bytes:
        place = at(data)
        return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]

    return spoil


DAMAGES: dict[str, tuple[Spoil, str]] = {
    "half a copy": (lambda data: data[: len(data) // 2], "is not whole yet"),
    "nothing yet": (lambda data: b"", "is not whole yet"),
    "a bit of its content": (_flip(lambda data: len(data) - 7), "is damaged: it does not match its hash"),
    "a bit of its beginning": (_flip(lambda data: 1), "is not a file of localstore, or is damaged"),
    "a bit of its length": (_flip(lambda data: 10), "is damaged: it claims"),
    "its place held free": (lambda data: bytes(len(data)), "is not a file of localstore, or is damaged"),
    "something at its end": (lambda data: data + b"\0", "is damaged: it is longer than it says"),
    "of a newer format": (lambda data: data[:8] + b"\0\2" + data[10:], "was written by a newer localstore"),
}
"""What is done to a file's bytes, and what is then said of it."""

PASSING = ("~$plan.docx", "._a.changes", ".syncthing.a.changes.tmp", "a.changes.part", "Thumbs.db")
"""Names of which nobody says anything."""


class Damage:
    """A file that holds something else, or is gone, until it is put back, in place and not at once, as by a sync tool."""

    def __init__(self, path: Path, spoil: Spoil | None) -> None:
        self.path = path
        self._whole = path.read_bytes()
        if spoil is None:
            path.unlink()
        else:
            path.write_bytes(spoil(self._whole))

    def undo(self) -> None:
        self.path.write_bytes(self._whole)


def snapshot_files(folder: Path) -> list[Path]:
    """Snapshots, and the notes on them and on what was let go of, the latest last."""
    return sorted(folder.glob("p-*/snapshots/0*"))


def whole_files(folder: Path) -> list[Path]:
    """Files of changesets, in each device's order, those with the highest numbers last."""
    found = [(name.first, path) for path in folder.glob("p-*/*/*") if (name := parse_name(path.name))]
    return [path for _, path in sorted(found)]


def first_numbers(remote: Path) -> list[int]:
    """Of each device, the first changeset that is still there."""
    firsts: dict[str, int] = {}
    for path in whole_files(remote):
        firsts.setdefault(path.parent.name, int(path.name[:12]))
    return list(firsts.values())


def foreign(file: Path) -> list[Path]:
    """Lay beside a file what is told and left alone: copies of it under other names, and things of people."""
    whole = file.read_bytes()
    copies = [
        f"{file.stem}.sync-conflict-20261126-101112-ABCDEFG{file.suffix}",
        f"{file.stem} (Anna's conflicted copy 2026-11-26){file.suffix}",
        f"{file.stem} (1){file.suffix}",
        file.name.upper(),
        "holiday.jpg",
    ]
    for name in (*copies, *PASSING):
        (file.parent / name).write_bytes(whole)
    return [file.parent / name for name in copies]
