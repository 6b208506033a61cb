"""A device's own files in a shared folder: what it had stored, as against what lies there now.

Files are carried, copied and put back by others, so what lies there now does not say what was stored. A device takes its
numbers from its own database alone and uses none twice, whatever becomes of their files:

* A file of its own that is damaged counts by its name. If it was not acknowledged yet, pushing again mends it; else it is told,
  as another device's is, and waited for, and what comes after it is written on.
* Files of its own that are gone make the folder offline for a while, as one that is still being copied. Only when they stay
  away, and no others come, is the folder what it seems: one that lost history. Then the device becomes another one, so that
  nothing is mixed up if they do come back.

This module knows numbers and files, and no line to the folder. What it does blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from localstore.errors import Offline, ResetRequired
from localstore.wire import SealedChangeset
from localstore_adapters._folder_files import name_of
from localstore_adapters._folder_history import FolderHistory

__all__ = ["Absence", "check_damaged", "count_stored"]

_PATIENCE_SECONDS = 60.0


class Absence:
    """Since when a folder lacks what a device had stored.

    Args:
        folder: the folder.
        monotonic: seconds on a clock that never steps back.
    """

    def __init__(self, folder: Path, monotonic: Callable[[], float]) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._last = 0
        self._since: float | None = None

    def check(self, last: int, acknowledged: int) -> None:
        """See that nothing is missing, or has been for long; each time some has come, it may take as long again.

        Args:
            last: the highest number that is there.
            acknowledged: the highest number that was stored.

        Raises:
            Offline: something is missing.
        """
        if last >= acknowledged:
            self._since = None
            return
        now = self._monotonic()
        if self._since is None or self._last != last:
            self._last, self._since = last, now
        if now - self._since < _PATIENCE_SECONDS:
            raise Offline(
                f"The folder {self._folder} has this device's changesets up to {last} only, and had them up to {acknowledged}:"
                " it is still being copied, or lost some. Local data is safe, and what is unsent stays in the outbox.",
                hint="Wait until the folder is complete, or put the files back; sync then goes on by itself.",
            )


def count_stored(history: FolderHistory, batch: Sequence[SealedChangeset]) -> int:
    """How many of a batch's first changesets are stored already, with the same content.

    Raises:
        ResetRequired: one is stored with other content.
    """
    floor = history.own_floor  # what was let go of cannot be compared
    count = _count_same(history, batch, 0)
    return _count_same(history, batch, max(count, min(len(batch), floor + 1 - batch[0].number)))


def check_damaged(history: FolderHistory, batch: Sequence[SealedChangeset]) -> None:
    """See that no damaged file promises other content under the numbers of a batch: it may become whole at any time.

    Raises:
        ResetRequired: one does.
    """
    first, last = batch[0].number, batch[-1].number
    for name in history.damaged_own_files():
        if first <= name.first and name.last <= last and name_of(batch[name.first - first : name.last + 1 - first]) != name:
            raise ResetRequired("device forked", hint=f"Number {name.first} is stored with other content, and damaged.")


def _count_same(history: FolderHistory, batch: Sequence[SealedChangeset], count: int) -> int:
    """How many of a batch are stored, when so many of its first are."""
    for ours, stored in zip(batch[count:], history.own_changesets(batch[0].number - 1 + count), strict=False):
        if ours.digest != stored.digest:
            raise ResetRequired("device forked", hint=f"Number {ours.number} is stored with other content.")
        count += 1
    return count
