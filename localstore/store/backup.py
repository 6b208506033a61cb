"""Backing up a store: a whole copy of its file as it is at one moment, before something is done to it that cannot be undone.

The copy is the same device, with all that sync keeps: only one of the two may go on syncing. It is for a person, or a program,
to read what was there. When one is made, and where it lies, is not known here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from localstore.store.copy import copy_whole
from localstore.store.file import Store

__all__ = ["write_backup"]


def write_backup(store: Store, target: Path) -> None:
    """Write a copy of a store to a new file, under the same key and for the same readers. Others may go on writing meanwhile.

    It gets its name when it is complete and on the disk, so that a crash leaves no half file under it.

    Args:
        store: open, and stays so.
        target: a path where nothing is yet.

    Raises:
        TargetExists: something is there already; it was left as it is.
        StoreUnusable: the target's folder is missing or cannot be written (``DiskFull`` when there is no room).
    """
    store.check_open()
    key = store.options.encryption_key

    def finish(copy: Path) -> None:
        shutil.copymode(store.path, copy)

    copy_whole(store.path, target, source_key=key, target_key=key, finish=finish)
