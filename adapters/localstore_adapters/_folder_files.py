"""The files of a folder remote: names that every file system takes, whole files or none, and what an OS error means.

One push makes one immutable file, ``<first>-<last>-<hash>.changes``: a header with the payload's length and SHA-256, then
the changesets. A reader believes only that header, never the mere presence of a file: folders are filled by sync tools
that show files half copied. This module knows no cursor and no session, and what it does blocks.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from localstore.errors import MalformedChangeset, NewerFormat, Offline
from localstore.wire import FORMAT, MAX_CHANGESET_BYTES, SealedChangeset, decode_batch, encode_batch

__all__ = [
    "FileName",
    "Unpublished",
    "UnreadableFile",
    "is_aside",
    "is_passing",
    "make_directory",
    "name_of",
    "names_in",
    "parse_device",
    "parse_name",
    "publish",
    "publish_once",
    "reaching",
    "read_changes",
    "safe_name",
    "sweep",
    "sync_directory",
    "write_changes",
]

RandomBytes = Callable[[int], bytes]

_MAGIC = b"\x89LSC\r\n\x1a\n"  # after PNG's: shows transfers that change line ends or strip the eighth bit
_FORMAT = 1
_HEADER = struct.Struct(">8sHQ32s")  # magic, format, payload bytes, SHA-256 of the payload
_PAYLOAD_BYTES_MAX = 2 * MAX_CHANGESET_BYTES  # one changeset may be that large alone; nothing of ours is larger
_NAME = re.compile(r"([0-9]{12,19})-([0-9]{12,19})-([0-9a-f]{16})\.changes")
_DEVICE = re.compile(r"[0-9a-f]{32}")
_ASIDE = re.compile(r"\.([0-9a-f]{32}|[0-9a-f-]+\.(changes|snapshot\.json|trimmed\.json))\.[0-9a-f]{12}\.tmp")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_SAFE_NAME_MAX = 100
_PASSING_ENDS = (".tmp", ".part", ".partial")
_PASSING_NAMES = frozenset({"desktop.ini", "thumbs.db"})
# What systems say that have no hard links: FAT, some network shares, and Android's shared storage (EACCES).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL, errno.EACCES}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES}


class UnreadableFile(Exception):  # noqa: N818 - it never leaves the adapter
    """A file that cannot be taken as it is; the text says why and goes into a warning."""


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name says: it holds the changesets ``first`` to ``last`` of the directory's device."""

    first: int
    last: int
    digest: str

    def __str__(self) -> str:
        return f"{self.first:012d}-{self.last:012d}-{self.digest}.changes"


class Unpublished:
    """A file of any size that is being written, under a name that readers pass over.

    It is open only while something is written, so that whoever is broken off in between leaves no open file.

    Args:
        path: where nothing is yet; its directory is made, and that one's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.byte_count = 0
        self._is_made = False

    def write(self, chunk: bytes) -> None:
        if not self._is_made:
            make_directory(self.path.parent.parent)
            make_directory(self.path.parent)
            self.path.open("xb").close()
            self._is_made = True
        with self.path.open("r+b") as file:  # which is an error when somebody took it away
            file.seek(self.byte_count)
            file.write(chunk)
        self.digest.update(chunk)
        self.byte_count += len(chunk)

    def finish(self) -> None:
        """Bring it to the disk."""
        if self._is_made:
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())

    def discard(self) -> None:
        """Let go of it, unless it was renamed."""
        if self._is_made:
            with contextlib.suppress(OSError):  # the disk is gone: nobody is served by an error here
                self.path.unlink(missing_ok=True)


def parse_name(name: str) -> FileName | None:
    """The name of a whole file of ours, None for every other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parsed = FileName(int(match[1]), int(match[2]), match[3])
    return parsed if str(parsed) == name and 0 < parsed.first <= parsed.last else None


def parse_device(name: str) -> bytes | None:
    """The device whose directory has that name."""
    return bytes.fromhex(name) if _DEVICE.fullmatch(name) else None


def is_passing(name: str) -> bool:
    """Whether a name belongs to a file that is being written, to a sync tool or to a file manager: nothing to speak of."""
    return name.startswith((".", "~")) or name.lower().endswith(_PASSING_ENDS) or name.lower() in _PASSING_NAMES


def is_aside(name: str) -> bool:
    """Whether a name is of what some device of ours writes, or was writing when it broke off."""
    return _ASIDE.fullmatch(name) is not None


def safe_name(text: str) -> str:
    """A directory name for any text: distinct on case-insensitive systems too, and legal on all of them."""
    escaped = "".join(char if char in _SAFE else _escape(char) for char in text)
    name = f"p-{escaped}"  # the prefix keeps clear of names that Windows reserves, such as "con"
    if len(name) <= _SAFE_NAME_MAX:
        return name
    return f"{name[:60]}~{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def names_in(directory: Path) -> list[str]:
    """The names in a directory; as text, since there may be a hundred thousand of them."""
    return os.listdir(directory)  # noqa: PTH208


