"""Which files belong to whom on this device, and deleting those of users who were removed.

A user's files lie in a directory of the user's own unless an application chooses another path; such a path is remembered. A
file that is still open somewhere is *doomed*: it is deleted when it is closed, or at a later start. It knows no session.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

from localstore.directories import make_private, safe_name
from localstore.errors import StoreBusy, StoreUnusable
from localstore.store.files import delete_of_user
from localstore.token_file import Doomed, TokenFile, UserTable

__all__ = ["UserFiles"]

_BESIDE = ("-wal", "-shm", "-journal")
_NO_TEXT = "\0"  # no path has it


class UserFiles:
    """The files of one application's users.

    Args:
        app: the application's id.
        file: what remembers them.
    """

    def __init__(self, app: str, file: TokenFile) -> None:
        self._app = app
        self._file = file
        self._keys: dict[Path, bytes | None] = {}

    def directory(self, user_id: str) -> Path:
        """Where a user's files lie unless a path is chosen."""
        return self._file.directory / safe_name(user_id)

    def prepare(self, user_id: str, path: Path, key: bytes | None) -> None:
        """A file is about to be opened: make the user's directory, or remember where else it lies.

        Raises:
            StoreBusy: it is of a user who was removed, and somebody has it open still.
        """
        text = _as_text(path)
        self._check_not_doomed(path)
        self._keys[path] = key
        if path.is_relative_to(self.directory(user_id)):
            make_private(self._file.directory)
            make_private(path.parent)
            return
        with self._file.changing() as table:
            user = table.users.get(user_id)
            if user is not None and text not in user.files:
                table.users[user_id] = dataclasses.replace(user, files=(*user.files, text))

    def doom(self, table: UserTable, user_id: str) -> None:
        """Note that all of a user's files are to be deleted."""
        user = table.users[user_id]
        directory = self.directory(user_id)
        inside = [path for path in sorted(directory.rglob("*")) if path.is_file() and not _is_beside_another(path)]
        paths = [*map(_as_text, inside), *user.files]
        known = {doomed.path for doomed in table.doomed}
        table.doomed.extend(Doomed(user_id, path) for path in paths if path not in known)

    def sweep(self) -> None:
        """Delete what is doomed, as far as nobody has it open."""
        doomed = self._file.load().doomed
        gone = [one for one in doomed if self._delete(one)]
        for user_id in {one.user for one in doomed}:
            self._remove_empty(self.directory(user_id))
        if gone:
            with self._file.changing() as table:
                table.doomed = [one for one in table.doomed if one not in gone]

    def _check_not_doomed(self, path: Path) -> None:
        if not self._is_doomed(path):
            return
        self.sweep()
        if self._is_doomed(path):
            raise StoreBusy(
                f"{path} is of a user who was removed, and is to be deleted. It is still open, in this process or another.",
                hint="Close all of that user's realms first.",
            )

    def _is_doomed(self, path: Path) -> bool:
        text = _as_text(path)
        return any(one.path == text for one in self._file.load().doomed)

    def _delete(self, doomed: Doomed) -> bool:
        path = _as_path(doomed.path)
        others = (one for user, one in self._file.load().users.items() if user != doomed.user)
        # what another user opened, or tried to, is theirs only if the file itself says so
        theirs = path.is_relative_to(self.directory(doomed.user)) and all(doomed.path not in one.files for one in others)
        try:
            return delete_of_user(path, self._app, doomed.user, key=self._keys.get(path), is_surely_theirs=theirs)
        except (StoreUnusable, OSError):  # what keeps it may pass; it stays on the list
            return False

    def _remove_empty(self, directory: Path) -> None:
        """Take a user's directory away once nothing is in it; that there is something is no error."""
        if not directory.is_dir():
            return
        inside = sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True)
        for path in (*inside, directory):
            with suppress(OSError):
                path.rmdir()


def _is_beside_another(path: Path) -> bool:
    """Whether it belongs to a database with a shorter name, and goes with that."""
    return any(path.name.endswith(end) and path.with_name(path.name.removesuffix(end)).is_file() for end in _BESIDE)


def _as_text(path: Path) -> str:
    """A path as it can be kept; a file system's names need not be text."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _NO_TEXT + os.fsencode(path).hex()
    return text


def _as_path(text: str) -> Path:
    return Path(os.fsdecode(bytes.fromhex(text.removeprefix(_NO_TEXT))) if text.startswith(_NO_TEXT) else text)
