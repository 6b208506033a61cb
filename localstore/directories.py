"""Where an application's own files lie on this device, under names that every file system takes, for this user alone.

*User* is here the one of the operating system. Directories are made private, not made so later; one that others can look
into is put right where it is ours, and refused where it is not.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from localstore.errors import StoreUnusable

__all__ = ["check_ours", "check_safe_name", "data_directory", "make_private", "safe_name", "sync_directory"]

_NAME = "localstore"
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_-]{0,47}")
_LOOKS_HASHED = re.compile(r".*-[0-9a-f]{16}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_NAME_BYTES_MAX = 200  # most file systems take 255, and SQLite and others put something behind it
_OTHERS = 0o077


def data_directory(chosen: str | None, variables: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where data of this user lies that is to stay.

    Args:
        chosen: the setting ``directory``, None for the system's own place.
        variables: the environment.
        platform: as ``sys.platform``.
    """
    if chosen is not None:
        return Path(chosen).expanduser().resolve()
    if platform == "win32":
        base = variables.get("LOCALAPPDATA") or str(_home() / "AppData" / "Local")
    elif platform == "darwin":
        base = str(_home() / "Library" / "Application Support")
    else:
        base = variables.get("XDG_DATA_HOME", "")
        if not os.path.isabs(base):  # noqa: PTH117  the XDG rules: what is not absolute is to be ignored
            base = str(_home() / ".local" / "share")
    return (Path(base) / _NAME).resolve()  # as paths of realms are, which are compared with it


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        pass
    raise ValueError("This user has no home directory to keep log-ins in. Set the setting directory.")


def safe_name(text: str) -> str:
    """A file name for any text: the text itself where it is plain, else what is left of it with a hash.

    Different texts have different names, also where a file system takes capitals for small letters. No name has a dot.
    """
    if _PLAIN.fullmatch(text) and not _RESERVED.fullmatch(text) and not _LOOKS_HASHED.fullmatch(text):
        return text
    readable = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:32] or "x"
    return f"{readable}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def check_safe_name(name: object) -> None:
    """Refuse what is no name of a file on some system.

    Raises:
        TypeError, ValueError: says what is wrong with it.
    """
    if not isinstance(name, str):
        raise TypeError(f"name is a str, not of type {type(name).__name__}.")
    if not name or name.strip(". ") == "":
        raise ValueError("name must not be empty, and not of dots and spaces alone.")
    if _FORBIDDEN.search(name):
        raise ValueError(f"name is the name of a file without its directory, and cannot be {name!r}. For any file give path.")
    if name != name.strip() or name.endswith(".") or _RESERVED.fullmatch(name):
        raise ValueError(f"name cannot be {name!r}: not all systems take it. Choose another one.")
    if len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES_MAX:
        raise ValueError(f"name is longer than {_NAME_BYTES_MAX} bytes. Choose a shorter one.")


def make_private(directory: Path) -> None:
    """A directory that nobody but this user can look into; those above it are made in the same way where they are missing.

    Raises:
        StoreUnusable: it cannot be made or made private, or belongs to somebody else.
    """
    try:
        for missing in reversed([directory, *directory.parents]):
            if not missing.exists():
                missing.mkdir(mode=0o700, exist_ok=True)
        check_ours(directory, directory.lstat())
    except OSError as error:
        raise StoreUnusable(
            f"The directory {directory} cannot be made or used ({error.strerror}).",
            hint="Give this user the right to it, or set the setting directory to another place.",
        ) from error


def sync_directory(directory: Path) -> None:
    """Bring a new file's name to the disk, where the system can; else the file is there all the same."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_ours(path: Path, found: os.stat_result) -> None:
    """Put right what others could read, and refuse what is not ours.

    Args:
        path: a directory, or the file with log-ins.
        found: what the system says of it, links not followed.

    Raises:
        StoreUnusable: it is a link, somebody else's, or stays open to others.
        OSError: the system refuses.
    """
    if stat.S_ISLNK(found.st_mode):
        raise StoreUnusable(f"{path} is a link, which could lead log-ins anywhere. It was not used.", hint="Remove it.")
    if sys.platform == "win32":  # where a profile's directories are the user's own, and modes mean nothing
        return
    if found.st_uid != os.geteuid():
        raise StoreUnusable(
            f"{path} belongs to another user of this computer. It was not used.",
            hint="Run as that user, or set the setting directory to another place.",
        )
    if found.st_mode & _OTHERS:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
        if path.lstat().st_mode & _OTHERS:
            raise StoreUnusable(
                f"{path} can be read by other users of this computer, and its file system does not let that be changed."
                " It was not used.",
                hint="Set the setting directory to a place on another file system.",
            )
