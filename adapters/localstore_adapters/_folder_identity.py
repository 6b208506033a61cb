"""Whose a shared folder is: ``remote.json``, made once, by exactly one device.

A folder on a disk that was unplugged, emptied or exchanged is told from the one this device knows by this file alone.
What is done here blocks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from localstore.adapter import Hello
from localstore.environment import Environment
from localstore.errors import NewerFormat, Offline, ProtocolError, ResetRequired
from localstore_adapters._folder_files import is_passing, make_directory, names_in, parse_device, publish_once
from localstore_adapters._folder_snapshots import SNAPSHOTS

__all__ = ["Identity", "identify", "read_identity"]

_NAME = "remote.json"
_FORMAT = 1
_ABOUT = "A shared history of localstore. Keep this file; each folder beside it is written by localstore alone."


class Identity(msgspec.Struct, frozen=True):
    """What ``remote.json`` holds."""

    format: int
    app: str
    remote_id: str
    created: str
    about: str = _ABOUT


class _Format(msgspec.Struct):
    format: int


def identify(folder: Path, hello: Hello, environment: Environment) -> Identity:
    """The identity of the folder that a device connects to, made now if this is the very first connect.

    Raises:
        Offline: the folder is not there, or is not the whole one that this device knows.
        ResetRequired: another history has taken its place.
        ProtocolError: it belongs to another application.
    """
    is_first = hello.remote_id is None and hello.cursor is None
    if is_first and folder.parent.is_dir():
        make_directory(folder)
    identity = read_identity(folder)
    if identity is None:
        _check_may_be_made(folder, is_first)
        identity = _make(folder, hello.app, environment)
    if identity.app != hello.app:
        raise ProtocolError(
            f"The folder {folder} holds the data of {identity.app!r}, not of {hello.app!r}. Nothing was read or written.",
            hint="Give each application a folder of its own.",
        )
    if hello.remote_id not in (None, identity.remote_id):
        raise ResetRequired("remote replaced", hint=f"The folder {folder} holds another history than the one known here.")
    return identity


def read_identity(folder: Path) -> Identity | None:
    """The folder's identity, None when it has none or is not there.

    Raises:
        Offline: the file is not whole.
        NewerFormat: the folder was made by a newer localstore.
    """
    path = folder / _NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found <= _FORMAT:
            return msgspec.json.decode(data, type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Offline(
            f"{path} is not whole: it is being written or copied, or was damaged. Nothing was read or written.",
            hint="If it stays so, restore that file from a backup of the folder, or delete it where the folder is still empty.",
        ) from error
    raise NewerFormat(
        f"The folder {folder} has format {found}; this localstore knows up to {_FORMAT}. Nothing was read or written.",
        hint="Upgrade localstore on this device.",
    )


def _check_may_be_made(folder: Path, is_first: bool) -> None:
    """Whether a folder without an identity may be given one: never when that could fill a disk's place from behind."""
    if not folder.is_dir():
        what = "is a file and no folder" if folder.exists() else "is not there"
        raise Offline(
            f"The folder {folder} {what}. Local data is safe, and what is unsent stays in the outbox.",
            hint="Connect the disk or share, or make the folder; sync then goes on by itself.",
        )
    if not is_first:
        raise Offline(
            f"The folder {folder} has no {_NAME}, though this device has synced with it before: it was emptied, or the disk "
            "that belongs there is not connected. Local data is safe, and nothing was written.",
            hint="Connect the disk or share, or put the folder's files back; sync then goes on by itself. If it was emptied "
            "for good, let a device that never used it connect first: the others then begin anew from it.",
        )
    if _holds_history(folder):
        raise Offline(
            f"The folder {folder} holds changesets but no {_NAME} yet: it is still being copied. Nothing was written.",
            hint="Wait until the folder is complete; sync then goes on by itself.",
        )


def _holds_history(folder: Path) -> bool:
    parts = [folder / name for name in names_in(folder) if not is_passing(name)]
    return any(parse_device(name) or name == SNAPSHOTS for part in parts if part.is_dir() for name in names_in(part))


def _make(folder: Path, app: str, environment: Environment) -> Identity:
    created = datetime.fromtimestamp(environment.now_ms() // 1000, UTC).isoformat()
    ours = Identity(_FORMAT, app, environment.random_bytes(16).hex(), created)
    data = msgspec.json.format(msgspec.json.encode(ours), indent=2) + b"\n"
    publish_once(folder, _NAME, data, environment.random_bytes)
    winner = read_identity(folder)
    if winner is None:
        raise Offline(
            f"The folder {folder} went away while it was set up. Local data is safe.", hint="Connect the disk or share."
        )
    return winner
