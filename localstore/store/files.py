"""What is done to a whole file that nobody has open: compacting and deleting it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from localstore.errors import StoreBusy, StoreUnusable, UnsentChanges
from localstore.store import layout
from localstore.store.alone import alone_with, remove, remove_unread
from localstore.store.driver import NO_PAGE_LIMIT, driver_errors
from localstore.store.engine import driver_connection
from localstore.store.opening import check_not_synced, check_owner
from localstore.store.snapshot_place import remove_leftovers
from localstore.store.state import LOCAL_USER, load_state
from localstore.store.unsent import has_unsent

__all__ = ["IsWorthwhile", "Owner", "compact", "compact_at_launch", "delete", "delete_of_user", "is_half_empty"]

IsWorthwhile = Callable[[int, int], bool]
"""Decides by a file's bytes, and how many of them are used, whether it is to be compacted."""
_LARGE_BYTES = 50 * 1024 * 1024


@dataclass(frozen=True)
class Owner:
    """Whose synced file it has to be."""

    app: str
    partition: str
    user: str = LOCAL_USER


def is_half_empty(total_bytes: int, used_bytes: int) -> bool:
    """Whether compacting is worth its time: more than 50 MiB, less than half of it used."""
    return total_bytes > _LARGE_BYTES and used_bytes < total_bytes / 2


def _always(total_bytes: int, used_bytes: int) -> bool:
    return True


def compact(path: Path, owner: Owner | None, is_worthwhile: IsWorthwhile = _always, *, key: bytes | None = None) -> bool:
    """Write a file that exists anew without the room that deleted rows left. Broken off, it is as it was.

    Args:
        owner: whose synced file it is; None for a local one.
        key: its encryption key, None for a plain file.

    Returns:
        Whether it was done: not when the file is open anywhere, or it is not worthwhile.

    Raises:
        StoreUnusable: it is not the owner's. It was not changed.
        DiskFull: there is no room for the second copy that it takes.
    """
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(alone_with(path, key))
        except StoreBusy:
            return False
        _check_is_of(owner, path, connection)
        if not is_worthwhile(*_sizes(connection)):
            return False
        driver = driver_connection(connection)
        driver.execute(f"PRAGMA {NO_PAGE_LIMIT}").fetchall()
        driver.execute("VACUUM")
    return True


def compact_at_launch(path: Path, owner: Owner | None, is_worthwhile: IsWorthwhile, *, key: bytes | None = None) -> None:
    """Compact a file that is about to be opened, if there is one and it can be done: what stands in the way is for the opening
    to say, and a disk that is full keeps nobody from their data."""
    if path.exists():
        with suppress(StoreUnusable, *driver_errors("OperationalError")):
            compact(path, owner, is_worthwhile, key=key)


def delete(path: Path, owner: Owner | None, *, key: bytes | None = None, discard_unsent: bool = False) -> None:
    """Remove a file that exists and what belongs to it.

    Args:
        owner: whose synced file it is; None for a local one.
        key: its encryption key, None for a plain file.
        discard_unsent: also when it holds changes that nobody else has.

    Raises:
        StoreBusy: it is open in this process or another. It was not changed.
        StoreUnusable: it is not the owner's, or cannot be removed. It was not changed.
        UnsentChanges: it holds changes that the remote has not acknowledged. It was not changed.
    """
    with alone_with(path, key, to_remove=True) as connection:
        _check_is_of(owner, path, connection)
        if owner is not None and discard_unsent is not True:  # "no", as of a configuration file, is not yes
            with connection.begin():
                _check_nothing_unsent(path, connection)
        remove(path, connection)
    remove_leftovers(path)


def delete_of_user(path: Path, app: str, user: str, *, key: bytes | None = None, is_surely_theirs: bool) -> bool:
    """Remove a file of a user, unsent changes and all, if it is one.

    Args:
        key: its encryption key, None for a plain file.
        is_surely_theirs: it lies where others rarely have files: then it is removed unless it names another user.

    Returns:
        Whether there is no file of the user any more.

    Raises:
        StoreUnusable: it cannot be removed.
    """
    if not path.exists():
        return True
    remove_leftovers(path)
    try:
        with alone_with(path, key, to_remove=True) as connection:
            with connection.begin():
                known = layout.layout_of(connection) is not None
                state = load_state(driver_connection(connection)) if known else None
            if is_surely_theirs if state is None else (state.app, state.user) == (app, user):
                remove(path, connection)
            return True
    except StoreBusy:
        return False
    except StoreUnusable:  # no database, or encrypted with a key that is not at hand
        return is_surely_theirs and remove_unread(path)


def _check_is_of(owner: Owner | None, path: Path, connection: sa.Connection) -> None:
    with connection.begin():
        if owner is None:
            check_not_synced(path, connection)
        elif layout.layout_of(connection) is not None:
            check_owner(path, load_state(driver_connection(connection)), owner.app, owner.partition, owner.user)
        elif connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is not None:
            raise StoreUnusable(f"{path} is no synced file. It was not changed.", hint="Name it with LocalConfiguration.")


def _check_nothing_unsent(path: Path, connection: sa.Connection) -> None:
    if layout.layout_of(connection) is None:
        return
    if has_unsent(driver_connection(connection)):
        raise UnsentChanges(
            f"{path} holds changes that the remote has not acknowledged. It was not deleted.",
            hint="Open and upload them first, or lose them for good with delete_files(..., discard_unsent=True).",
        )


def _sizes(connection: sa.Connection) -> tuple[int, int]:
    """Bytes of a file, and how many of them hold something."""
    driver = driver_connection(connection)
    page, pages, free = (
        int(driver.execute(f"PRAGMA {name}").fetchall()[0][0]) for name in ("page_size", "page_count", "freelist_count")
    )
    return pages * page, (pages - free) * page
