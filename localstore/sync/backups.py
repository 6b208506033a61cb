"""Where the backups of a file lie, and how many are kept. They are made by ``store.backup``."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from localstore.store.backup import write_backup
from localstore.store.copy import remove_broken_off
from localstore.store.file import Store

__all__ = ["KEPT", "backups_of", "free_path", "remove_half_backups", "save_backup"]

KEPT = 3
_DIGITS = "%Y%m%dT%H%M%S"


def save_backup(store: Store, target: Path, *, instead_of: Path | None = None) -> None:
    """Save a file beside itself; the newest three are kept.

    Args:
        target: a ``free_path``.
        instead_of: an earlier backup that this one makes needless.
    """
    write_backup(store, target)
    if instead_of is not None:
        _remove(instead_of)
    for old in backups_of(store.path)[:-KEPT]:
        _remove(old)


def backups_of(path: Path) -> list[Path]:
    """The backups of a file, oldest first."""
    prefix = f"{path.name}.backup-"
    return sorted(found for found in path.parent.iterdir() if found.name.startswith(prefix) and _is_time(found, prefix))


def remove_half_backups(path: Path) -> None:
    """Remove what a crash left of backups. Each was to have a name of its own, so that no later one comes across it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(backup|recovered)-\d{{8}}T\d{{9}}\.\d+-\d+\.tmp")
    remove_broken_off(path.parent, lambda found: name.fullmatch(found) is not None)


def free_path(path: Path, what: str, now_ms: int) -> Path:
    """A path beside a file that says what lies there and since when, and where nothing is yet."""
    while True:
        moment = datetime.fromtimestamp(now_ms // 1000, UTC)
        target = path.with_name(f"{path.name}.{what}-{moment.strftime(_DIGITS)}{now_ms % 1000:03}")
        if not target.exists():
            return target
        now_ms += 1


def _is_time(path: Path, prefix: str) -> bool:
    """Whether a name is one that we gave, and not that of a file which SQLite keeps beside one."""
    digits = path.name.removeprefix(prefix).replace("T", "", 1)
    return digits.isdecimal()


def _remove(path: Path) -> None:
    with suppress(OSError):  # what cannot be removed stays, and is in nobody's way
        path.unlink()
