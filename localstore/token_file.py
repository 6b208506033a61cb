"""The file that remembers who is logged in: one for an application on a device, shared by all of its processes.

Only this user of the operating system can read it. It is replaced as a whole, so that a reader needs no lock and a crash
leaves the one before; who changes it holds a lock. It knows no adapter and no session.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import msgspec

from localstore.directories import check_ours, make_private, safe_name, sync_directory
from localstore.errors import DiskFull, NotWritable, StoreBusy, StoreUnusable

__all__ = ["Doomed", "HeldLock", "KeptTokens", "KeptUser", "TokenFile", "UserTable"]

FORMAT = 1
_FILE, _NEW, _DAMAGED, _LOCK = "users.json", "users.new", "users.damaged", "users.lock"
_RENEWAL = ".renewal"  # behind a user's name, which has no dot: no user has the name of another file here
_ATTEMPTS, _PAUSE_SECONDS = 1000, 0.01  # ten seconds; nobody holds the lock longer than it takes to write a small file

_log = logging.getLogger("localstore.users")


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """Tokens with the times, by this device's clock, between which the access token is good."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    issued_ms: int
    expires_ms: int


@dataclass(frozen=True, kw_only=True)
class KeptUser:
    """Somebody who logged in on this device.

    Attributes:
        provider: what with.
        remote: where; tokens are shown to no other remote.
        used: the higher, the later it was made the current user.
        tokens: None when logged out.
        files: realms outside the user's directory.
        born: when the user first logged in, as ``UserTable.events`` counts; who is removed and comes back is another one.
    """

    provider: str
    remote: str = ""
    used: int = 0
    tokens: KeptTokens | None = None
    files: tuple[str, ...] = ()
    born: int = 0


@dataclass(frozen=True)
class Doomed:
    """A file of a user who was removed, to be deleted once nobody has it open."""

    user: str
    path: str


@dataclass
class _Head:
    """What a file of any version says of itself."""

    format: int = FORMAT


@dataclass
class UserTable:
    """What the file holds. Changed in place inside ``TokenFile.changing``.

    Attributes:
        events: how many users came or were removed. Begins anew when the file is lost.
    """

    format: int = FORMAT
    users: dict[str, KeptUser] = field(default_factory=dict)
    doomed: list[Doomed] = field(default_factory=list)
    events: int = 0

    def next_event(self) -> int:
        self.events += 1
        return self.events

    def has_removed(self, user_id: str, born: int) -> bool:
        """Whether a user who was in the file was removed since; not when the file with everybody in it was lost."""
        known = self.users.get(user_id)
        return known.born > born if known is not None else self.events > born

    def next_used(self) -> int:
        return max((user.used for user in self.users.values()), default=0) + 1