def read_changes(path: Path, name: FileName, device: bytes) -> list[SealedChangeset]:
    """The changesets in a file.

    Raises:
        UnreadableFile: it is not whole, damaged, or not what its name says.
    """
    payload, digest = _read_payload(path)
    if hashlib.sha256(payload).digest() != digest or digest.hex()[:16] != name.digest:
        raise UnreadableFile("is damaged: it does not match its hash")
    try:
        batch = decode_batch(payload)
    except NewerFormat as error:
        raise UnreadableFile(f"cannot be read yet: {error}") from error
    except MalformedChangeset as error:
        raise UnreadableFile(f"holds no changesets: {error}") from error
    if any(sealed.format > FORMAT for sealed in batch):
        raise UnreadableFile("was written by a newer localstore; upgrade localstore on this device")
    if [(sealed.device, sealed.number) for sealed in batch] != [(device, n) for n in range(name.first, name.last + 1)]:
        raise UnreadableFile("does not hold the changesets that its name says")
    return batch


def write_changes(directory: Path, batch: Sequence[SealedChangeset], random_bytes: RandomBytes) -> FileName:
    """Store a run of changesets for good in one new file; nobody ever sees a part of it."""
    payload = encode_batch(batch)
    if len(payload) > _PAYLOAD_BYTES_MAX:
        raise ValueError(f"A batch of {len(payload)} bytes is larger than any reader takes.")
    digest = hashlib.sha256(payload).digest()
    name = _name_of(batch, digest)
    publish(directory, str(name), _HEADER.pack(_MAGIC, _FORMAT, len(payload), digest) + payload, random_bytes)
    return name


def name_of(batch: Sequence[SealedChangeset]) -> FileName:
    """The name of the file that holds a run of changesets, and nothing else does."""
    return _name_of(batch, hashlib.sha256(encode_batch(batch)).digest())


def publish(directory: Path, name: str, data: bytes, random_bytes: RandomBytes) -> None:
    """Write aside, make durable, rename in, make the name durable."""
    with _written_aside(directory, name, data, random_bytes) as aside:
        aside.replace(directory / name)
    sync_directory(directory)


def publish_once(
    directory: Path, name: str, data: bytes, random_bytes: RandomBytes, *, link: Callable[[Path, Path], None] = os.link
) -> bool:
    """Like ``publish``, but only the first of several writers succeeds; the others get False."""
    try:
        with _written_aside(directory, name, data, random_bytes) as aside:
            link(aside, directory / name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links (FAT, some network shares): a reader may see the file half written for a moment.
        try:
            _write(directory / name, data)
        except FileExistsError:
            return False
    sync_directory(directory)
    return True


def make_directory(path: Path) -> None:
    """Make one directory, not its parents; nothing happens when it is there."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        sync_directory(path.parent)


def sweep(directory: Path) -> None:
    """Remove what a crash left half written in this device's own directory. Nothing depends on it."""
    with contextlib.suppress(OSError):
        for aside in directory.glob(".*.changes.*.tmp"):
            aside.unlink()


@contextlib.contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Name what an error of the operating system means for sync."""
    try:
        yield
    except OSError as error:
        raise _offline(error, path) from error


def _offline(error: OSError, path: Path) -> Offline:
    place = error.filename if isinstance(error.filename, str) else path
    kept = "Local data is safe, and what is unsent stays in the outbox."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Offline(f"There is no room left for {place}. {kept}", hint="Free some space there; sync then goes on by itself.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "read-only" if error.errno == errno.EROFS else "not open to this user"
        return Offline(
            f"{place} is {reason}. {kept}", hint="Allow this user to read and write there; sync then goes on by itself."
        )
    return Offline(
        f"The shared folder cannot be used: {error.strerror or error} ({place}). {kept}",
        hint="Connect the disk or share again; sync then goes on by itself.",
    )


def _name_of(batch: Sequence[SealedChangeset], digest: bytes) -> FileName:
    return FileName(batch[0].number, batch[-1].number, digest.hex()[:16])


def _read_payload(path: Path) -> tuple[bytes, bytes]:
    if not path.is_file():  # opening a pipe, for one, would wait for ever
        raise UnreadableFile("is not a file")
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise UnreadableFile("is not whole yet")
        magic, file_format, length, digest = _HEADER.unpack(header)
        if magic != _MAGIC or file_format < 1:
            raise UnreadableFile("is not a file of localstore, or is damaged")
        if file_format > _FORMAT:
            raise UnreadableFile("was written by a newer localstore; upgrade localstore on this device")
        if length > _PAYLOAD_BYTES_MAX:
            raise UnreadableFile(f"is damaged: it claims {length} bytes")
        payload = file.read(length + 1)
    if len(payload) < length:
        raise UnreadableFile("is not whole yet")  # no numbers: they would make a new warning at every look
    if len(payload) > length:
        raise UnreadableFile("is damaged: it is longer than it says")
    return payload, digest


@contextlib.contextmanager
def _written_aside(directory: Path, name: str, data: bytes, random_bytes: RandomBytes) -> Iterator[Path]:
    """A durable file under a name that readers pass over; gone afterwards, whatever happens."""
    aside = directory / f".{name}.{random_bytes(6).hex()}.tmp"
    try:
        _write(aside, data)
        yield aside
    finally:
        with contextlib.suppress(OSError):  # renamed away, or the disk is gone: then nobody is served by an error here
            aside.unlink()


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except OSError:
        with contextlib.suppress(OSError):  # what is half written is ours, and worth nothing to anybody
            path.unlink()
        raise


def sync_directory(directory: Path) -> None:
    """Make names durable, where the system can: Windows and some network shares do it by themselves or not at all."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _escape(char: str) -> str:
    return "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
