"""A synced file that is only read, as the backup of one that was reset; opening it changes no data in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session

from localstore.errors import ReadOnlyRealm
from localstore.store.file import Store
from localstore.store.open_file import StoreOptions

__all__ = ["frozen"]


class _FrozenStore(Store):
    """A store whose every write is refused."""

    def session(self) -> Session:
        raise ReadOnlyRealm(
            f"{self.path.name} is a realm as it was, which can only be read. Nothing was written.",
            hint="Write to the realm as it is now.",
        )


@contextmanager
def frozen(path: Path, tables: Sequence[sa.Table], options: StoreOptions, now_ms: Callable[[], int]) -> Iterator[Store]:
    """A file that can only be read, as long as the block.

    Args:
        tables: that it has, for messages.
        options: of the file that it is a backup of.
    """
    store = _FrozenStore(path, synced=True, options=options, now_ms=now_ms)
    try:
        store.connect()
        store.declared.extend(tables)
        yield store
    finally:
        store.close()