class TokenFile:
    """One application's users.

    Args:
        directory: the application's own; made when there is something to be kept.
        remote: the remote whose users are asked for.
        attempts: how often a lock is asked for, a hundred times a second.
    """

    def __init__(self, directory: Path, remote: str, *, attempts: int = _ATTEMPTS) -> None:
        self.directory = directory
        self.remote = remote
        self._attempts = attempts

    @property
    def path(self) -> Path:
        return self.directory / _FILE

    def load(self) -> UserTable:
        """What is kept; users of another remote as logged out. A damaged file is set aside, and everybody has to log in again.

        Raises:
            StoreUnusable: the file is of a newer version, cannot be read, or is somebody else's.
        """
        table = self._read()
        for name, user in table.users.items():
            if user.remote != self.remote and user.tokens is not None:
                table.users[name] = dataclasses.replace(user, tokens=None)
        return table

    @contextmanager
    def changing(self) -> Iterator[UserTable]:
        """What is kept, to be changed inside the block; written when the block ends well.

        Raises:
            StoreBusy: another process holds the lock and does not let go.
            StoreUnusable: it cannot be read or written. It is as it was.
        """
        make_private(self.directory)
        with HeldLock.at(self.directory / _LOCK) as lock:  # which closes it, even if Ctrl-C comes while it is let go
            self._wait_for(lock)
            try:
                table = self._read(locked=True)
                before = msgspec.json.encode(table)
                yield table
                after = msgspec.json.encode(table)
                if after != before:
                    self._write(after)
            finally:
                lock.let_go()

    def try_lock_user(self, user_id: str) -> HeldLock | None:
        """A lock on renewing a user's tokens; None when another process has it.

        It is held while the remote is asked, as a refresh token is good for one answer.
        """
        make_private(self.directory)
        lock = HeldLock.at(self.directory / f"{safe_name(user_id)}{_RENEWAL}")
        return lock if lock.take() else None

    def _read(self, *, locked: bool = False) -> UserTable:
        content = self._content()
        if content is None:
            return UserTable()
        try:
            version = msgspec.json.decode(content, type=_Head).format
            if version == FORMAT:
                return msgspec.json.decode(content, type=UserTable, strict=True)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._set_aside(locked=locked)
        raise StoreUnusable(
            f"{self.path} is of format {version}; this localstore knows {FORMAT}. It was not changed.",
            hint="Upgrade localstore.",
        )

    def _content(self) -> bytes | None:
        path = self.path
        try:
            check_ours(self.directory, self.directory.lstat())
            check_ours(path, path.lstat())
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnusable(
                f"{path} cannot be read ({error.strerror}). Nobody was logged out.", hint="Look after its directory."
            ) from error

    def _set_aside(self, *, locked: bool) -> UserTable:
        """Take a damaged file out of the way. Whether it is still damaged is looked at again under the lock."""
        if not locked:
            with self.changing() as table:
                return table
        with suppress(OSError):
            self.path.replace(self.directory / _DAMAGED)
        _log.warning(
            "%s was damaged, and was set aside. Users have to log in again; their realms are untouched.",
            self.path,
        )
        return UserTable()

    def _wait_for(self, lock: HeldLock) -> None:
        pause = Event()
        for _ in range(self._attempts):
            if lock.take():
                return
            pause.wait(_PAUSE_SECONDS)
        raise StoreBusy(
            f"Another process holds {self.directory / _LOCK} and does not let go. Nothing was changed.",
            hint="See whether a process of this application hangs.",
        )

    def _write(self, content: bytes) -> None:
        new, path = self.directory / _NEW, self.path
        try:
            new.unlink(missing_ok=True)  # of a process that was killed
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            sync_directory(self.directory)
        except OSError as error:
            kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else NotWritable
            raise kind(
                f"{path} cannot be written ({error.strerror}). It is as it was.", hint="See to its disk and directory."
            ) from error


class HeldLock(io.FileIO):
    """A file whose lock goes with this process. It closes itself when it is forgotten, as Ctrl-C may come at any moment: a
    number in its place would keep the lock for ever.
    """

    @classmethod
    def at(cls, path: Path) -> HeldLock:
        """The file, made when it is missing; not yet locked.

        Raises:
            NotWritable: it cannot be opened.
        """
        try:
            return cls(path, "a", opener=_open_private)
        except OSError as error:
            raise NotWritable(
                f"{path} cannot be opened for writing ({error.strerror}). Nothing was changed.",
                hint="See to its disk and directory.",
            ) from error

    def take(self) -> bool:
        """Take the lock; False when somebody else has it.

        Raises:
            StoreUnusable: there are no locks here.
        """
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return False
            raise StoreUnusable(
                f"{self.name} cannot be locked ({error.strerror}), as its file system knows no locks.",
                hint="Set the setting directory to a place on another file system.",
            ) from error
        return True

    def let_go(self) -> None:
        """Let go of it, also for a process that was forked while it was held."""
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(self.fileno(), fcntl.LOCK_UN)
        self.close()

    __del__ = io.FileIO.close  # without the warning that files give, and with no step of Python for Ctrl-C to come between


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
