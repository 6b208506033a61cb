"""Files of a hub's own in which the history of a partition is merged, as on a device. A cache: each may be removed at any time.

A file is kept from one snapshot to the next, so that only what is new is read. One process at a time has it, by a lock that
goes with the process. What is wrong with a file, or between it and the log, is mended by beginning anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from localstore.directories import make_private, safe_name
from localstore.environment import Environment
from localstore.errors import DiskFailed
from localstore.store.file import Store
from localstore.store.held import locked
from localstore.store.open_file import StoreOptions
from localstore.store.opening import open_synced
from localstore.store.snapshot_place import remove_leftovers

__all__ = ["MergedFile", "MergedFiles"]

_IN_USE, _CONTENT, _NAME = "in-use", "merged", "merged.db"


class MergedFile:
    """One partition's file, which is this process's for the moment.

    Args:
        directory: whose content it is.
        open_at: opens a file at a path, or makes it.
    """

    def __init__(self, directory: Path, open_at: Callable[[Path], Store]) -> None:
        self._directory = directory
        self._open_at = open_at

    def open(self) -> Store:
        """The file as it is, or a new one. Blocks.

        Raises:
            LocalStoreError: it is damaged, or of another schema: see ``remove``.
        """
        make_private(self._directory)
        path = self._directory / _NAME
        remove_leftovers(path)
        return self._open_at(path)

    def remove(self) -> None:
        """Let the next one be new. Blocks.

        Raises:
            DiskFailed: it cannot be removed.
        """
        try:
            shutil.rmtree(self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DiskFailed(f"{self._directory} cannot be removed: {error.strerror or error}.") from error


class MergedFiles:
    """The files of one application.

    Args:
        directory: where they lie, each in a directory of its own.
        tables: of the application.
        app: whose data it is.
        offline_days: how long any device stays away, at most.
        environment: the world.
    """

    def __init__(
        self, directory: Path, tables: Sequence[sa.Table], *, app: str, offline_days: float, environment: Environment
    ) -> None:
        self._directory = directory
        self._tables = tables
        self._app = app
        self._options = StoreOptions(client_maximum_offline_time=offline_days * 86_400.0)
        self._environment = environment

    @contextmanager
    def held(self, partition: str) -> Iterator[MergedFile | None]:
        """A partition's file, for the block; None while another process has it. Blocks.

        Raises:
            StoreUnusable, DiskFailed: there is no place for it.
        """
        directory = self._directory / safe_name(partition)
        make_private(directory)
        try:
            lock = locked(directory / _IN_USE)
        except OSError as error:
            raise DiskFailed(f"{directory} cannot be used: {error.strerror or error}.") from error
        if lock is None:
            yield None
            return
        try:
            yield MergedFile(directory / _CONTENT, lambda path: self._open(path, partition))
        finally:
            with suppress(OSError):
                os.close(lock)

    def _open(self, path: Path, partition: str) -> Store:
        return open_synced(
            path, self._tables, app=self._app, partition=partition, options=self._options, environment=self._environment
        )
